"""A GPU on the CPU, under the package's own code: ``torch.cuda`` that does all as late as it may, and keeps books.

What a kernel is given is remembered by address, as on a GPU. Memory that was freed is overwritten and handed out again.
A graph is the list of its kernels. Work happens in an order drawn at random among all that streams and events allow.
PyTorch's own sanitizer of stream events is told of every launch. Each call can be made to fail, for once or for ever.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.cuda import _sanitizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from drive_seg.inference.cuda import device as cuda_device

FREED = 0xCD
STREAMS = 32
"""As many as PyTorch has."""


class OutOfMemoryError(RuntimeError):
    pass


class NoStack(list):
    @classmethod
    def extract(cls, frames, lookup_lines):
        return cls()

    def format(self):
        return []


class Memory:
    """Blocks whose addresses stay valid, and are handed out again last in, first out."""

    def __init__(self, gpu):
        self.blocks, self.free, self.gpu, self.handler, self.owned = {}, {}, gpu, gpu.sanitizer, 0
        self.used, self.aborted = set(), False

    def allocate(self, count, pinned=False):
        """uint8 [count]; its bytes belong to nobody once the last tensor of them is gone."""
        room = max(512, -(-count // 512) * 512)
        stack = self.free.setdefault(room, [])
        block = stack.pop() if stack else np.empty(room, np.uint8)
        block[:] = FREED
        address = block.ctypes.data
        self.blocks[address] = block
        self.handler._handle_memory_allocation(address)
        self.owned += 1
        view = block[:count].view()
        weakref.finalize(view, self._release, block, address, pinned).atexit = False
        return torch.from_numpy(view)

    def _release(self, block, address, pinned):
        # PyTorch records an event when pinned memory that was used is freed, in a destructor, which may not fail
        self.aborted |= pinned and self.gpu.lost and address in self.used
        self.used.discard(address)
        block[:] = FREED
        self.owned -= 1
        self.handler._handle_memory_deallocation(address)
        self.free[len(block)].append(block)

    def base(self, tensor):
        """The block that a tensor lies in; None if it is not of this memory."""
        address = tensor.untyped_storage().data_ptr()
        return address if address in self.blocks else None


class Address:
    """A tensor as a kernel knows it."""

    def __init__(self, tensor):
        self.at, self.dtype = tensor.untyped_storage().data_ptr(), tensor.dtype
        self.bytes = tensor.untyped_storage().nbytes()
        self.shape = tensor.size(), tensor.stride(), tensor.storage_offset()

    def tensor(self):
        memory = (ctypes.c_uint8 * self.bytes).from_address(self.at)
        return torch.frombuffer(memory, dtype=self.dtype).as_strided(*self.shape)


class Kernel:
    """One launch: what it computes of which addresses, and into which."""

    def __init__(self, gpu, function, args, kwargs, outputs):
        def remembered(value):
            if not isinstance(value, torch.Tensor):
                return value
            return Address(value) if gpu.memory.base(value) is not None else value.detach()

        self.function = function
        self.given = tree_map(remembered, (args, kwargs))
        self.outputs = tree_map(remembered, outputs)
        self.reads, self.writes = set(), set()
        schema = function._schema
        names = {argument.name: argument for argument in schema.arguments}
        pairs = [*zip(schema.arguments, args, strict=False), *((names[name], value) for name, value in kwargs.items())]
        for argument, value in pairs:
            written = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in tree_flatten(value)[0]:
                if isinstance(tensor, torch.Tensor) and (base := gpu.memory.base(tensor)) is not None:
                    (self.writes if written else self.reads).add(base)
        self.mutates = any(argument.alias_info and argument.alias_info.is_write for argument in schema.arguments)

    def compute(self):
        def tensor(value):
            return value.tensor() if isinstance(value, Address) else value

        with torch._C._DisableTorchDispatch(), torch.inference_mode():
            args, kwargs = tree_map(tensor, self.given)
            found = self.function(*args, **kwargs)
            if not self.mutates:
                wanted = tree_flatten(tree_map(tensor, self.outputs))[0]
                for target, source in zip(wanted, tree_flatten(found)[0], strict=True):
                    target.copy_(source)


def is_view(outputs, args):
    """Whether an operation computed nothing: what it gives lies where what it was given does."""

    def memories(tree):
        return {t.untyped_storage()._cdata for t in tree_flatten(tree)[0] if isinstance(t, torch.Tensor)}

    return memories(outputs) <= memories(args)


class Launches(TorchDispatchMode):
    """Gives each operation to the current stream, in place of computing it."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._local_scalar_dense.default:
            self.gpu.read_by_host()
            return function(*args, **kwargs)
        mutated = [a.alias_info is not None and a.alias_info.is_write for a in function._schema.arguments]
        if any(mutated):
            names = [argument.name for argument in function._schema.arguments]
            given = dict(zip(names, args, strict=False)) | kwargs
            outputs = given[names[mutated.index(True)]]
        else:
            outputs = function(*args, **kwargs)  # for their shapes; the values come late
            if is_view(outputs, args):
                return outputs
        self.gpu.launch(Kernel(self.gpu, function, args, kwargs, outputs))
        return outputs


class Gpu:
    """The books of one GPU, and the schedule. See the module."""

    def __init__(self, seed=0):
        self.rng, self.lock, self.thread = np.random.default_rng(seed), threading.RLock(), threading.local()
        self.sanitizer = _sanitizer.EventHandler()
        self.memory = Memory(self)
        self.streams = [Stream(self, number + 1) for number in range(STREAMS)]
        self.default, self.taken = Stream(self, 0), 0
        # Recording to a pool: of the device's memory, and of the host's, which no call can end after a failure.
        self.underway, self.of_host, self.pools = {}, set(), {}
        self.calls, self.failures, self.lost, self.hung = [], {}, False, False

    # Calls and their failures

    def call(self, name):
        """Each call of torch.cuda comes by here."""
        self.calls.append(name)
        if self.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        error = self.failures.pop(len(self.calls), None) or self.failures.pop(name, None)
        if error == "lost":
            self.lost = True
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if error is not None:
            raise error

    # The schedule

    def launch(self, kernel):
        graph = self.current.capturing
        if graph is not None:
            graph.kernels.append(kernel)
        else:
            self.enqueue(self.current, kernel.compute, kernel)

    def enqueue(self, stream, work, kernel=None, event=None):
        with self.lock:
            if kernel is not None:
                self.memory.used |= kernel.reads | kernel.writes
                self.look(stream, kernel)
            stream.queue.append((work, event, event.asked if event else 0))
            for _ in range(0 if self.hung else self.rng.integers(0, 3)):
                self.step()

    def look(self, stream, kernel):
        """Tell the sanitizer of a launch; AssertionError for a race."""
        names = {base: [str(kernel.function)] for base in kernel.reads | kernel.writes}
        reads = kernel.reads - kernel.writes
        handle = self.sanitizer._handle_kernel_launch
        errors = handle(stream.number, reads, kernel.writes, set(), str(kernel.function), names)
        assert not errors, f"race: {errors[0]}"

    def step(self):
        """Do the first thing of a random stream that may go on; False if there is nothing left."""
        with self.lock:
            busy = [stream for stream in (self.default, *self.streams[: self.taken]) if stream.queue]
            free = [s for s in busy if not s.queue[0][1] or s.queue[0][1].happened >= s.queue[0][2]]
            if not free:
                assert not busy, "streams wait for each other for ever"
                return False
            work = free[self.rng.integers(len(free))].queue.popleft()[0]
            if work:
                work()
            return True

    def read_by_host(self):
        if self.current.capturing is not None:
            self.current.capturing.invalid = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        while self.step():
            pass

    @property
    def current(self):
        return getattr(self.thread, "stream", self.default)

    # What torch has

    def current_stream(self, device=None):
        return self.current

    def current_device(self):
        return 0

    def is_available(self):
        return True

    def Stream(self, device=None):  # noqa: N802
        self.call("Stream")
        self.taken += 1
        stream = self.streams[(self.taken - 1) % STREAMS]
        self.sanitizer._handle_stream_creation(stream.number)
        return stream

    def Event(self, enable_timing=False):  # noqa: N802
        self.call("Event")
        return Event(self)

    def CUDAGraph(self):  # noqa: N802
        self.call("CUDAGraph")
        return Graph(self)

    def graph_pool_handle(self):
        self.call("graph_pool_handle")
        return (0, len(self.pools) + 1)

    @contextmanager
    def stream(self, stream):
        before = self.current
        self.thread.stream = stream
        try:
            with Launches(self):
                yield
        finally:
            self.thread.stream = before

    def empty(self, count, dtype=None, device=None, pin_memory=False):
        self.call("pinned" if pin_memory else "memory")
        return self.memory.allocate(count, pin_memory)

    def _cuda_endAllocateToPool(self, device, pool):  # noqa: N802
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        del self.underway[pool]

    def _cuda_releasePool(self, device, pool):  # noqa: N802
        assert self.pools[pool] > 0
        self.pools[pool] -= 1


class Stream:
    def __init__(self, gpu, number):
        self.gpu, self.number, self.queue, self.capturing = gpu, number, deque(), None

    def wait_event(self, event):
        self.gpu.call("wait_event")
        self.gpu.sanitizer._handle_event_wait(id(event), self.number)
        self.gpu.enqueue(self, None, event=event)

    def wait_stream(self, other):
        event = Event(self.gpu)
        event.record(other)
        self.wait_event(event)

    def synchronize(self):
        self.gpu.call("stream.synchronize")
        while self.queue:
            assert self.gpu.step()
        self.gpu.sanitizer._handle_stream_synchronization(self.number)


class Event:
    """Counts how often it was asked for and how often it happened."""

    def __init__(self, gpu):
        self.gpu, self.asked, self.happened = gpu, 0, 0
        self.may_happen = threading.Event()

    def record(self, stream):
        self.gpu.call("record")
        self.asked += 1

        def happen(number=self.asked):
            self.happened = number

        self.gpu.sanitizer._handle_event_record(id(self), stream.number)
        self.gpu.enqueue(stream, happen)

    def query(self):
        self.gpu.call("query")
        return self.happened == self.asked

    def synchronize(self):
        self.gpu.call("synchronize")
        while self.happened < self.asked:
            if self.gpu.hung:
                threading.Event().wait()
            assert self.gpu.step() or self.happened == self.asked
        self.gpu.sanitizer._handle_event_synchronization(id(self))

    def elapsed_time(self, last):
        assert self.happened == self.asked and last.happened == last.asked
        return 250.0


class Graph:
    """As PyTorch's: see ``CUDAGraph.cpp`` for what is done in which order, and what is left undone by an error."""

    def __init__(self, gpu):
        self.gpu, self.kernels, self.ended, self.invalid, self.stream, self.pool_id = gpu, [], False, False, None, None

    def capture_begin(self, pool, capture_error_mode):
        assert not self.gpu.underway, "PyTorch allows one capture at a time"
        if self.gpu.pools.get(pool) == 0:
            raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED: no graph of the pool is alive")
        self.gpu.pools[pool] = self.gpu.pools.get(pool, 0) + 1
        self.gpu.underway[pool] = self
        if pool in self.gpu.of_host:
            raise RuntimeError("beginAllocateToPool: already recording to pool_id")
        self.gpu.of_host.add(pool)
        self.pool_id, self.stream = pool, self.gpu.current
        self.gpu.call("capture_begin")
        self.stream.capturing = self

    def capture_end(self):
        self.stream.capturing = None
        if self.invalid:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.gpu.call("capture_end")
        self.gpu._cuda_endAllocateToPool(0, self.pool_id)
        self.gpu.of_host.discard(self.pool_id)
        self.ended = True
        self.gpu.call("instantiate")

    def pool(self):
        if not self.ended:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
        return self.pool_id

    def reset(self):
        if self.ended:
            self.gpu._cuda_releasePool(0, self.pool_id)
        self.ended, self.kernels = False, []

    def replay(self):
        self.gpu.call("replay")
        assert self.ended and self.gpu.current.capturing is None
        alive = weakref.ref(self)
        for kernel in self.kernels:

            def compute(kernel=kernel):
                assert alive() is not None, "the graph was freed while it ran"
                kernel.compute()

            self.gpu.enqueue(self.gpu.current, compute, kernel)

    def __del__(self):
        self.reset()


class Torch:
    """What the module under test calls ``torch``."""

    __version__ = "2.13.0"

    def __init__(self, gpu):
        self.cuda, self._C, self.empty = gpu, gpu, gpu.empty

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture
def make_gpu(monkeypatch):
    """Makes a GPU of a seed, which is then the one of this machine."""

    def make(seed=0):
        gpu = Gpu(seed)
        monkeypatch.setattr(cuda_device, "torch", Torch(gpu))
        # a stack for each launch takes longer than all else
        monkeypatch.setattr(_sanitizer, "traceback", SimpleNamespace(StackSummary=NoStack, walk_stack=lambda frame: ()))
        monkeypatch.setattr(cuda_device, "_DEVICES", {})
        return gpu

    return make


@pytest.fixture
def gpu(make_gpu):
    return make_gpu()


class ToyPath:
    """Stands for a frame path: planes that tell each image from any other, by a weight in the GPU's memory."""

    def __init__(self, gpu, weight=9):
        self.weight = gpu.memory.allocate(1)
        self.weight[0] = weight

    def __call__(self, stacks, size, confidence, of_frames=False):
        ids = [stack[..., 0] ^ (stack[..., 1] + stack[..., 2]) ^ self.weight for stack in stacks]
        sure = [255 - planes for planes in ids] * confidence
        return [plane for planes in ids + sure for plane in planes]

    def ties(self, stacks, size):
        return [torch.zeros(image.shape[:2], dtype=torch.bool) for stack in stacks for image in stack]


@pytest.fixture(scope="session")
def computes_nothing():
    return is_view


@pytest.fixture(scope="session")
def toy_path():
    return ToyPath


@pytest.fixture(scope="session")
def pictures():
    """Makes images of sizes."""

    def make(*sizes, seed=0):
        rng = np.random.default_rng(seed)
        return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]

    return make


@pytest.fixture(scope="session")
def answer_of():
    """What a :class:`ToyPath` gives for images."""

    def answer(images, confidence=False, weight=9):
        ids = [image[..., 0] ^ (image[..., 1] + image[..., 2]) ^ np.uint8(weight) for image in images]
        return ids + [255 - plane for plane in ids] * confidence

    return answer
