"""What is known of other label maps covers every class and names only classes that are there."""

import numpy as np
import pytest

from drive_seg.labels import CAMVID11, CITYSCAPES19, label_map
from drive_seg.training.datasets import names
from drive_seg.training.datasets.joined import table_of
from drive_seg.training.datasets.meanings import _KNOWN


@pytest.mark.parametrize(("source", "target"), sorted(_KNOWN))
def test_every_class_has_a_meaning(source, target):
    assert set(_KNOWN[source, target]) == set(label_map(source).names)
    table = table_of(label_map(source), label_map(target), {}, [])
    assert table[255] == 255


def test_camvid_and_cityscapes_undo_each_other():
    groups: list = []
    fine = table_of(CAMVID11, CITYSCAPES19, {}, groups)
    coarse = table_of(CITYSCAPES19, CAMVID11, {}, [])
    for i in range(11):
        members = (fine[i],) if fine[i] < 19 else groups[fine[i] - 19]
        assert {int(coarse[m]) for m in members} == {i}
    assert np.unique(coarse[:19]).tolist() == list(range(11))


def test_every_dataset_is_listed():
    assert names() == ["bag", "bdd100k", "camvid", "camvid32", "cityscapes", "folder", "synth", "voc"]
