"""Classes and groups: probabilities add up, doubts are known, ids are translated, predictions folded."""

import numpy as np
import pytest
import torch

from drive_seg.labels import CAMVID11, CAMVID32, CITYSCAPES19, LabelMap
from drive_seg.training.datasets.meanings import known_meaning
from drive_seg.training.targets import Targets, known_presence, log_probabilities, translation


def names_of(targets, groups):
    return [
        "void" if t == 255 else "/".join(CITYSCAPES19.names[i] for i in (groups[t - 19] if t >= 19 else [t]))
        for t in targets
    ]


def test_the_probability_of_a_group_is_the_sum_of_its_classes():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 3, 4)
    p = log_probabilities(logits, ((0, 2), (1, 3, 4))).exp()
    assert p.shape == (2, 7, 3, 4)
    torch.testing.assert_close(p[:, :5], logits.softmax(1))
    torch.testing.assert_close(p[:, 5], p[:, 0] + p[:, 2])
    torch.testing.assert_close(p[:, 5] + p[:, 6], torch.ones(2, 3, 4))


def test_a_class_is_in_doubt_where_only_its_group_was_seen():
    groups = ((0, 1), (1, 2))
    #                 class 0      1      2   group 3      4
    present = torch.tensor(
        [
            [True, False, False, True, False],
            [False, False, False, False, True],
            [False, False, False, False, False],
        ]
    )
    assert known_presence(present, (0, 1, 2), groups).tolist() == [
        [True, False, True],
        [True, False, False],
        [True, True, True],
    ]


def test_camvid_among_the_classes_of_cityscapes():
    groups = []
    table = translation(CAMVID11, CITYSCAPES19, known_meaning("camvid11", "cityscapes19"), groups)
    assert names_of(table[:11], groups) == [
        "sky",
        "building/wall",
        "pole",
        "road",
        "sidewalk",
        "vegetation/terrain",
        "traffic light/traffic sign",
        "fence",
        "car/truck/bus/train",
        "person",
        "rider/motorcycle/bicycle",
    ]
    assert set(table[11:]) == {255}
    before = len(groups)
    finer = translation(CAMVID32, CITYSCAPES19, known_meaning("camvid32", "cityscapes19"), groups)
    of = dict(zip(CAMVID32.names, names_of(finer[:32], groups), strict=True))
    assert of["TrafficLight"] == "traffic light" and of["SignSymbol"] == "traffic sign" and of["Wall"] == "wall"
    assert of["Truck_Bus"] == "truck/bus" and of["Void"] == of["Misc_Text"] == "void"
    assert of["VegetationMisc"] == "vegetation/terrain"  # a group that the 11 classes brought already
    assert len(groups) == before + 3  # rider/bicycle, rider/motorcycle, truck/bus


def test_names_that_are_the_same_need_no_word():
    few = LabelMap("few", ("car", "road"), ((0, 0, 0), (1, 1, 1)))
    groups = []
    table = translation(few, CITYSCAPES19, {}, groups)
    assert table[:3].tolist() == [13, 0, 255] and groups == []


@pytest.mark.parametrize(
    ("meaning", "sentence"),
    [
        ({}, "class 'tram' of label map 'odd' is not in 'cityscapes19'; say what it is under 'meaning'"),
        ({"tram": ["tramway"]}, "label map 'cityscapes19' has no class 'tramway'"),
        ({"trem": ["train"]}, "label map 'odd' has no class 'trem'"),
    ],
)
def test_what_has_no_counterpart_is_named(meaning, sentence):
    odd = LabelMap("odd", ("road", "tram"), ((0, 0, 0), (1, 1, 1)))
    with pytest.raises(ValueError, match=sentence):
        translation(odd, CITYSCAPES19, meaning, [])


def test_a_prediction_inside_the_labelled_group_counts_as_it():
    targets = Targets(LabelMap("x", ("a", "b", "c"), ((0, 0, 0),) * 3), ((0, 1),), np.zeros(4))
    prediction = np.array([0, 1, 2, 0, 2], np.uint8)
    label = np.array([3, 3, 3, 0, 255], np.uint8)
    assert targets.fold(prediction, label).tolist() == [3, 3, 2, 0, 2]
    assert targets.names == ("a", "b", "c", "a/b")
