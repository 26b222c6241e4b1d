"""The ways to run a network: each runtime of the registry that executes checkpoints, in each of its precisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from drive_seg.bench.rows import Cell, NotInstalledError, Size
from drive_seg.bench.subjects import Subject
from drive_seg.inference.runtimes import Runtime, host, registry
from drive_seg.inference.runtimes.conversion import inputs
from drive_seg.inference.runtimes.entry import RuntimeEntry
from drive_seg.inference.runtimes.prepared import GraphEntry, Session
from drive_seg.networks import catalog
from drive_seg.networks.fold import fold
from drive_seg.recordings.sources import open_source

EAGER = "torch eager"
"""The yardstick: the unfolded network in PyTorch, fp32, NCHW, all threads."""
EXPORT_EXTRA = "export"
CALIBRATION = "synth:seed=3,frames=16,size=640x360"
"""What int8 is calibrated on, and checked: a quarter is kept for the check."""
CALIBRATION_SIZE = (360, 640)


@dataclass(frozen=True)
class Way:
    """A runtime and a precision.

    Attributes:
        runtime, precision: as in the rows.
        open: makes a network ready to run in a cell; NotInstalledError if what it needs is not there.
        needs_trained: only decided classes survive its rounding, so it is for trained weights.
        slow_to_open: it is calibrated first, or was never run on such a device, so it takes part only where it is
            asked for.
        first_only: it is compiled first for each size, so with other networks than the first, and other sizes than the
            smallest, it takes part only where it is asked for.
        networks: of the catalog, those that it is for; any if empty.
    """

    runtime: str
    precision: str
    open: Callable[[Subject, Cell], Runtime]
    needs_trained: bool = False
    slow_to_open: bool = False
    first_only: bool = False
    networks: tuple[str, ...] = ()


class Opened(Runtime):
    """Anything that gives logits, as a runtime."""

    one_by_one = True

    def __init__(self, name: str, precision: str, device: str, run: Session) -> None:
        self.name, self.precision, self.dtype = name, precision, torch.float32
        self.device = self.tensor_device = device
        self._run = run

    def __call__(self, batch: Tensor) -> Tensor:
        return self._run(batch)


def ways(device: str) -> list[Way]:
    """Those of a device, eager first."""
    kind = device.partition(":")[0]
    found = [Way(EAGER, "fp32", _eager)]
    for entry in registry.for_checkpoints():
        if kind in entry.checkpoints.devices:
            found += [_way(entry, p, kind) for p in entry.checkpoints.precisions if kind == "cuda" or p != "fp16"]
    return found if kind == "cuda" else [*found, Way("openvino", "int8", _int8, needs_trained=True, slow_to_open=True)]


def _way(entry: RuntimeEntry, precision: str, kind: str) -> Way:
    return Way(
        entry.name,
        precision,
        _opener(entry, precision),
        needs_trained=precision in ("bf16", "int8"),
        slow_to_open=entry.slow and kind == "cuda",  # nobody has run compiled code there yet
        first_only=entry.slow,
        networks=entry.networks(precision),
    )


def _eager(subject: Subject, cell: Cell) -> Runtime:
    return Opened(EAGER, "fp32", cell.device, subject.build().to(cell.device))


def _opener(entry: RuntimeEntry, precision: str) -> Callable[[Subject, Cell], Runtime]:
    def opened(subject: Subject, cell: Cell) -> Runtime:
        check_ready(entry, precision, cell.device)
        if isinstance(entry, GraphEntry):
            graph = graph_of(subject, cell.size, entry, precision, cell.device)
            session = entry.load(graph, precision, device=cell.device)
            return Opened(entry.name, precision, cell.device, _one_by_one(session))
        return entry.open_network(subject.build(), cell.device, precision, lambda: calibration_images(subject))

    return opened


def check_ready(entry: RuntimeEntry, precision: str, device: str) -> None:
    """Refuse a runtime that cannot be prepared and opened here.

    Raises:
        NotInstalledError: if a package, the compiler or a processor for the precision is missing.
    """
    if not entry.is_installed:
        require(entry.package, entry.extra)
    for package in entry.converters:
        require(package, EXPORT_EXTRA)
    if precision not in entry.precisions(device):
        raise NotInstalledError(f"{entry.name} does not compute in {precision} on this processor")
    if entry.preparation and not entry.converters and not host.can_compile():
        raise NotInstalledError(f"not installed: a C++ compiler (g++), which {entry.name}'s code is made with")


@lru_cache(maxsize=8)
def calibration_images(subject: Subject) -> list[Tensor]:
    """Synthetic frames as a network wants them: float32 [1, 3, h, w] each."""
    return inputs(subject.checkpoint.contract.input, CALIBRATION_SIZE, calibration_frames())


@lru_cache(maxsize=1)
def calibration_frames() -> list[np.ndarray]:
    """Synthetic frames, uint8 BGR [H, W, 3]."""
    return [record.image() for record in open_source(CALIBRATION)]


def _one_by_one(session: Session) -> Session:
    """A session that takes several images."""

    def run(batch: Tensor) -> Tensor:
        if len(batch) == 1:
            return session(batch)
        return torch.cat([session(image).clone() for image in batch.split(1)])

    return run


def _int8(subject: Subject, cell: Cell) -> Runtime:
    """As ``drive-seg export`` quantises it, calibrated on synthetic frames."""
    from drive_seg.inference.export import export
    from drive_seg.inference.runtimes.files.network import FileRuntime
    from drive_seg.inference.runtimes.files.onnx_file import read

    entry = registry.get("openvino")
    check_ready(entry, "fp32", cell.device)
    require("nncf", "int8")
    with TemporaryDirectory(prefix="drive_seg_bench_") as folder:
        path = Path(folder) / "int8.xml"
        export(subject.checkpoint, path, "int8", cell.size, calibration_frames())
        runtime = FileRuntime(entry, read(path), "cpu")
    return Opened("openvino", "int8", cell.device, _one_by_one(runtime))


def graph_of(subject: Subject, size: Size, entry: GraphEntry, precision: str, device: str) -> bytes:
    """The graph of a network for one image of a size (height, width), kept for all its uses.

    Raises:
        ValueError: if the network cannot be converted.
    """
    return _graph(subject, size, entry.convert, entry.variant(precision, device))


@lru_cache(maxsize=8)
def _graph(subject: Subject, size: Size, convert: Callable[..., bytes], variant: tuple[str, ...]) -> bytes:
    return convert(exportable(subject), size, *variant)


def exportable(subject: Subject) -> nn.Module:
    """A network folded, of operations that every exporter takes."""
    return fold(subject.build(**({"unpool": "one_hot"} if "unpool" in catalog.options(subject.network) else {})))


def require(package: str, extra: str) -> None:
    """Refuse to go on without a package.

    Raises:
        NotInstalledError: if it is not there; the message names the extra that brings it.
    """
    if find_spec(package) is None:
        raise NotInstalledError(f"not installed: {package}, which comes with the extra '{extra}'")
