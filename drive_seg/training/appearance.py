"""Looks of other places and cameras, given to training images whose labels stay what they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from drive_seg.images.degradations import degrade, draw_degradations
from drive_seg.training.recipe import Augmentation

_SIDE = 64  # px of the thumbnails that carry the low frequencies
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


class Appearance:
    """Colours of photographs, then the marks of a worse camera, each as often as the settings say.

    Raises:
        ValueError: if the folder of photographs holds none, or one that cannot be decoded.
    """

    def __init__(self, settings: Augmentation) -> None:
        self._settings = settings
        self._styles = None if settings.style is None else Styles(settings.style.folder)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return uint8 BGR [H, W, 3] of the same size; settings that are off draw nothing from ``rng``."""
        if self._styles is not None and rng.random() < self._settings.style.share:
            image = self._styles(image, rng)
        if self._settings.degraded and rng.random() < self._settings.degraded:
            image = degrade(image, draw_degradations(rng))
        return image


@dataclass(frozen=True)
class _Look:
    """What is kept of one photograph."""

    amplitude: np.ndarray  # of the 2-D spectrum of its thumbnail, float32 [_SIDE, _SIDE / 2 + 1, 3]
    mean: np.ndarray  # of L, a and b, float32 [3]
    deviation: np.ndarray
    cumulated: np.ndarray  # share of pixels below each value and half of those at it, BGR, float64 [256, 3]


class Styles:
    """The looks of all photographs in a folder.

    Three ways, each as likely, with a strength of 0.4 to 1:

    * Fourier domain adaptation (Yang & Soatto, CVPR 2020, equation 3): the amplitudes of the lowest frequencies come
      from the photograph, phases and all finer detail from the image. Both spectra are those of 64 x 64 thumbnails,
      which hold these frequencies, so that an image costs one enlargement instead of two full transforms;
    * mean and deviation in Lab (Reinhard et al., 2001, equation 10);
    * histograms of blue, green and red.

    Args:
        folder: JPEG, PNG, BMP and WebP files, those of subfolders too.

    Raises:
        ValueError: if the folder holds no image, or one that cannot be decoded.
    """

    def __init__(self, folder: str | Path) -> None:
        files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not files:
            raise ValueError(f"augmentation.style.folder '{folder}' holds no image ({', '.join(sorted(_SUFFIXES))})")
        self._looks = [_look(_decoded(path)) for path in files]
        self._ways = (_fourier, _reinhard, _histograms)

    def __len__(self) -> int:
        return len(self._looks)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return uint8 BGR [H, W, 3] of the same size in the colours of one photograph; ``rng`` chooses it."""
        look = self._looks[int(rng.integers(len(self._looks)))]
        way = self._ways[int(rng.integers(len(self._ways)))]
        strength = float(rng.uniform(0.4, 1.0))
        return cv2.addWeighted(way(image, look, rng), strength, image, 1.0 - strength, 0.0)


def _decoded(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_2)
    if image is None:
        raise ValueError(f"augmentation.style.folder: {path} cannot be decoded as an image; remove it from the folder")
    return image


def _look(image: np.ndarray) -> _Look:
    small = cv2.resize(image, (4 * _SIDE, 4 * _SIDE), interpolation=cv2.INTER_AREA)
    mean, deviation = cv2.meanStdDev(cv2.cvtColor(small, cv2.COLOR_BGR2LAB))
    return _Look(
        np.abs(_spectrum(small)),
        mean[:, 0].astype(np.float32),
        deviation[:, 0].astype(np.float32),
        _cumulated(small),
    )


def _spectrum(image: np.ndarray) -> np.ndarray:
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return np.fft.rfft2(small.astype(np.float32), axes=(0, 1)).astype(np.complex64)


def _fourier(image: np.ndarray, look: _Look, rng: np.random.Generator) -> np.ndarray:
    """Fourier domain adaptation; its window is up to 9 frequencies to either side, 0 included."""
    reach = int(rng.integers(0, 10))
    own = _spectrum(image)
    window = np.zeros(own.shape[:2], bool)
    window[: reach + 1, : reach + 1] = True
    if reach:
        window[-reach:, : reach + 1] = True
    own_amplitude = np.abs(own)
    change = np.where(window[..., None], (look.amplitude - own_amplitude) / np.maximum(own_amplitude, 1e-3) * own, 0)
    small = np.fft.irfft2(change, s=(_SIDE, _SIDE), axes=(0, 1)).astype(np.float32)
    large = cv2.resize(small, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
    return cv2.add(image, large, dtype=cv2.CV_8U)


def _reinhard(image: np.ndarray, look: _Look, rng: np.random.Generator) -> np.ndarray:
    lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
    mean, deviation = (values[:, 0] for values in cv2.meanStdDev(lab))
    gain = np.clip(look.deviation / np.maximum(deviation, 1.0), 0.3, 3.0)
    values = (np.arange(256)[:, None] - mean) * gain + look.mean
    return cv2.cvtColor(cv2.LUT(lab, np.clip(values, 0, 255).astype(np.uint8)[None]), cv2.COLOR_LAB2BGR)


def _histograms(image: np.ndarray, look: _Look, rng: np.random.Generator) -> np.ndarray:
    own = _cumulated(image)
    levels = np.arange(256.0)
    table = np.stack([np.interp(own[:, k], look.cumulated[:, k], levels) for k in range(3)], axis=-1)
    return cv2.LUT(image, np.rint(table).astype(np.uint8)[None])


def _cumulated(image: np.ndarray) -> np.ndarray:
    counts = [cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel() for channel in range(3)]
    share = np.stack(counts, axis=-1).astype(np.float64) / (image.shape[0] * image.shape[1])
    return np.cumsum(share, axis=0) - share / 2
