"""Who executes the network.

PyTorch a checkpoint (``pytorch``); this package's own kernels a DSNet or SwiftNet (``native``); machine code by
PyTorch's compiler (``compiled``), ONNX Runtime and OpenVINO a checkpoint that was prepared for them (``prepared``), the
last two also a user's own file (``onnx_runtime``, which has TensorRT, too, and ``openvino_runtime``); ``choice``
decides. Nothing here imports onnxruntime or openvino before it is to run something.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

Size = tuple[int, int]
"""(height, width)."""
NAMES = ("auto", "torch", "native", "inductor", "onnxruntime", "openvino", "tensorrt")
"""What a user may ask for."""
MULTIPLE = 8
"""Sides of a network's input are multiples of this, unless its file fixes them."""


class NotFiniteError(RuntimeError):
    """The network gave values that are not finite, so there is no label; ``share`` of the pixels has them."""

    def __init__(self, share: float) -> None:
        super().__init__(f"the network gave values that are not finite (NaN or infinite) at {share:.1%} of the pixels")


class Runtime(ABC):
    """A network that is ready to run on a device.

    Attributes:
        name: "torch", "native", "inductor", "onnxruntime", "openvino" or "tensorrt".
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
