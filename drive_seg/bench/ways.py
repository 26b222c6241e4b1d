"""The ways to run a network: runtime and precision, each from the module or from one ONNX graph of it.

The one place of the benchmark that knows the package's runtimes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from drive_seg.bench.rows import Cell, NotInstalledError, Size
from drive_seg.bench.subjects import Subject
from drive_seg.inference.runtimes import Runtime, inductor
from drive_seg.inference.runtimes.conversion import ConversionError, to_onnx
from drive_seg.inference.runtimes.native import runtime as native
from drive_seg.inference.runtimes.native.calibration import calibrate
from drive_seg.inference.runtimes.native.library import Library, compile_library
from drive_seg.inference.runtimes.pytorch import TorchRuntime
from drive_seg.inference.runtimes.sessions import EXTRAS, Session, open_session, precisions
from drive_seg.networks import catalog
from drive_seg.networks.fold import fold
from drive_seg.recordings.sources import open_source
from drive_seg.segmenter import Segmenter

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
        slow_to_open: it is calibrated first, so it takes part only where it is asked for.
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
    eager = Way(EAGER, "fp32", _eager)
    if device.startswith("cuda"):
        return [
            eager,
            Way("torch", "fp32", _torch("fp32")),
            Way("torch", "fp16", _torch("fp16")),
            Way("torch", "bf16", _torch("bf16"), needs_trained=True),
        ]
    return [
        eager,
        Way("torch", "fp32", _torch("fp32")),
        Way("torch", "bf16", _torch("bf16"), needs_trained=True),
        Way("native", "fp32", _native("fp32"), networks=native.NETWORKS),
        Way("native", "bf16", _native("bf16"), needs_trained=True, networks=native.NETWORKS),
        Way("native", "int8", _native("int8"), needs_trained=True, networks=("dsnet",)),
        Way("inductor", "fp32", _compiled("fp32"), first_only=True),
        Way("inductor", "bf16", _compiled("bf16"), needs_trained=True, first_only=True),
        Way("onnxruntime", "fp32", _graph("onnxruntime", "fp32")),
        Way("openvino", "fp32", _graph("openvino", "fp32")),
        Way("openvino", "bf16", _graph("openvino", "bf16"), needs_trained=True),
        Way("openvino", "int8", _int8, needs_trained=True, slow_to_open=True),
    ]


def _eager(subject: Subject, cell: Cell) -> Runtime:
    return Opened(EAGER, "fp32", cell.device, subject.build().to(cell.device))


def _torch(precision: str) -> Callable[[Subject, Cell], Runtime]:
    return lambda subject, cell: TorchRuntime(subject.build(), cell.device, precision)


def _graph(runtime: str, precision: str) -> Callable[[Subject, Cell], Runtime]:
    def opened(subject: Subject, cell: Cell) -> Runtime:
        require(runtime, EXTRAS[runtime])
        if precision not in precisions(runtime):
            raise NotInstalledError(f"{runtime} does not compute in {precision} on this processor")
        session = open_session(runtime, graph_of(subject, cell.size), precision)
        return Opened(runtime, precision, cell.device, _one_by_one(session))

    return opened


def _native(precision: str) -> Callable[[Subject, Cell], Runtime]:
    def opened(subject: Subject, cell: Cell) -> Runtime:
        if precision not in native.precisions():
            raise NotInstalledError(f"native does not compute in {precision} on this processor")
        network, library = fold(subject.build()), kernels()
        factors = factors_of(subject) if precision == "int8" else None
        return native.NativeRuntime(network, library, precision, factors)

    return opened


@lru_cache(maxsize=1)
def kernels() -> Library:
    """The native kernels, compiled for this run.

    Raises:
        NotInstalledError: if there is no C++ compiler.
    """
    if not inductor.can_compile():
        raise NotInstalledError("not installed: a C++ compiler (g++), which native's kernels are made with")
    with TemporaryDirectory(prefix="drive_seg_bench_") as folder:
        path = Path(folder) / "kernels.so"
        path.write_bytes(compile_library())
        return Library(path)


@lru_cache(maxsize=8)
def factors_of(subject: Subject) -> dict[str, float]:
    """What the bytes of a network in int8 stand for, calibrated on synthetic frames."""
    return calibrate(fold(subject.build()), calibration_images(subject), kernels())


def calibration_images(subject: Subject) -> list[Tensor]:
    """Synthetic frames as a network wants them: float32 [1, 3, h, w] each."""
    segmenter = Segmenter(subject.checkpoint.build_network(), subject.checkpoint.contract, "cpu", "fp32")
    return [segmenter.prepare(record.image(), CALIBRATION_SIZE) for record in open_source(CALIBRATION)]


def _compiled(precision: str) -> Callable[[Subject, Cell], Runtime]:
    def opened(subject: Subject, cell: Cell) -> Runtime:
        session = inductor.open_compiled(package_of(subject, cell.size, precision, cell.device), cell.device)
        return Opened(inductor.NAME, precision, cell.device, _one_by_one(session))

    return opened


def _one_by_one(session: Session) -> Session:
    """A session that takes several images."""

    def run(batch: Tensor) -> Tensor:
        if len(batch) == 1:
            return session(batch)
        return torch.cat([session(image).clone() for image in batch.split(1)])

    return run


def _int8(subject: Subject, cell: Cell) -> Runtime:
    """As ``drive-seg export`` quantises it, calibrated on synthetic frames."""
    from drive_seg.export import export
    from drive_seg.inference.runtimes.files.onnx_file import read
    from drive_seg.inference.runtimes.openvino_runtime import OpenvinoRuntime

    for package, extra in (("openvino", EXTRAS["openvino"]), ("nncf", EXTRAS["openvino"]), ("onnx", EXPORT_EXTRA)):
        require(package, extra)
    with TemporaryDirectory(prefix="drive_seg_bench_") as folder:
        path = Path(folder) / "int8.xml"
        export(subject.checkpoint, path, "openvino", "int8", cell.size, CALIBRATION)
        runtime = OpenvinoRuntime(read(path), "cpu")
    return Opened("openvino", "int8", cell.device, _one_by_one(runtime))


@lru_cache(maxsize=8)
def graph_of(subject: Subject, size: Size) -> bytes:
    """The ONNX graph of a network for one image of a size (height, width), kept for all its uses.

    Raises:
        NotInstalledError: if the packages that write it are not there.
        ValueError: if the network cannot be converted.
    """
    for package in ("onnx", "onnxscript"):
        require(package, EXPORT_EXTRA)
    try:
        return to_onnx(exportable(subject), size)
    except ConversionError as error:
        raise ValueError(str(error)) from error


@lru_cache(maxsize=8)
def package_of(subject: Subject, size: Size, precision: str, device: str) -> bytes:
    """The machine code of a network for one image of a size (height, width), kept for all its uses.

    Raises:
        NotInstalledError: if there is no C++ compiler, or the processor does not compute in the precision.
        ValueError: if the network cannot be compiled.
    """
    if not inductor.can_compile():
        raise NotInstalledError("not installed: a C++ compiler (g++), which inductor's code is made with")
    if precision not in inductor.precisions(device):
        raise NotInstalledError(f"inductor does not compute in {precision} on this processor")
    try:
        return inductor.compile_network(exportable(subject), size, precision, device)
    except ConversionError as error:
        raise ValueError(str(error)) from error


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
