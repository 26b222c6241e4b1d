"""Max-pooling that says where the maximum stood, in operations that every exporter takes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def max_pool_places(x: Tensor) -> tuple[Tensor, Tensor]:
    """2x2 max-pool in operations that every exporter takes, with one number per window for where its maximum stood.

    It takes the place of :func:`~drive_seg.networks.layers.max_pool_one_hot`, whose four planes are four times the
    memory, and whose running sum runtimes have no fast kernel for. Ties are decided alike: the first in reading order.

    Args:
        x: [B, C, H, W] with even H and W.

    Returns:
        the pooled [B, C, H/2, W/2], and of the same shape and type 0, 1, 2 or 3, the window's places in reading order.
    """
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    upper, lower = torch.maximum(a, b), torch.maximum(c, d)
    where = torch.where(upper >= lower, (b > a).to(x.dtype), (d > c).to(x.dtype) + 2)
    return torch.maximum(upper, lower), where


def max_unpool_places(x: Tensor, where: Tensor) -> Tensor:
    """Inverse of :func:`max_pool_places`: twice [B, C, h, w] -> [B, C, 2h, 2w], zeros around what was put back."""
    planes = torch.stack([torch.where(where == place, x, torch.zeros_like(x)) for place in range(4)], dim=2)
    return F.pixel_shuffle(planes.flatten(1, 2), 2)
