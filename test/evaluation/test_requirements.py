"""Requirements: which there are, what they are held against, and how a wrong one is refused."""

import pytest

from drive_seg.evaluation.requirements import NAMES, figure, parse, sentences
from drive_seg.labels import CITYSCAPES19, LabelMap

OF_A_CLASS = {
    **{"iou": 0.2, "precision": 0.3, "recall": 0.4, "boundary_f1": 0.1},
    **{"share": 0.05, "predicted_share": 0.06},
}
REPORT = {
    "miou": 0.65,
    "f_miou": None,
    "pixel_accuracy": 0.9,
    "boundary_f1": 0.6,
    "flicker": 0.03,
    "latency_ms": {"p50": 10.0, "p95": 20.0, "p99": 80.0, "max": 90.0},
    "input_age_ms": {"p50": None, "p95": None, "p99": None, "max": None},
    "frames": {
        **dict.fromkeys(("expired", "rejected", "failed", "withheld", "without_truth", "repeated", "backward"), 0),
        **{"in_source": 12, "received": 10, "published": 8, "dropped": 2, "scored": 5},
    },
    "stalls": [{"camera": "a", "start_s": 1.0, "length_s": 0.7}],
    "bags": [{"status": "ok"}, {"status": "failed"}],
    "cameras": ["a", "b"],
    "classes": [
        {"name": "traffic light", **OF_A_CLASS, "recall": None},
        {"name": "car", **dict.fromkeys(OF_A_CLASS)},
        {"name": "truck", **dict.fromkeys(OF_A_CLASS)},
        {"name": "car/truck", **OF_A_CLASS, "iou": 0.8},
    ],
    "reliability": {"expected_calibration_error": 0.031},
    "against": {
        "agreement": 0.97,
        "miou": 0.6,
        "own_miou": 0.65,
        "classes": [{"name": "car/truck", "agreement": 0.9, "difference": -0.1}],
    },
}

ODD_NAMES = ("a<=b", "100%", "St. Mary", "Fahrrad Weg", "Lane", "lane", "on/off", "Straße")
ODD = LabelMap("odd", ODD_NAMES, tuple((i, i, i) for i in range(len(ODD_NAMES))))


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
        ("iou. traffic  LIGHT >= 0.2", 0.2, True),
        ("predicted_share.traffic light<=10%", 0.06, True),
        ("iou.car/truck>=0.8", 0.8, True),
        ("iou.Truck/Car>=0.8", 0.8, True),
        ("iou.car/bus>=0", None, False),
        ("agreement.car/truck>=0.8", 0.9, True),
        ("iou_gain.car/truck>=0", -0.1, False),
        ("iou_gain.traffic light>=0", None, False),
        ("mIoU>=0.65", 0.65, True),
        ("cameras==2", 2, True),
        ("bags>=2", 2, True),
        ("frames.dropped<=2", 2, True),
        ("latency_ms.p99<=80", 80.0, True),
        ("against.agreement>=0.95", 0.97, True),
        ("expected_calibration_error<=5%", 0.031, True),
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
        ("iou.car/unicorn>=1", "'iou.car/unicorn' names no class of the model: road, sidewalk"),
        ("iou.>=1", "no figure is called 'iou.'; there are: .*, iou.CLASS, precision.CLASS"),
    ],
)
def test_what_is_no_requirement_is_refused(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse([text], CITYSCAPES19)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("iou.a<=b>=0.5", "iou.a<=b"),
        ("iou.100%>=50%", "iou.100%"),
        ("iou.St. Mary>=0.5", "iou.St. Mary"),
        ("iou.fahrrad_weg>=0.5", "iou.Fahrrad Weg"),
        ("iou.Lane>=0.5", "iou.Lane"),
        ("iou.lane>=0.5", "iou.lane"),
        ("iou.on/off>=0.5", "iou.on/off"),
        ("iou.lane/100%>=0.5", "iou.100%/lane"),
        ("iou.straße>=0.5", "iou.Straße"),
        ("iou.STRASSE>=0.5", "iou.Straße"),
    ],
)
def test_classes_may_have_odd_names(text, name):
    (requirement,) = parse([text], ODD)
    assert requirement.name == name and requirement.limit == 0.5


def test_a_name_that_fits_several_classes_is_refused():
    with pytest.raises(ValueError, match="'iou.LANE' may be any of the classes 'Lane', 'lane': write it exactly so"):
        parse(["iou.LANE>=1"], ODD)


def test_sentences_say_what_is_missed():
    required = parse(
        ["miou>=0.7", "miou>=0.6", "f_miou>=0.1", "iou.car>=0.1", "iou.car/bus>=0.1", "agreement.car>=0.1"],
        CITYSCAPES19,
    )
    assert sentences(required, REPORT) == [
        "miou>=0.7 is not met: it is 0.65.",
        "f_miou>=0.1 is not met: the report has no such figure.",
        "iou.car>=0.1 is not met: the truth tells it only within car/truck.",
        "iou.car/bus>=0.1 is not met: no truth holds such a group; there are: car/truck.",
        "agreement.car>=0.1 is not met: the report has no such figure.",
    ]
