"""mcap files that rosbags refuses: cut off in mid-write, without an index, or not declared as ROS 2's."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from mcap.exceptions import EndOfFile
from mcap.records import Channel, Chunk, McapRecord, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat

from drive_seg.recordings.sources.scanned import ReadMessage, ScannedFile, in_words, offered_qos

_FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}


class ScannedMcap(ScannedFile):
    """An mcap file; a chunk counts where it is whole and its checksum fits.

    Raises:
        ValueError: also where the file holds other messages than ROS 2's.
    """

    def __init__(self, path: Path) -> None:
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        super().__init__(path)
        others = sorted({channel.message_encoding for channel in self._channels.values()} - {"cdr"})
        if not self.message_count and others:
            raise ValueError(f"its messages are {', '.join(others)}, not ROS 2's CDR")

    def _scan(self, file: IO[bytes]) -> str:
        # No record can be longer than the file: a damaged length must not be believed.
        size = self._path.stat().st_size
        records = StreamReader(file, emit_chunks=True, record_size_limit=size).records
        while True:
            offset = file.tell()
            try:
                record = next(records, None)
                if record is None:
                    return ""
                inner = _within(record, check=True)
            except EndOfFile:
                return "the file ends without its closing record"
            except Exception as error:  # damaged bytes make lz4, zstd and struct raise errors of their own
                return in_words(error)
            for part in inner:
                if isinstance(part, Schema):
                    self._schemas[part.id] = part
                elif isinstance(part, Channel):
                    self._channels.setdefault(part.id, part)
            self._add_block(offset, [_read(part) for part in inner if self._is_ros2(part)])

    def _found_connections(self) -> list[Connection]:
        return [self._connection(c) for c in self._channels.values() if c.message_encoding == "cdr"]

    def _messages_at(self, file: IO[bytes], offset: int) -> list[ReadMessage]:
        file.seek(offset)
        record = next(StreamReader(file, skip_magic=True, emit_chunks=True).records)
        return [_read(part) for part in _within(record) if self._is_ros2(part)]

    def _is_ros2(self, record: McapRecord) -> bool:
        channel = self._channels.get(record.channel_id) if isinstance(record, Message) else None
        return channel is not None and channel.message_encoding == "cdr"

    def _connection(self, channel: Channel) -> Connection:
        schema = self._schemas.get(channel.schema_id)
        kind = _FORMATS.get(schema.encoding if schema else "", MessageDefinitionFormat.NONE)
        text = schema.data.decode("utf-8", "replace") if schema and kind != MessageDefinitionFormat.NONE else ""
        offered = offered_qos(channel.metadata.get("offered_qos_profiles", ""))
        return Connection(
            channel.id,
            channel.topic,
            schema.name if schema else "",
            MessageDefinition(kind, text),
            "",
            self._counts[channel.id],
            ConnectionExtRosbag2(channel.message_encoding, offered),
            self,
        )


def _within(record: McapRecord, check: bool = False) -> list[McapRecord]:
    return breakup_chunk(record, validate_crc=check) if isinstance(record, Chunk) else [record]


def _read(message: Message) -> ReadMessage:
    return ReadMessage(message.channel_id, message.log_time, message.data)
