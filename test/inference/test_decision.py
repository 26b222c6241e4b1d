"""Ids, confidence and nearest neighbour, against a reference that goes pixel by pixel or is PyTorch's own."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from drive_seg.inference import decision
from drive_seg.inference.decision import decide, to_size
from drive_seg.labels import VOID

ORDERS = {"planes": torch.contiguous_format, "channels side by side": torch.channels_last}


def random_logits(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (4 * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))).to(dtype)


def reference(logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Ids, the first of equals, and 255 x softmax maximum, not rounded."""
    values = logits.double().numpy()
    ids = np.empty((values.shape[0], *values.shape[2:]), np.uint8)
    sureness = np.empty(ids.shape)
    for image, row, column in np.ndindex(ids.shape):
        pixel = values[image, :, row, column].tolist()
        ids[image, row, column] = pixel.index(max(pixel))
        sureness[image, row, column] = 255 / sum(math.exp(value - max(pixel)) for value in pixel)
    return ids, sureness


@pytest.fixture(params=[1 << 15, 50, 1], ids=["one block", "some rows", "row by row"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision, "_BLOCK", request.param)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(1, 19, 9, 16), (2, 5, 7, 11), (3, 1, 4, 5), (1, 256, 2, 3), (1, 2, 1, 1)])
@pytest.mark.usefixtures("block")
def test_ids_and_confidence_are_those_of_the_definition(shape: tuple[int, ...], dtype: torch.dtype, order: str) -> None:
    logits = random_logits(*shape, dtype=dtype).contiguous(memory_format=ORDERS[order])
    before = logits.clone()
    ids, sureness = decide(logits, confidence=True)
    wanted, exact = reference(logits)
    assert ids.dtype == sureness.dtype == torch.uint8
    assert np.array_equal(ids, wanted)
    assert np.abs(sureness.numpy() - exact).max() < 0.501, "rounded"
    alone, nothing = decide(logits, confidence=False)
    assert nothing is None and torch.equal(alone, ids)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("temperature", [0.3, 1.7, 6.0])
@pytest.mark.usefixtures("block")
def test_a_temperature_divides_the_logits_of_the_confidence_alone(temperature: float, order: str) -> None:
    logits = random_logits(2, 19, 9, 16).contiguous(memory_format=ORDERS[order])
    ids, sureness = decide(logits, True, temperature)
    assert torch.equal(ids, decide(logits, True)[0])
    exact = 255 * (logits.double() / temperature).softmax(1).amax(1)
    assert (sureness - exact).abs().max() < 0.501, "rounded"
    at_once = decision._decide_at_once(logits, True, temperature)
    assert torch.equal(at_once[0], ids) and (at_once[1].short() - sureness.short()).abs().max() <= 1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_a_gpu_does_at_once_is_the_same(dtype: torch.dtype, order: str) -> None:
    """The operations that a CUDA graph holds, run here."""
    logits = random_logits(2, 19, 23, 31, dtype=dtype).contiguous(memory_format=ORDERS[order])
    logits[:, 3:5] = logits[:, 2:3]  # equals
    logits[0, 7, 0, 0] = math.nan
    logits[1, 5, 1, 1] = math.inf
    for confidence in (False, True):
        ids, sureness = decision._decide_at_once(logits, confidence)
        wanted, steps = decide(logits, confidence)
        assert torch.equal(ids, wanted)
        if confidence:
            assert (sureness.short() - steps.short()).abs().max() <= 1, "rounded"


def test_ids_of_double_precision_do_not_depend_on_whether_confidence_is_asked_for() -> None:
    logits = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64).view(1, 2, 1, 1)
    logits = logits.expand(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    assert torch.equal(decide(logits, False)[0], decide(logits, True)[0])


@pytest.mark.parametrize("order", ORDERS)
def test_a_cut_of_a_larger_tensor_is_decided_as_if_it_stood_alone(order: str) -> None:
    logits = random_logits(2, 6, 13, 18).contiguous(memory_format=ORDERS[order])
    for cut in (logits[..., :12, :15], logits[..., 1:, 3:], logits[1:], logits[:, 1:4], logits[..., ::2]):
        for ours, wanted in zip(decide(cut, True), decide(cut.contiguous(), True), strict=True):
            assert torch.equal(ours, wanted)


def test_the_memory_order_changes_no_bit() -> None:
    logits = random_logits(1, 19, 45, 80)
    first, *others = [decide(logits.contiguous(memory_format=order), True) for order in ORDERS.values()]
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.usefixtures("block")
def test_the_first_of_equals_is_taken(order: str) -> None:
    logits = torch.randint(0, 3, (1, 7, 30, 41), generator=torch.Generator().manual_seed(0)).float()
    logits[0, :, 0] = 0.0
    logits[0, 3, 0] = -0.0
    ids, sureness = decide(logits.contiguous(memory_format=ORDERS[order]), True)
    assert np.array_equal(ids[0], np.argmax(logits[0].numpy(), axis=0))
    assert (ids[0, 0] == 0).all()
    assert (sureness[0, 0] == round(255 / 7)).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("confidence", [True, False])
@pytest.mark.usefixtures("block")
def test_values_that_are_no_numbers_or_infinite(order: str, confidence: bool) -> None:
    nan, inf = math.nan, math.inf
    pixels = {  # logits -> id, confidence
        (1.0, nan, 9.0, nan): (VOID, 0),
        (nan, 5.0, 9.0, 1.0): (VOID, 0),
        (1.0, 2.0, inf, nan): (VOID, 0),
        (1.0, inf, inf, 0.0): (VOID, 0),
        (-inf, -inf, -inf, -inf): (VOID, 0),
        (-inf, 0.0, -inf, -inf): (1, 255),
        (3.0e38, -3.0e38, 0.0, 0.0): (0, 255),
        (0.0, 0.0, 0.0, 0.0): (0, 64),
    }
    ordinary = random_logits(1, 4, 60, len(pixels))
    logits = ordinary.clone()
    logits[0, :, 30] = torch.tensor(list(pixels)).T
    ids, sureness = decide(logits.contiguous(memory_format=ORDERS[order]), confidence)
    assert ids[0, 30].tolist() == [place for place, _ in pixels.values()]
    others = torch.arange(60) != 30
    assert torch.equal(ids[:, others], ordinary.max(1).indices.to(torch.uint8)[:, others]), "as PyTorch's own"
    if confidence:
        assert sureness[0, 30].tolist() == [sure for _, sure in pixels.values()]
        assert torch.equal(sureness[:, others], decide(ordinary, True)[1][:, others])


@pytest.mark.parametrize("order", ORDERS)
def test_the_way_of_other_devices_gives_the_same(order: str) -> None:
    logits = random_logits(2, 19, 45, 80).contiguous(memory_format=ORDERS[order])
    logits[0, 3, 7, 5], logits[1, 4, 8, 6] = math.nan, math.inf
    at_once = decision._decide_at_once(logits, True)
    assert torch.equal(decision._decide_at_once(logits, False)[0], at_once[0])
    ids, sureness = decide(logits, True)
    assert torch.equal(at_once[0], ids)
    assert (at_once[1].int() - sureness.int()).abs().max() <= 1, "sums of other orders"


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    logits = random_logits(1, 8, 270, 481)
    wanted, before = decide(logits, True), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        got = decide(logits, True)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


SIZES = [
    ((360, 640), (720, 1280)),
    ((48, 64), (144, 192)),
    ((360, 640), (721, 1281)),
    ((360, 640), (370, 1241)),
    ((360, 640), (480, 640)),
    ((360, 640), (360, 960)),
    ((64, 96), (17, 33)),
    ((8, 16), (1, 1)),
    ((8, 8), (1080, 1928)),
    ((1, 1), (5, 7)),
]


@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_a_plane_is_brought_to_size_as_pytorch_does(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    plane = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = to_size(plane, wanted)
    assert ours.dtype == torch.uint8 and ours.is_contiguous()
    assert torch.equal(ours, F.interpolate(plane[None, None], wanted, mode="nearest-exact")[0, 0])


def test_nearest_neighbours_are_those_of_the_middle_of_each_pixel() -> None:
    for length in (8, 45, 360, 641):
        for wanted in (1, 7, length, 2 * length, 3 * length + 1, 1080):
            exact = [(2 * place + 1) * length // (2 * wanted) for place in range(wanted)]
            got = to_size(torch.arange(length).remainder(256).to(torch.uint8)[None], (1, wanted))[0].tolist()
            off = [place for place in range(wanted) if got[place] != exact[place] % 256]
            # where the middle falls on the border of two pixels, rounding may take the one before it
            assert all((2 * place + 1) * length % (2 * wanted) == 0 for place in off)


def test_a_plane_that_has_the_size_is_not_copied() -> None:
    plane = torch.zeros(4, 6, dtype=torch.uint8)
    assert to_size(plane, (4, 6)) is plane
