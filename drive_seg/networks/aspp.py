"""Atrous spatial pyramid pooling: L.-C. Chen et al., "Rethinking Atrous Convolution", 2017 (DeepLabv3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from drive_seg.networks.layers import ConvBN, resize


class ASPP(nn.Module):
    """Parallel views of the features, laid side by side; what reduces them afterwards is the host's.

    In order: a 1x1, a 3x3 dilated by each rate, and the global average through a 1x1 and brought back to the size of
    the features. Each has Batch Norm and ReLU. In training the global average needs two images or more per batch, as
    its Batch Norm sees one value per image.

    Forward: [B, c_in, H, W] -> [B, self.channels, H, W] with ``channels`` = number of branches * c_out.

    Args:
        c_in: channels of the features.
        c_out: channels of each branch.
        rates: dilations of the 3x3 branches.
        pointwise: have the 1x1 branch.
        image_pooling: have the branch of the global average.
    """

    def __init__(
        self, c_in: int, c_out: int, rates: Sequence[int], pointwise: bool = True, image_pooling: bool = True
    ) -> None:
        super().__init__()
        views = [ConvBN(c_in, c_out)] if pointwise else []
        views += [ConvBN(c_in, c_out, 3, dilation=rate) for rate in rates]
        self.branches = nn.ModuleList(views)
        self.image_pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvBN(c_in, c_out)) if image_pooling else None
        self.channels = (len(views) + image_pooling) * c_out

    def forward(self, x: Tensor) -> Tensor:
        views = [branch(x) for branch in self.branches]
        if self.image_pooling is not None:
            views.append(resize(self.image_pooling(x), x.shape[-2:]))
        return torch.cat(views, dim=1)
