"""Choices that everything else of a drive follows from: kind of road, camera, weather, sensor, own bonnet."""

import math
from dataclasses import dataclass

import numpy as np

from drive_seg.images.degradations import Degradation, draw_degradations
from drive_seg.synth.bonnet import Bonnet
from drive_seg.synth.camera import SynthCamera
from drive_seg.synth.look import Mood, season

VARIETIES = ("street", "wide")


def check_variety(variety: str) -> None:
    """Raise ValueError unless `variety` is one of VARIETIES."""
    if variety not in VARIETIES:
        raise ValueError(f"variety must be one of {', '.join(VARIETIES)}, not '{variety}'")


@dataclass(frozen=True)
class Scene:
    """What a drive is drawn from."""

    wide: bool  # looks and layouts beyond those of a town street by day
    road: str  # "street", "highway" or "country"
    jam: bool
    camera: SynthCamera
    mood: Mood
    season: str
    dry: bool
    marks: tuple[Degradation, ...]  # of the camera
    bonnet: Bonnet | None
    wet: float  # share of what the road mirrors, 0 when dry


def draw_scene(rng: np.random.Generator, size: tuple[int, int], variety: str) -> Scene:
    """Draw a scene; `size` is (width, height), `variety` one of VARIETIES."""
    if variety == "street":
        camera, mood, leaves = _dash_camera(rng, *size), Mood.draw(rng), season(rng)
        return Scene(False, "street", False, camera, mood, leaves, bool(rng.random() < 0.15), (), None, 0.0)
    mood = Mood.draw_wide(rng)
    road = str(rng.choice(["street", "highway", "country"], p=[0.5, 0.3, 0.2]))
    wet = float(rng.uniform(0.1, 0.6)) if mood.name != "clear" and rng.random() < 0.25 else 0.0
    return Scene(
        wide=True,
        road=road,
        jam=bool(road != "country" and rng.random() < 0.22),
        camera=_any_camera(rng, *size),
        mood=mood,
        season=season(rng),
        dry=bool(rng.random() < 0.35),
        marks=draw_degradations(rng) if rng.random() < 0.4 else (),
        bonnet=Bonnet.draw(rng) if rng.random() < 0.4 else None,
        wet=wet,
    )


def _dash_camera(rng: np.random.Generator, width: int, height: int) -> SynthCamera:
    """A dash camera: 47 to 68 degrees wide, 1.25 to 1.6 m high, horizon a little above the middle."""
    focal = float(rng.uniform(0.74, 1.12)) * max(width, height * 4 / 3)
    pitch = float(rng.uniform(-0.005, 0.055))
    return _camera(width, height, focal, pitch, float(rng.uniform(1.25, 1.6)))


def _any_camera(rng: np.random.Generator, width: int, height: int) -> SynthCamera:
    """A camera 40 to 110 degrees wide, 1.0 to 2.6 m high, its horizon at 25 to 65 % of the picture's height."""
    angle = math.radians(float(rng.triangular(40.0, 60.0, 110.0)))
    focal = round(max(width, height * 4 / 3) / 2 / math.tan(angle / 2), 6)
    horizon = min(max(float(rng.normal(0.46, 0.07)), 0.25), 0.65)
    high = float(rng.uniform(1.1, 1.7) if rng.random() < 0.75 else rng.uniform(1.0, 2.6))
    return _camera(width, height, focal, round(math.atan((0.5 - horizon) * height / focal), 9), high)


def _camera(width: int, height: int, focal: float, pitch: float, high: float) -> SynthCamera:
    return SynthCamera(
        width=width,
        height=height,
        fx=focal,
        fy=focal,
        cx=(width - 1) / 2,
        cy=(height - 1) / 2,
        height_above_ground=high,
        pitch=pitch,
    )
