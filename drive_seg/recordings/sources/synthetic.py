"""Synthetic drives: ``synth:seed=3,frames=100,size=640x360,fps=10``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from drive_seg.recordings.sources.frames import FrameSource
from drive_seg.recordings.sources.topics import SourceError
from drive_seg.synth import SynthCamera, SynthDrive

PREFIX = "synth:"
SHORTEST_SIDE, LONGEST_SIDE = 16, 8192


@dataclass(frozen=True)
class SynthSpec:
    """A drive in words; size is (width, height) in pixels."""

    seed: int = 0
    frames: int = 100
    size: tuple[int, int] = (640, 360)
    fps: float = 10.0


class SynthSource(FrameSource):
    """A synthetic drive with its exact labels."""

    has_truth = True

    def __init__(
        self,
        spec: str,
        camera: str,
        fps: float | None,
        topics: Sequence[str] | None,
        start: float,
        duration: float | None,
    ) -> None:
        self.drive = parse(spec)
        rate = fps or self.drive.fps
        self._drive = SynthDrive(seed=self.drive.seed, size=self.drive.size, fps=rate)
        super().__init__(spec, camera, rate, topics, start, duration)

    @property
    def synth_camera(self) -> SynthCamera:
        """The exact pinhole camera of the drive."""
        return self._drive.camera

    def _count(self) -> int:
        return self.drive.frames

    def _frames(self, first: int, stop: int | None) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for index in range(first, self.drive.frames if stop is None else stop):
            frame = self._drive.frame(index)
            yield index, frame.image, frame.label


def parse(spec: str) -> SynthSpec:
    """Read ``synth:key=value,...``; keys left out take their defaults.

    Raises:
        SourceError: an unknown key, or a value that cannot be.
    """
    values: dict = {}
    for part in filter(None, spec.removeprefix(PREFIX).split(",")):
        key, _, text = (item.strip() for item in part.partition("="))
        if key not in _READERS:
            raise SourceError(f"'{spec}': '{key}' is unknown; a synthetic drive takes {', '.join(_READERS)}.")
        try:
            values[key] = _READERS[key](text)
        except ValueError:
            raise SourceError(f"'{spec}': {key} cannot be '{text}'; it is {_MEANINGS[key]}.") from None
    return SynthSpec(**values)


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def _frames(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    size = tuple(int(side) for side in match.groups()) if match else (0, 0)
    if not all(SHORTEST_SIDE <= side <= LONGEST_SIDE for side in size):
        raise ValueError
    return size


def _fps(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1000:
        raise ValueError
    return value


_READERS = {"seed": _seed, "frames": _frames, "size": _size, "fps": _fps}
_MEANINGS = {
    "seed": "a whole number, 0 or more",
    "frames": "a whole number, 1 or more",
    "size": f"WIDTHxHEIGHT in pixels, {SHORTEST_SIDE} to {LONGEST_SIDE} each",
    "fps": "frames per second, above 0 and up to 1000",
}
