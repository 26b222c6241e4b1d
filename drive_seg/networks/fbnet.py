"""FBNet: L. Gan et al., "Feature Balance Network for Urban-Scene Segmentation", ICME 2022. An add-on for any network.

Where the paper is open or contradicts itself, this file does the following:

* Eq. 2 sets a block's label where the number of its pixels of a class is >= 0, which is always so, and sums over
  inclusive bounds, so that neighbouring blocks share pixels. Meant are > 0 and half-open blocks.
* The text injects FBNet into the deepest layer; the extra cost of Table 2 (+0.76 G at 1024x1024) is that of Res4 and
  Res5 together, with a spatial sensor C -> 1, a channel sensor of one fully connected layer C -> C, a 1x1 head to the
  14 foreground classes, and a fusion that costs nothing. All sensors and heads here are exactly these.
* "Fusing" X_o with X_l is hence an addition (Fig. 6), without a convolution.
* The foreground is every class but the five of footnote 1: road, sidewalk, building, sky, vegetation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_seg.networks.layers import one_of, training_only

BACKGROUND_CLASSES = 5
"""Road, sidewalk, building, sky, vegetation (footnote 1): what is not foreground."""

_VOID = 255


class DualFeatureModulator(nn.Module):
    """DFM (section 3.2, right half of Fig. 5): [B, C, H, W] features X_l -> X_o of the same shape.

    Spatial sensor, eq. 5: S_s = sigmoid(1x1 convolution to one channel). Channel sensor, eq. 6: S_c = sigmoid(fully
    connected layer on the global average). Eq. 7: X_o = X_l * S_s * S_c.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial_sensor = nn.Conv2d(channels, 1, 1)
        self.channel_sensor = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        spatial = self.spatial_sensor(x).sigmoid()  # [B, 1, H, W]
        channel = self.channel_sensor(x.mean(dim=(2, 3))).sigmoid()  # [B, C]
        return x * spatial * channel[:, :, None, None]


_MODULATORS = {
    "dual": DualFeatureModulator,
    "conv": lambda channels: nn.Conv2d(channels, channels, 1),
    "none": lambda channels: nn.Identity(),
}


class FeatureBalance(nn.Module):
    """FBNet at one stage (Fig. 5 and 6): modulate, let the block-wise head look at the result, add it to the features.

    Args:
        channels: C of the stage.
        foreground_classes: how many classes the block-wise head tells apart.
        modulator: "dual" (the paper's DFM); "conv" (a 1x1 convolution) and "none" (the head looks at the features
            themselves, which stay as they are) are the other rows of Table 4.

    Forward takes features X_l [B, C, h, w] and returns X_l + X_o (just X_l for "none"), and in training mode the logits
    [B, foreground_classes, h, w] of eq. 3, else None. The head runs and is kept in training only.

    Raises:
        ValueError: if the modulator is unknown.
    """

    def __init__(self, channels: int, foreground_classes: int, modulator: str = "dual") -> None:
        super().__init__()
        self.modulator = _MODULATORS[one_of("feature_modulator", modulator, _MODULATORS)](channels)
        self.head = training_only(nn.Conv2d(channels, foreground_classes, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        modulated = self.modulator(x)
        presence = self.head(modulated) if self.training and self.head is not None else None
        if isinstance(self.modulator, nn.Identity):
            return x, presence
        return x + modulated, presence


def assign_blocks(
    label: Tensor, foreground: Sequence[int], stride: int, size: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """The label assignment A (eq. 2): which foreground classes occur in each block of stride x stride pixels?

    Where height or width is no multiple of the stride, the last blocks cover what there is of the image. Void pixels
    (255) belong to no class.

    Args:
        label: uint8 or int64 [B, H, W], ids of classes.
        foreground: the ids whose presence is asked for, in the order of the head's channels.
        stride: side of a block in pixels.
        size: (h, w) of the features, if they reach beyond the image (padded inputs); ceil(H / stride) x
            ceil(W / stride) otherwise.

    Returns:
        the multi-hot Y' bool [B, len(foreground), h, w], and bool [B, h, w]: does the block hold any pixel that
        carries a label at all? Where it does not, nothing is known and a loss should look away.
    """
    height, width = label.shape[-2:]
    h, w = size if size is not None else (-(-height // stride), -(-width // stride))
    padded = F.pad(label, (0, w * stride - width, 0, h * stride - height), value=_VOID)
    blocks = padded.unflatten(2, (w, stride)).unflatten(1, (h, stride))  # [B, h, stride, w, stride]
    presence = torch.stack([(blocks == i).any(4).any(2) for i in foreground], dim=1)
    return presence, (blocks != _VOID).any(4).any(2)
