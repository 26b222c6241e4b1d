"""Sources: every kind of recording gives its frames in time order, with the stamps it was recorded with."""

import struct
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

from drive_seg.recordings.bag_writer import BagWriter
from drive_seg.recordings.message_types import definition
from drive_seg.recordings.sources import COMPRESSED, IMAGE, SourceError, open_source, video_colors
from drive_seg.synth import SynthDrive

BEGIN_NS = 1_700_000_000_000_000_000
S = 1_000_000_000
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def expected_picture(index: int) -> np.ndarray:
    image = np.zeros((24, 32, 3), np.uint8)
    image[..., 0] = 10 * index
    image[..., 1] = np.arange(32)
    image[..., 2] = np.arange(24)[:, None]
    return image


# Bags


@pytest.mark.parametrize("kind", ["mcap", "sqlite3", "ros1"])
def test_bag_gives_pictures_with_their_stamps_in_order(bags, kind):
    source = open_source(bags.write(kind))
    records = list(source)
    assert [(t.name, t.type, t.encoding) for t in source.topics] == [("/front/image_raw", IMAGE, "bgr8")]
    assert source.expected == len(records) == 5
    assert [r.stamp_ns for r in records] == [BEGIN_NS + i * S // 10 for i in range(5)]
    assert [r.time_ns for r in records] == [BEGIN_NS + i * S // 10 + 3_000_000 for i in range(5)]
    assert {r.frame_id for r in records} == {"front_optical_frame"}
    for i, record in enumerate(records):
        np.testing.assert_array_equal(record.image(), expected_picture(i))


def test_ros1_message_becomes_exactly_the_ros2_bytes(bags):
    ros2 = [r.message.cdr for r in open_source(bags.write("mcap", name="two"), ["*image_raw", "/temperature"])]
    ros1 = [r.message.cdr for r in open_source(bags.write("ros1", name="one"), ["*image_raw", "/temperature"])]
    assert len(ros1) == 10
    assert ros1 == ros2


@pytest.mark.parametrize(("kind", "suffix"), [("mcap", "mcap"), ("sqlite3", "db3")])
def test_single_storage_file_is_a_bag_too(bags, kind, suffix):
    (file,) = bags.write(kind).glob(f"*.{suffix}")
    assert [r.stamp_ns for r in open_source(file)] == [BEGIN_NS + i * S // 10 for i in range(5)]


def test_topics_are_chosen_by_pattern_and_latched_ones_are_known(bags):
    path = bags.write("mcap")
    source = open_source(path, ["temp*", "/label_map"])
    assert [(t.name, t.latched) for t in source.topics] == [("/label_map", True), ("/temperature", False)]
    records = list(source)
    assert [r.topic for r in records] == ["/label_map"] + ["/temperature"] * 5
    assert [r.message.message().temperature for r in records[1:]] == [20.0, 21.0, 22.0, 23.0, 24.0]
    assert records[0].stamp_ns == records[0].time_ns == BEGIN_NS
    assert records[1].stamp_ns == BEGIN_NS


def test_bag_slice_counts_from_its_first_message(bags):
    path = bags.write("sqlite3", count=8)
    source = open_source(path, start=0.25, duration=0.3)
    assert [(r.stamp_ns - BEGIN_NS) * 10 // S for r in source] == [3, 4, 5]
    assert source.seconds == pytest.approx(0.3)
    with pytest.raises(SourceError, match=r"is over after 0\.7.* nothing at 9 s"):
        open_source(path, start=9)


def test_iterating_again_starts_again(bags):
    source = open_source(bags.write("mcap"), frames=3)
    assert [r.stamp_ns for r in source] == [r.stamp_ns for r in source]
    assert len(list(source)) == 3


def test_another_stamp_changes_nothing_else(bags):
    record = next(iter(open_source(bags.write("mcap"))))
    changed = type(record.message)(
        record.message.with_stamp(5 * S + 7), IMAGE, record.message.has_header, record.message.typestore
    )
    assert (changed.stamp_ns, changed.frame_id) == (5 * S + 7, "front_optical_frame")
    before, after = record.message.message(), changed.message()
    assert (after.header.stamp.sec, after.header.stamp.nanosec) == (5, 7)
    after.header.stamp = before.header.stamp
    np.testing.assert_array_equal(after.data, before.data)
    assert (after.height, after.width, after.step, after.encoding) == (24, 32, 96, "bgr8")


def test_big_endian_cdr_is_understood(bags):
    record = next(iter(open_source(bags.write("mcap"))))
    message, store = record.message.message(), record.message.typestore
    cdr = bytes(store.serialize_cdr(message, IMAGE, little_endian=False))
    big = type(record.message)(cdr, IMAGE, True, store)
    assert (big.stamp_ns, big.frame_id) == (BEGIN_NS, "front_optical_frame")
    assert type(record.message)(big.with_stamp(9 * S + 1), IMAGE, True, store).stamp_ns == 9 * S + 1


def test_unknown_topic_and_bag_without_images_list_what_there_is(bags):
    path = bags.write("mcap")
    with pytest.raises(SourceError, match=r"no topic '/rear/\*'; it has /front/image_raw \(sensor_msgs/msg/Image\)"):
        open_source(path, ["/rear/*"])
    with pytest.raises(SourceError, match=r"no image topic; it has /label_map \(std_msgs/msg/String\), /temp"):
        open_source(bags.write("mcap", images=False, name="blind"))


@pytest.mark.parametrize("kind", ["mcap", "ros1"])
def test_cut_bag_is_refused_with_the_reason(bags, kind):
    path = bags.write(kind)
    file = path if path.is_file() else next(path.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(SourceError, match="cannot be read as a rosbag: "):
        open_source(file)


@pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a.bag"])
@pytest.mark.parametrize("content", [b"", b"This is a letter, not a recording.\n" * 50])
def test_file_that_only_claims_to_be_a_bag_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=f"{name} cannot be read as a rosbag: .+"):
        open_source(tmp_path / name)


def test_damage_within_a_bag_ends_it_with_a_reason(tmp_path):
    store = get_typestore(Stores.ROS2_JAZZY)
    path = write_noise(tmp_path / "noise", store, count=30)
    (file,) = path.glob("*.mcap")
    data = bytearray(file.read_bytes())
    second = data.index(ZSTD_MAGIC, data.index(ZSTD_MAGIC) + 1)
    data[second : second + 4] = bytes(4)
    file.write_bytes(data)
    source = open_source(path)
    records = list(source)
    assert 0 < len(records) < 30
    assert f"noise is damaged after {len(records)} messages: " in source.truncated
    assert [r.stamp_ns for r in records] == [i * S for i in range(1, len(records) + 1)]


def write_noise(path, store, count):
    """A bag whose images fill several compressed chunks, so that damage to one of them is noticed."""
    rng = np.random.default_rng(0)
    bag = BagWriter(path, compress=True)
    text, digest = definition(IMAGE)
    connection = bag.add("/noise", IMAGE, text, digest)
    types = store.types
    for i in range(1, count + 1):
        header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](i, 0), "noise")
        data = rng.integers(0, 16, 300 * 300, np.uint8)
        message = types[IMAGE](header, 300, 300, "mono8", 0, 300, data)
        bag.write(connection, i * S, bytes(store.serialize_cdr(message, IMAGE)))
    bag.close()
    return path


# Videos


def test_video_gives_every_frame_at_its_rate(video):
    source = open_source(video, camera="front")
    records = list(source)
    assert (source.expected, source.seconds) == (12, 1.5)
    assert {(r.topic, r.type, r.frame_id) for r in records} == {("front/image_raw", IMAGE, "front_optical_frame")}
    assert [r.stamp_ns for r in records] == [S + i * S // 8 for i in range(12)]
    for i, record in enumerate(records):
        assert record.image().shape == (48, 64, 3)
        assert abs(float(record.image().mean()) - 20 * i) < 4


def test_video_slice_is_exact_and_keeps_stamps(video):
    records = list(open_source(video, start=0.5, duration=0.375))
    assert [r.stamp_ns for r in records] == [S + i * S // 8 for i in (4, 5, 6)]
    assert [round(float(r.image().mean()) / 20) for r in records] == [4, 5, 6]
    with pytest.raises(SourceError, match=r"gives no frame at 1\.5 s: it has 12 frames"):
        list(open_source(video, start=1.5))


def test_rate_of_the_user_replaces_the_files(video):
    assert [r.stamp_ns - S for r in open_source(video, fps=100, frames=3)] == [0, 10_000_000, 20_000_000]


@pytest.mark.parametrize("rate", [0.0, float("nan"), 90000.0])
def test_container_without_a_rate_gets_one(video, monkeypatch, caplog, rate):
    class Rateless:
        def __init__(self, path: str) -> None:
            self._capture = cv2_video_capture(path)

        def __getattr__(self, name: str) -> object:
            return getattr(self._capture, name)

        def get(self, key: int) -> float:
            return rate if key == cv2.CAP_PROP_FPS else self._capture.get(key)

    cv2_video_capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Rateless)
    source = open_source(video)
    assert source.fps == 10.0
    assert "does not say its frame rate" in caplog.text
    assert [r.stamp_ns - S for r in source][:3] == [0, 100_000_000, 200_000_000]


class Miscounted:
    """A capture whose container states another number of frames than there are."""

    stated = 60.0
    opened = staticmethod(cv2.VideoCapture)

    def __init__(self, path: str) -> None:
        self._capture = self.opened(path)

    def __getattr__(self, name: str) -> object:
        return getattr(self._capture, name)

    def get(self, key: int) -> float:
        return self.stated if key == cv2.CAP_PROP_FRAME_COUNT else self._capture.get(key)


@pytest.mark.parametrize("stated", [60.0, 5.0, -1.0])
def test_number_of_frames_that_a_container_states_is_not_believed(video, monkeypatch, caplog, stated):
    monkeypatch.setattr(cv2, "VideoCapture", type("Capture", (Miscounted,), {"stated": stated}))
    source = open_source(video)
    assert len(list(source)) == 12
    assert source.truncated == "" and caplog.text == ""
    assert source.expected == (None if stated < 0 else stated)
    assert len(list(open_source(video, start=0.5, duration=100))) == 8
    with pytest.raises(SourceError, match="gives no frame at 4 s: it has 12 frames"):
        list(open_source(video, start=4))


def moved_to_front(path):
    """The same MP4 with its moov box before its pictures, as recorders of phones and the web write it."""
    data = bytearray(path.read_bytes())
    places, at = {}, 0
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        places[bytes(data[at + 4 : at + 8])] = (at, length)
        at += length
    begin, length = places[b"moov"]
    moov = data[begin : begin + length]
    table = moov.index(b"stco") + 8
    for i in range(struct.unpack_from(">I", moov, table)[0]):
        place = table + 4 + 4 * i
        struct.pack_into(">I", moov, place, struct.unpack_from(">I", moov, place)[0] + length)
    first = places[b"ftyp"][1]
    path.write_bytes(bytes(data[:first] + moov + data[first:begin] + data[begin + length :]))
    return path


def test_video_that_was_cut_off_says_so(video, tmp_path):
    whole = len(video.read_bytes())
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"cut.mp4 is a video that was cut off, 100 bytes before its end: nothing"):
        open_source(cut)
    cut.write_bytes(moved_to_front(video).read_bytes())
    assert len(cut.read_bytes()) == whole and len(list(open_source(cut))) == 12
    cut.write_bytes(cut.read_bytes()[:-200])
    source = open_source(cut)
    count = len(list(source))
    assert 0 < count < 12
    assert (
        source.truncated
        == f"{cut} was cut off, 200 bytes before its end: {count} frame{'' if count == 1 else 's'} decoded"
    )


def declared(path, matrix):
    """The same MP4 with a colr box that declares matrix coefficients."""
    data = bytearray(path.read_bytes())
    box = struct.pack(">I4s4sHHHB", 19, b"colr", b"nclx", 1, 1, matrix, 0)
    begin, end = 0, len(data)
    for kind, header in (
        (b"moov", 8),
        (b"trak", 8),
        (b"mdia", 8),
        (b"minf", 8),
        (b"stbl", 8),
        (b"stsd", 16),
        (b"mp4v", 0),
    ):
        at = begin
        while data[at + 4 : at + 8] != kind:
            at += struct.unpack_from(">I", data, at)[0]
        (length,) = struct.unpack_from(">I", data, at)
        struct.pack_into(">I", data, at, length + len(box))
        begin, end = at + header, at + length
    data[end:end] = box
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [(None, (29, 199, 58)), (6, (29, 199, 58)), (1, (23, 175, 48))],
)
def test_colours_are_those_that_the_video_declares_with_every_opencv(tmp_path, matrix, expected):
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 8.0, (64, 48))
    writer.write(np.full((48, 64, 3), (30, 200, 60), np.uint8))
    writer.release()
    (record,) = open_source(path if matrix is None else declared(path, matrix))
    np.testing.assert_allclose(record.image()[24, 32].astype(int), expected, atol=2)


def test_opencv_that_does_not_heed_the_declaration_is_corrected(tmp_path, monkeypatch):
    """As OpenCV below 4.13 decodes: every video as BT.601."""
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 8.0, (64, 48))
    writer.write(np.full((48, 64, 3), (30, 200, 60), np.uint8))
    writer.release()
    as_bt601 = next(iter(open_source(path))).image()
    capture = SimpleNamespace(getBackendName=lambda: "FFMPEG")
    monkeypatch.setattr(video_colors, "_heeds_matrix", lambda: False)
    assert video_colors.correction(path, capture) is None
    corrected = video_colors.correction(declared(path, 1), capture)(as_bt601)
    np.testing.assert_allclose(corrected[24, 32].astype(int), (23, 175, 48), atol=2)
    monkeypatch.setattr(video_colors, "_heeds_matrix", lambda: True)
    assert video_colors.correction(path, capture) is None


@pytest.mark.parametrize("content", [b"", b"no video at all " * 100])
def test_what_is_no_video_is_refused(tmp_path, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"clip\.mp4 is no recording that can be read"):
        open_source(path)


# Folders


def test_folder_is_in_natural_order(image_folder):
    records = list(open_source(image_folder, fps=5))
    assert [r.image()[0, 0, 0] // 10 for r in records] == [1, 2, 5, 10, 11]
    assert [r.stamp_ns - S for r in records] == [i * S // 5 for i in range(5)]


def test_unreadable_image_is_skipped_and_counted(image_folder, caplog):
    (image_folder / "frame5.png").write_bytes(b"\x89PNG and then nothing")
    source = open_source(image_folder)
    records = list(source)
    assert [r.image()[0, 0, 0] // 10 for r in records] == [1, 2, 10, 11]
    assert [r.stamp_ns - S for r in records] == [0, S // 10, 3 * S // 10, 4 * S // 10]
    assert source.skipped == 1
    assert "frame5.png cannot be read: it is not an image that OpenCV can read: skipped" in caplog.text


def test_folder_without_a_readable_image_is_refused(tmp_path):
    with pytest.raises(SourceError, match="holds no images"):
        open_source(tmp_path)
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="none of 1 image can be read, the first cannot be read: it is not an image"):
        list(open_source(tmp_path))


def test_one_image_is_a_source_of_one_frame(image_folder):
    (record,) = open_source(image_folder / "frame2.png")
    np.testing.assert_array_equal(record.image(), expected_picture(2))


# Synthetic drives


def test_synthetic_drive_comes_with_its_labels():
    source = open_source("synth:seed=3,frames=4,size=64x48,fps=5", camera="cam")
    drive = SynthDrive(seed=3, size=(64, 48), fps=5)
    records = list(source)
    assert [r.topic for r in records] == ["cam/image_raw", "cam/label_truth"] * 4
    assert source.expected == 8
    for i in range(4):
        image, label = records[2 * i : 2 * i + 2]
        assert image.stamp_ns == label.stamp_ns == S + i * S // 5
        np.testing.assert_array_equal(image.image(), drive.frame(i).image)
        np.testing.assert_array_equal(label.label(), drive.frame(i).label)


def test_slice_and_choice_of_a_synthetic_drive():
    whole = list(open_source("synth:frames=10,size=32x32", ["*/label_truth"]))
    part = list(open_source("synth:frames=10,size=32x32", ["*/label_truth"], start=0.3, duration=0.2))
    assert [r.stamp_ns for r in part] == [r.stamp_ns for r in whole[3:5]]
    np.testing.assert_array_equal(part[1].label(), whole[4].label())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("synth:speed=3", "'speed' is unknown; a synthetic drive takes seed, frames, size, fps"),
        ("synth:frames=0", "frames cannot be '0'; it is a whole number, 1 or more"),
        ("synth:seed=-1", "seed cannot be '-1'"),
        ("synth:size=640", "size cannot be '640'; it is WIDTHxHEIGHT"),
        ("synth:size=640x3", "size cannot be '640x3'"),
        ("synth:fps=fast", "fps cannot be 'fast'"),
        ("synth:fps=nan", "fps cannot be 'nan'"),
    ],
)
def test_wrong_drive_names_the_mend(spec, message):
    with pytest.raises(SourceError) as error:
        open_source(spec)
    assert message in str(error.value)


# What all share


def test_what_does_not_exist_is_said():
    with pytest.raises(SourceError, match=r"nowhere/a\.mp4 does not exist"):
        open_source("nowhere/a.mp4")


@pytest.mark.parametrize(
    "wrong", [{"start": -1}, {"start": float("nan")}, {"duration": 0}, {"fps": 0}, {"fps": -3}, {"frames": 0}]
)
def test_impossible_slices_are_refused(wrong):
    with pytest.raises(SourceError, match=r"must (be|lie)"):
        open_source("synth:frames=3,size=32x32", **wrong)


def test_camera_info_of_a_synthetic_drive_is_exact():
    source = open_source("synth:frames=2,size=64x48", camera_info=True)
    info, image, _, later, *_ = list(source)
    camera = SynthDrive(size=(64, 48)).camera
    assert (info.topic, image.topic) == ("camera/camera_info", "camera/image_raw")
    assert (info.stamp_ns, info.frame_id) == (image.stamp_ns, "camera_optical_frame")
    assert later.stamp_ns == S + S // 10
    assert list(info.message.k) == [camera.fx, 0, camera.cx, 0, camera.fy, camera.cy, 0, 0, 1]
    assert (info.message.width, info.message.height) == (64, 48)


CALIBRATION = """
image_width: 32
image_height: 24
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [30.5, 0, 15.5, 0, 31.5, 11.5, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.1, 0.02, 0, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [30.5, 0, 15.5, 0, 0, 31.5, 11.5, 0, 0, 0, 1, 0]}
"""


def test_camera_info_from_a_calibration_file_lies_beside_a_bags_images(bags, tmp_path):
    (tmp_path / "front.yaml").write_text(CALIBRATION)
    records = list(open_source(bags.write("mcap"), camera_info=tmp_path / "front.yaml"))
    assert [r.topic for r in records] == ["/front/camera_info", "/front/image_raw"] * 5
    info, image = records[6:8]
    assert (info.stamp_ns, info.time_ns) == (image.stamp_ns, image.time_ns)
    assert info.frame_id == "front_optical_frame"
    assert list(info.message.d) == [-0.1, 0.02, 0, 0, 0]
    assert info.message.p[5] == 31.5


def test_camera_info_needs_a_calibration(video, tmp_path):
    with pytest.raises(SourceError, match="without a calibration: name a calibration file"):
        open_source(video, camera_info=True)
    path = tmp_path / "front.yaml"
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(video, camera_info=path)
    path.write_text(CALIBRATION.replace("camera_matrix", "matrix"))
    with pytest.raises(SourceError, match="lacks 'camera_matrix'"):
        open_source(video, camera_info=path)
    path.write_text(CALIBRATION.replace("[30.5, 0, 15.5, 0, 31.5, 11.5, 0, 0, 1]", "[1, 2]"))
    with pytest.raises(SourceError, match="camera_matrix has 2 numbers instead of 9"):
        open_source(video, camera_info=path)


def test_which_topics_are_cameras():
    from drive_seg.recordings.sources import Topic

    cameras = [Topic("/a/image_raw", IMAGE), Topic("/a/image_raw/compressed", COMPRESSED)]
    others = [
        Topic("/a/segmentation/label", IMAGE),
        Topic("/a/segmentation/label/compressed", COMPRESSED),
        Topic("a/label_truth", IMAGE),
        Topic("/tf", "tf2_msgs/msg/TFMessage"),
    ]
    assert [t.is_camera for t in cameras + others] == [True, True, False, False, False, False]


@pytest.mark.parametrize(
    ("recorded", "published"),
    [
        ("/front/image_raw", "/front/image_raw"),
        ("camera/image_raw", "camera/image_raw"),
        ("/cam/0/image_raw", "/cam/n0/image_raw"),
        ("/usb_cam-front/image_raw", "/usb_cam_front/image_raw"),
        ("//kinect2/2d-hd//image/", "/kinect2/n2d_hd/image"),
    ],
)
def test_names_that_ros_1_allowed_become_valid(recorded, published):
    from drive_seg.recordings.sources.topics import ros2_name

    assert ros2_name(recorded) == published


def test_image_topics_of_the_node_lack_the_suffix_of_their_transport():
    from drive_seg.recordings.sources import Topic
    from drive_seg.recordings.sources.topics import image_topic_of

    assert image_topic_of(Topic("front/image", IMAGE)) == "/front/image"
    assert image_topic_of(Topic("/0/image/compressed", COMPRESSED)) == "/n0/image"
    with pytest.raises(
        SourceError, match=r"its name does not end in /compressed, .* --remap /a/jpeg:=/a/jpeg/compressed"
    ):
        image_topic_of(Topic("/a/jpeg", COMPRESSED))


def test_a_bag_says_which_cameras_would_be_played(bags, tmp_path, capsys, video):
    from drive_seg.recordings.playable import cameras, main

    assert cameras(str(bags.write("mcap"))) == {"/front/image_raw": "raw"}
    assert cameras(str(video)) is None and cameras("synth:") is None
    assert main([str(video)]) == 0 and capsys.readouterr().out == "null\n"
    assert main([str(tmp_path / "none.mcap")]) == 1
    assert capsys.readouterr().err == f"{tmp_path}/none.mcap does not exist.\n"


def test_sources_need_no_rclpy():
    modules = "video playback bag_writer message_types playable sources.bag sources.folder sources.video"
    modules = [f"recordings.{name}" for name in f"{modules} sources.synthetic sources.calibration".split()]
    code = (
        "".join(f"import drive_seg.{name}\n" for name in (*modules, "evaluation.pictures"))
        + "import sys\nprint([name for name in ('rclpy', 'torch', 'typer', 'lightning') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
