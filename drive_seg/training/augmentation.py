"""Random variations of a training image, geometry applied to image and label alike."""

from __future__ import annotations

import cv2
import numpy as np

from drive_seg.labels import VOID
from drive_seg.training.appearance import Appearance
from drive_seg.training.recipe import Augmentation

_TRIES = 10


class Augment:
    """Scale, crop with padding, flip, colour, camera: (image, label) of any size -> (image, label) of the crop size.

    Padding is the image's mean colour and void. Randomness comes from the generator handed in alone.
    """

    def __init__(self, crop: tuple[int, int], settings: Augmentation) -> None:
        self.crop, self.settings = crop, settings
        self._appearance = Appearance(settings)

    def __call__(
        self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator, focus: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 BGR [H, W, 3] and uint8 [H, W] -> the same kinds at (height, width) = ``crop``, C-contiguous.

        ``focus`` is an id that the label holds: the window is then centred on one of its pixels, as far as the image
        reaches.
        """
        places = None if focus is None else _relative_places(label, focus)
        image, label = self._scale(image, label, rng)
        window = self._window(label, rng, places)
        image, label = cut(image, label, window, self.crop)
        if rng.random() < self.settings.flip:
            image, label = cv2.flip(image, 1), cv2.flip(label, 1)
        if rng.random() < self.settings.photometric:
            image = jitter_colour(image, rng)
        image = self._appearance(image, rng)
        return np.ascontiguousarray(image), np.ascontiguousarray(label)

    def _scale(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if self.settings.scales:
            factor = self.settings.scales[rng.integers(len(self.settings.scales))]
        else:
            smallest, largest = self.settings.scale
            # uniform in the logarithm: halving is as likely as doubling
            factor = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
        stretch = float(np.exp(rng.uniform(-1, 1) * np.log1p(self.settings.aspect) / 2))
        height, width = label.shape
        size = (max(1, round(width * factor * stretch)), max(1, round(height * factor / stretch)))
        smooth = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        return cv2.resize(image, size, interpolation=smooth), cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)

    def _window(self, label: np.ndarray, rng: np.random.Generator, places: np.ndarray | None) -> tuple[int, int]:
        """(top, left) of a window; one that a single class fills is drawn anew, the last try is taken as it is."""
        for _ in range(_TRIES):
            centre = None if places is None else places[rng.integers(len(places))] * label.shape
            top, left = (
                _offset(have, want, rng, None if centre is None else centre[axis])
                for axis, (have, want) in enumerate(zip(label.shape, self.crop, strict=True))
            )
            inside = label[max(top, 0) : top + self.crop[0], max(left, 0) : left + self.crop[1]]
            if self.settings.max_class_share >= 1 or largest_share(inside) <= self.settings.max_class_share:
                break
        return top, left


def _relative_places(label: np.ndarray, focus: int) -> np.ndarray:
    """The pixels of an id as parts of height and width, float64 [N, 2]."""
    places = np.argwhere(label == focus)
    if not len(places):
        raise ValueError(f"the label holds no pixel of id {focus}")
    return (places + 0.5) / label.shape


def largest_share(label: np.ndarray) -> float:
    """The largest share that one id has of the labelled pixels; 1 where none is labelled."""
    counts = np.bincount(label.ravel(), minlength=256)[:VOID]
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


def cut(
    image: np.ndarray, label: np.ndarray, window: tuple[int, int], crop: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The window of (height, width) = ``crop`` at (top, left); what lies outside the image is mean colour and void."""
    (top, left), (height, width) = window, label.shape
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + crop[0], height), min(left + crop[1], width)
    inside = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    image_out = np.empty((*crop, 3), np.uint8)
    image_out[:] = np.round(cv2.mean(image)[:3]).astype(np.uint8)
    label_out = np.full(crop, VOID, np.uint8)
    image_out[inside], label_out[inside] = image[y0:y1, x0:x1], label[y0:y1, x0:x1]
    return image_out, label_out


def _offset(have: int, want: int, rng: np.random.Generator, centre: float | None = None) -> int:
    """Where the window starts: inside the image where it fits, else the image lies somewhere inside the window.

    ``centre`` is where the middle of a window that fits should be, as far as the image reaches.
    """
    spare = have - want
    if spare < 0:
        return -int(rng.integers(0, -spare + 1))
    if centre is None:
        return int(rng.integers(0, spare + 1))
    return int(np.clip(int(centre) - want // 2, 0, spare))


def patch_windows(size: tuple[int, int], patch: tuple[int, int], grid: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Evenly spread, overlapping windows that together cover an image, row by row (DSNet, section IV.B.3).

    Args:
        size: (height, width) of the image.
        patch: (height, width) of a window; as large as the image where that is smaller.
        grid: (rows, columns).

    Raises:
        ValueError: if the windows leave a gap.
    """
    if any(count * want < have for have, want, count in zip(size, patch, grid, strict=True)):
        raise ValueError(f"{grid[0]} x {grid[1]} patches of {patch} leave gaps in an image of {size}")
    starts = [
        [round(i * max(have - want, 0) / max(count - 1, 1)) for i in range(count)]
        for have, want, count in zip(size, patch, grid, strict=True)
    ]
    return [(slice(y, y + patch[0]), slice(x, x + patch[1])) for y in starts[0] for x in starts[1]]


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
