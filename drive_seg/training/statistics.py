"""Class shares of a dataset, computed once and kept beside the data."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from drive_seg.datasets import Dataset
from drive_seg.files import write_atomically
from drive_seg.labels import VOID
from drive_seg.training.progress import bar

T = TypeVar("T")


def class_counts(dataset: Dataset) -> np.ndarray:
    """Labelled pixels of each class, float64 [C], from the cache if the labels have not changed since.

    The cache is a JSON file in the dataset's folder, or in the user's cache folder where that may not be written.

    Raises:
        ValueError: if a sample is broken.
    """
    fingerprint = dataset.fingerprint()
    cache = _cache_file(dataset, fingerprint)
    if cache is not None and (counts := _load(cache, fingerprint, dataset.label_map.num_classes)) is not None:
        return counts
    counts = count_classes(dataset)
    if cache is not None:
        record = {"fingerprint": fingerprint, "names": dataset.label_map.names, "pixels": counts.tolist()}
        with contextlib.suppress(OSError):  # it saves time next time, no more
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(cache, json.dumps(record, indent=1).encode())
    return counts


def count_classes(dataset: Dataset) -> np.ndarray:
    """Pixels of each class over the whole dataset, void left out, float64 [C] (exact up to 2^53)."""

    def count(i: int) -> np.ndarray:
        return np.bincount(dataset.read(i)[1].ravel(), minlength=256)

    counts = np.zeros(256, np.float64)
    for some in for_each_sample(dataset, count, "class statistics"):
        counts += some
    counts[VOID] = 0
    return counts[: dataset.label_map.num_classes]


class Readable(Protocol):
    """As much of a dataset as :func:`for_each_sample` looks at."""

    reads_in_parallel: bool

    def __len__(self) -> int: ...


def for_each_sample(
    samples: Readable, work: Callable[[int], T], description: str, progress: bool = True
) -> Iterator[T]:
    """``work(i)`` of each sample in order, under a progress bar; files are read by several threads at once."""
    threads = min(8, os.cpu_count() or 1) if samples.reads_in_parallel else 1  # decoding leaves Python's lock
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(work, range(len(samples)))
        yield from bar(results, len(samples), description, progress)


def _cache_file(dataset: Dataset, fingerprint: str) -> Path | None:
    folder = dataset.cache_folder
    if folder is None:
        return None
    short = hashlib.sha256(f"{folder.resolve()} {fingerprint}".encode()).hexdigest()[:16]
    # A folder marked read-only stays as it is, even for a user whom nothing stops.
    if folder.stat().st_mode & 0o222 and os.access(folder, os.W_OK):
        return folder / f".class_statistics_{short}.json"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "drive_seg" / f"class_statistics_{short}.json"


def _load(cache: Path, fingerprint: str, num_classes: int) -> np.ndarray | None:
    try:
        record = json.loads(cache.read_text())
        counts = np.asarray(record["pixels"], np.float64)
        fits = record["fingerprint"] == fingerprint and counts.shape == (num_classes,)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return counts if fits else None
