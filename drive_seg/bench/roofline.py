"""The two ceilings of a machine, measured, and what a network asks of each.

Operations are two per multiply-accumulate of convolutions and matrix products; their ceiling is the fastest product of
two large matrices, as such or as a 1x1 convolution. Bytes are what convolutions and matrix products read and write:
each its input, weights and output once, as if all between them (Batch Norm, ReLU, shuffles, un-pooling) were done on
the way and caches kept nothing. Their ceiling is the fastest copy of a large block of memory, reading and writing
counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from drive_seg.networks.counting import multiply_accumulates

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PRODUCTS = frozenset({"convolution", "addmm", "mm", "bmm", "baddbmm"})
METHOD = " ".join(__doc__.split("\n\n")[1].split())
MATRIX, BLOCK_BYTES = 2048, 2**28


def measure_ceilings(device: str, seconds: float = 1.0, matrix: int = MATRIX, block: int = BLOCK_BYTES) -> dict:
    """Best of several, after a warm-up.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        seconds: for each of the ceilings.
        matrix: height and width of the matrices.
        block: bytes that are copied.

    Returns:
        ``gflops`` by precision, ``copy_gb_per_s``, and ``method``.
    """
    kinds = ("fp32", "bf16", "fp16") if device.startswith("cuda") else ("fp32", "bf16")
    gflops = {}
    for kind in kinds:
        a, b = (torch.randn(matrix, matrix, device=device).to(DTYPES[kind]) for _ in range(2))
        # The same product as a 1x1 convolution goes through oneDNN (cuDNN), where a matrix product may go through MKL.
        image = a.t().reshape(1, matrix, 1, matrix).contiguous(memory_format=torch.channels_last)
        weight = b.t().reshape(matrix, matrix, 1, 1)
        products = (lambda a=a, b=b: a @ b, lambda image=image, weight=weight: F.conv2d(image, weight))
        gflops[kind] = 2 * matrix**3 / min(_fastest(product, seconds / 2, device) for product in products) / 1e9
    source = torch.randint(0, 255, (block,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = _fastest(lambda: target.copy_(source), seconds, device)
    return {"gflops": gflops, "copy_gb_per_s": 2 * block / copied / 1e9, "method": METHOD}


def cost(build: Callable[[], nn.Module], size: tuple[int, int]) -> dict[str, int]:
    """What one image costs; nothing is computed for it.

    Args:
        build: makes the network.
        size: (height, width) of the image.

    Returns:
        ``operations``; ``activations`` and ``weights``, values that are read and written.
    """
    with torch.device("meta"):
        network = build().eval().to("meta")  # a checkpoint's weights are on the CPU
    # In inference mode convolutions come by other names.
    with torch.inference_mode(False), torch.no_grad(), _Traffic() as traffic:
        network(torch.empty(1, 3, *size, device="meta"))
    return {
        "operations": 2 * multiply_accumulates(network, size),
        "activations": traffic.activations,
        "weights": traffic.weights,
    }


def fractions(
    spent: dict[str, int] | None, precision: str, batch: int, median_ms: float, ceilings: dict[str, Any]
) -> dict[str, float | int | None]:
    """Operations and bytes of a row, and the fraction of each ceiling that it reaches; None for what is unknown."""
    unknown = dict.fromkeys(("operations", "bytes", "fraction_of_peak", "fraction_of_bandwidth"))
    if spent is None:
        return unknown
    operations = spent["operations"] * batch
    width = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}[precision]
    moved = width * (spent["activations"] * batch + spent["weights"])
    peak = ceilings["gflops"].get(precision)
    return {
        "operations": operations,
        "bytes": moved,
        "fraction_of_peak": None if peak is None else operations / (median_ms * 1e6) / peak,
        "fraction_of_bandwidth": moved / (median_ms * 1e6) / ceilings["copy_gb_per_s"],
    }


class _Traffic(TorchDispatchMode):
    """Adds up what convolutions and matrix products read and write, in values."""

    def __init__(self) -> None:
        super().__init__()
        self.activations = self.weights = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.__name__.split(".")[0] in _PRODUCTS:
            for value in args:
                if isinstance(value, nn.Parameter):
                    self.weights += value.numel()
                elif isinstance(value, Tensor):
                    self.activations += value.numel()
            self.activations += result.numel()
        return result


def _fastest(call: Callable[[], object], seconds: float, device: str) -> float:
    _done(call, device)
    best, begin = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - begin < seconds:
        started = time.perf_counter()
        _done(call, device)
        best = min(best, time.perf_counter() - started)
    return best


def _done(call: Callable[[], object], device: str) -> None:
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
