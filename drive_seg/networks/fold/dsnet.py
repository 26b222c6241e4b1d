"""DSNet without splits, shuffles and concatenations: they are in the order of the channels of its weights.

A Basic unit rewrites half of its channels, and the shuffle decides which half. So every
channel that a unit writes is read exactly once: by one later unit, or as a part of the stage's result. A folded stage
keeps what its units wrote, in the order in which it will be read, and each unit takes its input as a few slices of
that. Half of the channels are copied once per unit, where concatenation and shuffle copied all of them twice. The order
of the result is left to the stage, too: whoever reads it has its weights ordered alike.

Not done, for want of a clear gain: the whole tensor read by a 1x1 with zeros for the half that stays (slower in ONNX
Runtime), one 1x1 for the two branches of an Up unit, transposed convolutions as convolutions with a pixel shuffle.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from drive_seg.networks import dsnet
from drive_seg.networks.fold.balance import order_balance
from drive_seg.networks.fold.channels import ChannelPlan, Order, gather, join, ordered, plan, shuffled
from drive_seg.networks.layers import pad_to_multiple


class FoldedStage(nn.Module):
    """A chain of Basic units without split, concatenation and shuffle: sources [B, C_i, H, W] -> [B, C, H, W]."""

    def __init__(self, units: Sequence[dsnet.BasicUnit], planned: ChannelPlan) -> None:
        super().__init__()
        self.slices = planned.slices
        self.join = join
        self.units = nn.ModuleList()
        inputs = len(planned.writes) - len(units)
        for unit, reads, writes in zip(units, planned.reads, planned.writes[inputs:], strict=False):
            self.units.append(branch(unit.right, reads, writes))

    def forward(self, *sources: Tensor) -> Tensor:
        there = list(sources)
        for unit, slices in zip(self.units, self.slices, strict=False):
            there.append(unit(gather(there, slices, self.join)))
        return gather(there, self.slices[-1], self.join)


def branch(right: nn.Sequential, reads: Order | None, writes: Order | None) -> nn.Sequential:
    """A unit's convolutions with their ReLUs; the first reads, and the last writes, channels in another order."""
    layers = [layer for part in right for layer in part]
    layers[0] = ordered(layers[0], reads, None)
    layers[-2] = ordered(layers[-2], None, writes)
    return nn.Sequential(*layers)


class FoldedDownUnit(nn.Module):
    """A Down unit that hands on its branches as they are: [B, c_in, H, W] -> (left, right), where the maxima stood."""

    def __init__(self, unit: dsnet.DownUnit, reads: Order, writes: Sequence[Order]) -> None:
        super().__init__()
        self.pool = unit.pool
        self.left = branch(nn.Sequential(unit.left), reads, None)
        self.left[0] = ordered(self.left[0], None, writes[0])
        self.right = branch(unit.right, reads, writes[1])

    def forward(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        pooled, where = self.pool(x)
        return (self.left(pooled), self.right(x)), where


class FoldedUpUnit(nn.Module):
    """An Up unit. The last ReLU is gone: both branches end in one, so their sum is not negative."""

    def __init__(self, unit: dsnet.UpUnit, reads: Order | None = None, writes: Order | None = None) -> None:
        super().__init__()
        self.unpool = unit.unpool
        self.left = branch(nn.Sequential(unit.left), reads, None)
        self.left[0] = ordered(self.left[0], None, writes)
        self.right = branch(unit.right, reads, writes)

    def forward(self, x: Tensor, where: Tensor) -> Tensor:
        return self.unpool(self.left(x), where) + self.right(x)


class FoldedDSNet(nn.Module):
    """DSNet of the paper's own units."""

    def __init__(self, network: dsnet.DSNet) -> None:
        super().__init__()
        self.skips = network.skips
        self.init = network.init
        self.balance = network.feature_balance
        groups = network.stage1[0].groups

        def down(unit: dsnet.DownUnit, units: Sequence[dsnet.BasicUnit], reads: Order) -> tuple:
            half = unit.left[0].out_channels
            beside = [(source, channel) for source in (0, 1) for channel in range(half)]
            planned = plan(shuffled(beside, unit.groups), len(units), groups)
            return FoldedDownUnit(unit, reads, planned.writes), FoldedStage(units, planned), planned.reads[-1]

        def stage(units: Sequence[dsnet.BasicUnit], order: Order) -> tuple[FoldedStage, Order]:
            place = {channel: i for i, channel in enumerate(order)}
            planned = plan([(0, place[channel]) for channel in range(len(order))], len(units), groups, fixed=True)
            return FoldedStage(units, planned), planned.reads[-1]

        first = list(range(16))
        self.down1, self.stage1, low = down(network.down1, network.stage1, first)
        second = [*network.stage2] + ([] if "stage2" in self.balance else [*network.stage3])
        self.down2, self.stage2, order = down(network.down2, second, low)
        orders = {"stage1": low, "stage2": order}
        self.stage3 = None
        if "stage2" in self.balance:
            self.stage3, order = stage(network.stage3, order)
        orders["stage3"] = order
        self.pyramid_pooling = network.pyramid_pooling
        if not isinstance(self.pyramid_pooling, nn.Identity):
            order_pyramid(self.pyramid_pooling, order)
            order = list(range(len(order)))
        # The maxima of the un-pooling stood in the channels of stage 1 and of the init unit.
        self.up4 = FoldedUpUnit(network.up4, order, low)
        self.stage4, orders["stage4"] = stage([network.stage4], low)
        self.up5 = FoldedUpUnit(network.up5, orders["stage4"], first)
        self.stage5, orders["stage5"] = stage([network.stage5], first)
        self.fullconv = ordered(network.fullconv, orders["stage5"])
        for name, balance in self.balance.items():
            order_balance(balance, orders[name])

    def _balanced(self, stage: str, x: Tensor) -> Tensor:
        return self.balance[stage](x)[0] if stage in self.balance else x

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        first = self.init(pad_to_multiple(image, dsnet.STRIDE))
        x, where1 = self.down1(first)
        low = self._balanced("stage1", self.stage1(*x))
        x, where2 = self.down2(low)
        x = self._balanced("stage2", self.stage2(*x))
        if self.stage3 is not None:
            x = self.stage3(x)
        x = self._balanced("stage3", x)
        x = self.up4(self.pyramid_pooling(x), where2)
        x = self._balanced("stage4", self.stage4(x + low if self.skips else x))
        x = self.up5(x, where1)
        x = self._balanced("stage5", self.stage5(x + first if self.skips else x))
        return self.fullconv(x)[..., :height, :width]


def order_pyramid(pyramid: nn.Sequential, order: Order) -> None:
    """Have the pyramid, and the 3x3 behind it, read their input's channels in another order."""
    pooling, after = pyramid
    for part in pooling.branches:
        part[1][0] = ordered(part[1][0], order)
    after[0] = ordered(after[0], order + list(range(len(order), after[0].in_channels)))


def fold_dsnet(network: dsnet.DSNet) -> nn.Module:
    """The paper's own units are re-ordered; those of the ablation stay, with their Batch Norms folded."""
    return FoldedDSNet(network) if isinstance(network.stage4, dsnet.BasicUnit) else network
