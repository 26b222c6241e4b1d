"""The other units of DSNet's ablation (section IV.C, first half of Table 5), each in the two places of DSNet's own.

A basic unit is made as ``unit(channels, dilation)`` and keeps the shape; a down unit as ``unit(c_in, c_out, unpool)``,
halves height and width and, as :class:`~drive_seg.networks.dsnet.DownUnit`, returns also where the maxima of its input
stood. Activations are ReLU where the unit's own paper does not say otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drive_seg.networks.layers import ConvBN, channel_shuffle, unpooling


class AddUnit(nn.Module):
    """ADD's basic unit: no split; 1x1 - 3x3 dilated - 1x1 over all channels, added to the input."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.right = nn.Sequential(
            ConvBN(channels, channels), ConvBN(channels, channels, 3, dilation=dilation), ConvBN(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.right(x)


class AddDownUnit(nn.Module):
    """ADD's down unit: both branches have all output channels and are added."""

    def __init__(self, c_in: int, c_out: int, unpool: str) -> None:
        super().__init__()
        self.pool = unpooling(unpool)[0]
        self.left = ConvBN(c_in, c_out)
        self.right = nn.Sequential(ConvBN(c_in, c_out), ConvBN(c_out, c_out, 3, stride=2), ConvBN(c_out, c_out))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, where = self.pool(x)
        return self.left(pooled) + self.right(x), where


def separable(channels: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Depth-wise 3x3 with Batch Norm, then point-wise 1x1 with Batch Norm and ReLU."""
    depthwise = ConvBN(channels, channels, 3, stride, dilation, groups=channels, activate=False)
    return nn.Sequential(depthwise, ConvBN(channels, channels))


class DepthwiseUnit(nn.Module):
    """DW's basic unit: 1x1 to half the channels - depth-wise separable 3x3 - 1x1 back, added to the input.

    The text only replaces the 3x3 convolution. With the split kept, the 8, 17 and 17 units it names have 0.57 M
    parameters, far from the 0.89 M of Table 5, and would not run at 59 % of DSNet's speed. A bottleneck over all
    channels is the nearest unit that we found: 0.875 M (1.7 % less).
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        half = channels // 2
        self.right = nn.Sequential(
            ConvBN(channels, half), separable(half, dilation=dilation), ConvBN(half, channels, activate=False)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.right(x))


class DepthwiseDownUnit(nn.Module):
    """DW's down unit: DSNet's with a depth-wise separable 3x3/2."""

    def __init__(self, c_in: int, c_out: int, unpool: str) -> None:
        super().__init__()
        half = c_out // 2
        self.pool = unpooling(unpool)[0]
        self.left = ConvBN(c_in, half)
        self.right = nn.Sequential(ConvBN(c_in, half), separable(half, stride=2), ConvBN(half, half))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, where = self.pool(x)
        return channel_shuffle(torch.cat((self.left(pooled), self.right(x)), dim=1), 2), where


class InvertedResidual(nn.Module):
    """MBV2's unit (M. Sandler et al., "MobileNetV2", CVPR 2018): 1x1 expands sixfold - depth-wise 3x3 - linear 1x1.

    With a stride of 1 and equal widths the input is added.
    """

    expansion = 6

    def __init__(self, c_in: int, c_out: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        width = c_in * self.expansion
        self.right = nn.Sequential(
            ConvBN(c_in, width, activate=False),
            nn.ReLU6(inplace=True),
            ConvBN(width, width, 3, stride, dilation, groups=width, activate=False),
            nn.ReLU6(inplace=True),
            ConvBN(width, c_out, activate=False),
        )
        self.adds_input = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.right(x) if self.adds_input else self.right(x)


def inverted_residual(channels: int, dilation: int) -> InvertedResidual:
    """MBV2's basic unit."""
    return InvertedResidual(channels, channels, 1, dilation)


class InvertedResidualDownUnit(nn.Module):
    """MBV2's down unit: an inverted residual of stride 2. The pooling only serves the un-pooling of the Up unit."""

    def __init__(self, c_in: int, c_out: int, unpool: str) -> None:
        super().__init__()
        self.pool = unpooling(unpool)[0]
        self.right = InvertedResidual(c_in, c_out, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.right(x), self.pool(x)[1]


class ENetUnit(nn.Module):
    """ENET's basic unit: ENet's bottleneck, 1x1 to a quarter of the channels - 3x3 dilated - 1x1 back, added, ReLU.

    With the 8, 17 and 17 units of the text and DSNet's own Down units the network has 0.77 M parameters; Table 5 prints
    0.95 M. No construction from the text gives that: with a third of the channels there would be 1.11 M.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        quarter = channels // 4
        self.right = nn.Sequential(
            ConvBN(channels, quarter),
            ConvBN(quarter, quarter, 3, dilation=dilation),
            ConvBN(quarter, channels, activate=False),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.right(x))
