"""Frame paths as CUDA graphs.

A graph is one launch where the path itself takes one for each of some two hundred kernels, so that the host no longer
holds the GPU up. It is captured once for each combination of image sizes and outputs, and must then label two pictures
as the path does without it. Wherever anything fails, or labels differ, the plain path stays: that costs speed and a
sentence in the log, and never a frame.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from drive_seg.inference.cuda.device import CudaDevice
from drive_seg.inference.cuda.flight import Flight, Slot, Stages
from drive_seg.inference.decision import SPARSE
from drive_seg.inference.path import FramePath
from drive_seg.inference.runtimes import Size
from drive_seg.labels import VOID

MOST = 12
"""Graphs at once: six cameras of one size, one to six of them together, with and without confidence."""
STALE = 1000
"""Batches that go by until a graph nobody took meanwhile may make room for another one. A capture runs the path seven
times; so a folder of pictures that are all of different sizes costs a dozen captures for a thousand pictures."""
AGREEMENT, STEPS = 0.999, 2
"""The least share of pixels where a graph gives the path's id, and its confidence within so many of 255 steps. It is
not all of them because some kernels of cuDNN sum in an order of their own each time, which decides ties."""
WARM_UPS = 2

Tell = Callable[[str], None]


class GraphError(RuntimeError):
    """A graph does not do what it was captured from; the message says in what."""


class FrameGraphs:
    """The graphs of one Segmenter, made when a combination of images is first seen.

    That one frame is late by the capture, which on a vehicle happens within a camera's first frames, or before them
    for sizes that a Segmenter was warmed up with. Any thread may call.

    Args:
        path: what the graphs hold.
        device: where.
        tell: is told once if there will be no more graphs, and why.
        most: graphs at once; the least recently used makes room if it was never used, or not for ``stale`` batches.
        stale: see above.

    Attributes:
        off: why there are none any more; empty while there are.
    """

    def __init__(self, path: FramePath, device: CudaDevice, tell: Tell, most: int = MOST, stale: int = STALE) -> None:
        self._path, self._device, self._tell, self._most, self._stale = path, device, tell, most, stale
        self._kept: OrderedDict[tuple, FrameGraph] = OrderedDict()
        self._slots: list[Slot] = []
        self._submitted = 0
        self._lock = threading.RLock()
        self.off = ""

    def __len__(self) -> int:
        return len(self._kept)

    def submit(
        self,
        images: Sequence[np.ndarray],
        size: Size,
        confidence: bool,
        stages: Stages | None = None,
        of_frames: bool = False,
    ) -> Flight | None:
        """Send a batch on its way. If two are on theirs already, the older one's arrival is waited for first.

        Args:
            images: uint8 BGR [H, W, 3], those of one size next to each other.
            size: (height, width) in which the network sees them.
            confidence: also give that.
            stages: receives seconds when the batch has arrived, see :class:`Flight`.
            of_frames: also give what whole frames are judged by, see :class:`~drive_seg.inference.path.FramePath`.

        Returns:
            None if these images have no graph, and are left to the plain path.
        """
        with self._lock:
            if self.off:
                return None
            try:
                graph = self._graph(tuple(image.shape[:2] for image in images), size, confidence, of_frames)
                return None if graph is None else self._send(graph, images, stages)
            except Exception as error:  # whatever it is, the plain path may do without
                self._give_up(error)
                return None

    def forget_uses(self) -> None:
        """Those there are were made on expectation: they are the first to go until a frame takes them."""
        with self._lock:
            for graph in self._kept.values():
                graph.used = None

    def _graph(self, sizes: tuple[Size, ...], size: Size, confidence: bool, of_frames: bool) -> FrameGraph | None:
        self._submitted += 1
        key = sizes, size, confidence, of_frames
        graph = self._kept.get(key)
        if graph is None:
            if not self._has_room():
                return None
            graph = self._kept[key] = FrameGraph(self._path, self._device, *key)
        self._kept.move_to_end(key)
        graph.used = self._submitted
        return graph

    def _has_room(self) -> bool:
        if len(self._kept) < self._most:
            return True
        key, oldest = next(iter(self._kept.items()))
        if oldest.used is not None and self._submitted - oldest.used < self._stale:
            return False
        self._land_all()  # it may be running
        del self._kept[key]
        return True

    def _send(self, graph: FrameGraph, images: Sequence[np.ndarray], stages: Stages | None) -> Flight:
        if not self._slots:
            self._slots = [Slot(self._device), Slot(self._device)]
        self._slots.reverse()
        slot = self._slots[0]
        if slot.flight is not None:
            slot.flight.land()
        slot.flight = Flight(graph, slot, self._device, self._lock, stages)
        try:
            slot.flight.start(images)
        except BaseException:
            slot.flight = None
            raise
        return slot.flight

    def _land_all(self) -> None:
        for slot in self._slots:
            if slot.flight is not None:
                slot.flight.land()

    def _give_up(self, error: Exception) -> None:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        self.off = f"CUDA graphs are off, frames take the plain path on the GPU: {reason}"
        with suppress(Exception):  # what fails here fails again where the result is waited for
            self._land_all()
        self._kept.clear()
        self._slots.clear()
        self._tell(self.off)


class FrameGraph:
    """The frame path for images of certain sizes, captured and compared with the path itself.

    Args:
        path: what is captured.
        device: where.
        sizes: (height, width) of each image, equal ones next to each other.
        size: (height, width) in which the network sees them.
        confidence: also give that.
        of_frames: also give what whole frames are judged by.

    Attributes:
        sizes: of the planes that come out: those of the images, then again those for confidence, then what frames are
            judged by.
        pixels, planes: uint8 on the device, all images and all planes end to end: what it reads and writes.
        used: when it was taken last, as a count of batches; None if it was not.

    Raises:
        RuntimeError: if it cannot be captured, or labels otherwise than the path.
    """

    def __init__(
        self,
        path: FramePath,
        device: CudaDevice,
        sizes: tuple[Size, ...],
        size: Size,
        confidence: bool,
        of_frames: bool = False,
    ) -> None:
        area = _area(sizes)
        sparse = ((-(-size[0] // SPARSE), size[1]),) * len(sizes) if of_frames else ()
        self.sizes = sizes + (sizes if confidence else ()) + sparse
        # Not in the graphs' common memory, where the next graph would write over them.
        self.pixels, self.planes = pixels, planes = device.memory(3 * area), device.memory(_area(self.sizes))
        self.used: int | None = None
        stacks = _stacks(pixels, sizes)

        def work() -> None:
            found = path(stacks, size, confidence, of_frames=of_frames)
            torch.cat([plane.reshape(-1) for plane in found], out=planes)

        device.run(lambda: pixels.fill_(128))
        for _ in range(WARM_UPS):  # libraries choose their kernels and take their memory
            device.run(work)
        self.graph = device.capture(work)
        for seed in range(2):  # two, because one would not show a graph that reads what is no longer there
            device.run(lambda seed=seed: pixels.copy_(_patches(sizes, seed)))
            device.run(work)
            wanted = device.run(planes.clone).cpu()
            device.run(lambda: planes.fill_(VOID))
            device.run(lambda: device.replay(self.graph))
            _check(planes.cpu(), wanted, area)


def _area(sizes: Sequence[Size]) -> int:
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


def _check(found: Tensor, wanted: Tensor, area: int) -> None:
    """
    Raises:
        GraphError: if the first ``area`` bytes, ids, or the others, confidences, are not the wanted ones.
    """
    off = (found.short() - wanted.short()).abs()
    for what, same in (("class", off[:area] == 0), ("confidence", off[area:] <= STEPS)):
        share = same.float().mean().item() if len(same) else 1.0
        if share < AGREEMENT:
            raise GraphError(f"a graph gives the same {what} as the path it holds on {share:.2%} of the pixels only")
