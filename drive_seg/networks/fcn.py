"""Dilated FCN: a dilated encoder and a small head. FBNet's baseline (its Tables 1, 3 and 4).

After J. Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, and F. Yu et al., "Dilated
Residual Networks", CVPR 2017.
"""

from __future__ import annotations

from torch import Tensor, nn

from drive_seg.networks.encoders import build_encoder
from drive_seg.networks.layers import ConvBN, initialise, resize, training_only
from drive_seg.networks.network import Balance, SegmentationNetwork, SegmentationOutput

DROPOUT = 0.1


class FCNHead(nn.Sequential):
    """3x3 to ``width`` channels, dropout of whole channels, 1x1: [B, c_in, h, w] -> logits [B, num_classes, h, w]."""

    def __init__(self, c_in: int, width: int, num_classes: int) -> None:
        super().__init__(
            ConvBN(c_in, width, 3),
            nn.Dropout2d(DROPOUT),
            nn.Conv2d(width, num_classes, 1),
        )
        initialise(self)


class FCN(SegmentationNetwork):
    """Dilated FCN.

    FBNet's text names the baseline and shows no head. This one is what the literature on context modules compares
    with, a quarter of the encoder's channels behind one 3x3: the PSPNet of :mod:`~drive_seg.networks.pspnet` without
    its pyramid. A bare 1x1 would classify on features that no layer has adapted to the task.

    Args:
        num_classes: C.
        backbone: see :func:`~drive_seg.networks.encoders.build_encoder`.
        stem: "plain" or "deep".
        output_stride: 8, 16 or 32.
        auxiliary: in training, predict from res4 as well (``aux_logits``), as PSPNet does.

    Stages: "res2" to "res5", those of FBNet's Table 3.

    Raises:
        ValueError: if there is no such encoder.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        stem: str = "deep",
        output_stride: int = 8,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(backbone, stem, output_stride)
        self.stages = self.encoder.stages
        c_in = self.stages["res5"].channels
        self.head = FCNHead(c_in, c_in // 4, num_classes)
        c_in = self.stages["res4"].channels
        self.auxiliary = training_only(FCNHead(c_in, c_in // 4, num_classes)) if auxiliary else None

    def segment(self, image: Tensor, balance: Balance) -> SegmentationOutput:
        size = image.shape[-2:]
        features = self.encoder(image, balance)
        logits = resize(self.head(features["res5"]), size)
        if not self.training or self.auxiliary is None:
            return SegmentationOutput(logits)
        return SegmentationOutput(logits, aux_logits=resize(self.auxiliary(features["res4"]), size))
