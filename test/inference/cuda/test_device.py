"""Books: what the real CudaDevice takes and gives back, whatever fails, on a torch.cuda that counts."""

from contextlib import suppress

import pytest
import torch

from drive_seg.inference.cuda.device import CudaDevice, is_lost
from drive_seg.inference.cuda.graphs import FrameGraphs
from drive_seg.inference.runtimes import pytorch
from drive_seg.inference.runtimes.pytorch import indexed

SMALL, WIDE = (16, 24), (16, 40)
NO_MEMORY = RuntimeError("CUDA out of memory. Tried to allocate 2.00 MiB")


def captures(device, numbers):
    """Whether a graph of one addition does what it should."""
    pool = device.pool()
    graph = device.capture(lambda: numbers.add_(1), pool)
    device.run(lambda: numbers.fill_(4))
    device.run(lambda: device.replay(graph))
    return numbers.tolist() == [5] * len(numbers)


def test_a_process_has_one_set_of_streams_for_a_gpu(gpu):
    """PyTorch hands 32 streams out in turn: with three for each model, the eleventh shares one with the first."""
    devices = [CudaDevice.of(name) for name in ("cuda", "cuda:0") * 20]
    assert len(set(map(id, devices))) == 1 and gpu.taken == 4
    device = devices[0]
    assert len({device.up, device.compute, device.down, device._captured}) == 4


def test_what_more_devices_would_take_and_a_capture_leave_open_is_found(gpu, monkeypatch):
    """The checker itself."""
    first, *_, ninth = (CudaDevice(0) for _ in range(9))
    assert first.up is ninth.up
    numbers, pool = ninth.memory(16), ninth.pool()
    monkeypatch.setattr(
        CudaDevice, "_end", lambda device, graph, pool: graph.gpu.current.__setattr__("capturing", None)
    )
    with pytest.raises(RuntimeError, match="not permitted"):
        ninth.capture(lambda: refused(gpu), pool)
    assert gpu.underway and gpu.pools[pool] == 1
    with pytest.raises(AssertionError, match="one capture at a time"):
        ninth.capture(lambda: numbers.add_(1), pool)


def refused(gpu):
    gpu.current.capturing.invalid = True
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


@pytest.mark.parametrize("failing", ["work", "memory in the work", "capture_begin", "capture_end", "instantiate"])
def test_a_failed_capture_gives_its_pool_back_and_the_next_one_works(failing, gpu):
    device = CudaDevice.of("cuda:0")
    numbers, pool = device.memory(16), device.pool()

    def work():
        if failing == "work":
            refused(gpu)
        if failing == "memory in the work":  # the capture goes on: its end succeeds
            raise NO_MEMORY
        numbers.add_(1)

    gpu.failures[failing] = NO_MEMORY
    before = gpu.current
    with pytest.raises(RuntimeError, match="memory|not permitted"):
        device.capture(work, pool)
    assert gpu.current is before and not gpu.underway and gpu.pools.get(pool, 0) == 0
    assert captures(device, numbers)


@pytest.mark.parametrize("version, why", [("2.7.1", "need PyTorch 2.8 or newer, this is 2.7.1"), ("2.8.0+cu128", "")])
def test_graphs_are_for_the_versions_whose_sources_were_read(version, why, gpu, monkeypatch):
    """Before 2.8 the call that ends a failed capture's memory has another name."""
    from drive_seg.inference.cuda import device as module

    monkeypatch.setattr(module.torch, "__version__", version, raising=False)
    if why:
        monkeypatch.delattr(type(gpu), "_cuda_endAllocateToPool")
    device = CudaDevice.of("cuda:0")
    assert why in device.problem and bool(device.problem) == bool(why)


@pytest.mark.parametrize("call", ["CUDAGraph", "capture_begin", "capture_end", "replay", "memory"])
def test_a_gpu_that_cannot_do_one_addition_as_a_graph_has_none(call, gpu, toy_path, pictures):
    gpu.failures[call] = RuntimeError("CUDA error:\n operation not supported")
    graphs = FrameGraphs(toy_path(gpu), CudaDevice.of("cuda:0"), pytest.fail)
    assert graphs.submit(pictures(SMALL), SMALL, False) is None
    assert graphs.describe() == "off: the self-test of one addition failed: CUDA error: operation not supported"


def test_whatever_call_fails_once_costs_at_most_a_graph_and_no_book_stays_open(make_gpu, toy_path, pictures, answer_of):
    """Each call of two batches in turn; frames go on, the next combination is captured, the lost one retried."""

    def two_batches(gpu, fail_at=0):
        device, told = CudaDevice.of("cuda:0"), []
        graphs = FrameGraphs(toy_path(gpu), device, told.append)
        assert not graphs.off
        begun = len(gpu.calls)
        if fail_at:
            gpu.failures[begun + fail_at] = NO_MEMORY
        for seed in range(2):
            images, flight = pictures(SMALL, seed=seed), None
            try:
                flight = graphs.submit(images, SMALL, False)
                planes = flight and flight.land()
            except RuntimeError as error:
                assert error is NO_MEMORY
                planes = None
            assert planes is None or (planes[0] == answer_of(images)[0]).all()
            del flight
        assert not gpu.underway and sum(gpu.pools.values()) <= 2
        assert len(told) <= 1 and (not told or "out of memory" in told[0])
        if fail_at:
            images = pictures(WIDE, WIDE)
            assert (graphs.submit(images, SMALL, False).land()[0] == answer_of(images)[0]).all()
        return len(gpu.calls) - begun, bool(told)

    calls, _ = two_batches(make_gpu())
    outcomes = [two_batches(make_gpu(), number)[1] for number in range(1, calls, 3)]
    assert calls > 30 and any(outcomes)


def test_a_lost_gpu_is_told_from_one_call_that_failed(gpu):
    assert not is_lost("cuda:0")
    gpu.failures["record"] = NO_MEMORY
    assert not is_lost("cuda:0"), "an error that is over"
    gpu.lost = True
    assert is_lost("cuda:0")


@pytest.mark.parametrize("call", ["replay", "synchronize", "record", "capture_begin", "query", "memory"])
def test_of_a_lost_gpu_nothing_pinned_is_freed(call, gpu, toy_path, pictures):
    """Freeing pinned memory asks CUDA, inside a destructor: PyTorch ends the process with SIGABRT."""
    graphs = FrameGraphs(toy_path(gpu), CudaDevice.of("cuda:0"), lambda text: None)
    flight = graphs.submit(pictures(SMALL), SMALL, False)
    gpu.failures[call] = "lost"
    for sizes in ((SMALL,), (WIDE,), (SMALL,)):
        with suppress(RuntimeError):
            landing = graphs.submit(pictures(*sizes), SMALL, False)
            assert landing is None or landing.land()
    del flight
    assert gpu.lost and is_lost("cuda:0") and not gpu.memory.aborted


def test_a_model_keeps_to_the_gpu_that_was_current_when_it_was_loaded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert [indexed(name) for name in ("cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:1", "cpu"]


@pytest.mark.parametrize("precision, allowed", [("fp16", True), ("fp32", False)])
def test_fp32_is_not_tf32(precision, allowed, monkeypatch):
    """PyTorch's default rounds the factors of convolutions to 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(pytorch, "choose_device", lambda wish: wish)
    monkeypatch.setattr(pytorch, "indexed", lambda device: "cpu")
    runtime = pytorch.TorchRuntime(torch.nn.Conv2d(3, 2, 1), "cuda", precision)
    assert (runtime.device, torch.backends.cudnn.allow_tf32) == ("cuda", allowed)
