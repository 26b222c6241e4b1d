"""Who executes the network.

PyTorch a checkpoint (``pytorch``); this package's own kernels a DSNet (``native``); machine code by PyTorch's compiler
(``compiled``), ONNX Runtime and OpenVINO a checkpoint that was prepared for them (``prepared``), the last two also a
user's own file (``onnx_runtime``, which has TensorRT, too, and ``openvino_runtime``); ``choice`` decides. Nothing here
imports onnxruntime or openvino before it is to run something.
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
        gives_ids: it decides for itself: class ids come out, so nothing is known of their probability.
        decides: it can also decide while it computes, see :meth:`decide`: faster than to look at the logits afterwards.
        may_void: 255 among its ids is void. From others it says that a value was not finite.
        capturable: it does no more than launch kernels on the current CUDA stream, so that a CUDA graph can hold it.
    """

    name: str
    device: str
    tensor_device: str
    precision: str
    dtype: torch.dtype
    fixed_size: tuple[int, int] | None = None
    one_by_one: bool = False
    gives_ids: bool = False
    decides: bool = False
    may_void: bool = False
    capturable: bool = False

    @abstractmethod
    def __call__(self, batch: Tensor) -> Tensor:
        """Run the network.

        Args:
            batch: [B, 3, h, w] of ``dtype`` on ``tensor_device``, normalised as the contract says.

        Returns:
            logits [B, C, h, w], or ids uint8 [B, h', w'] of the label map or 255 if ``gives_ids``. The next call may
            overwrite them.
        """

    def decide(self, batch: Tensor, confidence: bool) -> tuple[Tensor, Tensor | None]:
        """Run the network and decide; only for one that ``decides``.

        Args:
            batch: as for the call.
            confidence: whether that is asked for.

        Returns:
            ids and confidence uint8 [B, h, w], as :func:`drive_seg.decision.decide` has them of the logits (a
            confidence may differ by one). They are never overwritten.
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
