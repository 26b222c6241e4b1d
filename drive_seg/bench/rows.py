"""What a run brings: one row for each contender at each size and batch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from drive_seg.bench.timing import Figures
from drive_seg.inference.runtimes import Size


class Status(StrEnum):
    """What became of a contender."""

    RAN = "ran"
    FAILED = "failed"
    MISSING = "not installed"


class NotInstalledError(ImportError):
    """What a contender needs is not there; the message names the extra that brings it."""


@dataclass(frozen=True)
class Cell:
    """One place of the grid: (height, width), images at once, device."""

    size: Size
    batch: int = 1
    device: str = "cpu"


@dataclass
class Row:
    """One contender at one size.

    Attributes:
        part: "network", "segmenter", "frames", "node" or "training".
        name, runtime, precision: of the contender.
        size: WIDTHxHEIGHT of what the network sees.
        batch: images at once.
        status: what became of it; ``reason`` says why it did not run.
        asked: it was asked for by name, so that its not being installed is a failure.
        median_ms, p10_ms, p90_ms, runs: of the whole batch, or of a training step; for a node from an image's stamp
            to its received mask.
        ratio_to_eager: median_ms by that of the unfolded network ``eager_of`` in PyTorch: fp32, NCHW, inference_mode,
            all threads, in the same run.
        agreement: share of pixels with eager's class; None where it was not compared.
        peak_memory_mib: see :class:`~drive_seg.bench.machine.PeakMemory`; None for a node, a process of its own.
        parameters: of the network at inference.
        operations, bytes, fraction_of_peak, fraction_of_bandwidth: see :mod:`drive_seg.bench.roofline`.
        details: stages of a Segmenter, frames per second of a frame path, counters of a node; of a training step its
            threads, images per second and the shares of its parts.
    """

    part: str
    name: str
    runtime: str
    precision: str
    size: str
    batch: int
    status: Status = Status.RAN
    reason: str = ""
    asked: bool = False
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    runs: int = 0
    ratio_to_eager: float | None = None
    eager_of: str | None = None
    agreement: float | None = None
    peak_memory_mib: float | None = None
    parameters: int | None = None
    operations: int | None = None
    bytes: int | None = None
    fraction_of_peak: float | None = None
    fraction_of_bandwidth: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def take(self, seconds: list[float]) -> None:
        """Fill in the figures of times in seconds."""
        found = Figures.of(seconds)
        self.median_ms, self.p10_ms, self.p90_ms, self.runs = (
            found.median_ms,
            found.p10_ms,
            found.p90_ms,
            found.runs,
        )

    def fail(self, error: Exception) -> None:
        """It did not run, for this reason."""
        self.status = Status.MISSING if isinstance(error, NotInstalledError) else Status.FAILED
        self.reason = in_a_sentence(error)

    def compare(self, eager: Row | None) -> None:
        """Fill in the ratio to eager's row."""
        if eager is not None and eager.median_ms and self.median_ms is not None:
            self.ratio_to_eager, self.eager_of = self.median_ms / eager.median_ms, eager.name

    @property
    def counts_as_failure(self) -> bool:
        return self.status == Status.FAILED or (self.status == Status.MISSING and self.asked)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def size_text(size: Size) -> str:
    """(360, 640) -> "640x360"."""
    return f"{size[1]}x{size[0]}"


def in_a_sentence(error: Exception) -> str:
    """One line of an exception: some run over pages, and say what matters at their begin or end."""
    text = " ".join(str(error).split())
    if len(text) > 600:
        text = f"{text[:150]} ... {text[-450:]}"
    return text if isinstance(error, ValueError | ImportError) and text else f"{type(error).__name__}: {text}"
