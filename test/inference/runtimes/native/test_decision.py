"""Deciding row by row gives the classes and the confidence that one has by looking at all logits afterwards."""

import copy
import math

import pytest
import torch

from drive_seg.inference.decision import SPARSE, decide
from drive_seg.inference.runtimes.native.calibration import calibrate
from drive_seg.inference.runtimes.native.program import Program
from drive_seg.inference.runtimes.native.steps import Type

SIZE = (41, 67)


def both(library, network, image, type=Type.FLOAT, threads=2, factors=None):
    """A program's ids and confidences, and the logits that it has of the same image."""
    program = Program(network, tuple(image.shape[-2:]), type, library.lanes, threads, factors)
    ids, sureness, rows = program.decide(library, image, confidence=True)
    alone, *nothing = program.decide(library, image, confidence=False)
    assert rows is None and nothing == [None, None] and alone.equal(ids)
    assert ids.dtype == sureness.dtype == torch.uint8 and ids.is_contiguous() and sureness.is_contiguous()
    return ids, sureness, program.run(library, image)


def with_logits(make, classes, values):
    """A network whose logits are these at each pixel."""
    network = copy.deepcopy(make(classes))
    last = network.network.fullconv
    last.weight.data.zero_()
    last.bias = torch.nn.Parameter(torch.tensor(values))
    return network


@pytest.mark.parametrize("type", list(Type), ids=str)
@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 19, 33, 80])
def test_classes_and_confidence_are_those_of_the_logits(make, library, type, classes):
    if not {Type.FLOAT: True, Type.BFLOAT: library.bfloats, Type.BYTE: library.bytes}[type]:
        pytest.skip("this processor lacks the instructions")
    network, image = make(classes), 10 * torch.randn(1, 3, *SIZE)
    factors = calibrate(network, [image], library) if type is Type.BYTE else None
    ids, sureness, logits = both(library, network, image, type, factors=factors)
    wanted, _ = decide(logits, True)
    assert ids.equal(wanted)
    exact = 255 * logits.double().softmax(1).amax(1)
    assert (sureness - exact).abs().max() < 0.5001, "rounded"
    assert classes == 1 or (len(ids.unique()) > 1 and len(sureness.unique()) > 5)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (16, 16), (17, 30), (9, 72), (24, 200)], ids=str)
def test_images_of_any_size(make, library, size):
    image = torch.randn(1, 3, *size)
    ids, sureness, logits = both(library, make(), image)
    wanted, close = decide(logits, True)
    assert ids.shape == sureness.shape == (1, *size)
    assert ids.equal(wanted) and (sureness.short() - close.short()).abs().max() <= 1


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("values", "chosen", "sureness"),
    [
        ([2.0] * 19, 0, round(255 / 19)),
        ([1.0, 3.0, -1.0, 3.0], 1, round(255 / (2 + math.exp(-2) + math.exp(-4)))),
        ([0.0, NAN, 5.0, NAN], 255, 0),
        ([NAN, 1.0], 255, 0),
        ([1.0, NAN], 255, 0),
        ([INF, NAN], 255, 0),
        ([1.0, INF, INF], 255, 0),
        ([-INF, -INF, -INF], 255, 0),
        ([-INF, 4.0, -INF], 1, 255),
        ([-3e38, 3e38, 0.0], 1, 255),
        ([-1000.0, 0.0, -88.0, -87.0], 1, 255),
    ],
    ids=str,
)
def test_ties_and_what_is_no_ordinary_number(make, library, values, chosen, sureness):
    ids, sure, logits = both(library, with_logits(make, len(values), values), torch.randn(1, 3, 16, 40))
    assert (ids == chosen).all()
    wanted, known = decide(logits, True)
    assert ids.equal(wanted) and sure.equal(known)
    assert (sure == sureness).all()


@pytest.mark.parametrize("gap", [1e-6, 1e-3, 0.1, 0.3465, 0.3466, 0.6931, 1.0, 2.7, 5.0, 20.0, 60.0])
def test_confidence_is_right_however_far_the_others_are(make, library, gap):
    """Each gap in many fractions, for the exponential's parts."""
    for part in range(20):
        far = gap * (1 + part / 20)
        _, sure, _ = both(library, with_logits(make, 3, [0.0, -far, -far / 2]), torch.randn(1, 3, 8, 16))
        exact = 255 / (1 + math.exp(-far) + math.exp(-far / 2))
        assert abs(int(sure[0, 0, 0]) - exact) < 0.5001


@pytest.mark.parametrize(("temperature", "warm"), [(0.4, None), (2.5, 7.5), (1.0, 3.0)])
@pytest.mark.parametrize("confidence", [True, False])
def test_temperature_and_what_frames_are_judged_by_are_as_elsewhere(make, library, confidence, temperature, warm):
    network, image = make(19), 10 * torch.randn(1, 3, *SIZE)
    program = Program(network, SIZE, Type.FLOAT, library.lanes, 2)
    ids, sureness, rows = program.decide(library, image, confidence, temperature, warm)
    logits = program.run(library, image)
    wanted, close = decide(logits, True, temperature)
    assert ids.equal(wanted) and (sureness is not None) == confidence and (rows is None) == (warm is None)
    if confidence:
        assert (sureness.short() - close.short()).abs().max() <= 1 and len(close.unique()) > 5
    if warm is not None:
        some = decide(logits[:, :, ::SPARSE], True, warm)[1]
        assert rows.shape == some.shape and (rows.short() - some.short()).abs().max() <= 1


def test_threads_and_what_ran_before_change_nothing(make, library):
    network, image, other = make(19), torch.randn(1, 3, *SIZE), torch.randn(1, 3, *SIZE)
    found = []
    for threads in (1, 2, 3):
        program = Program(network, SIZE, Type.FLOAT, library.lanes, threads)
        first = program.decide(library, image, True, 1.0, 3.0)
        kept = [plane.clone() for plane in first]
        program.run(library, other)
        program.decide(library, other, True)
        assert all(plane.equal(before) for plane, before in zip(first, kept, strict=True)), "never overwritten"
        again = program.decide(library, image, True, 1.0, 3.0)
        assert all(plane.equal(before) for plane, before in zip(again, kept, strict=True))
        found.append(kept)
    assert all(a.equal(b) for each in found for a, b in zip(each, found[0], strict=True))
