"""Marks that weather at the lens, the sensor and its processing leave on a picture; labels stay what they are.

Each effect takes an image uint8 BGR [H, W, 3], a severity 0..1 and a generator, and returns a new image of the same
kind. 0 is hardly seen, 1 is the worst that a camera which still works shows. Lengths are shares of the image's width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np

Effect = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]

_STAGES: tuple[tuple[tuple[str, float], ...], ...] = (
    # One of each stage at most, with these probabilities; light passes through the stages in this order.
    (("fog", 0.08), ("darkness", 0.10), ("shade", 0.12)),
    (("glare", 0.14), ("windscreen", 0.12)),
    (("rain", 0.10), ("dirt", 0.10)),
    (("defocus", 0.20), ("motion", 0.10)),
    (("vignette", 0.20),),
    (("exposure", 0.35),),
    (("noise", 0.35),),
    (("white_balance", 0.45),),
    (("low_contrast", 0.20), ("tone_curve", 0.45)),
    (("saturation", 0.40),),
    (("sharpening", 0.25), ("resampling", 0.20)),
    (("jpeg", 0.35),),
)


_NORMAL = np.array([NormalDist().inv_cdf((level + 0.5) / 256) for level in range(256)], np.float32)


@dataclass(frozen=True)
class Degradation:
    """One effect of a camera: name, severity 0..1, and the seed of its marks (drops and dirt keep their place)."""

    effect: str
    severity: float
    seed: int


def draw_degradations(rng: np.random.Generator) -> tuple[Degradation, ...]:
    """Draw what one camera suffers from: none to several effects, mild ones more often than severe ones."""
    drawn = []
    for stage in _STAGES:
        at, severity, seed = float(rng.random()), float(rng.beta(1.2, 2.0)), int(rng.integers(1 << 31))
        for effect, share in stage:
            if 0.0 <= at < share:
                drawn.append(Degradation(effect, severity, seed))
            at -= share
    return tuple(drawn)


def degrade(image: np.ndarray, degradations: tuple[Degradation, ...], moment: int = 0) -> np.ndarray:
    """Apply effects in their order, uint8 BGR [H, W, 3]; only the noise differs from one ``moment`` to the next."""
    for mark in degradations:
        seed = [mark.seed, moment] if mark.effect == "noise" else mark.seed
        image = EFFECTS[mark.effect](image, mark.severity, np.random.default_rng(seed))
    return image


def fog(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Veil that is densest at a horizon near the middle and thins out towards the near ground."""
    row = (np.arange(image.shape[0]) + 0.5) / image.shape[0]
    from_horizon = row - rng.uniform(0.35, 0.55)
    reach = np.where(from_horizon > 0.0, 0.06 / (0.06 + np.abs(from_horizon)), 1.0 / (1.0 + 1.5 * np.abs(from_horizon)))
    share = 1.0 - np.exp(-(0.25 + 2.2 * severity) * reach)
    color = rng.uniform(140, 245) * rng.uniform(0.96, 1.04, 3)
    return _veil(image, share[:, None], color)


def darkness(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Dusk to night: a darker, cooler or sodium-lit scene with a pool of headlight in front."""
    x, y = _coarse_grid(image)
    x, y = x - np.float32(rng.uniform(0.4, 0.6)), y - np.float32(rng.uniform(0.65, 0.9))
    pool = np.exp(-((x / rng.uniform(0.25, 0.45)) ** 2) - (y / rng.uniform(0.16, 0.3)) ** 2)
    light = 0.8 - 0.6 * severity + pool * rng.uniform(0.1, 0.8) * severity
    tint = np.array([1.12, 1.0, 0.9] if rng.random() < 0.5 else [0.62, 0.9, 1.15]) ** severity
    curve = np.power(np.arange(256) / 255.0, 1.0 + 0.5 * severity)[:, None] * 255.0 * tint
    return _scaled(cv2.LUT(image, _clipped(curve)[None]), _enlarged(light, image))


def shade(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Dark patches with soft or hard borders, as trees and houses throw them; hardly any in the upper third."""
    field = _field(image, int(rng.integers(2, 24)), rng)
    softness = rng.uniform(0.02, 0.5)
    lit = np.clip((field - rng.uniform(-0.4, 0.4)) / softness + 0.5, 0.0, 1.0)
    row = np.linspace(0, 1, image.shape[0], dtype=np.float32)[:, None]
    return _scaled(image, 1.0 - 0.75 * severity * (1.0 - lit) * np.clip((row - 0.3) / 0.2, 0.0, 1.0))


def glare(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Light of the sun or a lamp that scatters in the lens: a burnt spot, its halo and a veil over everything."""
    x, y = _coarse_grid(image)
    x, y = x - np.float32(rng.uniform(-0.1, 1.1)), y - np.float32(rng.uniform(-0.2, 0.6))
    distance = x * x + y * y * (image.shape[0] / image.shape[1]) ** 2
    size = rng.uniform(0.02, 0.25)
    strength = severity * (0.9 * np.exp(-distance / size**2) + 0.5 * np.exp(-distance / 0.45**2) + 0.25)
    return _veil(image, _enlarged(strength, image), 255.0 * rng.uniform([0.75, 0.85, 0.95], 1.0))


def windscreen(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Soft reflections of the dashboard, mostly in the lower half."""
    _, y = _coarse_grid(image)
    field = cv2.resize(_field(image, int(rng.integers(2, 6)), rng), y.shape[::-1])
    share = 0.55 * severity * np.clip(0.4 + 0.6 * field, 0, 1) * (0.25 + 0.75 * y)
    return _veil(image, _enlarged(share, image), rng.uniform(120, 230) * rng.uniform(0.9, 1.1, 3))


def rain(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Drops on the glass: each shows the scene blurred and upside down, brighter than its surroundings."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    for _ in range(int(6 + 90 * severity)):
        centre = rng.uniform(0, [width, height])
        radius = width * rng.uniform(0.004, 0.012 + 0.03 * severity)
        axes = (max(int(radius), 1), max(int(radius * rng.uniform(0.9, 1.8)), 1))
        cv2.ellipse(mask, tuple(int(v) for v in centre), axes, float(rng.uniform(-25, 25)), 0, 360, 255, -1)
    soft = cv2.blur(mask, (_odd(width * 0.006),) * 2)
    small = cv2.resize(image, (max(width // 12, 2), max(height // 12, 2)), interpolation=cv2.INTER_AREA)
    inside = cv2.resize(cv2.flip(small, 0), (width, height), interpolation=cv2.INTER_LINEAR)
    local = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    inside = cv2.addWeighted(inside, 0.35, local, 0.65, float(rng.uniform(-10, 35)))
    return _mixed(image, inside, soft * np.float32(rng.uniform(0.5, 0.95) / 255.0))


def dirt(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Smears and spots on the glass: blurred, and darker or milky."""
    field = _field(image, int(rng.integers(5, 30)), rng)
    share = np.clip((field - 1.5 + 1.4 * severity) * rng.uniform(0.8, 2.5), 0.0, 0.35 + 0.55 * severity)
    smear = cv2.GaussianBlur(image, (0, 0), image.shape[1] * 0.008 * (0.3 + severity))
    tone, own = rng.uniform(30, 190) * rng.uniform(0.9, 1.1, 3), rng.uniform(0.1, 0.7)
    curve = np.arange(256)[:, None] * (1.0 - own) + tone * own
    return _mixed(image, cv2.LUT(smear, _clipped(curve)[None]), share)


def defocus(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian blur, sigma 0.05 to 0.5 % of the width."""
    return cv2.GaussianBlur(image, (0, 0), max(image.shape[1] * (0.0005 + 0.0045 * severity), 0.2))


def motion(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Blur along one direction, mostly sideways, up to 4 % of the width."""
    length = _odd(image.shape[1] * (0.004 + 0.036 * severity))
    angle = rng.normal(0.0, 0.35)
    kernel = np.zeros((length, length), np.float32)
    reach = (length - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
    start, end = (np.rint((length - 1) / 2 + sign * reach).astype(int) for sign in (-1, 1))
    cv2.line(kernel, tuple(start.tolist()), tuple(end.tolist()), 1.0, 1)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def vignette(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Corners darker than the middle, by up to 80 %."""
    x, y = _coarse_grid(image)
    fall = 2.0 * (0.1 + 0.7 * severity)
    return _scaled(image, _enlarged(1.0 - fall * ((x - 0.5) ** 2 + (y - 0.5) ** 2), image))


def exposure(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Too short or too long by up to two stops, in linear light."""
    stops = (0.2 + 1.8 * severity) * (1 if rng.random() < 0.5 else -1)
    level = (np.arange(256) / 255.0) ** 2.2 * 2.0**stops
    return cv2.LUT(image, _clipped(np.minimum(level, 1.0) ** (1 / 2.2) * 255.0))


def noise(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Grain of brightness and of colour; the colours' is coarser, as cameras leave it."""
    height, width = image.shape[:2]
    strength = 1.5 + 18.0 * severity
    grain = cv2.LUT(rng.integers(256, size=(height, width), dtype=np.uint8), _NORMAL * np.float32(strength))
    coarse = rng.integers(256, size=(height // 2 + 1, width // 2 + 1, 3), dtype=np.uint8)
    colour = cv2.resize(cv2.LUT(coarse, _NORMAL * np.float32(0.6 * strength)), (width, height))
    return cv2.add(image, cv2.add(colour, cv2.merge([grain] * 3)), dtype=cv2.CV_8U)


def white_balance(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Colour cast: warm or cool, green or magenta."""
    gains = np.exp(rng.uniform(-0.4, 0.4, 3) * (0.1 + severity))
    gains /= gains.mean()
    return cv2.LUT(image, _clipped(np.arange(256)[None, :, None] * gains))


def tone_curve(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """A monotone curve of the camera's own, a little different for each channel."""
    steps = np.exp(rng.normal(0.0, 0.2 + 0.7 * severity, (6, 1)) + rng.normal(0.0, 0.1 * severity, (6, 3)))
    knots = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)]) / steps.sum(axis=0) * 255.0
    at = np.linspace(0, 255, len(knots))
    curve = np.stack([np.interp(np.arange(256), at, knots[:, channel]) for channel in range(3)], axis=-1)
    return cv2.LUT(image, _clipped(curve)[None])


def low_contrast(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Everything between two greys that lie close together."""
    span = 255.0 * (0.85 - 0.65 * severity)
    low = rng.uniform(0.0, 255.0 - span)
    return cv2.LUT(image, _clipped(low + np.arange(256) / 255.0 * span))


def saturation(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Colours down to grey, or up to nearly twice as strong."""
    factor = 1.0 - (0.2 + 0.8 * severity) if rng.random() < 0.6 else 1.0 + (0.1 + 0.8 * severity)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return cv2.addWeighted(image, factor, grey, 1.0 - factor, 0.0)


def sharpening(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Unsharp mask with halos."""
    amount = 0.3 + 2.2 * severity
    soft = cv2.GaussianBlur(image, (0, 0), max(image.shape[1] * rng.uniform(0.001, 0.004), 0.3))
    return cv2.addWeighted(image, 1.0 + amount, soft, -amount, 0.0)


def resampling(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Made smaller by up to four times and enlarged again, smoothly or in blocks."""
    height, width = image.shape[:2]
    factor = 1.1 + 2.9 * severity
    small = (max(round(width / factor), 2), max(round(height / factor), 2))
    ways = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)
    down, up = (ways[int(i)] for i in rng.integers([4, 4]))
    return cv2.resize(cv2.resize(image, small, interpolation=down), (width, height), interpolation=up)


def jpeg(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Blocks and ringing of JPEG at quality 80 down to 8."""
    quality = round(80 - 72 * severity)
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


EFFECTS: dict[str, Effect] = {
    effect.__name__: effect
    for effect in (
        fog,
        darkness,
        shade,
        glare,
        windscreen,
        rain,
        dirt,
        defocus,
        motion,
        vignette,
        exposure,
        noise,
        white_balance,
        tone_curve,
        low_contrast,
        saturation,
        sharpening,
        resampling,
        jpeg,
    )
}


def _clipped(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0.0, 255.0).astype(np.uint8)


def _scaled(image: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Times a map of 0..1, float [H, W]."""
    return cv2.multiply(image, cv2.merge([_clipped(factor * 255.0)] * 3), scale=1.0 / 255.0)


def _veil(image: np.ndarray, share: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Mix a colour into an image; ``share`` broadcasts to [H, W]."""
    return _mixed(image, np.broadcast_to(_clipped(color), image.shape), share)


def _mixed(image: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    share = np.ascontiguousarray(np.broadcast_to(np.asarray(share, np.float32), image.shape[:2]))
    share = np.clip(share, 0.0, 1.0)
    return cv2.blendLinear(image, np.ascontiguousarray(other), 1.0 - share, share)


def _coarse_grid(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x [1, W / 4] and y [H / 4, 1] from 0 to 1, for maps that :func:`_enlarged` brings to the image's size."""
    height, width = image.shape[:2]
    return (
        np.linspace(0, 1, max(width // 4, 2), dtype=np.float32)[None, :],
        np.linspace(0, 1, max(height // 4, 2), dtype=np.float32)[:, None],
    )


def _enlarged(values: np.ndarray, image: np.ndarray) -> np.ndarray:
    return cv2.resize(values.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def _field(image: np.ndarray, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of two octaves, about standard normal, float32 [H, W]; ``cells`` spots side by side."""
    height, width = image.shape[:2]
    rows = max(round(cells * height / width), 2)
    coarse = (max(width // 4, 2), max(height // 4, 2))
    octaves = [rng.standard_normal((rows * n, cells * n), np.float32) / np.float32(n) for n in (1, 2)]
    return _enlarged(sum(cv2.resize(o, coarse, interpolation=cv2.INTER_CUBIC) for o in octaves), image)


def _odd(value: float) -> int:
    return int(value) // 2 * 2 + 1
