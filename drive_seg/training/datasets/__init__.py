"""Labelled image sets. Each is one small file with a class of the same members (:class:`Dataset`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from drive_seg.labels import LabelMap
from drive_seg.training.datasets.camvid import CamVid
from drive_seg.training.datasets.synth import SynthSet


class Sample(NamedTuple):
    """One image (uint8 BGR [H, W, 3]) and its labels (uint8 [H, W], 255 = void)."""

    image: np.ndarray
    label: np.ndarray


class Dataset(Protocol):
    """What every dataset has.

    ``label_map`` says what the ids mean; ``fingerprint()`` changes whenever the labels may have changed;
    ``cache_folder`` is where figures about the data may be kept, or None; ``name_of(i)`` names a sample in messages.
    """

    label_map: LabelMap
    cache_folder: Path | None

    def __len__(self) -> int: ...
    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]: ...
    def name_of(self, i: int) -> str: ...
    def fingerprint(self) -> str: ...


_DATASETS: dict[str, Callable[..., Dataset]] = {"camvid": CamVid, "synth": SynthSet}


def names() -> list[str]:
    """The names a recipe may use."""
    return sorted(_DATASETS)


def open_dataset(name: str, **arguments: object) -> Dataset:
    """The dataset of that name.

    Raises:
        ValueError: for an unknown name, arguments it does not take, or data that is missing or broken.
    """
    if name not in _DATASETS:
        raise ValueError(f"no dataset is called '{name}'; there are: {', '.join(names())}")
    try:
        return _DATASETS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"dataset '{name}': {error}") from None
