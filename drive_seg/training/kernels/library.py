"""kernels.cpp and depthwise.cpp, compiled on this machine and kept in the user's cache."""

from __future__ import annotations

import ctypes
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from drive_seg.inference.runtimes import host
from drive_seg.inference.runtimes.native.runtime import compile_other

SOURCES = tuple(Path(__file__).with_name(name) for name in ("kernels.cpp", "depthwise.cpp"))

_P, _ROWS, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float
_ARGUMENTS = {
    "norm": (_P, _P, _ROWS, _INT, _P, _P, *[_FLOAT] * 4, _P, _P, _P),
    "norm_gradient": (_P, _P, _P, _ROWS, _INT, _P, _P, _FLOAT, _FLOAT, _P, _P, _P),
    "shuffle": (_P, _P, _P, _P, _ROWS, *[_INT] * 4),
    "shuffle_gradient": (_P, _P, _P, _P, _ROWS, *[_INT] * 3),
    "pool": (_P, _P, _P, _ROWS, _INT, _INT),
    "unpool": (_P, _P, _P, _ROWS, _INT, _INT),
    "join": (_P, _P, _P, _P, _ROWS, _INT, _INT),
    "join_gradient": (_P, _P, _P, _P, _P, _ROWS, _INT, _INT),
    "softmax": (_P, _P, _ROWS, _P, _INT, _P, _P, _P, _P),
    "softmax_gradient": (_P, _P, _ROWS, _P, _INT, _P, _P, _P),
    "depthwise": (_P, _P, _P, _P),
    "depthwise_input": (_P, _P, _P, _P),
    "depthwise_weight": (_P, _P, _P, _P),
}


@cache
def ready() -> bool:
    """Whether the kernels run here: the processor multiplies bfloat16 and there is a C++ compiler that takes them.

    Where the compiler refuses, a warning says why.
    """
    if not host.multiplies_bf16() or not host.can_compile():
        return False
    try:
        kernels()
    except (ValueError, OSError) as error:
        warnings.warn(f"training goes on without its kernels, more slowly: {error}", stacklevel=2)
        return False
    return True


@cache
def kernels() -> SimpleNamespace:
    """The functions of both; their first use on a machine compiles them, which takes some seconds.

    Raises:
        ValueError: if it cannot be compiled, or others can write to the cache.
    """
    libraries = [ctypes.CDLL(str(compile_other(source))) for source in SOURCES]
    functions = SimpleNamespace()
    for name, types in _ARGUMENTS.items():
        name = f"drive_seg_{name}"
        function = next(getattr(library, name) for library in libraries if hasattr(library, name))
        function.argtypes, function.restype = types, None
        setattr(functions, name, function)
    return functions


_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # malloc.h


def keep_freed_memory() -> None:
    """Have the process keep what it frees, as the next training step asks for as much again.

    glibc gives large features back to the system, which clears their pages again for the next layer. Other C libraries
    stay as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)


def in_bfloat16(x: Tensor) -> bool:
    """Whether layers that take x run under bfloat16 autocast on a CPU."""
    return x.is_cpu and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def channels_last(x: Tensor) -> Tensor:
    """[B, C, H, W] with a pixel's channels side by side in memory and nothing between pixels."""
    return x if rows_apart(x) == x.shape[1] else x.contiguous(memory_format=torch.channels_last)


def rows_apart(x: Tensor) -> int | None:
    """How many numbers lie from pixel to pixel of a tensor [B, C, H, W]; None if that is not the same everywhere."""
    image, channel, row, pixel = x.stride()
    even = channel == 1 and row == pixel * x.shape[3] and image == row * x.shape[2]
    return pixel if even else None


def pixels(x: Tensor) -> int:
    """B * H * W of a tensor [B, C, H, W]."""
    return x.numel() // x.shape[1]
