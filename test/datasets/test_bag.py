"""A rosbag of pictures and labels, matched by their stamps."""

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from drive_seg.datasets import open_dataset

STORE = get_typestore(Stores.ROS2_JAZZY)
CLASSES = ["ground", "other"]


def message(array: np.ndarray, stamp_ns: int):
    encoding = "bgr8" if array.ndim == 3 else "mono8"
    stamp = STORE.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
    return STORE.types["sensor_msgs/msg/Image"](
        header=STORE.types["std_msgs/msg/Header"](stamp=stamp, frame_id="front"),
        height=array.shape[0],
        width=array.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=array.shape[1] * (3 if array.ndim == 3 else 1),
        data=np.ascontiguousarray(array).reshape(-1),
    )


def write_bag(path, pictures, labels):
    """Stamp in ns -> array of each topic; labels come late, as they do from a person."""
    kind = "sensor_msgs/msg/Image"
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, arrays, late in (("/front/image_raw", pictures, 0), ("/front/truth", labels, 10**10)):
            connection = writer.add_connection(topic, kind, typestore=STORE)
            for stamp, array in arrays.items():
                writer.write(connection, stamp + late, STORE.serialize_cdr(message(array, stamp), kind))
    return path


def pictures(*stamps):
    rng = np.random.default_rng(0)
    return {stamp: rng.integers(0, 255, (6, 8, 3), dtype=np.uint8) for stamp in stamps}


def open_bag(path, **more):
    return open_dataset("bag", root=path, classes=CLASSES, image="/front/image_raw", label="/front/truth", **more)


def test_pictures_and_labels_of_one_stamp_belong_together(tmp_path):
    images = pictures(10**9, 2 * 10**9, 3 * 10**9 + 1)
    labels = {stamp: np.full((6, 8), stamp % 2, np.uint8) for stamp in (3 * 10**9 + 1, 10**9)}
    dataset = open_bag(write_bag(tmp_path / "drive", images, labels))
    assert len(dataset) == 2
    assert dataset.name_of(1) == "drive at 3.000000001 s"
    for i, stamp in enumerate((10**9, 3 * 10**9 + 1)):
        image, label = dataset.read(i)
        np.testing.assert_array_equal(image, images[stamp])
        assert (label == stamp % 2).all()
    assert dataset.fingerprint() == open_bag(tmp_path / "drive").fingerprint()


def test_labels_that_do_not_fit_are_refused(tmp_path):
    images = pictures(10**9, 2 * 10**9)
    labels = {10**9: np.full((6, 8), 2, np.uint8), 2 * 10**9: np.zeros((3, 8), np.uint8)}
    dataset = open_bag(write_bag(tmp_path / "drive", images, labels))
    with pytest.raises(ValueError, match=r"drive at 1.000000000 s holds the ids \[2\]"):
        dataset.read(0)
    with pytest.raises(ValueError, match="is 8x3 but its image is 8x6"):
        dataset.read(1)


def test_a_label_without_its_picture_is_refused(tmp_path):
    label = np.zeros((6, 8), np.uint8)
    path = write_bag(tmp_path / "drive", pictures(10**9), {10**9: label, 5: label})
    with pytest.raises(ValueError, match="drive has no picture on '/front/image_raw' for the label at 0.000000005 s"):
        open_bag(path)
    write_bag(tmp_path / "apart", pictures(10**9), {5: label})
    with pytest.raises(ValueError, match="no message of '/front/truth' has the stamp of one of"):
        open_bag(tmp_path / "apart")


def test_stamps_that_repeat_are_paired_in_order_or_named(tmp_path):
    images, kind = list(pictures(1, 2, 3).values()), "sensor_msgs/msg/Image"

    def write(name, labels):
        with Writer(tmp_path / name, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            topics = [
                writer.add_connection(topic, kind, typestore=STORE) for topic in ("/front/image_raw", "/front/truth")
            ]
            for connection, arrays in zip(topics, (images, labels), strict=True):
                for place, array in enumerate(arrays):
                    writer.write(connection, 10**9 + place, STORE.serialize_cdr(message(array, 0), kind))
        return tmp_path / name

    labels = [np.full((6, 8), i % 2, np.uint8) for i in range(3)]
    dataset = open_bag(write("all_0", labels))
    assert len(dataset) == 3 and dataset.name_of(2) == "all_0 at 0.000000000 s, number 3"
    for i in range(3):
        image, label = dataset.read(i)
        np.testing.assert_array_equal(image, images[i])
        assert (label == i % 2).all()
    with pytest.raises(ValueError, match=r"has 3 of '/front/image_raw' and 2 labels at 0.000000000 s: which belong"):
        open_bag(write("one_lacks", labels[:2]))


def test_bags_and_topics_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        open_bag(tmp_path / "none")
    path = write_bag(tmp_path / "drive", pictures(10**9), {10**9: np.zeros((6, 8), np.uint8)})
    with pytest.raises(ValueError, match="has no topic 'rear/truth'"):
        open_dataset("bag", root=path, classes=CLASSES, image="/front/image_raw", label="rear/truth")
    with pytest.raises(ValueError, match="one topic of pictures and one of labels are needed"):
        open_dataset("bag", root=path, classes=CLASSES, image="/front/image_raw", label="/front/image_raw")


def test_a_synthetic_drive_can_be_read_like_a_bag():
    drive = "synth:seed=1,frames=2,size=64x48,fps=10"
    dataset = open_dataset("bag", root=drive, classes="cityscapes19")
    image, label = dataset.read(1)
    assert len(dataset) == 2 and image.shape == (48, 64, 3) and label.max() < 19
