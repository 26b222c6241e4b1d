"""A checkpoint executed from what was prepared beforehand: ONNX graphs, or machine code of PyTorch's compiler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from drive_seg.checkpoint import Checkpoint
from drive_seg.inference.runtimes import Runtime, Size, cache, inductor
from drive_seg.inference.runtimes.conversion import ConversionError, check, convertible, synthetic_inputs, to_onnx
from drive_seg.inference.runtimes.native import runtime as native
from drive_seg.inference.runtimes.pytorch import TorchRuntime, choose_device, choose_precision, indexed
from drive_seg.inference.runtimes.sessions import Session, open_session, precisions

FORMS = {native.NAME: "native", "onnxruntime": "onnx", "openvino": "openvino", inductor.NAME: "inductor"}
"""What ``drive-seg export --to`` calls the runtimes."""
Tell = Callable[[str], None]
"""Takes a sentence for the log."""


class PreparedRuntime(Runtime):
    """A checkpoint by ONNX Runtime, OpenVINO or compiled code, in the sizes for which it was prepared.

    A graph is for one size of the network's input. Whatever other size comes goes through PyTorch, which labels the
    same: a camera of another aspect costs speed and a line in the log, and never a wait for a conversion.

    Args:
        name: "inductor", "onnxruntime" or "openvino".
        loaded: the checkpoint.
        precision: "auto" (fp32; on CUDA fp16), "fp32", "bf16" by inductor and OpenVINO on a processor that has it.
        threads: 0 is the runtime's own choice.
        tell: is told of each size that is not prepared, once.
        device: other than "cpu" for inductor alone.

    Raises:
        ValueError: if the runtime cannot be imported, the precision not be had, or others can write to the cache.
    """

    dtype = torch.float32
    one_by_one = True

    def __init__(
        self,
        name: str,
        loaded: Checkpoint,
        precision: str = "auto",
        threads: int = 0,
        tell: Tell = print,
        device: str = "cpu",
    ) -> None:
        self.name, self.precision = name, check_precision(name, precision, device)
        self.device, self.tensor_device = device, indexed(device)
        form = form_of(name, self.precision, device)
        self._path, self._tell = loaded.path, tell
        self._others = TorchRuntime(loaded.build_network(), device, self.precision)
        self._told: set[Size] = set()
        self._sessions: dict[Size, Session] = {}
        for size in cache.prepared_sizes(form, loaded.sha256):
            graph = cache.read(form, loaded.sha256, size)
            if graph is not None:
                self._sessions[size] = open_session(name, graph, self.precision, threads, device)

    @property
    def sizes(self) -> list[Size]:
        """The (height, width) for which it is prepared."""
        return list(self._sessions)

    def __call__(self, batch: Tensor) -> Tensor:
        size = tuple(batch.shape[-2:])
        session = self._sessions.get(size)
        if session is not None and len(batch) == 1:
            return session(batch)
        if session is None and size not in self._told:
            self._told.add(size)
            self._tell(
                f"{self.name} is not prepared for a network input of {size[1]}x{size[0]}, which torch takes instead: "
                f"{how_to_prepare(self._path, self.name, size, self.precision, self.device)}"
            )
        return self._others(batch.to(self._others.dtype)).float()


def form_of(name: str, precision: str, device: str = "cpu") -> str:
    """What the cache calls a checkpoint that is prepared: machine code is for a precision and a device."""
    return f"{name}-{precision}-{device}" if name == inductor.NAME else name


def check_precision(name: str, wish: str, device: str = "cpu") -> str:
    """The precision of a runtime for checkpoints for a wish.

    Raises:
        ValueError: if it cannot be had, or the runtime not be imported.
    """
    able = precisions(name, device)
    precision = choose_precision(wish, device) if wish == "auto" else wish
    if precision not in able:
        raise ValueError(
            f"precision '{wish}' cannot be had: {name} computes a checkpoint in {' or '.join(able)} on this "
            f"{'processor' if device == 'cpu' else 'GPU'}"
        )
    return precision


def prepare(name: str, loaded: Checkpoint, size: Size, precision: str = "auto", device: str = "cpu") -> Path:
    """Convert a checkpoint for a runtime and a size of the network's input, check it, and keep it in the cache.

    Args:
        name: one of :data:`FORMS`.
        loaded: the checkpoint.
        size: (height, width).
        precision: in which inductor's code is to compute; a graph serves all that its runtime can compute in.
        device: for inductor: "cpu", "cuda" or "cuda:N".

    Returns:
        the file in the cache.

    Raises:
        ValueError: if the runtime, a package for converting or the compiler is missing, the precision cannot be had,
            the network cannot be converted or the result does not label as PyTorch does, or the cache cannot be
            written.
    """
    if name not in FORMS:
        raise ValueError(f"'{name}' cannot be prepared: there are {', '.join(FORMS)}")
    device = choose_device(device)
    if device != "cpu" and name != inductor.NAME:
        raise ValueError(f"device '{device}' cannot be had: {name} runs checkpoints on the cpu")
    if name == native.NAME:
        return native.prepare(loaded, "fp32" if precision == "auto" else precision)[0]
    precision = check_precision(name, precision, device)  # what is missing is told before a long conversion
    try:
        network = convertible(loaded)
        if name == inductor.NAME:
            graph = inductor.compile_network(network, size, precision, device)
        else:
            graph, precision = to_onnx(network, size), "fp32"
        session = open_session(name, graph, precision, device=device)
        inputs = synthetic_inputs(loaded.contract.input, size)
        check(f"{loaded.path.name} by {name}", network, lambda x: session(x.to(device)).cpu(), inputs, precision)
    except ConversionError as error:
        raise ValueError(str(error)) from error
    return cache.write(form_of(name, precision, device), loaded.sha256, size, graph)


def how_to_prepare(path: Path, name: str, size: Size, precision: str = "fp32", device: str = "cpu") -> str:
    """The command that prepares a checkpoint."""
    command = f"drive-seg export --model {path} --prepare --to {FORMS[name]}"
    if name == native.NAME:
        how = {"fp32": "", "int8": " --precision int8 --calibrate IMAGES"}
        return command + how.get(precision, f" --precision {precision}")
    command += f" --size {size[1]}x{size[0]}"
    if name != inductor.NAME:
        return command
    return command + (f" --precision {precision}" * (precision != "fp32")) + (f" --device {device}" * (device != "cpu"))
