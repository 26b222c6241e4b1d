"""DSNet: W. Wang et al., "Real-Time Driving Scene Semantic Segmentation", IEEE Access 2020 (not the DSNet of 2024).

Where the paper's figure, its text and its authors' published code disagree, this file does the following:

* Activations are Batch Norm (scale and shift) and ReLU everywhere, as the caption of Fig. 3 says; the authors' code has
  PReLU in the encoder and Batch Norm without scale.
* Init unit: the 13 convolution channels and the 3 pooled image channels are joined first, then share one Batch Norm and
  ReLU. This is the reading that gives the count of 910,447 parameters (0.91 M in Table 5) at 19 classes.
* Down unit: the left branch max-pools the unit's INPUT and then applies 1x1 (text, authors' code). The pooling indices
  thus have 16 and 64 channels, which are the widths of the Up units that use them.
* Up unit: the left branch applies 1x1 to the output width and then un-pools. Fig. 3 draws the un-pooling first, which
  cannot work: the indices have fewer channels than the input. A ReLU follows the addition (authors' code).
* Channel shuffle has 2 groups, one per branch, as ShuffleNet V2, which the paper builds on; the authors' code has 4.
* Semantic Encoding: eq. 6 has exp(-s r^2) with s > 0 drawn from U(0, 1); the authors' code negates it twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_seg.networks import dsnet_ablations as ablations
from drive_seg.networks.layers import (
    ConvBN,
    PyramidPooling,
    TransposedConvBN,
    channel_shuffle,
    initialise,
    one_of,
    pad_to_multiple,
    training_only,
    unpooling,
)
from drive_seg.networks.network import Balance, SegmentationNetwork, SegmentationOutput, Stage

STRIDE = 8
"""The encoder's stride: inputs are padded to a multiple of it."""

HDC = ((1, 2, 5, 9), (2, 5, 9, 17))
"""Dilations of the Basic units 2.x and 3.x, repeated (Table 3)."""

POWER = ((2, 4, 8, 16), (2, 4, 8, 16))
"""DeepLab v3's scheme, the row DILA of Table 5."""

SIZES = ("0.5", "1.0", "1.5", "2.0")


def schedule(size: str, unit: str, dilation: str) -> tuple[tuple[int, ...], ...]:
    """The dilations of stages 1, 2 and 3, one per Basic unit.

    DSNet 1.0 has 4, 8 and 8 units (Table 3). DSNet 0.5 has 2, 5, 9, 5, 9, 17 at 128 channels (section III.A). 1.5 and
    2.0 have 10 units more each; the paper does not say where, here both stages go on with their rates. DW and ENET have
    4, 9 and 9 more than DSNet 1.0, ADD and MBV2 only 2 units and 4 of 2, 5, 9, 17 (section IV.C).
    """
    second, third = HDC if dilation == "hdc" else POWER
    if unit in ("add", "mobilenetv2"):
        return (1,) * 2, third, ()
    if unit in ("depthwise", "enet"):
        return (1,) * 8, _repeated(second, 17), _repeated(third, 17)
    if size == "0.5":
        return (1,) * 4, third[:3], third[1:]
    units = {"1.0": 8, "1.5": 13, "2.0": 18}[size]
    return (1,) * 4, _repeated(second, units), _repeated(third, units)


def _repeated(rates: tuple[int, ...], length: int) -> tuple[int, ...]:
    return tuple(islice(cycle(rates), length))


class InitUnit(nn.Module):
    """Fig. 3a: 3x3/2 convolution beside 2x2 max-pooling of the image. [B, 3, H, W] -> [B, 16, H/2, W/2]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 13, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(torch.cat((self.conv(x), F.max_pool2d(x, 2)), dim=1)))


class BasicUnit(nn.Module):
    """Fig. 3b: split, 1x1 - 3x3 dilated - 1x1 on the right half, concatenate, shuffle. Keeps the shape.

    Half of the channels pass through untouched: the feature reuse that the paper compares to DenseNet. Without the
    shuffle (NOSF in Table 5) it is the same half in every unit.
    """

    def __init__(self, channels: int, dilation: int, shuffle: bool = True) -> None:
        super().__init__()
        half = channels // 2
        self.groups = 2 if shuffle else 1
        self.right = nn.Sequential(ConvBN(half, half), ConvBN(half, half, 3, dilation=dilation), ConvBN(half, half))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat((left, self.right(right)), dim=1), self.groups)


class DownUnit(nn.Module):
    """Fig. 3c: max-pool and 1x1 beside 1x1 - 3x3/2 - 1x1. [B, c_in, H, W] -> [B, c_out, H/2, W/2].

    Returns also where the maxima of the input stood, for the matching :class:`UpUnit`.
    """

    def __init__(self, c_in: int, c_out: int, unpool: str, shuffle: bool = True) -> None:
        super().__init__()
        half = c_out // 2
        self.groups = 2 if shuffle else 1
        self.pool = unpooling(unpool)[0]
        self.left = ConvBN(c_in, half)
        self.right = nn.Sequential(ConvBN(c_in, half), ConvBN(half, half, 3, stride=2), ConvBN(half, half))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, where = self.pool(x)
        return channel_shuffle(torch.cat((self.left(pooled), self.right(x)), dim=1), self.groups), where


class UpUnit(nn.Module):
    """Fig. 3d: 1x1 and un-pool beside 1x1 - transposed 3x3/2 - 1x1, added. [B, c_in, H, W] -> [B, c_out, 2H, 2W]."""

    def __init__(self, c_in: int, c_out: int, unpool: str) -> None:
        super().__init__()
        self.unpool = unpooling(unpool)[1]
        self.left = ConvBN(c_in, c_out)
        self.right = nn.Sequential(ConvBN(c_in, c_out), TransposedConvBN(c_out, c_out), ConvBN(c_out, c_out))

    def forward(self, x: Tensor, where: Tensor) -> Tensor:
        return F.relu(self.unpool(self.left(x), where) + self.right(x))


class SemanticEncoding(nn.Module):
    """The branch behind the Semantic Encoding Loss (eq. 6): which classes does the image hold?

    Residuals of all features to 32 learnt codewords are summed with soft-assignment weights; Batch Norm and ReLU (phi),
    the sum over codewords and one fully connected layer give a logit per class.

    Args of forward: [B, D, H, W] features. Returns: [B, num_classes] logits.
    """

    def __init__(self, channels: int, num_classes: int, codewords: int = 32) -> None:
        super().__init__()
        bound = (codewords * channels) ** -0.5
        self.codewords = nn.Parameter(torch.empty(codewords, channels).uniform_(-bound, bound))
        self.smoothing = nn.Parameter(torch.empty(codewords).uniform_(0, 1))
        self.bn = nn.BatchNorm1d(channels)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        # In half precision the sums over thousands of positions would lose the small classes.
        with torch.autocast(features.device.type, enabled=False):
            x = features.float().flatten(2).transpose(1, 2)  # [B, N, D]
            words = self.codewords.float()
            # |x - d|^2 expanded, so that no [B, N, K, D] tensor is made
            distance = x.square().sum(-1, keepdim=True) - 2 * x @ words.T + words.square().sum(-1)  # [B, N, K]
            weight = (-self.smoothing.float() * distance).softmax(-1)
            encoded = weight.transpose(1, 2) @ x - weight.sum(1).unsqueeze(-1) * words  # [B, K, D]
            encoded = F.relu(self.bn(encoded.transpose(1, 2))).sum(-1)  # [B, D]
            return self.fc(encoded)


UNITS: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "dsnet": (BasicUnit, DownUnit),
    "add": (ablations.AddUnit, ablations.AddDownUnit),
    "depthwise": (ablations.DepthwiseUnit, ablations.DepthwiseDownUnit),
    "mobilenetv2": (ablations.inverted_residual, ablations.InvertedResidualDownUnit),
    "enet": (ablations.ENetUnit, DownUnit),
}
"""Basic and Down unit by the option ``unit``: the paper's own; ADD, DW, MBV2, ENET of Table 5."""


class DSNet(SegmentationNetwork):
    """DSNet (Table 3): 910,447 parameters at 19 classes without the training-only branch.

    The options are the rows of Tables 2 and 5; parameters are given at 19 classes.

    Args:
        num_classes: C.
        size: "0.5", "1.0", "1.5" or "2.0" (Table 2): 456,047, 910,447, 1,364,847, 1,819,247 parameters. The table
            prints 4.5, 9.1, 13.6 and 18.1 K, and means hundreds of thousands.
        unit: "dsnet"; "add" (ADD, 1,152,159), "depthwise" (DW, 875,159, printed 0.89 M), "mobilenetv2" (MBV2,
            1,146,783, printed 1.17 M), "enet" (ENET, 771,519, printed 0.95 M). All Basic units are then of that kind,
            those of the decoder too; so are the Down units of ADD, DW and MBV2.
        shuffle: shuffle the channels in Basic and Down units; False is NOSF.
        init: "pool" (Fig. 3a) or "conv", a 3x3/2 convolution alone: INIT, 910,528.
        pyramid_pooling: PSPNet's module at the end of the encoder and 3x3 back to 128 channels: PSP, 1,222,255.
        skips: add the encoder's features to the decoder's of the same size: SKIP. Table 5 counts no parameters for it.
        dilation: "hdc" (1-2-5-9, then 2-5-9-17) or "power" (2-4-8-16 in both stages): DILA.
        semantic_encoding: attach the branch of the Semantic Encoding Loss. It runs in training mode only, so it costs
            nothing at inference; a checkpoint for the vehicle leaves it out.
        unpool: "indices" (``max_unpool2d``) or "one_hot" (equal results from operations that every exporter takes).

    Takes images from 8 x 8 pixels.

    Raises:
        ValueError: if an option has none of its values, or ``size`` or ``shuffle`` is chosen for another unit.
    """

    def __init__(
        self,
        num_classes: int,
        size: str = "1.0",
        unit: str = "dsnet",
        shuffle: bool = True,
        init: str = "pool",
        pyramid_pooling: bool = False,
        skips: bool = False,
        dilation: str = "hdc",
        semantic_encoding: bool = True,
        unpool: str = "indices",
    ) -> None:
        super().__init__()
        one_of("size", size, SIZES)
        one_of("unit", unit, UNITS)
        one_of("init", init, ("pool", "conv"))
        one_of("dilation", dilation, ("hdc", "power"))
        basic, down = UNITS[unit]
        if unit != "dsnet" and (size != "1.0" or not shuffle):
            raise ValueError(f"the options size and shuffle are for the unit 'dsnet', not for '{unit}'")
        if not shuffle:
            basic, down = partial(basic, shuffle=False), partial(down, shuffle=False)
        rates1, rates2, rates3 = schedule(size, unit, dilation)

        self.init = InitUnit() if init == "pool" else ConvBN(3, 16, 3, stride=2)
        self.down1 = down(16, 64, unpool)
        self.stage1 = nn.Sequential(*(basic(64, rate) for rate in rates1))
        self.down2 = down(64, 128, unpool)
        self.stage2 = nn.Sequential(*(basic(128, rate) for rate in rates2))
        self.stage3 = nn.Sequential(*(basic(128, rate) for rate in rates3))
        self.pyramid_pooling = (
            nn.Sequential(PyramidPooling(128, 32), ConvBN(256, 128, 3)) if pyramid_pooling else nn.Identity()
        )
        self.up4 = UpUnit(128, 64, unpool)
        self.stage4 = basic(64, 1)
        self.up5 = UpUnit(64, 16, unpool)
        self.stage5 = basic(16, 1)
        self.fullconv = nn.ConvTranspose2d(16, num_classes, 2, stride=2, bias=False)
        self.semantic_encoding = training_only(SemanticEncoding(128, num_classes)) if semantic_encoding else None
        self.skips = skips
        self.stages = {
            "stage1": Stage(64, 4),
            "stage2": Stage(128, 8),
            **({"stage3": Stage(128, 8)} if rates3 else {}),
            "stage4": Stage(64, 4),
            "stage5": Stage(16, 2),
        }
        initialise(self)

    def segment(self, image: Tensor, balance: Balance) -> SegmentationOutput:
        height, width = image.shape[-2:]
        first = self.init(pad_to_multiple(image, STRIDE))
        x, where1 = self.down1(first)
        low = balance("stage1", self.stage1(x))
        x, where2 = self.down2(low)
        x = balance("stage2", self.stage2(x))
        x = balance("stage3", self.stage3(x))
        encoded = self.pyramid_pooling(x)
        x = self.up4(encoded, where2)
        x = balance("stage4", self.stage4(x + low if self.skips else x))
        x = self.up5(x, where1)
        x = balance("stage5", self.stage5(x + first if self.skips else x))
        logits = self.fullconv(x)[..., :height, :width]
        if self.training and self.semantic_encoding is not None:
            return SegmentationOutput(logits, semantic_presence=self.semantic_encoding(encoded))
        return SegmentationOutput(logits)
