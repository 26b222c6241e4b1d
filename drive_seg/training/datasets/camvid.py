"""CamVid, the 11-class reduction: a tree of ``<root>/<split>/images/*.jpg|png`` and ``<split>/labels/*.png``."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from drive_seg.labels import CAMVID11, VOID

_SUFFIXES = {".jpg", ".jpeg", ".png"}


class CamVid:
    """One or several splits of CamVid (11 classes, 480x360, 255 = void).

    Args:
        root: the folder with one folder per split.
        split: a split's name, or several joined by "+", as "train+val".

    Raises:
        ValueError: if a folder is missing or empty, or an image has no label file of the same stem (or the reverse).
    """

    label_map = CAMVID11

    def __init__(self, root: str | Path, split: str) -> None:
        self.cache_folder = Path(root)
        self._pairs: list[tuple[Path, Path]] = []
        for part in split.split("+"):
            self._pairs += _pairs(Path(root) / part)

    def __len__(self) -> int:
        return len(self._pairs)

    def name_of(self, i: int) -> str:
        return self._pairs[i][0].stem

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 BGR [H, W, 3] and label uint8 [H, W] of sample i.

        Raises:
            ValueError: if a file cannot be read, sizes differ, or the label holds an id that is no class.
        """
        image_path, label_path = self._pairs[i]
        image = cv2.imread(str(image_path), cv2.IMREAD_COLOR)
        label = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
        if image is None or label is None:
            raise ValueError(f"{image_path if image is None else label_path} cannot be read as an image")
        if label.ndim != 2 or label.dtype != np.uint8 or label.shape != image.shape[:2]:
            raise ValueError(f"{label_path} must be one 8-bit channel of the image's size {image.shape[:2]}")
        wrong = np.unique(label[(label >= self.label_map.num_classes) & (label != VOID)])
        if wrong.size:
            raise ValueError(f"{label_path} holds the ids {wrong.tolist()}, which are neither a class nor void (255)")
        return image, label

    def fingerprint(self) -> str:
        """A hash over the label files' names, sizes and modification times."""
        digest = hashlib.sha256()
        for _, label_path in self._pairs:
            stat = label_path.stat()
            digest.update(
                f"{label_path.parent.parent.name}/{label_path.name} {stat.st_size} {stat.st_mtime_ns};".encode()
            )
        return digest.hexdigest()


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    images, labels = (_by_stem(folder / name) for name in ("images", "labels"))
    lonely = sorted(set(images) ^ set(labels))
    if lonely:
        raise ValueError(f"{folder}: {len(lonely)} files have no partner, the first is '{lonely[0]}'")
    return [(images[stem], labels[stem]) for stem in sorted(images)]


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    found = {path.stem: path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES}
    if not found:
        raise ValueError(f"{folder} holds no images")
    return found
