"""What a video file says of itself that OpenCV does not pass on: is it whole, and which YUV are its colours.

MP4 and MOV consist of boxes (ISO/IEC 14496-12), AVI of one RIFF chunk.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

_ALL_KINDS = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp", b"sidx", b"mfra", b"uuid"}
_TO_ENTRIES = (b"mdia", b"minf", b"stbl", b"stsd")
_ENTRY_HEADER, _LIST_HEADER = 86, 8


class _Box(NamedTuple):
    """A box: its kind, where its contents begin, and where it ends by its own account."""

    kind: bytes
    begin: int
    end: int


def missing_bytes(path: Path) -> int:
    """How many bytes a video file lacks at its end by its own account; 0 where it tells nothing."""
    size = path.stat().st_size
    with path.open("rb") as file:
        beginning = file.read(12)
        if beginning[:4] == b"RIFF":
            return max(0, 8 + struct.unpack_from("<I", beginning, 4)[0] - size)
        if beginning[4:8] not in _ALL_KINDS:
            return 0
        return max(0, max((box.end for box in _boxes(file, 0, size)), default=0) - size)


def color_matrix(path: Path) -> int | None:
    """Matrix coefficients of the first video track, a code of ITU-T H.273 (1 is BT.709); None where it is not said."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(4)
        if file.read(4) not in _ALL_KINDS:
            return None
        for moov in _inside(file, _Box(b"", 0, size), b"moov"):
            for track in _inside(file, moov, b"trak"):
                if (found := _matrix_of(file, track)) is not None:
                    return found
    return None


def _matrix_of(file: IO[bytes], track: _Box) -> int | None:
    box: _Box | None = track
    for kind in _TO_ENTRIES:
        box = next(_inside(file, box, kind), None)
        if box is None:
            return None
    for entry in _boxes(file, box.begin + _LIST_HEADER, box.end):
        for colr in _inside(file, entry._replace(begin=entry.begin + _ENTRY_HEADER - 8), b"colr"):
            file.seek(colr.begin)
            contents = file.read(10)
            if contents[:4] in (b"nclx", b"nclc") and len(contents) == 10:
                return struct.unpack_from(">H", contents, 8)[0]
    return None


def _inside(file: IO[bytes], box: _Box, kind: bytes) -> Iterator[_Box]:
    return (inner for inner in _boxes(file, box.begin, box.end) if inner.kind == kind)


def _boxes(file: IO[bytes], begin: int, end: int) -> Iterator[_Box]:
    while begin + 8 <= end:
        file.seek(begin)
        header = file.read(16)
        if len(header) < 8:
            return
        length, kind = struct.unpack_from(">I4s", header)
        contents = begin + 8
        if length == 1 and len(header) == 16:
            contents, length = begin + 16, struct.unpack_from(">Q", header, 8)[0]
        elif length == 0:  # to the end of the file
            length = end - begin
        if length < contents - begin:
            return
        yield _Box(kind, contents, begin + length)
        begin += length
