"""The data that the parts of the replay evaluation hand to each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypedDict

import numpy as np

from drive_seg.node.health.ledger import Fate

FATES = tuple(fate.value for fate in Fate)
"""How a received frame can end, as in the node's diagnostics."""

LOST = "lost"
"""What became of a frame that the node never received."""


class Mode(StrEnum):
    """How the frames of a report were labelled."""

    DETERMINISTIC = "deterministic"
    LIVE = "live"
    DATASET = "dataset"


def number(value: Any) -> float | None:
    """A finite number as float; None for null, nan, infinity and what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
        return None
    return float(value)


class FrameRow(TypedDict):
    """One frame, a line of frames.csv. None where there is no figure; shares are 0..1.

    ``index`` counts the frames of a camera from 0, ``time_s`` is the stamp's distance from the bag's first, and
    ``warnings`` are joined by ";". ``reason`` says why a frame was not published, or not scored.
    """

    bag: str
    camera: str
    index: int
    stamp_ns: int
    time_s: float
    fate: str
    reason: str
    latency_ms: float | None
    input_age_ms: float | None
    miou: float | None
    pixel_accuracy: float | None
    boundary_f1: float | None
    flicker: float | None
    agreement: float | None
    warnings: str


COLUMNS: tuple[str, ...] = tuple(FrameRow.__annotations__)
"""The columns of frames.csv in their order."""


@dataclass(frozen=True)
class Picture:
    """A frame worth looking at.

    Attributes:
        row: its line of frames.csv.
        image: uint8 [H, W, 3] BGR.
        prediction: uint8 [H, W] ids of the report's label map, 255 = void; None if nothing was published.
        truth: as ``prediction``, in the terms of the same label map; None without one.
        other: the mask of the other checkpoint or run; None without one.
    """

    row: dict[str, Any]
    image: np.ndarray
    prediction: np.ndarray | None
    truth: np.ndarray | None = None
    other: np.ndarray | None = None


class Report(TypedDict):
    """What report.json holds. Shares are 0..1, None (null) is written where there is no figure.

    ``confusion`` counts pixels: rows are true classes, columns predicted ones and, last, void or no class; None
    without truth. ``classes`` have ``name``, ``color`` (RGB), ``iou``, ``precision``, ``recall``, ``boundary_f1``,
    ``share`` (of the true pixels) and ``predicted_share`` (of the pixels of all masks). ``frames`` counts
    ``in_source``, ``received``, each of ``FATES``, ``scored`` and ``without_truth``, and the images whose
    stamp is ``repeated`` or goes ``backward``. ``against`` compares on the frames that both have.
    ``reliability`` is :meth:`drive_seg.evaluation.reliability.Reliability.to_dict`.
    """

    miou: float | None
    f_miou: float | None
    pixel_accuracy: float | None
    boundary_f1: float | None
    flicker: float | None
    label_map: str
    mode: Mode
    source: str
    title: str
    model: dict[str, Any]
    cameras: list[str]
    command: str
    versions: dict[str, str]
    classes: list[dict[str, Any]]
    confusion: list[list[int]] | None
    frames: dict[str, int]
    latency_ms: dict[str, float | None]
    latency_meaning: str
    input_age_ms: dict[str, float | None]
    stalls: list[dict[str, Any]]
    flicker_meaning: str
    reliability: dict[str, Any] | None
    bags: list[dict[str, Any]]
    against: dict[str, Any] | None
    requirements: list[dict[str, Any]]


def new_row(bag: str, camera: str, index: int, stamp_ns: int, time_s: float, fate: str = "published") -> FrameRow:
    """A row without figures yet."""
    return FrameRow(
        bag=bag,
        camera=camera,
        index=index,
        stamp_ns=stamp_ns,
        time_s=time_s,
        fate=fate,
        reason="",
        latency_ms=None,
        input_age_ms=None,
        miou=None,
        pixel_accuracy=None,
        boundary_f1=None,
        flicker=None,
        agreement=None,
        warnings="",
    )
