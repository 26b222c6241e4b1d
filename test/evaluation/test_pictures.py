"""The contact sheet of a recording: every frame with its own mask."""

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rosbags.typesys import Stores, get_typestore
from std_msgs.msg import Header

from drive_seg.evaluation import pictures
from drive_seg.images.messages import to_image
from drive_seg.labels import CITYSCAPES19
from drive_seg.recordings.bag_writer import BagWriter
from drive_seg.recordings.message_types import definition
from drive_seg.recordings.sources import IMAGE

TOPICS = pictures.RecordedTopics("/camera/image_raw", "/camera/segmentation/label", "/camera/label_truth")
ROAD, SKY = 0, 10


def image_of(index: int) -> np.ndarray:
    return np.full((40, 60, 3), 20 * index, np.uint8)


def label_of(index: int) -> np.ndarray:
    label = np.full((40, 60), SKY, np.uint8)
    label[20:] = index
    return label


@pytest.fixture
def recording(tmp_path):
    """Five images with truths; masks of 1, 3 and 4 only, each recorded 7 ms after its stamp, 3 before its truth."""
    store = get_typestore(Stores.ROS2_JAZZY)
    bag = BagWriter(tmp_path / "bag", compress=True)
    text, digest = definition(IMAGE)
    connections = {topic: bag.add(topic, IMAGE, text, digest) for topic in (TOPICS.image, TOPICS.label, TOPICS.truth)}
    rows = []
    for i in range(5):
        stamp = 100 * i
        rows.append((stamp + 1, TOPICS.image, stamp, image_of(i)))
        if i != 0 and i != 2:
            rows.append((stamp + 7, TOPICS.label, stamp, label_of(i)))
        rows.append((stamp + (9 if i == 3 else 2), TOPICS.truth, stamp, label_of(0)))
    for time_ms, topic, stamp_ms, array in sorted(rows, key=lambda row: row[0]):
        bag.write(connections[topic], time_ms * 1_000_000, serialized(store, stamp_ms, array))
    bag.close()
    return tmp_path / "bag"


def serialized(store, stamp_ms: int, array: np.ndarray) -> bytes:
    header = Header(stamp=Time(sec=0, nanosec=stamp_ms * 1_000_000), frame_id="camera")
    message = to_image(array, header, "mono8" if array.ndim == 2 else "bgr8")
    types = store.types
    stamp = types["builtin_interfaces/msg/Time"](0, message.header.stamp.nanosec)
    same = types[IMAGE](
        types["std_msgs/msg/Header"](stamp, "camera"), message.height, message.width, message.encoding, 0,
        message.step, np.frombuffer(message.data, np.uint8),
    )  # fmt: skip
    return bytes(store.serialize_cdr(same, IMAGE))


def test_frames_are_put_together_by_stamp(recording):
    stamps = {100_000_000, 300_000_000, 400_000_000}
    frames = list(pictures.labelled_frames(recording, TOPICS, stamps))
    assert [frame.stamp_ns // 100_000_000 for frame in frames] == [1, 3, 4]
    for frame in frames:
        i = frame.stamp_ns // 100_000_000
        np.testing.assert_array_equal(frame.image, image_of(i))
        np.testing.assert_array_equal(frame.label, label_of(i))
        np.testing.assert_array_equal(frame.truth, label_of(0))
    (one,) = pictures.labelled_frames(recording, pictures.RecordedTopics(TOPICS.image, TOPICS.label), {300_000_000})
    assert one.truth is None


@pytest.mark.parametrize("with_truth", [True, False])
def test_contact_sheet_has_a_row_for_each_kind(tmp_path, with_truth):
    image = np.full((90, 160, 3), 50, np.uint8)
    label, truth = np.full((90, 160), SKY, np.uint8), np.full((90, 160), ROAD, np.uint8)
    frames = [pictures.Labelled(i, image, label, truth if with_truth else None) for i in range(3)]
    pictures.write_contact_sheet(tmp_path / "sheet.png", frames, CITYSCAPES19)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    row = pictures.TITLE_HEIGHT + 180
    assert sheet.shape[0] == row * (4 if with_truth else 3)
    middle = [sheet[i * row + pictures.TITLE_HEIGHT + 90, pictures.GAP + 160].tolist() for i in range(3)]
    palette = CITYSCAPES19.palette("bgr").astype(int)
    assert middle[0] == [50, 50, 50]
    assert middle[1] == palette[SKY].tolist()
    assert np.abs(middle[2] - (palette[SKY] + 50) / 2).max() <= 1
    if with_truth:
        assert sheet[3 * row + pictures.TITLE_HEIGHT + 90, pictures.GAP + 160].tolist() == palette[ROAD].tolist()


def test_spread_takes_from_all_over():
    assert pictures.spread(list(range(100)), 5) == {10, 30, 50, 70, 90}
    assert pictures.spread([1, 2], 5) == {1, 2}
