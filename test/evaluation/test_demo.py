"""The demo: four processes over DDS, figures that add up, files that can be opened, failures that are told."""

import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from drive_seg.checkpoint import Contract, InputSpec, save
from drive_seg.evaluation import demo
from drive_seg.labels import CITYSCAPES19, LabelMap
from drive_seg.networks import build
from drive_seg.recordings.bag_writer import BagWriter
from drive_seg.recordings.message_types import definition
from drive_seg.recordings.sources import COMPRESSED, open_source
from drive_seg.synth import SynthDrive

pytestmark = pytest.mark.usefixtures("ros_domain_id")


@pytest.fixture
def model(tmp_path):
    """An untrained DSNet for 19 classes."""
    path = tmp_path / "untrained.safetensors"
    contract = Contract(network="dsnet", options={}, label_map=CITYSCAPES19, input=InputSpec(size=(96, 160)))
    save(path, build("dsnet", 19), contract)
    return path


@pytest.fixture
def jpeg_bag(tmp_path):
    """A bag with one (empty) CompressedImage; enough for planning."""
    bag = BagWriter(tmp_path / "jpeg")
    connection = bag.add("/front/image_raw/compressed", COMPRESSED, *definition(COMPRESSED))
    bag.write(connection, 1, b"\x00\x01\x00\x00" + bytes(24))
    bag.close()
    return tmp_path / "jpeg"


def run_demo(*arguments, seconds=240):
    command = [sys.executable, "-m", "drive_seg.evaluation.demo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds)


def test_demo_of_a_synthetic_drive(model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "contact_sheet.png").write_bytes(b"of an earlier run")
    done = run_demo("--input", "synth:seed=3,frames=8,size=160x96,fps=10", "--model", model, "--output", out)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "summary.json").read_text())
    node = summary["node"]
    assert summary["images_recorded"] == 8
    assert 1 <= node["received"] <= 8
    ends = ("published", "dropped", "expired", "rejected", "failed", "withheld")
    assert node["received"] == sum(node[end] for end in ends)
    assert node["in_flight"] == 0
    assert summary["masks_recorded"] == node["published"] == summary["score"]["frames"] >= 1
    assert 0 <= summary["score"]["miou"] < 0.5
    for figures in summary["latency_ms"].values():
        assert 0 < figures["p50"] <= figures["p99"]
    assert "mIoU" in done.stdout
    check_bag(out / "masks.mcap", node["published"])
    assert cv2.VideoCapture(str(out / "overlay.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 8
    assert cv2.imread(str(out / "contact_sheet.png")).shape[1] > 320
    assert sorted(p.name for p in out.iterdir()) == [
        "contact_sheet.png", "frames.csv", "logs", "masks.mcap", "overlay.mp4", "report.html", "report.json",
        "summary.json",
    ]  # fmt: skip


def check_bag(path, published):
    found = {}
    for record in open_source(path, ["*"]):
        found.setdefault(record.topic, []).append(record)
    drive = SynthDrive(seed=3, size=(160, 96), fps=10)
    images, truths = found["/camera/image_raw"], found["/camera/label_truth"]
    for i in range(8):
        np.testing.assert_array_equal(images[i].image(), drive.frame(i).image)
        np.testing.assert_array_equal(truths[i].label(), drive.frame(i).label)
        assert images[i].stamp_ns == truths[i].stamp_ns
    labels, colors = found["/camera/segmentation/label"], found["/camera/segmentation/color"]
    assert len(labels) == len(colors) == published
    assert {r.stamp_ns for r in labels} <= {r.stamp_ns for r in images}
    for label, color in zip(labels, colors, strict=True):
        assert label.frame_id == color.frame_id == "camera_optical_frame"
        np.testing.assert_array_equal(CITYSCAPES19.colorize(label.label()), color.image())
    (label_map,) = found["/camera/segmentation/label_map"]
    assert json.loads(label_map.message.message().data)["name"] == "cityscapes19"


def test_node_that_dies_fails_the_demo_with_its_words(tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a checkpoint")
    done = run_demo("--input", "synth:frames=3,size=64x48", "--model", broken, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "The node ended by itself with exit status 1." in done.stderr
    assert "cannot configure" in done.stderr
    assert not (tmp_path / "out" / "masks.mcap").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "nowhere.mp4", "--model", "{model}"], "nowhere.mp4 does not exist"),
        (["--model", "nothing.safetensors"], "nothing.safetensors"),
        (["--model", "{model}", "--frames", "0"], "must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(model, arguments, message):
    given = [str(model) if argument == "{model}" else argument for argument in arguments]
    with pytest.raises(ValueError, match=re.escape(message)):
        demo.make_plan(demo.arguments().parse_args(given))


def test_bag_with_compressed_images_sets_the_nodes_transport(model, jpeg_bag):
    plan = demo.make_plan(demo.arguments().parse_args(["--input", str(jpeg_bag), "--model", str(model)]))
    assert (plan.image.name, plan.image.type, plan.has_truth) == ("/front/image_raw/compressed", COMPRESSED, False)
    arguments = plan.run().node_arguments()
    assert 'camera.image_topic:="/front/image_raw"' in arguments
    assert 'camera.transport:="compressed"' in arguments
    assert "/front/image_raw/compressed=3" in plan.run().player_arguments(), "node, recorder, and who gives the start"
    assert plan.topics.image == "/front/image_raw/compressed"


def test_warnings_of_the_player_are_shown(tmp_path):
    warning = "5 messages sent, 4 images with the stamp of an earlier one."
    log = tmp_path / "player.log"
    log.write_text(f"[INFO] [1.5] [player]: Round 2.\n[WARN] [1.6] [player]: {warning}\n")
    assert demo.warnings_of(log) == [warning]


def test_a_model_of_other_classes_gets_no_score(tmp_path):
    path = tmp_path / "two.safetensors"
    contract = Contract("dsnet", {}, LabelMap("two", ("a", "b"), ((1, 1, 1), (2, 2, 2))), InputSpec(size=(96, 160)))
    save(path, build("dsnet", 2), contract)
    plan = demo.make_plan(demo.arguments().parse_args(["--model", str(path)]))
    assert not plan.has_truth and plan.problem.startswith("No score: the truth has the classes of 'cityscapes19'")
    assert plan.topics.truth is None and plan.run().beside == []
