"""Datasets joined into one: order, repeats, translated labels, counts."""

import numpy as np
import pytest

from drive_seg.datasets.joined import Joined
from drive_seg.labels import LabelMap
from drive_seg.training.data import InMemory

FINE = LabelMap("fine", ("road", "car", "truck"), ((0, 0, 0),) * 3)
COARSE = LabelMap("coarse", ("vehicle", "road"), ((0, 0, 0),) * 2)


class Fixed:
    """Images whose every pixel has one id."""

    def __init__(self, label_map, ids):
        self.label_map, self.ids, self.reads = label_map, ids, 0

    def __len__(self):
        return len(self.ids)

    def read(self, i):
        self.reads += 1
        return np.full((2, 3, 3), i, np.uint8), np.full((2, 3), self.ids[i], np.uint8)

    def name_of(self, i):
        return f"{self.label_map.name} {i}"


def pixels(dataset):
    counts = np.zeros(dataset.label_map.num_classes)
    for i in dataset.ids:
        if i != 255:
            counts[i] += 6
    return counts


@pytest.fixture
def joined():
    groups = []
    fine, coarse = Fixed(FINE, [0, 2]), Fixed(COARSE, [0, 1, 255])
    return Joined(FINE, [(fine, 1, {}), (coarse, 2, {"vehicle": ["car", "truck"]})], groups), fine, coarse


def test_labels_become_classes_and_groups(joined):
    both, _, _ = joined
    assert both.groups == [(1, 2)]
    assert [int(both.read(i)[1][0, 0]) for i in range(len(both))] == [0, 2, 3, 0, 255, 3, 0, 255]
    assert both.name_of(1) == "fine 1" and both.name_of(6) == "coarse 1"


def test_counts_include_repeats(joined):
    both, _, _ = joined
    counts = both.counts(pixels)
    assert counts[:4].tolist() == [6 + 2 * 6, 0, 6, 2 * 6] and not counts[4:].any()


def test_memory_holds_each_image_once(joined):
    both, fine, coarse = joined
    memory = InMemory(both)
    assert (fine.reads, coarse.reads) == (2, 3)
    assert len(memory) == 8
    for i in range(8):
        assert memory.read(i)[1][0, 0] == [0, 2, 3, 0, 255, 3, 0, 255][i]
    assert (fine.reads, coarse.reads) == (2, 3)
