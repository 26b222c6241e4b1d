"""Is a JPEG or PNG file whole? Checked before decoding: OpenCV fills the missing part of a truncated JPEG
with grey and tells only the console.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

from drive_seg.image_encodings import ImageError

FileKind = Literal["jpeg", "png"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLORS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_JPEG_START = b"\xff\xd8\xff"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# Markers that stand alone, without a length: TEM and the restart markers.
_BARE_MARKERS = {0x01, *range(0xD0, 0xD8)}


@dataclass(frozen=True)
class PngLayout:
    """What a PNG's header says about its pixels."""

    width: int
    height: int
    bit_depth: int
    color_type: int

    @property
    def is_grey(self) -> bool:
        """One channel of grey, no alpha and no palette."""
        return self.color_type == 0

    def describe(self) -> str:
        """For example ``16-bit RGBA``."""
        return f"{self.bit_depth}-bit {_PNG_COLORS.get(self.color_type, f'colour type {self.color_type}')}"


def is_lfs_pointer(content: bytes) -> bool:
    """Whether a file's beginning is that of a Git LFS pointer, which stands for a file that was not fetched."""
    return content.startswith(_LFS_POINTER)


def why_no_image(content: bytes) -> str:
    """What a file is that cannot be decoded as an image, to be read after "it"."""
    if not content:
        return "is empty"
    if is_lfs_pointer(content):
        return "is a Git LFS pointer, not the file itself: fetch it by `git lfs pull`"
    return "is not an image that OpenCV can read"


def file_kind(content: memoryview) -> FileKind | None:
    """``"jpeg"`` or ``"png"`` by the first bytes, None for anything else."""
    if content[:8] == _PNG_SIGNATURE:
        return "png"
    return "jpeg" if content[:3] == _JPEG_START else None


def check_png(content: memoryview) -> PngLayout:
    """Walk the chunks of a PNG and compare their checksums; bytes after the last chunk are allowed.

    Raises:
        ImageError: the file ends early, a chunk is damaged, or it does not begin with its header.
    """
    layout = None
    position = len(_PNG_SIGNATURE)
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        body_end = position + 8 + length
        if body_end + 4 > len(content):
            break
        name = bytes(content[position + 4 : position + 8])
        (checksum,) = struct.unpack_from(">I", content, body_end)
        if zlib.crc32(content[position + 4 : body_end]) != checksum:
            raise ImageError(f"the png data is corrupt: the checksum at byte {body_end} does not fit")
        if layout is None:
            if name != b"IHDR" or length != 13:
                raise ImageError("the png data is corrupt: it does not begin with a header")
            layout = PngLayout(*struct.unpack_from(">IIBB", content, position + 8))
        if name == b"IEND":
            return layout
        position = body_end + 4
    raise ImageError(f"the png data is truncated: it has no end within its {len(content)} bytes")


def check_jpeg(content: memoryview) -> None:
    """Find a JPEG's end marker behind the beginning of its pixels; bytes after it (cameras pad) are allowed.

    The search begins there because a thumbnail in the EXIF header has an end marker of its own. JPEG has no
    checksum: damaged bytes in the middle of a whole file cannot be noticed.

    Raises:
        ImageError: the file ends early or its segments lead nowhere.
    """
    pixels = _jpeg_scan_start(content)
    # Within the pixels every 0xFF byte of data is followed by 0x00, so this pair can only be the marker.
    if pixels is None or bytes(content[pixels:]).find(bytes((0xFF, _END_OF_IMAGE))) < 0:
        raise ImageError(f"the jpeg data is truncated: it has no end marker within its {len(content)} bytes")


def _jpeg_scan_start(content: memoryview) -> int | None:
    """Index of the first start-of-scan segment, None where the file ends before it."""
    position = 2
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            raise ImageError(f"the jpeg data is corrupt: no segment begins at byte {position}")
        marker = content[position + 1]
        if marker == _START_OF_SCAN:
            return position
        if marker == 0xFF:  # fill byte before a marker
            position += 1
        elif marker in _BARE_MARKERS:
            position += 2
        else:
            (length,) = struct.unpack_from(">H", content, position + 2)
            position += 2 + max(length, 2)
    return None
