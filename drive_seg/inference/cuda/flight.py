"""Batches on their way through a GPU: one uploads and another downloads while a third is computed.

::

    host     fill pinned | submit                                             | wait for "downloaded", copy out
    up                     pinned -> device   "uploaded"
    compute                                   -> graph's input, graph, its output ->   "computed"
    down                                                                        device -> pinned   "downloaded"

There are two sets of these buffers, so two batches may be on their way. The graph has one input and one output, because
its addresses are fixed: a copy within the device on either side (some microseconds) lets one graph serve both sets.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import perf_counter
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from drive_seg.inference.cuda.device import CudaDevice, Graph
from drive_seg.inference.runtimes import Size

Stages = dict[str, float]


class Captured(Protocol):
    """What a flight needs of a graph.

    Attributes:
        graph: it reads ``pixels`` and writes ``planes``, uint8 on the device, end to end.
        sizes: (height, width) of each plane.
    """

    graph: Graph
    pixels: Tensor
    planes: Tensor
    sizes: tuple[Size, ...]


class Slot:
    """Buffers for one batch on its way, as large as the largest so far; uint8, end to end."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self.host_pixels = self.pixels = self.host_planes = self.planes = torch.empty(0, dtype=torch.uint8)
        self.begun, self.uploaded, self.computed, self.downloaded = (device.event() for _ in range(4))
        self.flight: Flight | None = None

    def fit(self, pixels: int, planes: int) -> None:
        """Make room for so many bytes; nothing may be on its way."""
        if len(self.pixels) < pixels:
            self.host_pixels, self.pixels = self._device.pinned(pixels), self._device.memory(pixels)
        if len(self.planes) < planes:
            self.host_planes, self.planes = self._device.pinned(planes), self._device.memory(planes)


class Flight:
    """A batch between its images and its answer.

    ``stages``, if given, receives seconds when it lands: "preprocess", filling the pinned buffer and the upload;
    "network", the graph, so resizing and class ids too; "postprocess", the download and copying out.
    """

    def __init__(
        self, graph: Captured, slot: Slot, device: CudaDevice, lock: threading.RLock, stages: Stages | None
    ) -> None:
        self._graph, self._slot, self._device, self._lock, self._stages = graph, slot, device, lock, stages
        self._fill_s = 0.0
        self._answer: list[np.ndarray] | None = None

    def start(self, images: Sequence[np.ndarray]) -> None:
        """Fill the slot and give the streams their work."""
        device, slot, graph = self._device, self._slot, self._graph
        given, wanted = len(graph.pixels), len(graph.planes)
        slot.fit(given, wanted)
        begun, at = perf_counter(), 0
        host = slot.host_pixels.numpy()
        for image in images:
            np.copyto(host[at : at + image.size].reshape(image.shape), image)
            at += image.size
        self._fill_s = perf_counter() - begun
        device.record(device.up, slot.begun)
        device.copy(device.up, slot.pixels[:given], slot.host_pixels[:given])
        device.record(device.up, slot.uploaded)
        device.order(device.compute, slot.uploaded)
        device.copy(device.compute, graph.pixels, slot.pixels[:given])
        device.replay(graph.graph)
        device.copy(device.compute, slot.planes[:wanted], graph.planes)
        device.record(device.compute, slot.computed)
        device.order(device.down, slot.computed)
        device.copy(device.down, slot.host_planes[:wanted], slot.planes[:wanted])
        device.record(device.down, slot.downloaded)

    def land(self) -> list[np.ndarray]:
        """Wait for the answer: uint8 [H, W] for each plane, arrays of their own.

        Copied out, although the pinned buffer could be handed on: whoever keeps masks would keep pinned memory, which
        a vehicle has little of, and each frame would need a new buffer.
        """
        with self._lock:
            if self._answer is None:
                self._device.wait(self._slot.downloaded)
                begun, at, answer = perf_counter(), 0, []
                host = self._slot.host_planes.numpy()
                for height, width in self._graph.sizes:
                    answer.append(host[at : at + height * width].reshape(height, width).copy())
                    at += height * width
                self._answer = answer
                self._tell_stages(perf_counter() - begun)
                self._slot.flight = None
            return self._answer

    def _tell_stages(self, copied_s: float) -> None:
        if self._stages is None:
            return
        slot, between = self._slot, self._device.seconds
        for stage, seconds in (
            ("preprocess", self._fill_s + between(slot.begun, slot.uploaded)),
            ("network", between(slot.uploaded, slot.computed)),
            ("postprocess", between(slot.computed, slot.downloaded) + copied_s),
        ):
            self._stages[stage] = self._stages.get(stage, 0.0) + seconds
