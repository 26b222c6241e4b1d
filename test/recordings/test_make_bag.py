"""A labelled dataset becomes a bag that reads back to the same pixels, stamps and meanings, or none at all."""

import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability
from typer.testing import CliRunner

from drive_seg.cli import app
from drive_seg.datasets import open_dataset
from drive_seg.labels import CAMVID11, LabelMap
from drive_seg.recordings.bag_writer import BagError
from drive_seg.recordings.make_bag import LabelledFrame, make_bag
from drive_seg.recordings.sources import open_source
from drive_seg.synth import SynthDrive

S = 1_000_000_000
TOPICS = ["/cam/image_raw", "/cam/label_map", "/cam/label_truth"]


def frame(i, size=(36, 48)):
    rng = np.random.default_rng(i)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    label = rng.choice(np.array([*range(11), 255], np.uint8), size)
    return LabelledFrame(S + i * S // 15, image, label)


def camvid(root, numbers, broken=None):
    """CamVid's layout with frames of one shot."""
    for kind in ("images", "labels"):
        (root / "val" / kind).mkdir(parents=True)
    for number in numbers:
        made = frame(number)
        name = f"0016E5_{number:05d}.png"
        cv2.imwrite(str(root / "val" / "images" / name), made.image)
        cv2.imwrite(str(root / "val" / "labels" / name), made.label)
        if number == broken:
            (root / "val" / "labels" / name).write_bytes(b"no label")
    return root


def run(*arguments):
    """The command in this process."""
    return CliRunner().invoke(app, ["make-bag", *map(str, arguments)])


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bag_gives_the_same_pixels_stamps_and_meanings(tmp_path, storage):
    frames = [frame(i) for i in range(5)]
    frames[3] = LabelledFrame(frames[3].stamp_ns, frames[3].image[::-1], frames[3].label[:, ::-1])  # strided views
    counts = make_bag(tmp_path / "out", frames, CAMVID11, camera="cam", storage=storage)
    assert counts == {"/cam/label_map": 1, "/cam/image_raw": 5, "/cam/label_truth": 5}
    source = open_source(tmp_path / "out", ["*"])
    assert [(t.name, t.latched, t.encoding) for t in source.topics] == [
        ("/cam/image_raw", False, "bgr8"),
        ("/cam/label_map", True, ""),
        ("/cam/label_truth", False, "mono8"),
    ]
    records = list(source)
    assert LabelMap.from_dict(json.loads(records[0].message.message().data)) == CAMVID11
    assert records[0].topic == "/cam/label_map"
    for i, made in enumerate(frames):
        image, label = records[1 + 2 * i : 3 + 2 * i]
        assert image.stamp_ns == image.time_ns == label.stamp_ns == label.time_ns == made.stamp_ns
        assert image.frame_id == label.frame_id == "cam_optical_frame"
        np.testing.assert_array_equal(image.image(), made.image)
        np.testing.assert_array_equal(label.label(), made.label)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_compressed_images_beside_lossless_labels(tmp_path, kind):
    made = LabelledFrame(S, cv2.GaussianBlur(frame(0).image, (9, 9), 4), frame(0).label)
    make_bag(tmp_path / "out", [made], CAMVID11, compressed=kind)
    (image,) = open_source(tmp_path / "out", ["camera/image_raw/compressed"])
    (label,) = open_source(tmp_path / "out", ["camera/label_truth"])
    assert image.message.message().format == f"bgr8; {kind} compressed bgr8"
    difference = np.abs(image.image().astype(int) - made.image)
    assert difference.max() == 0 if kind == "png" else 0 < difference.mean() < 4
    np.testing.assert_array_equal(label.label(), made.label)


def test_metadata_says_what_rosbag2_needs(tmp_path):
    make_bag(tmp_path / "out", [frame(i) for i in range(4)], CAMVID11, camera="cam")
    about = yaml.safe_load((tmp_path / "out" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert (about["version"], about["storage_identifier"]) == (9, "mcap")
    assert about["relative_file_paths"] == ["out.mcap"]
    assert [f["path"] for f in about["files"]] == ["out.mcap"]
    assert (about["compression_format"], about["compression_mode"]) == ("", "")  # chunks are the file's own affair
    assert about["message_count"] == 9
    assert about["starting_time"]["nanoseconds_since_epoch"] == S
    assert about["duration"]["nanoseconds"] == 3 * S // 15
    topics = {t["topic_metadata"]["name"]: t["topic_metadata"] for t in about["topics_with_message_count"]}
    assert sorted(topics) == TOPICS
    (qos,) = topics["/cam/label_map"]["offered_qos_profiles"]
    assert (qos["durability"], qos["reliability"], qos["history"], qos["depth"]) == (
        "transient_local",
        "reliable",
        "keep_last",
        1,
    )
    assert topics["/cam/image_raw"]["offered_qos_profiles"][0]["durability"] == "volatile"
    with AnyReader([tmp_path / "out"]) as reader:
        offered = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
        assert offered["/cam/label_map"].durability == QosDurability.TRANSIENT_LOCAL
        assert offered["/cam/image_raw"].reliability == QosReliability.RELIABLE
        for connection in reader.connections:
            assert topics[connection.topic]["type_description_hash"] == reader.typestore.hash_rihs01(connection.msgtype)


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ([], {}, "there is no frame to write"),
        ([frame(0)], {"compressed": "webp"}, "compressed as jpeg or png, not as 'webp'"),
        ([frame(0)], {"storage": "rosbag1"}, "storage of a bag is mcap or sqlite3, not 'rosbag1'"),
        ([frame(0)], {"camera": "/"}, "camera's name must not be empty"),
        ([frame(0), LabelledFrame(S, frame(1).image, frame(1).label[:5])], {}, "not uint8 .* of one size"),
        ([LabelledFrame(S, frame(1).image, np.full((36, 48), 11, np.uint8))], {}, "holds 11, which is no class"),
    ],
)
def test_what_cannot_be_a_bag_leaves_nothing(tmp_path, frames, options, message):
    with pytest.raises((ValueError, BagError), match=message):
        make_bag(tmp_path / "out", frames, CAMVID11, **options)
    assert list(tmp_path.iterdir()) == []


def test_command_turns_camvid_into_a_bag_at_its_rate(tmp_path):
    root = camvid(tmp_path / "data", [7959, 7961, 7963, 8023])
    arguments = [sys.executable, "-m", "drive_seg.cli", "make-bag", "--dataset", "camvid", "--root", root]
    arguments += ["--split", "val", "--camera", "cam", "--json", "-", tmp_path / "b"]
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["frames"], figures["shots"], figures["label_map"]) == (4, 1, "camvid11")
    assert figures["times_from"] == "the frame numbers of CamVid at 30 Hz"
    assert figures["bytes"] == sum(file.stat().st_size for file in (tmp_path / "b").iterdir())
    data = open_dataset("camvid", root=root, split="val")
    again = open_dataset("bag", root=tmp_path / "b", classes="camvid11", image="cam/image_raw", label="cam/label_truth")
    assert [again.name_of(i) for i in range(4)] == [
        f"b at {s} s" for s in ("1.000000000", "1.066666667", "1.133333333", "3.133333333")
    ]
    for i in range(4):
        np.testing.assert_array_equal(again.read(i)[0], data.read(i)[0])
        np.testing.assert_array_equal(again.read(i)[1], data.read(i)[1])
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 1
    assert "exists already; choose another name or remove it" in done.stderr


def test_command_with_a_synthetic_drive_has_its_exact_camera(tmp_path):
    done = run(
        *("--dataset", "synth", "--option", "seeds=[3,5]", "--option", "frames=2", "--option", "step=1"),
        *("--option", "size=[64,48]", "--storage", "sqlite3", "--frames", "3", tmp_path / "b"),
    )
    assert done.exit_code == 0, done.output
    assert "3 frames of 5.100 s in 2 shots" in done.stdout
    records = list(open_source(tmp_path / "b", ["*camera_info", "*image_raw"]))
    assert [r.topic for r in records] == ["/camera/camera_info", "/camera/image_raw"] * 3
    for (seed, number), info, image in zip([(3, 0), (3, 1), (4, 0)], records[::2], records[1::2], strict=True):
        drive = SynthDrive(seed=seed, size=(64, 48))
        np.testing.assert_array_equal(image.image(), drive.frame(number).image)
        message, camera = info.message.message(), drive.camera
        assert list(message.k) == [camera.fx, 0, camera.cx, 0, camera.fy, camera.cy, 0, 0, 1]
        assert (message.width, message.height, message.distortion_model) == (64, 48, "plumb_bob")
        assert (info.stamp_ns, info.frame_id) == (image.stamp_ns, image.frame_id)


CALIBRATION = """
image_width: 48
image_height: 36
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [30.5, 0, 15.5, 0, 31.5, 11.5, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.1, 0.02, 0, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [30.5, 0, 15.5, 0, 0, 31.5, 11.5, 0, 0, 0, 1, 0]}
"""


def test_command_takes_a_calibration_that_fits(tmp_path):
    root = camvid(tmp_path / "data", [7959, 7961])
    (tmp_path / "front.yaml").write_text(CALIBRATION)
    arguments = ["--dataset", "camvid", "--root", root, "--split", "val", "--camera-info", tmp_path / "front.yaml"]
    assert run(*arguments, "--rate", "5", tmp_path / "b").exit_code == 0
    infos = list(open_source(tmp_path / "b", ["*camera_info"]))
    assert [r.stamp_ns for r in infos] == [S, S + S // 5]
    assert list(infos[1].message.message().d) == [-0.1, 0.02, 0, 0, 0]
    assert infos[1].message.message().k[4] == 31.5
    (tmp_path / "front.yaml").write_text(CALIBRATION.replace("48", "96"))
    refused = run(*arguments, tmp_path / "c")
    assert refused.exit_code == 1
    assert str(refused.exception) == ("the calibration is for 96x36 pixels, but the image at 1000000000 ns has 48x36")
    assert not (tmp_path / "c").exists()


def test_broken_label_leaves_no_bag(tmp_path):
    root = camvid(tmp_path / "data", [7959, 7961, 7963], broken=7963)
    done = run("--dataset", "camvid", "--root", root, "--split", "val", tmp_path / "b")
    assert done.exit_code == 1
    assert "0016E5_07963.png cannot be read" in str(done.exception)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_killed_command_leaves_no_bag_under_the_final_name(tmp_path):
    code = (
        "import os, signal, sys\n"
        "import numpy as np\n"
        "from drive_seg.labels import CAMVID11\n"
        "from drive_seg.recordings.make_bag import LabelledFrame, make_bag\n"
        "def frames():\n"
        "    for i in range(9):\n"
        "        yield LabelledFrame(i + 1, np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "make_bag(sys.argv[1], frames(), CAMVID11)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")])
    assert done.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["out.partial"]


def test_making_a_bag_needs_neither_rclpy_nor_training():
    code = (
        "import sys, drive_seg.recordings.make_bag, drive_seg.recordings.frame_times\n"
        "print([m for m in ('rclpy', 'torch', 'typer', 'lightning', 'drive_seg.training') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
