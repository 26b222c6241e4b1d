"""Frames of the report page as rows of pictures: image, truth, prediction and where they differ, small and inlined."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from drive_seg.evaluation.records import Picture
from drive_seg.images.overlay import blend
from drive_seg.labels import VOID, LabelMap

MAX_SIDE = 640
"""Pictures are shrunk to at most this many pixels in width and height."""

MIN_SHARE = 0.001
"""Mix-ups of less than this share of a frame's pixels are not told."""

_MARK = (0, 196, 255)
"""Of pixels that differ, BGR: amber, far lighter than the darkened image to every eye."""


@dataclass(frozen=True)
class Shown:
    """One picture: what it is and a data URI, or empty with the reason why there is none."""

    name: str
    uri: str
    width: int
    height: int
    missing: str = ""


@dataclass(frozen=True)
class Strip:
    """One frame: its row, its pictures and (share of its counted pixels, one class, the other) of the worst mix-ups."""

    row: dict[str, Any]
    pictures: list[Shown]
    mixups: list[tuple[float, str, str]]
    ids: frozenset[int]


def error_strip(picture: Picture, label_map: LabelMap) -> Strip:
    """A frame beside its truth, or with an overlay where there is none.

    Mix-ups are (share, true class, predicted class).
    """
    if picture.truth is None:
        return _bare_strip(picture, label_map)
    return _strip(picture, [("truth", picture.truth), ("prediction", picture.prediction)], "error", label_map)


def difference_strip(picture: Picture, label_map: LabelMap) -> Strip:
    """A frame as two models or runs saw it. Mix-ups are (share, class here, class there)."""
    masks = [("this run", picture.prediction), ("the other", picture.other)]
    first = [("truth", picture.truth)] if picture.truth is not None else []
    return _strip(picture, masks, "difference", label_map, first)


def mixups(
    one: np.ndarray, other: np.ndarray, counted: np.ndarray, label_map: LabelMap, most: int = 3
) -> list[tuple[float, str, str]]:
    """The pairs of classes that two masks mix up most.

    Args:
        one: uint8 [H, W].
        other: uint8 [H, W].
        counted: bool [H, W], the pixels that count.
        label_map: what the ids mean.
        most: how many pairs at most.

    Returns:
        (share of the counted pixels, class in ``one``, class in ``other``), the largest first.
    """
    differs = (one != other) & counted
    pairs = np.bincount(one[differs].astype(np.int64) * 256 + other[differs], minlength=256 * 256)
    shares = pairs / max(1, np.count_nonzero(counted))
    largest = [int(i) for i in np.argsort(-shares, kind="stable")[:most] if shares[i] >= MIN_SHARE]
    return [(float(shares[i]), class_name(i // 256, label_map), class_name(i % 256, label_map)) for i in largest]


def class_name(i: int, label_map: LabelMap) -> str:
    """The name of an id, also of void and of ids beyond the classes."""
    if i == VOID:
        return "void"
    return label_map.names[i] if i < label_map.num_classes else f"id {i}"


def _strip(
    picture: Picture,
    masks: Sequence[tuple[str, np.ndarray | None]],
    difference: str,
    label_map: LabelMap,
    first: Sequence[tuple[str, np.ndarray | None]] = (),
) -> Strip:
    size = _size(picture.image)
    shown = [_photo("image", picture.image, size)]
    shown += [_mask(name, ids, size, label_map, picture.row) for name, ids in (*first, *masks)]
    (_, one), (_, other) = masks
    worst: list[tuple[float, str, str]] = []
    if one is not None and other is not None:
        other = _as_large(other, one)
        # what is void in the truth does not count; between two predictions void is an answer like any other
        counted = one != VOID if difference == "error" else np.ones(one.shape, bool)
        worst = mixups(one, other, counted, label_map)
        shown.append(_photo(difference, _marked(picture.image, (one != other) & counted, ~counted), size))
    ids = frozenset(i for _, mask in (*first, *masks) if mask is not None for i in np.unique(mask).tolist())
    return Strip(dict(picture.row), shown, worst, ids)


def _bare_strip(picture: Picture, label_map: LabelMap) -> Strip:
    size, ids = _size(picture.image), picture.prediction
    shown = [_photo("image", picture.image, size), _mask("prediction", ids, size, label_map, picture.row)]
    if ids is not None:
        painted = label_map.colorize(_as_large(ids, picture.image))
        shown.append(_photo("overlay", blend(picture.image, painted, 0.5), size))
    found = frozenset() if ids is None else frozenset(np.unique(ids).tolist())
    return Strip(dict(picture.row), shown, [], found)


def _as_large(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Class ids at the size of another mask or image; ids are never averaged."""
    if mask.shape == like.shape[:2]:
        return mask
    return cv2.resize(mask, like.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def _marked(image: np.ndarray, differs: np.ndarray, void: np.ndarray) -> np.ndarray:
    """The image darkened and grey, black where void, amber where different."""
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None] // 3, 3, axis=2)
    grey[_as_large(void.astype(np.uint8), image).astype(bool)] = 0
    grey[_as_large(differs.astype(np.uint8), image).astype(bool)] = _MARK
    return grey


def _size(image: np.ndarray) -> tuple[int, int]:
    """Width and height that an image is shown in."""
    height, width = image.shape[:2]
    factor = min(1.0, MAX_SIDE / max(height, width))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _photo(name: str, image: np.ndarray, size: tuple[int, int]) -> Shown:
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if image.shape[1::-1] != size else image
    # 4:4:4 keeps the marked pixels' colour sharp
    options = [cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return Shown(name, _uri(small, ".jpg", options), *size)


def _mask(name: str, ids: np.ndarray | None, size: tuple[int, int], label_map: LabelMap, row: dict[str, Any]) -> Shown:
    if ids is None:
        why = str(row.get("fate") or "") if name in ("prediction", "this run") else ""
        return Shown(name, "", *size, missing=f"none: {why}" if why not in ("", "published") else "none")
    small = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST) if ids.shape[1::-1] != size else ids
    return Shown(name, _uri(label_map.colorize(small), ".png", [cv2.IMWRITE_PNG_COMPRESSION, 9]), *size)


def _uri(picture: np.ndarray, suffix: str, options: Sequence[int]) -> str:
    _, data = cv2.imencode(suffix, picture, options)
    kind = "jpeg" if suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
