"""What several networks share."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SegmentationOutput(NamedTuple):
    """What a network returns in training mode; in evaluation mode it returns ``logits`` alone.

    Attributes:
        logits: [B, C, H, W] at the input's size.
        semantic_presence: [B, C] logits of "this class occurs in the image" (DSNet's Semantic Encoding branch).
    """

    logits: Tensor
    semantic_presence: Tensor | None = None


class ConvBN(nn.Sequential):
    """Convolution without bias, Batch Norm with scale and shift, ReLU; a stride-1 one keeps the size of its input."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        )


class TransposedConvBN(nn.Sequential):
    """Transposed 3x3 convolution of stride 2 without bias, Batch Norm, ReLU: doubles height and width."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        )


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
