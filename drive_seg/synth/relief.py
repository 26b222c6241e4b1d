"""Uneven light on things made of flat polygons: reflections on vehicles, folds in clothes. Labels are not touched."""

import cv2
import numpy as np

from drive_seg.synth.canvas import Canvas
from drive_seg.synth.things import Thing

_HIGHEST = 4.5  # m
_SMALLEST = 10  # px; below, nobody sees it
_CELLS = (10, 16)  # of noise over a thing, rows and columns


def draw_with_relief(canvas: Canvas, thing: Thing, noise: np.ndarray) -> None:
    """Draw a thing, then vary the brightness of the pixels it has drawn; `noise` is tileable, about -1..1."""
    box = _box(canvas, thing) if thing.relief else None
    if box is None:
        thing.draw(canvas)
        return
    left, top, right, bottom = box
    region = canvas.buffer[top:bottom, left:right]
    before = region.copy()
    thing.draw(canvas)
    drawn = (np.ascontiguousarray(region).view(np.uint32) != before.view(np.uint32))[..., 0]
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    if len(rows) < _SMALLEST or len(columns) < 3:
        return
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    drawn, picture = drawn[part], region[part][..., :3]
    height, width = drawn.shape
    # The pattern glides over what moves, as reflections do.
    start = int(np.floor(thing.s0 * 2.0)), int(np.floor(thing.d0 * 5.0))
    patch = noise[np.ix_(*((at + np.arange(n)) % len(noise) for at, n in zip(start, _CELLS, strict=True)))]
    factor = cv2.resize(patch, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(0.32 * thing.relief)
    ramp = np.interp(np.linspace(0, 1, height), [0.0, 0.25, 0.45, 0.6, 1.0], [0.15, 0.05, -0.08, 0.04, -0.22])
    factor += (1.0 + thing.relief * ramp).astype(np.float32)[:, None]
    factor[~drawn] = 1.0
    picture[:] = cv2.multiply(picture, cv2.merge([factor] * 3), dtype=cv2.CV_8U)


def _box(canvas: Canvas, thing: Thing) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of all that the thing may draw, or None if it is small or too near."""
    if thing.outline is None:
        return None
    n = len(thing.outline)
    corners = np.zeros((2 * n, 3))
    corners[:n, :2] = corners[n:, :2] = thing.outline
    corners[n:, 2] = _HIGHEST if thing.height > 1.15 else 2.0
    points = canvas.view.to_camera(corners)
    if points[:, 2].min() < 0.5:
        return None
    pixels = canvas.view.to_pixels(points)
    (left, top), (right, bottom) = pixels.min(axis=0) - 2.0, pixels.max(axis=0) + 3.0
    height, width = canvas.label.shape
    left, top, right, bottom = max(int(left), 0), max(int(top), 0), min(int(right), width), min(int(bottom), height)
    return (left, top, right, bottom) if right - left >= _SMALLEST and bottom - top >= _SMALLEST else None
