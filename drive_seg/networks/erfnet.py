"""ERFNet: E. Romera et al., "ERFNet: Efficient Residual Factorized ConvNet for Real-Time Semantic Segmentation", 2018.

In IEEE Transactions on Intelligent Transportation Systems. Where the paper is open, this file does the following:

* All convolutions have a bias, also those in front of a Batch Norm, where it has no effect in training: only so the
  count comes to 2.06 M. With the 1x1 head that the encoder bears while it is trained alone, and this network never
  has, it is the 2.07 M that later papers quote (2,064,191 and 2,451 more at 19 classes).
* In a unit, Batch Norm stands once behind each pair 3x1, 1x3, and a ReLU behind every convolution but the last.
* Dropout zeroes whole channels, as ENet's does, whose plan the paper follows: neighbours of one channel are so much
  alike that dropping them singly would change little. It is 0.03 in layers 3 to 7, 0.3 in 8 to 16, and the decoder has
  none.
* Names of stages: the layers of Table I between two changes of size, with layers 9 to 16 parted where their dilations
  start over. stage1: layers 3-7, stage2: 9-12, stage3: 13-16, stage4: 18-19, stage5: 21-22.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_seg.networks.layers import initialise, pad_to_multiple
from drive_seg.networks.network import Balance, SegmentationNetwork, SegmentationOutput, Stage

STRIDE = 8
"""The encoder's stride: inputs are padded to a multiple of it."""

DILATIONS = (2, 4, 8, 16)
"""Of layers 9 to 12, and again 13 to 16 (Table I)."""


class Downsampler(nn.Module):
    """Downsampler block: 3x3/2 convolution beside 2x2 max-pooling. [B, c_in, H, W] -> [B, c_out, H/2, W/2]."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out - c_in, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(torch.cat((self.conv(x), F.max_pool2d(x, 2)), dim=1)))


class NonBottleneck1D(nn.Module):
    """Non-bottleneck-1D unit: two 3x3 convolutions as 3x1 and 1x3 each, plus the input. Keeps the shape.

    The second pair dilates.
    """

    def __init__(self, channels: int, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, channels, (3, 1), padding=(1, 0)),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, 1)),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1)),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation)),
            nn.BatchNorm2d(channels),
            nn.Dropout2d(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.residual(x))


class Upsampler(nn.Sequential):
    """Deconvolution: transposed 3x3/2, Batch Norm, ReLU. [B, c_in, H, W] -> [B, c_out, 2H, 2W]."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        )


class ERFNet(SegmentationNetwork):
    """ERFNet (Table I): 2,064,191 parameters at 19 classes.

    Args:
        num_classes: C.

    Forward takes [B, 3, H, W] of any size from 8 x 8 and returns logits [B, C, H, W], in training mode a
    :class:`SegmentationOutput`.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.down0 = Downsampler(3, 16)
        self.down1 = Downsampler(16, 64)
        self.stage1 = nn.Sequential(*(NonBottleneck1D(64, dropout=0.03) for _ in range(5)))
        self.down2 = Downsampler(64, 128)
        self.stage2 = nn.Sequential(*(NonBottleneck1D(128, d, dropout=0.3) for d in DILATIONS))
        self.stage3 = nn.Sequential(*(NonBottleneck1D(128, d, dropout=0.3) for d in DILATIONS))
        self.up4 = Upsampler(128, 64)
        self.stage4 = nn.Sequential(*(NonBottleneck1D(64) for _ in range(2)))
        self.up5 = Upsampler(64, 16)
        self.stage5 = nn.Sequential(*(NonBottleneck1D(16) for _ in range(2)))
        self.fullconv = nn.ConvTranspose2d(16, num_classes, 2, stride=2)
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
        x = self.down1(self.down0(pad_to_multiple(image, STRIDE)))
        x = balance("stage1", self.stage1(x))
        x = balance("stage2", self.stage2(self.down2(x)))
        x = balance("stage3", self.stage3(x))
        x = balance("stage4", self.stage4(self.up4(x)))
        x = balance("stage5", self.stage5(self.up5(x)))
        return SegmentationOutput(self.fullconv(x)[..., :height, :width])
