"""Labelled image sets. Each is one small file with a class of the same members (:class:`Dataset`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from drive_seg.datasets.bag import Bag
from drive_seg.datasets.base import Fault
from drive_seg.datasets.bdd100k import BDD100K
from drive_seg.datasets.camvid import CamVid, CamVid32
from drive_seg.datasets.cityscapes import Cityscapes
from drive_seg.datasets.folder import Folder
from drive_seg.datasets.synth import SynthSet
from drive_seg.datasets.voc import PascalVOC
from drive_seg.labels import LabelMap


class Dataset(Protocol):
    """What every dataset has.

    ``label_map`` says what the ids mean; ``fingerprint()`` changes whenever the labels may have changed;
    ``cache_folder`` is where figures about the data may be kept, or None; ``name_of(i)`` names a sample in messages;
    ``problems`` are files without a partner, which are no samples; ``reads_in_parallel`` says whether several threads
    may read at once. ``read`` raises :class:`~drive_seg.datasets.base.BrokenSample`.
    """

    label_map: LabelMap
    cache_folder: Path | None
    problems: Sequence[Fault]
    reads_in_parallel: bool

    def __len__(self) -> int: ...
    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]: ...
    def name_of(self, i: int) -> str: ...
    def fingerprint(self) -> str: ...


_DATASETS: dict[str, Callable[..., Dataset]] = {
    "bag": Bag,
    "bdd100k": BDD100K,
    "camvid": CamVid,
    "camvid32": CamVid32,
    "cityscapes": Cityscapes,
    "folder": Folder,
    "synth": SynthSet,
    "voc": PascalVOC,
}


def names() -> list[str]:
    """The names a recipe may use."""
    return sorted(_DATASETS)


def open_dataset(name: str, **arguments: object) -> Dataset:
    """The dataset of that name.

    Raises:
        ValueError: for an unknown name, arguments it does not take, or data that is missing or broken.
    """
    dataset = open_unchecked(name, **arguments)
    if dataset.problems:
        more = len(dataset.problems) - 1
        rest = f" ({more} more have no partner; `drive-seg train RECIPE --check` names them)" if more else ""
        raise ValueError(f"{dataset.problems[0]}{rest}")
    return dataset


def open_unchecked(name: str, **arguments: object) -> Dataset:
    """As :func:`open_dataset`, but files without a partner are left out and stand in ``problems``."""
    if name not in _DATASETS:
        raise ValueError(f"no dataset is called '{name}'; there are: {', '.join(names())}")
    known = inspect.signature(_DATASETS[name]).parameters
    needed = [key for key, parameter in known.items() if parameter.default is parameter.empty]
    if missing := [key for key in needed if key not in arguments]:
        raise ValueError(f"dataset '{name}' needs {', '.join(missing)}")
    if unknown := [key for key in arguments if key not in known]:
        raise ValueError(f"dataset '{name}' has no setting {', '.join(map(repr, unknown))}; it has: {', '.join(known)}")
    try:
        return _DATASETS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"dataset '{name}': {error}") from None
