"""Frames through CUDA graphs: the order of things on a GPU that does all as late as it may, and on a real one."""

import threading
from collections import deque

import cv2
import numpy as np
import pytest
import torch

from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.inference.cuda.device import CudaDevice
from drive_seg.inference.cuda.graph import MOST, FrameGraphs, GraphError, _check, _patches, _stacks
from drive_seg.inference.runtimes.pytorch import TorchRuntime
from drive_seg.labels import LabelMap
from drive_seg.segmenter import GRAPHS_SWITCH, NotFiniteError, Segmenter

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and PyTorch with CUDA")
SMALL, WIDE, TALL = (16, 24), (16, 40), (40, 16)


class Event:
    """Counts how often it was asked for and how often it happened."""

    asked = happened = 0


class LazyGpu:
    """Stands for CudaDevice: a stream is a queue, and what the host does not wait for happens late and in any order.

    Work is done in an order drawn at random among all that the order within streams and the events allow. Whatever
    the events do not order is therefore wrong for one seed or another.
    """

    def __init__(self, seed=0):
        self.up, self.compute, self.down = deque(), deque(), deque()
        self.rng = np.random.default_rng(seed)
        self.captures = 0

    def pinned(self, count):
        return torch.full((count,), 77, dtype=torch.uint8)

    memory = pinned

    def event(self):
        return Event()

    def copy(self, stream, target, source):
        assert len(target) == len(source), "a copy on a GPU does not repeat its source"
        self._later(stream, lambda: target.copy_(source))

    def record(self, stream, event):
        event.asked += 1

        def happen(number=event.asked):
            event.happened = number

        self._later(stream, happen)

    def order(self, stream, event):
        self._later(stream, None, event)

    def wait(self, event):
        while event.happened < event.asked:
            self._step()

    def seconds(self, first, last):
        assert first.happened == first.asked and last.happened == last.asked
        return 0.25

    def run(self, work):
        result = work()
        while any((self.up, self.compute, self.down)):
            self._step()
        return result

    def capture(self, work):
        self.captures += 1
        return work

    def replay(self, graph):
        self._later(self.compute, graph)

    def _later(self, stream, work, event=None):
        stream.append((work, event, event.asked if event else 0))
        for _ in range(self.rng.integers(0, 3)):
            self._step()

    def _step(self):
        """Do the first thing of a random stream that may go on."""
        free = [s for s in (self.up, self.compute, self.down) if s and (not s[0][1] or s[0][1].happened >= s[0][2])]
        if free:
            work, _, _ = free[self.rng.integers(len(free))].popleft()
            if work:
                with torch.inference_mode():  # as whatever thread waits, the host submitted it in this mode
                    work()
        else:
            assert not any((self.up, self.compute, self.down)), "streams wait for each other for ever"


def toy_path(stacks, size, confidence, of_frames=False):
    """Stands for a frame path: planes that tell each image from any other."""
    ids = [image[..., 0] ^ (image[..., 1] + image[..., 2]) for stack in stacks for image in stack]
    return ids + [255 - plane for plane in ids] * confidence


def pictures(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def answer_of(images, confidence):
    return [plane.numpy() for plane in toy_path([torch.from_numpy(image)[None] for image in images], None, confidence)]


def graphs_of(path=toy_path, device=None, told=None, **bounds):
    return FrameGraphs(path, device or LazyGpu(), (told if told is not None else []).append, **bounds)


def send(graphs, *sizes, seed=0, confidence=False):
    """Whether images of these sizes went through a graph."""
    images = pictures(*sizes, seed=seed)
    flight = graphs.submit(images, SMALL, confidence)
    if flight is not None:
        assert all(map(np.array_equal, flight.land(), answer_of(images, confidence)))
    return flight is not None


@pytest.mark.parametrize("seed", range(30))
def test_each_answer_is_that_of_its_own_images_and_is_never_overwritten(seed):
    """Sizes, outputs and the moments of fetching at random; every answer is looked at again at the end."""
    rng, graphs, waiting, fetched = np.random.default_rng(seed), graphs_of(device=LazyGpu(seed)), [], []
    sizes = [(SMALL,), (SMALL, SMALL, SMALL), (TALL, WIDE)]
    for frame in range(25):
        images, confidence = pictures(*sizes[rng.integers(3)], seed=frame), bool(rng.integers(2))
        waiting.append((graphs.submit(images, SMALL, confidence), answer_of(images, confidence)))
        for image in images:
            image[:] = 0  # the caller's buffer is his own again
        while waiting and rng.integers(2):
            flight, expected = waiting.pop(rng.integers(len(waiting)))
            fetched.append((flight.land(), expected))
    fetched += [(flight.land(), expected) for flight, expected in waiting]
    assert len(fetched) == 25 and len(graphs) <= 6
    for planes, expected in fetched:
        assert len(planes) == len(expected) and all(map(np.array_equal, planes, expected))
        assert all(plane.flags.owndata and plane.flags.writeable for plane in planes)


def test_two_are_on_their_way_and_one_more_waits_for_the_oldest():
    device = LazyGpu()
    device.rng = type("Never", (), {"integers": lambda self, *bounds: 0})()  # nothing happens before it is waited for
    graphs = graphs_of(device=device)
    first, second = (graphs.submit(pictures(SMALL, seed=seed), SMALL, False) for seed in (1, 2))
    assert first._answer is None and second._answer is None
    third = graphs.submit(pictures(SMALL, seed=3), SMALL, False)
    assert first._answer is not None and second._answer is None and third._answer is None
    for seed, flight in ((3, third), (2, second), (1, first)):
        assert np.array_equal(flight.land()[0], answer_of(pictures(SMALL, seed=seed), False)[0])
        assert flight.land() is flight.land()


def test_threads_may_share_the_graphs():
    graphs, wrong = graphs_of(), []

    def label(number):
        for frame in range(30):
            images = pictures(SMALL, seed=100 * number + frame)
            if not np.array_equal(graphs.submit(images, SMALL, False).land()[0], answer_of(images, False)[0]):
                wrong.append((number, frame))

    threads = [threading.Thread(target=label, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_graph_is_captured_once_for_sizes_and_outputs():
    graphs = graphs_of(device=(device := LazyGpu()))
    for _ in range(3):
        assert send(graphs, SMALL) and send(graphs, SMALL, SMALL) and send(graphs, SMALL, confidence=True)
    assert device.captures == len(graphs) == 3


def test_the_least_recently_used_makes_room_once_it_is_stale():
    graphs = graphs_of(device=(device := LazyGpu()), most=2, stale=4)
    assert send(graphs, SMALL) and send(graphs, WIDE)  # batches 1 and 2
    assert not send(graphs, TALL) and send(graphs, WIDE), "3 and 4: there is no room yet"
    assert send(graphs, TALL), "5: nobody took the first for four batches"
    assert send(graphs, WIDE) and not send(graphs, SMALL) and len(graphs) == 2
    assert device.captures == 3


def test_sizes_that_never_come_again_are_captured_seldom():
    graphs = graphs_of(device=(device := LazyGpu()), most=3, stale=20)
    for width in range(100):
        send(graphs, (8, 8 + width))
    assert device.captures <= 3 * (1 + 100 / 20) and len(graphs) == 3


def test_what_was_captured_on_expectation_goes_first():
    graphs = graphs_of(most=2)
    assert send(graphs, SMALL) and send(graphs, WIDE)
    graphs.forget_uses()
    assert send(graphs, SMALL), "a frame took it"
    assert send(graphs, TALL) and send(graphs, SMALL) and not send(graphs, WIDE)


def test_an_evicted_graphs_answer_arrives():
    graphs = graphs_of(most=1, stale=1)
    flight = graphs.submit(pictures(SMALL), SMALL, False)
    assert send(graphs, WIDE) and len(graphs) == 1
    assert np.array_equal(flight.land()[0], answer_of(pictures(SMALL), False)[0])


def broken(method, error):
    """A GPU one of whose methods fails once a flight is in the air."""
    device = LazyGpu()

    def fail(*arguments):
        raise error

    return device, lambda: setattr(device, method, fail)


@pytest.mark.parametrize("method", ["capture", "memory", "pinned", "replay", "copy"])
def test_whatever_fails_leaves_the_plain_path_and_one_sentence(method):
    told = []
    device, fail = broken(method, RuntimeError("operation not permitted\nwhen stream is capturing"))
    graphs = graphs_of(device=device, told=told)
    early = graphs.submit(pictures(SMALL), SMALL, False)
    fail()
    assert not send(graphs, WIDE, WIDE) and not send(graphs, SMALL) and len(graphs) == 0
    assert told == [graphs.off] and "operation not permitted when stream is capturing" in told[0]
    assert np.array_equal(early.land()[0], answer_of(pictures(SMALL), False)[0]), "it was on its way before"


def test_a_graph_that_labels_otherwise_is_not_used():
    class Wrong(LazyGpu):
        def capture(self, work):
            return lambda: None

    assert not send(graphs := graphs_of(device=Wrong(), told=(told := [])), SMALL)
    assert "the same class as the path it holds on" in told[0] and graphs.off


def test_a_graph_that_reads_what_is_no_longer_there_is_noticed():
    """It was captured from the pixels of before: right for them and for no others."""

    class Stale(LazyGpu):
        def capture(self, work):
            kept = _patches([SMALL], 0).view(1, *SMALL, 3)
            return lambda: self.planes.copy_(torch.cat([p.reshape(-1) for p in toy_path([kept], SMALL, False)]))

        def memory(self, count):
            self.planes = super().memory(count)
            return self.planes

    assert not send(graphs_of(device=Stale(), told=(told := [])), SMALL)
    assert "0.00%" in told[0] or "same class" in told[0]


def test_what_counts_as_the_same():
    wanted = torch.arange(200, dtype=torch.uint8).repeat(20)
    _check(wanted, wanted, 2000)
    nearly = wanted.clone()
    nearly[0] += 1
    nearly[2000:] += 2
    _check(nearly, wanted, 2000)
    for place, step, what in ((slice(0, 3), 1, "class"), (slice(2000, 2003), 3, "confidence")):
        off = wanted.clone()
        off[place] += step
        with pytest.raises(GraphError, match=f"same {what} .* on 99.85% of the pixels"):
            _check(off, wanted, 2000)


def test_stages_are_told_when_the_batch_has_arrived_and_add_up():
    graphs, stages = graphs_of(), {}
    flight = graphs.submit(pictures(SMALL), SMALL, False, stages)
    flight.land()
    flight.land()
    assert set(stages) == {"preprocess", "network", "postprocess"} and stages["network"] == 0.25
    graphs.submit(pictures(SMALL), SMALL, False, stages).land()
    assert stages["network"] == 0.5 and stages["preprocess"] > 0.5 and stages["postprocess"] > 0.5


def test_images_of_one_size_are_one_stack():
    pixels = torch.arange(3 * (2 * 16 * 24 + 16 * 40)) % 251
    both, wide = _stacks(pixels, [SMALL, SMALL, WIDE])
    assert both.shape == (2, *SMALL, 3) and wide.shape == (1, *WIDE, 3)
    assert torch.equal(torch.cat([both.reshape(-1), wide.reshape(-1)]), pixels)


# The Segmenter: with the lazy GPU in place of the real one everything else is as it is on a vehicle.


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
    return Segmenter(Colours(), contract, device="cpu", **options)


@pytest.fixture(scope="module")
def plain():
    return colour_segmenter()


@pytest.fixture
def on_lazy_gpu(monkeypatch):
    """A Segmenter that takes its CPU for a GPU which can be captured."""
    monkeypatch.setattr("drive_seg.segmenter.CudaDevice", lambda device: LazyGpu())
    monkeypatch.setattr(TorchRuntime, "capturable", property(lambda self: True, lambda self, value: None), False)
    segmenter = colour_segmenter()
    segmenter.device = "cuda"
    return segmenter


def same(found, wanted):
    assert np.array_equal(found.label, wanted.label)
    assert (found.confidence is None) == (wanted.confidence is None)
    assert wanted.confidence is None or np.array_equal(found.confidence, wanted.confidence)


def test_a_segmenter_gives_the_same_with_graphs(on_lazy_gpu, plain):
    images = [smooth(size, seed) for seed, size in enumerate([(48, 64), (96, 128), (24, 96), (48, 64), (96, 128)])]
    for confidence in (False, True):
        for found, image in zip(on_lazy_gpu(images, confidence), images, strict=True):
            same(found, plain(image, confidence))
        same(on_lazy_gpu(images[1], confidence), plain(images[1], confidence))
    assert on_lazy_gpu.graphs == 6, "two batches and one image alone, each with and without confidence"
    assert plain.graphs == 0


def test_successive_frames_may_be_submitted_before_the_first_is_fetched(on_lazy_gpu, plain):
    images = [smooth((48, 64), seed) for seed in range(5)]
    for segmenter in (on_lazy_gpu, plain):
        pending = [segmenter.submit(image, confidence=True) for image in images]
        for waiting, image in reversed(list(zip(pending, images, strict=True))):
            same(waiting.result(), plain(image, confidence=True))
            same(waiting.result(), plain(image, confidence=True))
    assert on_lazy_gpu.submit([]).result() == []
    with pytest.raises(ValueError, match="must be uint8"):
        on_lazy_gpu.submit(np.zeros((8, 8), np.uint8))


def test_the_order_of_cameras_makes_no_other_graph(on_lazy_gpu, plain):
    one, two, three = smooth((48, 64), 1), smooth((96, 128), 2), smooth((48, 64), 3)
    for images in ([one, two, three], [two, three, one], [three, one, two]):
        for found, image in zip(on_lazy_gpu(images), images, strict=True):
            same(found, plain(image))
    assert on_lazy_gpu.graphs == 1


def test_warming_up_captures_what_cameras_of_one_size_can_send_together(on_lazy_gpu):
    on_lazy_gpu.warm_up([(48, 64)] * 6)
    assert on_lazy_gpu.graphs == MOST
    captures = on_lazy_gpu._graphs._device.captures
    on_lazy_gpu([smooth((48, 64), seed) for seed in range(4)])
    assert on_lazy_gpu._graphs._device.captures == captures
    on_lazy_gpu(smooth((96, 128)))
    assert on_lazy_gpu._graphs._device.captures == captures + 1, "what no frame has taken yet makes room"


def test_without_a_graph_frames_are_labelled_all_the_same(plain, on_lazy_gpu):
    told, image = [], smooth((48, 64))
    on_lazy_gpu._graphs._tell = told.append
    on_lazy_gpu._graphs._device, fail = broken("capture", RuntimeError("no"))
    fail()
    stages = {}
    same(on_lazy_gpu(image, confidence=True, stages=stages), plain(image, confidence=True))
    assert set(stages) == {"preprocess", "network", "postprocess"} and len(told) == 1
    same(on_lazy_gpu.submit([image, image]).result()[1], plain(image))


def test_a_graph_whose_network_gives_no_numbers_fails_the_frame(on_lazy_gpu):
    segmenter, image = colour_segmenter(), smooth((64, 96))
    segmenter(image)
    assert segmenter.graphs == 1
    segmenter._network._network.register_forward_hook(lambda module, given, found: found * torch.nan)
    with pytest.raises(NotFiniteError, match="100.0% of the pixels"):
        segmenter.submit(image).result()


def test_graphs_can_be_switched_off(on_lazy_gpu, monkeypatch):
    assert on_lazy_gpu._graphs is not None
    assert colour_segmenter(graphs=False)._graphs is None
    monkeypatch.setenv(GRAPHS_SWITCH, "0")
    assert colour_segmenter()._graphs is None


# On a GPU.


@pytest.fixture(scope="module")
def pair():
    """The package's own model with graphs and without."""
    return tuple(Segmenter.load("dsnet_synth19", device="cuda", graphs=graphs) for graphs in (True, False))


def scene(size, number=0):
    from drive_seg.bench.subjects import image

    return image(size, number)


def nearly_same(found, wanted):
    assert found.label.shape == wanted.label.shape and (found.label == wanted.label).mean() >= 0.999
    if wanted.confidence is not None:
        assert (np.abs(found.confidence.astype(int) - wanted.confidence) <= 2).mean() >= 0.999


@needs_cuda
@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("size", [(360, 640), (720, 1280), (1080, 1920), (375, 1242), (97, 131)])
def test_on_a_gpu_graph_and_plain_path_label_alike(pair, size, confidence):
    graphs, plain = pair
    for number in range(3):
        nearly_same(graphs(scene(size, number), confidence), plain(scene(size, number), confidence))
    assert graphs.graphs and not graphs._graphs.off and plain._graphs is None


@needs_cuda
def test_on_a_gpu_six_cameras_are_one_graph(pair):
    graphs, plain = pair
    images = [scene((720, 1280), number) for number in range(6)]
    before = graphs.graphs
    for found, wanted in zip(graphs(images, True), plain(images, True), strict=True):
        nearly_same(found, wanted)
    assert graphs.graphs <= before + 1 and not graphs._graphs.off


@needs_cuda
def test_on_a_gpu_mixed_sizes_and_overlapping_frames_come_back_as_their_own(pair):
    graphs, plain = pair
    frames = [
        [scene((360, 640), n), scene((720, 1280), n + 1)] if n % 2 else [scene((720, 1280), n)] for n in range(12)
    ]
    pending = [graphs.submit(frame, confidence=True) for frame in frames]
    for waiting, frame in zip(pending, frames, strict=True):
        for found, wanted in zip(waiting.result(), plain(frame, True), strict=True):
            nearly_same(found, wanted)
    assert not graphs._graphs.off


@needs_cuda
def test_on_a_gpu_another_model_is_loaded_while_frames_pass(pair):
    """As the node does it: its captures and allocations disturb neither a model with graphs nor one without."""
    told, faults, done = [], [], threading.Event()

    def load():
        try:
            for _ in range(3):
                other = Segmenter.load("dsnet_camvid11", device="cuda", tell=told.append)
                other.warm_up([(360, 640), (720, 1280)])
                assert other.graphs and not other._graphs.off
        except Exception as error:
            faults.append(error)
        finally:
            done.set()

    images = [scene((360, 640), number) for number in range(8)]
    wanted = [pair[1](image).label for image in images]
    loader = threading.Thread(target=load)
    loader.start()
    while not done.is_set():
        for segmenter in pair:
            for image, expected in zip(images, wanted, strict=True):
                assert (segmenter(image, stages={}).label == expected).mean() >= 0.999
    loader.join()
    assert not faults and not told and not pair[0]._graphs.off


@needs_cuda
def test_on_a_gpu_work_that_cannot_be_captured_is_refused_and_harms_nothing():
    device = CudaDevice("cuda")
    numbers = device.memory(16)
    device.run(lambda: numbers.fill_(3))
    before = torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        device.capture(lambda: numbers.sum().item())
    assert torch.cuda.current_stream() == before
    assert device.run(lambda: numbers.sum()).item() == 48
    another = CudaDevice("cuda")
    graph = another.capture(lambda: numbers.add_(1))
    another.run(lambda: another.replay(graph))
    assert numbers.sum().item() == 64


@needs_cuda
def test_on_a_gpu_stages_are_measured(pair):
    stages = {}
    pair[0](scene((720, 1280)), stages=stages)
    assert set(stages) == {"preprocess", "network", "postprocess"} and min(stages.values()) > 0
