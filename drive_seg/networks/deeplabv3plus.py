"""DeepLabv3+: L.-C. Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drive_seg.networks.aspp import ASPP
from drive_seg.networks.encoders import build_encoder
from drive_seg.networks.layers import ConvBN, initialise, resize
from drive_seg.networks.network import Balance, SegmentationNetwork, SegmentationOutput, Stage

WIDTH = 256
LOW_LEVEL_WIDTH = 48

RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}
"""ASPP's dilations by output stride: they reach equally far in pixels of the image."""


class DeepLabV3Plus(SegmentationNetwork):
    """DeepLabv3+ (Fig. 2): ASPP over res5, brought to the size of res2 and laid beside it, then two 3x3.

    FBNet's Table 2 has 760.44 G for it at 1024x1024. That is the form with plain (not separable) 3x3 convolutions,
    and without Batch Norm and ReLU behind the two 1x1 that reduce ASPP and res2; the last 1x1 has no bias.

    Args:
        num_classes: C.
        backbone: see :func:`~drive_seg.networks.encoders.build_encoder`.
        stem: "plain" or "deep".
        output_stride: 8, 16 or 32.

    In training ASPP's global average needs two images or more per batch.

    Stages: "res2" to "res5", "aspp" (reduced to 256 channels) and "decoder" (stride 4).

    Raises:
        ValueError: if there is no such encoder.
    """

    def __init__(
        self, num_classes: int, backbone: str = "resnet50", stem: str = "deep", output_stride: int = 8
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(backbone, stem, output_stride)
        low, high = self.encoder.stages["res2"], self.encoder.stages["res5"]
        self.stages = {
            **self.encoder.stages,
            "aspp": Stage(WIDTH, high.stride),
            "decoder": Stage(WIDTH, low.stride),
        }
        self.aspp = ASPP(high.channels, WIDTH, RATES[output_stride])
        self.reduce = nn.Conv2d(self.aspp.channels, WIDTH, 1, bias=False)
        self.reduce_low = nn.Conv2d(low.channels, LOW_LEVEL_WIDTH, 1, bias=False)
        self.decoder = nn.Sequential(ConvBN(WIDTH + LOW_LEVEL_WIDTH, WIDTH, 3), ConvBN(WIDTH, WIDTH, 3))
        self.classifier = nn.Conv2d(WIDTH, num_classes, 1, bias=False)
        for part in (self.aspp, self.reduce, self.reduce_low, self.decoder, self.classifier):
            initialise(part)

    def segment(self, image: Tensor, balance: Balance) -> SegmentationOutput:
        features = self.encoder(image, balance)
        high = balance("aspp", self.reduce(self.aspp(features["res5"])))
        low = self.reduce_low(features["res2"])
        x = torch.cat((low, resize(high, low.shape[-2:])), dim=1)
        x = balance("decoder", self.decoder(x))
        return SegmentationOutput(resize(self.classifier(x), image.shape[-2:]))
