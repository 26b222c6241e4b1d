"""Which combinations of images have a graph, and when: captures, failures and evictions while frames pass."""

import threading

import cv2
import numpy as np
import pytest
import torch

from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.inference.cuda.device import CudaDevice, DeviceLostError
from drive_seg.inference.cuda.graph import Combination, GraphError, _check, _stacks, pad
from drive_seg.inference.cuda.graphs import HALF_LIFE, RETRY, FrameGraphs
from drive_seg.inference.decision import _decide_at_once
from drive_seg.inference.path import FramePath
from drive_seg.inference.runtimes.pytorch import TorchRuntime
from drive_seg.labels import LabelMap
from drive_seg.segmenter import GRAPHS_SWITCH, NotFiniteError, Segmenter

SMALL, WIDE, TALL = (16, 24), (16, 40), (40, 16)


class Counted:
    """A device that gives its work to an executor of the test's own, and counts captures."""

    def __init__(self, monkeypatch):
        self.device, self.captures, self.later = CudaDevice.of("cuda:0"), 0, []
        capture = self.device.capture

        def counted(work, pool):
            self.captures += 1
            return capture(work, pool)

        assert not self.device.problem
        monkeypatch.setattr(self.device, "capture", counted)
        monkeypatch.setattr(self.device, "in_background", self.later.append)

    def finish(self):
        while self.later:
            self.later.pop(0)()


@pytest.fixture
def counted(gpu, monkeypatch):
    return Counted(monkeypatch)


@pytest.fixture
def graphs_of(gpu, counted, toy_path):
    def make(told=None, **options):
        return FrameGraphs(toy_path(gpu), counted.device, (told if told is not None else []).append, **options)

    return make


@pytest.fixture
def send(pictures, answer_of):
    """Whether images of these sizes went through a graph."""

    def one(graphs, *sizes, confidence=False, seed=0):
        images = pictures(*sizes, seed=seed)
        flight = graphs.submit(images, SMALL, confidence)
        if flight is not None:
            assert all(map(np.array_equal, flight.land(), answer_of(images, confidence)))
        return flight is not None

    return one


def test_counts_are_padded_to_a_few():
    assert pad([SMALL]) == ((SMALL,), [0])
    assert pad([SMALL] * 5 + [WIDE]) == ((SMALL,) * 6 + (WIDE,), [0, 1, 2, 3, 4, 6])
    assert [len(pad([SMALL] * count)[0]) for count in range(1, 10)] == [1, 2, 3, 4, 6, 6, 8, 8, 12]


def test_a_graph_is_captured_once_for_sizes_and_outputs(graphs_of, counted, send):
    graphs = graphs_of()
    for _ in range(3):
        assert send(graphs, SMALL) and send(graphs, SMALL, SMALL) and send(graphs, SMALL, confidence=True)
        assert send(graphs, *[SMALL] * 5) and send(graphs, *[SMALL] * 6)
    assert counted.captures == len(graphs) == 4


def test_frames_take_the_plain_path_while_a_graph_is_captured(graphs_of, counted, send):
    """Compositions that change in mid-drive: none of them waits for a capture, and each has its graph afterwards."""
    graphs = graphs_of(background=True)
    drive = [(SMALL,) * count for count in (1, 2, 6, 5, 3)]
    for sizes in drive * 2:
        assert not send(graphs, *sizes)
    assert counted.captures == 0 and graphs.describe() == "0, 4 being captured"
    counted.finish()
    for sizes in drive:
        assert send(graphs, *sizes)
    assert counted.captures == 4 and graphs.describe() == "4"


def test_frames_pass_while_another_thread_captures(graphs_of, counted, send, gpu, monkeypatch):
    graphs = graphs_of(background=True)
    send(graphs, SMALL)
    counted.finish()
    begun, may_end, begin = threading.Event(), threading.Event(), gpu.CUDAGraph

    def slow():
        begun.set()
        assert may_end.wait(60)
        return begin()

    monkeypatch.setattr(gpu, "CUDAGraph", slow)
    assert not send(graphs, WIDE)
    capturing = threading.Thread(target=counted.finish)
    capturing.start()
    assert begun.wait(60)
    for seed in range(3):
        assert send(graphs, SMALL, seed=seed) and not send(graphs, WIDE)
    may_end.set()
    capturing.join()
    assert send(graphs, WIDE) and send(graphs, SMALL)


def test_what_is_expected_is_captured_before_a_frame_comes(graphs_of, counted, send):
    graphs = graphs_of(background=True)
    wanted = [Combination((SMALL,) * count, SMALL, False, False) for count in (1, 2, 3)]
    graphs.expect(wanted + wanted, wait=False)
    assert len(graphs) == 0
    counted.finish()
    assert len(graphs) == counted.captures == 3 and send(graphs, SMALL, SMALL)
    assert graphs._graphs[wanted[0]].pixels.data_ptr() == graphs._graphs[wanted[2]].pixels.data_ptr(), "in common"
    graphs.expect(wanted, wait=True)
    assert counted.captures == 3


def test_graphs_share_what_they_read_and_write(graphs_of, counted, gpu):
    graphs = graphs_of()
    before = gpu.memory.owned
    graphs.expect([Combination((SMALL,) * count, SMALL, True, False) for count in (1, 2, 3, 4, 6)], wait=True)
    assert len(graphs) == 5 and gpu.memory.owned == before + 2


def test_the_least_used_makes_room_for_what_is_used_more(graphs_of, counted, send):
    graphs = graphs_of(most=2)
    assert all(send(graphs, SMALL) for _ in range(4)) and send(graphs, WIDE)
    assert [send(graphs, TALL) for _ in range(3)] == [False, False, True], "it must come more than twice as often"
    assert not send(graphs, WIDE) and send(graphs, SMALL) and len(graphs) == 2


def test_combinations_that_come_in_turn_do_not_drive_each_other_out(graphs_of, counted, send):
    graphs = graphs_of(most=2)
    for _ in range(40):
        for sizes in ((SMALL,), (WIDE,), (TALL,)):
            send(graphs, *sizes)
    assert counted.captures == 2


def test_sizes_that_never_come_again_are_captured_seldom(graphs_of, counted, pictures):
    graphs = graphs_of(most=3)
    for width in range(3 * HALF_LIFE // 10):
        graphs._batches += 9  # a long drive, quicker
        graphs.submit(pictures((8, 8 + width)), SMALL, False)
    assert counted.captures <= 6 and len(graphs) == 3 and len(graphs._uses) < HALF_LIFE


def test_what_was_only_expected_goes_first(graphs_of, counted, send):
    graphs = graphs_of(most=2)
    graphs.expect([Combination((size,), SMALL, False, False) for size in (SMALL, WIDE)], wait=True)
    assert send(graphs, SMALL) and send(graphs, TALL) and send(graphs, SMALL) and not send(graphs, WIDE)


def test_a_capture_that_fails_costs_its_combination_alone_and_is_retried(graphs_of, counted, send, gpu):
    told = []
    graphs = graphs_of(told)
    assert send(graphs, SMALL)
    gpu.failures["capture_end"] = RuntimeError("CUDA error:\nout of memory")
    assert not send(graphs, WIDE, WIDE) and not send(graphs, WIDE, WIDE) and send(graphs, SMALL) and send(graphs, TALL)
    assert told == [
        "no CUDA graph for 2 of 40x16, such frames take the plain path on the GPU: CUDA error: out of memory"
    ]
    assert graphs.describe() == "2; not for 2 of 40x16: CUDA error: out of memory"
    graphs._batches += RETRY
    assert send(graphs, WIDE, WIDE) and graphs.describe() == "3" and len(told) == 1


def test_captures_after_an_eviction_or_an_invalidated_one_work(graphs_of, counted, send, gpu, monkeypatch):
    """A pool is not to be had again once its last graph is gone, nor after a capture in it was invalidated."""
    graphs = graphs_of(most=1)
    assert send(graphs, SMALL)
    graphs._uses.clear()
    assert send(graphs, WIDE) and len(graphs) == 1
    end = gpu.CUDAGraph

    def invalid():
        graph = end()
        graph.invalid = True
        return graph

    graphs._uses.clear()
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "CUDAGraph", invalid)
        assert not send(graphs, TALL)
    graphs._uses.clear()
    assert send(graphs, SMALL) and not gpu.underway


def test_one_that_always_fails_is_tried_ever_more_seldom(graphs_of, counted, send, monkeypatch):
    told = []
    graphs = graphs_of(told)

    def fail(work, pool):
        counted.captures += 1
        raise RuntimeError("no")

    monkeypatch.setattr(counted.device, "capture", fail)
    for _ in range(100):
        graphs._batches += RETRY // 10
        send(graphs, SMALL)
    assert counted.captures == 3 and len(told) == 1


def test_where_nothing_can_be_captured_few_sizes_are_tried_and_one_sentence_is_told(
    graphs_of, counted, pictures, monkeypatch
):
    def fail(work, pool):
        counted.captures += 1
        raise RuntimeError("no")

    monkeypatch.setattr(counted.device, "capture", fail)
    graphs = graphs_of(told := [])
    for width in range(20):
        assert graphs.submit(pictures((8, 8 + width)), SMALL, False) is None
    assert (counted.captures, len(told)) == (3, 1) and graphs.describe() == "0; not for 1 of 10x8 and 2 more: no"
    graphs._batches += RETRY
    graphs.submit(pictures((8, 8)), SMALL, False)
    assert counted.captures == 4


def test_a_gpu_that_holds_the_worker_up_does_not_hold_the_diagnostics_up(graphs_of, send):
    graphs = graphs_of()
    assert send(graphs, SMALL)
    held, said, done = threading.Event(), [], threading.Event()

    def hang():
        with graphs._lock:
            held.set()
            done.wait(60)

    worker = threading.Thread(target=hang)
    worker.start()
    assert held.wait(60)
    diagnostics = threading.Thread(target=lambda: said.append(graphs.describe()))
    diagnostics.start()
    diagnostics.join(30)
    done.set()
    worker.join()
    assert said == ["1"]


def test_a_graph_that_labels_otherwise_is_not_used(graphs_of, counted, send, monkeypatch):
    capture = counted.device.capture
    monkeypatch.setattr(counted.device, "capture", lambda work, pool: capture(lambda: None, pool))
    graphs = graphs_of(told := [])
    assert not send(graphs, SMALL) and "another class than its path at" in told[0]


def test_a_graph_that_reads_what_is_no_longer_there_is_noticed(graphs_of, counted, send, gpu, toy_path):
    """It was captured of pixels that are then gone: right for those and for no others."""

    class Stale(toy_path):
        def __call__(self, stacks, size, confidence, of_frames=False):
            kept = [stack.clone() for stack in stacks] if gpu.current.capturing is None else self.kept
            self.kept = kept
            return super().__call__(kept, size, confidence)

    graphs = FrameGraphs(Stale(gpu), counted.device, (told := []).append)
    assert not send(graphs, SMALL) and "another class than its path" in told[0]


def test_what_counts_as_the_same():
    wanted, planes = torch.arange(200, dtype=torch.uint8).repeat(20), [(0, (40, 50)), (2000, (40, 50))]
    tie = torch.zeros(40, 50, dtype=torch.bool)
    assert _check(wanted, wanted, planes, tie) == 0
    tie[0] = True
    off = wanted.clone()
    off[:40] += 1
    off[2000:] += 2
    assert _check(off, wanted, planes, tie) == 40
    off[:50] += 1
    with pytest.raises(GraphError, match="another class .* at 2.50% of the pixels, 0.00% where that is no tie"):
        _check(off, wanted, planes, tie)
    off = wanted.clone()
    off[1999] += 1
    with pytest.raises(GraphError, match="at 0.05% of the pixels, 0.05% where that is no tie"):
        _check(off, wanted, planes, tie)
    off = wanted.clone()
    off[2000:2050] += 3
    with pytest.raises(GraphError, match="another confidence .* at 2.50%"):
        _check(off, wanted, planes, tie)


def test_a_tie_is_where_rounding_may_decide():
    """Logits of a network that gives its input: in fp16 a rounding of 4.0 is 1/256, so 256 of them are 1.0 x 4."""

    class Logits(torch.nn.Module):
        def forward(self, x):
            return x

    for dtype, gaps in (("fp16", [0.0, 0.9, 1.1, 3.0]), ("fp32", [0.0, 1e-4, 2e-4, 3.0])):
        path = FramePath(TorchRuntime(Logits(), "cpu", dtype), InputSpec((8, 8), "bgr", (0,) * 3, (1,) * 3, 1 / 64))
        stack = torch.zeros(1, 8, 8, 3)
        stack[..., 0] = 4.0 * 64
        for column, gap in enumerate(gaps):
            stack[..., column, 1] = (4.0 - gap) * 64
        (ties,) = path.ties([stack], (8, 8))
        assert ties[0, :4].tolist() == [True, True, False, False], dtype


def test_images_of_one_size_are_one_stack():
    pixels = torch.arange(3 * (2 * 16 * 24 + 16 * 40)) % 251
    both, wide = _stacks(pixels, [SMALL, SMALL, WIDE])
    assert both.shape == (2, *SMALL, 3) and wide.shape == (1, *WIDE, 3)
    assert torch.equal(torch.cat([both.reshape(-1), wide.reshape(-1)]), pixels)


# The Segmenter: everything is as on a vehicle, but for the GPU.


def smooth(size, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


class Colours(torch.nn.Module):
    """A network whose class is the strongest of its three input channels."""

    def forward(self, x):
        return x


def colour_segmenter(**options):
    label_map = LabelMap("rgb", ("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    contract = Contract("dsnet", {}, label_map, InputSpec((48, 64)))
    options.setdefault("tell", pytest.fail)
    return Segmenter(Colours(), contract, device="cpu", **options)


@pytest.fixture(scope="module")
def plain():
    return colour_segmenter()


@pytest.fixture
def on_gpu(gpu, monkeypatch):
    """A Segmenter whose tensors are the CPU's and whose CUDA is the one that keeps books."""

    def to_size(plane, size):
        found = torch.nn.functional.interpolate(plane[None, None], size, mode="nearest-exact")[0, 0]
        return found if plane.shape != size else plane

    monkeypatch.setattr("drive_seg.inference.path.decide", _decide_at_once)
    monkeypatch.setattr("drive_seg.inference.path.to_size", to_size)
    monkeypatch.setattr(TorchRuntime, "capturable", property(lambda self: True, lambda self, value: None), False)
    monkeypatch.setattr(
        "drive_seg.segmenter.CudaDevice", type("Device", (), {"of": lambda name: CudaDevice.of("cuda:0")})
    )

    def make(**options):
        segmenter = colour_segmenter(**options)
        segmenter.device = "cuda"
        return segmenter

    return make


def same(found, wanted):
    assert np.array_equal(found.label, wanted.label)
    assert (found.confidence is None) == (wanted.confidence is None)
    assert wanted.confidence is None or np.array_equal(found.confidence, wanted.confidence)


def test_a_segmenter_gives_the_same_with_graphs(on_gpu, plain):
    segmenter = on_gpu()
    images = [smooth(size, seed) for seed, size in enumerate([(48, 64), (96, 128), (24, 96), (48, 64), (96, 128)])]
    for confidence in (False, True):
        for found, image in zip(segmenter(images, confidence), images, strict=True):
            same(found, plain(image, confidence))
        same(segmenter(images[1], confidence), plain(images[1], confidence))
    assert segmenter.graphs == 6, "two batches and one image alone, each with and without confidence"
    assert (segmenter.describe_graphs(), plain.describe_graphs(), plain.graphs) == ("6", "n/a", 0)


def test_successive_frames_may_be_submitted_before_the_first_is_fetched(on_gpu, plain):
    images = [smooth((48, 64), seed) for seed in range(5)]
    for segmenter in (on_gpu(), plain):
        pending = [segmenter.submit(image, confidence=True) for image in images]
        for waiting, image in reversed(list(zip(pending, images, strict=True))):
            same(waiting.result(), plain(image, confidence=True))
            same(waiting.result(), plain(image, confidence=True))
    assert segmenter.submit([]).result() == []
    with pytest.raises(ValueError, match="must be uint8"):
        segmenter.submit(np.zeros((8, 8), np.uint8))


def test_the_order_of_cameras_makes_no_other_graph(on_gpu, plain):
    one, two, three = smooth((48, 64), 1), smooth((96, 128), 2), smooth((48, 64), 3)
    segmenter = on_gpu()
    for images in ([one, two, three], [two, three, one], [three, one, two]):
        for found, image in zip(segmenter(images), images, strict=True):
            same(found, plain(image))
    assert segmenter.graphs == 1


def test_warming_up_captures_what_cameras_of_one_size_can_send_together(on_gpu, plain):
    segmenter = on_gpu()
    segmenter.warm_up([(48, 64)] * 6)
    assert segmenter.graphs == 10
    images = [smooth((48, 64), seed) for seed in range(5)]
    for found, image in zip(segmenter(images), images, strict=True):
        same(found, plain(image))
    assert segmenter.graphs == 10


def test_without_a_graph_frames_are_labelled_all_the_same(on_gpu, plain, gpu):
    told, image = [], smooth((48, 64))
    segmenter = on_gpu(tell=told.append)
    gpu.failures["capture_begin"] = RuntimeError("no")
    stages = {}
    same(segmenter(image, confidence=True, stages=stages), plain(image, confidence=True))
    assert set(stages) == {"preprocess", "network", "postprocess"} and len(told) == 1
    same(segmenter.submit([image, image]).result()[1], plain(image))


def test_a_graph_whose_network_gives_no_numbers_fails_the_frame(on_gpu):
    segmenter = on_gpu()
    segmenter._network._network.register_forward_hook(lambda module, given, found: found * torch.nan)
    with pytest.raises(NotFiniteError, match="100.0% of the pixels"):
        segmenter.submit(smooth((64, 96))).result()


def test_a_lost_gpu_is_said_to_be_lost_and_nothing_of_it_is_freed(on_gpu, gpu, monkeypatch):
    image, lost = smooth((48, 64)), "the GPU cuda:0 is lost to this process: CUDA error: an illegal memory"

    def lose():
        segmenter = on_gpu(tell=lambda text: None)
        segmenter(image)
        monkeypatch.setattr(segmenter._network, "tensor_device", "cuda:0")
        monkeypatch.setattr(segmenter, "_plain", lambda *given: gpu.call("plain"))
        gpu.failures |= {name: RuntimeError("out of memory") for name in ("plain", "replay")}
        with pytest.raises(RuntimeError, match="^out of memory"):
            segmenter(image)
        pending = segmenter.submit(smooth((96, 64)))
        gpu.lost = True
        for ask in (pending.result, lambda: segmenter(image), lambda: segmenter.submit(image)):
            with pytest.raises(DeviceLostError, match=lost):
                ask()

    lose()
    assert not gpu.memory.aborted


def test_graphs_can_be_switched_off(on_gpu, monkeypatch):
    assert on_gpu()._graphs is not None
    assert on_gpu(graphs=False).describe_graphs() == "off: switched off, or this runtime cannot be captured"
    monkeypatch.setenv(GRAPHS_SWITCH, "0")
    assert on_gpu()._graphs is None
