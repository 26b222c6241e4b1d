"""Races and lifetimes: frames through graphs on a GPU that does all as late and as disorderly as it may."""

import gc
import threading
import weakref

import numpy as np
import pytest

from drive_seg.inference.cuda.device import CudaDevice
from drive_seg.inference.cuda.flight import Slot
from drive_seg.inference.cuda.graphs import FrameGraphs

SMALL, WIDE, TALL = (16, 24), (16, 40), (40, 16)


@pytest.fixture
def graphs_of(make_gpu, toy_path):
    """Makes the GPU of a seed and the graphs of a toy path there."""

    def make(seed=0, **options):
        gpu = make_gpu(seed)
        options.setdefault("tell", lambda text: pytest.fail(text))
        return gpu, FrameGraphs(toy_path(gpu), CudaDevice.of("cuda:0"), **options)

    return make


@pytest.mark.parametrize("seed", range(4))
def test_each_answer_is_that_of_its_own_images_and_is_never_overwritten(seed, graphs_of, pictures, answer_of):
    """Sizes, outputs and the moments of fetching at random; every answer is looked at again at the end."""
    (_, graphs), rng, waiting, fetched = graphs_of(seed), np.random.default_rng(seed), [], []
    sizes = [(SMALL,), (SMALL, SMALL, SMALL, SMALL, SMALL), (TALL, WIDE)]
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


@pytest.mark.parametrize("event", ["uploaded", "computed"])
def test_an_order_that_is_missing_is_found(event, graphs_of, pictures, monkeypatch):
    """The checker itself: without one of the two events between streams the sanitizer sees a race."""
    told = []
    _, graphs = graphs_of(tell=told.append)
    graphs.submit(pictures(SMALL), SMALL, False).land()
    order = CudaDevice.order
    left_out = [getattr(slot, event) for slot in graphs._slots]
    monkeypatch.setattr(CudaDevice, "order", lambda *given: None if given[2] in left_out else order(*given))
    assert graphs.submit(pictures(SMALL), SMALL, False) is None and "race" in told[0]


def test_two_are_on_their_way_and_one_more_waits_for_the_oldest(graphs_of, pictures, answer_of):
    gpu, graphs = graphs_of()
    graphs.submit(pictures(SMALL), SMALL, False).land()
    gpu.rng = type("Never", (), {"integers": lambda self, *bounds: 0})()  # nothing happens before it is waited for
    first, second = (graphs.submit(pictures(SMALL, seed=seed), SMALL, False) for seed in (1, 2))
    assert first._answer is None and second._answer is None
    third = graphs.submit(pictures(SMALL, seed=3), SMALL, False)
    assert first._answer is not None and second._answer is None and third._answer is None
    for seed, flight in ((3, third), (2, second), (1, first)):
        assert np.array_equal(flight.land()[0], answer_of(pictures(SMALL, seed=seed))[0])
        assert flight.land() is flight.land()


def test_threads_may_share_the_graphs(graphs_of, pictures, answer_of):
    (_, graphs), wrong = graphs_of(), []
    graphs.submit(pictures(SMALL), SMALL, False).land()

    def label(number):
        for frame in range(15):
            images = pictures(SMALL, seed=100 * number + frame)
            if not np.array_equal(graphs.submit(images, SMALL, False).land()[0], answer_of(images)[0]):
                wrong.append((number, frame))

    threads = [threading.Thread(target=label, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_frame_that_is_waited_for_keeps_nobody_from_sending_another(graphs_of, pictures, monkeypatch):
    _, graphs = graphs_of()
    graphs.submit(pictures(SMALL), SMALL, False).land()
    waits, may_go, wait = threading.Event(), threading.Event(), CudaDevice.wait

    def slow(device, event):
        waits.set()
        assert may_go.wait(60)
        wait(device, event)

    monkeypatch.setattr(CudaDevice, "wait", slow)
    flight = graphs.submit(pictures(SMALL), SMALL, False)
    waiter = threading.Thread(target=flight.land)
    waiter.start()
    assert waits.wait(60)
    sent = []
    sender = threading.Thread(target=lambda: sent.append(graphs.submit(pictures(SMALL), SMALL, False)))
    sender.start()
    sender.join(60)
    may_go.set()
    waiter.join()
    assert sent and sent[0] is not None


# Lifetimes


@pytest.mark.parametrize("seed", range(4))
def test_a_flight_outlives_its_segmenter(seed, graphs_of, pictures, answer_of):
    """The kernels read weights by address: what is freed before they ran is overwritten."""
    gpu, graphs = graphs_of(seed)
    graphs.submit(pictures(SMALL), SMALL, False).land()
    flight = graphs.submit(pictures(SMALL, seed=1), SMALL, False)
    path = weakref.ref(graphs._path)
    del graphs
    gpu.memory.allocate(1)[:] = 77  # whoever comes next
    assert np.array_equal(flight.land()[0], answer_of(pictures(SMALL, seed=1))[0])
    del flight
    assert path() is None, "and no longer than that"


def test_a_flight_nobody_waits_for_keeps_its_memory_until_it_is_over(graphs_of, pictures):
    gpu, graphs = graphs_of()
    graphs.submit(pictures(SMALL), SMALL, False).land()
    gpu.rng = type("Never", (), {"integers": lambda self, *bounds: 0})()
    graphs.submit(pictures(SMALL), SMALL, False)
    device = graphs._device
    del graphs
    assert gpu.memory.owned > 5, "weight, buffers of the graph, of its slot"
    device.settle()
    device.keep(other := object(), device.event())
    device.release(other)
    gc.collect()  # a slot and its flight know each other
    assert gpu.memory.owned == 0


@pytest.mark.parametrize("planted", ["nothing keeps the flight", "the graph does not keep its path"])
def test_what_is_freed_too_early_is_found(planted, graphs_of, pictures, answer_of, monkeypatch):
    """The checker itself."""
    gpu, graphs = graphs_of()
    graphs.submit(pictures(SMALL), SMALL, False).land()
    gpu.rng = type("Never", (), {"integers": lambda self, *bounds: 0})()
    device, (graph,) = graphs._device, graphs._graphs.values()
    if "flight" in planted:
        monkeypatch.setattr(CudaDevice, "keep", lambda *given: None)
        graphs.submit(pictures(SMALL), SMALL, False)
        del graphs, graph
        gc.collect()
        with pytest.raises(AssertionError, match="the graph was freed while it ran"):
            device.settle()
    else:
        graph._path = None
        flight = graphs.submit(pictures(SMALL), SMALL, False)
        del graphs, graph
        assert not np.array_equal(flight.land()[0], answer_of(pictures(SMALL))[0])


def test_an_evicted_graphs_answer_arrives(graphs_of, pictures, answer_of):
    _, graphs = graphs_of(most=1)
    graphs.submit(pictures(SMALL), SMALL, False).land()
    flight = graphs.submit(pictures(SMALL, seed=1), SMALL, False)
    graphs._uses.clear()
    other = graphs.submit(pictures(WIDE), SMALL, False)
    assert other is not None and len(graphs) == 1
    assert np.array_equal(flight.land()[0], answer_of(pictures(SMALL, seed=1))[0])


def test_a_slot_grows_only_when_nothing_is_on_its_way(graphs_of, pictures, answer_of):
    gpu, graphs = graphs_of()
    for sizes in ((SMALL,), (WIDE,) * 4, (SMALL,), (TALL,) * 6):
        flights = [
            (graphs.submit(images, SMALL, True), images) for images in (pictures(*sizes), pictures(*sizes, seed=1))
        ]
        for flight, images in flights:
            assert all(map(np.array_equal, flight.land(), answer_of(images, True)))
    assert len(graphs._slots) == 2 and all(isinstance(slot, Slot) for slot in graphs._slots)


def test_stages_are_told_when_the_batch_has_arrived_and_add_up(graphs_of, pictures):
    (_, graphs), stages = graphs_of(), {}
    flight = graphs.submit(pictures(SMALL), SMALL, False, stages)
    flight.land()
    flight.land()
    assert set(stages) == {"preprocess", "network", "postprocess"} and stages["network"] == 0.25
    graphs.submit(pictures(SMALL), SMALL, False, stages).land()
    assert stages["network"] == 0.5 and stages["preprocess"] > 0.5 and stages["postprocess"] > 0.5
