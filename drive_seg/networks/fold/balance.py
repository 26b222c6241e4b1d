"""FBNet's feature balance in fewer steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drive_seg.networks.fbnet import FeatureBalance
from drive_seg.networks.fold.channels import Order, ordered, with_weights


class FoldedBalance(nn.Module):
    """FBNet's X + X * S_s * S_c in one step less; with the "conv" modulator one 1x1 that adds its input by itself."""

    def __init__(self, balance: FeatureBalance) -> None:
        super().__init__()
        self.modulator = balance.modulator
        if isinstance(self.modulator, nn.Conv2d):
            weight = self.modulator.weight
            identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)[:, :, None, None]
            self.modulator = with_weights(self.modulator, weight + identity, self.modulator.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        if isinstance(self.modulator, nn.Conv2d | nn.Identity):
            return self.modulator(x), None
        spatial = self.modulator.spatial_sensor(x).sigmoid()
        channel = self.modulator.channel_sensor(x.mean(dim=(2, 3))).sigmoid()[:, :, None, None]
        return torch.addcmul(x, x * spatial, channel), None


def order_balance(balance: FoldedBalance, order: Order) -> FoldedBalance:
    """The same for channels that stand in another order."""
    modulator = balance.modulator
    if isinstance(modulator, nn.Conv2d):
        balance.modulator = ordered(modulator, order, order)
    elif not isinstance(modulator, nn.Identity):
        modulator.spatial_sensor = ordered(modulator.spatial_sensor, order)
        modulator.channel_sensor = ordered(modulator.channel_sensor, order, order)
    return balance
