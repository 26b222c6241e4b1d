"""Bags as they are recorded: storages, compression, splits, topics' names and times of every kind."""

import sqlite3

import cv2
import numpy as np
import pytest
from mcap.writer import CompressionType, IndexType
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from drive_seg.replay.sources import COMPRESSED, IMAGE, SourceError, open_source


@pytest.mark.parametrize(
    ("storage", "mode"),
    [
        ("mcap", "none"),
        ("mcap", "storage"),
        ("mcap", "message"),
        ("mcap", "file"),
        ("sqlite3", "none"),
        ("sqlite3", "message"),
        ("sqlite3", "file"),
    ],
)
def test_storages_and_their_compression(layouts, tmp_path, storage, mode):
    folder = layouts.write(tmp_path / "bag", storage, mode)
    (file,) = (f for f in folder.iterdir() if f.suffix != ".yaml")
    assert file.name.endswith(".zstd") == (mode == "file")
    for path in (folder, file):  # a user may name either
        source = open_source(path)
        assert source.expected == 6
        assert layouts.places(source) == [0, 1, 2, 3, 4, 5]
        assert source.truncated == ""
    (folder / "metadata.yaml").unlink()
    assert layouts.places(open_source(folder)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("compression", list(CompressionType))
@pytest.mark.parametrize("profile", ["ros2", ""])
def test_mcap_chunks_and_profiles(layouts, tmp_path, compression, profile):
    source = open_source(layouts.write_mcap(tmp_path / "a.mcap", compression=compression, profile=profile))
    assert source.topics[0].encoding == "bgr8"
    assert layouts.places(source) == list(range(12))
    assert source.truncated == ""


@pytest.mark.parametrize("chunked", [True, False])
def test_mcap_without_an_index_need_not_be_in_order(layouts, tmp_path, chunked):
    file = layouts.write_mcap(tmp_path / "a.mcap", [1, 0, 2, 5, 3, 4], use_chunking=chunked, index_types=IndexType.NONE)
    assert layouts.places(open_source(file)) == [0, 1, 2, 3, 4, 5]
    assert layouts.places(open_source(file, start=0.15, duration=0.2)) == [2, 3]


def test_mcap_of_something_else_is_refused(layouts, tmp_path):
    file = layouts.write_mcap(tmp_path / "a.mcap", profile="", encoding="protobuf")
    with pytest.raises(SourceError, match="cannot be read as a rosbag: its messages are protobuf, not ROS 2's CDR"):
        open_source(file)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_split_bag_is_one_recording_in_the_order_of_record_times(layouts, tmp_path, storage):
    folder = layouts.write_split(tmp_path / "drive", storage, [[0, 1, 3], [2, 4], [5, 6]])
    source = open_source(folder)
    assert source.expected == 7
    assert layouts.places(source) == [0, 1, 2, 3, 4, 5, 6]
    assert layouts.places(open_source(folder, start=0.15, duration=0.3)) == [2, 3, 4]
    (folder / "metadata.yaml").write_text("")  # as a power cut leaves it
    assert layouts.places(open_source(folder)) == [0, 1, 2, 3, 4, 5, 6]


def test_split_bag_with_a_file_missing_gives_the_rest_and_says_so(layouts, tmp_path):
    folder = layouts.write_split(tmp_path / "drive", "mcap", [[0, 1], [2, 3], [4]])
    (folder / "drive_1.mcap").unlink()
    source = open_source(folder)
    assert layouts.places(source) == [0, 1, 4]
    assert source.truncated == f"{folder} lacks drive_1.mcap, which its metadata.yaml names"


def test_folder_of_several_bags_is_not_taken_for_one(layouts, tmp_path):
    layouts.write_mcap(tmp_path / "monday.mcap")
    layouts.write_mcap(tmp_path / "tuesday.mcap")
    with pytest.raises(SourceError, match=r"2 recordings \(monday\.mcap, tuesday\.mcap, \.\.\.\) and no metadata"):
        open_source(tmp_path)


@pytest.mark.parametrize("compression", [None, "BZ2", "LZ4"])
def test_rosbag1_and_its_compression(layouts, tmp_path, compression):
    path = layouts.write_ros1(tmp_path / "old.bag", range(4), compression)
    for named in (path, tmp_path):  # the folder holds no other
        source = open_source(named)
        assert source.expected == 4
        assert layouts.places(source) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_compressed_images_of_a_topic_without_slash_and_camera_info(layouts, tmp_path, kind):
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("cam/image_raw/compressed", COMPRESSED, typestore=layouts.store)
        for i in range(3):
            writer.write(connection, layouts.pictures.record_ns(i), layouts.pictures.compressed_cdr(i, kind))
    source = open_source(tmp_path / "bag", ["/cam/image_raw/*"])
    assert [(t.name, t.type, t.is_camera) for t in source.topics] == [("cam/image_raw/compressed", COMPRESSED, True)]
    pictures = [record.image() for record in source]
    for i, picture in enumerate(pictures):
        _, data = cv2.imencode(f".{kind}", layouts.pictures.array(i))
        np.testing.assert_array_equal(picture, cv2.imdecode(data, cv2.IMREAD_COLOR))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_stamps_that_go_back_or_repeat_are_kept_and_counted(layouts, tmp_path, storage):
    stamps = [layouts.pictures.stamp_ns(i) for i in (0, 1, 1, 3, 2, 4)]
    with Writer(tmp_path / "bag", version=9, storage_plugin=layouts_storage(storage)) as writer:
        connection: Connection = writer.add_connection(layouts.topic, IMAGE, typestore=layouts.store)
        for i in (3, 4, 5, 0, 1, 2):  # written in another order than recorded
            writer.write(connection, layouts.pictures.record_ns(i), layouts.pictures.cdr(i, stamps[i]))
    source = open_source(tmp_path / "bag")
    records = list(source)
    assert [r.time_ns for r in records] == [layouts.pictures.record_ns(i) for i in range(6)]
    assert [r.stamp_ns for r in records] == stamps
    assert (source.repeated, source.backward) == (1, 1)
    cut = open_source(tmp_path / "bag", frames=2)
    assert len(list(cut)) == 2
    assert (cut.repeated, cut.backward) == (0, 0)


def layouts_storage(name: str) -> StoragePlugin:
    return {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[name]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_empty_bag_is_refused(layouts, tmp_path, storage):
    folder = layouts.write(tmp_path / "bag", storage, indices=[])
    with pytest.raises(SourceError, match="is a rosbag without a single message"):
        open_source(folder)


def test_two_readings_at_a_time_do_not_disturb_each_other(layouts, tmp_path):
    source = open_source(layouts.write(tmp_path / "bag", "sqlite3"))
    assert [(a.stamp_ns, b.stamp_ns) for a, b in zip(source, source, strict=True)] == [
        (layouts.pictures.stamp_ns(i),) * 2 for i in range(6)
    ]


def test_bag_that_has_changed_is_read_anew(layouts, tmp_path):
    file = layouts.write_mcap(tmp_path / "a.mcap", range(4))
    assert layouts.places(open_source(file)) == [0, 1, 2, 3]
    layouts.write_mcap(file, range(5))
    assert layouts.places(open_source(file)) == [0, 1, 2, 3, 4]


# Types


def old_sqlite_bag(layouts, path, msgtype, text, cdr):
    """A bag as Humble records it: no definitions inside."""
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(text, msgtype))
    with Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        images = writer.add_connection(layouts.topic, IMAGE, typestore=store)
        others = writer.add_connection("/front/info", msgtype, typestore=store)
        for i in range(3):
            writer.write(images, layouts.pictures.record_ns(i), layouts.pictures.cdr(i))
            writer.write(others, layouts.pictures.record_ns(i) + 1, cdr)
    with sqlite3.connect(path / f"{path.name}.db3") as database:
        database.execute("DROP TABLE message_definitions")
        database.execute(
            "CREATE TABLE message_definitions(id, topic_type, encoding, encoded_message_definition,"
            " type_description_hash)"
        )
    return path


def test_unknown_types_do_not_keep_from_reading_the_rest(layouts, tmp_path, caplog):
    path = old_sqlite_bag(
        layouts, tmp_path / "bag", "nobody_msgs/msg/Info", "std_msgs/Header header\n", b"\0\1\0\0" + bytes(16)
    )
    assert layouts.places(open_source(path)) == [0, 1, 2]
    source = open_source(path, ["*"])
    assert [t.name for t in source.topics] == ["/front/image_raw", "/front/info"]
    assert layouts.places(source) == [0, 1, 2]
    assert "nobody_msgs/msg/Info is defined neither in the bag nor on this machine" in caplog.text
    with pytest.raises(SourceError, match=r"nothing that can be read on /front/info \(nobody_msgs/msg/Info\)"):
        list(open_source(path, ["/front/info"]))


@pytest.mark.parametrize("text", [b"", b"this ] is [ no definition", b"nowhere_msgs/Thing thing\n"])
def test_definitions_that_a_recorder_did_not_find_are_taken_from_this_machine(layouts, tmp_path, text):
    source = open_source(layouts.write_mcap(tmp_path / "a.mcap", definition=text))
    assert source.topics[0].encoding == "bgr8"
    assert layouts.places(source) == list(range(12))
