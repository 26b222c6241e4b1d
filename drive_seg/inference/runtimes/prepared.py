"""A checkpoint executed from graphs of it, each for one size of the input, made on this machine and kept in the cache.

A graph is an ONNX file, or machine code of PyTorch's compiler.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from drive_seg.inference.runtimes import MULTIPLE, Runtime, Size, cache
from drive_seg.inference.runtimes.entry import Prepared, RuntimeEntry, Tell
from drive_seg.inference.runtimes.pytorch import TorchRuntime, indexed

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from drive_seg.checkpoint import Checkpoint

Session = Callable[["Tensor"], "Tensor"]
"""float32 [1, 3, h, w] -> logits float32 [1, C, h, w], which the next call may overwrite."""


class GraphEntry(RuntimeEntry, ABC):
    """A runtime that executes checkpoints from prepared graphs."""

    per_size = True

    convert: Callable[..., bytes]
    """(network of :func:`.conversion.convertible`, size, *variant) -> the graph."""

    @abstractmethod
    def load(self, graph: bytes, precision: str = "fp32", threads: int = 0, device: str = "cpu") -> Session:
        """Make a graph ready to run. It may be machine code: load none but your own.

        Raises:
            ValueError: if the package cannot be imported, or the graph not be loaded.
        """

    def variant(self, precision: str, device: str) -> tuple[str, ...]:
        """What a graph is made for beside the size; the same one serves all else."""
        return ()

    def depends_on(self, precision: str, device: str) -> dict[str, Any]:
        """What a graph depends on, or was checked with, beside the checkpoint, its network, the size and PyTorch."""
        return self.versions()

    def form(self, precision: str = "fp32", device: str = "cpu") -> cache.Form:
        """In which form the cache keeps its graphs."""
        return cache.Form("-".join((self.name, *self.variant(precision, device))), self.depends_on(precision, device))

    def is_prepared(self, loaded: Checkpoint, precision: str) -> bool:
        return bool(cache.prepared_sizes(self.form(precision), loaded.sha256))

    def prepare(
        self,
        loaded: Checkpoint,
        size: Size,
        precision: str = "auto",
        device: str = "auto",
        frames: Iterable[np.ndarray] = (),
    ) -> Prepared:
        from drive_seg.inference.runtimes import conversion

        if any(side < MULTIPLE or side % MULTIPLE for side in size):
            raise ValueError(f"size {size[1]}x{size[0]} is not of multiples of {MULTIPLE}")
        device = self.choose_device(device)
        precision = self.choose_precision(precision, device)  # what is missing is said before a long conversion
        network, variant = conversion.convertible(loaded), self.variant(precision, device)
        graph = self.convert(network, size, *variant)
        session = self.load(graph, precision if variant else "fp32", device=device)
        inputs = conversion.inputs(loaded.contract.input, size, frames)
        share = conversion.check(
            f"{loaded.path.name} by {self.name}",
            network,
            lambda image: session(image.to(device)).cpu(),
            inputs,
            precision if variant else "fp32",
        )
        path = cache.write(self.form(precision, device), loaded.sha256, size, graph)
        return Prepared(path, share, precision)

    def open(self, loaded: Checkpoint, device: str, precision: str, threads: int, size: Size, tell: Tell) -> Runtime:
        device = self.choose_device(device)
        precision = self.choose_precision(precision, device)
        if size not in cache.prepared_sizes(self.form(precision, device), loaded.sha256):
            tell(f"preparing {loaded.path.name} for {self.name} in {size[1]}x{size[0]}, once on this machine")
            self.prepare(loaded, size, precision, device)
        return PreparedRuntime(self, loaded, precision, threads, tell, device)


class PreparedRuntime(Runtime):
    """A checkpoint that runs in the sizes for which it was prepared.

    Whatever other size comes goes through PyTorch, which labels the same: a camera of another aspect costs speed and a
    line in the log, and never a wait for a conversion.

    Args:
        entry: the runtime.
        loaded: the checkpoint.
        precision, device: as the entry chose them.
        threads: 0 is the runtime's own choice.
        tell: is told of each size that is not prepared, once.

    Raises:
        ValueError: if the package cannot be imported, or others can write to the cache.
    """

    one_by_one = True

    def __init__(
        self, entry: GraphEntry, loaded: Checkpoint, precision: str, threads: int, tell: Tell, device: str
    ) -> None:
        import torch

        self.name, self.precision, self.dtype = entry.name, precision, torch.float32
        self.device, self.tensor_device = device, indexed(device)
        self._entry, self._path, self._tell = entry, loaded.path, tell
        self._others = TorchRuntime(loaded.build_network(), device, precision)
        self._told: set[Size] = set()
        self._sessions: dict[Size, Session] = {}
        form = entry.form(precision, device)
        for size in cache.prepared_sizes(form, loaded.sha256):
            graph = cache.read(form, loaded.sha256, size)
            if graph is not None:
                self._sessions[size] = entry.load(graph, precision, threads, device)

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
                f"{self._entry.how_to_prepare(self._path, size, self.precision, self.device)}"
            )
        return self._others(batch.to(self._others.dtype)).float()


def onnx_graph(network: nn.Module, size: Size) -> bytes:
    """The ONNX file of a network, see :func:`.conversion.to_onnx`."""
    from drive_seg.inference.runtimes import conversion

    return conversion.to_onnx(network, size)
