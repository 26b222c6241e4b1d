"""Weather, time of day and the camera's own marks on the picture (exposure, vignette, blur, noise)."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from drive_seg.images.degradations import Degradation, degrade
from drive_seg.synth.canvas import Light
from drive_seg.synth.classes import derived_rng
from drive_seg.synth.road import wave

_MOODS = ("clear", "cloudy", "overcast", "low sun", "dusk")
_WIDE_SHARES = (0.34, 0.17, 0.14, 0.13, 0.07, 0.05, 0.10)


def season(rng: np.random.Generator) -> str:
    """Draw "summer", "autumn" or "winter"."""
    return str(rng.choice(["summer", "autumn", "winter"], p=[0.66, 0.18, 0.16]))


@dataclass(frozen=True)
class Mood:
    """Sky and light of a drive; angles in radians."""

    name: str
    azimuth: float
    elevation: float
    haze_length: float
    exposure: float
    contrast: float
    saturation: float
    balance: tuple[float, float, float]  # BGR gains
    sun: float = 1.0  # factor on the sun's strength, at the cost of the sky's
    headlights: float = 0.0
    street_lamps: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Mood":
        """Draw the weather."""
        name = _MOODS[int(rng.choice(5, p=[0.30, 0.24, 0.24, 0.12, 0.10]))]
        low = name in ("low sun", "dusk")
        return cls(
            name=name,
            azimuth=float(rng.uniform(-math.pi, math.pi)),
            elevation=float(rng.uniform(0.22, 0.42) if low else rng.uniform(0.6, 1.1)),
            haze_length=float(rng.uniform(260, 900) if name != "overcast" else rng.uniform(170, 500)),
            exposure=float(rng.uniform(0.85, 1.2)) * (0.95 if name == "dusk" else 1.0),
            contrast=float(rng.uniform(1.0, 1.4 if name != "dusk" else 1.15)),
            saturation=float(rng.uniform(0.55, 1.1)),
            balance=tuple(rng.uniform(0.95, 1.05, 3).tolist()),
        )

    @classmethod
    def draw_wide(cls, rng: np.random.Generator) -> "Mood":
        """Draw from all weathers and hours, night and thick haze too, and from cameras of any tone."""
        name = str(rng.choice(["clear", "cloudy", "overcast", "low sun", "dusk", "haze", "night"], p=_WIDE_SHARES))
        low = name in ("low sun", "dusk")
        dark = name in ("dusk", "night")
        haze = {"haze": (35.0, 160.0), "overcast": (120.0, 600.0)}.get(name, (220.0, 2500.0))
        return cls(
            name=name,
            azimuth=float(rng.uniform(-math.pi, math.pi)),
            elevation=float(rng.uniform(0.14, 0.42) if low else rng.uniform(0.4, 1.2)),
            haze_length=float(np.exp(rng.uniform(*np.log(haze)))),
            exposure=float(np.exp(rng.normal(0.0, 0.2))) * (1.25 if dark else 1.0),
            contrast=float(rng.uniform(0.75, 1.15 if dark else 1.5)),
            saturation=float(rng.uniform(0.3, 1.4)),
            balance=tuple(np.exp(rng.normal(0.0, 0.035, 3)).tolist()),
            sun=float(rng.uniform(0.75, 1.35)),
            headlights=float(rng.uniform(0.3, 1.3)) if name == "night" else 0.0,
            street_lamps=float(rng.choice([0.0, rng.uniform(0.1, 0.7)])) if name == "night" else 0.0,
        )

    def light(self, horizon: np.ndarray) -> Light:
        """The light this weather gives; `horizon` is the sky's colour low down (BGR)."""
        sun, ambient, tint = {
            "clear": (0.62, 0.58, (0.96, 1.0, 1.03)),
            "cloudy": (0.42, 0.68, (0.99, 1.0, 1.01)),
            "overcast": (0.08, 0.95, (1.02, 1.0, 0.98)),
            "low sun": (0.62, 0.54, (0.84, 0.98, 1.12)),
            "dusk": (0.10, 0.46, (1.04, 0.98, 0.98)),
            "haze": (0.12, 0.80, (1.0, 1.0, 1.0)),
            "night": (0.0, 0.10 + 0.15 * self.street_lamps, (0.92, 0.98, 1.06)),
        }[self.name]
        sun, ambient = sun * self.sun, ambient - 0.5 * sun * (self.sun - 1.0)
        flat = math.cos(self.elevation)
        direction = np.array([math.cos(self.azimuth) * flat, math.sin(self.azimuth) * flat, math.sin(self.elevation)])
        return Light(
            sun_direction=np.round(direction, 9),
            sun=sun,
            ambient=ambient,
            tint=np.array(tint),
            haze_color=np.asarray(horizon, np.float64) * 0.92,
            haze_length=self.haze_length,
            headlights=self.headlights,
            street_lamps=self.street_lamps,
        )


class Lens:
    """Turns what the scene sends into what the camera records."""

    def __init__(self, seed: int, size: tuple[int, int], mood: Mood, marks: tuple[Degradation, ...] = ()) -> None:
        rng = derived_rng(seed, 13)
        self._marks = marks
        width, height = size
        self._seed = seed
        self._mood = mood
        self._sigma = float(rng.uniform(0.45, 0.85)) * max(width / 640.0, 0.6)
        grey = np.array([0.114, 0.587, 0.299])[None, :] * (1.0 - mood.saturation)
        self._color = (np.eye(3) * mood.saturation + grey) * np.array(mood.balance)[:, None]
        self._breath = float(rng.random())
        noise = rng.standard_normal((height + 61, width + 67, 3)) * rng.uniform(1.2, 4.0)
        self._noise = np.clip(np.round(noise), -127, 127).astype(np.int16)
        x = (np.arange(width) - (width - 1) / 2) / (width / 2)
        y = (np.arange(height) - (height - 1) / 2) / (height / 2)
        fall = float(rng.uniform(0.05, 0.22))
        vignette = 1.0 - fall * (0.6 * x[None, :] ** 2 + 0.4 * y[:, None] ** 2)
        self._vignette = np.repeat(np.round(vignette * 255).astype(np.uint8)[..., None], 3, axis=2)

    def expose(self, picture: np.ndarray, i: int) -> np.ndarray:
        """Return the recorded image, uint8 like `picture` (height, width, 3)."""
        blurred = cv2.GaussianBlur(np.ascontiguousarray(picture), (0, 0), self._sigma)
        if self._mood.headlights:
            blurred = _bloom(blurred)
        gain = self._mood.exposure * (1.0 + 0.05 * float(wave(i / 170.0 + self._breath)))
        level = np.arange(256) / 255.0
        curve = np.clip(0.42 + (level * gain - 0.42) * self._mood.contrast, 0.0, 1.0)
        graded = cv2.transform(cv2.LUT(blurred, np.rint(curve * 255).astype(np.uint8)), self._color)
        shaded = cv2.multiply(graded, self._vignette, scale=1.0 / 255.0)
        height, width = picture.shape[:2]
        top, left = derived_rng(self._seed, 14, i).integers(0, [61, 67])
        noisy = cv2.add(shaded, self._noise[top : top + height, left : left + width], dtype=cv2.CV_8U)
        return degrade(noisy, self._marks, i)


def _bloom(picture: np.ndarray) -> np.ndarray:
    """Add the halo that bright lamps have at night."""
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (max(width // 4, 1), max(height // 4, 1)), interpolation=cv2.INTER_AREA)
    lamps = cv2.subtract(small, (150, 150, 150, 0))
    halo = cv2.GaussianBlur(lamps, (0, 0), max(width * 0.006, 0.5))
    return cv2.add(picture, cv2.resize(cv2.add(halo, halo), (width, height)))
