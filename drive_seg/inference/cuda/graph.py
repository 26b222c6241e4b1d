"""A frame path as a CUDA graph.

A graph is one launch where the path itself takes one for each of some hundred kernels, so that the host no longer holds
the GPU up. After its capture it must label two pictures as the path does without it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from drive_seg.inference.cuda.device import CudaDevice, Pool
from drive_seg.inference.decision import SPARSE
from drive_seg.inference.path import FramePath
from drive_seg.inference.runtimes import Size
from drive_seg.labels import VOID

COUNTS = (1, 2, 3, 4, 6)
"""Images of one size in a graph, beyond them multiples of four; what is free among them is computed and not read."""
STEPS, MOST_DIFFERENT = 2, 0.02
"""A graph's classes may differ from the path's where the path itself can hardly tell them apart, see
:meth:`FramePath.ties`, and its confidences by so many of 255 steps; both, or confidences by more, at this share of the
pixels at most. A graph that reads what is no longer there is wrong at most of them. Equal they need not be: some
kernels of cuDNN sum in an order of their own each time."""
WARM_UPS = 2


class GraphError(RuntimeError):
    """A graph does not do what it was captured from; the message says in what."""


class Combination(NamedTuple):
    """What a graph is for.

    Attributes:
        sizes: (height, width) of each image, equal ones next to each other, as many of them as ``COUNTS`` allows.
        size: (height, width) in which the network sees them.
        confidence: also give that.
        of_frames: also give what whole frames are judged by.
    """

    sizes: tuple[Size, ...]
    size: Size
    confidence: bool
    of_frames: bool

    def __str__(self) -> str:
        images = ", ".join(f"{len(list(same))} of {w}x{h}" for (h, w), same in groupby(self.sizes))
        return f"{images}{' with confidence' if self.confidence else ''}"


def pad(sizes: Sequence[Size]) -> tuple[tuple[Size, ...], list[int]]:
    """The sizes of the graph that takes images of these, and which of its images each of them is."""
    padded, places = [], []
    for size, same in groupby(sizes):
        count = len(list(same))
        places += range(len(padded), len(padded) + count)
        padded += [size] * next((n for n in COUNTS if n >= count), -(-count // 4) * 4)
    return tuple(padded), places


class Buffers:
    """What graphs read and write, in common, because they run one after the other.

    Attributes:
        pixels, planes: uint8 on the device, all images and all planes end to end.
    """

    def __init__(self, device: CudaDevice, key: Combination) -> None:
        self.pixels, self.planes = device.memory(3 * area(key.sizes)), device.memory(_planes(key)[1])

    def fit(self, key: Combination) -> bool:
        """Whether they are large enough; if not, larger ones are made, and the graphs there are keep theirs."""
        return len(self.pixels) >= 3 * area(key.sizes) and len(self.planes) >= _planes(key)[1]


class FrameGraph:
    """The frame path for one combination, captured and compared with the path itself.

    Args:
        path: what is captured; it is kept, because the kernels read its weights.
        device: where.
        key: for which images.
        buffers: what it reads and writes.
        pool: for what is between; of another graph that is alive, or a new one.
        lock: held by whoever gives work to the buffers.

    Attributes:
        pool: where its kernels keep what is between.
        graph, pixels, planes, starts, planes_of: see :class:`~drive_seg.inference.cuda.flight.Captured`.
        differing: the share of pixels of two pictures to which it gave another class than the path.

    Raises:
        RuntimeError: if it cannot be captured, or labels otherwise than the path.
    """

    def __init__(
        self,
        path: FramePath,
        device: CudaDevice,
        key: Combination,
        buffers: Buffers,
        pool: Pool,
        lock: threading.RLock,
    ) -> None:
        self._path, self._buffers, self.pool = path, buffers, pool
        self.starts = [0, *accumulate(3 * height * width for height, width in key.sizes)]
        self.planes_of, length = _planes(key)
        self.pixels, self.planes = buffers.pixels[: self.starts[-1]], buffers.planes[:length]
        begins = [at for kind in zip(*self.planes_of, strict=True) for at, _ in kind]
        order = sorted(range(len(begins)), key=begins.__getitem__)

        def compute(pixels: Tensor, planes: Tensor) -> None:
            found = path(_stacks(pixels, key.sizes), key.size, key.confidence, of_frames=key.of_frames)
            torch.cat([found[place].reshape(-1) for place in order], out=planes)

        pixels, planes = device.memory(len(self.pixels)), device.memory(length)
        for seed in range(WARM_UPS):  # libraries choose their kernels and take their memory
            device.run(lambda seed=seed: pixels.copy_(_patches(key.sizes, seed)))
            device.run(lambda: compute(pixels, planes))
        self.graph = device.capture(lambda: compute(self.pixels, self.planes), pool)

        def replay() -> Tensor:
            with lock:
                self.pixels.copy_(pixels)
                self.planes.fill_(VOID)
                device.replay(self.graph)
                return self.planes.clone()

        differing = 0
        for seed in range(2):  # two, because one would not show a graph that reads what is no longer there
            device.run(lambda seed=seed: pixels.copy_(_patches(key.sizes, seed)))
            device.run(lambda: compute(pixels, planes))
            ties = device.run(lambda: path.ties(_stacks(pixels, key.sizes), key.size))
            found, wanted = device.run(replay).cpu(), planes.cpu()
            for planes_of, tie in zip(self.planes_of, ties, strict=True):
                differing += _check(found, wanted, planes_of, tie.cpu())
        self.differing = differing / (2 * area(key.sizes))


def _planes(key: Combination) -> tuple[list[list[tuple[int, Size]]], int]:
    """Where the planes of each image begin, with their (height, width), and where the last one ends.

    Those of an image lie together: of a batch that does not fill its graph only the first are downloaded.
    """
    rows = [(-(-key.size[0] // SPARSE), key.size[1])] if key.of_frames else []
    planes_of, at = [], 0
    for size in key.sizes:
        planes_of.append([])
        for height, width in [size, *[size] * key.confidence, *rows]:
            planes_of[-1].append((at, (height, width)))
            at += height * width
    return planes_of, at


def area(sizes: Sequence[Size]) -> int:
    """Of images together, in pixels."""
    return sum(height * width for height, width in sizes)


def _stacks(pixels: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
    """Views of images that lie end to end: [B, H, W, 3] for each run of B images of one size."""
    stacks, at = [], 0
    for (height, width), same in groupby(sizes):
        count = len(list(same))
        until = at + 3 * height * width * count
        stacks.append(pixels[at:until].view(count, height, width, 3))
        at = until
    return stacks


def _patches(sizes: Sequence[Size], seed: int, side: int = 16) -> Tensor:
    """Images of random patches end to end, uint8: more for a network to tell apart than noise or one grey."""
    rng, images = np.random.default_rng(seed), []
    for height, width in sizes:
        small = rng.integers(0, 256, (-(-height // side), -(-width // side), 3), np.uint8)
        images.append(small.repeat(side, 0).repeat(side, 1)[:height, :width].reshape(-1))
    return torch.from_numpy(np.concatenate(images))


def _check(found: Tensor, wanted: Tensor, planes_of: Sequence[tuple[int, Size]], tie: Tensor) -> int:
    """How many pixels of one image have another class than wanted.

    Args:
        found, wanted: what the graph and the path wrote.
        planes_of: where the image's planes begin: classes, then confidences.
        tie: bool [H, W], where another class is no error.

    Raises:
        GraphError: if they differ by more than ``MOST_DIFFERENT`` allows, or where there is no tie.
    """
    off = (found.short() - wanted.short()).abs()
    (at, (height, width)), *others = planes_of
    differs = off[at : at + height * width].view(height, width) != 0
    wrong, share = (differs & ~tie).float().mean().item(), differs.float().mean().item()
    if wrong > 0 or share > MOST_DIFFERENT:
        raise GraphError(
            f"it gives another class than its path at {share:.2%} of the pixels, {wrong:.2%} where that is no tie"
        )
    for at, (height, width) in others:
        share = (off[at : at + height * width] > STEPS).float().mean().item()
        if share > MOST_DIFFERENT:
            raise GraphError(f"it gives another confidence than its path at {share:.2%} of the pixels")
    return int(differs.sum())
