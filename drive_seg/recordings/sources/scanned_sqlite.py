"""sqlite3 bags that were cut off in mid-write: every message that can still be read."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat

from drive_seg.recordings.sources.scanned import offered_qos

_FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}


class ScannedSqlite:
    """The messages of a sqlite3 bag up to its first damage, found by reading it once in the order of writing.

    Its members and errors are those of :class:`drive_seg.recordings.sources.scanned.ScannedFile`.
    """

    def __init__(self, path: Path) -> None:
        self.damage = ""
        self._path = path
        # (record time in ns, row, topic) of what can be read, sorted: the file's own index may be damaged.
        self._rows: list[tuple[int, int, int]] = []
        try:
            with closing(self._connected()) as database:
                topics, definitions = _rows_as_dicts(database, "topics"), _definitions(database)
                self._scan(database)
        except sqlite3.Error as error:
            raise ValueError(str(error)) from error
        if not self._rows:
            raise ValueError(self.damage or "it holds no messages")
        self._rows.sort()
        counts: dict[int, int] = {}
        for _, _, topic in self._rows:
            counts[topic] = counts.get(topic, 0) + 1
        self.connections = [self._connection(topic, definitions, counts) for topic in topics]
        self.message_count = len(self._rows)
        self.start_time, self.end_time = self._rows[0][0], self._rows[-1][0] + 1

    def messages(
        self, connections: Sequence[Connection], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """The messages with record times of start..stop (ns, stop exclusive) in the order of these times."""
        wanted = {connection.id: connection for connection in connections}
        with closing(self._connected()) as database:
            for time_ns, row, topic in self._rows:
                if topic in wanted and (start is None or time_ns >= start) and (stop is None or time_ns < stop):
                    (data,) = database.execute("SELECT data FROM messages WHERE rowid = ?", (row,)).fetchone()
                    yield wanted[topic], time_ns, data

    def _connected(self) -> sqlite3.Connection:
        database = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        # Only so does SQLite open a file that is shorter than its header says.
        database.execute("PRAGMA writable_schema = ON")
        return database

    def _scan(self, database: sqlite3.Connection) -> None:
        rows = database.execute("SELECT timestamp, rowid, topic_id, data FROM messages NOT INDEXED ORDER BY rowid")
        try:
            self._rows += ((time_ns, row, topic) for time_ns, row, topic, _ in rows)
        except sqlite3.Error as error:
            self.damage = str(error)

    def _connection(self, topic: dict[str, Any], definitions: dict[str, MessageDefinition], counts: dict) -> Connection:
        return Connection(
            topic["id"],
            topic["name"],
            topic["type"],
            definitions.get(topic["type"], MessageDefinition(MessageDefinitionFormat.NONE, "")),
            topic.get("type_description_hash", ""),
            counts.get(topic["id"], 0),
            ConnectionExtRosbag2(topic["serialization_format"], offered_qos(topic.get("offered_qos_profiles", ""))),
            self,
        )


def with_its_log(path: Path, folder: Path) -> Path:
    """A copy of a database in ``folder`` with its write-ahead log (``<name>-wal``) worked in.

    Raises:
        ValueError: the log cannot be worked in.
    """
    log = path.with_name(path.name + "-wal")
    copy = folder / path.name
    try:
        for file in (path, log):
            shutil.copyfile(file, folder / file.name)
        with closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except (OSError, sqlite3.Error) as error:
        raise ValueError(f"its log {log.name} cannot be worked in: {error}") from error
    return copy


def _rows_as_dicts(database: sqlite3.Connection, table: str) -> list[dict[str, Any]]:
    rows = database.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in rows.description]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _definitions(database: sqlite3.Connection) -> dict[str, MessageDefinition]:
    """By type; empty where the bag is older than them, or they are damaged."""
    try:
        rows = _rows_as_dicts(database, "message_definitions")
    except sqlite3.Error:
        return {}
    return {
        row["topic_type"]: MessageDefinition(_FORMATS[row["encoding"]], row["encoded_message_definition"])
        for row in rows
        if row["encoding"] in _FORMATS
    }
