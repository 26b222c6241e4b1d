"""Reading picture and label files, whole or not at all."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from drive_seg.images.files import check_png, decode_file, file_kind, read_whole

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
    return decode_file(read_whole(path))


def read_colors(path: Path) -> np.ndarray:
    """A label image that is painted in colours, uint8 BGR [H, W, 3].

    Raises:
        ValueError: as :func:`read_picture`, or if the file is no PNG, since others change colours.
    """
    content = read_whole(path)
    if file_kind(memoryview(content)) != "png":
        raise ValueError("cannot be read: a label image must be a PNG file")
    return decode_file(content)


def read_ids(path: Path) -> np.ndarray:
    """The numbers that a label PNG stores: grey values, or places in its palette, of up to 8 bits.

    Returns:
        uint8 [H, W].

    Raises:
        ValueError: as :func:`read_picture`, or if the file is no such PNG.
    """
    content = read_whole(path)
    if file_kind(memoryview(content)) != "png":
        raise ValueError("cannot be read: a label image must be a PNG file")
    layout = check_png(memoryview(content))
    if layout.color_type not in (_GREY, _PALETTE) or layout.bit_depth > 8:
        raise ValueError(
            f"is a {layout.describe()} PNG, but a label image must be one 8-bit channel (or a palette) of class ids"
        )
    if layout.color_type == _PALETTE:
        content = _without_palette(content)
    grey = decode_file(content, cv2.IMREAD_UNCHANGED)
    # OpenCV spreads 1, 2 and 4 bits over 0..255.
    return grey if layout.bit_depth == 8 else grey // (255 // (2**layout.bit_depth - 1))


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
