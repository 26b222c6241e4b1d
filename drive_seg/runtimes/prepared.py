"""A checkpoint executed by ONNX Runtime or OpenVINO, from graphs that were prepared beforehand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from drive_seg.checkpoint import Checkpoint
from drive_seg.runtimes import Runtime, Size, cache
from drive_seg.runtimes.conversion import ConversionError, check, convertible, synthetic_inputs, to_onnx
from drive_seg.runtimes.pytorch import TorchRuntime
from drive_seg.runtimes.sessions import EXTRAS, Session, open_session, precisions

FORMS = {"onnxruntime": "onnx", "openvino": "openvino"}
"""What ``drive-seg export --to`` calls the runtimes."""
Tell = Callable[[str], None]
"""Takes a sentence for the log."""


class PreparedRuntime(Runtime):
    """A checkpoint on the CPU by ONNX Runtime or OpenVINO, in the sizes for which it was prepared.

    A graph is for one size of the network's input. Whatever other size comes goes through PyTorch, which labels the
    same: a camera of another aspect costs speed and a line in the log, and never a wait for a conversion.

    Args:
        name: "onnxruntime" or "openvino".
        loaded: the checkpoint.
        precision: "auto" (fp32), "fp32", or "bf16" by OpenVINO on a processor that has it.
        threads: 0 is the runtime's own choice.
        tell: is told of each size that is not prepared, once.

    Raises:
        ValueError: if the runtime cannot be imported, the precision not be had, or others can write to the cache.
    """

    device = tensor_device = "cpu"
    dtype = torch.float32
    one_by_one = True

    def __init__(
        self, name: str, loaded: Checkpoint, precision: str = "auto", threads: int = 0, tell: Tell = print
    ) -> None:
        self.name, self.precision = name, check_precision(name, precision)
        self._path, self._tell = loaded.path, tell
        self._others = TorchRuntime(loaded.build_network(), "cpu", self.precision)
        self._told: set[Size] = set()
        self._sessions: dict[Size, Session] = {}
        for size in cache.prepared_sizes(name, loaded.sha256):
            graph = cache.read(name, loaded.sha256, size)
            if graph is not None:
                self._sessions[size] = open_session(name, graph, self.precision, threads)

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
                f"{self.name} is not prepared for a network input of {size[0]}x{size[1]}, which torch takes instead: "
                f"{how_to_prepare(self._path, self.name, size)}"
            )
        return self._others(batch.to(self._others.dtype)).float()


def check_precision(name: str, wish: str) -> str:
    """The precision of a runtime for checkpoints for a wish.

    Raises:
        ValueError: if it cannot be had, or the runtime not be imported.
    """
    able = precisions(name)
    precision = "fp32" if wish == "auto" else wish
    if precision not in able:
        raise ValueError(
            f"precision '{wish}' cannot be had: {name} computes a checkpoint in {' or '.join(able)} on this processor"
        )
    return precision


def prepare(name: str, loaded: Checkpoint, size: Size) -> Path:
    """Convert a checkpoint for a runtime and a size of the network's input, check it, and keep it in the cache.

    Returns:
        the file in the cache.

    Raises:
        ValueError: if the runtime or a package for converting is missing, the network cannot be converted or the
            result does not label as PyTorch does, or the cache cannot be written.
    """
    if name not in EXTRAS:
        raise ValueError(f"'{name}' cannot be prepared: there are {', '.join(EXTRAS)}")
    precisions(name)  # a missing runtime is told before a long conversion
    try:
        network = convertible(loaded)
        graph = to_onnx(network, size)
        session = open_session(name, graph)
        check(f"{loaded.path.name} by {name}", network, session, synthetic_inputs(loaded.contract.input, size))
    except ConversionError as error:
        raise ValueError(str(error)) from error
    return cache.write(name, loaded.sha256, size, graph)


def how_to_prepare(path: Path, name: str, size: Size) -> str:
    """The command that prepares a checkpoint."""
    return f"drive-seg export {path} --prepare --to {FORMS[name]} --size {size[0]}x{size[1]}"
