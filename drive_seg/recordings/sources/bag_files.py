"""The storage files of a bag: which they are, and how each is opened, also where its recording was cut off."""

from __future__ import annotations

import heapq
import logging
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import yaml
from rosbags.interfaces import Connection
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag2 import Reader as Reader2
from rosbags.typesys.msg import normalize_msgtype

from drive_seg.recordings.sources.file_kinds import (
    METADATA,
    ZSTD_MAGIC,
    bag_suffix,
    is_bag_name,
    is_packed,
    refuse_pointer,
)
from drive_seg.recordings.sources.scanned import in_words
from drive_seg.recordings.sources.topics import SourceError, so_many

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd  # which rosbags brings

UNKNOWN_TYPE = "__schemaless__"
"""What rosbags calls the type of a topic whose schema it did not find."""

_STAMP = r"\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d"
"""Local time in the names of rosbag2."""

log = logging.getLogger(__name__)


class OpenedBag:
    """The files of a bag as one stream.

    Args:
        readers: opened ones, of rosbags or with the same members.
        is2: whether it is a rosbag2.

    Attributes:
        connections: topics of every file, so each as often as there are files with it.
        message_count: of all topics.
        start_time, end_time: record time of the first message in ns, and the ns after the last.
    """

    def __init__(self, readers: Sequence[Any], is2: bool) -> None:
        self.is2 = is2
        self.connections: list[Connection] = [_named(each) for reader in readers for each in reader.connections]
        self.message_count: int = sum(reader.message_count for reader in readers)
        self.start_time: int = min(reader.start_time for reader in readers)
        self.end_time: int = max(reader.end_time for reader in readers)
        self._readers = readers

    def messages(
        self, topics: Mapping[str, str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """The messages of some topics (name -> type) in the order of their record times, also across files."""

        def stream(reader: Any) -> Iterator[tuple[Connection, int, bytes]]:
            named = {each.id: _named(each) for each in reader.connections}
            wanted = [each for each in reader.connections if topics.get(each.topic) == named[each.id].msgtype]
            for connection, time_ns, data in reader.messages(wanted, start, stop) if wanted else ():
                yield named[connection.id], time_ns, data

        for connection, time_ns, data in heapq.merge(*map(stream, self._readers), key=lambda message: message[1]):
            # No CDR begins so. Read off the bytes, since a single file of a bag comes without its metadata.
            packed = self.is2 and bytes(data[:4]) == ZSTD_MAGIC
            yield connection, time_ns, zstd.decompress(data) if packed else data


class BagFiles:
    """The files of one recording, checked. What has to be unpacked or repaired first lies in a temporary folder.

    Args:
        path: folder of a rosbag2, or one .mcap, .db3, .mcap.zstd, .db3.zstd, .bag or .bag.active file.

    Raises:
        SourceError: none of the files can be read.

    Attributes:
        lost: what the recording lacks (files that are missing, what lies behind a damage), one sentence each.
    """

    def __init__(self, path: Path) -> None:
        self.lost: list[str] = []
        self._folder: tempfile.TemporaryDirectory | None = None
        files = self._named(path) if path.is_dir() else [path]
        self._is2 = not any(bag_suffix(file) == ".bag" for file in files)
        made = [self._reader(file, only=len(files) == 1) for file in files]
        self._readers = [make for make in made if make is not None]
        if not files and not self.lost:
            self.lost.append("it holds none of a bag's files")
        if not self._readers:
            raise SourceError(f"{path} cannot be read as a rosbag: {'; '.join(self.lost)}.")
        for sentence in self.lost:
            log.warning("%s.", sentence)

    @contextmanager
    def opened(self) -> Iterator[OpenedBag]:
        """The recording, to read; several at a time do not disturb each other."""
        with ExitStack() as stack:
            readers = [stack.enter_context(make()) for make in self._readers]
            yield OpenedBag(readers, self._is2)

    def _named(self, folder: Path) -> list[Path]:
        """The storage files of a folder, by its metadata or else by their names."""
        listed = _listed_files(folder)
        if listed is None:
            return unlisted_files(folder)
        files = [_as_it_is_now(folder / name) for name in listed]
        missing = [file.name for file in files if not file.is_file()]
        others = sorted(file for file in folder.iterdir() if is_bag_name(file.name) and file not in files)
        if missing and len(missing) == len(others):  # they were renamed
            log.warning(
                "%s names %s, which is not there: taking %s.",
                folder / METADATA,
                ", ".join(missing),
                ", ".join(file.name for file in others),
            )
            renamed = iter(others)
            return [file if file.is_file() else next(renamed) for file in files]
        if missing:
            self.lost.append(f"{folder} lacks {', '.join(missing)}, which its {METADATA} names")
        return [file for file in files if file.is_file()]

    def _reader(self, file: Path, only: bool) -> Callable[[], AbstractContextManager] | None:
        """Opens a reader of a file, as a context; None where the file is given up, with the reason in lost."""
        try:
            plain = self._plain(file)
            make = partial(Reader2 if self._is2 else Reader1, plain)
            with make() as reader:
                whole = plain.suffix != ".mcap" or _is_indexed(reader)
            return make if whole else self._scanned(plain, file)
        except Exception as error:  # damaged files raise whatever their parser stumbled over
            try:
                return self._scanned(self._plain(file), file)
            except Exception as reason:
                return self._given_up(file, only, error, reason)

    def _given_up(self, file: Path, only: bool, error: Exception, reason: Exception) -> None:
        detail = in_words(reason if isinstance(reason, (ValueError, ImportError)) else error)
        self.lost.append(detail if only else f"{file} cannot be read as a rosbag: {detail}")

    def _scanned(self, plain: Path, file: Path) -> Callable[[], AbstractContextManager]:
        if not self._is2:
            from drive_seg.recordings.sources.scanned_ros1 import ScannedRos1 as Scanned
        elif plain.suffix == ".db3":
            from drive_seg.recordings.sources.scanned_sqlite import ScannedSqlite as Scanned
        else:
            try:
                from drive_seg.recordings.sources.scanned_mcap import ScannedMcap as Scanned
            except ImportError as error:
                raise ImportError(f"it is damaged, and only the Python package 'mcap' reads such ({error})") from error
        reader = Scanned(plain)
        if reader.damage:
            self.lost.append(
                f"{file} was cut off or damaged: {so_many(reader.message_count, 'message')} of "
                f"{(reader.end_time - reader.start_time) / 1e9:.3f} s could be saved ({reader.damage})"
            )
        return lambda: nullcontext(reader)

    def _plain(self, file: Path) -> Path:
        """The file itself, or an unpacked or completed copy of it, or a link of the name that its contents ask for."""
        refuse_pointer(file)
        if is_packed(file):
            name = file.name[:-5] if file.name.lower().endswith(".zstd") else f"unpacked_{file.name}"
            return self._plain(self._copied(file, name, _unpack))
        suffix = bag_suffix(file)
        log_file = file.with_name(file.name + "-wal")
        if suffix == ".db3" and log_file.is_file() and log_file.stat().st_size:
            from drive_seg.recordings.sources.scanned_sqlite import with_its_log

            return self._plain(self._copied(file, file.name, lambda source, copy: with_its_log(source, copy.parent)))
        if file.suffix == suffix or suffix == ".bag":
            return file
        return self._copied(file, file.name + suffix, lambda source, copy: copy.symlink_to(source.absolute()))

    def _copied(self, file: Path, name: str, make: Callable[[Path, Path], object]) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="drive_seg_bag_")
        copy = Path(self._folder.name, name)
        if not copy.exists():
            try:
                make(file, copy)
            except BaseException:
                copy.unlink(missing_ok=True)
                raise
        return copy


def unlisted_files(folder: Path) -> list[Path]:
    """The files of a recording that was never finished, so that no metadata names them.

    Raises:
        SourceError: it cannot be told which of several files belong together.
    """
    named = {file.name: file for file in folder.iterdir() if is_bag_name(file.name)}
    # A recorder that is killed while it compresses a file leaves the file and a part of the compressed one.
    doubled = {name for name in named if name.endswith(".zstd") and name.removesuffix(".zstd") in named}
    files = sorted((file for name, file in named.items() if name not in doubled), key=_number)
    # rosbag2 names the files of a split recording so: up to Kilted by the first pattern, since Lyrical by the second.
    name = folder.resolve().name
    patterns = rf"{re.escape(name)}_\d+\..+", rf"\d+_{re.escape(re.sub(f'_{_STAMP}$', '', name))}_{_STAMP}\..+"
    of_one = any(all(re.fullmatch(pattern, file.name) for file in files) for pattern in patterns)
    if len(files) > 1 and not of_one:
        raise SourceError(
            f"{folder} holds {len(files)} recordings ({files[0].name}, {files[1].name}, ...) and no {METADATA} "
            f"that makes them one: name one of these files, or run `ros2 bag reindex {folder}`."
        )
    return files


def _listed_files(folder: Path) -> list[str] | None:
    """The file names in metadata.yaml; None where there is none that can be read (a power cut leaves it empty)."""
    try:
        document = yaml.safe_load((folder / METADATA).read_text(encoding="utf-8"))
        names = [PurePath(name).name for name in document["rosbag2_bagfile_information"]["relative_file_paths"]]
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError) as error:
        log.warning("%s cannot be read (%s): going by the files beside it.", folder / METADATA, in_words(error))
        return None
    return names or None


def _named(connection: Connection) -> Connection:
    """A topic with its type as ROS 2 writes it: some recorders leave out the "msg" of sensor_msgs/msg/Image."""
    msgtype = connection.msgtype
    return connection._replace(msgtype=normalize_msgtype(msgtype)) if msgtype.count("/") == 1 else connection


def _is_indexed(reader: Reader2) -> bool:
    """Whether a reader of rosbags finds all messages of an mcap file by its summary, as far as can be told.

    Without a chunk index it wants them in order and ends at the first that is not; without a message index, channels or
    schemas in the summary it finds none.
    """
    storage, known = reader.storage, {connection.id for connection in reader.connections}
    return not reader.message_count or (
        bool(storage.chunks)
        and all(chunk.message_index_offsets for chunk in storage.chunks)
        and storage.statistics.channel_message_counts.keys() <= known
        and all(connection.msgtype != UNKNOWN_TYPE for connection in reader.connections)
    )


def _as_it_is_now(file: Path) -> Path:
    """A file that was packed or unpacked since its name was written down."""
    packed = file.with_name(file.name + ".zstd")
    unpacked = file.with_name(file.name.removesuffix(".zstd"))
    return next((path for path in (file, unpacked, packed) if path.is_file()), file)


def _number(file: Path) -> tuple[int, str]:
    match = re.match(rf"(\d+)_.+_{_STAMP}\.", file.name) or re.search(r"_(\d+)\.", file.name)
    return (int(match[1]) if match else -1), file.name


def _unpack(file: Path, copy: Path) -> None:
    with zstd.open(file, "rb") as packed, copy.open("wb") as plain:
        try:
            shutil.copyfileobj(packed, plain)
        except (EOFError, zstd.ZstdError) as error:
            # What came before is read as a recording that was cut off.
            log.warning("%s is cut off or damaged: %s.", file, in_words(error))
    if not copy.stat().st_size:
        raise ValueError("it is not compressed by zstd, or was cut off at its beginning")
