"""PASCAL VOC 2012, with or without the annotations that SBD adds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drive_seg.datasets.base import (
    LABELS,
    PICTURES,
    Fault,
    LabelledFiles,
    Pair,
    files_in,
    pick,
    read_list,
    split_names,
)
from drive_seg.datasets.voc_sbd import MATLAB, read_segmentation, sbd_pairs
from drive_seg.labels import VOC21

_AUGMENTED = {"trainaug", "train_aug"}


class PascalVOC(LabelledFiles):
    """Splits of PASCAL VOC 2012 (20 classes and background, borders void), as its archive unpacks::

        <root>/JPEGImages/*.jpg
        <root>/SegmentationClass/*.png                  (palette images, as published: 1464 train, 1449 val)
        <root>/SegmentationClassAug/*.png               (with SBD, converted: 10582 train)
        <root>/ImageSets/Segmentation/<split>.txt       (a frame's name on each line)

    With ``sbd``, SBD is read as published (see :func:`~drive_seg.datasets.voc_sbd.sbd_pairs`) and ``trainaug``
    needs no list: it is then the usual join, VOC's train with VOC's labels and what else is in SBD's train and val but
    not in VOC's val, 10582 frames. Without ``sbd`` the labels are PNGs converted from it, with the list that comes with
    them, as they are widely passed on (``labels: SegmentationClassAug``, ``split: trainaug`` or ``train_aug``).

    Args:
        root: the folder VOC2012, which holds JPEGImages.
        split: a list's name, or several joined by "+", as "train+val".
        labels: the folder of the label images.
        sbd: SBD's folder benchmark_RELEASE, for ``trainaug``.

    Raises:
        ValueError: if a folder or list is missing or empty, or ``sbd`` is given and the split does not use it.
    """

    def __init__(
        self, root: str | Path, split: str, labels: str = "SegmentationClass", sbd: str | Path | None = None
    ) -> None:
        root = Path(root)
        parts = split_names(split)
        if sbd is not None and not _AUGMENTED.intersection(parts):
            raise ValueError(f"sbd adds to the split 'trainaug' only, but the split is '{split}'")
        images, found = files_in(root / "JPEGImages", PICTURES), files_in(root / labels, LABELS)
        lists = root / "ImageSets" / "Segmentation"
        pairs: list[Pair] = []
        problems: list[Fault] = []
        for part in parts:
            joins = sbd is not None and part in _AUGMENTED
            chosen = lists / ("train.txt" if joins else f"{part}.txt")
            names = _names(chosen)
            some, lonely = pick(images, found, names, chosen)
            pairs, problems = pairs + some, problems + lonely
            if joins:
                some, lonely = sbd_pairs(Path(sbd), without={*names, *_names(lists / "val.txt")})
                pairs, problems = pairs + some, problems + lonely
        super().__init__(root, VOC21, pairs, problems)

    def _raw_ids(self, path: Path) -> np.ndarray:
        return read_segmentation(path) if path.suffix.lower() == MATLAB else super()._raw_ids(path)


def _names(path: Path) -> list[str]:
    """The frames of a list; the augmented set's name files: "/JPEGImages/2007_000032.jpg /SegmentationClassAug/..."."""
    return [Path(name).stem for name in read_list(path)]
