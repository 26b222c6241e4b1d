"""Cityscapes and BDD100K: their folders and ids."""

import numpy as np
import pytest

from drive_seg.datasets import open_dataset
from drive_seg.datasets.cityscapes import LABEL_IDS
from drive_seg.labels import CITYSCAPES19

# name, labelId, trainId as cityscapesScripts print them
PRINTED = """unlabeled 0 255|ego vehicle 1 255|rectification border 2 255|out of roi 3 255|static 4 255|dynamic 5 255
ground 6 255|road 7 0|sidewalk 8 1|parking 9 255|rail track 10 255|building 11 2|wall 12 3|fence 13 4|guard rail 14 255
bridge 15 255|tunnel 16 255|pole 17 5|polegroup 18 255|traffic light 19 6|traffic sign 20 7|vegetation 21 8
terrain 22 9|sky 23 10|person 24 11|rider 25 12|car 26 13|truck 27 14|bus 28 15|caravan 29 255|trailer 30 255
train 31 16|motorcycle 32 17|bicycle 33 18"""


def frame(make, root, split, city, number, kind="gtFine", ending="labelIds", values=(7, 26)):
    stem = f"{city}_000000_{number:06d}"
    make.picture(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", number)
    make.label(root / kind / split / city / f"{stem}_{kind}_{ending}.png", *values)
    # what lies beside them in the archives
    make.label(root / kind / split / city / f"{stem}_{kind}_color.png", 200)
    (root / kind / split / city / f"{stem}_{kind}_polygons.json").touch()


def test_cityscapes_ids_are_translated_as_its_authors_do():
    printed = [entry.rsplit(" ", 2) for line in PRINTED.splitlines() for entry in line.split("|")]
    assert {int(raw): int(train) for _, raw, train in printed} == LABEL_IDS
    assert all(CITYSCAPES19.names[int(t)] == name for name, _, t in printed if t != "255")


def test_cityscapes_fine_and_coarse(make, tmp_path):
    for city, number in (("aachen", 1), ("aachen", 2), ("bochum", 1)):
        frame(make, tmp_path, "train", city, number)
    frame(make, tmp_path, "val", "munster", 0, values=(7, 26, 9))
    frame(make, tmp_path, "train_extra", "augsburg", 5, kind="gtCoarse", values=(0, 23))
    frame(make, tmp_path, "train", "aachen", 1, kind="gtCoarse", values=(255, 33))
    both = open_dataset("cityscapes", root=tmp_path, split="train+val")
    assert [both.name_of(i) for i in range(4)] == [
        "aachen/aachen_000000_000001",
        "aachen/aachen_000000_000002",
        "bochum/bochum_000000_000001",
        "munster/munster_000000_000000",
    ]
    assert both.read(3)[1][0].tolist() == [0] * 4 + [13] * 4 + [255] * 4
    coarse = open_dataset("cityscapes", root=tmp_path, split="train_extra", labels="coarse")
    assert coarse.read(0)[1][0].tolist() == [255] * 6 + [10] * 6
    with pytest.raises(
        ValueError, match=r"bochum_000000_000001_leftImg8bit.png has no label image|000002.* has no label"
    ):
        open_dataset("cityscapes", root=tmp_path, split="train", labels="coarse")
    with pytest.raises(ValueError, match="'fine' or 'coarse', not 'rough'"):
        open_dataset("cityscapes", root=tmp_path, split="train", labels="rough")


def test_cityscapes_train_ids_are_taken_where_there_is_nothing_else(make, tmp_path):
    frame(make, tmp_path, "train", "aachen", 1, ending="labelTrainIds", values=(0, 18, 255))
    dataset = open_dataset("cityscapes", root=tmp_path, split="train")
    assert dataset.read(0)[1][0].tolist() == [0] * 4 + [18] * 4 + [255] * 4
    frame(make, tmp_path, "val", "munster", 1)
    with pytest.raises(ValueError, match="some have labelIds files and others labelTrainIds only"):
        open_dataset("cityscapes", root=tmp_path, split="train+val")


def test_cityscapes_foreign_ids_are_refused(make, tmp_path):
    frame(make, tmp_path, "train", "aachen", 1, values=(7, 34))
    with pytest.raises(ValueError, match=r"labelIds.png holds the ids \[34\]"):
        open_dataset("cityscapes", root=tmp_path, split="train").read(0)


def test_cityscapes_in_another_folder_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="there is no folder .*leftImg8bit/train"):
        open_dataset("cityscapes", root=tmp_path, split="train")


@pytest.mark.parametrize(
    ("images", "labels", "ending"),
    [
        ("images/10k/{}", "labels/sem_seg/masks/{}", ""),
        ("seg/images/{}", "seg/labels/{}", "_train_id"),
        ("images/{}", "labels/{}", "_train_id"),
    ],
)
def test_bdd100k_in_all_its_layouts(make, tmp_path, images, labels, ending):
    for split, count in (("train", 2), ("val", 1)):
        for i in range(count):
            make.picture(tmp_path / images.format(split) / f"{split}{i}-0a1b.jpg", i)
            make.label(tmp_path / labels.format(split) / f"{split}{i}-0a1b{ending}.png", 0, i, 255)
    dataset = open_dataset("bdd100k", root=tmp_path, split="train+val")
    assert len(dataset) == 3 and dataset.label_map == CITYSCAPES19
    assert dataset.name_of(1) == "train1-0a1b"
    assert np.unique(dataset.read(1)[1]).tolist() == [0, 1, 255]
    with pytest.raises(ValueError, match="there is no folder"):
        open_dataset("bdd100k", root=tmp_path, split="test")
