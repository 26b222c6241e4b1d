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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_seg.networks.layers import (
    ConvBN,
    SegmentationOutput,
    TransposedConvBN,
    channel_shuffle,
    max_pool_one_hot,
    max_unpool_one_hot,
    pad_to_multiple,
)

STRIDE = 8
"""The encoder's stride: inputs are padded to a multiple of it."""

STAGE1 = (1, 1, 1, 1)
STAGE2 = (1, 2, 5, 9, 1, 2, 5, 9)
STAGE3 = (2, 5, 9, 17, 2, 5, 9, 17)
"""Dilations of the Basic units of each stage (Table 3)."""


def _pool_indices(x: Tensor) -> tuple[Tensor, Tensor]:
    return F.max_pool2d(x, 2, return_indices=True)


def _unpool_indices(x: Tensor, where: Tensor) -> Tensor:
    return F.max_unpool2d(x, where, 2)


_UNPOOLING: dict[str, tuple[Callable, Callable]] = {
    "indices": (_pool_indices, _unpool_indices),
    "one_hot": (max_pool_one_hot, max_unpool_one_hot),
}


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

    Half of the channels pass through untouched: the feature reuse that the paper compares to DenseNet.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        half = channels // 2
        self.right = nn.Sequential(ConvBN(half, half), ConvBN(half, half, 3, dilation=dilation), ConvBN(half, half))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat((left, self.right(right)), dim=1), 2)


class DownUnit(nn.Module):
    """Fig. 3c: max-pool and 1x1 beside 1x1 - 3x3/2 - 1x1. [B, c_in, H, W] -> [B, c_out, H/2, W/2].

    Returns also where the maxima of the input stood, for the matching :class:`UpUnit`.
    """

    def __init__(self, c_in: int, c_out: int, unpool: str) -> None:
        super().__init__()
        half = c_out // 2
        self.pool = _UNPOOLING[unpool][0]
        self.left = ConvBN(c_in, half)
        self.right = nn.Sequential(ConvBN(c_in, half), ConvBN(half, half, 3, stride=2), ConvBN(half, half))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, where = self.pool(x)
        return channel_shuffle(torch.cat((self.left(pooled), self.right(x)), dim=1), 2), where


class UpUnit(nn.Module):
    """Fig. 3d: 1x1 and un-pool beside 1x1 - transposed 3x3/2 - 1x1, added. [B, c_in, H, W] -> [B, c_out, 2H, 2W]."""

    def __init__(self, c_in: int, c_out: int, unpool: str) -> None:
        super().__init__()
        self.unpool = _UNPOOLING[unpool][1]
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


class DSNet(nn.Module):
    """DSNet 1.0 (Table 3): 910,447 parameters at 19 classes without the training-only branch.

    Args:
        num_classes: C.
        semantic_encoding: attach the branch of the Semantic Encoding Loss. It runs in training mode only, so it costs
            nothing at inference; a checkpoint for the vehicle leaves it out.
        unpool: "indices" (``max_unpool2d``) or "one_hot" (equal results from operations that every exporter takes).

    Forward takes [B, 3, H, W] of any size from 8 x 8 and returns logits [B, C, H, W], in training mode a
    :class:`SegmentationOutput`.

    Raises:
        ValueError: if ``unpool`` is neither of the two.
    """

    training_only = ("semantic_encoding",)
    """Options (and prefixes of parameter names) that a checkpoint for inference leaves out."""

    def __init__(self, num_classes: int, semantic_encoding: bool = True, unpool: str = "indices") -> None:
        super().__init__()
        if unpool not in _UNPOOLING:
            raise ValueError(f"unpool '{unpool}' is not one of {', '.join(_UNPOOLING)}")
        self.init = InitUnit()
        self.down1 = DownUnit(16, 64, unpool)
        self.stage1 = nn.Sequential(*(BasicUnit(64, d) for d in STAGE1))
        self.down2 = DownUnit(64, 128, unpool)
        self.stage2 = nn.Sequential(*(BasicUnit(128, d) for d in STAGE2))
        self.stage3 = nn.Sequential(*(BasicUnit(128, d) for d in STAGE3))
        self.up4 = UpUnit(128, 64, unpool)
        self.stage4 = BasicUnit(64, 1)
        self.up5 = UpUnit(64, 16, unpool)
        self.stage5 = BasicUnit(16, 1)
        self.fullconv = nn.ConvTranspose2d(16, num_classes, 2, stride=2, bias=False)
        self.semantic_encoding = SemanticEncoding(128, num_classes) if semantic_encoding else None
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor | SegmentationOutput:
        height, width = image.shape[-2:]
        x = self.init(pad_to_multiple(image, STRIDE))
        x, where1 = self.down1(x)
        x, where2 = self.down2(self.stage1(x))
        encoded = self.stage3(self.stage2(x))
        x = self.stage4(self.up4(encoded, where2))
        x = self.stage5(self.up5(x, where1))
        logits = self.fullconv(x)[..., :height, :width]
        if not self.training:
            return logits
        presence = None if self.semantic_encoding is None else self.semantic_encoding(encoded)
        return SegmentationOutput(logits, semantic_presence=presence)
