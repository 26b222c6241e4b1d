"""Sky with clouds, and the far silhouette of trees and roofs along the horizon."""

import math

import cv2
import numpy as np

from drive_seg.synth import classes as c
from drive_seg.synth.canvas import Canvas

_BINS = 2048  # bearings of the silhouette


class SkyLook:
    """Colours, clouds and silhouette of one drive."""

    def __init__(self, rng: np.random.Generator, noise: np.ndarray, mood: str, town: float, wide: bool = False) -> None:
        self.noise = noise
        zenith, horizon = {
            "clear": ((205, 140, 85), (238, 218, 200)),
            "cloudy": ((225, 195, 165), (240, 236, 230)),
            "overcast": ((222, 218, 214), (244, 243, 242)),
            "low sun": ((200, 160, 120), (190, 222, 250)),
            "dusk": ((176, 152, 138), (238, 230, 232)),
            "haze": ((196, 194, 192), (206, 206, 206)),
            "night": ((26, 18, 12), (52, 48, 50)),
        }[mood]
        if (
            mood not in ("dusk", "night") and rng.random() < 0.45
        ):  # the camera exposes for the street and the sky burns out
            zenith, horizon = (250, 248, 245), (255, 254, 252)
        self.zenith = np.array(zenith, np.float32) * rng.uniform(0.92, 1.08)
        self.horizon = np.minimum(np.array(horizon, np.float32) * rng.uniform(0.94, 1.04), 255)
        self.cover = {
            "clear": 0.1,
            "cloudy": 0.75,
            "overcast": 0.4,
            "low sun": 0.5,
            "dusk": 0.7,
            "haze": 0.0,
            "night": 0.1,
        }[mood]
        self.cloud = np.minimum(self.horizon * (1.12 if mood in ("clear", "cloudy", "low sun") else 0.86), 255)
        self.height, self.is_house = _silhouette(rng, town)
        self.rough = 0.4  # contrast of the trees' grain
        self.tree_color = np.array([58, 82, 70], np.float32) * rng.uniform(0.8, 1.2)
        self.house_color = rng.uniform(95, 165) * np.array([0.97, 1.0, 1.04], np.float32)
        if wide:
            self._vary(rng, mood)

    def _vary(self, rng: np.random.Generator, mood: str) -> None:
        """Other tints, cover and hills than those of the town's sky."""
        tint = np.exp(rng.normal(0.0, 0.03, 3)).astype(np.float32) * np.float32(rng.uniform(0.55, 1.1))
        if mood == "haze":
            self.zenith = self.zenith * tint
            self.horizon = self.zenith * np.float32(rng.uniform(0.95, 1.05))
        else:
            self.zenith, self.horizon = self.zenith * tint, np.minimum(self.horizon * (0.5 + 0.5 * tint), 255)
        if mood == "clear" and rng.random() < 0.5:
            self.zenith = np.array([150, 95, 50], np.float32) * rng.uniform(0.7, 1.3)
        self.cloud = np.minimum(self.horizon * rng.uniform(0.7, 1.2), 255)
        self.cover *= rng.uniform(0.0, 1.6)
        self.height = np.where(self.is_house, self.height, self.height * rng.choice([0.4, 1.0, 2.0, 3.5]))
        self.rough = float(rng.uniform(0.05, 0.25))
        self.tree_color = rng.uniform(30, 110) * np.array([0.85, 1.0, 0.95], np.float32) + rng.uniform(-12, 12, 3)


def _silhouette(rng: np.random.Generator, town: float) -> tuple[np.ndarray, np.ndarray]:
    """Height (tangent of the elevation) per bearing and whether it is a house; `town` 0..1."""
    height = np.zeros(_BINS)
    x = np.arange(_BINS)
    for period in (1, 3, 9, 31, 80, 200):
        knots = rng.uniform(0, 1, period * 2)
        height += np.interp(x / _BINS * period * 2, np.arange(period * 2 + 1), np.append(knots, knots[0])) / (
            period**0.45
        )
    height = 0.008 + 0.022 * height / height.mean() * rng.uniform(0.7, 1.4)
    is_house = np.zeros(_BINS, bool)
    at = 0
    while at < _BINS:
        width = int(rng.integers(6, 26))
        if rng.random() < town:
            height[at : at + width] = rng.uniform(0.025, 0.085)
            is_house[at : at + width] = True
        at += width
    return height, is_house


def draw_sky(canvas: Canvas, look: SkyLook, drift: float) -> None:
    """Fill everything above the horizon; `drift` moves the clouds (texels)."""
    view, camera = canvas.view, canvas.view.camera
    rows = view.first_ground_row
    if rows <= 0:
        return
    bearing = _bearings(canvas, np.arange(camera.width, dtype=np.float64))
    lift = _lifts(canvas, np.arange(rows, dtype=np.float64))
    # Soft as it is, the sky is made at half the resolution.
    half = (np.arange((rows + 1) // 2) * 2 + 0.5, np.arange((camera.width + 1) // 2) * 2 + 0.5)
    soft = _soft_sky(canvas, look, _bearings(canvas, half[1]), _lifts(canvas, half[0]), drift)
    region = canvas.buffer[:rows]
    region[..., :3] = cv2.resize(soft, (camera.width, rows), interpolation=cv2.INTER_LINEAR)
    region[..., 3] = c.SKY
    _draw_silhouette(canvas, look, bearing, lift, rows)


def _bearings(canvas: Canvas, columns: np.ndarray) -> np.ndarray:
    camera = canvas.view.camera
    ahead = np.arctan((columns - camera.cx) / camera.fx)
    return np.round(canvas.view.pose.yaw - ahead, 6).astype(np.float32)


def _lifts(canvas: Canvas, rows: np.ndarray) -> np.ndarray:
    camera = canvas.view.camera
    return np.maximum((camera.horizon_row - rows) / camera.fy, 0.0).astype(np.float32)


def _soft_sky(canvas: Canvas, look: SkyLook, bearing: np.ndarray, lift: np.ndarray, drift: float) -> np.ndarray:
    """Gradient, clouds and glow, uint8 (rows, columns, 3)."""
    blend = np.minimum(lift * 1.6, 1.0)[:, None, None] ** 0.7
    sky = look.horizon + (look.zenith - look.horizon) * blend
    size = look.noise.shape[0]
    perspective = 1.0 / (lift + 0.12)
    map_x = np.mod(bearing[None, :] * 90.0 * (0.6 + 0.08 * perspective[:, None]) + drift, size)
    map_y = np.broadcast_to(np.mod(perspective * 15.0, size)[:, None], map_x.shape)
    cloud = cv2.remap(look.noise, map_x, np.ascontiguousarray(map_y), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    share = np.clip((cloud + look.cover * 0.9 - 0.45) * 1.4, 0.0, 0.85)[..., None]
    sky = sky + (look.cloud - sky) * share
    sky += _glow(canvas, bearing, lift)
    return np.minimum(sky, 255.0).astype(np.uint8)


def _glow(canvas: Canvas, bearing: np.ndarray, lift: np.ndarray) -> np.ndarray:
    sun = canvas.light.sun_direction
    apart = np.mod(bearing - math.atan2(sun[1], sun[0]) + math.pi, 2 * math.pi) - math.pi
    high = float(sun[2]) / max(math.hypot(sun[0], sun[1]), 0.05)
    distance = apart[None, :] ** 2 + (lift[:, None] - high) ** 2
    strength = 120.0 * canvas.light.sun / (1.0 + 18.0 * distance)
    return strength[..., None] * np.array([0.75, 0.9, 1.0], np.float32)


def _draw_silhouette(canvas: Canvas, look: SkyLook, bearing, lift, rows: int) -> None:
    index = np.floor(np.mod(bearing / (2 * math.pi), 1.0) * _BINS).astype(np.int64) % _BINS
    height = look.height[index]
    top = int(np.searchsorted(-lift, -float(height.max())))
    band = canvas.buffer[top:rows]
    solid = lift[top:rows, None] < height[None, :]
    size = look.noise.shape[0]
    grain = look.noise[(np.arange(top, rows) * 3)[:, None] % size, (index * 2)[None, :] % size]
    house = look.is_house[index]
    albedo = (
        np.where(house[:, None], look.house_color, look.tree_color)[None]
        * (1.0 + np.where(house[None, :], 0.1, look.rough) * grain)[..., None]
    )
    light = canvas.light
    lit = albedo * (light.ambient + 0.4 * light.sun) * light.tint
    haze = light.haze(240.0)
    lit = lit * (1 - haze) + light.haze_color * haze
    band[..., :3] = np.where(solid[..., None], np.clip(lit, 0, 255), band[..., :3]).astype(np.uint8)
    band[..., 3] = np.where(solid, np.where(house, c.BUILDING, c.VEGETATION)[None, :], band[..., 3])
