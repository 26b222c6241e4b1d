"""rosbag1 files that were cut off in mid-write, so that their index is missing or damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO

from rosbags.interfaces import Connection, ConnectionExtRosbag1, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag1.reader import Header, RecordType, decompressors, normalize, read_bytes, read_uint32
from rosbags.typesys.msg import normalize_msgtype

from drive_seg.recordings.sources.scanned import ReadMessage, ScannedFile, in_words

_MAGIC = b"#ROSBAG V2.0\n"


class ScannedRos1(ScannedFile):
    """A rosbag1, version 2.0; a chunk counts where it is whole."""

    def __init__(self, path: Path) -> None:
        self._found: dict[int, tuple[Header, Header]] = {}
        super().__init__(path)

    def _scan(self, file: IO[bytes]) -> str:
        if file.read(len(_MAGIC)) != _MAGIC:
            return "it does not begin as a rosbag of version 2.0 does"
        size = self._path.stat().st_size
        while (offset := file.tell()) < size:
            try:
                header = Header.read(file)
                if header.get_uint8("op") != RecordType.CHUNK:
                    length = read_uint32(file)
                    if file.seek(length, os.SEEK_CUR) > size:
                        return "the file ends in the midst of a record"
                    continue
                messages = list(self._within(header, file))
            except Exception as error:  # damaged bytes make bz2, lz4 and struct raise errors of their own
                return in_words(error)
            self._add_block(offset, messages)
        return "its index is missing"

    def _found_connections(self) -> list[Connection]:
        return [self._connection(number, *headers) for number, headers in self._found.items()]

    def _messages_at(self, file: IO[bytes], offset: int) -> Iterator[ReadMessage]:
        file.seek(offset)
        return self._within(Header.read(file), file)

    def _within(self, header: Header, file: IO[bytes]) -> Iterator[ReadMessage]:
        """The messages of a chunk whose header was read; what it says of connections is kept."""
        unpack = decompressors[header.get_string("compression")]
        data = unpack(read_bytes(file, read_uint32(file)))
        chunk = BytesIO(data)
        while chunk.tell() < len(data):
            inner = Header.read(chunk)
            if inner.get_uint8("op") == RecordType.CONNECTION:
                self._found[inner.get_uint32("conn")] = inner, Header.read(chunk)
            else:
                content = read_bytes(chunk, read_uint32(chunk))
                yield ReadMessage(inner.get_uint32("conn"), inner.get_time("time"), content)

    def _connection(self, number: int, header: Header, about: Header) -> Connection:
        return Connection(
            number,
            normalize(header.get_string("topic")),
            normalize_msgtype(about.get_string("type")),
            MessageDefinition(MessageDefinitionFormat.MSG, about.get_string("message_definition")),
            about.get_string("md5sum"),
            self._counts[number],
            ConnectionExtRosbag1(None, int(about.get("latching", b"0") or 0)),
            self,
        )
