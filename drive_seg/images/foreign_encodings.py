"""Encodings that ``image_encodings`` does not have, by ``cv_bridge`` where it is installed and was seen to work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np

from drive_seg.images.encodings import SUPPORTED, ImageError, check_size, rows8

NUMERIC = re.compile(r"(8|16|32|64)[USF]C\d+")
TRIAL_S = 60
_TRIAL = """
from cv_bridge import CvBridge
from sensor_msgs.msg import Image
image = Image(encoding="rgb8", height=1, width=2, step=6, data=bytes(range(6)))
assert CvBridge().imgmsg_to_cv2(image, desired_encoding="bgr8").tolist() == [[[2, 1, 0], [5, 4, 3]]]
"""


def to_bgr(msg: Any, data: np.ndarray) -> np.ndarray:
    """Convert an image of an encoding outside the table.

    Args:
        msg: an Image, or an object with its fields.
        data: its bytes, uint8 [N].

    Returns:
        uint8 [height, width, 3] BGR, C-contiguous.

    Raises:
        ImageError: the encoding has no colours, or nothing here converts it.
    """
    reason = f"encoding '{msg.encoding}' is not supported"
    if NUMERIC.fullmatch(msg.encoding):
        raise ImageError(f"{reason}: it says what numbers there are, as of a depth image, and not which colours")
    if find_spec("cv_bridge") is None:
        raise ImageError(f"{reason} (supported: {', '.join(SUPPORTED)}; others need cv_bridge)")
    if fault := why_unusable():
        raise ImageError(f"{reason}, and {fault}")
    from cv_bridge import CvBridge

    try:
        bridge = CvBridge()
        image = bridge.imgmsg_to_cv2(_repacked(msg, data, bridge), desired_encoding="bgr8")
        image = np.ascontiguousarray(image)
    except ImageError:
        raise
    except Exception as error:  # whatever cv_bridge stumbles over is a fault of this one frame
        raise ImageError(f"{reason}, and cv_bridge cannot convert it: {error}") from error
    if image.dtype != np.uint8 or image.shape != (msg.height, msg.width, 3):
        raise ImageError(f"{reason}, and cv_bridge made {image.dtype} of shape {image.shape} of it")
    return image


@cache
def why_unusable() -> str:
    """What is wrong with the cv_bridge that is installed; "" if it works.

    It is tried once, in a process of its own: built for NumPy 1 and loaded beside NumPy 2 it ends the process.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    what = f"cv_bridge does not work with the NumPy {np.__version__} that is installed"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRIAL],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TRIAL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{what}: {error}"
    if done.returncode < 0:
        return f"{what}: a trial was ended by {signal.Signals(-done.returncode).name}"
    last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return f"{what}: {last}" if done.returncode else ""


def _repacked(msg: Any, data: np.ndarray, bridge: Any) -> SimpleNamespace:
    """The message without padding and in this machine's byte order: cv_bridge shears padded rows, and cannot swap
    bytes with NumPy 2.
    """
    kind, channels = bridge.encoding_to_dtype_with_channels(msg.encoding)
    dtype = np.dtype(kind)
    row = msg.width * channels * dtype.itemsize
    check_size(msg.encoding, len(data), msg.height, msg.width, msg.step, row)
    samples = np.ascontiguousarray(rows8(msg.encoding, data, msg.height, row, msg.step))
    samples = samples.view(dtype.newbyteorder(">" if msg.is_bigendian else "<")).astype(dtype)
    return SimpleNamespace(
        encoding=msg.encoding,
        height=msg.height,
        width=msg.width,
        step=row,
        is_bigendian=sys.byteorder == "big",
        data=samples.tobytes(),
    )
