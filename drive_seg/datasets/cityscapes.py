"""Cityscapes, fine and coarse annotations, and its 19 training classes."""

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
from drive_seg.labels import CITYSCAPES19, VOID

_TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The ``labelIds`` of the 19 classes, in the order of their train ids (cityscapesScripts, ``labels.py``)."""

LABEL_IDS = {raw: _TRAINED.index(raw) if raw in _TRAINED else VOID for raw in range(34)}
"""Each of the 34 values that ``labelIds`` files hold -> train id, or void."""


class Cityscapes(LabelledFiles):
    """Splits of Cityscapes with its 19 training classes, as its archives unpack::

        <root>/leftImg8bit/<split>/<city>/*_leftImg8bit.png
        <root>/gtFine/<split>/<city>/*_gtFine_labelIds.png          (labels: fine)
        <root>/gtCoarse/<split>/<city>/*_gtCoarse_labelIds.png      (labels: coarse)

    ``labelIds`` become train ids when read. Files ``*_labelTrainIds.png`` are taken where a split has no ``labelIds``.
    Published are, fine: 2975 frames of ``train``, 500 of ``val``; coarse: the same two and 19998 of ``train_extra``.
    The labels of ``test`` are not public: its files hold void alone.

    Args:
        root: the folder with leftImg8bit.
        split: a split's name, or several joined by "+", as "train+train_extra".
        labels: "fine" or "coarse".

    Raises:
        ValueError: if a folder is missing or empty, or parts differ in the kind of label files.
    """

    def __init__(self, root: str | Path, split: str, labels: str = "fine") -> None:
        if labels not in ("fine", "coarse"):
            raise ValueError(f"labels are 'fine' or 'coarse', not '{labels}'")
        root, kind = Path(root), "gtFine" if labels == "fine" else "gtCoarse"
        pairs: list[Pair] = []
        problems: list[Fault] = []
        made = set()
        for part in split_names(split):
            images = files_in(root / "leftImg8bit" / part, PICTURES, "_leftImg8bit")
            found = files_in(root / kind / part, LABELS, f"_{kind}_labelIds")
            made.add(not found)
            found = found or files_in(root / kind / part, LABELS, f"_{kind}_labelTrainIds")
            some, lonely = pair_up(images, found)
            pairs, problems = pairs + some, problems + lonely
        if len(made) > 1:
            raise ValueError(f"{root / kind}: of {split}, some have labelIds files and others labelTrainIds only")
        super().__init__(root, CITYSCAPES19, pairs, problems, None if made == {True} else LABEL_IDS)
