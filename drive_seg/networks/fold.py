"""Structural re-parameterisation: the same network with fewer operations, for inference.

Batch Norms go into the convolutions before them, and DSNet's splits, shuffles and concatenations into the order of the
channels of its weights. Logits stay equal up to rounding. What cannot be folded stays as it is: a Batch Norm behind a
sum or before a ReLU (WiderResNet's pre-activation).

What happens to a DSNet: a Basic unit rewrites half of its channels, and the shuffle decides which half. So every
channel that a unit writes is read exactly once: by one later unit, or as a part of the stage's result. A folded stage
keeps what its units wrote, in the order in which it will be read, and each unit takes its input as a few slices of
that. Half of the channels are copied once per unit, where concatenation and shuffle copied all of them twice. The order
of the result is left to the stage, too: whoever reads it has its weights ordered alike.

Not done, for want of a clear gain: the whole tensor read by a 1x1 with zeros for the half that stays (slower in ONNX
Runtime), one 1x1 for the two branches of an Up unit, transposed convolutions as convolutions with a pixel shuffle.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from drive_seg.networks import dsnet, enet, erfnet, resnet
from drive_seg.networks.fbnet import FeatureBalance
from drive_seg.networks.layers import max_pool_one_hot, max_unpool_one_hot, pad_to_multiple, strip_training_only

Order = list[int]
"""Of the channels of a tensor: at place i stands the channel that the unfolded network has at place order[i]."""


def fold(network: nn.Module) -> nn.Module:
    """The same network for inference alone, with everything folded that can be.

    Args:
        network: any module; those of the catalog are known by their units, in others the sequences of convolution and
            Batch Norm are folded. It is left as it is.

    Returns:
        a module of its own in evaluation mode: [B, 3, H, W] -> what ``network`` gives in evaluation mode, up to
        rounding. Fold before casting to half precision: the fold itself is computed in float64. To train it is a
        ``RuntimeError``.
    """
    return Folded(_folded(strip_training_only(copy.deepcopy(network)).eval()).requires_grad_(False))


class Folded(nn.Module):
    """A network without what only training needs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def train(self, mode: bool = True) -> Folded:
        """Nothing changes for ``mode=False``.

        Raises:
            RuntimeError: if it is to be trained.
        """
        if mode:
            raise RuntimeError("a folded network is for inference alone: train the network that it was made from")
        return super().train(False)


def _folded(module: nn.Module) -> nn.Module:
    """The module with its parts folded, or what takes its place."""
    for name, part in list(module.named_children()):
        setattr(module, name, _folded(part))
    if getattr(module, "pool", None) is max_pool_one_hot:
        module.pool = max_pool_places
    if getattr(module, "unpool", None) is max_unpool_one_hot:
        module.unpool = max_unpool_places
    if type(module) in _RULES:
        return _RULES[type(module)](module)
    if type(module).forward is nn.Sequential.forward:
        return fold_sequence(module)
    return module


# --- Batch Norm ---------------------------------------------------------------------------------------------------


def can_fold(conv: nn.Module | None, norm: nn.Module) -> bool:
    """Whether a Batch Norm can go into what stands before it."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_var is None:
        return False
    return isinstance(conv, nn.Conv2d) or (isinstance(conv, nn.ConvTranspose2d) and conv.groups == 1)


def fold_norm(conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> nn.Conv2d | nn.ConvTranspose2d:
    """One convolution with a bias for a convolution and the Batch Norm behind it."""
    weight, bias = fuse_conv_bn_weights(
        conv.weight.double(),
        None if conv.bias is None else conv.bias.double(),
        *_statistics(norm),
        transpose=isinstance(conv, nn.ConvTranspose2d),
    )
    return _with_weights(conv, weight, bias)


def _statistics(norm: nn.BatchNorm2d, start: int = 0) -> tuple:
    """Mean, variance, eps, scale and shift in float64, from a channel on."""
    mean, variance = norm.running_mean[start:].double(), norm.running_var[start:].double()
    scale, shift = (None if p is None else p[start:].double() for p in (norm.weight, norm.bias))
    return mean, variance, norm.eps, scale, shift


def _with_weights(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The same layer with other weights, in the old ones' type."""
    made = copy.deepcopy(layer)
    made.weight = nn.Parameter(weight.detach().to(layer.weight.dtype), requires_grad=False)
    made.bias = None if bias is None else nn.Parameter(bias.detach().to(layer.weight.dtype), requires_grad=False)
    return made


def fold_sequence(sequence: nn.Sequential) -> nn.Sequential:
    """Batch Norms go into the convolutions right before them; dropout, which does nothing here, is left out."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    last = ""
    for name, part in sequence.named_children():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            continue
        if can_fold(parts.get(last), part):
            parts[last] = fold_norm(parts[last], part)
            continue
        parts[name], last = part, name
    return nn.Sequential(parts)


def fold_bottleneck(block: resnet.Bottleneck) -> resnet.Bottleneck:
    """ResNet's block: three convolutions, each with the Batch Norm of its number."""
    for i in (1, 2, 3):
        setattr(block, f"conv{i}", fold_norm(getattr(block, f"conv{i}"), getattr(block, f"bn{i}")))
        setattr(block, f"bn{i}", nn.Identity())
    return block


def fold_stem(encoder: resnet.ResNet) -> resnet.ResNet:
    """ResNet's first Batch Norm, behind one convolution or the last of three."""
    if isinstance(encoder.conv1, nn.Sequential):
        encoder.conv1[-1] = fold_norm(encoder.conv1[-1], encoder.bn1)
    else:
        encoder.conv1 = fold_norm(encoder.conv1, encoder.bn1)
    encoder.bn1 = nn.Identity()
    return encoder


class ConvBesidePool(nn.Module):
    """Convolution beside max-pooling with one Batch Norm over both (first units of DSNet and ENet, all of ERFNet).

    The convolution takes its channels' part of the Batch Norm; a factor and a summand per pooled channel remain.
    """

    def __init__(self, unit: dsnet.InitUnit | enet.InitialBlock | erfnet.Downsampler) -> None:
        super().__init__()
        split, dtype = unit.conv.out_channels, unit.conv.weight.dtype
        mean, variance, eps, scale, shift = _statistics(unit.bn, split)
        factor = scale * torch.rsqrt(variance + eps)
        self.register_buffer("factor", factor.detach().to(dtype).view(-1, 1, 1))
        self.register_buffer("summand", (shift - mean * factor).detach().to(dtype).view(-1, 1, 1))
        first = copy.deepcopy(unit.bn)
        for name in ("weight", "bias", "running_mean", "running_var"):
            setattr(first, name, type(getattr(first, name))(getattr(first, name)[:split]))
        self.conv = fold_norm(unit.conv, first)
        self.activation = getattr(unit, "activation", nn.ReLU(inplace=True))
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(x, 2) * self.factor + self.summand
        return self.activation(self.join([self.conv(x), pooled]))


# --- Un-pooling ---------------------------------------------------------------------------------------------------


def max_pool_places(x: Tensor) -> tuple[Tensor, Tensor]:
    """2x2 max-pool in operations that every exporter takes, with one number per window for where its maximum stood.

    It takes the place of :func:`~drive_seg.networks.layers.max_pool_one_hot`, whose four planes are four times the
    memory, and whose running sum runtimes have no fast kernel for. Ties are decided alike: the first in reading order.

    Args:
        x: [B, C, H, W] with even H and W.

    Returns:
        the pooled [B, C, H/2, W/2], and of the same shape and type 0, 1, 2 or 3, the window's places in reading order.
    """
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    upper, lower = torch.maximum(a, b), torch.maximum(c, d)
    where = torch.where(upper >= lower, (b > a).to(x.dtype), (d > c).to(x.dtype) + 2)
    return torch.maximum(upper, lower), where


def max_unpool_places(x: Tensor, where: Tensor) -> Tensor:
    """Inverse of :func:`max_pool_places`: twice [B, C, h, w] -> [B, C, 2h, 2w], zeros around what was put back."""
    planes = torch.stack([torch.where(where == place, x, torch.zeros_like(x)) for place in range(4)], dim=2)
    return F.pixel_shuffle(planes.flatten(1, 2), 2)


# --- FBNet --------------------------------------------------------------------------------------------------------


class FoldedBalance(nn.Module):
    """FBNet's X + X * S_s * S_c in one step less; with the "conv" modulator one 1x1 that adds its input by itself."""

    def __init__(self, balance: FeatureBalance) -> None:
        super().__init__()
        self.modulator = balance.modulator
        if isinstance(self.modulator, nn.Conv2d):
            weight = self.modulator.weight
            identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)[:, :, None, None]
            self.modulator = _with_weights(self.modulator, weight + identity, self.modulator.bias)

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


# --- DSNet --------------------------------------------------------------------------------------------------------


class Slice(NamedTuple):
    """The channels ``start`` to ``stop`` of the tensor number ``source``."""

    source: int
    start: int
    stop: int


def ordered(layer: nn.Module, reads: Order | None = None, writes: Order | None = None) -> nn.Module:
    """A convolution or linear layer whose input and output channels stand in other orders."""
    weight, bias = layer.weight, layer.bias
    turned = isinstance(layer, nn.ConvTranspose2d)  # its weight is [in, out, ...]
    for order, axis in ((reads, int(not turned)), (writes, int(turned))):
        if order is not None:
            weight = weight.index_select(axis, torch.tensor(order, device=weight.device))
    if bias is not None and writes is not None:
        bias = bias[torch.tensor(writes, device=bias.device)]
    return _with_weights(layer, weight, bias)


class Plan(NamedTuple):
    """Where a chain of Basic units finds its channels, see :func:`plan`. Sources are its inputs, then its units.

    Attributes:
        writes: for each source, the order in which its channels are to stand.
        slices: for each unit, and then for the result, where its channels are found.
        reads: for each unit, and then for the result, the order in which its channels are found.
    """

    writes: list[Order]
    slices: list[list[Slice]]
    reads: list[Order]


def plan(arrival: list[tuple[int, int]], units: int, groups: int, fixed: bool = False) -> Plan:
    """Follow every channel through a chain of Basic units, from what writes it to what reads it.

    Args:
        arrival: (source, channel) of each channel of the chain's input.
        units: number of Basic units.
        groups: of their channel shuffle.
        fixed: the sources of the input stay in the order they have.
    """
    half, inputs = len(arrival) // 2, max(source for source, _ in arrival) + 1
    state, read_by = list(arrival), []
    for i in range(units):
        read_by.append(state[half:])
        written = [(inputs + i, channel) for channel in range(half)]
        state = shuffled(state[:half] + written, groups)
    read_by.append(state)

    # What a source writes stands in the order in which it is read.
    in_turn = [channel for reader in read_by for channel in reader]
    writes = [[c for source, c in in_turn if source == s] for s in range(inputs + units)]
    if fixed:
        writes[:inputs] = [sorted(order) for order in writes[:inputs]]
    place = {(s, channel): i for s, order in enumerate(writes) for i, channel in enumerate(order)}

    slices, reads = [], []
    for reader in read_by:
        # The halves of a result stay apart, so that a later chain, which reads the second one first, finds it whole.
        found = sorted((reader is state and i >= half, c[0], place[c], i) for i, c in enumerate(reader))
        slices.append(runs([(source, at) for _, source, at, _ in found]))
        reads.append([i for *_, i in found])
    return Plan(writes, slices, reads)


def shuffled(channels: list, groups: int) -> list:
    """:func:`~drive_seg.networks.layers.channel_shuffle` of a list."""
    width = len(channels) // groups
    return [channels[group * width + i] for i in range(width) for group in range(groups)]


def runs(places: list[tuple[int, int]]) -> list[Slice]:
    """(source, place) of channels as slices of the sources."""
    found: list[Slice] = []
    for source, at in places:
        if found and found[-1].source == source and found[-1].stop == at:
            found[-1] = found[-1]._replace(stop=at + 1)
        else:
            found.append(Slice(source, at, at + 1))
    return found


def join(parts: Sequence[Tensor]) -> Tensor:
    """Channels side by side: [B, C_i, H, W] -> [B, sum of C_i, H, W]."""
    return torch.cat(list(parts), dim=1)


def gather(sources: Sequence[Tensor], slices: Sequence[Slice], join: Callable[..., Tensor] = join) -> Tensor:
    """Slices side by side; a single one, or a whole tensor, is not copied."""
    parts = [
        sources[s.source]
        if (s.start, s.stop) == (0, sources[s.source].shape[1])
        else sources[s.source][:, s.start : s.stop]
        for s in slices
    ]
    return parts[0] if len(parts) == 1 else join(parts)


class FoldedStage(nn.Module):
    """A chain of Basic units without split, concatenation and shuffle: sources [B, C_i, H, W] -> [B, C, H, W]."""

    def __init__(self, units: Sequence[dsnet.BasicUnit], planned: Plan) -> None:
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


_RULES: dict[type, Callable[[nn.Module], nn.Module]] = {
    resnet.Bottleneck: fold_bottleneck,
    resnet.ResNet: fold_stem,
    dsnet.InitUnit: ConvBesidePool,
    enet.InitialBlock: ConvBesidePool,
    erfnet.Downsampler: ConvBesidePool,
    FeatureBalance: FoldedBalance,
    dsnet.DSNet: fold_dsnet,
}
