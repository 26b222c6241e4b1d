"""Which channels of which tensors a step reads: a split, a shuffle or a join is a list of channels, never a copy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from drive_seg.inference.runtimes.native.steps import Buffer, Piece
from drive_seg.networks.fold.channels import Slice


class Channel(NamedTuple):
    """One channel of a buffer."""

    buffer: Buffer
    number: int


Channels = list[Channel]
"""Of a tensor that the network has, wherever they lie."""


def channels_of(buffer: Buffer) -> Channels:
    return [Channel(buffer, number) for number in range(buffer.channels)]


def placed(buffer: Buffer, order: list[int]) -> Channels:
    """The channels of a tensor whose channel order[i] stands at place i of the buffer."""
    place = {channel: i for i, channel in enumerate(order)}
    return [Channel(buffer, place[channel]) for channel in range(len(order))]


def in_memory(x: Channels) -> list[int]:
    """Indices of the channels, those of one buffer side by side as they lie there."""
    turn = {id(buffer): i for i, buffer in enumerate(dict.fromkeys(channel.buffer for channel in x))}
    return sorted(range(len(x)), key=lambda i: (turn[id(x[i].buffer)], x[i].number))


def sliced(sources: Sequence[Channels], slices: Sequence[Slice]) -> Channels:
    """As :func:`drive_seg.networks.fold.channels.gather`, without a copy."""
    return [channel for s in slices for channel in sources[s.source][s.start : s.stop]]


def exact_pieces(x: Channels) -> list[Piece]:
    """The pieces that hold just these channels in just this order."""
    runs: list[tuple[Buffer, int, int]] = []
    for buffer, number in x:
        if runs and runs[-1][0] is buffer and runs[-1][2] == number:
            runs[-1] = (buffer, runs[-1][1], number + 1)
        else:
            runs.append((buffer, number, number + 1))
    return [buffer.piece(start, stop - start) for buffer, start, stop in runs]


def grouped_pieces(x: Channels, group: int) -> tuple[list[Piece], list[int]]:
    """Pieces of whole groups that hold these channels in any order.

    Returns:
        the pieces, and for each of their channels which of ``x`` it is, or -1 if none.
    """
    pieces: list[Piece] = []
    numbers: list[int] = []
    for _, these in groupby(in_memory(x), key=lambda i: id(x[i].buffer)):
        there = {x[i].number: i for i in these}
        buffer = x[next(iter(there.values()))].buffer
        groups = sorted({number // group for number in there})
        start = 0
        while start < len(groups):
            stop = start + 1
            while stop < len(groups) and groups[stop] == groups[stop - 1] + 1:
                stop += 1
            pieces.append(buffer.piece(groups[start] * group, stop - start))
            for number in range(groups[start] * group, (groups[stop - 1] + 1) * group):
                numbers.append(there.get(number, -1))
            start = stop
    return pieces, numbers
