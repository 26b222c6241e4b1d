"""ENet: A. Paszke et al., "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation", 2016.

Where the paper is open, this file does the following:

* Width inside a bottleneck: a quarter of its output, ResNet's ratio. The paper only says that the projection reduces.
* Activations: PReLU with one slope per channel in the encoder, ReLU in the decoder, as its implementations have it.
* Batch Norm stands behind every convolution but the last, also between 5x1 and 1x5 and behind the 1x1 of the
  up-sampling's main branch. No convolution has a bias.
* Spatial Dropout is 0.01 "before bottleneck2.0 and 0.1 afterwards": 2.0 itself and the decoder have 0.1.
* The last layer's kernel is 3x3, as that of the other full convolutions. So the count at 19 classes is 365,503, the
  paper's 0.37 M: 353,007 in kernels, 8,608 in Batch Norms, 3,888 slopes. The 0.36 M of later papers comes out with 2x2
  (363,983) or with one slope per layer (361,686).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_seg.networks.layers import initialise, pad_to_multiple, unpooling
from drive_seg.networks.network import Balance, SegmentationNetwork, SegmentationOutput, Stage

STRIDE = 8
"""The encoder's stride: inputs are padded to a multiple of it."""

REGULAR, ASYMMETRIC = "regular", "asymmetric"

SECTION = (REGULAR, 2, ASYMMETRIC, 4, REGULAR, 8, ASYMMETRIC, 16)
"""Bottlenecks 2.1 to 2.8, and again 3.1 to 3.8 (Table 1): the kind, or the dilation of a dilated one."""

Activation = Callable[[int], nn.Module]


def prelu(channels: int) -> nn.Module:
    """The encoder's activation: one slope per channel."""
    return nn.PReLU(channels)


def relu(channels: int) -> nn.Module:
    """The decoder's activation."""
    return nn.ReLU(inplace=True)


class InitialBlock(nn.Module):
    """Fig. 2a: 3x3/2 convolution beside 2x2 max-pooling of the image. [B, 3, H, W] -> [B, 16, H/2, W/2]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 13, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.activation = prelu(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.bn(torch.cat((self.conv(x), F.max_pool2d(x, 2)), dim=1)))


class Extension(nn.Sequential):
    """The branch of Fig. 2b that has the weights: projection, main convolutions, 1x1 expansion, Spatial Dropout.

    Args:
        projection: reduces the channels.
        main: the convolutions between.
        c_out: channels of the result.
        activation: stands behind the Batch Norm of every convolution but the expansion.
        dropout: probability that a channel is zeroed.
    """

    def __init__(
        self, projection: nn.Module, main: list[nn.Module], c_out: int, activation: Activation, dropout: float
    ) -> None:
        width = projection.out_channels
        normed = [part for conv in (projection, *main) for part in (conv, nn.BatchNorm2d(width), activation(width))]
        expansion = nn.Conv2d(width, c_out, 1, bias=False)
        super().__init__(*normed, expansion, nn.BatchNorm2d(c_out), nn.Dropout2d(dropout))


class Bottleneck(nn.Module):
    """Fig. 2b without a change of size: x plus its extension, then the activation. Keeps the shape.

    Args:
        channels: of input and output.
        kind: "regular" (3x3), "asymmetric" (5x1 and 1x5), or the dilation of a dilated 3x3.
        activation: :func:`prelu` or :func:`relu`.
        dropout: probability.
    """

    def __init__(self, channels: int, kind: str | int, activation: Activation, dropout: float) -> None:
        super().__init__()
        width = channels // 4
        if kind == ASYMMETRIC:
            main: list[nn.Module] = [
                nn.Conv2d(width, width, (5, 1), padding=(2, 0), bias=False),
                nn.Conv2d(width, width, (1, 5), padding=(0, 2), bias=False),
            ]
        else:
            dilation = 1 if kind == REGULAR else int(kind)
            main = [nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)]
        projection = nn.Conv2d(channels, width, 1, bias=False)
        self.extension = Extension(projection, main, channels, activation, dropout)
        self.activation = activation(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.extension(x))


class DownBottleneck(nn.Module):
    """Fig. 2b, down-sampling: max-pool, zeros for the new channels; the projection is 2x2/2.

    [B, c_in, H, W] -> [B, c_out, H/2, W/2], and where the maxima of the input stood, for :class:`UpBottleneck`.
    """

    def __init__(self, c_in: int, c_out: int, dropout: float, unpool: str) -> None:
        super().__init__()
        width = c_out // 4
        self.pool = unpooling(unpool)[0]
        self.new_channels = c_out - c_in
        projection = nn.Conv2d(c_in, width, 2, stride=2, bias=False)
        main = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.extension = Extension(projection, [main], c_out, prelu, dropout)
        self.activation = prelu(c_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, where = self.pool(x)
        padded = F.pad(pooled, (0, 0, 0, 0, 0, self.new_channels))
        return self.activation(padded + self.extension(x)), where


class UpBottleneck(nn.Module):
    """Fig. 2b, up-sampling: 1x1 and un-pool in the main branch, a full convolution of 3x3 in the extension.

    [B, c_in, H, W] -> [B, c_out, 2H, 2W].
    """

    def __init__(self, c_in: int, c_out: int, dropout: float, unpool: str) -> None:
        super().__init__()
        width = c_out // 4
        self.unpool = unpooling(unpool)[1]
        self.main = nn.Sequential(nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out))
        projection = nn.Conv2d(c_in, width, 1, bias=False)
        main = nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.extension = Extension(projection, [main], c_out, relu, dropout)
        self.activation = relu(c_out)

    def forward(self, x: Tensor, where: Tensor) -> Tensor:
        return self.activation(self.unpool(self.main(x), where) + self.extension(x))


class ENet(SegmentationNetwork):
    """ENet (Table 1): 365,503 parameters at 19 classes.

    Args:
        num_classes: C.
        unpool: "indices" (``max_unpool2d``) or "one_hot" (equal results from operations that every exporter takes).

    Forward takes [B, 3, H, W] of any size from 8 x 8 and returns logits [B, C, H, W], in training mode a
    :class:`SegmentationOutput`.

    Raises:
        ValueError: if ``unpool`` is neither of the two.
    """

    def __init__(self, num_classes: int, unpool: str = "indices") -> None:
        super().__init__()
        self.initial = InitialBlock()
        self.down1 = DownBottleneck(16, 64, 0.01, unpool)
        self.stage1 = nn.Sequential(*(Bottleneck(64, REGULAR, prelu, 0.01) for _ in range(4)))
        self.down2 = DownBottleneck(64, 128, 0.1, unpool)
        self.stage2 = nn.Sequential(*(Bottleneck(128, kind, prelu, 0.1) for kind in SECTION))
        self.stage3 = nn.Sequential(*(Bottleneck(128, kind, prelu, 0.1) for kind in SECTION))
        self.up4 = UpBottleneck(128, 64, 0.1, unpool)
        self.stage4 = nn.Sequential(*(Bottleneck(64, REGULAR, relu, 0.1) for _ in range(2)))
        self.up5 = UpBottleneck(64, 16, 0.1, unpool)
        self.stage5 = Bottleneck(16, REGULAR, relu, 0.1)
        self.fullconv = nn.ConvTranspose2d(16, num_classes, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.stages = {
            "stage1": Stage(64, 4),
            "stage2": Stage(128, 8),
            "stage3": Stage(128, 8),
            "stage4": Stage(64, 4),
            "stage5": Stage(16, 2),
        }
        initialise(self)

    def segment(self, image: Tensor, balance: Balance) -> SegmentationOutput:
        height, width = image.shape[-2:]
        x = self.initial(pad_to_multiple(image, STRIDE))
        x, where1 = self.down1(x)
        x = balance("stage1", self.stage1(x))
        x, where2 = self.down2(x)
        x = balance("stage2", self.stage2(x))
        x = balance("stage3", self.stage3(x))
        x = balance("stage4", self.stage4(self.up4(x, where2)))
        x = balance("stage5", self.stage5(self.up5(x, where1)))
        return SegmentationOutput(self.fullconv(x)[..., :height, :width])
