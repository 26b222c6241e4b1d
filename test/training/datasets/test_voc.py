"""PASCAL VOC 2012: palette images chosen by lists; SBD's as grey PNGs."""

import numpy as np
import pytest

from drive_seg.labels import VOC21, label_map
from drive_seg.training.datasets import open_dataset


@pytest.fixture
def voc(make, tmp_path):
    ids = np.array([[0, 15, 20, 255]], np.uint8).repeat(8, 0).repeat(3, 1)
    for seed, name in enumerate(("2007_000032", "2007_000039", "2008_000001")):
        make.picture(tmp_path / "JPEGImages" / f"{name}.jpg", seed)
        make.label(tmp_path / "SegmentationClassAug" / f"{name}.png", 0, seed)
        if seed < 2:
            make.packed(tmp_path / "SegmentationClass" / f"{name}.png", ids)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000039\n")
    (lists / "val.txt").write_text("2007_000032\n\n")
    (lists / "train_aug.txt").write_text(
        "/JPEGImages/2008_000001.jpg /SegmentationClassAug/2008_000001.png\n2007_000039\n"
    )
    return tmp_path


def test_lists_choose_and_palettes_are_read_as_numbers(voc):
    dataset = open_dataset("voc", root=voc, split="train+val")
    assert [dataset.name_of(i) for i in range(len(dataset))] == ["2007_000039", "2007_000032"]
    assert dataset.read(1)[1][0].tolist() == [0] * 3 + [15] * 3 + [20] * 3 + [255] * 3


def test_augmented_labels(voc):
    dataset = open_dataset("voc", root=voc, split="train_aug", labels="SegmentationClassAug")
    assert [dataset.name_of(i) for i in range(len(dataset))] == ["2008_000001", "2007_000039"]
    assert np.unique(dataset.read(0)[1]).tolist() == [0, 2]
    with pytest.raises(ValueError, match="train_aug.txt names '2008_000001', which has no label image"):
        open_dataset("voc", root=voc, split="train_aug")


def test_missing_folders_and_lists_are_named(voc):
    with pytest.raises(ValueError, match="there is no folder .*JPEGImages"):
        open_dataset("voc", root=voc / "ImageSets", split="train")
    with pytest.raises(ValueError, match="trainval.txt cannot be read as a list"):
        open_dataset("voc", root=voc, split="trainval")


def test_the_colours_are_those_of_the_devkit():
    """Its VOClabelcolormap: the bits of the id, three at a time, from the top of red, green and blue downwards."""
    for i, color in enumerate(VOC21.colors):
        expected = [sum(((i >> (3 * k + c)) & 1) << (7 - k) for k in range(8)) for c in range(3)]
        assert list(color) == expected, VOC21.names[i]
    assert label_map("voc21").num_classes == 21
    assert VOC21.foreground() == tuple(range(1, 21))
