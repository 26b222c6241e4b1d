"""A folded network said in the order in which memory holds it, for compilers: all of a pixel's channels side by side.

Convolutions on a CPU are fastest on such tensors. A compiler that is shown joins, slices and stacks of [B, C, H, W]
lays their results out in planes, one for each channel, and then transposes to and fro; of the same steps in
[B, H, W, C] it makes plain copies. The values are the same to the last bit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from drive_seg.networks.fold import Folded, channels, unpooling
from drive_seg.networks.fold.dsnet import FoldedDSNet
from drive_seg.networks.fold.norms import ConvBesidePool

EXACT = ("init", "fullconv")
"""What of a DSNet stays in float32: with it where the maxima stand that un-pooling puts values back to. Two of them
that tie by rounding put a value one pixel off, which costs more labels than all other rounding."""


class ForCompiler(nn.Module):
    """A folded network in that order and in some precision: float32 [B, 3, H, W] -> logits float32 [B, C, H, W].

    Args:
        network: of :func:`drive_seg.networks.fold.fold`; left as it is. If it un-pools, then by "one_hot".
        dtype: float32, float16 or bfloat16 for what does not stay in float32.
    """

    def __init__(self, network: Folded, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        for part in self.network.modules():
            for name, (usual, form) in _FORMS.items():
                if getattr(part, name, None) is usual:
                    setattr(part, name, form)
        if dtype != torch.float32:
            _round(self.network, dtype)
        self.to(memory_format=torch.channels_last).eval()

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image).float()


def join(parts: Sequence[Tensor]) -> Tensor:
    """As :func:`drive_seg.networks.fold.channels.join`."""
    return _planes(torch.cat([_pixels(part) for part in parts], dim=3))


def max_pool_places(x: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`drive_seg.networks.fold.unpooling.max_pool_places`."""
    x = _pixels(x)
    a, b, c, d = x[:, ::2, ::2], x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2]
    upper, lower = torch.maximum(a, b), torch.maximum(c, d)
    where = torch.where(upper >= lower, (b > a).to(x.dtype), (d > c).to(x.dtype) + 2)
    return _planes(torch.maximum(upper, lower)), _planes(where)


def max_unpool_places(x: Tensor, where: Tensor) -> Tensor:
    """As :func:`drive_seg.networks.fold.unpooling.max_unpool_places`."""
    batch, channels, height, width = x.shape
    x, where = _pixels(x), _pixels(where)
    a, b, c, d = (torch.where(where == place, x, torch.zeros_like(x)) for place in range(4))
    rows = torch.stack([torch.stack([a, b], dim=3), torch.stack([c, d], dim=3)], dim=2)
    return _planes(rows.reshape(batch, 2 * height, 2 * width, channels))


_FORMS = {
    "join": (channels.join, join),
    "pool": (unpooling.max_pool_places, max_pool_places),
    "unpool": (unpooling.max_unpool_places, max_unpool_places),
}
"""What folded modules call these steps, how they take them, and how they are taken here."""


def _pixels(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _planes(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _round(network: Folded, dtype: torch.dtype) -> None:
    """Cast a network; each layer with weights then casts what comes to it."""
    inner = network.network
    if isinstance(inner, FoldedDSNet):
        for name, part in inner.named_children():
            part.to(torch.float32 if name in EXACT else dtype)
    else:
        network.to(dtype).register_forward_pre_hook(_cast)
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | ConvBesidePool):
            part.register_forward_pre_hook(_cast)


def _cast(part: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    dtype = next(part.parameters()).dtype
    return tuple(x.to(dtype) for x in given)
