"""A network executed by PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drive_seg.inference.runtimes import Runtime, parse_device
from drive_seg.networks.fold import fold as fold_network

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchRuntime(Runtime):
    """A module on a device, channels_last.

    Args:
        network: gives logits [B, C, h, w] at its input's size.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
        precision: "auto" (fp16 on CUDA, fp32 on the CPU), "fp32", "fp16" or "bf16".
        fold: run a folded copy, see :mod:`drive_seg.networks.fold`; if False, the module itself, as it was trained.

    Raises:
        ValueError: if device or precision cannot be had; the sentence says what can.
    """

    name = "torch"

    def __init__(self, network: nn.Module, device: str = "auto", precision: str = "auto", fold: bool = True) -> None:
        self.device = self.tensor_device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.dtype = PRECISIONS[self.precision]
        self.capturable = self.device != "cpu"
        network = fold_network(network) if fold else network.eval()
        self._network = network.to(self.device, self.dtype, memory_format=torch.channels_last)

    def __call__(self, batch: Tensor) -> Tensor:
        return self._network(batch)


def choose_device(wish: str) -> str:
    """The device for a wish.

    Raises:
        ValueError: if the wish is no device, or that device is not there.
    """
    if wish == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, number = parse_device(wish)
    there = torch.cuda.device_count() if kind == "cuda" else 1
    if number >= there:
        raise ValueError(f"device '{wish}' is not there: this machine offers {there} CUDA devices to torch")
    return wish


def choose_precision(wish: str, device: str) -> str:
    """The precision for a wish on a device.

    Raises:
        ValueError: if the wish is no precision.
    """
    if wish == "auto":
        return "fp16" if device.startswith("cuda") else "fp32"
    if wish not in PRECISIONS:
        raise ValueError(f"precision '{wish}' is not one of auto, {', '.join(PRECISIONS)}")
    return wish
