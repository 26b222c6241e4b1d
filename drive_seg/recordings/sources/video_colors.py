"""Colours of videos that say how they are to be read: the same with every OpenCV.

Wheels of OpenCV heed a video's matrix coefficients from 4.13 on; before, and elsewhere depending on the FFmpeg beneath,
each video is decoded as if it were BT.601, which is up to 25 levels off for BT.709.
"""

from __future__ import annotations

import base64
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from drive_seg.recordings.sources.mp4_boxes import color_matrix

Correction = Callable[[np.ndarray], np.ndarray]

_BT601 = (0.299, 0.114)
# Kr and Kb by matrix coefficients (ITU-T H.273, table 4): BT.709, SMPTE 240M, BT.2020.
_WEIGHTS = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}

# One green frame of 16x16 pixels, declared BT.709: MPEG-4 in MP4, packed by zlib.
_CLIP = (
    b"eNqNU71OAkEQngVECwsMFBaYYIKJhSAQYywxsaAgMRZYGAuP271wYZcjt8tFbaSw0MLCx7AzGq0teAB7Y2VibHwGnL0DOVCMk52dmd2Z7+Zn"
    b"DwDSljpp29IRABHQErkk2htFAJizXMZQpgU1FAC5h8QsisfE01vhJfZcPQOI7gjH8dCHC69BYYyiH7hRIKDXiMi416Rdhj8pgqulXKOJ+qFq"
    b"+t+M/oJGf0T+57uJAQNkGVVS1864VKEIOool74LaBioZQSdrX0WOQa3nG7kG5e7wxrMpC3vuo+1UjBblTPuQa2G3LFRSnvBBw2lmaXCXpi6z"
    b"QknNd1yeCXSyJ1Wdo/4plaQhn1ccqjelFbroBFRQVqZ6TNJiv4/7EZNU+sPudru7GBZDuZ1Z8F1SyPHyDJ6sI+Ktzu7hMhmAkwz0ri6gBueR"
    b"lInmXdXwzM1SvrSVLxaKcYwhEQ1RV+6g/QEabknT4W7L5McIRIJMF6XypzVMneju60ZhE8zx829O4d0pjLAHZ6YT8l9Drneo0lM+EMyXmpbD"
    b"E8VX4BrtNg93J2cHz2blRjkacAn/IGPYVyzVwlKLJV3qF6yjcwU="
)
_GREEN_BETWEEN = 187
"""Its green is 175 where the declaration is heeded, and 199 where it is not."""


def correction(path: Path, capture: cv2.VideoCapture) -> Correction | None:
    """What turns the frames (uint8 BGR) that ``capture`` gives of a video into its colours; None where they are right.

    The matrix coefficients are read from MP4 and MOV files. What BT.601's clipping lost stays lost.
    """
    weights = _WEIGHTS.get(color_matrix(path) or 0)
    if weights is None or capture.getBackendName() != "FFMPEG" or _heeds_matrix():
        return None
    rgb = _to_rgb(*weights) @ np.linalg.inv(_to_rgb(*_BT601))
    bgr = np.ascontiguousarray(rgb[::-1, ::-1])
    return lambda image: cv2.transform(image, bgr)


def _to_rgb(kr: float, kb: float) -> np.ndarray:
    """[Y, Pb, Pr] -> [R, G, B], float64 [3, 3], by the weights of red and blue in Y (ITU-R BT.709, 3.2)."""
    kg = 1 - kr - kb
    return np.array([[1, 0, 2 * (1 - kr)], [1, -2 * kb * (1 - kb) / kg, -2 * kr * (1 - kr) / kg], [1, 2 * (1 - kb), 0]])


@cache
def _heeds_matrix() -> bool:
    """Whether this OpenCV heeds matrix coefficients, by trial; so too where it cannot decode the trial's clip."""
    with tempfile.TemporaryDirectory(prefix="drive_seg_clip_") as folder:
        clip = Path(folder, "clip.mp4")
        clip.write_bytes(zlib.decompress(base64.b64decode(_CLIP)))
        capture = cv2.VideoCapture(str(clip))
        decoded, image = capture.read()
        capture.release()
    return not decoded or int(image[8, 8, 1]) < _GREEN_BETWEEN
