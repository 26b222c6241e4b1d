"""Class shares of a dataset, computed once and kept beside the data."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
from rich.progress import track

from drive_seg.files import write_atomically
from drive_seg.labels import VOID
from drive_seg.training.datasets import Dataset


def class_frequency(dataset: Dataset) -> np.ndarray:
    """Each class's share of all labelled pixels, float64 [C], from the cache if the labels have not changed since.

    The cache is a JSON file in the dataset's folder, or in the user's cache folder where that may not be written.
    """
    fingerprint = dataset.fingerprint()
    cache = _cache_file(dataset, fingerprint)
    if cache is not None and (counts := _load(cache, fingerprint, dataset.label_map.num_classes)) is not None:
        return counts / max(counts.sum(), 1)
    counts = count_classes(dataset)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        record = {"fingerprint": fingerprint, "names": dataset.label_map.names, "pixels": counts.tolist()}
        write_atomically(cache, json.dumps(record, indent=1).encode())
    return counts / max(counts.sum(), 1)


def count_classes(dataset: Dataset) -> np.ndarray:
    """Pixels of each class over the whole dataset, void left out, float64 [C] (exact up to 2^53)."""
    counts = np.zeros(256, np.float64)
    for i in track(range(len(dataset)), description="class statistics", transient=True):
        counts += np.bincount(dataset.read(i)[1].ravel(), minlength=256)
    counts[VOID] = 0
    return counts[: dataset.label_map.num_classes]


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
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return counts if record["fingerprint"] == fingerprint and counts.shape == (num_classes,) else None
