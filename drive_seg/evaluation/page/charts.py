"""Charts of the report page as SVG, by matplotlib: in the page's colours, by day and night, readable by hovering.

Matplotlib is imported where a chart is drawn, so that nothing else pays for it.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from drive_seg.evaluation.records import FATES, LOST, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_COLUMNS = 600
"""A timeline with more frames than this is binned to so many columns."""

ALL_COLUMNS = 3000
"""What all timelines of a page have together; many timelines get fewer columns each."""

MIN_COLUMNS = 100
MAX_TIMELINES = 30
"""How many timelines a page shows."""

FATE_LANES = (LOST, *FATES[1:])
GAP = 3.0
"""A line is broken where two of its values are this many times further apart than they usually are."""

FEW_VALUES = 150
"""Up to so many values each gets a dot."""

HOW_TO_READ = (
    "Each bar is the share of right pixels among those of a confidence, darker the more pixels it stands for. On the "
    "dashed line a pixel is right as often as its confidence says; below it the model is too sure. Rings: without the "
    "model's temperature."
)

_COLORS = {
    "#1b1e22": "text", "#59616b": "soft", "#d5d9de": "line", "#0066a8": "blue", "#b34700": "orange",
    "#00734f": "green", "#93398c": "purple", "#6a727c": "grey",
}  # fmt: skip
"""Colours of report.css by day; in the page they are its variables, which have other values by night."""
_TEXT, _SOFT, _LINE, _BLUE, _ORANGE, _GREEN, _PURPLE, _GREY = _COLORS

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": _LINE,
    "axes.grid": True,
    "axes.labelcolor": _SOFT,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.size": 9,
    "grid.color": _LINE,
    "svg.fonttype": "none",
    "svg.hashsalt": "drive_seg",
    "text.color": _TEXT,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "ytick.major.size": 0,
}
_MINUTE_STEPS = (30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
"""Round lengths in s between the marks of a time axis in minutes."""

_WIDTH, _LEFT, _RIGHT, _TOP, _BELOW, _PANEL, _LANE = 960, 86, 14, 24, 24, 76, 18
"""Of a timeline, in points: the whole, its margins, a measure, a fate."""


@dataclass(frozen=True)
class Measure:
    """A figure of a frame that is drawn over time: its key in a row, then ``factor * value + offset`` in ``unit``.

    ``top`` is the upper end of the scale, if it is fixed.
    """

    key: str
    name: str
    unit: str
    color: str
    factor: float = 1.0
    offset: float = 0.0
    top: float | None = None

    def of(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Its values, float64 [N], nan where there is none."""
        values = [math.nan if (value := number(row[self.key])) is None else value for row in rows]
        return self.factor * np.array(values) + self.offset


MEASURES = (
    Measure("latency_ms", "latency", "ms", _BLUE),
    Measure("input_age_ms", "input age", "ms", _PURPLE),
    Measure("miou", "mIoU", "%", _GREEN, 100.0, top=100.0),
    Measure("flicker", "flicker", "%", _ORANGE, 100.0),
    Measure("agreement", "pixels unlike the other run's", "%", _GREY, -100.0, 100.0),
)


@dataclass(frozen=True)
class Timeline:
    """One camera of one bag over time, as SVG.

    ``per_column`` is the length in s of the columns that frames were put together in, None where each has its own.
    """

    bag: str
    camera: str
    frames: int
    per_column: float | None
    svg: str


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
    most = max(MIN_COLUMNS, min(MAX_COLUMNS, ALL_COLUMNS // max(1, len(shown))))
    spans: dict[str, list[float]] = {}
    for (bag, _), frames in groups.items():
        spans.setdefault(bag, []).extend(map(_time, frames))
    made = []
    for (bag, camera), frames in groups.items():
        if (bag, camera) in shown:
            frames = sorted(frames, key=_time)
            columns = Columns.of(frames, (min(spans[bag]), max(spans[bag])), most)
            here = [
                (float(stall["start_s"]), float(stall["length_s"]))
                for stall in stalls
                if stall["camera"] == camera and (stall["bag"] == bag if stall.get("bag") else len(spans) == 1)
            ]
            made.append(Timeline(bag, camera, len(frames), columns.per_column, _timeline(frames, columns, here)))
    return made, len(groups) - len(made)


@dataclass(frozen=True)
class Columns:
    """Frames in the columns of a timeline: all in one column where there are too many for one each.

    Attributes:
        span: first and last time in s of the axis.
        centres: times of the columns in s, float64 [K].
        members: the indices of each column's frames.
        per_column: length of a column in s; None where each frame has its own.
    """

    span: tuple[float, float]
    centres: np.ndarray
    members: list[np.ndarray]
    per_column: float | None

    @classmethod
    def of(cls, frames: Sequence[Mapping[str, Any]], span: tuple[float, float], most: int) -> Columns:
        """At most so many columns for frames that are sorted by time."""
        times = np.array([_time(row) for row in frames])
        if len(frames) <= most:
            return cls(span, times, [np.array([i]) for i in range(len(frames))], None)
        length = ((span[1] - span[0]) or 1.0) / most
        bins = np.minimum(((times - span[0]) / length).astype(np.int64), most - 1)
        members = np.split(np.arange(len(frames)), np.flatnonzero(np.diff(bins)) + 1)
        return cls(span, span[0] + (np.unique(bins) + 0.5) * length, members, length)

    def edges(self) -> np.ndarray:
        """Where columns meet, in the middle between their centres, float64 [K + 1]."""
        return np.concatenate(([self.span[0]], (self.centres[1:] + self.centres[:-1]) / 2, [self.span[1]]))


def reliability_diagram(report: Mapping[str, Any]) -> str:
    """SVG with bars of accuracy over confidence, darker the more pixels they stand for; on the line both are equal.

    Args:
        report: :meth:`drive_seg.evaluation.reliability.Reliability.to_dict`; rings are what it was before the
            temperature.
    """
    rows = [row for row in report["bins"] if row["pixels"]]
    before = [row for row in (report["before"] or {"bins": []})["bins"] if row["pixels"]]
    most = max((row["pixels"] for row in rows), default=1)
    with _styled():
        figure = _figure(310, 300)
        axes = figure.add_axes((0.15, 0.13, 0.82, 0.84), xlim=(0, 100), ylim=(0, 100), aspect="equal")
        axes.set(xlabel="confidence, %", ylabel="right, %")
        for row in rows:
            width, strength = 100 * (row["to"] - row["from"]), 0.15 + 0.85 * (row["pixels"] / most) ** 0.5
            axes.bar(100 * row["from"], 100 * row["accuracy"], width, align="edge", color=_BLUE, alpha=strength)
        axes.plot((0, 100), (0, 100), "--", color=_TEXT, linewidth=1)
        places = [[100 * row[key] for row in before] for key in ("confidence", "accuracy")]
        axes.plot(*places, "o", color=_ORANGE, markerfacecolor="none", markersize=6)
        texts = [(100 * row["from"], 100 * row["to"], _bin_in_words(row)) for row in rows]
        return _svg(figure, "reliability diagram", axes, texts)


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


def _time(row: Mapping[str, Any]) -> float:
    """In s; a frame without a time has its index."""
    time = number(row["time_s"])
    return time if time is not None else float(row["index"] or 0)


def _timeline(frames: Sequence[Mapping[str, Any]], columns: Columns, stalls: Sequence[tuple[float, float]]) -> str:
    values = {measure: measure.of(frames) for measure in MEASURES}
    values = {measure: found for measure, found in values.items() if not np.isnan(found).all()}
    fates = Counter(str(row["fate"]) for row in frames)
    lanes = [fate for fate in FATE_LANES if fates[fate]]
    heights = [*[_TOP + _PANEL] * len(values), *([_TOP + _LANE * len(lanes)] if lanes or not values else [])]
    with _styled():
        figure, drawn = _figure(_WIDTH, sum(heights) + _BELOW), []
        for (measure, found), top in zip(values.items(), np.cumsum(heights), strict=False):
            drawn.append(_panel_axes(figure, top, _PANEL))
            _draw_measure(drawn[-1], measure, found, columns)
        if lanes or not values:
            drawn.append(_panel_axes(figure, sum(heights), _LANE * len(lanes)))
            _draw_fates(drawn[-1], {fate: fates[fate] for fate in lanes}, frames, columns)
        begin, end = columns.span
        texts = list(zip(columns.edges(), columns.edges()[1:], _texts(frames, values, columns), strict=False))
        for start, length in stalls:
            texts.append((start, start + length, f"stall: nothing for {length:.1f} s"))
        for axes in drawn:
            axes.set_xlim(begin, max(end, begin + 1e-3))
            axes.tick_params(bottom=axes is drawn[-1], labelbottom=axes is drawn[-1])
            _mark_time(axes, end - begin)
            for start, length in stalls:
                axes.axvspan(start, start + length, color=_ORANGE, alpha=0.22, linewidth=0)
        return _svg(figure, "figures and fates of the frames over time", drawn[0], texts)


def _panel_axes(figure: Figure, bottom: float, height: float) -> Axes:
    """Axes whose lower edge is so many points below the figure's top."""
    whole = 72 * figure.get_figheight()
    return figure.add_axes((_LEFT / _WIDTH, 1 - bottom / whole, 1 - (_LEFT + _RIGHT) / _WIDTH, max(1, height) / whole))


def _draw_measure(axes: Axes, measure: Measure, values: np.ndarray, columns: Columns) -> None:
    """The columns' medians as a line, and a band from their least to their greatest values."""
    from matplotlib.ticker import MaxNLocator

    known = [
        (x, found)
        for x, column in zip(columns.centres, (values[i] for i in columns.members), strict=True)
        if (found := column[~np.isnan(column)]).size
    ]
    x = np.array([place for place, _ in known])
    low, middle, high = np.array([(v.min(), np.median(v), v.max()) for _, v in known]).T
    top = measure.top or _end(values[~np.isnan(values)])
    greatest = f"   ▲ up to {high.max():,.0f} {measure.unit}" if high.max() > top * (1 + 1e-9) else ""
    axes.set_title(f"{measure.name}, {measure.unit}{greatest}")
    axes.set_ylim(0, top)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 2.5, 5, 10)))
    steps = np.diff(x)
    holes = np.flatnonzero(steps > GAP * np.median(steps)) + 1 if len(steps) else []
    x, low, middle, high = (np.insert(array, holes, np.nan) for array in (x, low, middle, high))
    if columns.per_column is not None:
        axes.fill_between(x, low, high, color=measure.color, alpha=0.25, linewidth=0)
    dots = "." if columns.per_column is None and len(x) <= FEW_VALUES else ""
    axes.plot(x, middle, color=measure.color, linewidth=1.2, marker=dots, markersize=5)
    axes.plot(x[high > top], np.full((high > top).sum(), 0.97 * top), "^", color=_ORANGE, markersize=5)


def _draw_fates(axes: Axes, fates: Mapping[str, int], frames: Sequence[Mapping[str, Any]], columns: Columns) -> None:
    """A lane for each fate with strokes where frames ended so, higher where it were more."""
    names = np.array([row["fate"] for row in frames])
    for lane, fate in enumerate(fates):
        shares = np.array([(names[i] == fate).mean() for i in columns.members])
        hit, bottom = shares > 0, len(fates) - 1 - lane
        # at least a fifth of the height, or a frame among hundreds would not be seen
        axes.vlines(columns.centres[hit], bottom, bottom + 0.18 + 0.72 * shares[hit], color=_ORANGE, linewidth=1.5)
    axes.set_title("frames without a mask" if fates else "all frames got a mask")
    axes.set_ylim(0, max(1, len(fates)))
    axes.set_yticks([len(fates) - 0.7 - i for i in range(len(fates))], [f"{n} {fate}" for fate, n in fates.items()])
    axes.grid(False)


def _mark_time(axes: Axes, length: float) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

    if length > 120:
        step = next((step for step in _MINUTE_STEPS if step * 8 >= length), _MINUTE_STEPS[-1])
        axes.xaxis.set_major_locator(MultipleLocator(step))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds, True)))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8))
        axes.xaxis.set_major_formatter("{x:g} s")


def _end(values: np.ndarray) -> float:
    """Where a scale may end so that a few outliers do not flatten all the rest."""
    usual, greatest = float(np.percentile(values, 98)), float(values.max())
    return usual * 1.5 if greatest > 4 * usual > 0 else greatest * 1.05 or 1.0


def _texts(
    frames: Sequence[Mapping[str, Any]], values: Mapping[Measure, np.ndarray], columns: Columns
) -> Iterable[str]:
    """Each column in words."""
    for members in columns.members:
        here = [frames[i] for i in members]
        first, last = here[0], here[-1]
        if len(here) == 1:
            parts = [f"{_time(first):.2f} s, frame {first['index']}: {first['fate']}"]
            parts += [str(first["reason"])] if first["reason"] else []
        else:
            parts = [f"{_time(first):.1f} to {_time(last):.1f} s, {len(here)} frames"]
            fates = Counter(str(row["fate"]) for row in here)
            parts += [f"{count} {fate}" for fate, count in fates.items() if fate in FATE_LANES]
        for measure, figures in values.items():
            known = figures[members][~np.isnan(figures[members])]
            if known.size:
                around = f" ({known.min():.1f} to {known.max():.1f})" if known.size > 1 else ""
                parts.append(f"{measure.name} {np.median(known):.1f} {measure.unit}{around}")
        yield "\n".join(parts)


def _bin_in_words(row: Mapping[str, Any]) -> str:
    return (
        f"{row['pixels']:,} pixels of confidence {100 * row['from']:.0f} to {100 * row['to']:.0f} %, "
        f"{100 * row['confidence']:.1f} % on average: {100 * row['accuracy']:.1f} % right"
    )


def _styled():
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of a size in points."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72)


def _svg(figure: Figure, label: str, axes: Axes, texts: Iterable[tuple[float, float, str]]) -> str:
    """The figure as an element of the page, with a text for each stretch (begin, end) of the axes' x to hover over."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    drawn = file.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    drawn = re.sub(r' id="[\w.]+_\d+"', "", drawn)  # of no use, and not unique among several charts
    # Places are in points, a tenth of one is enough; texts stay as they are.
    drawn = re.sub(r' (?:d|x|y)="[^"]*"', lambda places: re.sub(r"(\d\.\d)\d+", r"\1", places[0]), drawn)
    drawn = re.sub("|".join(_COLORS), lambda found: f"var(--{_COLORS[found[0]]})", drawn)
    height, rects = 72 * figure.get_figheight(), []
    for begin, end, text in texts:
        left, right = (float(axes.transData.transform((x, 0))[0]) for x in (begin, end))
        place = f'x="{left:.1f}" width="{max(right - left, 0.4):.1f}" height="{height:.0f}"'
        rects.append(f"<rect {place}><title>{escape(text, quote=False)}</title></rect>")
    reading = f'<g class="reading">{"".join(rects)}</g></svg>'
    return drawn.replace("<svg", f'<svg class="chart" role="img" aria-label="{label}"', 1).replace("</svg>", reading)
