"""What goes into a file's network and what comes out of it: names, shapes, types."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from drive_seg.inference.runtimes import Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
"""Of an image, as onnxruntime calls them, and as PyTorch does."""


class FileError(ValueError):
    """A runtime that is missing, or cannot run a file; the message is one sentence that says why."""


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes:
        name: as the file calls it.
        shape: a side that is not fixed is its name or None.
        type: as onnxruntime calls it, "tensor(float)".
    """

    name: str
    shape: tuple[int | str | None, ...]
    type: str

    def __str__(self) -> str:
        sides = ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"'{self.name}' {self.type} [{sides}]"


class FileSession(Protocol):
    """A file's network in a runtime.

    Attributes:
        inputs, outputs: its ports.
        precision: what it computes in.
    """

    inputs: list[Port]
    outputs: list[Port]
    precision: str

    def run(self, wanted: Sequence[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The wanted outputs, which the next run may overwrite; RuntimeError with a sentence if it fails."""


@dataclass(frozen=True)
class ImageInput:
    """The one input of a network that takes images.

    Attributes:
        port: as the file has it.
        by_pixel: [N, height, width, 3] and not [N, 3, height, width].
        one_by_one: it takes one image at once.
        sides: (height, width), None for one that is not fixed.
    """

    port: Port
    by_pixel: bool
    one_by_one: bool
    sides: tuple[int | None, int | None]

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return getattr(torch, TYPES[self.port.type])

    def size(self, wanted: Size) -> Size:
        """The size with the fixed sides for those of a wanted (height, width)."""
        return tuple(fixed or side for fixed, side in zip(self.sides, wanted, strict=True))

    def arranged(self, batch: Tensor) -> Tensor:
        """[B, 3, h, w] of ``dtype`` as the session takes it."""
        return (batch.permute(0, 2, 3, 1) if self.by_pixel else batch).contiguous()

    def feed(self, batch: Tensor) -> dict[str, np.ndarray]:
        """[B, 3, h, w] of the host as the session takes it, by name."""
        return {self.port.name: self.arranged(batch).numpy()}


def image_input(ports: Sequence[Port]) -> ImageInput:
    """The input of a network that takes images and nothing else.

    Raises:
        ValueError: if these are not the inputs of one.
    """
    if len(ports) != 1:
        raise ValueError(f"it wants {', '.join(map(str, ports))}, and there is nothing but the image to give")
    port = ports[0]
    if port.type not in TYPES:
        raise ValueError(f"its input {port} is none of {', '.join(TYPES)}")
    fixed = [side if isinstance(side, int) else None for side in port.shape]
    by_pixel = len(fixed) == 4 and fixed[3] == 3 and fixed[1] != 3
    if len(fixed) != 4 or (not by_pixel and fixed[1] not in (3, None)):
        raise ValueError(f"its input {port} is neither [N, 3, height, width] nor [N, height, width, 3]")
    if fixed[0] not in (1, None):
        raise ValueError(f"its input {port} takes {fixed[0]} images at once; 1 or any number is needed")
    sides = fixed[1:3] if by_pixel else fixed[2:]
    return ImageInput(port, by_pixel, fixed[0] is not None, tuple(sides))


def random_batch(entry: ImageInput, count: int = 1, size: Size = (256, 512)) -> Tensor:
    """Something of an image's form, the same each time: [count, 3, h, w], in a size where the file fixes none."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, *entry.size(size))
    if entry.dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return torch.randn(shape, generator=generator).to(entry.dtype)


def in_words(error: Any) -> str:
    """An exception of a runtime in one line, without its code and the place in its sources."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return re.sub(r"\S*/onnxruntime\S*:\d+ .*?\) (?=\w)", "", text)[:400]
