"""Requirements: which there are, what they are held against, and how a wrong one is refused."""

import pytest

from drive_seg.labels import CITYSCAPES19
from drive_seg.replay.evaluation.requirements import NAMES, figure, parse, sentences

REPORT = {
    "miou": 0.65,
    "f_miou": None,
    "pixel_accuracy": 0.9,
    "boundary_f1": 0.6,
    "flicker": 0.03,
    "latency_ms": {"p50": 10.0, "p95": 20.0, "p99": 80.0, "max": 90.0},
    "input_age_ms": {"p50": None, "p95": None, "p99": None, "max": None},
    "frames": {
        **dict.fromkeys(("expired", "rejected", "failed", "withheld", "without_truth"), 0),
        **{"in_source": 12, "received": 10, "published": 8, "dropped": 2, "scored": 5},
    },
    "stalls": [{"camera": "a", "start_s": 1.0, "length_s": 0.7}],
    "bags": [{"status": "ok"}, {"status": "failed"}],
    "classes": [{"name": "traffic light", "iou": 0.2, "precision": 0.3, "recall": None, "boundary_f1": 0.1}],
    "against": {"agreement": 0.97, "miou": 0.6, "own_miou": 0.65},
}


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        ("miou>=0.65", 0.65, True),
        (" miou > 0.65 ", 0.65, False),
        ("miou>=65%", 0.65, True),
        ("flicker<=3e-2", 0.03, True),
        ("f_miou>=0", None, False),
        ("latency_p99_ms<=80", 80.0, True),
        ("latency_max_ms<90", 90.0, False),
        ("input_age_p50_ms<=50", None, False),
        ("dropped==0", 2, False),
        ("published_share>=80%", 0.8, True),
        ("scored_share>=0.6", 0.5, False),
        ("stalls<=1", 1, True),
        ("longest_stall_s<0.5", 0.7, False),
        ("failed_bags==0", 1, False),
        ("agreement>=0.95", 0.97, True),
        ("miou_gain>=0", 0.05, True),
        ("iou.Traffic_Light>=0.2", 0.2, True),
        ("recall.traffic light>=0.2", None, False),
    ],
)
def test_requirement(text, value, met):
    (requirement,) = parse([text], CITYSCAPES19)
    judged = requirement.judge(REPORT)
    assert judged["text"] == text and judged["met"] is met
    assert judged["value"] == (None if value is None else pytest.approx(value))


def test_every_name_can_be_looked_up():
    assert all(figure(REPORT, name) is not None for name in NAMES if "input_age" not in name and name != "f_miou")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("miou", "'miou' is not of the form NAME>=NUMBER"),
        ("miou>=much", "is not of the form"),
        ("miou>=1.2.3", "is not of the form"),
        ("mIoU=>0.5", "is not of the form"),
        ("speed>=1", "no figure is called 'speed'; there are: miou, f_miou"),
        ("iou.unicorn>=1", "'iou.unicorn' names no class of the model: road, sidewalk"),
    ],
)
def test_what_is_no_requirement_is_refused(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse([text], CITYSCAPES19)


def test_sentences_say_what_is_missed():
    judged = [each.judge(REPORT) for each in parse(["miou>=0.7", "miou>=0.6", "f_miou>=0.1"], CITYSCAPES19)]
    assert sentences(judged) == [
        "miou>=0.7 is not met: it is 0.65.",
        "f_miou>=0.1 is not met: the report has no such figure.",
    ]
