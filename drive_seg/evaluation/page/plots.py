"""Timelines of a replay as plain geometry: what the template needs to draw them as SVG, however long the replay was.

A plot is ``WIDTH`` wide and 100 high, stretched to its place on the page; so only paths are in it, and all text is
beside it. Paths are strings of SVG path commands.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH = 1000
MAX_COLUMNS = 600
"""A timeline with more frames than this is binned to so many columns."""

ALL_COLUMNS = 6000
"""What all timelines of a page have together; many timelines get fewer columns each."""

MIN_COLUMNS = 100
MAX_TIMELINES = 30
"""How many timelines a page shows."""

FATE_LANES = ("lost", "dropped", "expired", "rejected", "failed", "withheld")
GAP = 3.0
"""A line is broken where two of its values are this many times further apart than they usually are."""

FEW_VALUES = 150
"""Up to so many values each gets a dot."""


_MINUTE_STEPS = (30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
"""Round lengths in s between the marks of a time axis in minutes."""


@dataclass(frozen=True)
class Measure:
    """A figure of a frame that is drawn over time.

    Attributes:
        key: of the figure in a row.
        name: what is drawn.
        unit: of what is drawn.
        factor: what the figure is multiplied with.
        offset: what is added then.
        top: upper end of the scale, if it is fixed.
    """

    key: str
    name: str
    unit: str
    factor: float = 1.0
    offset: float = 0.0
    top: float | None = None


MEASURES = (
    Measure("latency_ms", "latency", "ms"),
    Measure("input_age_ms", "input age", "ms"),
    Measure("miou", "mIoU", "%", 100.0, top=100.0),
    Measure("flicker", "flicker", "%", 100.0),
    Measure("agreement", "pixels unlike the other run's", "%", -100.0, 100.0),
)


@dataclass(frozen=True)
class Panel:
    """One measure over time.

    Attributes:
        measure: what is drawn.
        ticks: (text, height in % from the bottom) of the scale's lines.
        band: area from the least to the greatest value of each column; empty where a column is one frame.
        line: through the columns' medians.
        dots: points of zero length, drawn by their round ends; empty where there are many values.
        beyond: the same for columns that reach over the scale's end.
        greatest: the greatest value as text if it lies beyond the scale's end, else empty.
    """

    measure: Measure
    ticks: list[tuple[str, float]]
    band: str
    line: str
    dots: str
    beyond: str
    greatest: str


@dataclass(frozen=True)
class Lane:
    """Where frames ended with one fate: how many, and a path of vertical strokes, higher where it were more."""

    fate: str
    count: int
    path: str


@dataclass(frozen=True)
class Area:
    """A stretch of the time axis with what to say about it: x and width in parts of ``WIDTH``."""

    x: float
    width: float
    text: str


@dataclass(frozen=True)
class Timeline:
    """All that is drawn for one camera of one bag.

    ``per_column`` is the length in s of the columns that frames were put together in, None where each has its own.
    """

    bag: str
    camera: str
    frames: int
    per_column: float | None
    panels: list[Panel]
    lanes: list[Lane]
    ticks: list[tuple[str, float]]
    columns: list[Area]
    stalls: list[Area]


def timelines(rows: Iterable[Mapping[str, Any]], stalls: Sequence[Mapping[str, Any]]) -> tuple[list[Timeline], int]:
    """The timelines of a replay, at most ``MAX_TIMELINES``, and how many are left out.

    Cameras of the same bag share their time axis. Where there are too many, those with the most lost frames and the
    lowest mIoU stay, in the order of the rows.

    Args:
        rows: as in :class:`FrameRow`.
        stalls: as in the report, of one camera each; those that name no bag are drawn only if there is just one bag.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((str(row["bag"]), str(row["camera"])), []).append(row)
    shown = sorted(groups, key=lambda name: _interest(groups[name]), reverse=True)[:MAX_TIMELINES]
    columns = max(MIN_COLUMNS, min(MAX_COLUMNS, ALL_COLUMNS // max(1, len(shown))))
    spans: dict[str, list[float]] = {}
    for (bag, _), frames in groups.items():
        times = _times(frames)
        spans.setdefault(bag, []).extend((float(times[0]), float(times[-1])))
    made = []
    for name, frames in groups.items():
        if name in shown:
            bag, camera = name
            here = [
                stall
                for stall in stalls
                if stall["camera"] == camera and (stall["bag"] == bag if stall.get("bag") else len(spans) == 1)
            ]
            made.append(_timeline(name, frames, (min(spans[bag]), max(spans[bag])), columns, here))
    return made, len(groups) - len(made)


def number(value: Any) -> float | None:
    """A finite number as float; None for null, nan, infinity and what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
        return None
    return float(value)


def scale(top: float, lines: int = 3) -> tuple[float, list[float]]:
    """The round end of an axis from 0 to at least ``top``, and the values of its 1 to about ``lines`` lines over 0."""
    if top <= 0:
        return 1.0, [1.0]
    step = 10.0 ** math.floor(math.log10(top / lines))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if m * step * lines >= top * (1 - 1e-9))
    count = math.ceil(top / step - 1e-9)
    return step * count, [step * (i + 1) for i in range(count)]


def clock(seconds: float, minutes: bool, digits: int = 0) -> str:
    """A time as ``4.5 s`` or ``0:04``, with hours where it has some."""
    if not minutes:
        return f"{seconds:.{digits}f} s"
    whole, rest = divmod(round(abs(seconds)), 60)
    text = f"{whole}:{rest:02d}" if whole < 60 else f"{whole // 60}:{whole % 60:02d}:{rest:02d}"
    return f"-{text}" if seconds < 0 else text


def _interest(frames: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Share of frames that were not published, and 1 - mean mIoU."""
    scores = [score for row in frames if (score := number(row["miou"])) is not None]
    lost = sum(row["fate"] in FATE_LANES for row in frames) / len(frames)
    return lost, 1.0 - sum(scores) / len(scores) if scores else 0.0


def _times(frames: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Times of the frames in s, sorted: float64 [N]. Stamps may go backwards; a frame without a time has its index."""
    return np.sort([_time(row) for row in frames])


def _time(row: Mapping[str, Any]) -> float:
    time = number(row["time_s"])
    return time if time is not None else float(row["index"] or 0)


def _timeline(
    name: tuple[str, str],
    frames: Sequence[Mapping[str, Any]],
    span: tuple[float, float],
    columns: int,
    stalls: Sequence[Mapping[str, Any]],
) -> Timeline:
    frames = sorted(frames, key=_time)
    start, length = span[0], (span[1] - span[0]) or 1.0
    places = (_times(frames) - start) / length
    if binned := len(frames) > columns:
        bins = np.minimum((places * columns).astype(np.int64), columns - 1)
        centres = (np.unique(bins) + 0.5) / columns * WIDTH
        groups = np.split(np.arange(len(frames)), np.flatnonzero(np.diff(bins)) + 1)
    else:
        centres = places * WIDTH
        groups = [np.array([i]) for i in range(len(frames))]
    panels, values = [], {}
    for measure in MEASURES:
        figures = np.array([_figure(row, measure) for row in frames])
        if not np.isnan(figures).all():
            values[measure] = figures
            panels.append(_panel(measure, centres, [figures[group] for group in groups], binned))
    fates = np.array([row["fate"] for row in frames])
    lanes = [_lane(fate, fates == fate, centres, groups) for fate in FATE_LANES if (fates == fate).any()]
    texts = [
        _told([frames[i] for i in group], {m: figures[group] for m, figures in values.items()}) for group in groups
    ]
    return Timeline(
        bag=name[0],
        camera=name[1],
        frames=len(frames),
        per_column=length / columns if binned else None,
        panels=panels,
        lanes=lanes,
        ticks=_time_ticks(start, length),
        columns=_areas(centres, texts),
        stalls=[_stall(stall, start, length) for stall in stalls],
    )


def _figure(row: Mapping[str, Any], measure: Measure) -> float:
    value = number(row[measure.key])
    return math.nan if value is None else value * measure.factor + measure.offset


def _panel(measure: Measure, centres: np.ndarray, columns: Sequence[np.ndarray], binned: bool) -> Panel:
    known = [
        (x, found) for x, column in zip(centres, columns, strict=True) if (found := column[~np.isnan(column)]).size
    ]
    x = np.array([place for place, _ in known])
    low, middle, high = np.array([(v.min(), np.median(v), v.max()) for _, v in known]).T
    top, lines = scale(measure.top or _end(np.concatenate([v for _, v in known])))
    beyond = high > top * (1 + 1e-9)
    low, middle, high = (100 - 100 * np.minimum(v, top) / top for v in (low, middle, high))
    runs = np.split(np.arange(len(x)), _breaks(x))
    return Panel(
        measure=measure,
        ticks=[(f"{value:g}", 100 * value / top) for value in (0, *lines)],
        band=" ".join(_band(x[run], low[run], high[run]) for run in runs if len(run) > 1) if binned else "",
        line=" ".join(_line(x[run], middle[run]) for run in runs),
        dots=_dots(x, middle) if len(x) <= FEW_VALUES else "",
        beyond=_dots(x[beyond], np.full(beyond.sum(), 2.0)),
        greatest=f"{max(v.max() for _, v in known):,.0f} {measure.unit}" if beyond.any() else "",
    )


def _end(values: np.ndarray) -> float:
    """Where a scale may end so that a few outliers do not flatten all the rest."""
    usual, greatest = float(np.percentile(values, 98)), float(values.max())
    return usual * 1.5 if greatest > 4 * usual > 0 else greatest


def _breaks(x: np.ndarray) -> np.ndarray:
    """The indices at which a line starts anew, since there is a hole before them."""
    steps = np.diff(x)
    return np.flatnonzero(steps > GAP * np.median(steps)) + 1 if len(steps) else np.array([], np.int64)


def _line(x: np.ndarray, y: np.ndarray) -> str:
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True)]
    return f"M{points[0]}h0" if len(points) == 1 else f"M{points[0]}L{' '.join(points[1:])}"


def _band(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    return f"{_line(np.concatenate((x, x[::-1])), np.concatenate((low, high[::-1])))}Z"


def _dots(x: np.ndarray, y: np.ndarray) -> str:
    return "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x, y, strict=True))


def _lane(fate: str, hit: np.ndarray, centres: np.ndarray, groups: Sequence[np.ndarray]) -> Lane:
    shares = [hit[group].mean() for group in groups]
    # at least a fifth of the height, or a frame among hundreds would not be seen
    strokes = (f"M{x:.1f} 100V{80 - 80 * s:.0f}" for x, s in zip(centres, shares, strict=True) if s > 0)
    return Lane(fate, int(hit.sum()), "".join(strokes))


def _areas(centres: np.ndarray, texts: Sequence[str]) -> list[Area]:
    """Each column's stretch, up to the middle between it and its neighbours."""
    edges = np.concatenate(([0.0], (centres[1:] + centres[:-1]) / 2, [WIDTH]))
    return [Area(float(x), float(w), text) for x, w, text in zip(edges[:-1], np.diff(edges), texts, strict=True)]


def _told(frames: Sequence[Mapping[str, Any]], values: Mapping[Measure, np.ndarray]) -> str:
    """A column in words."""
    first, last = frames[0], frames[-1]
    if len(frames) == 1:
        parts = [f"{_time(first):.2f} s, frame {first['index']}: {first['fate']}"]
        parts += [str(first["reason"])] if first["reason"] else []
    else:
        parts = [f"{_time(first):.1f} to {_time(last):.1f} s, {len(frames)} frames"]
        parts += [
            f"{n} {fate}" for fate, n in Counter(str(row["fate"]) for row in frames).items() if fate in FATE_LANES
        ]
    for measure, figures in values.items():
        known = figures[~np.isnan(figures)]
        if known.size:
            around = f" ({known.min():.1f} to {known.max():.1f})" if known.size > 1 else ""
            parts.append(f"{measure.name} {np.median(known):.1f} {measure.unit}{around}")
    return "\n".join(parts)


def _time_ticks(start: float, length: float) -> list[tuple[str, float]]:
    """(text, place in %) of the time axis."""
    minutes = length > 120
    step = next((step for step in _MINUTE_STEPS if step * 6 >= length), 0.0) if minutes else 0.0
    step = step or scale(length, 6)[1][0]
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    first, last = math.ceil(start / step - 1e-9), math.floor((start + length) / step + 1e-9)
    values = [step * i for i in range(first, last + 1)]
    return [(clock(value, minutes, digits), 100 * (value - start) / length) for value in values]


def _stall(stall: Mapping[str, Any], start: float, length: float) -> Area:
    begin, end = float(stall["start_s"]), float(stall["start_s"]) + float(stall["length_s"])
    left, right = (WIDTH * min(1.0, max(0.0, (edge - start) / length)) for edge in (begin, end))
    return Area(left, max(right - left, 2.0), f"stall: nothing for {float(stall['length_s']):.1f} s")
