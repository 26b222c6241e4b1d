"""What becomes of a mask before planners get it: pixels that are not to be trusted, and the drivable area."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from drive_seg.images.encodings import ImageError
from drive_seg.images.files import check_png, file_kind
from drive_seg.labels import VOID, LabelMap

DRIVABLE = 255
"""Value of the drivable pixels of a drivable mask; all others are 0."""


def read_ignore_mask(path: str | Path) -> np.ndarray:
    """Read which pixels of a camera show its own vehicle, from a PNG.

    Args:
        path: a PNG, grey or in colour: what is not black is to be ignored. Transparent pixels count as black.

    Returns:
        bool [H, W], true where pixels are to be ignored.

    Raises:
        ValueError: if there is no such file, it is no whole PNG, or it ignores every pixel.
    """
    path = Path(path).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"the ignore mask {path} cannot be read: {error.strerror}") from error
    if file_kind(memoryview(content)) != "png":
        raise ValueError(f"the ignore mask {path} is not a PNG file")
    try:
        check_png(memoryview(content))
    except ImageError as error:
        raise ValueError(f"the ignore mask {path} cannot be used: {error}") from error
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError(f"the ignore mask {path} cannot be decoded")
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        ignored = pixels[..., :3].any(axis=2) & (pixels[..., 3] > 0)
    else:
        ignored = pixels > 0 if pixels.ndim == 2 else pixels.any(axis=2)
    if ignored.all():
        raise ValueError(f"the ignore mask {path} leaves no pixel: black is what is kept")
    return ignored


def hide(
    label: np.ndarray, confidence: np.ndarray | None, ignored: np.ndarray | None, min_confidence: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """Make void what is not to be trusted.

    Args:
        label: uint8 [H, W], class ids.
        confidence: uint8 [H, W], 255 x the softmax maximum; without it no pixel is unsure.
        ignored: bool [H, W], pixels that become void with confidence 0; None for none.
        min_confidence: 0.0 to 1.0; pixels that are less sure become void and keep their confidence.

    Returns:
        label and confidence; where there is nothing to hide, the arrays that were given, else new ones.
    """
    if min_confidence > 0 and confidence is not None:
        label = np.where(confidence < 255 * min_confidence, np.uint8(VOID), label)
    if ignored is not None:
        label = np.where(ignored, np.uint8(VOID), label)
        confidence = None if confidence is None else np.where(ignored, np.uint8(0), confidence)
    return label, confidence


def class_ids(names: Iterable[str], label_map: LabelMap, may_lack: bool = False) -> tuple[int, ...]:
    """The ids of classes by name, exactly as the label map writes it, else in whatever case.

    Args:
        may_lack: leave out names that the map does not have.

    Raises:
        ValueError: if the map has no class of a name; the message lists those it has.
    """
    folded = {name.lower(): i for i, name in reversed(list(enumerate(label_map.names)))}
    exact = {name: i for i, name in enumerate(label_map.names)}
    found = {name: exact.get(name, folded.get(name.lower())) for name in names}
    lacking = [name for name, i in found.items() if i is None]
    if lacking and not may_lack:
        raise ValueError(
            f"names {', '.join(repr(name) for name in lacking)}, and the label map {label_map.name} has no such class: "
            f"it has {', '.join(label_map.names)}"
        )
    return tuple(sorted({i for i in found.values() if i is not None}))


def drivable_mask(label: np.ndarray, classes: Sequence[int], min_area: float = 0.0) -> np.ndarray:
    """Where one can drive, cleaned of what is too small to be true.

    Specks of the drivable classes that are smaller than ``min_area`` are taken away, then holes in the drivable area
    that are smaller are filled. Void pixels are never drivable: a hole of void stays one.

    Args:
        label: uint8 [H, W], class ids, 255 = void.
        classes: ids of the drivable classes.
        min_area: share of the image's pixels, 0.0 to 1.0; 0 cleans nothing.

    Returns:
        uint8 [H, W], 255 = drivable, 0 = not.
    """
    table = np.zeros(256, np.uint8)
    table[list(classes)] = DRIVABLE
    mask = cv2.LUT(label, table)
    smallest = min_area * label.size
    if smallest > 0:
        # A region whose neighbours touch by their sides, holes also by their corners: so neither crosses the other.
        _recolor_small(mask, mask, smallest, 4, 0)
        _recolor_small(mask, cv2.bitwise_not(mask), smallest, 8, DRIVABLE)
        mask[label == VOID] = 0
    return mask


def _recolor_small(mask: np.ndarray, regions: np.ndarray, smallest: float, connectivity: int, value: int) -> None:
    """Give the pixels of each region (nonzero in ``regions``) with a smaller area this value in the mask."""
    count, region_of, statistics, _ = cv2.connectedComponentsWithStats(regions, connectivity=connectivity)
    small = statistics[:, cv2.CC_STAT_AREA] < smallest
    small[0] = False  # what lies between the regions
    for region in np.flatnonzero(small[:count]):
        left, top, width, height = statistics[region, :4]
        window = np.s_[top : top + height, left : left + width]
        mask[window][region_of[window] == region] = value
