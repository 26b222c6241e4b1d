"""A folded DSNet as the steps that kernels.cpp carries out, for one size of its input."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_seg.decision import SPARSE
from drive_seg.native.channels import Channels, channels_of, exact_pieces, grouped_pieces, in_memory, placed, sliced
from drive_seg.native.library import Library
from drive_seg.native.steps import PADDED, PIECES, WIDEST, Buffer, Kind, Piece, Step, Type
from drive_seg.networks.dsnet import STRIDE
from drive_seg.networks.fbnet import DualFeatureModulator
from drive_seg.networks.fold import ConvBesidePool, Folded, FoldedDSNet, FoldedStage, FoldedUpUnit, ordered


class UnsupportedError(ValueError):
    """A network that these steps cannot say."""


class Program:
    """The steps of a network with their memory: float32 [1, 3, h, w] -> logits float32 [1, C, h, w].

    Args:
        network: folded, float32 on the CPU.
        size: (height, width) of the input.
        type: what lies between the steps. The init unit's maxima, which decide where un-pooling puts values back to,
            are found in float32 whatever the type: two that tie by rounding put a value one pixel off.
        lanes: numbers in a vector of the processor.
        threads: that will carry the steps out.
        factors: for ``Type.BYTE``, of each buffer by its name.
        apart: give each step's result memory of its own, to look at afterwards.

    Attributes:
        steps: in their order.
        buffers: what the steps write, in their order.

    Raises:
        UnsupportedError: if the network is not a DSNet of the paper's own units, or cannot be had in bytes.
    """

    def __init__(
        self,
        network: Folded,
        size: tuple[int, int],
        type: Type,
        lanes: int,
        threads: int,
        factors: Mapping[str, float] | None = None,
        apart: bool = False,
    ) -> None:
        check_supported(network, type)
        self.size, self.type = size, type
        self.steps: list[Step] = []
        self.buffers: list[Buffer] = []
        self._lanes, self._threads, self._factors, self._apart = lanes, threads, factors or {}, apart
        self._constants: list[Tensor] = []
        self._shared: dict[tuple, Tensor] = {}
        self._free: dict[tuple, list[Tensor]] = {}
        self._padded = tuple(-(-side // STRIDE) * STRIDE for side in size)
        self._build(network.network)

    def run(self, library: Library, image: Tensor, into: Tensor | None = None) -> Tensor:
        """Carry the steps out.

        Args:
            library: kernels.cpp.
            image: float32 [1, 3, h, w], of any strides.
            into: where to write the logits, of :attr:`shape`; the program's own memory if None.

        Returns:
            the logits, float32 [1, C, h, w], all classes of a pixel side by side; the next run to the same memory
            overwrites them.
        """
        logits = self._logits if into is None else into
        for step in self._array[-self._last :]:
            step.out.data = logits.data_ptr()
        self._carry_out(library, self._array, image)
        height, width = self.size
        return logits.permute(2, 0, 1)[None, :, :height, :width]

    def decide(
        self,
        library: Library,
        image: Tensor,
        confidence: bool,
        temperature: float = 1.0,
        frame_temperature: float | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Carry the steps out and decide row by row, while a row's logits are in the cache: they are kept nowhere.

        Args:
            library, image: as for :meth:`run`.
            confidence, temperature, frame_temperature: as for :meth:`drive_seg.runtimes.Runtime.decide`.

        Returns:
            of those logits, what :meth:`drive_seg.runtimes.Runtime.decide` gives, in memory of its own.
        """
        (rows, columns), (height, width) = self.size, self._padded
        ids = torch.empty(height, width, dtype=torch.uint8)
        sureness = torch.empty_like(ids) if confidence else None
        sparse = None if frame_temperature is None else torch.empty(-(-height // SPARSE), width, dtype=torch.uint8)
        step = self._deciding[-1]
        step.out.data, step.stride = ids.data_ptr(), SPARSE
        step.also, step.inputs[1] = _plane(sureness, width, temperature), _plane(sparse, width, frame_temperature)
        self._carry_out(library, self._deciding, image)
        sizes = (rows, rows, -(-rows // SPARSE))
        return tuple(
            None if plane is None else plane[None, :count, :columns].contiguous()
            for plane, count in zip((ids, sureness, sparse), sizes, strict=True)
        )

    def _carry_out(self, library: Library, steps: ctypes.Array, image: Tensor) -> None:
        bottom, right = (there - here for there, here in zip(self._padded, self.size, strict=True))
        if bottom or right:
            image = F.pad(image, (0, right, 0, bottom))
        for number in range(3):
            plane = image[0, number]
            row, pixel = (4 * stride for stride in plane.stride())
            steps[0].inputs[number] = Piece(plane.data_ptr(), pixel, row, 1, Type.FLOAT, 1.0)
        library.run(steps, self._threads)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the logits in memory, whole strides of the input: (height, width, classes)."""
        return tuple(self._logits.shape)

    # --- The network ----------------------------------------------------------------------------------------------

    def _build(self, net: FoldedDSNet) -> None:
        height, width = self._padded
        exact, first = self._first(net.init, (height // 2, width // 2))
        pooled, *where1 = self._pool("down1.pool", channels_of(exact))
        x = self._down("down1", net.down1, pooled, channels_of(first))
        low = self._balanced(net, "stage1", self._stage("stage1", net.stage1, *x))
        pooled, *where2 = self._pool("down2.pool", low)
        x = self._down("down2", net.down2, pooled, low)
        x = self._balanced(net, "stage2", self._stage("stage2", net.stage2, *x))
        if net.stage3 is not None:
            x = self._stage("stage3", net.stage3, x)
        x = self._balanced(net, "stage3", x)
        x = self._up("up4", net.up4, x, *where2, low if net.skips else [])
        x = self._balanced(net, "stage4", self._stage("stage4", net.stage4, x))
        x = self._up("up5", net.up5, x, *where1, channels_of(first) if net.skips else [])
        x = self._balanced(net, "stage5", self._stage("stage5", net.stage5, x))
        last = net.fullconv
        self._logits = torch.zeros(height, width, last.out_channels)
        logits = Buffer("logits", (height, width), self._logits, Type.FLOAT, last.out_channels)
        steps = self._transposed(last, x, logits, relu=False)
        self._together(steps, rows=1)
        self._last = len(steps)
        self._array = (Step * len(self.steps))(*self.steps)
        deciding = [*self.steps[: -len(steps)], *self._decision(steps, last.out_channels)]
        self._deciding = (Step * len(deciding))(*deciding)

    def _stage(self, name: str, stage: FoldedStage, *sources: Channels) -> Channels:
        there = list(sources)
        for number, (unit, slices) in enumerate(zip(stage.units, stage.slices, strict=False)):
            there.append(self._branch(f"{name}.{number}", unit, sliced(there, slices)))
            # What nobody reads any more makes room for what is written next: memory that is still in the cache.
            later = {s.source for after in stage.slices[number + 1 :] for s in after}
            for source in {s.source for s in slices} - later:
                if source >= len(sources):
                    self._release(there[source][0].buffer)
        return sliced(there, stage.slices[-1])

    def _branch(self, name: str, layers: Sequence[nn.Module], x: Channels) -> Channels:
        """1x1, or 1x1 - 3x3 - 1x1, each with its ReLU. The last one takes the rows of the 3x3 as they are made."""
        convolutions = list(layers[::2])
        if len(convolutions) == 1:
            return self._convolution(name, convolutions[0], x)[0]
        before, middle, after = convolutions
        turned = isinstance(middle, nn.ConvTranspose2d)
        x, _ = self._convolution(f"{name}.0", before, x, halo=1 if turned else middle.padding[1], between=True)
        x, first = self._convolution(f"{name}.1", middle, x, wrap=middle.stride[0] if turned else 1)
        x, second = self._convolution(f"{name}.2", after, x)
        self._together([*first, *second], rows=first[0].rows)
        return x

    def _down(self, name: str, unit: nn.Module, pooled: Channels, x: Channels) -> tuple[Channels, Channels]:
        return self._branch(f"{name}.left", unit.left, pooled), self._branch(f"{name}.right", unit.right, x)

    def _up(
        self, name: str, unit: FoldedUpUnit, x: Channels, where: Buffer, order: list[int], skip: Channels
    ) -> Channels:
        """An Up unit whose channels stand in the order in which the maxima were pooled."""
        low, right = (
            self._branch(f"{name}.{side}", [*layers[:-2], ordered(layers[-2], None, order), layers[-1]], x)[0].buffer
            for side, layers in (("left", unit.left), ("right", unit.right))
        )
        out = self._buffer(name, right.size, right.channels)
        skips = exact_pieces([skip[i] for i in order] if skip else [])
        step = self._step(Kind.UNPOOL, [low.piece(), where.piece(), right.piece(), *skips])
        self._writes(step, out)
        return placed(out, order)

    def _balanced(self, net: FoldedDSNet, name: str, x: Channels) -> Channels:
        """FBNet's sum of a stage's features and what its modulator makes of them."""
        if name not in net.balance:
            return x
        modulator = net.balance[name].modulator
        if isinstance(modulator, nn.Identity):
            return x
        if isinstance(modulator, nn.Conv2d):
            return self._convolution(f"{name}.balance", modulator, x, relu=False)[0]
        assert isinstance(modulator, DualFeatureModulator)
        pieces, count = exact_pieces(x), len(x)
        height, width = x[0].buffer.size
        sums = self._buffer(f"{name}.sums", (height, 1), count, Type.FLOAT)
        self._writes(self._step(Kind.AVERAGE, pieces), sums, (height, width))
        gates = self._buffer(f"{name}.gates", (1, 1), count, Type.FLOAT)
        sensor = modulator.channel_sensor
        step = self._step(Kind.GATE, [sums.piece()], sensor.weight, sensor.bias)
        step.in_height, step.in_width = height, width
        self._writes(step, gates)
        out = self._buffer(f"{name}.balance", (height, width), count)
        sensor = modulator.spatial_sensor
        step = self._step(Kind.WEIGH, [gates.piece(), *pieces], sensor.weight, sensor.bias)
        self._writes(step, out)
        return channels_of(out)

    def _decision(self, steps: Sequence[Step], classes: int) -> list[Step]:
        """The steps that write the logits, to two rows for each thread instead, and one that decides on these."""
        height, width = self._padded
        memory = torch.zeros(self._threads, 2, width, padded(classes))
        self._constants.append(memory)
        rows = Buffer("logits.rows", self._padded, memory, Type.FLOAT, classes, wrap=2)
        steps = [Step.from_buffer_copy(step) for step in steps]
        for step in steps:
            step.out, step.channels = rows.piece(), 0
        decide = Step(kind=Kind.DECIDE, pieces=1, by=1, height=height, width=width, channels=classes)
        decide.inputs[0] = rows.piece()
        decide.out = _plane(None, width)
        self._together([*steps, decide], rows=1)
        return [*steps, decide]

    # --- Steps ----------------------------------------------------------------------------------------------------

    def _first(self, init: nn.Module, size: tuple[int, int]) -> tuple[Buffer, Buffer]:
        """The init unit. Returns its result in float32, and in the program's type."""
        conv = init.conv if isinstance(init, ConvBesidePool) else init[0]
        weights = torch.zeros(3, 10, PADDED)
        weights[:, :9, : conv.out_channels] = conv.weight.permute(1, 2, 3, 0).flatten(1, 2)
        bias = conv.bias
        if isinstance(init, ConvBesidePool):
            weights[:, 9, conv.out_channels :] = torch.diag(init.factor.flatten())
            bias = torch.cat([bias, init.summand.flatten()])
        exact = self._buffer("init", size, PADDED, Type.FLOAT)
        step = self._step(Kind.FIRST, [Piece() for _ in range(3)], weights, bias)
        self._writes(step, exact)
        first = exact
        if self.type is not Type.FLOAT:
            first = self._buffer("init.rounded", size, PADDED)
            step.also = first.piece()
        return exact, first

    def _pool(self, name: str, x: Channels) -> tuple[Channels, Buffer, list[int]]:
        """2x2 max-pooling. Returns the maxima, where they stood, and of which channel of ``x`` each of these is."""
        height, width = x[0].buffer.size
        size = (height // 2, width // 2)
        order = in_memory(x)
        pooled = self._buffer(name, size, len(x))
        memory = torch.zeros(*size, padded(len(x)), dtype=torch.uint8)
        where = Buffer(f"{name}.where", size, memory, Type.BYTE, len(x))
        self._constants.append(where.memory)
        step = self._step(Kind.POOL, exact_pieces([x[i] for i in order]))
        self._writes(step, pooled)
        step.also = where.piece()
        return placed(pooled, order), where, order

    def _convolution(
        self,
        name: str,
        conv: nn.Module,
        x: Channels,
        halo: int = 0,
        between: bool = False,
        wrap: int = 0,
        relu: bool = True,
    ) -> tuple[Channels, list[Step]]:
        """A convolution, or a transposed one, and a ReLU.

        Args:
            halo: columns of zeros that the next step reads.
            between: nobody but the next step reads the result.
            wrap: nor that more than so many rows at a time, right after they are made.
        """
        turned = isinstance(conv, nn.ConvTranspose2d)
        height, width = x[0].buffer.size
        factor = conv.stride[0]
        size = (height * factor, width * factor) if turned else (height // factor, width // factor)
        out = self._buffer(name, size, conv.out_channels, halo=halo, between=between, wrap=wrap)
        if turned:
            return channels_of(out), self._transposed(conv, x, out, relu)
        taps = [(i, j) for i in range(conv.kernel_size[0]) for j in range(conv.kernel_size[1])]
        (d0, d1), (p0, p1) = conv.dilation, conv.padding
        step = self._multiply(x, conv.weight.flatten(2), conv.bias, [(i * d0 - p0, j * d1 - p1) for i, j in taps], out)
        step.stride, step.relu = factor, relu
        self._writes(step, out)
        return channels_of(out), [step]

    def _transposed(self, conv: nn.ConvTranspose2d, x: Channels, out: Buffer, relu: bool) -> list[Step]:
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
                step = self._multiply(x, weight, conv.bias, places, out)
                self._writes(step, out, x[0].buffer.size)
                step.relu, step.by, step.below, step.beside = relu, by, a, b
                steps.append(step)
        return steps

    def _together(self, steps: Sequence[Step], rows: int) -> None:
        """Carry these steps, which follow one another, out row by row, ``rows`` of the first at a time."""
        steps[0].together = len(steps)
        for step in steps:
            step.together = max(step.together, 1)
            step.rows = rows * step.height // steps[0].height

    def _multiply(
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
        vectors = width // self._lanes
        # With AVX2 there are registers for two.
        at_once = next(count for count in (4, 2, 1) if vectors % count == 0 and (count < 4 or self._lanes != 8))
        # [pass, tap, group, output channel, channel of the group]
        laid = weight.view(vectors // at_once, at_once * self._lanes, -1, type.group, taps).permute(0, 4, 2, 1, 3)
        laid = laid.to((torch.float32, torch.bfloat16, torch.int8)[type])
        step = self._step(Kind.CONVOLUTION, pieces, laid, bias / out.factor, scale)
        step.reads, step.stride, step.vectors, step.passes = type, 1, at_once, vectors // at_once
        step.in_height, step.in_width = x[0].buffer.size
        step.taps = taps
        for number, (y, x_) in enumerate(places):
            step.dy[number], step.dx[number] = y, x_
        return step

    def _step(
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
        step.weights = self._constant(weights)
        step.bias = self._constant(None if bias is None else bias.float())
        step.scale = self._constant(None if scale is None else scale.float())
        self.steps.append(step)
        return step

    def _constant(self, values: Tensor | None) -> int | None:
        if values is None:
            return None
        self._constants.append(values.detach().contiguous().clone())
        return self._constants[-1].data_ptr()

    def _writes(self, step: Step, out: Buffer, size: tuple[int, int] | None = None) -> None:
        """Have a step write to a buffer, pixels as many as that has if ``size`` is not given."""
        step.height, step.width = out.size if size is None else size
        step.writes, step.out = out.type, out.piece()
        if step.kind != Kind.CONVOLUTION or out.memory.shape[-1] % PADDED:
            step.channels = out.memory.shape[-1]

    def _buffer(
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
        if shape[-1] > WIDEST:
            raise UnsupportedError(f"a tensor has {channels} channels, and {WIDEST} is the most")
        wrap = 0 if self._apart else wrap
        if wrap:
            shape = (self._threads, wrap, *shape[1:])
        key = (*shape, halo, type)
        shared = (between or wrap) and not self._apart
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

    def _release(self, buffer: Buffer) -> None:
        """Nobody reads this buffer any more."""
        if not self._apart:
            self._free.setdefault((*buffer.memory.shape, buffer.halo, buffer.type), []).append(buffer.memory)


def _plane(memory: Tensor | None, width: int, temperature: float | None = None) -> Piece:
    """A plane of bytes to write, of confidences at a temperature."""
    return Piece(None if memory is None else memory.data_ptr(), 1, width, 1, Type.BYTE, 1 / (temperature or 1.0))


def check_supported(network: Folded, type: Type) -> None:
    """Refuse what these steps cannot say.

    Raises:
        UnsupportedError: if the network is not a DSNet of the paper's own units, or cannot be had in bytes.
    """
    inner = network.network
    if not isinstance(inner, FoldedDSNet) or not isinstance(inner.pyramid_pooling, nn.Identity):
        raise UnsupportedError(
            "only DSNets of the paper's own units, without pyramid pooling, can be run by the native kernels"
        )
    if type is Type.BYTE and any(isinstance(b.modulator, nn.Conv2d) for b in inner.balance.values()):
        raise UnsupportedError("int8 cannot be had with FBNet's modulator 'conv': what it gives may be negative")


def padded(channels: int) -> int:
    """The next multiple of 16."""
    return -(-channels // PADDED) * PADDED
