"""``sensor_msgs`` Image and CompressedImage <-> numpy, without rclpy.

``decode`` and ``decode_label`` read any object with the messages' fields (also what ``rosbags``
deserialises). Every reason to refuse a message is an ``ImageError`` whose text is one sentence.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from drive_seg.images import foreign_encodings
from drive_seg.images.encodings import BAYER, SUPPORTED, ImageError, rows8, sixteen_to_eight_bit, to_bgr
from drive_seg.images.files import FileKind, PngLayout, check_jpeg, check_png, file_kind

__all__ = ["ImageError", "decode", "decode_label", "to_compressed_png", "to_image"]

LABEL_ENCODINGS = ("mono8", "8UC1")
# encoding -> channels, for the messages built here
WRITTEN = {"mono8": 1, "bgr8": 3, "rgb8": 3}

# camera_info registers with the pixel grid as transmitted, so an EXIF orientation must not turn the picture.
# ANYDEPTH keeps 16 bits, which are then scaled exactly as those of a raw mono16 image.
_PICTURE = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_ANYDEPTH
_GREY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_ANYDEPTH


def decode(msg: Image | CompressedImage, bits: int = 16) -> np.ndarray:
    """The picture of a camera message.

    Grey pictures get three equal channels, alpha is dropped, 16 bits become 8 by ``round(value / 257)``, YUV
    is read as BT.601 with limited range. Encodings outside ``image_encodings``' table go to ``cv_bridge``
    where it is installed.

    Args:
        bits: how many of a 16-bit sample the sensor fills, see ``image_encodings.sixteen_to_eight_bit``.

    Returns:
        uint8 [H, W, 3] BGR, C-contiguous. For unpadded ``bgr8`` and ``8UC3`` it is a view of the message's
        own data: treat it as read-only, or copy it. In every other case the array is its own.

    Raises:
        ImageError: the message is empty, contradicts itself, is damaged, or its encoding is not supported.
    """
    if _is_compressed(msg):
        return _decode_file(msg, bits)
    data = _as_array(msg.data)
    if msg.encoding not in SUPPORTED:
        return foreign_encodings.to_bgr(msg, data)
    return to_bgr(msg.encoding, data, msg.height, msg.width, msg.step, bool(msg.is_bigendian), bits)


def decode_label(msg: Image | CompressedImage) -> np.ndarray:
    """The class ids of a label message.

    An Image carries them as ``mono8`` or ``8UC1``, a CompressedImage as an 8-bit grey PNG.

    Returns:
        uint8 [H, W], C-contiguous; for an unpadded Image a view of the message's own data.

    Raises:
        ImageError: as ``decode``; also for anything that cannot carry class ids unchanged, such as JPEG.
    """
    if _is_compressed(msg):
        return _decode_label_file(msg)
    if msg.encoding not in LABEL_ENCODINGS:
        raise ImageError(f"a label image is {' or '.join(LABEL_ENCODINGS)}; this one is '{msg.encoding}'")
    return np.ascontiguousarray(rows8(msg.encoding, _as_array(msg.data), msg.height, msg.width, msg.step))


def to_image(array: np.ndarray, header: Header, encoding: str) -> Image:
    """Build an Image, tightly packed.

    Args:
        array: uint8 [H, W] for ``mono8``, else [H, W, 3] in the encoding's channel order; any strides.
        header: its stamp and frame_id are copied bit for bit.
        encoding: ``mono8``, ``bgr8`` or ``rgb8``.

    Raises:
        ImageError: the array does not fit the encoding, or the encoding is none of the three.
    """
    _check_writable(array, encoding)
    height, width = array.shape[:2]
    message = Image(
        header=_copy_header(header),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=width * WRITTEN[encoding],
    )
    _fill(message, array)
    return message


def to_compressed_png(array: np.ndarray, header: Header, encoding: str) -> CompressedImage:
    """Build a CompressedImage holding a PNG, with the format string that compressed_image_transport writes.

    Arguments and errors are those of ``to_image``. The file holds its colours in PNG's order whatever the
    encoding (``rgb8`` gives ``"rgb8; png compressed bgr8"``); ``mono8`` gives ``"mono8; png compressed "``.
    """
    _check_writable(array, encoding)
    pixels = np.ascontiguousarray(array)
    if encoding == "rgb8":
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    # OpenCV's own settings: naming a level would switch its row filter off the fast one, three times the time
    # for the same size of mask.
    done, file = cv2.imencode(".png", pixels)
    if not done:
        raise ImageError(f"OpenCV could not write a PNG of shape {array.shape}")
    target = "" if encoding == "mono8" else "bgr8"
    message = CompressedImage(header=_copy_header(header), format=f"{encoding}; png compressed {target}")
    _fill(message, file)
    return message


def _is_compressed(msg: Any) -> bool:
    return hasattr(msg, "format")


def _as_array(data: Any) -> np.ndarray:
    """The bytes of a message as uint8 [N]; not copied where they are an array.array, bytes or an ndarray."""
    if isinstance(data, (list, tuple)) or len(data) == 0:  # frombuffer refuses empty buffers
        return np.asarray(data, np.uint8)
    return np.frombuffer(data, np.uint8)


def _copy_header(header: Header) -> Header:
    stamp = Time(sec=header.stamp.sec, nanosec=header.stamp.nanosec)
    return Header(stamp=stamp, frame_id=header.frame_id)


def _fill(message: Image | CompressedImage, array: np.ndarray) -> None:
    # message.data is an empty array.array("B") here. Filling it is one copy of memory; assigning an ndarray
    # to the field would go through every byte as a Python int, thousands of times slower.
    message.data.frombytes(memoryview(np.ascontiguousarray(array)).cast("B"))


def _check_writable(array: np.ndarray, encoding: str) -> None:
    if encoding not in WRITTEN:
        raise ImageError(f"images are written as {', '.join(WRITTEN)}; '{encoding}' is none of them")
    expected = 2 if WRITTEN[encoding] == 1 else 3
    fits = array.ndim == expected and (expected == 2 or array.shape[2] == WRITTEN[encoding])
    if array.dtype != np.uint8 or not fits or array.size == 0:
        shape = "[H, W]" if expected == 2 else "[H, W, 3]"
        raise ImageError(f"{encoding} needs uint8 {shape}, not {array.dtype} of shape {array.shape}")


def _decode_file(msg: CompressedImage, bits: int) -> np.ndarray:
    source, target = _split_format(msg.format)
    file, kind, layout = _open_file(msg)
    bayer = source.replace("16", "8")  # the samples of a 16-bit file are scaled to 8 bits on reading
    if layout is not None and layout.is_grey and bayer in BAYER:
        # compressed_image_transport stores a mosaic as it is in PNG (in JPEG it writes mono8 instead)
        mosaic = _imdecode(file, _GREY, kind, bits)
        height, width = mosaic.shape
        return to_bgr(bayer, mosaic.ravel(), height, width, step=width)
    image = _imdecode(file, _PICTURE, kind, bits)
    # What counts is the order in the file. compressed_image_transport converts to BGR, hands that to OpenCV's
    # encoder, which stores it as the RGB that PNG and JPEG prescribe, and says "compressed bgr8": rgb8 images
    # too have their true colours in the file. Only "compressed rgb8" says that the encoder was given RGB and
    # so stored red as blue; its own subscriber undoes that likewise. A format without a target ("rgb8; png
    # compressed ", "png") was not written by it for a colour image, and the file is an ordinary one.
    if target.startswith("rgb"):
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return image


def _decode_label_file(msg: CompressedImage) -> np.ndarray:
    file, kind, layout = _open_file(msg)
    if layout is None:
        raise ImageError("a label image must be lossless: JPEG changes the class ids at every border; use PNG")
    if not layout.is_grey or layout.bit_depth != 8:
        raise ImageError(f"a label image is an 8-bit grey PNG; this one is {layout.describe()}")
    return _imdecode(file, _GREY, kind)


def _split_format(text: str) -> tuple[str, str]:
    """The camera's encoding and the one handed to the encoder, "" where unsaid.

    ``"rgb8; png compressed bgr8"`` gives ``("rgb8", "bgr8")``.

    Raises:
        ImageError: a depth image; it is no picture, and ``compressedDepth`` puts a header before the file.
    """
    head, separator, tail = text.partition(";")
    source = head.strip() if separator else ""
    if "compressedDepth" in text or source in ("16UC1", "32FC1"):
        raise ImageError(f"format '{text}' is a depth image, not a camera picture")
    return source, tail.rpartition("compressed")[2].strip().lower()


def _open_file(msg: CompressedImage) -> tuple[np.ndarray, FileKind, PngLayout | None]:
    """The file in a message, found whole; its kind, by its content as format strings are often wrong; a PNG's
    layout, None for JPEG.
    """
    data = _as_array(msg.data)
    if len(data) == 0:
        raise ImageError(f"the message holds no data (format '{msg.format}')")
    content = memoryview(data)
    kind = file_kind(content)
    if kind is None:
        raise ImageError(f"the data is neither JPEG nor PNG (format '{msg.format}', {len(data)} bytes)")
    if kind == "png":
        return data, kind, check_png(content)
    check_jpeg(content)
    return data, kind, None


def _imdecode(file: np.ndarray, flags: int, kind: FileKind, bits: int = 16) -> np.ndarray:
    try:
        image = cv2.imdecode(file, flags)
    except cv2.error as error:
        raise ImageError(f"OpenCV cannot read the {kind} data ({len(file)} bytes): {error.err}") from None
    if image is None:
        raise ImageError(f"the {kind} data is corrupt ({len(file)} bytes)")
    return sixteen_to_eight_bit(image, bits) if image.dtype == np.uint16 else image
