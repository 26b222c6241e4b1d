"""The raw encodings of ``sensor_msgs/Image`` and how each becomes BGR: one table, plain numpy and OpenCV.

Every conversion reads the message's bytes through a strided view, so row padding (``step``) of any size costs
nothing and is never mistaken for pixels, also where it is not a multiple of the pixel's size.

Bayer: ROS names the upper left 2 x 2 pixels row by row, OpenCV the second and third pixel of the second row.
So ROS ``bayer_bggr8`` is OpenCV's ``BayerRG``, and so on through all four.

YUV: as in OpenCV and cv_bridge, BT.601 with limited range (16..235).

16 bits become 8 before anything else, each sample for itself.
"""

from __future__ import annotations

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
# 4:2:2 and 4:4:4 with the chroma behind all of the luma; "yuv422p" is libav's name, sensor_msgs has none
WHOLE_ROWS = {"yuv422p": 2, "nv24": 3}
"""Encodings whose planes all have the luma's rows -> bytes a pixel."""
BAYER = tuple(encoding for encoding in PACKED if encoding.startswith("bayer_"))
WIDE = {name.removesuffix("8") + "16": name for name in ("mono8", "rgb8", "bgr8", "rgba8", "bgra8", *BAYER)}
"""Encodings of 16-bit samples -> the same of 8-bit ones."""
SUPPORTED = (*PACKED, *WIDE, *SEMI_PLANAR, *WHOLE_ROWS)
SAMPLE_BITS = (8, 16)
"""Least and most bits of a 16-bit sample that a sensor fills."""
# B, G and R of Y, U, V and 1
_BT601 = np.array(
    [
        [1.164384, 2.017232, 0.0, -276.836],
        [1.164384, -0.391762, -0.812968, 135.576],
        [1.164384, 0.0, 1.596027, -222.922],
    ]
)


def to_bgr(
    encoding: str, data: np.ndarray, height: int, width: int, step: int, is_bigendian: bool = False, bits: int = 16
) -> np.ndarray:
    """Convert one raw image to BGR.

    Args:
        encoding: one of ``SUPPORTED``.
        data: the message's bytes, uint8 [N]; more than the image needs is allowed.
        height, width: in pixels.
        step: bytes from one row to the next.
        is_bigendian: byte order of 16-bit samples; without meaning for the others.
        bits: how many of a 16-bit sample the sensor fills, from the lowest on, see ``SAMPLE_BITS``.

    Returns:
        uint8 [height, width, 3] BGR, C-contiguous. For unpadded ``bgr8`` and ``8UC3`` it is a view of
        ``data``.

    Raises:
        ImageError: the sizes contradict each other or the encoding.
    """
    if encoding in SEMI_PLANAR:
        return _semi_planar_to_bgr(encoding, data, height, width, step)
    if encoding in WHOLE_ROWS:
        return _whole_rows_to_bgr(encoding, data, height, width, step)
    channels, conversion = PACKED[WIDE.get(encoding, encoding)]
    if encoding in WIDE:
        pixels = sixteen_to_eight_bit(_rows16(encoding, data, height, width, step, channels, is_bigendian), bits)
    else:
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


def sixteen_to_eight_bit(samples: np.ndarray, bits: int = 16) -> np.ndarray:
    """Scale uint16 samples to uint8, rounded: 0..2^bits - 1 become 0..255, and what is more 255.

    With 16 bits it is ``round(value / 257)``, as cv_bridge does. How many a camera fills nobody but its user knows:
    stretching an image by its own content would change the brightness from frame to frame.
    """
    return cv2.convertScaleAbs(samples, alpha=255.0 / (2**bits - 1))


def _rows16(
    encoding: str, data: np.ndarray, height: int, width: int, step: int, channels: int, is_bigendian: bool
) -> np.ndarray:
    """Copy the samples as uint16 [height, width] or [height, width, channels]: with an odd step they lie at odd
    addresses, which OpenCV does not take.
    """
    check_size(encoding, len(data), height, width, step, width * channels * 2)
    order = np.dtype(">u2" if is_bigendian else "<u2")
    shape = (height, width) if channels == 1 else (height, width, channels)
    samples = np.ndarray(shape, order, data, strides=(step, 2 * channels, 2)[: len(shape)])
    return np.ascontiguousarray(samples, dtype=np.uint16)


def _check_geometry(encoding: str, height: int, width: int) -> None:
    narrow = WIDE.get(encoding, encoding)
    if narrow in BAYER and min(height, width) < 3:
        raise ImageError(
            f"a {encoding} image needs at least 3 x 3 pixels to find its colours; it has {width} x {height}"
        )
    if PACKED[narrow][0] == 2 and width % 2:
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


def _whole_rows_to_bgr(encoding: str, data: np.ndarray, height: int, width: int, step: int) -> np.ndarray:
    """``height`` rows of luma, then the chroma of as many: for ``yuv422p`` U and then V in rows of ``step / 2`` bytes,
    for ``nv24`` pairs in rows of ``2 * step`` bytes.
    """
    check_size(encoding, len(data), height, width, step, width)
    needed = height * step * WHOLE_ROWS[encoding]
    if len(data) < needed:
        raise ImageError(
            f"data holds {len(data)} bytes, but {encoding} of {width} x {height} pixels with step {step} needs {needed}"
        )
    luma, behind = rows8(encoding, data, height, width, step), data[height * step :]
    if encoding == "nv24":
        pairs = rows8(encoding, behind, height, width, 2 * step, 2)
        return cv2.transform(np.dstack([luma, pairs]), _BT601)
    if width % 2 or step % 2:
        raise ImageError(
            f"two {encoding} pixels share their colour, so neither the width nor the step can be odd; they are "
            f"{width} and {step}"
        )
    packed = np.empty((height, width, 2), np.uint8)
    packed[..., 0] = luma
    for place in (0, 1):
        plane = behind[place * height * step // 2 :]
        packed[:, place::2, 1] = rows8(encoding, plane, height, width // 2, step // 2)
    return cv2.cvtColor(packed, cv2.COLOR_YUV2BGR_YUY2)
