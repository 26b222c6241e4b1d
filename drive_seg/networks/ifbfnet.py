"""IFBFNet: D. Li et al., "Inter-Level Feature Balanced Fusion Network for Street Scene Segmentation", Sensors 2021.

Where the text is open or contradicts itself, this file does the following:

* Reduction from 2048 to 256 channels: section 3.1 has it before ASPP and says why (to spare ASPP computations). Section
  4.3.1 has a 1x1 to 256 behind ASPP's branches too. Both exist, as the first acts on what comes in and the second on
  the branches side by side. All rows of Table 2 have the first, so that a row differs from the next by what it names.
* ASPP has the four branches that section 4.3.1 counts: 3x3 at rates 6, 12 and 18, and the global average. DeepLab's
  1x1 branch is not named.
* Two 3x3 to 256: section 3.1 puts them between concatenation and balanced fusion. Eqs. 2 to 4 and Fig. 3 weigh the
  concatenation itself, where alone W_h and W_l have one weight per channel of each level, and convolve after. So the
  order is concatenation - balance - two 3x3.
* 256 or 384 channels at the end: section 3.1 takes the 256 + 128 channels to 256 with a 1x1, then balances, and then
  reduces "from 384 to 128". With that 1x1 no 384 channels were left, and the second fusion could not tell its levels
  apart. So it is left out: concatenation to 384 - balance - 1x1 to 128 - 1x1 to the classes.
* The two last 1x1 would be one linear map without something between them: Batch Norm and ReLU follow the first, as they
  follow every other convolution except those that give weights or logits.
* Eq. 2 is sigmoid(average); the text has a 1x1 convolution between the two. Without it the module had nothing to learn,
  so it is there, with a bias, and sees both levels at once ("the correlation between the two features").
* "Residual" (Fig. 3) is an addition of the unweighted features: Z = W * X + X.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drive_seg.networks.aspp import ASPP
from drive_seg.networks.encoders import build_encoder
from drive_seg.networks.layers import ConvBN, initialise, resize, training_only
from drive_seg.networks.network import Balance, SegmentationNetwork, SegmentationOutput, Stage

CHANNELS = 256
"""Width of the semantic features, from the reduction to the second fusion."""

SKIP_CHANNELS = 64
"""Width to which the low-level features S1 are reduced before the fusion."""

ASPP_RATES = (6, 12, 18)


class InterLevelBalancedFusion(nn.Module):
    """Section 3.2, Fig. 3: weigh every channel of two levels by what both hold, and add the features themselves.

    W = W_h beside W_l = sigmoid(1x1(global average of X)) for X = high beside low (eq. 2); Z = W * X (eq. 3) + X.
    Convolving Z (eq. 4) is what follows this module.

    Args of forward: ``high`` [B, C_h, H, W], ``low`` [B, C_l, H, W]. Returns Z, [B, C_h + C_l, H, W].
    """

    def __init__(self, high_channels: int, low_channels: int) -> None:
        super().__init__()
        channels = high_channels + low_channels
        self.weights = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Sigmoid())

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        features = torch.cat((high, low), dim=1)
        return self.weights(features.mean(dim=(2, 3), keepdim=True)) * features + features


class Concatenation(nn.Module):
    """The ordinary fusion (eq. 1), for the rows of Table 2 without the balanced one."""

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        return torch.cat((high, low), dim=1)


class SpatialStream(nn.Sequential):
    """Section 3.3, Fig. 4: 7x7/2, 3x3/2, 1x1. The image [B, 3, H, W] -> [B, c_out, ceil(H/4), ceil(W/4)]."""

    def __init__(self, c_out: int, width: int = 64) -> None:
        super().__init__(ConvBN(3, width, 7, stride=2), ConvBN(width, width, 3, stride=2), ConvBN(width, c_out))


class AuxiliaryHead(nn.Sequential):
    """Section 3.4: S1's features to logits by 3x3 to 64 channels and 1x1."""

    def __init__(self, c_in: int, num_classes: int) -> None:
        super().__init__(ConvBN(c_in, 64, 3), nn.Conv2d(64, num_classes, 1))


class IFBFNet(SegmentationNetwork):
    """Inter-Level Feature Balanced Fusion Network (Fig. 2).

    The rows of Table 2 are ``aspp``, ``skip``, ``balanced_fusion`` and ``spatial_stream`` turned on in turn, on
    either ResNet; Table 3 is ``spatial_channels`` of 16, 32, 48, 64, 128, 256.

    Args:
        num_classes: C.
        backbone: see :func:`~drive_seg.networks.encoders.build_encoder`, as ``stem`` and ``output_stride``. At stride
            16 the last two stages have strides (2, 1) and dilations (1, 2).
        aspp: ASPP on the reduced features.
        skip: fuse the upsampled features with those of S1 (our "res2").
        balanced_fusion: weigh the levels of both fusions; they are concatenated otherwise.
        spatial_stream: fuse with a shallow stream of the image.
        spatial_channels: what that stream gives.
        auxiliary: ``aux_logits`` out of S1. In training only.

    Stages are the encoder's, then "aspp", "fusion1" (S1 fused in, after the two 3x3) and "fusion2" (the spatial stream
    fused in), as far as they are built.

    In training mode ASPP's global average is normalised over the batch alone, which takes two images or more.

    Raises:
        ValueError: if the balanced fusion has nothing to fuse, or a value is out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet101",
        stem: str = "plain",
        output_stride: int = 16,
        aspp: bool = True,
        skip: bool = True,
        balanced_fusion: bool = True,
        spatial_stream: bool = True,
        spatial_channels: int = 128,
        auxiliary: bool = True,
    ) -> None:
        super().__init__()
        if balanced_fusion and not (skip or spatial_stream):
            raise ValueError("balanced_fusion has no two levels to fuse: turn on skip or spatial_stream, or it off")
        if spatial_channels < 1:
            raise ValueError(f"spatial_channels {spatial_channels} is not 1 or more")
        self.encoder = build_encoder(backbone, stem, output_stride)
        encoded = self.encoder.stages
        self.stages = dict(encoded)
        self.reduce = ConvBN(encoded["res5"].channels, CHANNELS)
        self.aspp: nn.Module | None = None
        if aspp:
            views = ASPP(CHANNELS, CHANNELS, ASPP_RATES, pointwise=False)
            self.aspp = nn.Sequential(views, ConvBN(views.channels, CHANNELS))
            self.stages["aspp"] = Stage(CHANNELS, encoded["res5"].stride)

        def fusion(low_channels: int) -> nn.Module:
            return InterLevelBalancedFusion(CHANNELS, low_channels) if balanced_fusion else Concatenation()

        self.skip: nn.Module | None = None
        if skip:
            self.skip = ConvBN(encoded["res2"].channels, SKIP_CHANNELS, 3)
            self.fusion1 = fusion(SKIP_CHANNELS)
            self.refine = nn.Sequential(ConvBN(CHANNELS + SKIP_CHANNELS, CHANNELS, 3), ConvBN(CHANNELS, CHANNELS, 3))
            self.stages["fusion1"] = Stage(CHANNELS, encoded["res2"].stride)
        fused = CHANNELS
        self.spatial_stream: nn.Module | None = None
        if spatial_stream:
            fused += spatial_channels
            self.spatial_stream = SpatialStream(spatial_channels)
            self.fusion2 = fusion(spatial_channels)
            self.stages["fusion2"] = Stage(fused, 4)
        self.head = nn.Sequential(ConvBN(fused, 128), nn.Conv2d(128, num_classes, 1))
        self.auxiliary = training_only(AuxiliaryHead(encoded["res2"].channels, num_classes)) if auxiliary else None
        initialise(self)

    def segment(self, image: Tensor, balance: Balance) -> SegmentationOutput:
        size = image.shape[-2:]
        features = self.encoder(image, balance)
        x = self.reduce(features["res5"])
        if self.aspp is not None:
            x = balance("aspp", self.aspp(x))
        if self.skip is not None:
            low = self.skip(features["res2"])
            x = self.fusion1(_resize_like(x, low), low)
            x = balance("fusion1", self.refine(x))
        if self.spatial_stream is not None:
            low = self.spatial_stream(image)
            x = balance("fusion2", self.fusion2(_resize_like(x, low), low))
        output = SegmentationOutput(resize(self.head(x), size))
        if self.training and self.auxiliary is not None:
            output = output._replace(aux_logits=resize(self.auxiliary(features["res2"]), size))
        return output


def _resize_like(x: Tensor, other: Tensor) -> Tensor:
    # Exporters keep a resizing to the same size as an operation of its own.
    return x if x.shape[-2:] == other.shape[-2:] else resize(x, other.shape[-2:])
