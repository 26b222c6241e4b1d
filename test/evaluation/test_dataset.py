"""An evaluation from images to figures and page, with a network that reads its answer off the pixels' colours."""

import base64
import dataclasses
import json
import re

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.confidence import Confidence
from drive_seg.evaluation.dataset import as_report, as_tables, evaluate
from drive_seg.evaluation.dataset_page import write_page
from drive_seg.labels import CAMVID11, CITYSCAPES19, LabelMap
from drive_seg.metrics import ConfusionMatrix
from drive_seg.segmenter import Segmenter
from drive_seg.training.inference import Inference

SIZE = (16, 24)


class ByColor(nn.Module):
    """The class whose colour is nearest."""

    def __init__(self, label_map):
        super().__init__()
        self.colors = torch.tensor(label_map.colors, dtype=torch.float32)

    def forward(self, x):
        scores = torch.einsum("bchw,kc->bkhw", x, self.colors)
        return scores - (self.colors**2).sum(1).view(1, -1, 1, 1) / 2


class InMemory:
    """Pictures painted with what the network shall answer, and true labels."""

    cache_folder, problems = None, ()

    def __init__(self, label_map, answers, answered_in=None, names=None):
        self.label_map, self._answers = label_map, answers
        self._painter, self._names = answered_in or label_map, names or [f"frame {i}" for i in range(len(answers))]

    def __len__(self):
        return len(self._answers)

    def read(self, i):
        prediction, label = self._answers[i]
        return self._painter.colorize(prediction), label

    def name_of(self, i):
        return self._names[i]

    def fingerprint(self):
        return ""


def segmenter(label_map):
    spec = InputSpec(SIZE, mean=(0, 0, 0), std=(1, 1, 1), scale=1.0)
    return Segmenter(ByColor(label_map), Contract("", {}, label_map, spec), device="cpu")


def plane(*ids):
    """Vertical bars of equal width."""
    return np.repeat(np.array(ids, np.uint8), SIZE[1] // len(ids))[None].repeat(SIZE[0], 0)


def random_answers(seed, classes=11, count=3):
    rng = np.random.default_rng(seed)
    answers = []
    for _ in range(count):
        label = rng.integers(0, classes, SIZE).astype(np.uint8)
        prediction = np.where(rng.random(SIZE) < 0.7, label, rng.integers(0, classes, SIZE)).astype(np.uint8)
        label[:2] = 255
        answers.append((prediction, label))
    return answers


def test_figures_of_a_set():
    answers = random_answers(0)
    scores = evaluate(segmenter(CAMVID11), InMemory(CAMVID11, answers), progress=False)
    matrix = ConfusionMatrix(11)
    for prediction, label in answers:
        matrix.update(prediction, label)
    assert (scores.matrix.counts == matrix.counts).all()
    report = json.loads(json.dumps(as_report(scores), allow_nan=False))
    assert report["confusion_matrix"] == matrix.counts.tolist() and report["images"] == 3
    assert report["miou"] == matrix.miou() and report["pixel_accuracy"] == matrix.pixel_accuracy()
    assert report["iou"] == dict(zip(CAMVID11.names, matrix.iou().tolist(), strict=True))
    small = ["Pole", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"]
    assert report["foreground"] == small
    assert report["f_miou"] == pytest.approx(np.mean([report["iou"][name] for name in small]))
    assert report["boundary_f1"] == pytest.approx(np.mean(list(report["boundary"]["f1"].values())))
    assert report["mean_class_accuracy"] == pytest.approx(np.mean(list(report["class_accuracy"].values())))
    assert report["remark"] == "" and report["inference"] == {"scales": [1.0], "flip": False}


def test_frequency_groups_come_from_the_sets_own_shares():
    label, prediction = np.full(SIZE, 3, np.uint8), np.full(SIZE, 3, np.uint8)  # road
    label[0, :3], label[1, :20], label[1, 20:] = 2, 1, 8
    label[2:4] = 8  # 3 of pole, 20 of building, 52 of car, 309 of road
    prediction[0, :3], prediction[1, :10] = 2, 5  # trees that are not there
    scores = evaluate(segmenter(CAMVID11), InMemory(CAMVID11, [(prediction, label)]), progress=False)
    groups = as_report(scores)["frequency_groups"]
    assert {gamma: group["classes"] for gamma, group in groups.items()} == {
        "0": ["Building", "Pole"],
        "1": ["Car"],
        "2": ["Road"],
    }
    iou = dict(zip(scores.names, scores.iou(), strict=True))
    assert groups["0"]["miou"] == pytest.approx((iou["Building"] + iou["Pole"]) / 2)
    assert iou["Tree"] == 0 and scores.miou() == pytest.approx((iou["Building"] + 1 + iou["Car"] + iou["Road"]) / 5)


def test_a_finer_network_is_scored_by_the_labels_groups():
    car, road, fence = (CAMVID11.names.index(name) for name in ("Car", "Road", "Fence"))
    truck, bus, way, wall = (CITYSCAPES19.names.index(name) for name in ("truck", "bus", "road", "wall"))
    label, prediction = plane(car, car, road, fence), plane(truck, bus, truck, wall)
    data = InMemory(CAMVID11, [(prediction, label)], answered_in=CITYSCAPES19)
    scores = evaluate(segmenter(CITYSCAPES19), data, progress=False)
    report = as_report(scores)
    assert len(report["iou"]) == 11 and "wall" not in report["iou"]
    # trucks and buses are right for Car; the truck on the road is wrong for it
    assert report["iou"]["car/truck/bus/train"] == pytest.approx(2 / 3)
    assert report["iou"]["road"] == 0 and report["iou"]["fence"] == 0
    assert report["iou"]["building/wall"] == 0  # a wall where the label says fence
    assert report["pixel_accuracy"] == pytest.approx(1 / 2) and report["miou"] == pytest.approx(2 / 3 / 4)
    assert "car/truck/bus/train" in report["foreground"] and "building/wall" not in report["foreground"]
    assert "the classes of camvid11" in report["remark"]
    assert report["confusion_rows"] == list(report["iou"]) and report["confusion_columns"][way] == "road"
    assert np.array(report["confusion_matrix"]).shape == (11, 20)


def test_a_coarser_network_is_scored_by_its_own_classes():
    names = CITYSCAPES19.names
    label = plane(names.index("truck"), names.index("rider"), names.index("wall"))
    prediction = plane(*(CAMVID11.names.index(name) for name in ("Car", "Bicyclist", "Road")))
    data = InMemory(CITYSCAPES19, [(prediction, label)], answered_in=CAMVID11)
    report = as_report(evaluate(segmenter(CAMVID11), data, progress=False))
    assert {name: iou for name, iou in report["iou"].items() if iou is not None} == {
        "Car": 1,
        "Bicyclist": 1,
        "Building": 0,
        "Road": 0,
    }


def test_unknown_classes_are_refused():
    other = LabelMap("zoo", ("lion", "tiger"), ((1, 2, 3), (4, 5, 6)))
    with pytest.raises(ValueError, match="knows the classes of 'camvid11', the dataset those of 'zoo'.*'lion'"):
        evaluate(segmenter(CAMVID11), InMemory(other, [(plane(0), plane(0))]), progress=False)


def test_the_worst_images_come_first_and_void_ones_not_at_all():
    truth = plane(3, 8)
    answers = [(plane(3, 3), truth), (truth, truth), (plane(8, 3), truth), (truth, plane(255))]
    scores = evaluate(segmenter(CAMVID11), InMemory(CAMVID11, answers), progress=False)
    assert scores.worst(9) == [2, 0, 1] and scores.worst(2) == [2, 0]
    assert scores.image_miou[:3] == [pytest.approx(1 / 4), 1, 0] and np.isnan(scores.image_miou[3])
    assert [row["image"] for row in as_report(scores)["worst_images"]] == ["frame 2", "frame 0", "frame 1"]


def test_a_set_of_void_has_no_figures():
    scores = evaluate(segmenter(CAMVID11), InMemory(CAMVID11, [(plane(1), plane(255))]), progress=False)
    report = json.loads(json.dumps(as_report(scores), allow_nan=False))
    assert report["miou"] is None and report["boundary_f1"] is None and report["frequency_groups"] == {}
    assert as_tables(scores)


def test_a_broken_sample_ends_it_with_its_own_words():
    class Broken(InMemory):
        def read(self, i):
            if i == 1:
                raise ValueError("b.png cannot be read")
            return super().read(i)

    with pytest.raises(ValueError, match=r"^b.png cannot be read$"):
        evaluate(segmenter(CAMVID11), Broken(CAMVID11, random_answers(1)), progress=False)


def test_the_page_is_whole_in_itself(tmp_path):
    names = ["<b>one</b>", "two & three", "four"]
    answers = random_answers(6)
    answers[1] = (plane(8), plane(3))  # the worst
    data, own = InMemory(CAMVID11, answers, names=names), segmenter(CAMVID11)
    scores = evaluate(own, data, progress=False, inference=Inference(flip=True))
    path = write_page(tmp_path / "new" / "page", 'a "title" <&>', scores, own, data, worst=2)
    assert path == tmp_path / "new" / "page" / "index.html"
    page = path.read_text()
    assert "two &amp; three" in page and "<b>one" not in page and "<h1>a &#34;title&#34; &lt;&amp;&gt;</h1>" in page
    assert "<link" not in page and "<script" not in page
    assert "Timeline" not in page and "received" not in page, "what only a recording has"
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 8 and all(source.startswith("data:image/") for source in sources)
    _, truth, prediction, errors = (
        cv2.imdecode(np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
        for source in sources[:4]
    )
    np.testing.assert_array_equal(truth, CAMVID11.colorize(plane(3)))
    np.testing.assert_array_equal(prediction, CAMVID11.colorize(plane(8)))
    assert np.abs(errors.astype(int) - (0, 196, 255)).max() < 12
    assert f"{100 * scores.miou():.1f}" in page and "mirrored too" in page and "mean class accuracy" in page
    assert f"<td>{scores.orders()[0]}</td></tr>" in page


def test_confidence_beside_accuracy_is_reported(tmp_path):
    answers = random_answers(2)
    data, own = InMemory(CAMVID11, answers), segmenter(CAMVID11)
    scores = evaluate(own, data, progress=False)
    report = as_report(scores)["reliability"]
    assert sum(row["pixels"] for row in report["bins"]) == scores.matrix.counts.sum()
    assert report["temperature"] == 1 and report["before"] is None
    # the network is all but certain of every pixel, and right at some 70 % of them
    assert report["expected_calibration_error"] == pytest.approx(1 - scores.pixel_accuracy(), abs=0.01)
    page = write_page(tmp_path, "page", scores, own, data, worst=0).read_text()
    assert "the model has no temperature: drive-seg calibrate fits one" in page and "reliability diagram" in page

    warm = Segmenter(own._network, dataclasses.replace(own.contract, confidence=Confidence(20.0)))
    before = evaluate(warm, data, progress=False)
    assert as_report(before)["reliability"]["before"]["expected_calibration_error"] == pytest.approx(
        report["expected_calibration_error"]
    )
    averaged = evaluate(own, data, progress=False, inference=Inference(flip=True))
    assert as_report(averaged)["reliability"] is None, "not the confidence of the vehicle"
