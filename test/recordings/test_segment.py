"""``drive-seg segment``: the camera that is labelled, what is left out, and names of the results."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from drive_seg.labels import CITYSCAPES19
from drive_seg.recordings.segment import segment_source
from drive_seg.recordings.sources import COMPRESSED, IMAGE, SourceError

STORE = get_typestore(Stores.ROS2_JAZZY)
S = 1_000_000_000


class Brightness:
    """Labels every pixel with the image's first blue value, which tells the images apart."""

    label_map = CITYSCAPES19

    def __call__(self, image: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(label=np.full(image.shape[:2], image[0, 0, 0], np.uint8))


def plain(value: int) -> np.ndarray:
    return np.full((12, 16, 3), value, np.uint8)


def write_bag(path, topics):
    """A bag of topics, each (name, encoding, values of its plain images); a value of None is a damaged image."""
    t = STORE.types
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        for name, encoding, values in topics:
            kind = COMPRESSED if encoding == "png" else IMAGE
            connection = bag.add_connection(name, kind, typestore=STORE)
            for i, value in enumerate(values):
                header = t["std_msgs/msg/Header"](t["builtin_interfaces/msg/Time"](1 + i, 0), "front")
                image = plain(0 if value is None else value)
                if encoding == "png":
                    data = cv2.imencode(".png", image)[1].reshape(-1)
                    message = t[kind](header, "png", data[: len(data) // 2] if value is None else data)
                else:
                    pixels = image.reshape(-1) if encoding == "bgr8" else image[..., :2].reshape(-1)
                    step = pixels.size // 12
                    data = pixels[:-7] if value is None else pixels
                    message = t[kind](header, 12, 16, encoding, 0, step, np.ascontiguousarray(data))
                bag.write(connection, (1 + i) * S, STORE.serialize_cdr(message, kind))
    return path


def labels_in(folder):
    """Name -> the one class of each label PNG."""
    found = {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((folder / "label").iterdir())}
    assert all(label.min() == label.max() for label in found.values())
    return {name: int(label[0, 0]) for name, label in found.items()}


@pytest.fixture
def segment(tmp_path):
    """Labels a source into ``out``; gives (count, labels, what was told)."""

    def run(source, output="out", **options):
        told = []
        count, where = segment_source(
            Brightness(), str(source), tmp_path / output, tell=told.append, progress=False, **options
        )
        return count, labels_in(where) if where.is_dir() else where, told

    return run


def test_of_an_rgbd_bag_the_pictures_are_labelled_and_the_rest_is_named(segment, tmp_path):
    bag = write_bag(
        tmp_path / "bag",
        [("/a/depth", "16UC1", [1, 2]), ("/front/image", "bgr8", [3, 4]), ("/rear/image", "bgr8", [5, 6])],
    )
    count, labels, told = segment(bag)
    assert count == 2 and labels == {"000000.png": 3, "000001.png": 4}
    assert told == ["labelling /front/image, leaving out /a/depth, /rear/image: --topic names another"]
    assert segment(bag, "rear", topic="rear/*")[1] == {"000000.png": 5, "000001.png": 6}
    with pytest.raises(SourceError, match=r"has no topic 'up/image'; it has /a/depth \(sensor_msgs/msg/Image\), /fr"):
        segment(bag, "none", topic="up/image")


@pytest.mark.parametrize("encoding", ["bgr8", "png"])
@pytest.mark.parametrize("output", ["out", "out.mp4"])
def test_a_damaged_frame_is_passed_over_and_told(segment, tmp_path, encoding, output):
    bag = write_bag(tmp_path / "bag", [("/front/image", encoding, [3, None, 4])])
    count, labels, told = segment(bag, output)
    assert count == 2 and (output != "out" or labels == {"000000.png": 3, "000002.png": 4})
    (sentence,) = told
    assert sentence.startswith("1 could not be decoded and are left out, the first is frame 1: ")


def test_a_source_of_damaged_frames_alone_is_an_error(segment, tmp_path):
    bag = write_bag(tmp_path / "bag", [("/front/image", "bgr8", [None, None])])
    for output in ("out", "out.mp4"):
        with pytest.raises(SourceError, match="has no image that can be decoded: frame 0: "):
            segment(bag, output)
    assert not (tmp_path / "out.mp4").exists()


def test_files_of_one_stem_do_not_overwrite_each_other(segment, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for value, name in enumerate(("a.png", "a.bmp", "b.png"), start=1):
        cv2.imwrite(str(folder / name), plain(value))
    count, labels, told = segment(folder)
    assert count == 3 and labels == {"a.bmp.png": 2, "a.png.png": 1, "b.png.png": 3} and told == []
    (folder / "a.bmp").write_bytes(b"nothing")
    count, labels, told = segment(folder, "again")
    assert labels == {"a.png.png": 1, "b.png.png": 3} and told == ["1 could not be read and are left out"]


def test_labels_alone(segment, tmp_path):
    cv2.imwrite(str(tmp_path / "shot.png"), plain(7))
    assert segment(tmp_path / "shot.png", labels_only=True)[:2] == (1, {"shot.png": 7})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["label"]
    with pytest.raises(ValueError, match="is a video of overlays: name a folder for labels alone"):
        segment(tmp_path / "shot.png", "out.mp4", labels_only=True)


def test_bags_without_a_cameras_pictures_say_what_their_images_are(segment, tmp_path):
    topics = [("/a/depth", "16UC1", [1]), ("/front/label_truth", "bgr8", [1])]
    sentence = (
        r"no topic of a camera's pictures, only of /a/depth \(depth\), /front/label_truth \(labels\): name the one"
    )
    with pytest.raises(SourceError, match=sentence):
        segment(write_bag(tmp_path / "bag", topics))
