"""Two diagrams of a run in one picture, by matplotlib: speed against size, and speed against parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drive_seg.bench.rows import Status
from drive_seg.files import written_aside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg")
ABOUT = 0.1
"""Sizes whose pixel counts differ by no more than this share stand in one diagram."""

Point = tuple[float, float]


def write_plot(path: Path, outcome: dict[str, Any]) -> None:
    """Draw the networks of a run at the smallest batch.

    Raises:
        ValueError: if no network was timed, or the file's name is not that of a PNG or SVG.
        OSError: if it cannot be written.
    """
    check_name(path)
    from matplotlib.figure import Figure

    rows = [r for r in outcome["rows"] if r["part"] == "network" and r["status"] == Status.RAN]
    if not rows:
        raise ValueError("there is nothing to plot: no network was timed")
    batch = min(row["batch"] for row in rows)
    rows = [row for row in rows if row["batch"] == batch]
    figure = Figure(figsize=(20, 7.6), dpi=100, layout="constrained")
    by_size, by_parameters = figure.subplots(1, 2)
    _against_size(by_size, rows, batch)
    _against_parameters(by_parameters, rows, batch)
    with written_aside(path) as aside:
        figure.savefig(aside, format=path.suffix[1:].lower())


def check_name(path: Path) -> None:
    """Refuse a file that is not called like a PNG or SVG: ValueError. Ask before a run, not after it."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: the plot is a picture, so its name must end in {' or '.join(SUFFIXES)}")


def _against_size(axes: Axes, rows: Sequence[dict[str, Any]], batch: int) -> None:
    curves: dict[str, list[Point]] = {}
    for row in rows:
        curves.setdefault(_label(row), []).append((_pixels(row["size"]) / 1e6, _per_second(row)))
    _draw(axes, f"Speed against size, batch {batch}", "million pixels", curves)


def _against_parameters(axes: Axes, rows: Sequence[dict[str, Any]], batch: int) -> None:
    """At the size that most contenders ran at, the smaller of equals; files of about that size under their own."""
    sizes = [row["size"] for row in rows]
    size = max(dict.fromkeys(sizes), key=sizes.count)
    near = [r for r in rows if r["parameters"] and abs(_pixels(r["size"]) / _pixels(size) - 1) <= ABOUT]
    points = {
        _label(row) + (f" {row['size']}" if row["size"] != size else ""): [(row["parameters"] / 1e6, _per_second(row))]
        for row in near
    }
    _draw(axes, f"Speed against parameters, {size}, batch {batch}", "million parameters", points)


def _pixels(size: str) -> int:
    width, height = map(int, size.split("x"))
    return width * height


def _label(row: dict[str, Any]) -> str:
    return f"{row['name']} {row['runtime']} {row['precision']}"


def _per_second(row: dict[str, Any]) -> float:
    return 1e3 * row["batch"] / row["median_ms"]


def _draw(axes: Axes, title: str, below: str, curves: dict[str, list[Point]]) -> None:
    """Both axes logarithmic; the legend beside it in the order of speed, colours and marks in turn."""
    import matplotlib

    axes.set_title(title, loc="left")
    axes.set(xlabel=below, ylabel="images per second")
    if not curves:
        axes.text(0.5, 0.5, "no contender's parameters are known", ha="center", transform=axes.transAxes)
        return
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.grid(color="#e1e1e1")
    colors, marks = matplotlib.colormaps["tab20"].colors, "osD^vP"
    for number, (name, curve) in enumerate(sorted(curves.items(), key=lambda item: -max(item[1])[1])):
        mark = marks[number // len(colors) % len(marks)]
        axes.plot(*zip(*sorted(curve), strict=True), marker=mark, color=colors[number % len(colors)], label=name)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small", frameon=False)
