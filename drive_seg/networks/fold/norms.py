"""Batch Norms into the convolutions before them."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from drive_seg.networks import dsnet, enet, erfnet, resnet
from drive_seg.networks.fold.channels import join, with_weights


def can_fold(conv: nn.Module | None, norm: nn.Module) -> bool:
    """Whether a Batch Norm can go into what stands before it."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_var is None:
        return False
    return isinstance(conv, nn.Conv2d) or (isinstance(conv, nn.ConvTranspose2d) and conv.groups == 1)


def fold_norm(conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> nn.Conv2d | nn.ConvTranspose2d:
    """One convolution with a bias for a convolution and the Batch Norm behind it."""
    weight, bias = fuse_conv_bn_weights(
        conv.weight.double(),
        None if conv.bias is None else conv.bias.double(),
        *_statistics(norm),
        transpose=isinstance(conv, nn.ConvTranspose2d),
    )
    return with_weights(conv, weight, bias)


def _statistics(norm: nn.BatchNorm2d, start: int = 0) -> tuple:
    """Mean, variance, eps, scale and shift in float64, from a channel on."""
    mean, variance = norm.running_mean[start:].double(), norm.running_var[start:].double()
    scale, shift = (None if p is None else p[start:].double() for p in (norm.weight, norm.bias))
    return mean, variance, norm.eps, scale, shift


def fold_sequence(sequence: nn.Sequential) -> nn.Sequential:
    """Batch Norms go into the convolutions right before them; dropout, which does nothing here, is left out."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    last = ""
    for name, part in sequence.named_children():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            continue
        if can_fold(parts.get(last), part):
            parts[last] = fold_norm(parts[last], part)
            continue
        parts[name], last = part, name
    return nn.Sequential(parts)


def fold_bottleneck(block: resnet.Bottleneck) -> resnet.Bottleneck:
    """ResNet's block: three convolutions, each with the Batch Norm of its number."""
    for i in (1, 2, 3):
        setattr(block, f"conv{i}", fold_norm(getattr(block, f"conv{i}"), getattr(block, f"bn{i}")))
        setattr(block, f"bn{i}", nn.Identity())
    return block


def fold_stem(encoder: resnet.ResNet) -> resnet.ResNet:
    """ResNet's first Batch Norm, behind one convolution or the last of three."""
    if isinstance(encoder.conv1, nn.Sequential):
        encoder.conv1[-1] = fold_norm(encoder.conv1[-1], encoder.bn1)
    else:
        encoder.conv1 = fold_norm(encoder.conv1, encoder.bn1)
    encoder.bn1 = nn.Identity()
    return encoder


class ConvBesidePool(nn.Module):
    """Convolution beside max-pooling with one Batch Norm over both (first units of DSNet and ENet, all of ERFNet).

    The convolution takes its channels' part of the Batch Norm; a factor and a summand per pooled channel remain.
    """

    def __init__(self, unit: dsnet.InitUnit | enet.InitialBlock | erfnet.Downsampler) -> None:
        super().__init__()
        split, dtype = unit.conv.out_channels, unit.conv.weight.dtype
        mean, variance, eps, scale, shift = _statistics(unit.bn, split)
        factor = scale * torch.rsqrt(variance + eps)
        self.register_buffer("factor", factor.detach().to(dtype).view(-1, 1, 1))
        self.register_buffer("summand", (shift - mean * factor).detach().to(dtype).view(-1, 1, 1))
        first = copy.deepcopy(unit.bn)
        for name in ("weight", "bias", "running_mean", "running_var"):
            setattr(first, name, type(getattr(first, name))(getattr(first, name)[:split]))
        self.conv = fold_norm(unit.conv, first)
        self.activation = getattr(unit, "activation", nn.ReLU(inplace=True))
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(x, 2) * self.factor + self.summand
        return self.activation(self.join([self.conv(x), pooled]))
