"""Depth-wise convolutions, with the borders before them, by depthwise.cpp."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from drive_seg.networks.depthwise import DepthwiseConv2d
from drive_seg.networks.efficientnet_lite import Border, MBConv
from drive_seg.training.kernels.library import channels_last, in_bfloat16, kernels

LANES = 16


class _Geometry(ctypes.Structure):
    """``Geometry`` of depthwise.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_int32)
        for name in (
            "images",
            "height",
            "width",
            "channels",
            "out_height",
            "out_width",
            "kernel",
            "stride",
            "dilation",
            "before",
        )
    )


class _Depthwise(torch.autograd.Function):
    """``layer`` says the geometry; its weight is handed in besides, as it gets a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, layer: FusedDepthwise) -> Tensor:
        x = channels_last(x)
        images, channels, *size = x.shape
        before, behind = layer.zeros
        kernel, stride, dilation = (values[0] for values in (layer.kernel_size, layer.stride, layer.dilation))
        out_size = [(side + before + behind - (kernel - 1) * dilation - 1) // stride + 1 for side in size]
        ctx.geometry = _Geometry(images, *size, channels, *out_size, kernel, stride, dilation, before)
        packed = weight.detach().view(channels, -1).t().contiguous()
        y = torch.empty((images, channels, *out_size), dtype=x.dtype, memory_format=torch.channels_last)
        kernels().drive_seg_depthwise(x.data_ptr(), packed.data_ptr(), y.data_ptr(), ctypes.addressof(ctx.geometry))
        ctx.save_for_backward(x, packed)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, packed = ctx.saved_tensors
        grad, geometry = channels_last(grad), ctypes.addressof(ctx.geometry)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = torch.empty_like(x)
            kernels().drive_seg_depthwise_input(grad.data_ptr(), packed.data_ptr(), of_x.data_ptr(), geometry)
        if ctx.needs_input_grad[1]:
            found = torch.empty_like(packed)
            kernels().drive_seg_depthwise_weight(x.data_ptr(), grad.data_ptr(), found.data_ptr(), geometry)
            of_weight = found.t().reshape(-1, 1, ctx.geometry.kernel, ctx.geometry.kernel)
        return of_x, of_weight, None


class FusedDepthwise(DepthwiseConv2d):
    """A depth-wise convolution that adds the zeros of a :class:`Border`, if it has one, itself.

    A network's own becomes one by :func:`fuse_depthwise`. Under bfloat16 autocast on a CPU it runs by the kernels, else
    it is PyTorch's.
    """

    border: Border | None

    @property
    def zeros(self) -> tuple[int, int]:
        """Rows and columns of zeros before and behind the input."""
        return self.padding if self.border is None else self.border.padding[:2]

    def forward(self, x: Tensor) -> Tensor:
        if in_bfloat16(x):
            return _Depthwise.apply(x.to(torch.bfloat16), self.weight, self)
        return super().forward(x if self.border is None else self.border(x))


def fuse_depthwise(network: nn.Module) -> None:
    """Have a network's depth-wise convolutions run by the kernels where these know their geometry."""
    for module in network.modules():
        if type(module) is DepthwiseConv2d and _fits(module):
            module.__class__, module.border = FusedDepthwise, None
    for module in list(network.modules()):
        if isinstance(module, MBConv) and isinstance(module.border, Border):
            convolution = module.depthwise[0]
            if isinstance(convolution, FusedDepthwise) and convolution.padding == (0, 0):
                convolution.border, module.border = module.border, nn.Identity()


def _fits(layer: DepthwiseConv2d) -> bool:
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    return (
        kernel in ((3, 3), (5, 5))
        and (stride == (1, 1) or (stride == (2, 2) and dilation == (1, 1)))
        and layer.in_channels % LANES == 0
        and layer.bias is None
    )
