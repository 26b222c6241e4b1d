"""The little of MATLAB's file format (version 5, packed or not) that the labels of SBD need.

scipy.io.loadmat reads any such file, but a single wrong bit can make it crash the process instead of raising an error
(seen with scipy 1.17), and a training that dies without a word names no file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

_HEADER = 128
_UINT8, _MATRIX, _COMPRESSED = 2, 14, 15  # kinds of elements
_STRUCT_ARRAY, _UINT8_ARRAY = 2, 9  # kinds of matrices
_MOST_BYTES = 1 << 28  # no label needs as much; what is packed could be made to unpack to any size


def uint8_field(content: bytes, variable: str, field: str) -> np.ndarray:
    """A matrix that is a field of a structure: ``variable.field``.

    Args:
        content: of the file.
        variable: the name of a 1 x 1 structure.
        field: the name of one of its fields, a matrix of uint8.

    Returns:
        uint8 [rows, columns].

    Raises:
        ValueError: if the file is damaged, of another version, or holds no such matrix.
    """
    if len(content) < _HEADER or content[126:128] not in (b"IM", b"MI"):
        raise ValueError("it is no MATLAB file of version 5")
    order = "<" if content[126:128] == b"IM" else ">"
    (version,) = struct.unpack_from(f"{order}H", content, 124)
    if version != 0x0100:
        raise ValueError(f"it is a MATLAB file of version {version:#06x}, not of version 5 ({0x0100:#06x})")
    for kind, body in _elements(memoryview(content)[_HEADER:], order):
        if kind == _COMPRESSED:
            kind, body = next(_elements(_unpacked(body), order), (0, body))
        if kind != _MATRIX:
            continue
        array, _, name, parts = _matrix(body, order)
        if name == variable and array == _STRUCT_ARRAY:
            return _uint8_matrix(_field(parts, order, field), order)
    raise ValueError(f"it holds no structure '{variable}'")


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """(kind, content) of the elements that follow one another; ValueError where one is cut."""
    position = 0
    while position < len(data):
        if position + 8 > len(data):
            raise ValueError("it ends early")
        kind, length = struct.unpack_from(f"{order}II", data, position)
        start = position + 8
        if kind >> 16:  # up to 4 bytes stand in the tag itself
            kind, length, start = kind & 0xFFFF, kind >> 16, position + 4
            position += 8
        else:
            # all begin at multiples of 8, but for what is packed
            position = start + length + (0 if kind == _COMPRESSED else -length % 8)
        if start + length > min(position, len(data)):
            raise ValueError("it ends early")
        yield kind, data[start : start + length]


def _unpacked(body: memoryview) -> memoryview:
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(body, _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"it is damaged ({error})") from None
    if not unpacker.eof:
        raise ValueError("what it packs ends early or is far too large")
    return memoryview(data)


def _matrix(body: memoryview, order: str) -> tuple[int, tuple[int, ...], str, Iterator[tuple[int, memoryview]]]:
    """A matrix's kind, size, name, and the elements that follow."""
    parts = _elements(body, order)
    head = [part for _, part in (next(parts, (0, body[:0])) for _ in range(3))]
    flags, size, name = head
    if len(flags) != 8 or len(size) % 4 or not len(size):
        raise ValueError("a matrix in it has no size")
    (word,) = struct.unpack_from(f"{order}I", flags)
    return word & 0xFF, tuple(np.frombuffer(size, f"{order}i4").tolist()), _text(name), parts


def _field(parts: Iterator[tuple[int, memoryview]], order: str, field: str) -> memoryview:
    """The matrix that is this field of a structure, whose elements these are."""
    (_, width), (_, joined) = (next(parts, (0, memoryview(b""))) for _ in range(2))
    if len(width) != 4:
        raise ValueError("a structure in it names no fields")
    (step,) = struct.unpack(f"{order}i", width)
    names = [_text(joined[i : i + step]) for i in range(0, len(joined), step)] if step > 0 else []
    for name, (kind, body) in zip(names, parts, strict=False):
        if name == field and kind == _MATRIX:
            return body
    raise ValueError(f"its structure has no field '{field}'")


def _uint8_matrix(body: memoryview, order: str) -> np.ndarray:
    array, size, _, parts = _matrix(body, order)
    kind, values = next(parts, (0, body[:0]))
    if array != _UINT8_ARRAY or kind != _UINT8 or len(size) != 2 or min(size) < 1:
        raise ValueError("the labels in it are no rows and columns of uint8")
    if size[0] * size[1] != len(values):
        raise ValueError(f"the labels in it are {len(values)} values, not {size[1]}x{size[0]}")
    return np.ascontiguousarray(np.frombuffer(values, np.uint8).reshape(size, order="F"))  # column by column


def _text(name: memoryview) -> str:
    return bytes(name).split(b"\0")[0].decode("latin-1")
