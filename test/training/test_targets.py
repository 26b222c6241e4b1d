"""Classes and groups: probabilities add up, doubts are known, predictions are folded."""

import numpy as np
import torch

from drive_seg.labels import LabelMap
from drive_seg.training.targets import Targets, known_presence, log_probabilities


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


def test_a_prediction_inside_the_labelled_group_counts_as_it():
    targets = Targets(LabelMap("x", ("a", "b", "c"), ((0, 0, 0),) * 3), ((0, 1),), np.zeros(4))
    prediction = np.array([0, 1, 2, 0, 2], np.uint8)
    label = np.array([3, 3, 3, 0, 255], np.uint8)
    assert targets.fold(prediction, label).tolist() == [3, 3, 2, 0, 2]
    assert targets.names == ("a", "b", "c", "a/b")
