"""BDD100K's semantic segmentation: 10000 street images with Cityscapes' 19 classes."""

from __future__ import annotations

from pathlib import Path

from drive_seg.datasets.base import (
    LABELS,
    PICTURES,
    Fault,
    LabelledFiles,
    Pair,
    files_in,
    pair_up,
    split_names,
)
from drive_seg.labels import CITYSCAPES19

_LAYOUTS = (
    ("images/10k", "labels/sem_seg/masks", ""),
    ("seg/images", "seg/labels", "_train_id"),
    ("images", "labels", "_train_id"),
)
"""Folder of the images, folder of the labels, and how the names of label files end."""


class BDD100K(LabelledFiles):
    """Splits of BDD100K's segmentation set (1280x720, 19 classes, void 255), as its archives unpack::

        <root>/images/10k/<split>/*.jpg     <root>/labels/sem_seg/masks/<split>/*.png
        <root>/seg/images/<split>/*.jpg     <root>/seg/labels/<split>/*_train_id.png      (before 2020)

    Published are 7000 frames of ``train`` and 1000 of ``val``; the labels of ``test`` are not public.

    Args:
        root: the folder with images (or seg; or the folder seg itself).
        split: a split's name, or several joined by "+".

    Raises:
        ValueError: if a folder is missing or empty.
    """

    def __init__(self, root: str | Path, split: str) -> None:
        root = Path(root)
        pairs: list[Pair] = []
        problems: list[Fault] = []
        for part in split_names(split):
            fitting = (names for names in _LAYOUTS if (root / names[1] / part).is_dir())
            images, labels, ending = next(fitting, _LAYOUTS[0])
            some, lonely = pair_up(
                files_in(root / images / part, PICTURES), files_in(root / labels / part, LABELS, ending)
            )
            pairs, problems = pairs + some, problems + lonely
        super().__init__(root, CITYSCAPES19, pairs, problems)
