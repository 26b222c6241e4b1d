"""Writing of a rosbag2 that is either finished or named ``.partial``. No rclpy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError


class BagError(RuntimeError):
    """A bag cannot be written; the message is one sentence."""


# How rclpy and rosbag2 write that there is no limit.
_FOREVER = QosTime(9223372036, 854775807)
STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}


def reliable(depth: int = 1, latched: bool = False) -> Qos:
    """What a reliable publisher offers, as the bag's metadata holds it; a latched one also to those who come later."""
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )


class BagWriter:
    """A rosbag2 folder with one storage file, written in ``<path>.partial`` and put in place by ``close``.

    Args:
        path: the bag's folder; it must not exist.
        compress: zstd on the file's chunks, which every mcap reader (also ``ros2 bag``) undoes by itself.
        storage: "mcap", or "sqlite3", which cannot be compressed.

    Raises:
        BagError: the storage is unknown or cannot be compressed, the bag or what a killed recording left is already
            there, or the folder cannot be made.
    """

    VERSION = 9

    def __init__(self, path: str | Path, compress: bool = False, storage: str = "mcap") -> None:
        if storage not in STORAGES:
            raise BagError(f"The storage of a bag is {' or '.join(STORAGES)}, not '{storage}'.")
        if compress and storage != "mcap":
            raise BagError(f"Only mcap files are compressed while they are written, not {storage}.")
        self.path = Path(path)
        self.counts: dict[str, int] = {}
        self.partial = self.path.with_name(self.path.name + ".partial")
        if self.path.exists():
            raise BagError(f"{self.path} exists already; choose another name or remove it.")
        if self.partial.exists():
            raise BagError(f"{self.partial} is there, from a recording that runs or was killed; move it away first.")
        # The files within get the finished bag's name, so that they need not be renamed nor metadata edited.
        self._writer = Writer(self.partial / self.path.name, version=self.VERSION, storage_plugin=STORAGES[storage])
        if compress:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        try:
            self._writer.open()
        except (OSError, WriterError) as error:
            raise BagError(f"{self.path} cannot be written: {error}.") from error

    def add(self, topic: str, type_name: str, text: str, type_hash: str, offered: Sequence[Qos] = ()) -> Connection:
        """Add a topic: its type's definition text and RIHS01 hash, and the QoS its publishers offer."""
        self.counts.setdefault(topic, 0)
        return self._writer.add_connection(
            topic, type_name, msgdef=text, rihs01=type_hash, offered_qos_profiles=offered
        )

    def write(self, connection: Connection, time_ns: int, cdr: bytes) -> None:
        """Append a message, CDR as it came, under its record time."""
        self._writer.write(connection, time_ns, cdr)
        self.counts[connection.topic] += 1

    @property
    def messages(self) -> int:
        """How many messages were written."""
        return sum(self.counts.values())

    def close(self) -> None:
        """Finish the files, sync them and put the bag in place. A bag without messages is not left behind."""
        self._writer.close()
        written = self.partial / self.path.name
        if self.messages == 0:
            _remove(written)
            self.partial.rmdir()
            return
        for file in [*written.iterdir(), written]:
            _sync(file)
        os.replace(written, self.path)
        self.partial.rmdir()
        _sync(self.path.parent)

    def discard(self) -> None:
        """End without a bag: what was written is removed."""
        self._writer.abort()
        _remove(self.partial / self.path.name)
        self.partial.rmdir()


def _remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
