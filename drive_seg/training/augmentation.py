"""Random variations of a training image, geometry applied to image and label alike."""

from __future__ import annotations

import cv2
import numpy as np

from drive_seg.labels import VOID
from drive_seg.training.recipe import Augmentation


class Augment:
    """Scale, crop with padding, flip, then colour: (image, label) of any size -> (image, label) of the crop size.

    Padding is the image's mean colour and void. Randomness comes from the generator handed in alone.
    """

    def __init__(self, crop: tuple[int, int], settings: Augmentation) -> None:
        self.crop, self.settings = crop, settings

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """uint8 BGR [H, W, 3] and uint8 [H, W] -> the same kinds at (height, width) = ``crop``, C-contiguous."""
        image, label = self._scale(image, label, rng)
        image, label = random_crop(image, label, self.crop, rng)
        if rng.random() < self.settings.flip:
            image, label = cv2.flip(image, 1), cv2.flip(label, 1)
        if rng.random() < self.settings.photometric:
            image = jitter_colour(image, rng)
        return np.ascontiguousarray(image), np.ascontiguousarray(label)

    def _scale(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        smallest, largest = self.settings.scale
        # uniform in the logarithm: halving is as likely as doubling
        factor = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
        stretch = float(np.exp(rng.uniform(-1, 1) * np.log1p(self.settings.aspect) / 2))
        height, width = label.shape
        size = (max(1, round(width * factor * stretch)), max(1, round(height * factor / stretch)))
        smooth = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        return cv2.resize(image, size, interpolation=smooth), cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)


def random_crop(
    image: np.ndarray, label: np.ndarray, crop: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A window of (height, width) at a random place; what lies outside the image is mean colour and void."""
    height, width = label.shape
    top, left = (_offset(have, want, rng) for have, want in zip((height, width), crop, strict=True))
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + crop[0], height), min(left + crop[1], width)
    inside = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    image_out = np.empty((*crop, 3), np.uint8)
    image_out[:] = np.round(cv2.mean(image)[:3]).astype(np.uint8)
    label_out = np.full(crop, VOID, np.uint8)
    image_out[inside], label_out[inside] = image[y0:y1, x0:x1], label[y0:y1, x0:x1]
    return image_out, label_out


def _offset(have: int, want: int, rng: np.random.Generator) -> int:
    """Where the window starts: inside the image where it fits, else the image lies somewhere inside the window."""
    spare = have - want
    return int(rng.integers(0, spare + 1)) if spare >= 0 else -int(rng.integers(0, -spare + 1))


def jitter_colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, gamma, saturation, white balance, and now and then blur or noise: uint8 BGR, same shape."""
    gamma = np.exp(rng.uniform(-0.25, 0.25))
    contrast, brightness = rng.uniform(0.75, 1.3), rng.uniform(-20, 20)
    balance = rng.uniform(0.93, 1.07, 3)
    values = np.arange(256) / 255.0
    curve = 255.0 * values**gamma
    table = (curve[:, None] - 128.0) * contrast + 128.0 + brightness
    table = np.clip(table * balance, 0, 255).astype(np.uint8)
    image = cv2.LUT(image, np.ascontiguousarray(table.reshape(1, 256, 3)))
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    saturation = rng.uniform(0.6, 1.4)
    image = cv2.addWeighted(image, saturation, grey, 1.0 - saturation, 0.0)
    if rng.random() < 0.1:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    if rng.random() < 0.1:
        noise = rng.normal(0, rng.uniform(2, 8), image.shape[:2]).astype(np.float32)
        image = np.clip(image + noise[..., None], 0, 255).astype(np.uint8)
    return image
