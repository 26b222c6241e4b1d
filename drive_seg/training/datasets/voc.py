"""PASCAL VOC 2012, with or without the annotations that SBD adds."""

from __future__ import annotations

from pathlib import Path

from drive_seg.labels import VOC21
from drive_seg.training.datasets.base import (
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


class PascalVOC(LabelledFiles):
    """Splits of PASCAL VOC 2012 (20 classes and background, borders void), as its archive unpacks::

        <root>/JPEGImages/*.jpg
        <root>/SegmentationClass/*.png                  (palette images, as published: 1464 train, 1449 val)
        <root>/SegmentationClassAug/*.png               (with SBD: 10582 train)
        <root>/ImageSets/Segmentation/<split>.txt       (a frame's name on each line)

    SBD itself comes as MATLAB files, which are not read here: take them converted to PNG, with the list that comes with
    them, as they are widely passed on (``labels: SegmentationClassAug``, ``split: trainaug`` or ``train_aug``).

    Args:
        root: the folder VOC2012, which holds JPEGImages.
        split: a list's name, or several joined by "+", as "train+val".
        labels: the folder of the label images.

    Raises:
        ValueError: if a folder or list is missing or empty.
    """

    def __init__(self, root: str | Path, split: str, labels: str = "SegmentationClass") -> None:
        root = Path(root)
        images, found = files_in(root / "JPEGImages", PICTURES), files_in(root / labels, LABELS)
        pairs: list[Pair] = []
        problems: list[Fault] = []
        for part in split_names(split):
            chosen = root / "ImageSets" / "Segmentation" / f"{part}.txt"
            # lists of the augmented set name files, as "/JPEGImages/2007_000032.jpg /SegmentationClassAug/..."
            some, lonely = pick(images, found, (Path(name).stem for name in read_list(chosen)), chosen)
            pairs, problems = pairs + some, problems + lonely
        super().__init__(root, VOC21, pairs, problems)
