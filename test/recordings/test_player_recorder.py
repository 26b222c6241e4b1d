"""Player and recorder as two processes over DDS: what goes in comes out, byte for byte and stamp for stamp."""

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from drive_seg.recordings.sources import COMPRESSED, IMAGE, open_source
from drive_seg.synth import SynthDrive

S = 1_000_000_000
BEGIN_NS = 1_700_000_000_000_000_000
SYNTH = "synth:seed=3,frames=5,size=64x48,fps=20"


def record_while_playing(processes, path, recorder_arguments, player_arguments):
    """Record until the player has ended; returns what both printed."""
    recorder = processes.start("recorder", *recorder_arguments, "-o", path)
    status, played = processes.run("player", *player_arguments, "--wait-timeout", 60)
    assert status == 0, played
    status, recorded = processes.interrupt(recorder)
    assert status == 0, recorded
    return played, recorded


def by_topic(path, topics=("*",)):
    """topic -> its records."""
    found = {}
    for record in open_source(path, topics):
        found.setdefault(record.topic, []).append(record)
    return found


def test_synthetic_drive_arrives_whole(processes, tmp_path):
    out = tmp_path / "out"
    played, recorded = record_while_playing(
        processes,
        out,
        ["--topics", "cam/*"],
        [SYNTH, "--camera", "cam", "--camera-info", "--wait-for", 1, "cam/label_truth=1", "cam/camera_info=1"],
    )
    assert "15 messages sent." in played
    assert "did not take everything" not in played
    assert "15 messages in" in recorded
    found = by_topic(out)
    assert {topic: len(records) for topic, records in found.items()} == {
        "/cam/image_raw": 5,
        "/cam/label_truth": 5,
        "/cam/camera_info": 5,
    }
    drive = SynthDrive(seed=3, size=(64, 48), fps=20)
    for i in range(5):
        image, label, info = (found[f"/cam/{name}"][i] for name in ("image_raw", "label_truth", "camera_info"))
        assert image.stamp_ns == label.stamp_ns == info.stamp_ns == S + i * S // 20
        assert image.frame_id == label.frame_id == info.frame_id == "cam_optical_frame"
        np.testing.assert_array_equal(image.image(), drive.frame(i).image)
        np.testing.assert_array_equal(label.label(), drive.frame(i).label)
        assert list(info.message.message().k)[0] == drive.camera.fx


def test_bag_goes_round_byte_for_byte(processes, bags, tmp_path):
    source, out = bags.write("mcap"), tmp_path / "out"
    waits = ["/front/image_raw=1", "/temperature=1", "/label_map=1"]
    record_while_playing(
        processes, out, ["--topics", "/front/image_raw", "/temperature", "/label_map", "--compress"],
        [source, "--topics", "*", "--rate", 4, "--wait-for", *waits],
    )  # fmt: skip
    before, after = by_topic(source), by_topic(out)
    assert before.keys() == after.keys()
    for topic, records in before.items():
        assert [padded(r.message.cdr) for r in after[topic]] == [padded(r.message.cdr) for r in records]
        assert after[topic][0].type == records[0].type
    # The recorder notes when a message came, not its stamp.
    times = [r.time_ns for r in after["/front/image_raw"]]
    assert times == sorted(times)
    assert times[0] > 1_750_000_000 * S
    topics = metadata(out)
    assert topics["/label_map"]["offered_qos_profiles"][0]["durability"] == "transient_local"
    assert topics["/front/image_raw"]["offered_qos_profiles"][0]["durability"] == "volatile"
    assert topics["/front/image_raw"]["offered_qos_profiles"][0]["reliability"] == "reliable"


def padded(cdr):
    """The middleware fills the last four bytes up with zeros."""
    return cdr + bytes(-len(cdr) % 4)


def metadata(bag):
    """topic name -> its metadata, as ``ros2 bag`` reads it."""
    document = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert document["version"] == 9
    assert document["storage_identifier"] == "mcap"
    assert document["relative_file_paths"] == [f"{bag.name}.mcap"]
    return {t["topic_metadata"]["name"]: t["topic_metadata"] for t in document["topics_with_message_count"]}


def test_best_effort_publisher_and_late_latched_topic_are_heard(processes, bags, tmp_path):
    source, out = bags.write("mcap"), tmp_path / "out"
    # Nobody awaits the recorder's subscription to the latched topic, sent first: it must get it all the same.
    record_while_playing(
        processes, out, ["--topics", "/front/image_raw", "/label_map"],
        [source, "--topics", "/front/image_raw", "/label_map", "--reliability", "best_effort", "--wait-for",
         "/front/image_raw=1"],
    )  # fmt: skip
    found = by_topic(out)
    assert len(found["/label_map"]) == 1
    assert [r.stamp_ns for r in found["/front/image_raw"]] == [BEGIN_NS + i * S // 10 for i in range(5)]
    assert metadata(out)["/front/image_raw"]["offered_qos_profiles"][0]["reliability"] == "best_effort"


def test_stamps_now_are_shared_by_image_and_truth(processes, tmp_path):
    out = tmp_path / "out"
    record_while_playing(
        processes, out, ["--topics", "/camera/*"],
        [SYNTH, "--stamps", "now", "--preload", "--reliability", "best_effort",
         "--wait-for", 1, "camera/label_truth=1"],
    )  # fmt: skip
    found = by_topic(out)
    images = [r.stamp_ns for r in found["/camera/image_raw"]]
    assert images == [r.stamp_ns for r in found["/camera/label_truth"]]
    assert len(set(images)) == 5
    assert images == sorted(images)
    for record in found["/camera/image_raw"]:
        assert 0 <= record.time_ns - record.stamp_ns < 60 * S


def test_loop_of_a_slice_grows_and_remap_and_clock_work(processes, bags, tmp_path):
    source, out = bags.write("sqlite3"), tmp_path / "out"
    recorder = processes.start("recorder", "--topics", "/renamed", "/clock", "--duration", 60, "-o", out)
    player = processes.start(
        "player", source, "--start", 0.105, "--duration", 0.2, "--loop", "--clock", "--rate", 2,
        "--remap", "/front/image_raw:=/renamed", "--wait-for", "/renamed=1", "--wait-timeout", 60,
    )  # fmt: skip
    processes.wait_for_output(player, "Round 4")
    status, output = processes.interrupt(player)
    assert status == 0, output
    assert "stamps go on" in output
    status, output = processes.interrupt(recorder)
    assert status == 0, output
    found = by_topic(out)
    stamps = [(r.stamp_ns - BEGIN_NS) // (S // 10) for r in found["/renamed"]]
    # Images 2 and 3 of the bag lie in the slice; then they go on at the same distance.
    assert stamps[:6] == [2, 3, 4, 5, 6, 7]
    assert stamps == list(range(2, 2 + len(stamps)))
    clocks = [r.message.message().clock for r in found["/clock"]]
    times = [c.sec * S + c.nanosec for c in clocks]
    assert times == sorted(times)
    assert BEGIN_NS + S // 10 < times[0] <= times[-1]
    assert times[-1] - times[0] >= 0.5 * S
    assert len(times) > len(stamps)


def test_jpeg_transport(processes, tmp_path):
    out = tmp_path / "out"
    record_while_playing(
        processes, out, ["--topics", "/camera/image_raw/compressed", "/camera/label_truth"],
        ["synth:seed=3,frames=2,size=320x180", "--compressed", "--reliability", "best_effort",
         "--wait-for", "/camera/image_raw/compressed=1", "camera/label_truth=1"],
    )  # fmt: skip
    found = by_topic(out)
    (record, _), (truth, _) = found["/camera/image_raw/compressed"], found["/camera/label_truth"]
    assert (record.type, truth.type) == (COMPRESSED, IMAGE)
    message = record.message.message()
    assert message.format == "bgr8; jpeg compressed bgr8"
    assert bytes(message.data[:3]) == b"\xff\xd8\xff"
    wanted = SynthDrive(seed=3, size=(320, 180)).frame(0).image
    assert cv2.PSNR(record.image(), wanted) > 28
    np.testing.assert_array_equal(truth.label(), SynthDrive(seed=3, size=(320, 180)).frame(0).label)


def test_recorder_ends_by_itself(processes, image_folder, tmp_path):
    most = processes.start("recorder", "--topics", "/camera/image_raw", "--max-messages", 2, "-o", tmp_path / "most")
    # On a busy machine images 33 ms apart may come a second apart.
    idle = processes.start("recorder", "--topics", "/camera/*", "--until-idle", 4, "-o", tmp_path / "idle")
    status, output = processes.run(
        "player", image_folder, "--fps", 30, "--reliability", "best_effort", "--wait-for", 2, "--wait-timeout", 60
    )
    assert status == 0, output
    for recorder, name, count in ((most, "most", 2), (idle, "idle", 5)):
        status, output = processes.finish(recorder)
        assert status == 0, output
        assert len(list(open_source(tmp_path / name))) == count


def test_recorder_that_hears_nothing_says_so_and_leaves_nothing(processes, tmp_path):
    status, output = processes.run("recorder", "--all-segmentation", "front", "--duration", 0.5, "-o", tmp_path / "out")
    assert status == 1
    assert "Nothing was recorded of /front/segmentation/label." in output
    assert "so there is no" in output
    assert list(tmp_path.iterdir()) == []


def test_killed_recorder_leaves_partial(processes, tmp_path):
    recorder = processes.start("recorder", "--topics", "/camera/image_raw", "-o", tmp_path / "out")
    status, output = processes.run(
        "player", SYNTH, "--topics", "*/image_raw", "--reliability", "best_effort", "--wait-for", 1
    )
    assert status == 0, output
    recorder.kill()
    processes.finish(recorder)
    assert [p.name for p in tmp_path.iterdir()] == ["out.partial"]
    status, output = processes.run("recorder", "--topics", "/camera/image_raw", "-o", tmp_path / "out")
    assert status == 1
    assert "out.partial is there" in output


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere.mp4"], 1, "nowhere.mp4 does not exist"),
        (["synth:frames=2,size=32x32", "--topics", "/other"], 1, "no topic '/other'"),
        (["synth:frames=2,size=32x32", "--wait-for", "1", "--wait-timeout", "0.3"], 1,
         "Not all subscribers came within 0.3 s: /camera/image_raw has 0 of 1"),
        (["synth:frames=2,size=32x32", "--wait-for", "/other=1"], 1, "names '/other', which is not played"),
        (["synth:frames=2,size=32x32", "--clock", "--stamps", "now"], 2, "leave one out"),
        (["synth:frames=2,size=32x32", "--rate", "0"], 2, "must be above 0"),
        (["synth:frames=2,size=32x32", "--remap", "a"], 2, "OLD:=NEW"),
        (["synth:frames=2,size=32x32", "--ros-args", "-r", "a:=1b+"], 1, "remap rule"),
    ],
)  # fmt: skip
def test_player_refuses_with_one_sentence(processes, arguments, status, message):
    got, output = processes.run("player", *arguments)
    assert got == status
    assert message in output
    assert "Traceback" not in output


def test_type_that_is_not_installed_is_left_out_with_its_name(processes, bags, tmp_path):
    source = bags.write_foreign("foreign")
    out = tmp_path / "out"
    played, _ = record_while_playing(
        processes,
        out,
        ["--topics", "/words"],
        [source, "--topics", "*", "--reliability", "best_effort", "--wait-for", "/words=1"],
    )
    assert played.count("foreign_msgs/msg/Thing is not installed") == 1
    assert [r.message.message().data for r in by_topic(out)["/words"]] == ["hello"]


def test_interrupted_player_ends_without_a_traceback(processes, tmp_path):
    player = processes.start("player", "synth:frames=1000,size=32x32", "--loop", "--wait-for", 1)
    recorder = processes.start("recorder", "--topics", "/camera/image_raw", "--max-messages", 3, "-o", tmp_path / "bag")
    status, output = processes.finish(recorder)  # three images came, so the player is playing
    assert status == 0, output
    status, output = processes.interrupt(player)
    assert status == 0, output
    assert "Traceback" not in output


def test_recorder_says_where_it_cannot_write(processes):
    recorder = processes.start("recorder", "--topics", "/camera/image_raw", "-o", "/dev/null/x")
    status, output = processes.finish(recorder)
    assert status == 1
    assert "cannot be written" in output and "Traceback" not in output


def test_topics_of_ros_1_are_played_under_valid_names_or_as_remapped(processes, layout_with, tmp_path):
    source, out = layout_with("/cam/0/image_raw", "/usb_cam-front/image_raw"), tmp_path / "out"
    played, _ = record_while_playing(
        processes, out, ["--topics", "/cam/n0/image_raw", "/front/image_raw"],
        [source, "--remap", "/usb_cam-front/image_raw:=/front/image_raw", "--wait-for", "/cam/0/image_raw=1",
         "/front/image_raw=1"],
    )  # fmt: skip
    assert {topic: len(records) for topic, records in by_topic(out).items()} == {
        "/cam/n0/image_raw": 2,
        "/front/image_raw": 2,
    }
    assert "ROS 2 does not allow the name /cam/0/image_raw: it is played as /cam/n0/image_raw (--remap" in played
    assert "usb_cam-front" not in played


@pytest.mark.parametrize(
    ("names", "remap", "complaint"),
    [
        (["/a/image"], "/a/image:=/b/0/image", "ROS 2 does not allow the name '/b/0/image': "),
        (["/a-b/image", "/a_b/image"], "", "/a-b/image and /a_b/image would all be played as /a_b/image: --remap one"),
    ],
)
def test_names_that_cannot_be_played_are_refused_in_a_sentence(processes, layout_with, names, remap, complaint):
    status, said = processes.run("player", layout_with(*names), *(["--remap", remap] if remap else []))
    assert status == 1 and complaint in said and "Traceback" not in said


@pytest.fixture
def layout_with(tmp_path):
    """Writes a bag with two images on each of these topics."""
    store = get_typestore(Stores.ROS2_JAZZY)
    t = store.types

    def write(*names):
        with Writer(tmp_path / "named", version=9, storage_plugin=StoragePlugin.MCAP) as bag:
            for name in names:
                connection = bag.add_connection(name, IMAGE, typestore=store)
                for i in range(2):
                    header = t["std_msgs/msg/Header"](t["builtin_interfaces/msg/Time"](i + 1, 0), "front")
                    message = t[IMAGE](header, 2, 2, "mono8", 0, 2, np.zeros(4, np.uint8))
                    bag.write(connection, BEGIN_NS + i, store.serialize_cdr(message, IMAGE))
        return tmp_path / "named"

    return write
