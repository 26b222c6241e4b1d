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
    """What a flight needs of a graph, which keeps alive whatever the kernels read and write.

    Attributes:
        graph: it reads ``pixels`` and writes ``planes``, uint8 on the device, end to end.
        starts: where each image begins in ``pixels``, and then where the last one ends.
        planes_of: for each image where its planes begin in ``planes``, with their (height, width).
    """

    graph: Graph
    pixels: Tensor
    planes: Tensor
    starts: Sequence[int]
    planes_of: Sequence[Sequence[tuple[int, Size]]]


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

    Args:
        graph: what computes it; it may hold more images than there are, whose answers nobody reads.
        places: which of the graph's images each of the batch is.
        stages: if given, receives seconds when it lands: "preprocess", filling the pinned buffer and the upload;
            "network", the graph, so resizing and class ids too; "postprocess", the download and copying out.
    """

    def __init__(
        self, graph: Captured, places: Sequence[int], slot: Slot, device: CudaDevice, stages: Stages | None
    ) -> None:
        self._graph, self._places, self._slot, self._device, self._stages = graph, places, slot, device, stages
        self._lock = threading.Lock()
        self._fill_s = 0.0
        self._answer: list[np.ndarray] | None = None
        self._failure: Exception | None = None

    def start(self, images: Sequence[np.ndarray]) -> None:
        """Fill the slot and give the streams their work."""
        device, slot, graph = self._device, self._slot, self._graph
        given = graph.starts[max(self._places) + 1]
        wanted = max(at + height * width for place in self._places for at, (height, width) in graph.planes_of[place])
        slot.fit(len(graph.pixels), len(graph.planes))
        begun, host = perf_counter(), slot.host_pixels.numpy()
        for place, image in zip(self._places, images, strict=True):
            at = graph.starts[place]
            np.copyto(host[at : at + image.size].reshape(image.shape), image)
        self._fill_s = perf_counter() - begun
        device.record(device.up, slot.begun)
        device.copy(device.up, slot.pixels[:given], slot.host_pixels[:given])
        device.record(device.up, slot.uploaded)
        device.order(device.compute, slot.uploaded)
        device.copy(device.compute, graph.pixels[:given], slot.pixels[:given])
        device.replay(graph.graph)
        device.copy(device.compute, slot.planes[:wanted], graph.planes[:wanted])
        device.record(device.compute, slot.computed)
        device.order(device.down, slot.computed)
        device.copy(device.down, slot.host_planes[:wanted], slot.planes[:wanted])
        device.record(device.down, slot.downloaded)
        # whoever asked may lose interest, in the answer and in the model
        device.keep(self, slot.downloaded)

    def land(self) -> list[np.ndarray]:
        """Wait for the answer: uint8 [H, W] for each plane, arrays of their own; those of all images, kind by kind.

        Copied out, although the pinned buffer could be handed on: whoever keeps masks would keep pinned memory, which
        a vehicle has little of, and each frame would need a new buffer.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._answer is None:
                try:
                    self._device.wait(self._slot.downloaded)
                except Exception as error:
                    self._failure, self._slot.flight = error, None
                    raise
                begun, host = perf_counter(), self._slot.host_planes.numpy()
                of_images = [self._graph.planes_of[place] for place in self._places]
                self._answer = [
                    host[at : at + height * width].reshape(height, width).copy()
                    for kind in zip(*of_images, strict=True)
                    for at, (height, width) in kind
                ]
                self._tell_stages(perf_counter() - begun)
                self._slot.flight = None
                self._device.release(self)
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
