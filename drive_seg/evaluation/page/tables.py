"""The tables of the report page as plain text and numbers, ready for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drive_seg.evaluation.page.summary import FATE_MEANING, NONE, Change, change, count, milliseconds, percent
from drive_seg.evaluation.records import FATES, Mode, number
from drive_seg.labels import LabelMap

MOST_CLASSES = 40
"""The confusion matrix shows at most this many classes, those with the most wrong pixels."""

MOST_BAGS = 300
"""The table of bags shows at most this many."""

MOST_MIXUPS = 6


@dataclass(frozen=True)
class ClassRow:
    """One class, in texts.

    Attributes:
        name: of the class.
        color: as CSS.
        iou: of this run.
        bar: the same as a width in %.
        others: as :func:`class_columns`.
        other_iou: of the other run.
        agreement: IoU of both runs' masks.
        change: against the other run.
        absent: there is no IoU.
    """

    name: str
    color: str
    iou: str
    bar: float
    others: list[str]
    other_iou: str
    agreement: str
    change: Change | None
    absent: bool


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix: text, what hovering tells, strength 0..1 of its colour, and if it is right."""

    text: str
    title: str
    strength: float
    right: bool


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix over the classes that occur.

    ``left_out`` are classes that occur nowhere, ``not_shown`` how many more are not shown for want of room, and
    ``mixups`` sentences about the most frequent errors.
    """

    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    left_out: list[str]
    not_shown: int
    mixups: list[str]


def class_columns(report: Mapping[str, Any]) -> list[str]:
    """Titles of the figures of a class, beside its IoU and what it is compared with."""
    has_gamma = any("gamma" in row for row in report.get("classes") or [])
    return ["precision", "recall", "boundary F1", "true share", "predicted share", *["gamma"] * has_gamma]


def class_rows(report: Mapping[str, Any]) -> list[ClassRow]:
    """A row for each class of the report, in its order."""
    others = {row["name"]: row for row in (report.get("against") or {}).get("classes") or []}
    made = []
    for row in report.get("classes") or []:
        iou, share, other = number(row["iou"]), number(row["share"]), others.get(row["name"], {})
        made.append(
            ClassRow(
                name=str(row["name"]),
                color="rgb({},{},{})".format(*(int(value) for value in row["color"])),
                iou=percent(iou),
                bar=100 * min(1.0, max(0.0, iou or 0.0)),
                others=[
                    *(percent(row[key]) for key in ("precision", "recall", "boundary_f1")),
                    percent(share, 2),
                    percent(row["predicted_share"], 2),
                    *([NONE if row["gamma"] < 0 else str(row["gamma"])] if "gamma" in row else []),
                ],
                other_iou=percent(other.get("other_iou")),
                agreement=percent(other.get("agreement")),
                change=change(other.get("difference")),
                absent=iou is None,
            )
        )
    return made


def matrix(counts: Sequence[Sequence[int]] | None, label_map: LabelMap) -> Matrix | None:
    """The confusion matrix, or None if there is none or nothing was counted.

    Args:
        counts: rows are true ids, columns predicted ones; a column after the classes counts void predictions.
        label_map: what the ids mean.
    """
    if not counts or not np.any(counts):
        return None
    table = np.array(counts, np.int64)
    rows, columns = (_names(size, label_map, last) for size, last in zip(table.shape, ("group", "void"), strict=True))
    classes = min(table.shape)
    seen = table.sum(1) > 0
    predicted = table.sum(0) > 0
    occurs = predicted.copy()
    occurs[:classes] |= seen[:classes]
    left_out = [name for name, here in zip(columns[:classes], occurs[:classes], strict=True) if not here]
    wrong = table.sum(1)
    wrong[:classes] -= np.diagonal(table)
    true_ids = np.flatnonzero(seen)
    kept = np.sort(true_ids[np.argsort(-wrong[true_ids], kind="stable")[:MOST_CLASSES]])
    not_shown = len(true_ids) - len(kept)
    guesses = np.flatnonzero(occurs)
    if not_shown:
        guesses = np.array([i for i in guesses if i in kept or i >= classes])
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    made = [(rows[i], [_cell(table[i, j], shares[i, j], rows[i], columns[j], i == j) for j in guesses]) for i in kept]
    return Matrix([columns[j] for j in guesses], made, left_out, not_shown, _mixups(table, shares, rows, columns))


def ledger(frames: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(name, count, share of received, meaning): received frames and what became of each; they add up."""
    received = number(frames.get("received"))
    ends = {fate: number(frames.get(fate)) or 0 for fate in FATES}
    left = (received or 0) - sum(ends.values())
    rows = [
        ("in the source", count(frames.get("in_source")), "", "images that the recording holds for these cameras"),
        ("received", count(received), percent(1.0) if received else "", "images that reached the node or the model"),
    ]
    for fate, n in ends.items():
        rows.append(
            (f"= {fate}" if fate == FATES[0] else f"+ {fate}", count(n), _share(n, received), FATE_MEANING[fate])
        )
    about = "no end was seen: still at work when the replay ended" if left >= 0 else "more ends than frames received"
    rows.append(("+ in flight", count(left), _share(left, received), about))
    rows.append(("scored", count(frames.get("scored")), "", "published frames that were compared with a truth"))
    rows.append(
        ("without truth", count(frames.get("without_truth")), "", "published frames with nothing to compare with")
    )
    return rows


def camera_rows(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Per camera: name, frames, published, latency p50 and p99, mean of the frames' mIoU and flicker."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row["camera"]), []).append(row)
    made = []
    for camera, frames in groups.items():
        published = sum(row["fate"] == "published" for row in frames)
        latency = _known(frames, "latency_ms")
        p50, p99 = np.percentile(latency, (50, 99)) if latency else (None, None)
        means = [float(np.mean(found)) if (found := _known(frames, key)) else None for key in ("miou", "flicker")]
        shares = (percent(means[0]), percent(means[1], 2))
        made.append((camera, count(len(frames)), count(published), milliseconds(p50), milliseconds(p99), *shares))
    return made


def bag_rows(report: Mapping[str, Any]) -> tuple[list[dict[str, str]], int]:
    """The bags, failed ones first, and how many more there are."""
    bags = sorted(report.get("bags") or [], key=lambda bag: bag["status"] == "ok")
    made = [
        {
            "name": str(bag["name"]),
            "status": str(bag["status"]),
            "frames": count(bag["frames"]),
            "scored": count(bag["scored"]),
            "miou": percent(bag["miou"]),
            "reason": str(bag["reason"] or ""),
        }
        for bag in bags[:MOST_BAGS]
    ]
    return made, len(bags) - len(made)


def origin(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the report was made, as (what, value)."""
    model = report.get("model") or {}
    modes = {
        Mode.DETERMINISTIC: "deterministic: every frame of the recording exactly once, without a clock",
        Mode.LIVE: "live: played in real time through the running node",
    }
    made = [
        ("source", report.get("source")),
        ("mode", modes.get(str(report.get("mode")), report.get("mode"))),
        ("labelled", report.get("labelling")),
        ("cameras", ", ".join(map(str, report.get("cameras") or []))),
        ("label map", report.get("label_map")),
        ("model", model.get("name")),
        ("model's SHA-256", model.get("sha256")),
        ("device", model.get("device")),
        ("precision", model.get("precision")),
        ("runtime", model.get("runtime")),
        ("network input", " x ".join(map(str, model.get("input_size") or []))),
        ("compared with", (report.get("against") or {}).get("name")),
    ]
    return [(what, str(value)) for what, value in made if value]


def _names(size: int, label_map: LabelMap, last: str) -> list[str]:
    """Names of the first ``size`` ids: classes, then what comes after them."""
    extra = size - label_map.num_classes
    tail = [last] if extra == 1 and last == "void" else [f"{last} {i}" for i in range(max(0, extra))]
    return [*label_map.names[:size], *tail]


def _cell(pixels: int, share: float, row: str, column: str, right: bool) -> Cell:
    title = f"{row} labelled as {column}: {pixels:,} pixels, {100 * share:.2f} % of {row}"
    text = f"{100 * share:.0f}" if share >= 0.005 else "·" if pixels else ""
    # the root shows rare confusions too
    return Cell(text, title, float(share) ** 0.5, right)


def _mixups(table: np.ndarray, shares: np.ndarray, rows: list[str], columns: list[str]) -> list[str]:
    """The errors with the most pixels."""
    wrong = table.copy()
    np.fill_diagonal(wrong, 0)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:MOST_MIXUPS]
    pairs = [divmod(int(i), table.shape[1]) for i in largest]
    told = []
    for i, j in pairs:
        if wrong[i, j]:
            of_row, of_all = percent(shares[i, j]), percent(wrong[i, j] / table.sum(), 2)
            told.append(f"{rows[i]} labelled as {columns[j]}: {of_row} of {rows[i]}, {of_all} of all pixels")
    return told


def _share(part: float, whole: float | None) -> str:
    return percent(part / whole) if whole else ""


def _known(frames: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [value for row in frames if (value := number(row[key])) is not None]
