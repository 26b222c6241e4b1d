"""SwiftNet: M. Orsic et al., "In Defense of Pre-trained ImageNet Architectures for Real-time Semantic Segmentation of
Road-driving Images", CVPR 2019. The single-scale form (Fig. 2), on any encoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drive_seg.networks.encoders import build_encoder
from drive_seg.networks.layers import ConvBN, initialise, resize
from drive_seg.networks.network import Balance, SegmentationNetwork, SegmentationOutput, Stage

GRIDS = (8, 4, 2, 1)
"""Rows of the pyramid's regions, finest first."""


class SpatialPyramidPooling(nn.Module):
    """The paper's simplification of PSPNet's module: reduce, average over regions, fuse.

    [B, c_in, h, w] -> [B, c_out, h, w]. The averages are taken over ever coarser regions of the reduced features.
    """

    def __init__(self, c_in: int, c_out: int, width: int, level: int) -> None:
        super().__init__()
        self.reduce = ConvBN(c_in, width)
        self.levels = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), ConvBN(width, level)) for n in GRIDS)
        self.fuse = ConvBN(width + level * len(GRIDS), c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        return self.fuse(torch.cat((x, *(resize(level(x), x.shape[-2:]) for level in self.levels)), dim=1))


class Upsampling(nn.Module):
    """Bring coarse features to the size of an encoder's stage, add that stage's (1x1) and blend (3x3)."""

    def __init__(self, c_skip: int, width: int) -> None:
        super().__init__()
        self.skip = ConvBN(c_skip, width, activate=False)
        self.blend = ConvBN(width, width, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.blend(resize(x, skip.shape[-2:]) + self.skip(skip))


class SwiftNet(SegmentationNetwork):
    """An encoder trained on ImageNet, a pyramid of averages, and an upsampling path as thin as it can be.

    Args:
        num_classes: C.
        backbone: see :func:`~drive_seg.networks.encoders.build_encoder`.
        stem: "plain" or "deep", for ResNets.
        output_stride: 8, 16 or 32.
        width: channels of the upsampling path, 128 in the paper.

    Stages: "res2" to "res5", and "up4", "up3", "up2", what the upsampling path gives at the strides of res4 to res2.

    Raises:
        ValueError: if there is no such encoder.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "efficientnet_lite0",
        stem: str = "plain",
        output_stride: int = 32,
        width: int = 128,
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(backbone, stem, output_stride)
        encoded = self.encoder.stages
        self.stages = {
            **encoded,
            **{f"up{i}": Stage(width, encoded[f"res{i}"].stride) for i in (4, 3, 2)},
        }
        self.context = SpatialPyramidPooling(encoded["res5"].channels, width, width, width // len(GRIDS))
        self.up4, self.up3, self.up2 = (Upsampling(encoded[f"res{i}"].channels, width) for i in (4, 3, 2))
        self.classifier = nn.Conv2d(width, num_classes, 1)
        for part in (self.context, self.up4, self.up3, self.up2, self.classifier):
            initialise(part)

    def segment(self, image: Tensor, balance: Balance) -> SegmentationOutput:
        features = self.encoder(image, balance)
        x = self.context(features["res5"])
        x = balance("up4", self.up4(x, features["res4"]))
        x = balance("up3", self.up3(x, features["res3"]))
        x = balance("up2", self.up2(x, features["res2"]))
        return SegmentationOutput(resize(self.classifier(x), image.shape[-2:]))
