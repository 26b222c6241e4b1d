"""The few calls of torch.cuda that frame graphs take, behind one small class."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Stream, Event, Graph = torch.cuda.Stream, torch.cuda.Event, torch.cuda.CUDAGraph

_ONE_AT_A_TIME = threading.Lock()
"""PyTorch allows one capture in a process at a time, and a node may load a model while another one runs."""
_BROKEN: list[Graph] = []
"""Graphs whose capture failed: PyTorch's allocators may still ask them which stream they were captured on."""


class CudaDevice:
    """One GPU with a stream for uploads, one that computes and one for downloads.

    Nothing here waits for the GPU but ``wait``, ``run`` and ``capture``.

    Args:
        device: "cuda" or "cuda:N".

    Attributes:
        up, compute, down: the streams.
    """

    def __init__(self, device: str) -> None:
        number = torch.device(device).index
        self._device = torch.device("cuda", torch.cuda.current_device() if number is None else number)
        self.up, self.compute, self.down = (torch.cuda.Stream(self._device) for _ in range(3))
        # One pool for all graphs, so that they take the memory of the largest and not the sum. That is safe because
        # they run one after the other on one stream, and none leaves anything in the pool that is read later.
        self._pool = torch.cuda.graph_pool_handle()

    def pinned(self, count: int) -> Tensor:
        """uint8 [count] of the host that the GPU can copy by itself."""
        return torch.empty(count, dtype=torch.uint8, pin_memory=True)

    def memory(self, count: int) -> Tensor:
        """uint8 [count] on the device, for all three streams."""
        memory = torch.empty(count, dtype=torch.uint8, device=self._device)
        for stream in (self.up, self.compute, self.down):
            # It was allocated for the default stream, where its last owner's work may not be over yet; and when it is
            # freed, its next owner there must not come before the work of these streams is.
            stream.wait_stream(torch.cuda.current_stream(self._device))
            memory.record_stream(stream)
        return memory

    def event(self) -> Event:
        return torch.cuda.Event(enable_timing=True)

    def copy(self, stream: Stream, target: Tensor, source: Tensor) -> None:
        """Copy on a stream; the host does not wait if its side is pinned."""
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)

    def record(self, stream: Stream, event: Event) -> None:
        """The event happens when the stream has done what it was given so far."""
        event.record(stream)

    def order(self, stream: Stream, event: Event) -> None:
        """The stream's next work begins after the event."""
        stream.wait_event(event)

    def wait(self, event: Event) -> None:
        """The host goes on after the event."""
        event.synchronize()

    def seconds(self, first: Event, last: Event) -> float:
        """Between two events that happened."""
        return first.elapsed_time(last) / 1e3

    def run(self, work: Callable[[], T]) -> T:
        """Do some work on the computing stream, after what the current one was given, and wait for it."""
        self.compute.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self.compute):
            result = work()
        self.compute.synchronize()
        return result

    def capture(self, work: Callable[[], object]) -> Graph:
        """The kernels that some work launches, as a graph; they do not run. The work must have run before.

        Raises:
            RuntimeError: if the work does what cannot be captured. Capture nothing more by this object then.
        """
        # The outer context is not idle: torch.cuda.graph leaves its stream the current one if the capture fails.
        with _ONE_AT_A_TIME, torch.cuda.stream(self.compute):
            graph = torch.cuda.CUDAGraph()
            try:
                # "thread_local": another thread's allocations and waits are no fault of this capture.
                with torch.cuda.graph(graph, self._pool, self.compute, capture_error_mode="thread_local"):
                    work()
            except BaseException:
                _BROKEN.append(graph)
                self._end_allocation()
                raise
        return graph

    def _end_allocation(self) -> None:
        """What a capture that cannot be ended leaves undone: the allocator would keep the pool for ever."""
        with suppress(Exception):  # if it was ended
            torch._C._cuda_endAllocateToPool(self._device.index, self._pool)
            torch._C._cuda_releasePool(self._device.index, self._pool)

    def replay(self, graph: Graph) -> None:
        """Launch a graph on the computing stream."""
        with torch.cuda.stream(self.compute):
            graph.replay()
