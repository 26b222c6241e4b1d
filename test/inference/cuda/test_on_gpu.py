"""Frames through CUDA graphs on a real GPU."""

import threading

import numpy as np
import pytest
import torch

from drive_seg.inference.cuda.device import CudaDevice
from drive_seg.segmenter import Segmenter

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and PyTorch with CUDA")


@pytest.fixture(scope="module")
def pair():
    """The package's own model with graphs and without."""
    return tuple(Segmenter.load("dsnet_synth19", device="cuda", graphs=graphs) for graphs in (True, False))


def scene(size, number=0):
    from drive_seg.bench.subjects import image

    return image(size, number)


def nearly_same(found, wanted):
    assert found.label.shape == wanted.label.shape and (found.label == wanted.label).mean() >= 0.98
    if wanted.confidence is not None:
        assert (np.abs(found.confidence.astype(int) - wanted.confidence) <= 2).mean() >= 0.98


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("size", [(360, 640), (720, 1280), (1080, 1920), (375, 1242), (97, 131)])
def test_graph_and_plain_path_label_alike(pair, size, confidence):
    graphs, plain = pair
    for number in range(3):
        nearly_same(graphs(scene(size, number), confidence), plain(scene(size, number), confidence))
    assert graphs.graphs and "not for" not in graphs.describe_graphs() and plain._graphs is None


def test_six_cameras_are_one_graph(pair):
    graphs, plain = pair
    images = [scene((720, 1280), number) for number in range(6)]
    before = graphs.graphs
    for found, wanted in zip(graphs(images, True), plain(images, True), strict=True):
        nearly_same(found, wanted)
    assert graphs.graphs <= before + 1 and "not for" not in graphs.describe_graphs()


def test_mixed_sizes_and_overlapping_frames_come_back_as_their_own(pair):
    graphs, plain = pair
    frames = [
        [scene((360, 640), n), scene((720, 1280), n + 1)] if n % 2 else [scene((720, 1280), n)] for n in range(12)
    ]
    pending = [graphs.submit(frame, confidence=True) for frame in frames]
    for waiting, frame in zip(pending, frames, strict=True):
        for found, wanted in zip(waiting.result(), plain(frame, True), strict=True):
            nearly_same(found, wanted)
    assert "not for" not in graphs.describe_graphs()


def test_another_model_is_loaded_while_frames_pass(pair):
    """As the node does it: its captures and allocations disturb neither a model with graphs nor one without."""
    told, faults, done = [], [], threading.Event()

    def load():
        try:
            for _ in range(3):
                other = Segmenter.load("dsnet_camvid11", device="cuda", tell=told.append)
                other.warm_up([(360, 640), (720, 1280)])
                assert other.graphs and "not for" not in other.describe_graphs()
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
                assert (segmenter(image, stages={}).label == expected).mean() >= 0.98
    loader.join()
    assert not faults and not told and "not for" not in pair[0].describe_graphs()


def test_work_that_cannot_be_captured_is_refused_and_harms_nothing():
    device = CudaDevice.of("cuda")
    numbers, pool = device.memory(16), device.pool()
    device.run(lambda: numbers.fill_(3))
    before, allocated = torch.cuda.current_stream(), torch.cuda.memory_allocated()
    for _ in range(3):
        with pytest.raises(RuntimeError):
            device.capture(lambda: numbers.sum().item(), pool)
    assert torch.cuda.current_stream() == before and torch.cuda.memory_allocated() == allocated
    assert device.run(numbers.sum).item() == 48
    graph = device.capture(lambda: numbers.add_(1), device.pool())
    device.run(lambda: device.replay(graph))
    assert numbers.sum().item() == 64


def test_stages_are_measured(pair):
    stages = {}
    pair[0](scene((720, 1280)), stages=stages)
    assert set(stages) == {"preprocess", "network", "postprocess"} and min(stages.values()) > 0
