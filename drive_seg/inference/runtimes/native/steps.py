"""The steps that kernels.cpp carries out, and the tensors that they read and write."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

PIECES, TAPS, WIDEST = 40, 9, 512
"""At most so many pieces and taps of a step, and channels of a pixel."""
PADDED = 16
"""Tensors have a multiple of this many channels: whole vectors on every processor."""


class Type(IntEnum):
    """What a tensor holds. BYTE is 0..255 times the tensor's factor."""

    FLOAT = 0
    BFLOAT = 1
    BYTE = 2

    @property
    def dtype(self) -> torch.dtype:
        return (torch.float32, torch.bfloat16, torch.uint8)[self]

    @property
    def group(self) -> int:
        """Channels in four bytes, which one multiply-add takes."""
        return (1, 2, 4)[self]


class Kind(IntEnum):
    """Of a step: see the functions of kernels.cpp."""

    CONVOLUTION = 0
    FIRST = 1
    POOL = 2
    UNPOOL = 3
    AVERAGE = 4
    GATE = 5
    WEIGH = 6
    DECIDE = 7
    DEPTHWISE = 8
    REGIONS = 9
    RESIZE = 10


class Piece(ctypes.Structure):
    """Channels of a tensor: where those of its first pixel lie, how many bytes further the next pixel's and row's."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("pixel", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("channels", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("factor", ctypes.c_float),
        ("wrap", ctypes.c_int32),
        ("thread", ctypes.c_int64),
    ]


class Step(ctypes.Structure):
    """One step.

    ``together`` steps from this one on are carried out row by row, ``rows`` rows of this one in turn with those of the
    others. ``height`` and ``width`` count the pixels that it makes: pixel (y, x) is written at (y * by + below,
    x * by + beside) of ``out``. ``vectors`` registers of output channels are computed at once, in ``passes``.
    ``channels`` is how many are written where these are not whole vectors, and for steps other than convolutions how
    many there are. Tap t of a convolution reads the pixel (y * stride + dy[t], x * stride + dx[t]) of its inputs.
    """

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("kind", "reads", "writes", "relu", "together", "rows", "above", "ahead")),
        *((name, ctypes.c_int32) for name in ("height", "width", "in_height", "in_width", "stride")),
        *((name, ctypes.c_int32) for name in ("vectors", "passes", "channels", "taps")),
        ("dy", ctypes.c_int32 * TAPS),
        ("dx", ctypes.c_int32 * TAPS),
        ("pieces", ctypes.c_int32),
        ("inputs", Piece * PIECES),
        *((name, ctypes.c_int32) for name in ("by", "below", "beside")),
        ("out", Piece),
        ("also", Piece),
        ("weights", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    ]


@dataclass(frozen=True, eq=False)
class Buffer:
    """A tensor as the steps have it.

    Attributes:
        name: the step that writes it.
        size: (height, width).
        memory: [height, width + 2 * halo, channels], channels padded to a multiple of 16; zeros where nothing writes.
            If ``wrap`` is not 0, [threads, wrap, width, channels]: each thread's rows of the moment.
        type: of its numbers.
        channels: those that mean something.
        halo: columns of zeros left and right of the image, for convolutions that reach beyond it.
        factor: a stored number times this is what it means; 1 but for bytes.
    """

    name: str
    size: tuple[int, int]
    memory: Tensor
    type: Type
    channels: int
    halo: int = 0
    factor: float = 1.0
    wrap: int = 0

    @property
    def image(self) -> Tensor:
        """[height, width, channels] without halo and padding, a view."""
        return self.memory[:, self.halo : self.halo + self.size[1], : self.channels]

    @property
    def pixel_bytes(self) -> int:
        return self.memory.shape[-1] * self.memory.element_size()

    @property
    def row_bytes(self) -> int:
        return self.memory.shape[-2] * self.pixel_bytes

    def address(self, channel: int = 0) -> int:
        """Of a channel of the first pixel."""
        return self.memory.data_ptr() + self.halo * self.pixel_bytes + channel * self.memory.element_size()

    def piece(self, start: int = 0, channels: int | None = None) -> Piece:
        """``channels`` channels from ``start`` on."""
        count = self.memory.shape[-1] if channels is None else channels
        own = self.wrap * self.row_bytes
        return Piece(
            self.address(start), self.pixel_bytes, self.row_bytes, count, self.type, self.factor, self.wrap, own
        )
