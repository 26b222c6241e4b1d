"""Scores against a slow count and against torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

from drive_seg.metrics import ConfusionMatrix

CLASSES = 5


def slow_iou(prediction, target, c):
    both = either = 0
    for p, t in zip(prediction.ravel().tolist(), target.ravel().tolist(), strict=True):
        if t != 255:
            both += p == c and t == c
            either += p == c or t == c
    return both / either if either else float("nan")


@pytest.fixture
def images():
    rng = np.random.default_rng(3)
    target = rng.integers(0, CLASSES, (4, 17, 23)).astype(np.uint8)
    target[rng.random(target.shape) < 0.1] = 255
    prediction = np.where(rng.random(target.shape) < 0.6, target, rng.integers(0, CLASSES, target.shape)).astype(
        np.uint8
    )
    prediction[prediction == 255] = 0
    return prediction, target


def test_iou_agrees_with_a_slow_count_and_with_torchmetrics(images):
    prediction, target = images
    matrix = ConfusionMatrix(CLASSES)
    for p, t in zip(prediction, target, strict=True):
        matrix.update(p, t)
    np.testing.assert_allclose(matrix.iou(), [slow_iou(prediction, target, c) for c in range(CLASSES)])
    oracle = multiclass_jaccard_index(
        torch.from_numpy(prediction).long(), torch.from_numpy(target).long(), CLASSES, ignore_index=255, average="none"
    )
    np.testing.assert_allclose(matrix.iou(), oracle.numpy(), atol=1e-6)
    valid = target != 255
    assert matrix.pixel_accuracy() == pytest.approx((prediction == target)[valid].mean())


def test_absent_classes_are_left_out_of_the_mean():
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([0, 0, 1], np.uint8), np.array([0, 0, 0], np.uint8))
    np.testing.assert_array_equal(matrix.iou(), [2 / 3, 0, np.nan])
    assert matrix.miou() == pytest.approx(1 / 3)
    assert matrix.frequency().tolist() == [1, 0, 0]


def test_a_void_prediction_is_an_error_of_the_true_class():
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([255, 0], np.uint8), np.array([0, 0], np.uint8))
    assert matrix.iou()[0] == 0.5 and matrix.pixel_accuracy() == 0.5


def test_nothing_counted_is_nan_not_zero():
    matrix = ConfusionMatrix(2)
    matrix.update(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    assert np.isnan(matrix.miou()) and np.isnan(matrix.pixel_accuracy())


def test_matrices_add_up(images):
    prediction, target = images
    whole, parts = ConfusionMatrix(CLASSES), ConfusionMatrix(CLASSES)
    whole.update(prediction, target)
    for p, t in zip(prediction, target, strict=True):
        part = ConfusionMatrix(CLASSES)
        part.update(p, t)
        parts += part
    assert (whole.counts == parts.counts).all()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"\(2,\) but target is \(3,\)"):
        ConfusionMatrix(2).update(np.zeros(2, np.uint8), np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="id 7"):
        ConfusionMatrix(2).update(np.zeros(1, np.uint8), np.array([7], np.uint8))
