"""The steps of a network in the making, with the memory that they read and write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_seg.inference.runtimes.native.channels import (
    Channels,
    channels_of,
    exact_pieces,
    grouped_pieces,
    in_memory,
    placed,
)
from drive_seg.inference.runtimes.native.steps import PADDED, PIECES, WIDEST, Buffer, Kind, Piece, Step, Type
from drive_seg.networks.fbnet import DualFeatureModulator

_ANY_WIDTH = (Kind.CONVOLUTION, Kind.DEPTHWISE, Kind.FIRST, Kind.REGIONS, Kind.RESIZE)
"""Steps that take a pixel's channels in turn, with no memory for all of them."""


class UnsupportedError(ValueError):
    """A network that these steps cannot say."""


class Ending(NamedTuple):
    """How a network's steps end.

    Attributes:
        logits: their memory, float32 [height, width, classes].
        steps: the last ones of the assembly, which write there.
        deciding: what takes their place where classes are decided and logits kept nowhere; the last one decides.
    """

    logits: Tensor
    steps: list[Step]
    deciding: list[Step]


class Assembly:
    """Steps and memory, added one by one in the order in which they are carried out.

    Args:
        type: what lies between the steps.
        lanes: numbers in a vector of the processor.
        threads: that will carry the steps out.
        factors: for ``Type.BYTE``, of each buffer by its name.
        apart: give each step's result memory of its own, to look at afterwards.

    Attributes:
        steps: in their order.
        buffers: what the steps write, in their order.
    """

    def __init__(
        self, type: Type, lanes: int, threads: int, factors: Mapping[str, float] | None = None, apart: bool = False
    ) -> None:
        self.type, self.lanes, self.threads, self.apart = type, lanes, threads, apart
        self.steps: list[Step] = []
        self.buffers: list[Buffer] = []
        self._factors = factors or {}
        self._constants: list[Tensor] = []
        self._shared: dict[tuple, Tensor] = {}
        self._free: dict[tuple, list[Tensor]] = {}

    def pool(self, name: str, x: Channels) -> tuple[Channels, Buffer, list[int]]:
        """2x2 max-pooling. Returns the maxima, where they stood, and of which channel of ``x`` each of these is."""
        height, width = x[0].buffer.size
        size = (height // 2, width // 2)
        order = in_memory(x)
        pooled = self.buffer(name, size, len(x))
        memory = torch.zeros(*size, padded(len(x)), dtype=torch.uint8)
        where = Buffer(f"{name}.where", size, self.kept(memory), Type.BYTE, len(x))
        step = self.step(Kind.POOL, exact_pieces([x[i] for i in order]))
        self.writes(step, pooled)
        step.also = where.piece()
        return placed(pooled, order), where, order

    def image(
        self,
        name: str,
        size: tuple[int, int],
        weight: Tensor,
        bias: Tensor,
        before: int,
        relu: int,
        pooled: Tensor | None = None,
        wrap: int = 0,
        halo: int = 0,
    ) -> tuple[Buffer, Step]:
        """The 3x3 convolution of stride 2 over the image, whose planes :class:`Program` names at each run.

        Args:
            size: of the image.
            weight: [C, 3, 3, 3].
            bias: as many as the result has channels.
            before: rows and columns of zeros above and left of the image.
            relu: of :class:`Step`.
            pooled: factors of the 2x2 maximum of each plane, which stand behind the C channels.
            wrap, halo: as for :meth:`convolution`.

        Returns:
            its result in float32, of half the height and width.
        """
        half = tuple(-(-side // 2) for side in size)
        channels = padded(len(bias))
        weights = torch.zeros(3, 9 if pooled is None else 10, channels)
        weights[:, :9, : len(weight)] = weight.permute(1, 2, 3, 0).flatten(1, 2)
        if pooled is not None:
            weights[:, 9, len(weight) : len(bias)] = torch.diag(pooled)
        out = self.buffer(name, half, channels, Type.FLOAT, wrap=wrap, halo=halo)
        step = self.step(Kind.FIRST, [Piece() for _ in range(3)], weights, F.pad(bias, (0, channels - len(bias))))
        step.in_height, step.in_width = size
        step.taps, step.relu = weights.shape[1], relu
        step.dy[0] = step.dx[0] = -before
        self.writes(step, out)
        return out, step

    def convolution(
        self,
        name: str,
        conv: nn.Module,
        x: Channels,
        halo: int = 0,
        between: bool = False,
        wrap: int = 0,
        relu: int = 1,
        type: Type | None = None,
        plus: Channels | None = None,
    ) -> tuple[Channels, list[Step]]:
        """A convolution, or a transposed one, and a ReLU.

        Args:
            halo: columns of zeros that the next step reads.
            between: nobody but the next step reads the result.
            wrap: nor that more than so many rows at a time, right after they are made.
            relu: of :class:`Step`.
            type: of the result; the assembly's own if None.
            plus: a whole tensor that is added behind the ReLU.
        """
        turned = isinstance(conv, nn.ConvTranspose2d)
        height, width = x[0].buffer.size
        factor = conv.stride[0]
        size = (height * factor, width * factor) if turned else (-(-height // factor), -(-width // factor))
        out = self.buffer(name, size, conv.out_channels, type, halo=halo, between=between, wrap=wrap)
        if turned:
            return channels_of(out), self.transposed(conv, x, out, relu)
        taps = [(i, j) for i in range(conv.kernel_size[0]) for j in range(conv.kernel_size[1])]
        (d0, d1), (p0, p1) = conv.dilation, conv.padding
        places = [(i * d0 - p0, j * d1 - p1) for i, j in taps]
        steps, start = [], 0
        for vectors in self._shares(padded(conv.out_channels) // self.lanes):
            stop = start + vectors * self.lanes
            bias = None if conv.bias is None else conv.bias[start:stop]
            step = self.multiply(x, conv.weight[start:stop].flatten(2), bias, places, out)
            step.stride, step.relu = factor, relu
            self.writes(step, out, start=start)
            if plus is not None:
                step.also = plus[0].buffer.piece(start)
            steps.append(step)
            start = stop
        return channels_of(out), steps

    def _shares(self, vectors: int) -> list[int]:
        """Vectors of output channels in parts whose passes take three or four at once: inputs are read less often."""
        if vectors < 5 or self.lanes == 8 or _at_once(vectors, self.lanes) > 2:
            return [vectors]
        first = 2 if vectors == 5 else (8 if vectors % 3 == 2 else 4)
        return [first, vectors - first]

    def depthwise(
        self, name: str, conv: nn.Conv2d, x: Channels, before: int, between: bool = False, wrap: int = 0
    ) -> tuple[Channels, Step]:
        """A depth-wise 3x3 or 5x5 convolution of stride 1 or 2 and a ReLU6.

        Args:
            x: a whole tensor in float32 with columns of zeros beside it, as many as the convolution reads.
            before: rows and columns of zeros above and left of the image.
            between, wrap: as for :meth:`convolution`.
        """
        stride, given = conv.stride[0], x[0].buffer
        size = tuple(-(-side // stride) for side in given.size)
        out = self.buffer(name, size, conv.out_channels, between=between, wrap=wrap)
        width = out.memory.shape[-1]
        fill = (0, width - conv.out_channels)
        weight = F.pad(conv.weight.flatten(1).T, fill)  # [tap, channel] -> [vector, tap, lane]
        weight = weight.unflatten(1, (-1, self.lanes)).transpose(0, 1)
        step = self.step(Kind.DEPTHWISE, [given.piece()], weight, F.pad(conv.bias, fill))
        step.in_height, step.in_width = given.size
        step.stride, step.taps, step.relu = stride, conv.kernel_size[0] ** 2, 6
        step.dy[0] = step.dx[0] = -before
        self.writes(step, out)
        return channels_of(out), step

    def regions(self, name: str, x: Channels, count: int) -> Channels:
        """The means of a whole tensor over count x count regions."""
        given = x[0].buffer
        out = self.buffer(name, (count, count), given.channels)
        self._sized(Kind.REGIONS, given, out)
        return channels_of(out)

    def resize(
        self, name: str, x: Channels, size: tuple[int, int], type: Type | None = None, wrap: int = 0
    ) -> tuple[Channels, Step]:
        """A whole tensor brought to a size, bilinear."""
        given = x[0].buffer
        out = self.buffer(name, size, given.channels, type, wrap=wrap)
        return channels_of(out), self._sized(Kind.RESIZE, given, out)

    def _sized(self, kind: Kind, given: Buffer, out: Buffer) -> Step:
        step = self.step(kind, [given.piece()])
        step.in_height, step.in_width = given.size
        self.writes(step, out)
        return step

    def logits(self, x: Channels, size: tuple[int, int]) -> tuple[Tensor, Step]:
        """Logits brought to a size, bilinear: float32 [height, width, classes], not padded."""
        given = x[0].buffer
        memory = torch.zeros(*size, given.channels)
        out = Buffer("logits", size, memory, Type.FLOAT, given.channels)
        return memory, self._sized(Kind.RESIZE, given, out)

    def transposed(self, conv: nn.ConvTranspose2d, x: Channels, out: Buffer, relu: int) -> list[Step]:
        """One convolution for each of the places that a pixel of the input becomes."""
        by, (p0, p1) = conv.stride[0], conv.padding
        steps = []
        for a in range(by):
            for b in range(by):
                taps = [
                    (i, j)
                    for i in range(conv.kernel_size[0])
                    for j in range(conv.kernel_size[1])
                    if (a + p0 - i) % by == 0 and (b + p1 - j) % by == 0
                ]
                weight = torch.stack([conv.weight[:, :, i, j].T for i, j in taps], dim=2)
                places = [((a + p0 - i) // by, (b + p1 - j) // by) for i, j in taps]
                step = self.multiply(x, weight, conv.bias, places, out)
                self.writes(step, out, x[0].buffer.size)
                step.relu, step.by, step.below, step.beside = relu, by, a, b
                steps.append(step)
        return steps

    def balanced(self, name: str, balances: nn.ModuleDict, x: Channels) -> Channels:
        """FBNet's sum of a stage's features and what its modulator makes of them; ``x`` itself where it has none."""
        if name not in balances or isinstance(balances[name].modulator, nn.Identity):
            return x
        modulator = balances[name].modulator
        if isinstance(modulator, nn.Conv2d):
            return self.convolution(f"{name}.balance", modulator, x, relu=0)[0]
        assert isinstance(modulator, DualFeatureModulator)
        pieces, count = exact_pieces(x), len(x)
        height, width = x[0].buffer.size
        sums = self.buffer(f"{name}.sums", (height, 1), count, Type.FLOAT)
        self.writes(self.step(Kind.AVERAGE, pieces), sums, (height, width))
        gates = self.buffer(f"{name}.gates", (1, 1), count, Type.FLOAT)
        fill = (0, padded(count) - count)
        sensor = modulator.channel_sensor
        weight = F.pad(sensor.weight, (*fill, *fill))
        step = self.step(Kind.GATE, [sums.piece()], weight, F.pad(sensor.bias, fill))
        step.in_height, step.in_width = height, width
        self.writes(step, gates)
        out = self.buffer(f"{name}.balance", (height, width), count)
        sensor = modulator.spatial_sensor
        step = self.step(Kind.WEIGH, [gates.piece(), *pieces], F.pad(sensor.weight.flatten(), fill), sensor.bias)
        self.writes(step, out)
        return channels_of(out)

    def decision(self, given: Buffer, size: tuple[int, int], rows: Buffer | None = None) -> Step:
        """The step that decides on logits, row by row; not one of :attr:`steps`.

        Args:
            given: the logits, float32.
            size: of the result.
            rows: where the logits are of another size, each thread's memory for a row of them.
        """
        height, width = size
        step = Step(kind=Kind.DECIDE, pieces=1, by=1, height=height, width=width, channels=given.channels)
        step.together = step.rows = 1
        step.in_height, step.in_width = given.size
        step.inputs[0] = given.piece()
        if rows is not None:
            step.inputs[2] = rows.piece()
        step.out = Piece(None, 1, width, 1, Type.BYTE, 1.0)
        return step

    def together(self, steps: Sequence[Step], rows: int = 1) -> None:
        """Carry these steps, which follow one another, out row by row, ``rows`` of the first at a time."""
        steps[0].together = len(steps)
        for step in steps:
            step.together = max(step.together, 1)
            step.rows = rows * step.height // steps[0].height

    def rolling(self, ahead: Sequence[Step], after: Sequence[Step], kernel: int, before: int, stride: int = 1) -> None:
        """Carry steps, which follow one another, out row by row, some of them, or none, ahead of the others.

        Args:
            ahead: steps whose last ``kernel`` rows are kept.
            after: of these the first reads ``kernel`` rows from y * stride - before on for its row y.
        """
        self.together([*ahead, *after])
        for step in after:
            step.rows = 1
        for step in ahead:
            step.rows, step.above, step.ahead = stride, before, kernel - before - stride

    def multiply(
        self, x: Channels, weight: Tensor, bias: Tensor | None, places: Sequence[tuple[int, int]], out: Buffer
    ) -> Step:
        """The weights [out, in, taps] laid out for the pieces that hold ``x``, channel by channel."""
        type = x[0].buffer.type
        pieces, order = grouped_pieces(x, type.group)
        outputs, _, taps = weight.shape
        # A place that only fills a group has no weight.
        weight = torch.cat([weight.double(), torch.zeros(outputs, 1, taps, dtype=torch.float64)], dim=1)[:, order]
        width = padded(outputs)
        weight = F.pad(weight, (0, 0, 0, 0, 0, width - outputs))
        bias = F.pad(torch.zeros(outputs) if bias is None else bias.double(), (0, width - outputs))
        scale = None
        if type is Type.BYTE:
            meaning = torch.tensor([x[i].buffer.factor if i >= 0 else 0.0 for i in order], dtype=torch.float64)
            weight = weight * meaning[:, None]
            scale = weight.abs().amax(dim=(1, 2)).clamp_min(1e-30) / 127
            weight = (weight / scale[:, None, None]).round()
            scale = scale / out.factor
        vectors = width // self.lanes
        at_once = _at_once(vectors, self.lanes)
        # [pass, tap, group, output channel, channel of the group]
        laid = weight.view(vectors // at_once, at_once * self.lanes, -1, type.group, taps).permute(0, 4, 2, 1, 3)
        laid = laid.to((torch.float32, torch.bfloat16, torch.int8)[type])
        step = self.step(Kind.CONVOLUTION, pieces, laid, bias / out.factor, scale)
        step.reads, step.stride, step.vectors, step.passes = type, 1, at_once, vectors // at_once
        step.in_height, step.in_width = x[0].buffer.size
        step.taps = taps
        for number, (y, x_) in enumerate(places):
            step.dy[number], step.dx[number] = y, x_
        return step

    def step(
        self,
        kind: Kind,
        pieces: Sequence[Piece],
        weights: Tensor | None = None,
        bias: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Step:
        if len(pieces) > PIECES:
            raise UnsupportedError(f"a step reads {len(pieces)} pieces, and {PIECES} is the most")
        step = Step(kind=kind, pieces=len(pieces), together=1, rows=1, by=1)
        for number, piece in enumerate(pieces):
            step.inputs[number] = piece
        step.weights = self.constant(weights)
        step.bias = self.constant(None if bias is None else bias.float())
        step.scale = self.constant(None if scale is None else scale.float())
        self.steps.append(step)
        return step

    def constant(self, values: Tensor | None) -> int | None:
        if values is None:
            return None
        return self.kept(values.detach().contiguous().clone()).data_ptr()

    def kept(self, memory: Tensor) -> Tensor:
        """Memory that steps know by its address alone."""
        self._constants.append(memory)
        return memory

    def writes(self, step: Step, out: Buffer, size: tuple[int, int] | None = None, start: int = 0) -> None:
        """Have a step write to a buffer from a channel on, pixels as many as that has if ``size`` is not given."""
        step.height, step.width = out.size if size is None else size
        step.writes, step.out = out.type, out.piece(start)
        if step.kind != Kind.CONVOLUTION or out.memory.shape[-1] % PADDED:
            step.channels = out.memory.shape[-1]
        if step.kind not in _ANY_WIDTH and out.memory.shape[-1] > WIDEST:
            raise UnsupportedError(f"a tensor has {out.channels} channels, and {WIDEST} is the most")

    def buffer(
        self,
        name: str,
        size: tuple[int, int],
        channels: int,
        type: Type | None = None,
        halo: int = 0,
        between: bool = False,
        wrap: int = 0,
    ) -> Buffer:
        type = self.type if type is None else type
        shape: tuple[int, ...] = (size[0], size[1] + 2 * halo, padded(channels))
        wrap = 0 if self.apart else wrap
        if wrap:
            shape = (self.threads, wrap, *shape[1:])
        # Tensors of one group of steps differ in the last part of their names.
        key = (*shape, halo, type, name.rpartition(".")[2] if between or wrap else None)
        shared = (between or wrap) and not self.apart
        memory = self._shared.get(key) if shared else None
        if memory is None and not shared and not halo and self._free.get(key):
            memory = self._free[key].pop()
        if memory is None:
            memory = torch.zeros(shape, dtype=type.dtype)
            if shared:
                self._shared[key] = memory
        factor = self._factors[name] if type is Type.BYTE else 1.0
        buffer = Buffer(name, size, memory, type, channels, halo, factor, wrap)
        self.buffers.append(buffer)
        return buffer

    def release(self, buffer: Buffer) -> None:
        """Nobody reads this buffer any more."""
        if not self.apart:
            self._free.setdefault((*buffer.memory.shape, buffer.halo, buffer.type, None), []).append(buffer.memory)


def padded(channels: int) -> int:
    """The next multiple of 16."""
    return -(-channels // PADDED) * PADDED


def _at_once(vectors: int, lanes: int) -> int:
    """How many vectors a pass of a convolution computes. With AVX2 there are registers for two."""
    return next(count for count in (4, 3, 2, 1) if vectors % count == 0 and (count < 3 or lanes != 8))
