"""Reliability diagram and expected calibration error, against pixels counted one by one."""

import json
import math
import re

import numpy as np
import pytest
import torch

from drive_seg.evaluation.page.charts import reliability_diagram
from drive_seg.evaluation.reliability import BINS, Confidences, Reliability, asked_together, diagram, expected_error
from drive_seg.labels import VOID

GROUPS = ((1, 2),)


def logits_of(*pixels: list[float]) -> torch.Tensor:
    """[1, C, 1, N] of the probabilities of N pixels."""
    return torch.tensor(pixels, dtype=torch.float64).log().T[None, :, None]


def counts_of(*pixels: tuple[int, int, int]) -> np.ndarray:
    """Of (value, pixels, right ones)."""
    counts = np.zeros((2, 256), np.int64)
    for value, total, right in pixels:
        counts[:, value] = total, right
    return counts


def test_confidence_that_says_how_often_it_is_right_has_no_error() -> None:
    assert expected_error(counts_of((51, 1000, 200), (204, 1000, 800))) == pytest.approx(0, abs=1e-9)


def test_the_error_is_the_mean_distance_over_bins_by_pixels() -> None:
    # 255 x 0.8 = 204 said of 300 pixels of which half are right; all of 100 are said and are right
    assert expected_error(counts_of((204, 300, 150), (255, 100, 100))) == pytest.approx(0.75 * 0.3)
    # within a bin, too sure and not sure enough balance
    assert expected_error(counts_of((206, 100, 100), (220, 100, 206 / 255 * 100 + 220 / 255 * 100 - 100))) < 0.01
    assert math.isnan(expected_error(np.zeros((2, 256), np.int64)))


def test_bins_have_equal_width_and_every_value_one_bin() -> None:
    rows = diagram(np.ones((2, 256), np.int64))
    assert len(rows) == BINS and [row["pixels"] for row in rows] == [17] * 14 + [18]
    assert rows[0]["from"] == 0 and rows[-1]["to"] == 1
    assert all(row["from"] <= row["confidence"] <= row["to"] and row["accuracy"] == 1 for row in rows)
    assert diagram(counts_of((0, 1, 0)))[3] == {
        "from": 3 / 15,
        "to": 4 / 15,
        "pixels": 0,
        "confidence": None,
        "accuracy": None,
    }


def test_pixels_are_counted_by_confidence_and_void_is_left_out() -> None:
    logits = logits_of([0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5], [0.4, 0.35, 0.25])
    found = Confidences(1.0, 3).count(logits, np.array([[0, 2, 2, VOID]], np.uint8))
    assert found.uncalibrated is None
    assert np.array_equal(found.counts, counts_of((204, 1, 1), (153, 1, 0), (128, 1, 1)))


def test_a_temperature_is_seen_beside_what_was_before_it() -> None:
    logits = logits_of([0.8, 0.2])
    found = Confidences(2.0, 2).count(logits, np.zeros((1, 1), np.uint8))
    sure = 255 / (1 + math.exp(-math.log(4) / 2))
    assert found.counts[0].argmax() == round(sure) and found.uncalibrated[0].argmax() == 204
    report = json.loads(json.dumps(found.to_dict()))
    assert report["temperature"] == 2.0
    assert report["expected_calibration_error"] == pytest.approx(1 - round(sure) / 255)
    assert report["before"]["expected_calibration_error"] == pytest.approx(0.2)


def test_a_group_counts_with_the_sum_of_its_classes() -> None:
    logits = logits_of([0.1, 0.5, 0.4], [0.1, 0.4, 0.5], [0.6, 0.2, 0.2])
    label = np.array([[3, 3, 3]], np.uint8)
    found = Confidences(1.0, 3, GROUPS, ids=[0, 3]).count(logits, label)
    assert np.array_equal(found.counts, counts_of((round(0.9 * 255), 2, 2), (153, 1, 0)))


def test_confidence_does_not_depend_on_the_label_beside_it() -> None:
    logits = logits_of([0.1, 0.5, 0.4])
    sure = [
        Confidences(1.0, 3, GROUPS, ids=[0, 3]).count(logits, np.full((1, 1), label, np.uint8)).counts[0].argmax()
        for label in (0, 3)
    ]
    assert sure == [230, 230]


def test_a_class_is_asked_with_the_largest_group_that_holds_it() -> None:
    members = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]], bool)
    assert asked_together(members).astype(int).tolist() == [[1, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]
    assert asked_together(np.eye(4, dtype=bool)) is None


def test_labels_of_another_size_are_met_as_on_the_vehicle() -> None:
    logits = logits_of([0.8, 0.2], [0.4, 0.6])
    found = Confidences(1.0, 2).count(logits, np.array([[0, 0, 1, 1], [0, 0, 0, 1]], np.uint8))
    assert np.array_equal(found.counts, counts_of((204, 4, 4), (153, 4, 3)))


def test_what_is_not_finite_is_no_pixel_that_is_right() -> None:
    logits = torch.full((1, 2, 1, 1), math.nan)
    for groups, ids in (((), None), (((0, 1),), [2])):
        found = Confidences(1.0, 2, groups, ids).count(logits, np.zeros((1, 1), np.uint8))
        assert found.counts.sum(1)[0] == 1 and found.counts[0, 0] == 1


def test_images_add_up() -> None:
    total, one = Reliability.empty(2.0), Reliability(2.0, counts_of((9, 2, 1)), counts_of((8, 2, 1)))
    total += one
    total += one
    assert np.array_equal(total.counts, 2 * one.counts) and np.array_equal(total.uncalibrated, 2 * one.uncalibrated)
    assert Reliability.empty(1.0).to_dict() is None and Reliability.empty(1.0).uncalibrated is None


def test_the_diagram_has_a_bar_for_each_bin_with_pixels() -> None:
    counts = counts_of((100, 50, 10), (204, 100, 75), (255, 1000, 1000))
    svg = reliability_diagram(Reliability(1.5, counts, counts_of((30, 5, 5))).to_dict())
    bars = re.findall(r'<path d="M [\d.]+ ([\d.]+) \nL [\d.]+ [\d.]+ \nL [\d.]+ ([\d.]+) [^"]*"[^>]*fill: var', svg)
    heights = [float(bottom) - float(top) for bottom, top in bars]
    assert [height / heights[-1] for height in heights] == pytest.approx([0.2, 0.75, 1.0], abs=0.01)
    assert "100 pixels of confidence 80 to 87 %, 80.0 % on average: 75.0 % right" in svg
    assert svg.count("<title>") == 3
