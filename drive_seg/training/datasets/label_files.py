"""Reading picture and label files, whole or not at all."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from drive_seg.image_encodings import ImageError
from drive_seg.image_files import check_jpeg, check_png, file_kind

_GREY, _PALETTE = 0, 3
_SIGNATURE = 8
_DEPTH_AND_COLOR = 24  # where the header of a PNG says its bits per channel; the colour type comes next


def read_picture(path: Path) -> np.ndarray:
    """A picture as stored (an EXIF orientation does not turn it, since it would not turn the labels).

    Returns:
        uint8 BGR [H, W, 3].

    Raises:
        ValueError: saying what is wrong, as "cannot be read: ..."; the file's name is left to the caller.
    """
    return _decoded(_whole(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def read_colors(path: Path) -> np.ndarray:
    """A label image that is painted in colours, uint8 BGR [H, W, 3].

    Raises:
        ValueError: as :func:`read_picture`, or if the file is no PNG, since others change colours.
    """
    content = _whole(path)
    if file_kind(memoryview(content)) != "png":
        raise ValueError("cannot be read: a label image must be a PNG file")
    return _decoded(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def read_ids(path: Path) -> np.ndarray:
    """The numbers that a label PNG stores: grey values, or places in its palette, of up to 8 bits.

    Returns:
        uint8 [H, W].

    Raises:
        ValueError: as :func:`read_picture`, or if the file is no such PNG.
    """
    content = _whole(path)
    if file_kind(memoryview(content)) != "png":
        raise ValueError("cannot be read: a label image must be a PNG file")
    layout = check_png(memoryview(content))
    if layout.color_type not in (_GREY, _PALETTE) or layout.bit_depth > 8:
        raise ValueError(
            f"is a {layout.describe()} PNG, but a label image must be one 8-bit channel (or a palette) of class ids"
        )
    if layout.color_type == _PALETTE:
        content = _without_palette(content)
    grey = _decoded(content, cv2.IMREAD_UNCHANGED)
    # OpenCV spreads 1, 2 and 4 bits over 0..255.
    return grey if layout.bit_depth == 8 else grey // (255 // (2**layout.bit_depth - 1))


def _whole(path: Path) -> bytes:
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


def _decoded(content: bytes, flags: int) -> np.ndarray:
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except cv2.error:
        picture = None
    if picture is None:
        raise ValueError("cannot be read: it is empty" if not content else "cannot be read as an image")
    return picture


def _without_palette(content: bytes) -> bytes:
    """The same PNG declared grey: OpenCV would look up the colours and drop the numbers."""
    kept, position = [content[:_SIGNATURE]], _SIGNATURE
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        chunk = content[position : position + 12 + length]
        name = chunk[4:8]
        if name == b"IHDR":
            body = bytearray(chunk[4 : 8 + length])
            body[_DEPTH_AND_COLOR + 1 - _SIGNATURE - 4] = _GREY
            chunk = chunk[:4] + bytes(body) + struct.pack(">I", zlib.crc32(body))
        if name in (b"IHDR", b"IDAT", b"IEND"):
            kept.append(chunk)
        position += 12 + length
    return b"".join(kept)
