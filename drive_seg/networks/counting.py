"""What a network costs: parameters, and multiply-accumulates by two ways of counting. Nothing is computed for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from drive_seg.networks.fbnet import FeatureBalance
from drive_seg.networks.layers import training_only_branches


def parameters(network: nn.Module) -> int:
    """The learnable values that inference uses: all but those of the branches that only training uses."""
    branches = tuple(f"{name}." for name, _, _ in training_only_branches(network))
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith(branches))


def multiply_accumulates(network: nn.Module, size: tuple[int, int], paper_rules: bool = False) -> int:
    """Multiply-accumulates of one image in evaluation mode.

    The network may lie on any device, "meta" too; it and its mode stay as they are.

    Args:
        network: takes float images [1, 3, H, W].
        size: (height, width) of the image.
        paper_rules: count as FBNet's Table 2 does, which calls the result FLOPs. If False, convolutions and matrix
            products count (torch's own counter, halved), biases and all else do not. If True, what modules do counts:
            convolutions with their additions of biases, linear layers without, Batch Norm 2 per element, ReLU and
            PReLU 1 per element, pooling 1 per element of its *input*; resizing, sigmoids, sums and products do not.
            The block-wise heads of FBNet count as well (as the paper's + 0.76 G can only be had with them), although
            inference does not run them; a network stripped of them has none to count.
    """
    with _evaluation(network), torch.no_grad():
        if paper_rules:
            return _count_modules(network, size)
        with FlopCounterMode(display=False) as counter:
            _run_on_meta(network, size)
        return counter.get_total_flops() // 2


def _run_on_meta(network: nn.Module, size: tuple[int, int]) -> None:
    """Pass an image of the "meta" device, where tensors have shapes and no values, through the network."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    hollow = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    dtype = next((p.dtype for p in network.parameters()), torch.float32)
    functional_call(network, hollow, (torch.empty(1, 3, *size, device="meta", dtype=dtype),))


@contextmanager
def _evaluation(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards each module is in its own mode again."""
    modes = {part: part.training for part in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def _convolution(module: nn.Conv2d, x: Tensor, y: Tensor) -> int:
    biases = y.numel() if module.bias is not None else 0
    return y.numel() * math.prod(module.weight.shape[1:]) + biases


def _transposed_convolution(module: nn.ConvTranspose2d, x: Tensor, y: Tensor) -> int:
    biases = y.numel() if module.bias is not None else 0
    return x.numel() * math.prod(module.weight.shape[1:]) + biases


_RULES: tuple[tuple[type | tuple[type, ...], Callable[[nn.Module, Tensor, Tensor], int]], ...] = (
    (nn.Conv2d, _convolution),
    (nn.ConvTranspose2d, _transposed_convolution),
    (nn.Linear, lambda module, x, y: x.numel() * module.out_features),
    (nn.BatchNorm2d, lambda module, x, y: 2 * y.numel()),
    ((nn.ReLU, nn.ReLU6, nn.PReLU), lambda module, x, y: y.numel()),
    ((nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d), lambda module, x, y: x.numel()),
)
"""Kinds of modules that Table 2 counts, and what one pass of [1, ...] through them costs."""


def _run_head(module: FeatureBalance, inputs: tuple[Tensor], output: object) -> None:
    """Run FBNet's head, a counted module itself, which evaluation mode leaves out."""
    module.head(inputs[0])


def _count_modules(network: nn.Module, size: tuple[int, int]) -> int:
    counts: list[int] = []
    hooks = [
        part.register_forward_hook(lambda m, xs, y, cost=cost: counts.append(cost(m, xs[0], y)))
        for part in network.modules()
        for kinds, cost in _RULES
        if isinstance(part, kinds)
    ]
    hooks += [
        part.register_forward_hook(_run_head)
        for part in network.modules()
        if isinstance(part, FeatureBalance) and part.head is not None
    ]
    try:
        _run_on_meta(network, size)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts)
