"""DSNet as steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from drive_seg.inference.runtimes.native.assembly import Assembly, Ending, padded
from drive_seg.inference.runtimes.native.channels import Channels, channels_of, exact_pieces, placed, sliced
from drive_seg.inference.runtimes.native.steps import PADDED, Buffer, Kind, Step, Type
from drive_seg.networks.fold.channels import ordered
from drive_seg.networks.fold.dsnet import FoldedDSNet, FoldedStage, FoldedUpUnit
from drive_seg.networks.fold.norms import ConvBesidePool


def assemble(a: Assembly, net: FoldedDSNet, size: tuple[int, int]) -> Ending:
    """Add the steps of a DSNet for an image of that (height, width), whole strides."""
    height, width = size
    exact, first = _first(a, net.init, size)
    pooled, *where1 = a.pool("down1.pool", channels_of(exact))
    x = _down(a, "down1", net.down1, pooled, channels_of(first))
    low = a.balanced("stage1", net.balance, _stage(a, "stage1", net.stage1, *x))
    pooled, *where2 = a.pool("down2.pool", low)
    x = _down(a, "down2", net.down2, pooled, low)
    x = a.balanced("stage2", net.balance, _stage(a, "stage2", net.stage2, *x))
    if net.stage3 is not None:
        x = _stage(a, "stage3", net.stage3, x)
    x = a.balanced("stage3", net.balance, x)
    x = _up(a, "up4", net.up4, x, *where2, low if net.skips else [])
    x = a.balanced("stage4", net.balance, _stage(a, "stage4", net.stage4, x))
    x = _up(a, "up5", net.up5, x, *where1, channels_of(first) if net.skips else [])
    x = a.balanced("stage5", net.balance, _stage(a, "stage5", net.stage5, x))
    last = net.fullconv
    memory = torch.zeros(height, width, last.out_channels)
    logits = Buffer("logits", (height, width), memory, Type.FLOAT, last.out_channels)
    steps = a.transposed(last, x, logits, relu=0)
    a.together(steps)
    return Ending(memory, steps, _decision(a, steps, (height, width), last.out_channels))


def _decision(a: Assembly, steps: Sequence[Step], size: tuple[int, int], classes: int) -> list[Step]:
    """The steps that write the logits, to two rows for each thread instead, and one that decides on these."""
    memory = torch.zeros(a.threads, 2, size[1], padded(classes))
    rows = Buffer("logits.rows", size, a.kept(memory), Type.FLOAT, classes, wrap=2)
    steps = [Step.from_buffer_copy(step) for step in steps]
    for step in steps:
        step.out, step.channels = rows.piece(), 0
    steps.append(a.decision(rows, size))
    a.together(steps)
    return steps


def _first(a: Assembly, init: nn.Module, size: tuple[int, int]) -> tuple[Buffer, Buffer]:
    """The init unit. Returns its result in float32, and in the program's type."""
    if isinstance(init, ConvBesidePool):
        bias, pooled = torch.cat([init.conv.bias, init.summand.flatten()]), init.factor.flatten()
        exact, step = a.image("init", size, init.conv.weight, bias, before=1, relu=1, pooled=pooled)
    else:
        exact, step = a.image("init", size, init[0].weight, init[0].bias, before=1, relu=1)
    first = exact
    if a.type is not Type.FLOAT:
        first = a.buffer("init.rounded", exact.size, PADDED)
        step.also = first.piece()
    return exact, first


def _stage(a: Assembly, name: str, stage: FoldedStage, *sources: Channels) -> Channels:
    there = list(sources)
    for number, (unit, slices) in enumerate(zip(stage.units, stage.slices, strict=False)):
        there.append(_branch(a, f"{name}.{number}", unit, sliced(there, slices)))
        # What nobody reads any more makes room for what is written next: memory that is still in the cache.
        later = {s.source for after in stage.slices[number + 1 :] for s in after}
        for source in {s.source for s in slices} - later:
            if source >= len(sources):
                a.release(there[source][0].buffer)
    return sliced(there, stage.slices[-1])


def _branch(a: Assembly, name: str, layers: Sequence[nn.Module], x: Channels) -> Channels:
    """1x1, or 1x1 - 3x3 - 1x1, each with its ReLU. The last one takes the rows of the 3x3 as they are made."""
    convolutions = list(layers[::2])
    if len(convolutions) == 1:
        return a.convolution(name, convolutions[0], x)[0]
    before, middle, after = convolutions
    turned = isinstance(middle, nn.ConvTranspose2d)
    x, _ = a.convolution(f"{name}.0", before, x, halo=1 if turned else middle.padding[1], between=True)
    x, first = a.convolution(f"{name}.1", middle, x, wrap=middle.stride[0] if turned else 1)
    x, second = a.convolution(f"{name}.2", after, x)
    a.together([*first, *second], rows=first[0].rows)
    return x


def _down(a: Assembly, name: str, unit: nn.Module, pooled: Channels, x: Channels) -> tuple[Channels, Channels]:
    return _branch(a, f"{name}.left", unit.left, pooled), _branch(a, f"{name}.right", unit.right, x)


def _up(
    a: Assembly, name: str, unit: FoldedUpUnit, x: Channels, where: Buffer, order: list[int], skip: Channels
) -> Channels:
    """An Up unit whose channels stand in the order in which the maxima were pooled."""
    low, right = (
        _branch(a, f"{name}.{side}", [*layers[:-2], ordered(layers[-2], None, order), layers[-1]], x)[0].buffer
        for side, layers in (("left", unit.left), ("right", unit.right))
    )
    out = a.buffer(name, right.size, right.channels)
    skips = exact_pieces([skip[i] for i in order] if skip else [])
    step = a.step(Kind.UNPOOL, [low.piece(), where.piece(), right.piece(), *skips])
    a.writes(step, out)
    return placed(out, order)
