"""A user's ONNX or OpenVINO file as contenders: the bare network, whose contract is not needed to time it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drive_seg.bench.contenders import Contender
from drive_seg.bench.rows import Cell, Size
from drive_seg.bench.ways import Opened, Way, require
from drive_seg.inference.runtimes import Runtime, registry
from drive_seg.inference.runtimes.files import trial
from drive_seg.inference.runtimes.files.onnx_file import is_openvino, read_model
from drive_seg.inference.runtimes.files.ports import FileSession, ImageInput, image_input, random_batch


@dataclass(frozen=True)
class OnnxFileContender(Contender):
    """A file in a runtime, on a random input of its fixed size, or of the cell's.

    Attributes:
        path: of the file.
        entry: its input.
        start: makes a session.
    """

    path: Path = Path()
    entry: ImageInput | None = None
    start: Callable[[], FileSession] | None = None

    @property
    def fixed_size(self) -> Size | None:
        """The (height, width) that the file fixes; None if it takes any."""
        return self.entry.sides if all(self.entry.sides) else None

    def takes_part(self, cell: Cell, cells: Sequence[Cell]) -> bool:
        """A file of a fixed size runs beside those of the nearest size."""
        if self.fixed_size is None:
            return True
        own = self.fixed_size[0] * self.fixed_size[1]
        return cell.size == min((c.size for c in cells), key=lambda size: abs(size[0] * size[1] - own))

    def size_at(self, cell: Cell) -> Size:
        return self.fixed_size or cell.size

    def batch_at(self, cell: Cell) -> Tensor:
        return random_batch(self.entry, cell.batch, self.size_at(cell))

    def count_parameters(self) -> int | None:
        """Values of the file's weights; None of an .xml, and where the package onnx is not there to read them."""
        try:
            import onnx
        except ImportError:
            return None
        if is_openvino(self.path):
            return None
        graph = onnx.load(str(self.path), load_external_data=False).graph
        floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        return sum(int(np.prod(list(w.dims))) for w in graph.initializer if w.data_type in floats)

    def open(self, cell: Cell) -> Runtime:
        session = self.start()
        output = session.outputs[0].name

        def run(batch: Tensor) -> Tensor:
            parts = batch.split(1) if self.entry.one_by_one else [batch]
            found = [session.run([output], self.entry.feed(part))[0] for part in parts]
            # What comes of one part may be overwritten by the next.
            return torch.from_numpy(found[0] if len(found) == 1 else np.concatenate([np.array(v) for v in found]))

        opened = Opened(self.runtime, self.precision, "cpu", run)
        opened.dtype = self.entry.dtype
        return opened


def from_file(path: Path, device: str) -> list[OnnxFileContender]:
    """The contenders of a file: each runtime that is installed and runs it, in each precision that it can.

    It is run in a process that may die before it is opened here.

    Raises:
        NotInstalledError: if no runtime for it is there.
        ValueError: if there is no such file, none can run it, or its input is no batch of images.
    """
    file = read_model(path)
    kind = device.partition(":")[0]
    wanted = registry.for_file(path, kind)
    if not wanted:
        raise ValueError(f"{path}: there is no runtime for such a file on {device}")
    there = [entry for entry in wanted if entry.is_installed]
    if not there:
        require(wanted[0].package, wanted[0].extra)
    if kind == "cpu":
        outcomes = trial.outcomes(file, [entry.name for entry in there])
        able = [registry.get(outcome.runtime) for outcome in outcomes if not outcome.fault]
        if not able:
            raise ValueError(outcomes[0].fault)
    else:
        able = there[:1]
    starts = {}
    for entry in able:
        for precision in ("auto", *(() if file.quantised else entry.rounds_files_to())):
            starts[entry.name, precision] = partial(entry.open_file, file, device, precision, 0)
    found = []
    for (name, precision), start in starts.items():
        session = start()
        try:
            entry = image_input(session.inputs)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if sum(side is None for side in entry.sides) == 1:
            raise ValueError(f"{path}: it fixes one side of its input and leaves the other open")
        computed = session.precision if precision == "auto" else precision
        way = Way(name, computed, lambda subject, cell: None)
        found.append(
            OnnxFileContender(None, path.stem, name, computed, way, asked=True, path=path, entry=entry, start=start)
        )
    return found
