"""DSNet's units without the copies between them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from drive_seg.networks import dsnet
from drive_seg.networks.layers import unpooling
from drive_seg.training.kernels.depthwise import fuse_depthwise
from drive_seg.training.kernels.layers import activate, fuse_norms
from drive_seg.training.kernels.library import channels_last, kernels, pixels, rows_apart

_ITEM = 2
"""Bytes of a bfloat16."""


def fuse(network: nn.Module) -> None:
    """Have a network train by the kernels where its features are bfloat16 on a CPU.

    Its weights, their names and what it computes stay. In evaluation, on a GPU and in fp32 it runs as before.
    """
    fuse_norms(network)
    fuse_depthwise(network)
    for module in list(network.modules()):
        if type(module) is nn.Sequential and len(module) and all(map(_shuffles, module)):
            module.__class__ = _Stage
    for module in list(network.modules()):
        if type(module) is dsnet.InitUnit:
            activate(module.bn, 0.0)
            module.__class__ = _InitUnit
        elif _shuffles(module):
            module.__class__ = _BasicUnit
        elif type(module) is dsnet.DownUnit and module.groups == 2 and module.pool is unpooling("indices")[0]:
            module.__class__ = _DownUnit
        elif type(module) is dsnet.UpUnit:
            module.__class__ = _UpUnit


def _shuffles(module: nn.Module) -> bool:
    return type(module) is dsnet.BasicUnit and module.groups == 2


def _fast(module: nn.Module, x: Tensor) -> bool:
    return module.training and x.is_cpu and x.dtype == torch.bfloat16


class _InitUnit(dsnet.InitUnit):
    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.is_cpu and torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))  # else what is joined would be fp32
        return self.bn(torch.cat((self.conv(x), F.max_pool2d(x, 2)), dim=1))


class _BasicUnit(dsnet.BasicUnit):
    def forward(self, x: Tensor) -> Tensor:
        return _through([self], x) if _fast(self, x) else super().forward(x)


class _Stage(nn.Sequential):
    """Basic units in a row: between them the two halves of the channels stay apart."""

    def forward(self, x: Tensor) -> Tensor:
        return _through(list(self), x) if _fast(self, x) else super().forward(x)


def _through(units: Iterable[dsnet.BasicUnit], x: Tensor) -> Tensor:
    *first, last = units
    left, right = x.chunk(2, dim=1)
    right = channels_last(right)
    for unit in first:
        left, right = _Shuffle.apply(left, unit.right(right), False)
    return _Shuffle.apply(left, last.right(right), True)


class _DownUnit(dsnet.DownUnit):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not _fast(self, x):
            return super().forward(x)
        pooled, where = _Pool.apply(x)
        return _Shuffle.apply(self.left(pooled), self.right(x), True), where


class _UpUnit(dsnet.UpUnit):
    def forward(self, x: Tensor, where: Tensor) -> Tensor:
        if where.dtype != torch.uint8:  # of PyTorch's pooling
            return super().forward(x, where)
        return _Join.apply(self.left(x), where, self.right(x))


def _empty(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)


class _Shuffle(torch.autograd.Function):
    """Two halves [B, C/2, H, W] shuffled: joined in one tensor [B, C, H, W], or as its two halves."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, joined: bool) -> Any:
        left, right = (x if rows_apart(x) else channels_last(x) for x in (left, right))
        count, half, height, width = ctx.shape = tuple(left.shape)
        out = _empty((count, 2 * half, height, width)) if joined else (_empty(ctx.shape), _empty(ctx.shape))
        first, second = _halves(out)
        kernels().drive_seg_shuffle(
            left.data_ptr(),
            right.data_ptr(),
            first,
            second,
            pixels(left),
            half,
            rows_apart(left),
            rows_apart(right),
            2 * half if joined else half,
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grads = tuple(x if rows_apart(x) else channels_last(x) for x in grads)
        left, right = _empty(ctx.shape), _empty(ctx.shape)
        kernels().drive_seg_shuffle_gradient(
            *_halves(grads[0] if len(grads) == 1 else grads),
            left.data_ptr(),
            right.data_ptr(),
            pixels(left),
            ctx.shape[1],
            rows_apart(grads[0]),
            rows_apart(grads[-1]),
        )
        return left, right, None


def _halves(x: Tensor | tuple[Tensor, Tensor]) -> tuple[int, int]:
    """Where the two halves of the channels begin in memory."""
    if isinstance(x, tuple):
        return x[0].data_ptr(), x[1].data_ptr()
    return x.data_ptr(), x.data_ptr() + x.shape[1] // 2 * _ITEM


class _Pool(torch.autograd.Function):
    """[B, C, H, W] -> its 2x2 maxima [B, C, H/2, W/2], and which of the four they were, uint8."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = channels_last(x)
        count, channels, height, width = x.shape
        y = _empty((count, channels, height // 2, width // 2))
        where = torch.empty_like(y, dtype=torch.uint8)
        kernels().drive_seg_pool(
            x.data_ptr(), y.data_ptr(), where.data_ptr(), count * height // 2, width // 2, channels
        )
        ctx.save_for_backward(where)
        ctx.mark_non_differentiable(where)
        return y, where

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:
        (where,) = ctx.saved_tensors
        count, channels, height, width = where.shape
        of_x, grad = _empty((count, channels, 2 * height, 2 * width)), channels_last(grad)
        kernels().drive_seg_unpool(grad.data_ptr(), where.data_ptr(), of_x.data_ptr(), count * height, width, channels)
        return of_x


class _Join(torch.autograd.Function):
    """ReLU of what is un-pooled [B, C, H, W] plus what it goes beside [B, C, 2H, 2W]."""

    @staticmethod
    def forward(ctx: Any, coarse: Tensor, where: Tensor, fine: Tensor) -> Tensor:
        coarse, fine = channels_last(coarse), channels_last(fine)
        y = torch.empty_like(fine)
        count, channels, height, width = where.shape
        kernels().drive_seg_join(
            coarse.data_ptr(),
            where.data_ptr(),
            fine.data_ptr(),
            y.data_ptr(),
            count * height,
            width,
            channels,
        )
        ctx.save_for_backward(y, where)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, where = ctx.saved_tensors
        grad = channels_last(grad)
        coarse, fine = _empty(tuple(where.shape)), torch.empty_like(y)
        count, channels, height, width = where.shape
        kernels().drive_seg_join_gradient(
            y.data_ptr(),
            grad.data_ptr(),
            where.data_ptr(),
            coarse.data_ptr(),
            fine.data_ptr(),
            count * height,
            width,
            channels,
        )
        return coarse, None, fine
