"""A folded network as the steps that kernels.cpp carries out, for one size of its input."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_seg.inference.decision import SPARSE
from drive_seg.inference.runtimes.native import dsnet, swiftnet
from drive_seg.inference.runtimes.native.assembly import Assembly, UnsupportedError
from drive_seg.inference.runtimes.native.library import Library
from drive_seg.inference.runtimes.native.steps import Piece, Step, Type
from drive_seg.networks.dsnet import STRIDE
from drive_seg.networks.fold import Folded
from drive_seg.networks.fold.dsnet import FoldedDSNet
from drive_seg.networks.swiftnet import SwiftNet


class Program:
    """The steps of a network with their memory: float32 [1, 3, h, w] -> logits float32 [1, C, h, w].

    Args:
        network: folded, float32 on the CPU.
        size: (height, width) of the input.
        type: what lies between the steps. DSNet's init unit's maxima, which decide where un-pooling puts values back
            to, are found in float32 whatever the type: two that tie by rounding put a value one pixel off.
        lanes: numbers in a vector of the processor.
        threads: that will carry the steps out.
        factors: for ``Type.BYTE``, of each buffer by its name.
        apart: give each step's result memory of its own, to look at afterwards.

    Attributes:
        steps: in their order.
        buffers: what the steps write, in their order.

    Raises:
        UnsupportedError: as of :func:`check_supported`.
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
        self._threads = threads
        inner = network.network
        a = self._assembly = Assembly(type, lanes, threads, factors, apart)
        if isinstance(inner, SwiftNet):
            self._padded = size
            ending = swiftnet.assemble(a, inner, size)
        else:
            self._padded = tuple(-(-side // STRIDE) * STRIDE for side in size)
            ending = dsnet.assemble(a, inner, self._padded)
        self.steps, self.buffers = a.steps, a.buffers
        self._logits, self._last = ending.logits, len(ending.steps)
        self._array = (Step * len(a.steps))(*a.steps)
        deciding = [*a.steps[: -self._last], *ending.deciding]
        self._deciding = (Step * len(deciding))(*deciding)

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
            confidence, temperature, frame_temperature: as for :meth:`drive_seg.inference.runtimes.Runtime.decide`.

        Returns:
            of those logits, what :meth:`drive_seg.inference.runtimes.Runtime.decide` gives, in memory of its own.
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


def _plane(memory: Tensor | None, width: int, temperature: float | None = None) -> Piece:
    """A plane of bytes to write, of confidences at a temperature."""
    return Piece(None if memory is None else memory.data_ptr(), 1, width, 1, Type.BYTE, 1 / (temperature or 1.0))


def check_supported(network: Folded, type: Type) -> None:
    """Refuse what these steps cannot say.

    Raises:
        UnsupportedError: if the network is neither a DSNet of the paper's own units nor a SwiftNet on an
            EfficientNet-Lite of stride 32, or cannot be had in bytes.
    """
    inner = network.network
    if isinstance(inner, SwiftNet):
        swiftnet.check_supported(inner)
        if type is Type.BYTE:
            raise UnsupportedError("int8 is not available for SwiftNet: what its blocks and sums give may be negative")
        return
    if not isinstance(inner, FoldedDSNet) or not isinstance(inner.pyramid_pooling, nn.Identity):
        raise UnsupportedError(
            "the native kernels run DSNets of the paper's own units, without pyramid pooling, and SwiftNets on an "
            "EfficientNet-Lite"
        )
    if type is Type.BYTE and any(isinstance(b.modulator, nn.Conv2d) for b in inner.balance.values()):
        raise UnsupportedError("int8 is not available for FBNet's modulator 'conv': what it gives may be negative")
