"""Weather, time of day and the camera's own marks on the picture (exposure, vignette, blur, noise)."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from drive_seg.synth.canvas import Light
from drive_seg.synth.classes import derived_rng
from drive_seg.synth.road import wave

_MOODS = ("clear", "cloudy", "overcast", "low sun", "dusk")


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

    def light(self, horizon: np.ndarray) -> Light:
        """The light this weather gives; `horizon` is the sky's colour low down (BGR)."""
        sun, ambient, tint = {
            "clear": (0.62, 0.58, (0.96, 1.0, 1.03)),
            "cloudy": (0.42, 0.68, (0.99, 1.0, 1.01)),
            "overcast": (0.08, 0.95, (1.02, 1.0, 0.98)),
            "low sun": (0.62, 0.54, (0.84, 0.98, 1.12)),
            "dusk": (0.10, 0.46, (1.04, 0.98, 0.98)),
        }[self.name]
        flat = math.cos(self.elevation)
        direction = np.array([math.cos(self.azimuth) * flat, math.sin(self.azimuth) * flat, math.sin(self.elevation)])
        return Light(
            sun_direction=np.round(direction, 9),
            sun=sun,
            ambient=ambient,
            tint=np.array(tint),
            haze_color=np.asarray(horizon, np.float64) * 0.92,
            haze_length=self.haze_length,
        )


class Lens:
    """Turns what the scene sends into what the camera records."""

    def __init__(self, seed: int, size: tuple[int, int], mood: Mood) -> None:
        rng = derived_rng(seed, 13)
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
        gain = self._mood.exposure * (1.0 + 0.05 * float(wave(i / 170.0 + self._breath)))
        level = np.arange(256) / 255.0
        curve = np.clip(0.42 + (level * gain - 0.42) * self._mood.contrast, 0.0, 1.0)
        graded = cv2.transform(cv2.LUT(blurred, np.rint(curve * 255).astype(np.uint8)), self._color)
        shaded = cv2.multiply(graded, self._vignette, scale=1.0 / 255.0)
        height, width = picture.shape[:2]
        top, left = derived_rng(self._seed, 14, i).integers(0, [61, 67])
        return cv2.add(shaded, self._noise[top : top + height, left : left + width], dtype=cv2.CV_8U)
