"""PyTorch: any checkpoint, on any device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

# torch is imported where something is opened: the command line lists the runtimes without it.
from drive_seg.inference.runtimes import Runtime, Size, parse_device
from drive_seg.inference.runtimes.entry import Runs, RuntimeEntry, Tell

if TYPE_CHECKING:
    from torch import Tensor, nn

    from drive_seg.checkpoint import Checkpoint

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Each with what PyTorch calls it."""


class PyTorch(RuntimeEntry):
    """PyTorch, which executes every checkpoint."""

    name = "torch"
    about = "PyTorch's own operations; on CUDA within a CUDA graph"
    checkpoints = Runs(("cpu", "cuda"), tuple(PRECISIONS))
    distributions = ("torch",)

    def open(self, loaded: Checkpoint, device: str, precision: str, threads: int, size: Size, tell: Tell) -> Runtime:
        return TorchRuntime(loaded.build_network(), device, precision)

    def open_network(
        self, network: nn.Module, device: str, precision: str, images: Callable[[], Iterable[Tensor]]
    ) -> Runtime:
        return TorchRuntime(network, device, precision)


class TorchRuntime(Runtime):
    """A module on a device, channels_last.

    Args:
        network: gives logits [B, C, h, w] at its input's size.
        device: "auto" (CUDA where there is one that works), "cpu", "cuda" or "cuda:N".
        precision: "auto" (fp16 on CUDA, fp32 on the CPU), "fp32", "fp16" or "bf16".
        fold: run a folded copy, see :mod:`drive_seg.networks.fold`; if False, the module itself, as it was trained.

    Raises:
        ValueError: if device or precision cannot be had; the sentence says what can.
    """

    name = "torch"

    def __init__(self, network: nn.Module, device: str = "auto", precision: str = "auto", fold: bool = True) -> None:
        import torch

        from drive_seg.networks.fold import fold as fold_network

        self.device = choose_device(device)
        self.tensor_device = indexed(self.device)
        self.precision = choose_precision(precision, self.device)
        self.dtype = getattr(torch, PRECISIONS[self.precision])
        self.capturable = self.device != "cpu"
        if self.capturable and self.precision == "fp32":
            # of the whole process: torch knows no other. Its own default rounds the factors of convolutions to 10 bits
            torch.backends.cudnn.allow_tf32 = False
        network = fold_network(network) if fold else network.eval()
        self._network = network.to(self.tensor_device, self.dtype, memory_format=torch.channels_last)

    def __call__(self, batch: Tensor) -> Tensor:
        return self._network(batch)


def choose_device(wish: str) -> str:
    """The device for a wish.

    Raises:
        ValueError: if the wish is no device, or that device is not there.
    """
    import torch

    if wish == "auto":
        return "cuda" if torch.cuda.is_available() and not trial("cuda") else "cpu"
    kind, number = parse_device(wish)
    there = torch.cuda.device_count() if kind == "cuda" else 1
    if number >= there:
        raise ValueError(f"device '{wish}' is not there: this machine offers {there} CUDA devices to torch")
    return wish


@lru_cache
def trial(device: str) -> str:
    """Why a CUDA device cannot run networks; empty if it can. One layer at 1280x720 in fp16 is tried once.

    A GPU may be visible for which this PyTorch has no kernels, or without memory left.
    """
    import torch
    import torch.nn.functional as F

    try:
        with torch.inference_mode():
            image = torch.zeros(1, 32, 720, 1280, dtype=torch.float16, device=device)
            found = F.conv2d(image, image.new_ones(32, 32, 3, 3), padding=1).sum().item()
    except Exception as error:
        return " ".join(str(error).split())[:300]
    return "" if found == 0 else f"a convolution of zeros gave {found}"


def indexed(device: str) -> str:
    """The device with its number: a later ``torch.cuda.set_device`` must not change what "cuda" means."""
    import torch

    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device


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
