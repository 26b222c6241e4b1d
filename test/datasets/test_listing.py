"""The datasets that a recipe may name."""

from drive_seg.datasets import names


def test_every_dataset_is_listed():
    assert names() == ["bag", "bdd100k", "camvid", "camvid32", "cityscapes", "folder", "synth", "voc"]
