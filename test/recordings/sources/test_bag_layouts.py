"""Bags as they are recorded: storages, compression, splits, topics' names and times of every kind."""

import sqlite3

import cv2
import numpy as np
import pytest
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from drive_seg.recordings.message_types import definition
from drive_seg.recordings.sources import COMPRESSED, IMAGE, SourceError, open_source
from drive_seg.recordings.sources.bag_files import zstd

TF = "tf2_msgs/msg/TFMessage"


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


# Files that other recorders write, and files that were moved about


def mcap_of(path, layouts, parts, **options):
    """An mcap of (topic, type, QoS text, messages) parts, by the format's own library."""
    with path.open("wb") as file:
        writer = McapWriter(file, **options)
        writer.start(profile="ros2")
        for topic, kind, qos, messages in parts:
            text = layouts.store.generate_msgdef(normal(kind), ros_version=2)[0]
            schema = writer.register_schema(kind, "ros2msg", text.encode())
            metadata = {} if qos is None else {"offered_qos_profiles": qos}
            channel = writer.register_channel(topic, "cdr", schema, metadata)
            for time_ns, cdr in messages:
                writer.add_message(channel, time_ns, cdr, time_ns)
        writer.finish()
    return path


def normal(kind):
    return kind if "/msg/" in kind else kind.replace("/", "/msg/")


def six_pictures(layouts):
    return [(layouts.pictures.record_ns(i), layouts.pictures.cdr(i)) for i in range(6)]


@pytest.mark.parametrize(
    "options",
    [
        {"index_types": IndexType.CHUNK},
        {"index_types": IndexType.MESSAGE},
        {"repeat_channels": False},
        {"repeat_schemas": False},
        {"repeat_channels": False, "repeat_schemas": False, "use_statistics": False},
        {"use_statistics": False, "use_summary_offsets": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [IMAGE, "sensor_msgs/Image"])
def test_mcap_with_parts_of_a_summary_and_short_type_names(layouts, tmp_path, options, kind):
    parts = [(layouts.topic, kind, None, six_pictures(layouts))]
    source = open_source(mcap_of(tmp_path / "a.mcap", layouts, parts, chunk_size=12_000, **options))
    assert [(t.name, t.type, t.encoding) for t in source.topics] == [(layouts.topic, IMAGE, "bgr8")]
    assert source.expected == 6 and layouts.places(source) == list(range(6)) and source.truncated == ""


@pytest.mark.parametrize(
    ("qos", "latched"),
    [
        ("durability: transient_local", True),
        ("- {durability: 1, depth: 1}", True),
        ("- {reliability: best_effort}", False),
        ("durability: [1]", False),
        ("- nonsense", False),
        ("{ not yaml", False),
        ("7", False),
    ],
)
def test_qos_written_by_hand_does_not_cost_the_bag(layouts, tmp_path, qos, latched):
    parts = [(layouts.topic, IMAGE, qos, six_pictures(layouts))]
    source = open_source(mcap_of(tmp_path / "a.mcap", layouts, parts))
    assert [topic.latched for topic in source.topics] == [latched]
    assert layouts.places(source) == list(range(6))


def test_static_transforms_without_a_qos_are_latched(layouts, tmp_path):
    cdr = bytes(layouts.store.serialize_cdr(layouts.store.types["tf2_msgs/msg/TFMessage"](transforms=[]), TF))
    volatile = "- {durability: volatile}"
    parts = [
        (topic, TF, qos, [(1, cdr)]) for topic, qos in (("/tf", None), ("/tf_static", None), ("/a/tf_static", volatile))
    ]
    source = open_source(mcap_of(tmp_path / "a.mcap", layouts, parts), ["*"])
    assert {topic.name: topic.latched for topic in source.topics} == {
        "/tf": False,
        "/tf_static": True,
        "/a/tf_static": False,
    }


def test_a_topic_of_two_types_is_read_as_one_and_the_rest_is_named(layouts, tmp_path, caplog):
    jpegs = [(layouts.pictures.record_ns(i), layouts.pictures.compressed_cdr(i, "jpeg")) for i in range(6, 8)]
    parts = [(layouts.topic, COMPRESSED, None, jpegs), (layouts.topic, IMAGE, None, six_pictures(layouts))]
    source = open_source(mcap_of(tmp_path / "a.mcap", layouts, parts))
    sentence = f"{layouts.topic} has messages of several types: 6 of {IMAGE} are read, 2 of {COMPRESSED} left out"
    assert [(t.name, t.type) for t in source.topics] == [(layouts.topic, IMAGE)]
    assert source.expected == 6 and layouts.places(source) == list(range(6))
    assert source.truncated == sentence and caplog.text.count(sentence) == 1
    # Images go before whatever else has the same name, however often.
    word = layouts.store.types["std_msgs/msg/String"](data="hello")
    words = [(i, bytes(layouts.store.serialize_cdr(word, "std_msgs/msg/String"))) for i in range(1, 9)]
    parts = [(layouts.topic, "std_msgs/msg/String", None, words), (layouts.topic, IMAGE, None, six_pictures(layouts))]
    assert layouts.places(open_source(mcap_of(tmp_path / "b.mcap", layouts, parts))) == list(range(6))


@pytest.mark.parametrize(
    ("storage", "name"), [("mcap", "A.MCAP"), ("mcap", "a.db3"), ("mcap", "drive.bin"), ("sqlite3", "a.DB3")]
)
def test_a_file_is_what_it_holds_whatever_it_is_called(layouts, tmp_path, storage, name):
    folder = layouts.write(tmp_path / "bag", storage)
    (file,) = (f for f in folder.iterdir() if f.suffix != ".yaml")
    assert layouts.places(open_source(file.rename(tmp_path / name))) == list(range(6))


def test_a_renamed_rosbag1_and_the_path_of_metadata(layouts, tmp_path):
    file = layouts.write_ros1(tmp_path / "OLD.BAG", range(3))
    assert layouts.places(open_source(file)) == [0, 1, 2]
    folder = layouts.write(tmp_path / "bag")
    assert layouts.places(open_source(folder / "metadata.yaml")) == list(range(6))


@pytest.mark.parametrize("change", ["renamed", "unpacked", "packed again"])
def test_a_storage_file_need_not_be_called_as_its_metadata_says(layouts, tmp_path, change):
    folder = layouts.write(tmp_path / "bag", "mcap", "none" if change != "unpacked" else "file")
    (file,) = (f for f in folder.iterdir() if f.suffix != ".yaml")
    if change == "renamed":
        file.rename(folder / "monday.mcap")
    elif change == "unpacked":
        (folder / file.stem).write_bytes(zstd.decompress(file.read_bytes()))
        file.unlink()
    else:
        file.with_name(f"{file.name}.zstd").write_bytes(zstd.compress(file.read_bytes()))
        file.unlink()
    source = open_source(folder)
    assert layouts.places(source) == list(range(6)) and source.truncated == ""


def test_git_lfs_pointers_are_named(layouts, tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
    folder = layouts.write(tmp_path / "bag")
    (stored,) = folder.glob("*.mcap")
    for name in ("a.mcap", "b.bag", "c.mp4", "d.png"):
        (tmp_path / name).write_bytes(pointer)
        with pytest.raises(
            SourceError, match=f"{name} is a Git LFS pointer, not the file itself: fetch it by `git lfs"
        ):
            open_source(tmp_path / name)
    stored.write_bytes(pointer)
    with pytest.raises(SourceError, match="is a Git LFS pointer"):
        open_source(folder)


# Types


def test_char_counts_as_uint8_in_hashes_as_ros_2_makes_them(layouts, tmp_path):
    # The hash that ROS 2 Jazzy's std_msgs states in share/std_msgs/msg/Char.json.
    known = "RIHS01_3ad2d04dd29ba19d04b16659afa3ccaedd691914b02a64e82e252f2fa6a586a9"
    kind = "std_msgs/msg/Char"
    assert definition(kind, known) is not None and definition(kind)[1] == known
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        text = layouts.store.generate_msgdef(kind, ros_version=2)[0]
        connection = writer.add_connection("/letter", kind, msgdef=text, rihs01=known)
        writer.write(connection, 1, bytes(layouts.store.serialize_cdr(layouts.store.types[kind](data=65), kind)))
    (record,) = open_source(tmp_path / "bag", ["*"])
    assert record.message.message().data == 65


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
