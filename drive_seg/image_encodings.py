"""The raw encodings of ``sensor_msgs/Image`` and how each becomes BGR: one table, plain numpy and OpenCV.

Every conversion reads the message's bytes through a strided view, so row padding (``step``) of any size costs
nothing and is never mistaken for pixels, also where it is not a multiple of the pixel's size.

Bayer: ROS names the upper left 2 x 2 pixels row by row, OpenCV the second and third pixel of the second row.
So ROS ``bayer_bggr8`` is OpenCV's ``BayerRG``, and so on through all four.

YUV: as in OpenCV and cv_bridge, BT.601 with limited range (16..235).
"""

from __future__ import annotations

import sys

import cv2
import numpy as np


class ImageError(ValueError):
    """An image message that cannot be used; the text is the reason, fit for a log line or diagnostics."""


# encoding -> (bytes per pixel, OpenCV conversion to BGR; None where the bytes are BGR already)
PACKED: dict[str, tuple[int, int | None]] = {
    "bgr8": (3, None),
    "8UC3": (3, None),
    "rgb8": (3, cv2.COLOR_RGB2BGR),
    "bgra8": (4, cv2.COLOR_BGRA2BGR),
    "rgba8": (4, cv2.COLOR_RGBA2BGR),
    "mono8": (1, cv2.COLOR_GRAY2BGR),
    "8UC1": (1, cv2.COLOR_GRAY2BGR),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2BGR),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2BGR),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2BGR),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2BGR),
    # sensor_msgs keeps two names for each: "yuv422" is the older name of "uyvy", "yuv422_yuy2" that of
    # "yuyv".
    "yuv422": (2, cv2.COLOR_YUV2BGR_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2BGR_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2BGR_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2BGR_YUY2),
}
SEMI_PLANAR = {"nv12": cv2.COLOR_YUV2BGR_NV12, "nv21": cv2.COLOR_YUV2BGR_NV21}
BAYER = tuple(encoding for encoding in PACKED if encoding.startswith("bayer_"))
SUPPORTED = (*PACKED, "mono16", *SEMI_PLANAR)


def to_bgr(
    encoding: str, data: np.ndarray, height: int, width: int, step: int, is_bigendian: bool = False
) -> np.ndarray:
    """Convert one raw image to BGR.

    Args:
        encoding: one of ``SUPPORTED``.
        data: the message's bytes, uint8 [N]; more than the image needs is allowed.
        height, width: in pixels.
        step: bytes from one row to the next.
        is_bigendian: byte order of 16-bit samples; without meaning for the others.

    Returns:
        uint8 [height, width, 3] BGR, C-contiguous. For unpadded ``bgr8`` and ``8UC3`` it is a view of
        ``data``.

    Raises:
        ImageError: the sizes contradict each other or the encoding.
    """
    if encoding in SEMI_PLANAR:
        return _semi_planar_to_bgr(encoding, data, height, width, step)
    if encoding == "mono16":
        grey = sixteen_to_eight_bit(_rows16(data, height, width, step, is_bigendian))
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    channels, conversion = PACKED[encoding]
    pixels = rows8(encoding, data, height, width, step, channels)
    _check_geometry(encoding, height, width)
    return np.ascontiguousarray(pixels) if conversion is None else cv2.cvtColor(pixels, conversion)


def rows8(encoding: str, data: np.ndarray, height: int, width: int, step: int, channels: int = 1) -> np.ndarray:
    """View the bytes as uint8 [height, width] or [height, width, channels], without the padding or a copy.

    Raises:
        ImageError: ``step`` or ``data`` is too short for the size.
    """
    check_size(encoding, len(data), height, width, step, width * channels)
    if channels == 1:
        return np.ndarray((height, width), np.uint8, data, strides=(step, 1))
    return np.ndarray((height, width, channels), np.uint8, data, strides=(step, channels, 1))


def check_size(encoding: str, length: int, height: int, width: int, step: int, row_bytes: int) -> None:
    """Raise ImageError unless rows of ``step`` bytes hold ``row_bytes`` each and all fit into ``length``."""
    if height <= 0 or width <= 0:
        raise ImageError(f"the image is {width} x {height} pixels; both sides must be at least 1")
    if step < row_bytes:
        raise ImageError(f"step is {step} bytes, but a row of {width} {encoding} pixels needs {row_bytes}")
    if length < height * step:
        raise ImageError(
            f"data holds {length} bytes, but {height} rows of {step} bytes ({encoding}) need {height * step}"
        )


def sixteen_to_eight_bit(samples: np.ndarray) -> np.ndarray:
    """Scale uint16 samples 0..65535 to uint8 0..255, rounded: ``round(value / 257)``, as cv_bridge does.

    The full 16-bit range is taken as it is. A camera that fills only the low 12 bits looks dark, and
    stretching it by its own content would change the brightness from frame to frame.
    """
    return cv2.convertScaleAbs(samples, alpha=255.0 / 65535.0)


def _rows16(data: np.ndarray, height: int, width: int, step: int, is_bigendian: bool) -> np.ndarray:
    check_size("mono16", len(data), height, width, step, width * 2)
    order = ">u2" if is_bigendian else "<u2"
    samples = np.ndarray((height, width), np.dtype(order), data, strides=(step, 2))
    native = "<u2" if sys.byteorder == "little" else ">u2"
    # A copy in any case: with an odd step the samples lie at odd addresses, which OpenCV does not take.
    return np.ascontiguousarray(samples, dtype=native)


def _check_geometry(encoding: str, height: int, width: int) -> None:
    if encoding in BAYER and min(height, width) < 3:
        raise ImageError(
            f"a {encoding} image needs at least 3 x 3 pixels to find its colours; it has {width} x {height}"
        )
    if PACKED[encoding][0] == 2 and width % 2:
        raise ImageError(f"two {encoding} pixels share their colour, so the width cannot be odd; it is {width}")


def _semi_planar_to_bgr(encoding: str, data: np.ndarray, height: int, width: int, step: int) -> np.ndarray:
    """``height`` rows of luma, then ``height / 2`` rows of interleaved chroma, all ``step`` bytes long.

    sensor_msgs defines ``height`` as the picture's, with data of ``step * height * 3 / 2`` bytes. Some
    drivers put the number of buffer rows (3 / 2 of the picture's) into ``height`` instead; the length of the
    data tells which it is. In that second reading a step of two bytes per pixel is refused: it comes from
    writers that count both planes as channels, and where their rows begin is anybody's guess.
    """
    check_size(encoding, len(data), height, width, step, width)
    if len(data) < (height + height // 2) * step:
        if height % 3 or step == 2 * width:
            raise ImageError(
                f"data holds {len(data)} bytes, but {encoding} of {width} x {height} pixels with step {step} "
                f"needs {(height + height // 2) * step} (luma and half as many rows of chroma)"
            )
        height = height // 3 * 2
    if height % 2 or width % 2:
        raise ImageError(f"2 x 2 {encoding} pixels share their colour, so {width} x {height} pixels cannot be")
    planes = np.ndarray((height + height // 2, width), np.uint8, data, strides=(step, 1))
    return cv2.cvtColor(planes, SEMI_PLANAR[encoding])
