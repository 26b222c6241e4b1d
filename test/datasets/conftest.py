"""Tiny files of every kind of label image."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest


class Maker:
    """Writes pictures and labels, making their folders."""

    def picture(self, path: Path, seed: int = 0, size=(8, 12)) -> np.ndarray:
        image = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
        self.array(path, image)
        return image

    def array(self, path: Path, array: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), array)

    def label(self, path: Path, *values: int, size=(8, 12)) -> np.ndarray:
        """Stripes of the values, from left to right, as a grey PNG."""
        label = np.asarray(values, np.uint8)[np.arange(size[1]) * len(values) // size[1]]
        label = np.tile(label, (size[0], 1))
        self.array(path, label)
        return label

    def packed(self, path: Path, ids: np.ndarray, depth: int = 8, palette: bool = True) -> None:
        """A PNG of 1, 2, 4 or 8 bits, with a palette of random colours or grey."""
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = ids.shape
        bits = np.unpackbits(ids[..., None].astype(np.uint8), axis=2)[..., 8 - depth :].reshape(height, -1)
        rows = np.packbits(bits, axis=1)
        colors = np.random.default_rng(0).integers(0, 255, (2**depth, 3), dtype=np.uint8)
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 3 if palette else 0, 0, 0, 0))]
        if palette:
            chunks += [(b"PLTE", colors.tobytes()), (b"tRNS", bytes(4))]
        chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]
        content = b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.fixture
def make() -> Maker:
    return Maker()
