"""How a model becomes something that runs.

1. ``registry`` lists the runtimes. Each is one file here that declares itself as a :class:`~.entry.RuntimeEntry`:
   ``pytorch``, ``native``, ``inductor``, ``onnx_runtime``, ``openvino_runtime``, ``tensorrt``.
2. ``choice`` picks one for a model: the one asked for, or by rule. A checkpoint is opened by ``entry.open``, a user's
   own file (``files``) by ``entry.open_file``.
3. What comes of it is a :class:`Runtime`: a network that takes a batch and gives logits.

Some runtimes execute a checkpoint only after it was prepared on this machine: ``entry.prepare`` converts or compiles
it, checks it against PyTorch (``conversion``) and keeps the result in the user's cache (``cache``). ``preparation``
does so unasked, in a process beside the node.

To list the runtimes imports neither torch nor a package of theirs; to open something does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Size = tuple[int, int]
"""(height, width)."""
MULTIPLE = 8
"""Sides of a network's input are multiples of this, unless its file fixes them."""


class NotFiniteError(RuntimeError):
    """The network gave values that are not finite, so there is no label; ``share`` of the pixels has them."""

    def __init__(self, share: float) -> None:
        super().__init__(f"the network gave values that are not finite (NaN or infinite) at {share:.1%} of the pixels")


class Runtime(ABC):
    """A network that is ready to run on a device.

    Attributes:
        name: of its entry in the registry.
        device: where the network computes: "cpu", "cuda" or "cuda:N".
        tensor_device: where it takes its input and leaves its output.
        precision: what it computes in: "fp32", "fp16", "bf16" or "int8".
        dtype: of its input.
        fixed_size: the one (height, width) of its input; None if it takes any.
        one_by_one: it takes no more than one image at once.
        multiple: the sides of its input are multiples of this, unless fixed.
        gives_logits: the call gives logits; if not, it only ``decides``.
        gives_confidence: it can say how sure it is.
        decides: :meth:`decide` gives what :func:`drive_seg.inference.decision.decide` does not know, or sooner.
        may_void: 255 among its ids is void. From others it says that a value was not finite.
        unprepared: what "auto" would have taken, had the caller not wanted to prepare it later; else None.
        capturable: it does no more than launch kernels on the current CUDA stream, so that a CUDA graph can hold it.
    """

    name: str
    device: str
    tensor_device: str
    precision: str
    dtype: torch.dtype
    fixed_size: tuple[int, int] | None = None
    one_by_one: bool = False
    multiple: int = MULTIPLE
    gives_logits: bool = True
    gives_confidence: bool = True
    decides: bool = False
    may_void: bool = False
    capturable: bool = False
    unprepared: str | None = None

    @abstractmethod
    def __call__(self, batch: Tensor) -> Tensor:
        """Run the network; only for one that ``gives_logits``.

        Args:
            batch: [B, 3, h, w] of ``dtype`` on ``tensor_device``, normalised as the contract says.

        Returns:
            logits [B, C, h, w] of the label map's classes; the next call may overwrite them.
        """

    def decide(
        self, batch: Tensor, confidence: bool, temperature: float = 1.0, frame_temperature: float | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Run the network and decide; only for one that ``decides``.

        Args:
            batch: as for the call.
            confidence, temperature: as for :func:`drive_seg.inference.decision.decide`.
            frame_temperature: also give the confidence at this temperature of each ``SPARSE``-th row.

        Returns:
            ids of the label map and confidence uint8 [B, h, w]; of logits as
            :func:`drive_seg.inference.decision.decide` has them (a confidence may differ by one).
            And the confidence of some rows uint8 [B, ceil(h / SPARSE), w]. They are never overwritten.
        """
        raise TypeError(f"{self.name} gives logits, and does not decide")


def parse_device(wish: str) -> tuple[str, int]:
    """Kind and number of a device: ("cpu", 0) or ("cuda", N).

    Raises:
        ValueError: if the wish is not "cpu", "cuda" or "cuda:N".
    """
    kind, colon, number = wish.partition(":")
    if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not number.isdigit())):
        raise ValueError(f"device '{wish}' is not one of auto, cpu, cuda, cuda:N")
    return kind, int(number or 0)
