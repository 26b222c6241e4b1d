"""The CUDA graphs of a Segmenter: which combinations of image sizes and outputs have one, and when it is captured.

Until there is one, and wherever anything fails or labels differ, frames take the plain path: that costs speed and a
sentence in the log, and never a frame.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch

from drive_seg.inference.cuda.device import CudaDevice, in_words, keep_for_ever
from drive_seg.inference.cuda.flight import Flight, Slot, Stages
from drive_seg.inference.cuda.graph import Buffers, Combination, FrameGraph, area, pad
from drive_seg.inference.path import FramePath
from drive_seg.inference.runtimes import Size

MOST = 24
"""Graphs at once: cameras of two sizes in all the combinations that come, with and without confidence."""
HALF_LIFE = 1000
"""Batches until a use counts half. A combination takes another one's place when it counts more than twice as much, so
that none can drive each other out in turn, and a folder of images of all sizes makes few captures."""
RETRY = 1000
"""Batches until a combination whose capture failed is tried once more; four times as many after each failure."""
FAILURES = 3
"""So many combinations may fail, none having been captured, until others are not tried either."""

Tell = Callable[[str], None]


class FrameGraphs:
    """The graphs of one Segmenter. Any thread may call.

    Args:
        path: what the graphs hold.
        device: where.
        tell: receives a sentence for the log when a combination, or all of them, go without a graph, and why.
        background: capture in a thread of its own, and let frames take the plain path meanwhile; if not, the first
            frame of a combination waits for the capture.
        most: graphs at once.
    """

    def __init__(
        self, path: FramePath, device: CudaDevice, tell: Tell, background: bool = False, most: int = MOST
    ) -> None:
        self._path, self._device, self._tell, self._background, self._most = path, device, tell, background, most
        self._graphs: dict[Combination, FrameGraph] = {}
        self._uses: dict[Combination, float] = {}
        self._waiting: set[Combination] = set()
        self._failed: dict[Combination, _Failure] = {}
        self._newest: FrameGraph | None = None
        self._slots: list[Slot] = []
        self._buffers: Buffers | None = None
        self._batches = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._graphs)

    @property
    def off(self) -> str:
        """Why there can be none; empty if there can."""
        return self._device.problem

    def describe(self) -> str:
        """For the diagnostics: how many there are, and what goes without.

        Without the lock: a GPU that hangs may hold up whoever has it, and must not hold up the diagnostics.
        """
        if self.off:
            return f"off: {self.off}"
        graphs, failed = list(self._graphs.values()), list(self._failed.items())
        text = f"{len(graphs)}"
        if coming := len(self._waiting):
            text += f", {coming} being captured"
        if differing := max((graph.differing for graph in graphs), default=0.0):
            text += f", up to {differing:.2%} of the pixels decided otherwise than without"
        if failed:
            more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
            text += f"; not for {failed[-1][0]}{more}: {failed[-1][1].reason}"
        return text

    @torch.inference_mode()
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
        if self.off:
            return None
        sizes, places = pad([image.shape[:2] for image in images])
        key = Combination(sizes, size, confidence, of_frames)
        self._count(key)
        if self._wants(key):
            self._make(key, self._background)
        while (graph := self._graphs.get(key)) is not None:
            with self._lock:
                slot = self._next_slot()
                if slot.flight is None:
                    return self._send(key, Flight(graph, places, slot, self._device, stages), slot, images)
                oldest = slot.flight
            with suppress(Exception):  # whoever asked for that batch hears of it
                oldest.land()
        return None

    def expect(self, combinations: Sequence[Combination], wait: bool) -> None:
        """Make ready for combinations that may come; the largest first, as its buffers do for all.

        Args:
            wait: return when they are there.
        """
        if self.off:
            return
        for key in sorted(set(combinations), key=lambda key: -area(key.sizes)):
            with self._lock:
                wanted = len(self._graphs) + len(self._waiting) < self._most and self._is_new(key)
                if wanted:
                    self._waiting.add(key)
            if wanted:
                self._make(key, background=not wait)

    def _count(self, key: Combination) -> None:
        with self._lock:
            self._batches += 1
            self._uses[key] = self._uses.get(key, 0.0) + 1
            if self._batches % HALF_LIFE == 0:
                halved = ((each, uses / 2) for each, uses in self._uses.items())
                self._uses = {each: uses for each, uses in halved if uses >= 0.25 or each in self._graphs}

    def _is_new(self, key: Combination) -> bool:
        if key in self._graphs or key in self._waiting:
            return False
        # where several failed and none was captured, it is not for want of luck: others wait with them
        alike = not self._graphs and len(self._failed) >= FAILURES
        failed = list(self._failed.values())[-1] if alike else self._failed.get(key)
        return failed is None or self._batches >= failed.retry_at

    def _wants(self, key: Combination) -> bool:
        """Whether this combination is to be captured; whoever hears so must."""
        with self._lock:
            if not self._is_new(key):
                return False
            full = len(self._graphs) + len(self._waiting) >= self._most
            if full and (not self._graphs or self._uses[key] <= 2 * self._uses.get(self._least_used(), 0.0)):
                return False
            self._waiting.add(key)
            return True

    def _least_used(self) -> Combination:
        return min(self._graphs, key=lambda key: self._uses.get(key, 0.0))

    def _make(self, key: Combination, background: bool) -> None:
        if background:
            self._device.in_background(lambda: self._capture(key))
        else:
            self._capture(key)

    @torch.inference_mode()
    def _capture(self, key: Combination) -> None:
        try:
            with self._lock:
                if self._buffers is None or not self._buffers.fit(key):
                    self._buffers = Buffers(self._device, key)
                buffers, other = self._buffers, self._newest
            # PyTorch takes a pool again only as long as one of its graphs is alive, and none failed in it
            pool = self._device.pool() if other is None else other.pool
            graph = FrameGraph(self._path, self._device, key, buffers, pool, self._lock)
        except Exception as error:  # whatever it is, the plain path may do without
            with suppress(Exception):
                self._device.settle()  # what was begun still uses what is freed now
            with self._lock:
                self._newest = None
                self._note_failure(key, error)
            return
        with self._lock:
            self._waiting.discard(key)
            self._failed.pop(key, None)
            while len(self._graphs) >= self._most:
                # a flight that it still carries keeps it until it has landed
                del self._graphs[self._least_used()]
            self._graphs[key] = self._newest = graph

    def _next_slot(self) -> Slot:
        """A free one, or the one whose flight began first."""
        if not self._slots:
            self._slots = [Slot(self._device), Slot(self._device)]
        return next((slot for slot in self._slots if slot.flight is None), self._slots[0])

    def _send(self, key: Combination, flight: Flight, slot: Slot, images: Sequence[np.ndarray]) -> Flight | None:
        try:
            flight.start(images)
        except Exception as error:
            self._graphs.pop(key, None)
            self._note_failure(key, error)
            try:
                self._device.settle()  # what was begun still uses the slot
            except Exception:
                self._slots.remove(slot)
                keep_for_ever(flight)
            return None
        slot.flight = flight
        self._slots.remove(slot)
        self._slots.append(slot)
        return flight

    def _note_failure(self, key: Combination, error: Exception) -> None:
        self._waiting.discard(key)
        before, reason = self._failed.pop(key, None), in_words(error)
        pause = RETRY if before is None else 4 * before.pause
        if before is None and reason not in {failure.reason for failure in self._failed.values()}:
            self._tell(f"no CUDA graph for {key}, such frames take the plain path on the GPU: {reason}")
        self._failed[key] = _Failure(reason, pause, self._batches + pause)
        if len(self._failed) > self._most:
            del self._failed[next(iter(self._failed))]


class _Failure(NamedTuple):
    """Why a combination has no graph, and when it is tried once more, as a count of batches."""

    reason: str
    pause: int
    retry_at: int
