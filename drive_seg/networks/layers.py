"""What several networks share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBN(nn.Sequential):
    """Convolution without bias, Batch Norm with scale and shift, ReLU; a stride-1 one keeps the size of its input.

    ``groups`` is the convolution's (``c_in`` for a depth-wise one); ``activate=False`` leaves the ReLU out.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, groups, bias=False),
            nn.BatchNorm2d(c_out),
            *([nn.ReLU(inplace=True)] if activate else []),
        )


class TransposedConvBN(nn.Sequential):
    """Transposed 3x3 convolution of stride 2 without bias, Batch Norm, ReLU: doubles height and width."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        )


class PyramidPooling(nn.Module):
    """PSPNet's pyramid pooling: averages over 1, 4, 9 and 36 regions, each through 1x1, laid beside the input.

    [B, c_in, H, W] -> [B, c_in + 4 * c_branch, H, W].
    """

    def __init__(self, c_in: int, c_branch: int, bins: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), ConvBN(c_in, c_branch)) for n in bins)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, *(resize(branch(x), x.shape[-2:]) for branch in self.branches)), dim=1)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """ShuffleNet's shuffle: channel g * n + i of ``groups`` groups of n moves to place i * groups + g. [B, C, H, W]."""
    return F.channel_shuffle(x, groups)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad right and bottom with zeros until height and width are multiples; crop the result back with ``[:h, :w]``."""
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x


def max_pool_one_hot(x: Tensor) -> tuple[Tensor, Tensor]:
    """2x2 max-pool that remembers where each maximum stood as four 0/1 planes instead of indices.

    Where values tie the first in reading order wins, as with ``torch.nn.functional.max_pool2d``, so both forms of
    un-pooling agree everywhere. Only slices, comparisons and products occur: every exporter takes them.

    Args:
        x: [B, C, H, W] with even H and W.

    Returns:
        the pooled [B, C, H/2, W/2], and a one-hot mask [B, C, 4, H/2, W/2] of x's dtype, the third axis counting the
        window's places in reading order.
    """
    corners = torch.stack((x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]), dim=2)
    pooled = corners.amax(dim=2)
    is_max = (corners == pooled.unsqueeze(2)).to(x.dtype)
    # Keep a place only where no earlier place of its window already holds the maximum.
    earlier = is_max.cumsum(dim=2) - is_max
    return pooled, is_max * (earlier == 0).to(x.dtype)


def max_unpool_one_hot(x: Tensor, mask: Tensor) -> Tensor:
    """Inverse of :func:`max_pool_one_hot`: [B, C, h, w] and the mask [B, C, 4, h, w] -> [B, C, 2h, 2w]."""
    return F.pixel_shuffle((x.unsqueeze(2) * mask).flatten(1, 2), 2)


def unpooling(form: str) -> tuple[Callable, Callable]:
    """A pair (pool, unpool) for 2x2 max-pooling that remembers where the maxima stood.

    ``pool(x) -> (pooled, where)`` halves height and width; ``unpool(y, where)`` puts each value back where its window's
    maximum stood, with zeros around it. Both forms give equal results.

    Args:
        form: "indices" (``max_unpool2d``) or "one_hot" (operations that every exporter takes).

    Raises:
        ValueError: if ``form`` is neither of the two.
    """
    return _UNPOOLING[one_of("unpool", form, _UNPOOLING)]


def _pool_indices(x: Tensor) -> tuple[Tensor, Tensor]:
    return F.max_pool2d(x, 2, return_indices=True)


def _unpool_indices(x: Tensor, where: Tensor) -> Tensor:
    return F.max_unpool2d(x, where, 2)


_UNPOOLING: dict[str, tuple[Callable, Callable]] = {
    "indices": (_pool_indices, _unpool_indices),
    "one_hot": (max_pool_one_hot, max_unpool_one_hot),
}


def one_of(option: str, value: Any, valid: Iterable[Any]) -> Any:
    """The value of an option, checked.

    Raises:
        ValueError: if it is not one of the valid ones, which the message lists.
    """
    valid = tuple(valid)
    if value not in valid:
        raise ValueError(f"{option} {value!r} is not one of {', '.join(map(str, valid))}")
    return value


def initialise(module: nn.Module) -> None:
    """He initialisation (fan-out) of all convolutions, zero biases; Batch Norms are left at 1 and 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear to (height, width); pixel centres keep their places (``align_corners=False``)."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def training_only(module: nn.Module) -> nn.Module:
    """Mark a branch that only training uses: a checkpoint for the vehicle leaves it out."""
    module.is_training_only = True
    return module


def training_only_branches(network: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(full name, parent module, name within it) of each branch marked with :func:`training_only`."""
    for parent_name, parent in list(network.named_modules()):
        for name, child in list(parent.named_children()):
            if getattr(child, "is_training_only", False):
                yield f"{parent_name}.{name}".lstrip("."), parent, name


def strip_training_only(network: nn.Module) -> nn.Module:
    """Take the training-only branches off a network, which then gives no auxiliary outputs any more."""
    for _, parent, name in training_only_branches(network):
        setattr(parent, name, None)
    return network
