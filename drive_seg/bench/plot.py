"""Two diagrams of a run in one PNG, drawn with OpenCV: speed against size, and speed against parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drive_seg.bench.rows import RAN
from drive_seg.files import written_aside

WIDTH, HEIGHT = 1000, 760
LEFT, RIGHT, TOP, BOTTOM = 90, 330, 60, 70
INK, GRID, PAPER = (40, 40, 40), (225, 225, 225), (255, 255, 255)
FONT = cv2.FONT_HERSHEY_SIMPLEX
TICKS = (1, 2, 5)
ABOUT = 0.1
"""Sizes whose pixel counts differ by no more than this share stand in one diagram."""

Point = tuple[float, float]
Curve = tuple[str, list[Point]]


def write_plot(path: Path, outcome: dict[str, Any]) -> None:
    """Draw the networks of a run at the smallest batch.

    Raises:
        ValueError: if no network was timed, or the file's name is not that of a PNG.
        OSError: if it cannot be written.
    """
    check_name(path)
    rows = [r for r in outcome["rows"] if r["part"] == "network" and r["status"] == RAN]
    if not rows:
        raise ValueError("there is nothing to plot: no network was timed")
    smallest_batch = min(row["batch"] for row in rows)
    rows = [row for row in rows if row["batch"] == smallest_batch]
    picture = np.hstack([_against_size(rows, smallest_batch), _against_parameters(rows, smallest_batch)])
    with written_aside(path) as aside:
        if not cv2.imwrite(str(aside), picture):
            raise OSError(f"{path} cannot be written to")


def check_name(path: Path) -> None:
    """Refuse a file that is not called like a PNG: ValueError. Ask before a run, not after it."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the plot is a PNG, so its name must end in .png")


def _against_size(rows: Sequence[dict[str, Any]], batch: int) -> np.ndarray:
    curves: dict[str, list[Point]] = {}
    for row in rows:
        curves.setdefault(_label(row), []).append((_pixels(row["size"]) / 1e6, _per_second(row)))
    return _diagram(f"Speed against size, batch {batch}", "million pixels", list(curves.items()))


def _against_parameters(rows: Sequence[dict[str, Any]], batch: int) -> np.ndarray:
    """At the size that most contenders ran at, the smaller of equals; files of about that size under their own."""
    sizes = [row["size"] for row in rows]
    size = max(dict.fromkeys(sizes), key=sizes.count)
    known = [row for row in rows if row["parameters"]]
    near = [row for row in known if abs(_pixels(row["size"]) / _pixels(size) - 1) <= ABOUT]
    own = {row["size"]: f" {row['size']}" for row in near if row["size"] != size}
    points = [(_label(r) + own.get(r["size"], ""), [(r["parameters"] / 1e6, _per_second(r))]) for r in near]
    return _diagram(f"Speed against parameters, {size}, batch {batch}", "million parameters", points)


def _pixels(size: str) -> int:
    width, height = map(int, size.split("x"))
    return width * height


def _label(row: dict[str, Any]) -> str:
    return f"{row['name']} {row['runtime']} {row['precision']}"


def _per_second(row: dict[str, Any]) -> float:
    return 1e3 * row["batch"] / row["median_ms"]


def _diagram(title: str, below: str, curves: Sequence[Curve]) -> np.ndarray:
    """uint8 BGR [HEIGHT, WIDTH, 3]: both axes logarithmic, each curve named at its fast end."""
    picture = np.full((HEIGHT, WIDTH, 3), PAPER, np.uint8)
    _write(picture, title, (LEFT, 35), 0.7)
    _write(picture, "images per second", (10, TOP - 8), 0.45)
    _write(picture, below, (LEFT, HEIGHT - 20), 0.45)
    if not curves:
        _write(picture, "no contender's parameters are known", (LEFT, HEIGHT // 2), 0.6)
        return picture
    points = [point for _, curve in curves for point in curve]
    across = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT)
    up = _Axis([y for _, y in points], HEIGHT - BOTTOM, TOP)
    for value in across.ticks():
        cv2.line(picture, (across.at(value), TOP), (across.at(value), HEIGHT - BOTTOM), GRID, 1)
        _write(picture, f"{value:g}", (across.at(value) - 12, HEIGHT - BOTTOM + 20), 0.45)
    for value in up.ticks():
        cv2.line(picture, (LEFT, up.at(value)), (WIDTH - RIGHT, up.at(value)), GRID, 1)
        _write(picture, f"{value:g}", (LEFT - 55, up.at(value) + 5), 0.45)
    places = _apart([up.at(max(curve)[1]) for _, curve in curves], TOP + 8, HEIGHT - BOTTOM)
    for number, ((name, curve), place) in enumerate(zip(curves, places, strict=True)):
        colour = _colour(number, len(curves))
        at = [(across.at(x), up.at(y)) for x, y in sorted(curve)]
        cv2.polylines(picture, [np.array(at, np.int32)], False, colour, 2, cv2.LINE_AA)
        for point in at:
            cv2.circle(picture, point, 5, colour, cv2.FILLED, cv2.LINE_AA)
        cv2.line(picture, at[-1], (WIDTH - RIGHT + 15, place), colour, 1, cv2.LINE_AA)
        _write(picture, name, (WIDTH - RIGHT + 20, place + 4), 0.42, colour)
    return picture


class _Axis:
    """Values on a logarithmic scale, with some room at both ends, and where they lie in pixels."""

    def __init__(self, values: Sequence[float], begin: int, end: int) -> None:
        self._low, self._high = math.log10(min(values)) - 0.08, math.log10(max(values)) + 0.08
        self._begin, self._end = begin, end

    def at(self, value: float) -> int:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return round(self._begin + share * (self._end - self._begin))

    def ticks(self) -> list[float]:
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        every = [tick * 10.0**decade for decade in decades for tick in TICKS]
        return [value for value in every if self._low <= math.log10(value) <= self._high]


def _apart(places: Sequence[int], low: int, high: int) -> list[int]:
    """Rows of text near these places, none over another; all within low..high where there is room."""
    if not places:
        return []
    step = min(17, max(1, (high - low) // len(places)))
    order = sorted(range(len(places)), key=lambda i: places[i])
    result, last = [0] * len(places), low - step
    for i in order:
        last = result[i] = max(places[i], last + step)
    limit = high
    for i in reversed(order):  # what was pushed out at the bottom pushes back
        result[i] = min(result[i], limit)
        limit = result[i] - step
    return result


def _colour(number: int, count: int) -> tuple[int, int, int]:
    """Evenly round the circle of hues, light and dark in turn."""
    hsv = np.uint8([[[180 * number // max(1, count), 220, (200, 140)[number % 2]]]])
    blue, green, red = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def _write(
    picture: np.ndarray, text: str, at: tuple[int, int], size: float, colour: tuple[int, int, int] = INK
) -> None:
    cv2.putText(picture, text, at, FONT, size, colour, 1, cv2.LINE_AA)
