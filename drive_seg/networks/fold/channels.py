"""The order of channels: layers that read and write them in another one, and who reads what in a chain of units."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

Order = list[int]
"""Of the channels of a tensor: at place i stands the channel that the unfolded network has at place order[i]."""


def with_weights(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The same layer with other weights, in the old ones' type."""
    made = copy.deepcopy(layer)
    made.weight = nn.Parameter(weight.detach().to(layer.weight.dtype), requires_grad=False)
    made.bias = None if bias is None else nn.Parameter(bias.detach().to(layer.weight.dtype), requires_grad=False)
    return made


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
    return with_weights(layer, weight, bias)


class ChannelPlan(NamedTuple):
    """Where a chain of Basic units finds its channels, see :func:`plan`. Sources are its inputs, then its units.

    Attributes:
        writes: for each source, the order in which its channels are to stand.
        slices: for each unit, and then for the result, where its channels are found.
        reads: for each unit, and then for the result, the order in which its channels are found.
    """

    writes: list[Order]
    slices: list[list[Slice]]
    reads: list[Order]


def plan(arrival: list[tuple[int, int]], units: int, groups: int, fixed: bool = False) -> ChannelPlan:
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
    return ChannelPlan(writes, slices, reads)


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
