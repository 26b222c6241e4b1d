"""Scores against a slow count and against torchmetrics."""

import cv2
import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.functional.classification import multiclass_jaccard_index

from drive_seg.metrics import BoundaryScore, ConfusionMatrix

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


def test_precision_is_the_share_of_an_ids_predictions_that_are_right(images):
    prediction, target = images
    matrix = ConfusionMatrix(CLASSES + 1)
    matrix.update(prediction, target)
    said = [target[(prediction == c) & (target != 255)] for c in range(CLASSES)]
    np.testing.assert_allclose(matrix.precision(), [*((each == c).mean() for c, each in enumerate(said)), np.nan])


def test_precision_of_a_group_asks_only_labels_that_tell():
    matrix = ConfusionMatrix(3, [(0, 1)])
    matrix.update(np.array([0, 0, 1, 2, 0], np.uint8), np.array([3, 2, 3, 3, 0], np.uint8))
    np.testing.assert_allclose(matrix.precision(), [1 / 2, np.nan, 0, 3 / 4])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"\(2,\) but target is \(3,\)"):
        ConfusionMatrix(2).update(np.zeros(2, np.uint8), np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="id 7"):
        ConfusionMatrix(2).update(np.zeros(1, np.uint8), np.array([7], np.uint8))


def all_kinds(rng):
    """Void, a class that is absent (4) and one that is only predicted (3)."""
    target = rng.integers(0, 3, (3, 19, 22)).astype(np.uint8)
    prediction = np.where(rng.random(target.shape) < 0.6, target, rng.integers(0, 4, target.shape)).astype(np.uint8)
    target[rng.random(target.shape) < 0.15] = 255
    return prediction, target


def test_figures_agree_with_torchmetrics():
    prediction, target = all_kinds(np.random.default_rng(8))
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(prediction, target)
    p, t = torch.from_numpy(prediction).long(), torch.from_numpy(target).long()
    settings = {"num_classes": CLASSES, "ignore_index": 255}
    iou = MulticlassJaccardIndex(**settings, average="none")(p, t).numpy()
    assert matrix.iou()[3] == 0 and np.isnan(matrix.iou()[4])
    np.testing.assert_allclose(np.nan_to_num(matrix.iou()), iou, atol=1e-6)
    # both average over the classes present or predicted: four
    assert matrix.miou() == pytest.approx(MulticlassJaccardIndex(**settings)(p, t).item(), abs=1e-6)
    micro = MulticlassAccuracy(**settings, average="micro")(p, t).item()
    assert matrix.pixel_accuracy() == pytest.approx(micro, abs=1e-6)
    accuracy = MulticlassAccuracy(**settings, average="none")(p, t).numpy()
    np.testing.assert_allclose(matrix.class_accuracy()[:3], accuracy[:3], atol=1e-6)
    # a class that is only predicted has no recall here, and the recall 0 there
    assert np.isnan(matrix.class_accuracy()[3:]).all()
    assert matrix.mean_class_accuracy() == pytest.approx(accuracy[:3].mean(), abs=1e-6)
    assert MulticlassAccuracy(**settings)(p, t).item() == pytest.approx(accuracy[:3].sum() / 4, abs=1e-6)


def test_a_group_gives_the_figures_of_its_classes_merged():
    rng = np.random.default_rng(5)
    prediction = rng.integers(0, 5, (40, 30)).astype(np.uint8)
    target = rng.choice(np.array([0, 1, 5, 255], np.uint8), (40, 30))  # 5 = "2 or 3 or 4"
    grouped, merged = ConfusionMatrix(5, [(2, 3, 4)]), ConfusionMatrix(3)
    grouped.update(prediction, target)
    merged.update(np.minimum(prediction, 2), np.where(target == 5, 2, target))
    np.testing.assert_allclose(grouped.iou()[[0, 1, 5]], merged.iou())
    assert grouped.pixel_accuracy() == merged.pixel_accuracy()
    np.testing.assert_allclose(grouped.class_accuracy()[[0, 1, 5]], merged.class_accuracy())


def test_a_label_that_leaves_a_class_open_does_not_count_against_it():
    # 0 road, 1 tree, 2 grass; 3 = "tree or grass"; truths: tree, tree, tree or grass, road
    matrix = ConfusionMatrix(3, [(1, 2)])
    matrix.update(np.array([1, 2, 1, 1], np.uint8), np.array([1, 1, 3, 0], np.uint8))
    # tree: one right, one missed, the road taken for it; the open pixel tells nothing
    assert matrix.iou()[1] == pytest.approx(1 / 3)
    # tree or grass: three right, the road taken for it
    assert matrix.iou()[3] == pytest.approx(3 / 4)
    assert matrix.pixel_accuracy() == pytest.approx(2 / 4)


def slow_boundary_f1(prediction, target, c, radius):
    """By the definition, pixel by pixel."""
    height, width = target.shape

    def boundary(plane):
        found = []
        for y in range(height):
            for x in range(width):
                around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
                known = [(v, u) for v, u in around if 0 <= v < height and 0 <= u < width and target[v, u] != 255]
                if target[y, x] != 255 and plane[y, x] == c and any(plane[q] != c for q in known):
                    found.append((y, x))
        return found

    def near(points, others):
        return sum(any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in points)

    true, predicted = boundary(target), boundary(prediction)
    if not true and not predicted:
        return float("nan")
    if not true or not predicted:
        return 0.0
    precision, recall = near(predicted, true) / len(predicted), near(true, predicted) / len(true)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def blobs(rng, classes):
    """Patches with long boundaries."""
    return cv2.resize(rng.integers(0, classes, (6, 8)).astype(np.uint8), (32, 24), interpolation=cv2.INTER_NEAREST)


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.05, 0.1])
def test_boundary_f1_agrees_with_a_slow_count(tolerance):
    rng = np.random.default_rng(2)
    target = blobs(rng, 3)
    prediction = np.roll(target, (1, 2), (0, 1))
    prediction[:5, :9] = 3  # only predicted
    target[10:14, 5:20] = 255
    score = BoundaryScore(CLASSES, tolerance=tolerance)
    score.update(prediction, target)
    radius = int(np.ceil(tolerance * 40))  # 24 x 32 has the diagonal 40
    slow = [slow_boundary_f1(prediction, target, c, radius) for c in range(CLASSES)]
    np.testing.assert_allclose(score.f1(), slow)
    assert score.f1()[3] == 0 and np.isnan(score.f1()[4])


def test_boundary_f1_of_a_perfect_and_of_a_shifted_edge():
    target = np.zeros((30, 40), np.uint8)  # diagonal 50
    target[:, 20:] = 1
    for shift, tolerance, expected in ((0, 0.0, 1), (1, 0.0, 0), (3, 0.06, 1), (3, 0.04, 0)):
        score = BoundaryScore(2, tolerance=tolerance)
        score.update(np.roll(target, shift, 1) & (np.arange(40) >= shift + 1), target)
        assert score.f1().tolist() == [expected] * 2, (shift, tolerance)


def test_boundaries_add_up_over_images_and_know_groups():
    rng = np.random.default_rng(4)
    pairs = [(blobs(rng, 3), blobs(rng, 3)) for _ in range(2)]
    grouped, merged = BoundaryScore(3, [(1, 2)], tolerance=0.03), BoundaryScore(2, tolerance=0.03)
    for prediction, target in pairs:
        grouped.update(prediction, np.where(target > 0, 3, 0).astype(np.uint8))
        merged.update(np.minimum(prediction, 1), np.minimum(target, 1))
    np.testing.assert_allclose(grouped.f1()[[0, 3]], merged.f1())
    singles = []
    for prediction, target in pairs:
        single = BoundaryScore(2, tolerance=0.03)
        single.update(np.minimum(prediction, 1), np.minimum(target, 1))
        singles.append(single.recall()[0])
    assert min(singles) < merged.recall()[0] < max(singles)


def test_boundary_scores_add_up():
    pairs = [(blobs(np.random.default_rng(i), 3), blobs(np.random.default_rng(9 + i), 3)) for i in range(2)]
    whole, total = BoundaryScore(3), BoundaryScore(3)
    for pair in pairs:
        part = BoundaryScore(3)
        part.update(*pair)
        whole.update(*pair)
        total += part
    np.testing.assert_array_equal(total.counts, whole.counts)
    np.testing.assert_array_equal(total.f1(), whole.f1())


def test_nothing_but_void_has_no_boundary():
    score = BoundaryScore(2)
    score.update(np.eye(8, dtype=np.uint8), np.full((8, 8), 255, np.uint8))
    assert np.isnan(score.f1()).all() and np.isnan(score.precision()).all() and np.isnan(score.recall()).all()
    with pytest.raises(ValueError, match="prediction is"):
        score.update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
