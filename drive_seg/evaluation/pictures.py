"""A contact sheet of a recorded drive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from drive_seg.files import written_aside
from drive_seg.images.overlay import blend, legend_panel
from drive_seg.labels import LabelMap
from drive_seg.recordings.sources import open_source

ALPHA = 0.5
CELL_WIDTH = 320
GAP = 6
TITLE_HEIGHT = 24


@dataclass(frozen=True)
class Labelled:
    """One frame of a recording: image uint8 [H, W, 3] BGR, label and truth (None without one) uint8 [H, W]."""

    stamp_ns: int
    image: np.ndarray
    label: np.ndarray
    truth: np.ndarray | None


@dataclass(frozen=True)
class RecordedTopics:
    """Where a recording holds a camera's images, masks and, if any, truths."""

    image: str
    label: str
    truth: str | None = None


def labelled_frames(bag: Path, topics: RecordedTopics, stamps: set[int]) -> Iterator[Labelled]:
    """The frames with these stamps that have all their parts in the bag, in the order in which they got complete."""
    wanted = [topic for topic in (topics.image, topics.label, topics.truth) if topic]
    parts: dict[int, dict[str, np.ndarray]] = {}
    for record in open_source(bag, wanted):
        stamp = record.stamp_ns
        if stamp not in stamps:
            continue
        found = parts.setdefault(stamp, {})
        found[record.topic] = record.image() if record.topic == topics.image else record.label()
        if len(found) == len(wanted):
            yield Labelled(stamp, found[topics.image], found[topics.label], found.get(topics.truth))
            del parts[stamp]


def write_contact_sheet(path: Path, frames: list[Labelled], labels: LabelMap) -> None:
    """A PNG with a column per frame; rows are image, mask colours, overlay and, where there is one, the truth."""
    kinds = ["image", "mask", "overlay"] + (["truth"] if frames[0].truth is not None else [])
    height = round(CELL_WIDTH * frames[0].image.shape[0] / frames[0].image.shape[1])
    rows = [_row(kind, [_cell(frame, kind, labels, height) for frame in frames]) for kind in kinds]
    body = np.vstack(rows)
    sheet = np.hstack((body, legend_panel(labels, body.shape[0])))
    with written_aside(path) as aside:
        if not cv2.imwrite(str(aside), sheet):
            raise OSError(f"{path} cannot be written")


def spread(stamps: list[int], count: int) -> set[int]:
    """``count`` stamps (or all, if fewer), evenly spread from near the first to near the last."""
    places = (np.arange(min(count, len(stamps))) + 0.5) / min(count, len(stamps)) * len(stamps)
    return {stamps[int(place)] for place in places}


def _cell(frame: Labelled, kind: str, labels: LabelMap, height: int) -> np.ndarray:
    size = (CELL_WIDTH, height)
    image = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA)
    if kind == "image":
        return image
    # Class ids are never averaged, so the mask is shrunk before it is painted.
    ids = frame.truth if kind == "truth" else frame.label
    color = labels.colorize(cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST))
    return blend(image, color, ALPHA) if kind == "overlay" else color


def _row(title: str, cells: list[np.ndarray]) -> np.ndarray:
    gap = np.full((cells[0].shape[0], GAP, 3), 255, np.uint8)
    row = np.hstack([part for cell in cells for part in (gap, cell)] + [gap])
    head = np.full((TITLE_HEIGHT, row.shape[1], 3), 255, np.uint8)
    cv2.putText(head, title, (GAP, TITLE_HEIGHT - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack((head, row))
