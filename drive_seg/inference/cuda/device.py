"""The calls of torch.cuda that frames take, behind one class, and how a lost GPU is told from one frame's failure."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Stream, Event, Graph = torch.cuda.Stream, torch.cuda.Event, torch.cuda.CUDAGraph
Pool = tuple[int, int]

FIRST_TORCH = (2, 8)
"""Graphs are used from this PyTorch on. How a failed capture is ended was read in the sources of 2.8 to 2.13; before
2.8 the calls have other names."""
_ONE_AT_A_TIME = threading.Lock()
"""PyTorch allows one capture in a process at a time, and a node may load a model while another one runs."""
_BROKEN: list[Graph] = []
"""Graphs whose capture was invalidated: PyTorch's allocators may still ask them which stream they were captured on.
They hold no memory of the device."""
_DEVICES: dict[int, CudaDevice] = {}
_MAKING = threading.Lock()


class DeviceLostError(RuntimeError):
    """The GPU fails every call from here on: only a new process gets it back."""


def index_of(device: str) -> int:
    """The number of "cuda:N"; that of the current device for "cuda"."""
    index = torch.device(device).index
    return torch.cuda.current_device() if index is None else index


def is_lost(device: str) -> bool:
    """Whether a GPU fails whatever is asked of it, as after an illegal access or a fault of the bus.

    CUDA repeats such an error ("sticky") at each call until the process ends. Others concern the call that met them.
    """
    for _ in range(2):  # the first may be told of an error that is over
        with suppress(Exception):
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            event.synchronize()
            return False
    return True


def keep_for_ever(thing: object) -> None:
    """Never free an object, not even at exit: on a lost GPU PyTorch's destructors end the process with SIGABRT."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class CudaDevice:
    """One GPU, with a stream for uploads, one that computes, one for downloads and one for captures.

    There is one object for each GPU (:meth:`of`), because PyTorch has 32 streams in all and hands them out in turn:
    with more, two would be the same one. Nothing here waits for the GPU but ``wait``, ``run`` and ``settle``.

    Memory goes back to PyTorch's allocator as soon as it is freed, so it may be freed only when the work that uses it
    is over: see :meth:`keep`. PyTorch's own way, ``record_stream``, calls CUDA from destructors, which must not fail.

    Args:
        index: the GPU's number.

    Attributes:
        up, compute, down: the streams. A capture has one of its own, on which nothing ever runs.
    """

    def __init__(self, index: int) -> None:
        self._device = torch.device("cuda", index)
        self.up, self.compute, self.down, self._captured = (torch.cuda.Stream(self._device) for _ in range(4))
        self._kept: dict[int, tuple[Event, object]] = {}
        self._lock = threading.Lock()
        # Not a daemon: at exit it is waited for, as a thread that is stopped inside CUDA would end the process badly.
        self._executor = ThreadPoolExecutor(1, "drive_seg captures")

    @staticmethod
    def of(device: str) -> CudaDevice:
        """The object for "cuda" or "cuda:N"."""
        index = index_of(device)
        with _MAKING:
            if index not in _DEVICES:
                _DEVICES[index] = CudaDevice(index)
            return _DEVICES[index]

    @cached_property
    def problem(self) -> str:
        """Why there can be no graphs here; empty if there can. One of a single addition is tried once."""
        version = tuple(int(part) for part in torch.__version__.split(".")[:2])
        if version < FIRST_TORCH:
            return f"they need PyTorch {'.'.join(map(str, FIRST_TORCH))} or newer, this is {torch.__version__}"
        try:
            numbers = self.memory(16)
            self.run(lambda: numbers.fill_(1))
            self.run(lambda: numbers.add_(1))
            graph = self.capture(lambda: numbers.add_(1), self.pool())
            self.run(lambda: self.replay(graph))
            found = self.run(numbers.sum).item()
        except Exception as error:
            return f"the self-test of one addition failed: {in_words(error)}"
        return "" if found == 48 else f"the self-test of one addition gave {found} in place of 48"

    def pinned(self, count: int) -> Tensor:
        """uint8 [count] of the host that the GPU can copy by itself."""
        return torch.empty(count, dtype=torch.uint8, pin_memory=True)

    def memory(self, count: int) -> Tensor:
        """uint8 [count] on the device, for all streams from now on."""
        memory = torch.empty(count, dtype=torch.uint8, device=self._device)
        for stream in (self.up, self.compute, self.down):
            # its last owner's work on the stream that it was allocated for may not be over yet
            stream.wait_stream(torch.cuda.current_stream(self._device))
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

    def keep(self, thing: object, until: Event) -> None:
        """Hold on to what the GPU reads or writes until an event, or :meth:`release`; also lets go what is over."""
        with self._lock:
            self._kept[id(thing)] = until, thing
            for key, (event, _) in list(self._kept.items()):
                with suppress(Exception):  # of a lost GPU: nothing is freed any more
                    if key != id(thing) and event.query():
                        del self._kept[key]

    def release(self, thing: object) -> None:
        """The GPU is done with it."""
        with self._lock:
            self._kept.pop(id(thing), None)

    def run(self, work: Callable[[], T]) -> T:
        """Do some work on the computing stream, after what the current one was given, and wait for it."""
        self.compute.wait_stream(torch.cuda.current_stream(self._device))
        done = self.event()
        with torch.cuda.stream(self.compute):
            result = work()
            done.record(self.compute)
        done.synchronize()
        return result

    def settle(self) -> None:
        """Wait until nothing is on its way."""
        for stream in (self.up, self.compute, self.down):
            stream.synchronize()

    def in_background(self, work: Callable[[], object]) -> None:
        """Do some work in a thread, one after the other; not what is left of it when the process ends."""
        self._executor.submit(lambda: work() if threading.main_thread().is_alive() else None)

    def pool(self) -> Pool:
        """Memory for graphs that run one after the other: they take that of the largest and not the sum."""
        return torch.cuda.graph_pool_handle()

    def capture(self, work: Callable[[], object], pool: Pool) -> Graph:
        """The kernels that some work launches, as a graph; they do not run. The work must have run before.

        Not by ``torch.cuda.graph``, which waits for the whole device and empties PyTorch's cache of memory, while other
        threads' frames pass; and which leaves its stream the current one if the capture fails.

        Raises:
            RuntimeError: if the work does what cannot be captured; later captures are as before.
        """
        with _ONE_AT_A_TIME, torch.cuda.stream(self._captured):
            graph = torch.cuda.CUDAGraph()
            try:
                # "thread_local": another thread's allocations and waits are no fault of this capture.
                graph.capture_begin(pool, capture_error_mode="thread_local")
            except BaseException:
                if self._end_allocation(pool):
                    self._release(pool)
                raise
            try:
                work()
            except BaseException:
                with suppress(Exception):  # the error is that of the work
                    self._end(graph, pool)
                graph.reset()
                raise
            self._end(graph, pool)
        return graph

    def _end(self, graph: Graph, pool: Pool) -> None:
        """End a capture, in any case as far as the allocator is concerned, which would keep the pool for ever."""
        try:
            graph.capture_end()
        except BaseException:
            self._end_allocation(pool)
            if _has_ended(graph):
                graph.reset()
            else:
                _BROKEN.append(graph)
                self._release(pool)
            raise

    def _end_allocation(self, pool: Pool) -> bool:
        """Whether it had begun and was not ended."""
        try:
            torch._C._cuda_endAllocateToPool(self._device.index, pool)
        except Exception:
            return False
        return True

    def _release(self, pool: Pool) -> None:
        with suppress(Exception):
            torch._C._cuda_releasePool(self._device.index, pool)

    def replay(self, graph: Graph) -> None:
        """Launch a graph on the computing stream."""
        with torch.cuda.stream(self.compute):
            graph.replay()


def _has_ended(graph: Graph) -> bool:
    """Whether a capture came to its end, so that a reset gives its pool back: PyTorch says so by this call alone."""
    try:
        graph.pool()
    except RuntimeError:
        return False
    return True


def in_words(error: Exception) -> str:
    """An exception as one line: those of CUDA run over pages."""
    return " ".join(str(error).split())[:300] or type(error).__name__
