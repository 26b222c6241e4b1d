"""Recordings that were cut off or damaged give what is whole in them, and say what is lost."""

import shutil
import sqlite3

import pytest
from mcap.writer import CompressionType, IndexType

from drive_seg.recordings.sources import SourceError, open_source
from drive_seg.recordings.sources.bag_files import unlisted_files


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


@pytest.mark.parametrize("compression", list(CompressionType))
@pytest.mark.parametrize("chunked", [True, False])
def test_cut_mcap_gives_what_is_whole(layouts, tmp_path, caplog, compression, chunked):
    options = {} if chunked else {"use_chunking": False, "index_types": IndexType.NONE}
    file = layouts.write_mcap(tmp_path / "a.mcap", range(20), compression, **options)
    source = open_source(cut(file, 0.6))
    places = layouts.places(source)
    assert places == list(range(len(places)))
    assert 9 <= len(places) <= 12
    assert source.expected == len(places)
    assert f"a.mcap was cut off or damaged: {len(places)} messages of " in source.truncated
    assert "could be saved (" in source.truncated
    assert source.truncated in caplog.text
    assert source.seconds == pytest.approx((len(places) - 1) / 10, abs=1e-6)
    early = open_source(file, duration=0.35)
    assert layouts.places(early) == [0, 1, 2, 3]
    assert early.truncated == ""  # nothing of this slice is lost


def test_cut_mcap_keeps_the_order_of_record_times(layouts, tmp_path):
    file = cut(layouts.write_mcap(tmp_path / "a.mcap", [0, 3, 1, 2, 5, 4, 7, 6, 8, 9]), 0.85)
    places = layouts.places(open_source(file))
    assert places == sorted(places)
    assert len(places) >= 6


def test_folder_of_a_recording_that_never_ended(layouts, tmp_path):
    folder = tmp_path / "drive"
    folder.mkdir()
    cut(layouts.write_mcap(folder / "drive_0.mcap"), 0.7)
    source = open_source(folder)
    places = layouts.places(source)
    assert len(places) >= 6
    assert "drive_0.mcap was cut off or damaged" in source.truncated
    layouts.write_mcap(folder / "drive_1.mcap", range(12, 16))
    assert layouts.places(open_source(folder)) == [*places, 12, 13, 14, 15]


def test_one_file_of_a_split_bag_that_cannot_be_read_at_all(layouts, tmp_path):
    folder = layouts.write_split(tmp_path / "drive", "mcap", [[0, 1], [2, 3]])
    (folder / "drive_1.mcap").write_bytes(b"")
    source = open_source(folder)
    assert layouts.places(source) == [0, 1]
    assert "drive_1.mcap cannot be read as a rosbag: " in source.truncated


def test_mcap_cut_before_its_first_chunk_is_refused(layouts, tmp_path):
    file = layouts.write_mcap(tmp_path / "a.mcap")
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(SourceError, match=r"rosbag: it was cut off or damaged before its first messages were whole"):
        open_source(file)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cut_sqlite_gives_what_is_whole(layouts, tmp_path, share):
    folder = layouts.write(tmp_path / "bag", "sqlite3", indices=range(60))
    cut(folder / "bag.db3", share)
    source = open_source(folder)
    places = layouts.places(source)
    assert places == list(range(len(places)))
    assert 60 * share - 6 <= len(places) < 60
    assert "bag.db3 was cut off or damaged" in source.truncated
    assert layouts.places(open_source(folder, start=0.95, duration=0.2)) == [10, 11]


def test_sqlite_cut_at_its_beginning_is_refused(layouts, tmp_path):
    folder = layouts.write(tmp_path / "bag", "sqlite3")
    file = folder / "bag.db3"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(SourceError, match="cannot be read as a rosbag: "):
        open_source(folder)


def test_sqlite_with_its_write_ahead_log_and_without(layouts, tmp_path):
    folder = layouts.write(tmp_path / "whole", "sqlite3", indices=range(4))
    database = sqlite3.connect(folder / "whole.db3")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA wal_autocheckpoint = 0")
    for i in (4, 5):
        database.execute(
            "INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)",
            (layouts.pictures.record_ns(i), layouts.pictures.cdr(i)),
        )
        database.commit()
    killed = tmp_path / "killed"  # as a recorder leaves it that was killed
    killed.mkdir()
    shutil.copy(folder / "whole.db3", killed / "killed_0.db3")
    shutil.copy(folder / "whole.db3-wal", killed / "killed_0.db3-wal")
    database.close()
    before = (killed / "killed_0.db3").read_bytes()
    assert layouts.places(open_source(killed)) == [0, 1, 2, 3, 4, 5]
    assert layouts.places(open_source(killed / "killed_0.db3")) == [0, 1, 2, 3, 4, 5]
    assert (killed / "killed_0.db3").read_bytes() == before
    (killed / "killed_0.db3-wal").unlink()
    assert layouts.places(open_source(killed)) == [0, 1, 2, 3]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_cut_zstd_file_gives_what_can_be_unpacked(layouts, tmp_path, storage):
    folder = layouts.write(tmp_path / "bag", storage, "file", indices=range(300))
    (file,) = folder.glob("*.zstd")
    cut(file, 0.7)
    source = open_source(folder)
    places = layouts.places(source)
    assert places == list(range(len(places)))
    assert 100 < len(places) < 300
    assert "was cut off or damaged" in source.truncated


@pytest.mark.parametrize("compression", [None, "BZ2", "LZ4"])
def test_cut_rosbag1_gives_what_is_whole(layouts, tmp_path, compression):
    file = layouts.write_ros1(tmp_path / "a.bag", range(20), compression)
    cut(file, 0.6)
    source = open_source(file)
    places = layouts.places(source)
    assert places == list(range(len(places)))
    assert 9 <= len(places) <= 12
    assert f"a.bag was cut off or damaged: {len(places)} messages of " in source.truncated
    file.rename(tmp_path / "a.bag.active")  # as rosbag calls it while it records
    assert layouts.places(open_source(tmp_path / "a.bag.active")) == places


def test_recorder_killed_while_it_compressed_a_file(layouts, tmp_path):
    folder = layouts.write(tmp_path / "bag")
    (folder / "metadata.yaml").unlink()
    (folder / "bag.mcap.zstd").write_bytes(b"\x28\xb5\x2f\xfd and then nothing")
    source = open_source(folder)
    assert layouts.places(source) == [0, 1, 2, 3, 4, 5]
    assert source.truncated == ""


def test_folder_with_a_metadata_file_but_no_bag_is_refused(layouts, tmp_path):
    (tmp_path / "metadata.yaml").write_text("about: pictures\n")
    with pytest.raises(SourceError, match="cannot be read as a rosbag: it holds none of a bag's files"):
        open_source(tmp_path)
    folder = layouts.write(tmp_path / "bag")
    (folder / "bag.mcap").unlink()
    with pytest.raises(SourceError, match=r"rosbag: .*bag lacks bag\.mcap, which its metadata\.yaml names"):
        open_source(folder)


def test_split_recording_named_as_the_current_folder(layouts, tmp_path, monkeypatch):
    folder = tmp_path / "drive"
    folder.mkdir()
    for number, indices in enumerate([[0, 1], [2], [3, 4]]):
        layouts.write_mcap(folder / f"drive_{number}.mcap", indices)
    monkeypatch.chdir(folder)
    assert layouts.places(open_source(".")) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("folder", ["drive", "drive_2026_05_23-10_11_12"])
def test_split_recording_of_lyrical_that_was_never_finished(layouts, tmp_path, folder):
    """The counter comes first, and the seconds at the end, which go on from 58 to 03, are none."""
    for number, (second, indices) in enumerate([(58, [0, 1]), (59, [2]), (3, [3, 4])]):
        file = tmp_path / folder / f"{number}_drive_2026_05_23-10_11_{second:02}.mcap"
        file.parent.mkdir(exist_ok=True)
        layouts.write_mcap(file, indices)
    assert [file.name[0] for file in unlisted_files(tmp_path / folder)] == ["0", "1", "2"]
    assert layouts.places(open_source(tmp_path / folder)) == [0, 1, 2, 3, 4]


def test_zstd_that_is_none_is_refused(layouts, tmp_path):
    file = tmp_path / "a.mcap.zstd"
    file.write_bytes(b"this is no zstd at all")
    with pytest.raises(SourceError, match="it is not compressed by zstd, or was cut off at its beginning"):
        open_source(file)
