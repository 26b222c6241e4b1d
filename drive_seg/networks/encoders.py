"""The encoders that FCN, PSPNet, DeepLabv3+, IFBFNet, DFN and SwiftNet stand on, by name."""

from __future__ import annotations

from torch import nn

from drive_seg.networks.efficientnet_lite import SCALING, EfficientNetLite
from drive_seg.networks.layers import one_of
from drive_seg.networks.resnet import ResNet
from drive_seg.networks.wider_resnet import WiderResNet38

LITE = tuple(f"efficientnet_lite{number}" for number in SCALING)
BACKBONES = ("resnet50", "resnet101", "wider_resnet38", *LITE)


def build_encoder(backbone: str, stem: str, output_stride: int) -> nn.Module:
    """An encoder with fresh weights.

    ``encoder(image, balance)`` returns the features of "res2" to "res5" by name, ``encoder.stages`` tells their
    channels and strides, ``encoder.load_pretrained(state)`` takes weights over.

    Args:
        backbone: one of :data:`BACKBONES`.
        stem: "plain" or "deep", for the ResNets; WiderResNet-38 has none to choose.
        output_stride: 8, 16 or 32; WiderResNet-38 has 8 alone.

    Raises:
        ValueError: if there is no such backbone, or not in this form.
    """
    if one_of("backbone", backbone, BACKBONES) == "wider_resnet38":
        if output_stride != 8:
            raise ValueError(f"wider_resnet38 has an output stride of 8, not {output_stride}")
        return WiderResNet38()
    if backbone in LITE:
        return EfficientNetLite(int(backbone.removeprefix("efficientnet_lite")), output_stride)
    return ResNet(int(backbone.removeprefix("resnet")), stem, output_stride)
