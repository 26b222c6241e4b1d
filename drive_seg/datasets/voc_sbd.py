"""The Semantic Boundaries Dataset (SBD) as published: labels of 11355 images of PASCAL VOC, as MATLAB files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from drive_seg.datasets.base import PICTURES, Fault, Pair, files_in, pick, read_list
from drive_seg.datasets.voc_mat import uint8_field

MATLAB = ".mat"


def sbd_pairs(folder: Path, without: Collection[str]) -> tuple[list[Pair], list[Fault]]:
    """Images and labels of SBD's train and val lists, and what the lists name in vain.

    Args:
        folder: benchmark_RELEASE as its archive unpacks, or the folder ``dataset`` in it::

            <folder>/dataset/{train,val}.txt    <folder>/dataset/img/*.jpg    <folder>/dataset/cls/*.mat

        without: names of frames to leave out.

    Raises:
        ValueError: if a folder or list is missing, or a frame is in both lists.
    """
    folder = folder / "dataset" if (folder / "dataset").is_dir() else folder
    images, labels = files_in(folder / "img", PICTURES), files_in(folder / "cls", {MATLAB})
    pairs: list[Pair] = []
    problems: list[Fault] = []
    listed: set[str] = set()
    for part in ("train", "val"):
        names = read_list(folder / f"{part}.txt")
        if doubled := sorted(listed.intersection(names)):
            raise ValueError(f"{folder / 'train.txt'} and val.txt both name '{doubled[0]}'")
        listed.update(names)
        kept = (name for name in names if name not in without)
        some, lonely = pick(images, labels, kept, folder / f"{part}.txt")
        pairs, problems = pairs + some, problems + lonely
    return pairs, problems


def read_segmentation(path: Path) -> np.ndarray:
    """The class ids of one of SBD's files: ``GTcls.Segmentation``. Nothing that the file holds is run.

    Returns:
        uint8 [H, W].

    Raises:
        ValueError: saying what is wrong, as "cannot be read: ..."; the file's name is left to the caller.
    """
    try:
        return uint8_field(path.read_bytes(), "GTcls", "Segmentation")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}") from None
