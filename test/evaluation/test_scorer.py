"""The scorer pairs by exact stamps and counts what the truth has."""

import numpy as np
import pytest

from drive_seg.evaluation.scorer import WAITING, Score
from drive_seg.labels import CAMVID11, CITYSCAPES19


def test_pairs_by_stamp_in_either_order():
    score = Score(CITYSCAPES19)
    score.meaning(CITYSCAPES19)
    half = np.array([[0, 0], [1, 1]], np.uint8)
    score.tell(1, half)
    score.tell(2, half)
    score.predict(2, np.array([[0, 0], [1, 0]], np.uint8))
    score.predict(1, half)
    score.predict(3, half)
    report = score.report()
    assert (report["pairs"], report["predictions"], report["truths"], report["problem"]) == (2, 3, 2, "")
    assert report["pixel_accuracy"] == pytest.approx(7 / 8)
    classes = {row["name"]: row for row in report["classes"]}
    assert classes["road"]["iou"] == pytest.approx(4 / 5)
    assert classes["sidewalk"]["iou"] == pytest.approx(3 / 4)
    assert classes["car"]["iou"] is None
    assert classes["road"]["share"] == pytest.approx(0.5)
    assert report["miou"] == pytest.approx((4 / 5 + 3 / 4) / 2)


def test_void_truth_is_left_out():
    score = Score(CITYSCAPES19)
    score.tell(1, np.array([[0, 255]], np.uint8))
    score.predict(1, np.array([[0, 1]], np.uint8))
    assert score.report()["pixel_accuracy"] == 1.0


def test_other_classes_and_sizes_give_a_reason_instead_of_a_score():
    score = Score(CITYSCAPES19)
    score.meaning(CAMVID11)
    score.tell(1, np.zeros((2, 2), np.uint8))
    score.predict(1, np.zeros((2, 2), np.uint8))
    report = score.report()
    assert report["problem"] == "the model's classes (camvid11) are not those of the truth (cityscapes19)"
    assert (report["miou"], report["pixel_accuracy"]) == (None, None)

    score = Score(CITYSCAPES19)
    score.tell(1, np.zeros((2, 2), np.uint8))
    score.predict(1, np.zeros((2, 3), np.uint8))
    assert score.report()["problem"] == "masks are (2, 3) but truths are (2, 2) (height, width)"


def test_nothing_paired_is_said_and_what_waits_is_bounded():
    score = Score(CITYSCAPES19)
    for stamp in range(3 * WAITING):
        score.tell(stamp, np.zeros((1, 1), np.uint8))
    score.predict(0, np.zeros((1, 1), np.uint8))
    assert score.report()["problem"] == "no mask came with the stamp of a truth"
    score.predict(3 * WAITING - 1, np.zeros((1, 1), np.uint8))
    assert score.report()["pairs"] == 1


def test_truth_of_other_ids_is_said():
    score = Score(CAMVID11)
    score.tell(1, np.full((2, 2), 15, np.uint8))
    score.predict(1, np.zeros((2, 2), np.uint8))
    assert score.report()["problem"].startswith("the truth does not fit camvid11: target holds id 15")
