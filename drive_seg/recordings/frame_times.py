"""When the frames of a labelled dataset were taken, as far as their names tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from drive_seg.recordings.sources.frames import FALLBACK_FPS, FIRST_STAMP_NS

SHOT_GAP_NS = 5_000_000_000
"""Between the last frame of a shot and the first of the next: longer than between frames of one shot."""


class FrameTime(NamedTuple):
    """When a sample is shown: ``index`` is its place in the dataset, ``shot`` counts from 0."""

    stamp_ns: int
    index: int
    shot: int


class _Place(NamedTuple):
    """A frame's shot, and its time in ns on the clock of that shot."""

    shot: str
    time_ns: int


def frame_times(dataset: str, names: Sequence[str], rate: float | None = None) -> tuple[list[FrameTime], str]:
    """The samples of a dataset in the order of their times.

    Known are CamVid (frame numbers at 30 Hz), Cityscapes (at 17 Hz), the synthetic drives (at 10 Hz), labelled bags,
    and folders whose files are named by stamps in ns. Frames of one shot lie as far apart as they were taken; shots
    follow each other after ``SHOT_GAP_NS``. Stamps of bags and folders are taken as they are.

    Args:
        dataset: its kind, as "camvid".
        names: of its samples.
        rate: frames per second to use in the datasets' own order whatever the names say.

    Returns:
        The times, and in words where they come from.

    Raises:
        ValueError: the rate is impossible, or two samples have the same time.
    """
    if rate is not None and not 0 < rate <= 1000:
        raise ValueError(f"the rate must lie above 0 and up to 1000 frames per second, not {rate}")
    reader, source = _READERS.get(dataset, (None, ""))
    places = [reader(name) for name in names] if reader and rate is None else [None]
    if any(place is None for place in places):
        step = rate or FALLBACK_FPS
        given = "the given rate" if rate is not None else "no time in the names, so"
        times = [FrameTime(FIRST_STAMP_NS + round(i * 1e9 / step), i, 0) for i in range(len(names))]
        return times, f"{given} {step:g} frames per second"
    return _in_order([place for place in places if place is not None], names, dataset in _ABSOLUTE), source


def _in_order(places: Sequence[_Place], names: Sequence[str], absolute: bool) -> list[FrameTime]:
    shots = {place.shot: i for i, place in reversed(list(enumerate(places)))}  # in the order of the dataset
    order = sorted(range(len(places)), key=lambda i: (shots[places[i].shot], places[i].time_ns))
    times: list[FrameTime] = []
    shot, offset = 0, 0
    for before, i in zip([None, *order], order, strict=False):
        if before is None:
            offset = 0 if absolute else FIRST_STAMP_NS - places[i].time_ns
        elif places[before].shot != places[i].shot:
            shot, offset = shot + 1, times[-1].stamp_ns + SHOT_GAP_NS - places[i].time_ns
        elif places[before].time_ns == places[i].time_ns:
            raise ValueError(f"{names[before]} and {names[i]} have the same time; --rate spaces all frames evenly")
        times.append(FrameTime(places[i].time_ns + offset, i, shot))
    return times


def _numbered(pattern: str, rate: float) -> Callable[[str], _Place | None]:
    """Reads names that fit the pattern: its groups "shot" and "frame" are a shot's name and a number at ``rate``."""
    compiled = re.compile(pattern)

    def read(name: str) -> _Place | None:
        found = compiled.search(name)
        return _Place(found["shot"], round(int(found["frame"]) * 1e9 / rate)) if found else None

    return read


def _stamped(pattern: str) -> Callable[[str], _Place | None]:
    """Reads names that fit the pattern: its groups, put together, are a stamp in ns."""
    compiled = re.compile(pattern)

    def read(name: str) -> _Place | None:
        found = compiled.search(name)
        return _Place("", int("".join(found.groups()))) if found else None

    return read


_CAMVID = _numbered(r"(?P<shot>0001TP|0006R0|0016E5|Seq05VD)_f?(?P<frame>\d+)", 30)
_ABSOLUTE = ("bag", "folder")
_READERS: dict[str, tuple[Callable[[str], _Place | None], str]] = {
    "bag": (_stamped(r" at (\d+)\.(\d{9}) s$"), "the stamps of the bag"),
    "camvid": (_CAMVID, "the frame numbers of CamVid at 30 Hz"),
    "camvid32": (_CAMVID, "the frame numbers of CamVid at 30 Hz"),
    "cityscapes": (
        _numbered(r"(?P<shot>[^/]+_\d{6})_(?P<frame>\d{6})$", 17),
        "the frame numbers of Cityscapes at 17 Hz",
    ),
    "folder": (_stamped(r"(?:^|/)(\d{10})[._]?(\d{9})$"), "the stamps in the names of the files"),
    "synth": (_numbered(r"seed (?P<shot>\d+) frame (?P<frame>\d+)$", 10), "the synthetic drives at 10 Hz"),
}
