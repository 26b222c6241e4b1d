"""Bags are finished or called partial, carry their types' definitions, and read back byte for byte."""

import os
import signal
import subprocess
import sys

import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from drive_seg.recordings.bag_writer import BagError, BagWriter
from drive_seg.recordings.message_types import definition, message_class

STRING = "std_msgs/msg/String"
CDR = [b"\x00\x01\x00\x00\x02\x00\x00\x00a\x00\x00\x00", b"\x00\x01\x00\x00\x02\x00\x00\x00b\x00\x00\x00"]


def write(path, compress=False, storage="mcap"):
    bag = BagWriter(path, compress, storage)
    connection = bag.add("/words", STRING, *definition(STRING))
    for i, cdr in enumerate(CDR):
        bag.write(connection, 10 + i, cdr)
    return bag


@pytest.mark.parametrize(("compress", "storage"), [(False, "mcap"), (True, "mcap"), (False, "sqlite3")])
def test_bag_reads_back_byte_for_byte(tmp_path, compress, storage):
    file = "out.mcap" if storage == "mcap" else "out.db3"
    bag = write(tmp_path / "out", compress, storage)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.partial"]
    bag.close()
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "out",
        *sorted(["out/metadata.yaml", f"out/{file}"]),
    ]
    for path in (tmp_path / "out", tmp_path / "out" / file):
        with AnyReader([path]) as reader:
            read = [(c.topic, c.msgtype, t, bytes(data)) for c, t, data in reader.messages()]
            words = [reader.deserialize(data, STRING).data for *_, data in read]
        assert read == [("/words", STRING, 10, CDR[0]), ("/words", STRING, 11, CDR[1])]
        assert words == ["a", "b"]


def test_nothing_is_overwritten(tmp_path):
    write(tmp_path / "out").close()
    with pytest.raises(BagError, match="out exists already"):
        BagWriter(tmp_path / "out")
    (tmp_path / "new.partial").mkdir()
    with pytest.raises(BagError, match=r"new\.partial is there, from a recording that runs or was killed"):
        BagWriter(tmp_path / "new")


def test_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BagError, match="cannot be written"):
        BagWriter(tmp_path / "file" / "out")


def test_bag_without_messages_leaves_nothing(tmp_path):
    bag = BagWriter(tmp_path / "out")
    bag.add("/words", STRING, *definition(STRING))
    bag.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_discarded_bag_leaves_nothing(tmp_path, storage):
    write(tmp_path / "out", storage=storage).discard()
    assert list(tmp_path.iterdir()) == []


def test_storage_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(BagError, match="storage of a bag is mcap or sqlite3, not 'bag'"):
        BagWriter(tmp_path / "out", storage="bag")
    with pytest.raises(BagError, match="Only mcap files are compressed"):
        BagWriter(tmp_path / "out", compress=True, storage="sqlite3")
    assert list(tmp_path.iterdir()) == []


def test_killed_writer_leaves_what_is_called_partial(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from drive_seg.recordings.bag_writer import BagWriter\n"
        "from drive_seg.recordings.message_types import definition\n"
        "bag = BagWriter(sys.argv[1])\n"
        "bag.write(bag.add('/words', 'std_msgs/msg/String', *definition('std_msgs/msg/String')), 1, bytes(12))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["out.partial"]


def test_definitions_are_those_of_the_installed_packages():
    text, digest = definition("sensor_msgs/msg/Image")
    store = get_typestore(Stores.ROS2_JAZZY)
    assert digest == store.hash_rihs01("sensor_msgs/msg/Image")
    assert "MSG: std_msgs/Header" in text
    assert "MSG: builtin_interfaces/Time" in text
    assert definition("sensor_msgs/msg/Image", digest) == (text, digest)
    assert definition("sensor_msgs/msg/Image", "RIHS01_" + 64 * "0") is None
    assert definition("nobody_msgs/msg/Nothing") is None


def test_definition_of_a_package_that_only_its_share_folder_knows(tmp_path, monkeypatch):
    folder = tmp_path / "share" / "our_msgs" / "msg"
    folder.mkdir(parents=True)
    (folder / "Marking.msg").write_text("std_msgs/Header header\nour_msgs/Lane[] lanes\nfloat32 WIDEST=4.5\n")
    (folder / "Lane.msg").write_text("geometry_msgs/Point[2] ends\nstring<=8 name\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    text, digest = definition("our_msgs/msg/Marking")
    assert text.count("MSG: ") == 4
    assert "our_msgs/Lane" in text
    assert digest.startswith("RIHS01_")


def test_classes_are_found_by_name():
    assert message_class("std_msgs/msg/String").__name__ == "String"
    for unknown in ("nobody_msgs/msg/Nothing", "std_msgs/msg/Nothing", "std_msgs/String", ""):
        assert message_class(unknown) is None
