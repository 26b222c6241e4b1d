"""Who takes part: a network in a runtime and a precision, or a user's ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from drive_seg.bench.rows import Cell, Size
from drive_seg.bench.subjects import Subject, batch_of
from drive_seg.bench.ways import EAGER, Way, ways
from drive_seg.inference.runtimes import Runtime


@dataclass(frozen=True)
class Contender:
    """A network in a runtime.

    Attributes:
        subject: the network; None for a user's ONNX file.
        name, runtime, precision: as in its row.
        way: how it is opened.
        asked: it was asked for by name.
    """

    subject: Subject | None
    name: str
    runtime: str
    precision: str
    way: Way
    asked: bool = False

    @property
    def label(self) -> str:
        """Its name in full: "dsnet openvino bf16"."""
        return f"{self.name} {self.runtime} {self.precision}"

    def takes_part(self, cell: Cell, cells: Sequence[Cell]) -> bool:
        """Whether it runs in this cell: the heavy, variants and what is compiled for a size only in the cheapest unless
        asked for."""
        if self.asked or self.subject is None:
            return True
        if self.subject.heavy or self.subject.variant or self.way.first_only:
            return cell == min(cells, key=_work)
        return True

    def size_at(self, cell: Cell) -> Size:
        """(height, width) of its input."""
        return cell.size

    def batch_at(self, cell: Cell) -> Tensor:
        """Its input: float32 [batch, 3, height, width] of different pictures."""
        return batch_of(cell.batch, self.size_at(cell), cell.device)

    def count_parameters(self) -> int | None:
        return None if self.subject is None else self.subject.parameters

    def open(self, cell: Cell) -> Runtime:
        """Make it ready to run.

        Raises:
            NotInstalledError: if what it needs is not there.
        """
        return self.way.open(self.subject, cell)


def contenders(subjects: Sequence[Subject], device: str, wanted: Sequence[str] = ()) -> list[Contender]:
    """Those that take part, those of one network side by side and its eager one first.

    Args:
        subjects: the networks.
        device: "cpu" or "cuda...".
        wanted: parts of the labels of those that are asked for, "all" for every one. If empty: the first network in
            every way but int8, light ones in the fp32 (on CUDA also fp16) ways that any network has but compiled code,
            heavy ones eager.
            Eager of each network that takes part is always there, as it is what the others are compared with.

    Raises:
        ValueError: if none fits one of the wanted words; the message lists all.
    """
    everyone = [
        Contender(subject, subject.name, way.runtime, way.precision, way)
        for number, subject in enumerate(subjects)
        for way in ways(device)
        if (number == 0 or not way.needs_trained) and (not way.networks or subject.network in way.networks)
    ]
    if not wanted:
        return [c for c in everyone if c.runtime == EAGER or not (c.subject.heavy or _slow(c, subjects[0]))]
    for word in wanted:
        if word != "all" and not any(_fits(word, c) for c in everyone):
            labels = ", ".join(c.label for c in everyone)
            raise ValueError(f"no contender has '{word}' in its name; there are: {labels}")
    asked = [replace(c, asked=True) if any(word == "all" or _fits(word, c) for word in wanted) else c for c in everyone]
    networks = {c.name for c in asked if c.asked}
    # The first network's eager is also what a user's ONNX file is compared with.
    networks.add(subjects[0].name)
    return [c for c in asked if c.asked or (c.runtime == EAGER and c.name in networks)]


def _slow(contender: Contender, first: Subject) -> bool:
    return contender.way.slow_to_open or (contender.way.first_only and contender.subject is not first)


def _fits(word: str, contender: Contender) -> bool:
    return word == contender.name or all(part in contender.label.split() for part in word.split())


def _work(cell: Cell) -> int:
    return cell.size[0] * cell.size[1] * cell.batch
