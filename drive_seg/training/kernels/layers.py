"""Batch Norm with what follows it as one function of each direction, and how a network gets it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from drive_seg.training.kernels.library import channels_last, in_bfloat16, kernels, pixels


def _normalise(x: Tensor, gamma: Tensor, beta: Tensor, norm: BatchNormActivation) -> tuple[Tensor, Tensor]:
    """The output, and what the gradient needs of the batch's statistics, for features that are channels last."""
    y, saved = torch.empty_like(x), torch.empty(2, x.shape[1])
    norm.num_batches_tracked.add_(1)
    kernels().drive_seg_norm(
        x.data_ptr(),
        y.data_ptr(),
        pixels(x),
        x.shape[1],
        gamma.data_ptr(),
        beta.data_ptr(),
        norm.eps,
        norm.low,
        norm.high,
        norm.momentum,
        norm.running_mean.data_ptr(),
        norm.running_var.data_ptr(),
        saved.data_ptr(),
    )
    return y, saved


def _gradients(
    x: Tensor, grad: Tensor, gamma: Tensor, beta: Tensor, bounds: tuple[float, float], saved: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of x, gamma and beta."""
    grad = channels_last(grad)
    of_x, of_gamma, of_beta = torch.empty_like(x), torch.empty_like(gamma), torch.empty_like(beta)
    kernels().drive_seg_norm_gradient(
        x.data_ptr(),
        grad.data_ptr(),
        of_x.data_ptr(),
        pixels(x),
        x.shape[1],
        gamma.data_ptr(),
        beta.data_ptr(),
        *bounds,
        saved.data_ptr(),
        of_gamma.data_ptr(),
        of_beta.data_ptr(),
    )
    return of_x, of_gamma, of_beta


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, norm: BatchNormActivation) -> Tensor:
        x = channels_last(x)
        y, saved = _normalise(x, gamma, beta, norm)
        ctx.save_for_backward(x, gamma, beta, saved)
        ctx.bounds = norm.low, norm.high
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, beta, saved = ctx.saved_tensors
        return *_gradients(x, grad, gamma, beta, ctx.bounds, saved), None


class _ConvNorm(torch.autograd.Function):
    """Convolution and Batch Norm as one: a third of the steps between Python and autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        gamma: Tensor,
        beta: Tensor,
        convolution: nn.Conv2d | nn.ConvTranspose2d,
        norm: BatchNormActivation,
    ) -> Tensor:
        x, weight = channels_last(x), weight.to(torch.bfloat16)
        ctx.geometry = (
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            convolution.transposed,
            convolution.output_padding,
            convolution.groups,
        )
        ctx.bounds = norm.low, norm.high
        between = channels_last(torch.ops.aten.convolution(x, weight, None, *ctx.geometry))
        y, saved = _normalise(between, gamma, beta, norm)
        ctx.save_for_backward(x, weight, between, gamma, beta, saved)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, between, gamma, beta, saved = ctx.saved_tensors
        grad, of_gamma, of_beta = _gradients(between, grad, gamma, beta, ctx.bounds, saved)
        needed = (*ctx.needs_input_grad[:2], False)
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(grad, x, weight, None, *ctx.geometry, needed)
        return of_x, None if of_weight is None else of_weight.float(), of_gamma, of_beta, None, None


class BatchNormActivation(nn.BatchNorm2d):
    """Batch Norm and the ReLU or ReLU6 behind it; ``low`` and ``high`` are the activation's bounds.

    A network's own Batch Norm becomes one by :func:`fuse`. In training, on bfloat16 on a CPU, both are one pass over
    the features and one more for the sums, and as many for the gradients; else they are PyTorch's.
    """

    low, high = -math.inf, math.inf

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.is_cpu and x.dtype == torch.bfloat16:
            return _Norm.apply(x, self.weight, self.bias, self)
        y = super().forward(x)
        return y if (self.low, self.high) == (-math.inf, math.inf) else y.clamp(self.low, self.high)


class ConvNorm(nn.Sequential):
    """Convolution without bias and :class:`BatchNormActivation`; what the latter took over may follow as identities."""

    def forward(self, x: Tensor) -> Tensor:
        convolution, norm = self[0], self[1]
        if norm.training and in_bfloat16(x):
            return _ConvNorm.apply(x.to(torch.bfloat16), convolution.weight, norm.weight, norm.bias, convolution, norm)
        return super().forward(x)


def activate(norm: nn.BatchNorm2d, low: float = -math.inf, high: float = math.inf) -> None:
    """Have a Batch Norm bound its output, too."""
    norm.__class__ = BatchNormActivation
    norm.low, norm.high = low, high


def fuse_norms(network: nn.Module) -> None:
    """Give each Batch Norm the activation that follows it in the same ``nn.Sequential``, and the convolution before.

    Names of weights stay.
    """
    for sequence in network.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        for i, norm in enumerate(sequence):
            if not _plain(norm):
                continue
            following = sequence[i + 1] if i + 1 < len(sequence) else None
            if type(following) in (nn.ReLU, nn.ReLU6):
                activate(norm, 0.0, 6.0 if isinstance(following, nn.ReLU6) else math.inf)
                sequence[i + 1] = nn.Identity()
            else:
                activate(norm)
        if _pair(sequence):
            sequence.__class__ = ConvNorm


def _pair(sequence: nn.Sequential) -> bool:
    """Whether it is a convolution, a Batch Norm as the kernels know it and nothing else."""
    convolution, norm, *others = [*sequence, None, None]
    return (
        type(sequence).forward is nn.Sequential.forward
        and type(convolution) in (nn.Conv2d, nn.ConvTranspose2d)
        and convolution.bias is None
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
        and type(norm) is BatchNormActivation
        and all(other is None or type(other) is nn.Identity for other in others)
    )


def _plain(norm: nn.Module) -> bool:
    """Whether it is a Batch Norm as the kernels know it."""
    return type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats and norm.momentum is not None
