"""JPEG, PNG and other picture files: decoded if they are whole. OpenCV alone fills the missing part of a truncated JPEG
with grey and tells only the console.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from drive_seg.images.encodings import ImageError

FileKind = Literal["jpeg", "png"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLORS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_JPEG_START = b"\xff\xd8\xff"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_ORIENTATION, _UPRIGHT = 0x0112, 1
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


def read_whole(path: Path) -> bytes:
    """The bytes of a picture file that, if it is JPEG or PNG, is whole.

    Raises:
        ValueError: it is not, or cannot be read: "cannot be read: ...", to be read after the file's name.
    """
    try:
        content = path.read_bytes()
        kind = file_kind(memoryview(content))
        if kind == "png":
            check_png(memoryview(content))
        elif kind == "jpeg":
            check_jpeg(memoryview(content))
    except (OSError, ImageError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"cannot be read: {reason}") from None
    return content


def decode_file(content: bytes, flags: int = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) -> np.ndarray:
    """The pixels of a picture file, by default uint8 BGR [H, W, 3] as stored: an EXIF orientation does not turn it.

    Raises:
        ValueError: they cannot be decoded: "cannot be read: ...", to be read after the file's name.
    """
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except cv2.error:
        picture = None
    if picture is None:
        raise ValueError(f"cannot be read: it {_why_no_image(content)}")
    return picture


def orientation(content: bytes) -> int:
    """The EXIF orientation of a JPEG or PNG, 1 to 8; 1 (upright) where it states none."""
    view = memoryview(content)
    try:
        if file_kind(view) == "jpeg":
            end = _jpeg_scan_start(view) or len(view)
            found = view[:end].tobytes().find(b"Exif\0\0")
            return _of_exif(view[found + 6 : end]) if found > 0 else _UPRIGHT
        if file_kind(view) == "png":
            found = view.tobytes().find(b"eXIf")
            return _of_exif(view[found + 4 :]) if found > 0 else _UPRIGHT
    except (ImageError, struct.error):
        pass
    return _UPRIGHT


def _of_exif(tiff: memoryview) -> int:
    order = "<" if tiff[:2] == b"II" else ">"
    (place,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, place)
    for entry in range(place + 2, place + 2 + 12 * count, 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
        if tag == _ORIENTATION:
            return value if 1 <= value <= 8 else _UPRIGHT
    return _UPRIGHT


def is_lfs_pointer(content: bytes) -> bool:
    """Whether a file's beginning is that of a Git LFS pointer, which stands for a file that was not fetched."""
    return content.startswith(_LFS_POINTER)


def _why_no_image(content: bytes) -> str:
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
