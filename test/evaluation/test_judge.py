"""Counts against an obvious slow loop; which frames are kept; merging gives what one judge of all would."""

import json
from dataclasses import fields, is_dataclass
from multiprocessing import Pipe

import numpy as np
import pytest

from drive_seg.evaluation.judge import Judge
from drive_seg.evaluation.partial import failed, merge
from drive_seg.evaluation.records import Picture, new_row
from drive_seg.evaluation.report import About, as_report, find_stalls, percentiles
from drive_seg.evaluation.worst import WIDEST, Worst
from drive_seg.labels import VOID, LabelMap
from drive_seg.metrics import BoundaryScore, ConfusionMatrix

MAP = LabelMap("toy", ("road", "car", "pole"), ((128, 64, 128), (0, 0, 255), (9, 9, 9)))
ABOUT = About("deterministic", "bag", "a title", {"name": "m"}, "drive-seg replay", "its own time", "another")
SIZE = (24, 32)


def masks(seed, count, ids=3, void=0.1):
    """Random blocky masks."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, ids, (count, SIZE[0] // 4, SIZE[1] // 4), np.uint8).repeat(4, 1).repeat(4, 2)
    made[rng.random(made.shape) < void] = VOID
    return made


def image(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def row(i, camera="front", bag="bag", fate="published"):
    return new_row(bag, camera, i, 10**9 + i * 10**8, i / 10, fate)


def judged(predictions, truths, others=None, bag="bag", worst=12, images=True):
    judge = Judge(MAP, worst=worst, versus=others is not None)
    for i, (prediction, truth) in enumerate(zip(predictions, truths, strict=True)):
        other = None if others is None else others[i]
        judge.frame(row(i, bag=bag), image() if images else None, prediction, truth, other)
    return judge.partial(bag, len(predictions), ["front"])


def slow_confusion(predictions, truths):
    counts = [[0] * 4 for _ in range(3)]
    for prediction, truth in zip(predictions, truths, strict=True):
        for guess, true in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if true != VOID:
                counts[true][min(guess, 3)] += 1
    return counts


def test_confusion_and_figures_equal_an_obvious_loop():
    predictions, truths = masks(1, 4), masks(2, 4)
    report = as_report(judged(predictions, truths), ABOUT)
    counts = slow_confusion(predictions, truths)
    assert report["confusion"] == counts
    for i, entry in enumerate(report["classes"]):
        hit, true = counts[i][i], sum(counts[i])
        guessed = sum(counts[j][i] for j in range(3))
        assert entry["iou"] == pytest.approx(hit / (true + guessed - hit))
        assert entry["precision"] == pytest.approx(hit / guessed)
        assert entry["recall"] == pytest.approx(hit / true)
        assert entry["share"] == pytest.approx(true / sum(map(sum, counts)))
        assert entry["predicted_share"] == pytest.approx(np.mean(predictions == i))
    ious = [entry["iou"] for entry in report["classes"]]
    assert report["miou"] == pytest.approx(np.mean(ious))
    assert report["f_miou"] == pytest.approx(np.mean(ious[1:])), "road is no foreground"
    assert report["pixel_accuracy"] == pytest.approx(sum(counts[i][i] for i in range(3)) / sum(map(sum, counts)))


def test_rows_are_each_frames_own_figures_and_boundaries_those_of_the_metric():
    predictions, truths = masks(1, 3), masks(2, 3)
    partial = judged(predictions, truths)
    whole = BoundaryScore(3)
    for i, each in enumerate(partial.rows):
        matrix, boundary = ConfusionMatrix(3), BoundaryScore(3)
        matrix.update(predictions[i], truths[i])
        for score in (boundary, whole):
            score.update(predictions[i], truths[i])
        assert each["miou"] == pytest.approx(matrix.miou())
        assert each["pixel_accuracy"] == pytest.approx(matrix.pixel_accuracy())
        assert each["boundary_f1"] == pytest.approx(np.nanmean(boundary.f1()))
    assert as_report(partial, ABOUT)["boundary_f1"] == pytest.approx(np.nanmean(whole.f1()))


def test_a_class_that_no_truth_can_hold_is_in_no_mean():
    truths = np.minimum(masks(2, 2, void=0), 1)
    judge = Judge(MAP, truth_ids=(0, 1))
    for i, (prediction, truth) in enumerate(zip(masks(1, 2), truths, strict=True)):
        judge.frame(row(i), None, prediction, truth)
    report = as_report(judge.partial("bag", 2), ABOUT)
    assert report["classes"][2]["iou"] is None and report["classes"][2]["predicted_share"] > 0
    assert report["miou"] == pytest.approx(np.mean([entry["iou"] for entry in report["classes"][:2]]))


GROUP = (1, 2)


def coarse(truths):
    """Truths that do not tell cars from poles: id 3 stands for both."""
    return np.where((truths == 1) | (truths == 2), 3, truths).astype(np.uint8)


def grouped(predictions, truths, others=None, bag="bag", groups=(GROUP,), ids=(0, 3)):
    judge = Judge(MAP, ids, versus=others is not None, groups=groups)
    for i, (prediction, truth) in enumerate(zip(predictions, truths, strict=True)):
        judge.frame(row(i, bag=bag), image(), prediction, truth, None if others is None else others[i])
    return judge.partial(bag, len(predictions), ["front"])


def test_truths_that_hold_a_group_are_judged_as_if_it_was_one_class():
    """Equal to a model and a truth that both know two classes only: road, and the group."""
    predictions, truths, others = (masks(seed, 4) for seed in (1, 2, 3))
    partial = grouped(predictions, coarse(truths), others)
    report = as_report(partial, ABOUT)
    two = LabelMap("two", ("road", "car/pole"), ((128, 64, 128), (0, 0, 255)))
    lump = np.array([0, 1, 1, *[255] * 253], np.uint8)
    judge = Judge(two, versus=True)
    for i in range(4):
        judge.frame(row(i), image(), lump[predictions[i]], lump[truths[i]], lump[others[i]])
    expected = as_report(judge.partial("bag", 4, ["front"]), ABOUT)
    for name in ("miou", "f_miou", "pixel_accuracy", "boundary_f1"):
        assert report[name] == pytest.approx(expected[name]) and report[name] > 0
    assert [entry["name"] for entry in report["classes"]] == ["road", "car", "pole", "car/pole"]
    for here, there in ((0, 0), (3, 1)):
        one, other = report["classes"][here], expected["classes"][there]
        assert one["color"] == other["color"]
        figures = ("iou", "precision", "recall", "boundary_f1", "share", "predicted_share")
        assert [one[key] for key in figures] == pytest.approx([other[key] for key in figures])
        one, other = report["against"]["classes"][here], expected["against"]["classes"][there]
        assert one["name"] == other["name"] and one["iou"] == pytest.approx(other["iou"])
        assert [one[key] for key in ("other_iou", "difference")] == pytest.approx(
            [other["other_iou"], other["difference"]]
        )
    for i in (1, 2):
        assert report["classes"][i]["iou"] is None and report["classes"][i]["predicted_share"] > 0
    confusion, other = np.array(report["confusion"]), np.array(expected["confusion"])
    np.testing.assert_array_equal(confusion[3], [other[1, 0], 0, 0, other[1, 1], other[1, 2]])
    np.testing.assert_array_equal(confusion[0, [0, 4]], other[0, [0, 2]])
    assert confusion[0, 1:4].sum() == other[0, 1] and confusion[1:3].sum() == 0
    assert [each["miou"] for each in partial.rows] == pytest.approx([each["miou"] for each in judge._rows])


def test_in_pictures_a_prediction_inside_the_true_group_is_no_error():
    predictions, truths = masks(1, 2), coarse(masks(2, 2))
    partial = grouped(predictions, truths)
    assert partial.shown_map().names == ("road", "car", "pole", "car/pole")
    for raw, shown in zip(partial.worst, partial.shown_worst(), strict=True):
        right = (raw.truth == 3) & np.isin(raw.prediction, GROUP)
        assert right.any() and (shown.prediction[right] == 3).all()
        np.testing.assert_array_equal(shown.prediction[~right], raw.prediction[~right])


def test_bags_with_and_without_groups_are_merged():
    """Also where the same id means another group in each of them."""
    predictions, truths, others = (masks(seed, 6) for seed in (1, 2, 3))
    other_group = np.where(truths[4:] == 0, 3, truths[4:]).astype(np.uint8)
    other_group[truths[4:] == 2] = 3
    parts = [
        grouped(predictions[:2], truths[:2], others[:2], groups=(), ids=(0, 1, 2)),
        grouped(predictions[2:4], coarse(truths[2:4]), others[2:4]),
        grouped(predictions[4:], other_group, others[4:], groups=((0, 2),), ids=(1, 3)),
    ]
    before = [plain(part) for part in parts]
    merged = merge(parts)
    assert [plain(part) for part in parts] == before
    other_group[other_group == 3] = 4
    together = [*truths[:2], *coarse(truths[2:4]), *other_group]
    whole = grouped(predictions, together, others, groups=(GROUP, (0, 2)), ids=(0, 1, 2, 3, 4))
    assert (merged.groups, merged.truth_ids) == (whole.groups, whole.truth_ids)
    for name in ("confusion", "predicted"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
    # a group's boundary is looked for where truths may hold it
    np.testing.assert_array_equal(merged.boundary[:, :3], whole.boundary[:, :3])
    for g, part in ((3, parts[1]), (4, parts[2])):
        np.testing.assert_array_equal(merged.boundary[:, g], part.boundary[:, 3])
    for name in ("own", "other", "both"):
        np.testing.assert_array_equal(getattr(merged.versus, name), getattr(whole.versus, name))
    for one, other in ((merged.worst, whole.worst), (merged.different, whole.different)):
        assert len(one) == 6
        truth_of = {picture.prediction.tobytes(): picture.truth for picture in other}
        for picture in one:
            np.testing.assert_array_equal(picture.truth, truth_of[picture.prediction.tobytes()])


def test_frames_without_mask_or_usable_truth_are_counted_and_say_why():
    prediction = masks(1, 1)[0]
    judge = Judge(MAP)
    judge.frame(row(0), image(), prediction, prediction[:-4])
    judge.frame(row(1), image(), prediction, np.full_like(prediction, VOID))
    judge.frame(row(2), image(), prediction)
    judge.frame(row(3, fate="dropped"), image(), None, prediction)
    judge.frame(row(4), image(), prediction, prediction)
    partial = judge.partial("bag", 7, remark="cut off")
    assert partial.rows[0]["reason"] == "the truth is 32x20 but the mask 32x24"
    assert partial.rows[1]["reason"] == "the truth is all void"
    frames = as_report(partial, ABOUT)["frames"]
    assert frames == {
        "in_source": 7,
        "received": 5,
        "published": 4,
        "dropped": 1,
        "expired": 0,
        "rejected": 0,
        "failed": 0,
        "withheld": 0,
        "scored": 1,
        "without_truth": 3,
        "repeated": 0,
        "backward": 0,
    }
    expected = {"name": "bag", "status": "ok", "reason": "cut off", "frames": 5, "scored": 1, "miou": 1.0}
    assert partial.bags == [expected]


def test_without_truth_there_are_no_scores_but_everything_else():
    predictions = masks(1, 3, void=0)
    report = as_report(judged(predictions, [None] * 3), ABOUT)
    assert (report["miou"], report["confusion"], report["boundary_f1"], report["pixel_accuracy"]) == (None,) * 4
    assert report["flicker"] is not None and report["classes"][0]["share"] is None
    assert sum(entry["predicted_share"] for entry in report["classes"]) == pytest.approx(1)
    json.dumps(report, allow_nan=False)


def test_against_compares_on_the_frames_that_both_have():
    predictions, truths, others = masks(1, 3, void=0), masks(2, 3), list(masks(3, 3, void=0))
    others[1] = None
    partial = judged(predictions, truths, others)
    against = as_report(partial, ABOUT)["against"]
    same = [np.mean(predictions[i] == others[i]) for i in (0, 2)]
    assert against["agreement"] == pytest.approx(np.mean(same)) and against["frames"] == 2
    assert [each["agreement"] for each in partial.rows] == [pytest.approx(same[0]), None, pytest.approx(same[1])]
    own, other = ConfusionMatrix(3), ConfusionMatrix(3)
    for i in (0, 2):
        own.update(predictions[i], truths[i])
        other.update(others[i], truths[i])
    assert (against["own_miou"], against["miou"]) == (pytest.approx(own.miou()), pytest.approx(other.miou()))
    for i, entry in enumerate(against["classes"]):
        assert entry["difference"] == pytest.approx(own.iou()[i] - other.iou()[i])
        both = sum(np.sum((predictions[j] == i) & (others[j] == i)) for j in (0, 2))
        either = sum(np.sum((predictions[j] == i) | (others[j] == i)) for j in (0, 2))
        assert entry["agreement"] == pytest.approx(both / either)
    assert [picture.row["index"] for picture in partial.different] == ([0, 2] if same[0] < same[1] else [2, 0])


def plain(value):
    """All that it holds, as lists, to be compared."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray):
        return [value.dtype.str, value.shape, value.tolist()]
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def sent(part):
    """It, as another process gets it."""
    here, there = Pipe()
    here.send(part)
    return there.recv()


def test_merging_gives_what_one_judge_of_all_gives():
    predictions, truths, others = masks(1, 6), masks(2, 6), masks(3, 6)
    parts = [
        judged(predictions[:2], truths[:2], others[:2], "a", images=False),
        judged(predictions[2:], truths[2:], others[2:], "b", images=False),
    ]
    merged = merge([sent(part) for part in parts])
    whole = as_report(judged(predictions, truths, others, images=False), ABOUT)
    report = as_report(merged, ABOUT)
    same = set(whole) - {"bags", "stalls", "frames"}
    assert {key: report[key] for key in same} == {key: whole[key] for key in same}
    assert [bag["name"] for bag in report["bags"]] == ["a", "b"] and report["frames"] == whole["frames"]
    assert merged.rows == parts[0].rows + parts[1].rows
    assert [part.confusion.sum() for part in parts] != [merged.confusion.sum()] * 2, "the parts stay as they are"


def test_merged_pictures_are_the_worst_of_all():
    parts = [judged(masks(seed, 3), masks(seed + 50, 3), bag=str(seed), worst=2) for seed in range(4)]
    kept = merge(parts, worst=3).worst
    mious = sorted(picture.row["miou"] for part in parts for picture in part.worst)
    assert len(kept) == 3 and kept[0].row["miou"] == mious[0]
    assert [picture.row["miou"] for picture in kept] == sorted(picture.row["miou"] for picture in kept)


def test_merging_refuses_other_classes_and_nothing():
    other = Judge(LabelMap("other", ("a",), ((0, 0, 0),))).partial("x", 0)
    with pytest.raises(ValueError, match="different label maps"):
        merge([other, judged(masks(1, 1), masks(2, 1))])
    with pytest.raises(ValueError, match="no bag"):
        merge([])
    assert failed("x", "is broken")["status"] == "failed"


def kept(scores, count, apart=1):
    """Which frames are kept, a frame every ``apart`` seconds."""
    worst = Worst(count, lambda row: row["miou"])
    for i, score in enumerate(scores):
        line = {**row(0), "stamp_ns": round(i * apart * 1e9), "index": i, "miou": score}
        worst.add(Picture(line, image(), None))
    return [picture.row["index"] for picture in worst.pictures]


def test_worst_frames_far_apart_are_simply_the_worst():
    scores = np.random.default_rng(3).permutation(40) / 40
    assert kept(scores, 6) == np.argsort(scores)[:6].tolist()
    assert kept(scores[:4], 6) == np.argsort(scores[:4]).tolist()
    assert kept(scores, 0) == []


def test_worst_frames_of_a_drive_do_not_all_show_the_same_moment():
    scores = np.full(100, 0.9)
    scores[20:40] = 0.1 + 0.01 * np.arange(20)
    scores[70:75] = 0.5
    scores[5] = 0.6
    first, second, third, last = kept(scores, 4, apart=0.1)
    assert (first, third, last) == (20, 70, 5) and 30 <= second < 40


def test_kept_pictures_are_small_and_their_own():
    big = np.zeros((600, 2 * WIDEST, 3), np.uint8)
    worst = Worst(1, lambda row: 0.0)
    worst.add(Picture(row(0), big, big[..., 0], big[..., 1]))
    (picture,) = worst.pictures
    assert picture.image.shape == (300, WIDEST, 3) and picture.prediction.shape == picture.truth.shape == (300, WIDEST)
    small = image()
    worst = Worst(1, lambda row: 0.0)
    worst.add(Picture(row(0), small, None))
    assert not np.shares_memory(worst.pictures[0].image, small)


def test_percentiles_are_values_that_occurred():
    found = percentiles([*range(1, 101), None])
    assert found == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
    assert percentiles([None]) == dict.fromkeys(("p50", "p95", "p99", "max"))


def test_stalls_are_gaps_of_a_camera_longer_than_usual():
    times = [0, 0.1, 0.2, 0.3, 1.0, 1.1, 1.2]
    rows = [{**row(0), "time_s": t} for t in times]
    rows += [{**row(0, "rear"), "time_s": t} for t in (0.0, 0.7, 1.4, 2.1)]
    rows += [{**row(0, fate="dropped"), "time_s": 0.6}]
    (stall,) = find_stalls(rows)
    assert (stall["camera"], stall["start_s"], stall["length_s"]) == ("front", 0.3, pytest.approx(0.7))
