"""Programs give the logits of the network that they say, and each of their convolutions is torch's."""

import copy
import itertools
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from drive_seg import networks
from drive_seg.inference.runtimes.native import assembly as module
from drive_seg.inference.runtimes.native import steps
from drive_seg.inference.runtimes.native.calibration import calibrate
from drive_seg.inference.runtimes.native.channels import Channel, exact_pieces, grouped_pieces
from drive_seg.inference.runtimes.native.program import Program, UnsupportedError
from drive_seg.inference.runtimes.native.steps import Buffer, Type
from drive_seg.networks.fold import fold
from drive_seg.networks.fold.channels import gather
from drive_seg.networks.fold.unpooling import max_pool_places, max_unpool_places

ALL_STAGES = ("stage1", "stage2", "stage3", "stage4", "stage5")
SIZE = (41, 67)


def picture(height, width, count=1):
    return torch.randn(count, 3, height, width)


@torch.inference_mode()
def assert_close(logits, network, image, tolerance=1e-5):
    """To the folded network's by torch, relative to the largest."""
    expected = network(image)
    assert logits.shape == expected.shape and logits.dtype == torch.float32
    assert (logits - expected).abs().max() <= tolerance * expected.abs().max()


def able(library, type):
    return {Type.FLOAT: True, Type.BFLOAT: library.bfloats, Type.BYTE: library.bytes}[type]


@pytest.fixture
def apart(library):
    """Network, image and type -> what each step wrote, by its name."""

    def apart(network, image, type=Type.FLOAT, **how):
        if not able(library, type):
            pytest.skip("this processor lacks the instructions")
        if type is Type.BYTE:
            how["factors"] = calibrate(network, [image], library)
        made = Program(network, tuple(image.shape[-2:]), type, library.lanes, 1, apart=True, **how)
        made.run(library, image)
        return {buffer.name: buffer for buffer in made.buffers}

    return apart


# --- Logits in float32 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        *({"size": size} for size in ("0.5", "1.5", "2.0")),
        {"shuffle": False},
        {"skips": True},
        {"init": "conv"},
        {"dilation": "power"},
        {"unpool": "one_hot"},
        *({"feature_balance": (stage,)} for stage in ALL_STAGES),
        {"feature_balance": ALL_STAGES, "feature_modulator": "dual", "skips": True},
        {"feature_balance": ALL_STAGES, "feature_modulator": "conv", "skips": True},
        {"feature_balance": ALL_STAGES, "feature_modulator": "none"},
        {"feature_balance": ALL_STAGES, "size": "0.5", "shuffle": False, "init": "conv"},
    ],
    ids=str,
)
def test_every_dsnet_has_the_logits_of_the_folded_network(make, run, chosen):
    network, image = make(**chosen), picture(*SIZE)
    assert_close(run(network, image), network, image)


@pytest.mark.parametrize(
    "size",
    # Tiles are up to 12 pixels of 1/8, 1/4 or 1/2 of the width: every length of a row in turn, then some of many tiles.
    [(1, 1), *((8, width) for width in range(8, 112, 8)), (47, 8), (136, 16), (9, 616), (16, 1000)],
    ids=str,
)
def test_images_of_any_size(make, run, size):
    image = picture(*size)
    assert_close(run(make(), image), make(), image)


@pytest.mark.parametrize("classes", [1, 2, 16, 19, 33, 80])
def test_any_number_of_classes(make, run, classes):
    network, image = make(classes), picture(16, 40)
    assert_close(run(network, image), network, image)


def test_an_image_may_lie_in_memory_as_it_likes(make, run):
    image = picture(24, 40)
    expected = run(make(), image)
    larger = torch.full((1, 5, 31, 99), 1e6)
    larger[:, 1:4, 3:27, 10:90:2] = image
    turned = image.transpose(2, 3).contiguous().transpose(2, 3)
    for other in (image.contiguous(memory_format=torch.channels_last), larger[:, 1:4, 3:27, 10:90:2], turned):
        assert other.stride() != image.stride() and torch.equal(run(make(), other), expected)
    grey = image[:, :1].expand(1, 3, 24, 40)
    assert torch.equal(run(make(), grey), run(make(), grey.contiguous()))


def test_sides_that_are_no_multiples_of_eight_are_filled_with_zeros(make, run):
    image = picture(17, 30)
    logits = run(make(), F.pad(image, (0, 2, 0, 7)))
    assert torch.equal(run(make(), image), logits[..., :17, :30])


# --- The same, whatever else happens ------------------------------------------------------------------------------

EACH_TYPE = pytest.mark.parametrize("type", list(Type), ids=str)
BALANCED = {"feature_balance": ALL_STAGES, "skips": True}


@EACH_TYPE
@pytest.mark.parametrize("chosen", [{}, BALANCED], ids=["plain", "balanced"])
def test_threads_memory_and_what_ran_before_change_no_bit(make, library, type, chosen):
    if not able(library, type):
        pytest.skip("this processor lacks the instructions")
    network, image, other = make(**chosen), picture(*SIZE), 100 * picture(*SIZE)
    factors = calibrate(network, [image], library) if type is Type.BYTE else None
    logits = []
    for threads, apart in ((1, False), (2, False), (3, False), (2, True)):
        program = Program(network, SIZE, type, library.lanes, threads, factors, apart)
        logits.append(program.run(library, image).clone())
        assert program.run(library, image).equal(logits[-1])
        assert not program.run(library, other).equal(logits[-1])
        assert program.run(library, image).equal(logits[-1])
        assert halos(program) == 0
    assert all(each.equal(logits[0]) for each in logits)


def halos(program):
    """The largest number beside the images."""
    beside = [buffer.memory.unflatten(-2, (-1,)) for buffer in program.buffers if buffer.halo]
    assert len(beside) >= 26, "at least each 3x3's input has one"
    columns = zip(beside, (b for b in program.buffers if b.halo), strict=True)
    return max(max(m[..., : b.halo, :].max(), m[..., b.halo + b.size[1] :, :].max()) for m, b in columns)


def test_tensors_share_memory_but_where_they_are_to_be_looked_at(make, library):
    together, apart = (Program(make(), SIZE, Type.FLOAT, library.lanes, 1, apart=apart) for apart in (False, True))
    assert [b.name for b in together.buffers] == [b.name for b in apart.buffers]
    assert len({b.name for b in apart.buffers}) == len({b.memory.data_ptr() for b in apart.buffers})
    taken, free = (sum({b.memory.data_ptr(): b.memory.nbytes for b in p.buffers}.values()) for p in (together, apart))
    assert taken < 0.7 * free


# --- One layer ----------------------------------------------------------------------------------------------------


def middle_layers(network):
    """(name of a branch, its 3x3) of all branches of three convolutions: dilated, of stride 2, transposed."""
    inner = network.network
    for stage in ("stage1", "stage2", "stage3", "stage4", "stage5"):
        for number, unit in enumerate(getattr(getattr(inner, stage), "units", ())):
            yield f"{stage}.{number}", unit[2]
    for name in ("down1", "down2", "up4", "up5"):
        yield f"{name}.right", getattr(inner, name).right[2]


def image_of(buffer):
    """float64 [1, C, H, W], what the stored numbers mean."""
    return (buffer.image.double() * buffer.factor).permute(2, 0, 1)[None]


@pytest.mark.parametrize("type", [Type.FLOAT, Type.BFLOAT], ids=str)
@pytest.mark.parametrize("size", [(41, 67), (8, 8), (160, 24)], ids=str)
@torch.inference_mode()
def test_dilated_strided_and_transposed_convolutions_are_torchs(make, apart, size, type):
    """Of what the step before wrote, in float64, by the weights as the type has them."""
    network = make()
    found, seen = apart(network, picture(*size), type), set()
    for name, layer in middle_layers(network):
        layer = fold(layer).network.to(type.dtype).double()
        layer.bias = nn.Parameter(dict(middle_layers(network))[name].bias.double())
        expected = layer(image_of(found[f"{name}.0"])).relu()
        wrong = (image_of(found[f"{name}.1"]) - expected).abs()
        assert (wrong <= (2**-8 * expected if type is Type.BFLOAT else 0) + 1e-5 * expected.max()).all(), name
        seen.add((layer._get_name(), layer.stride, layer.dilation))
    assert {d for *_, (d, _) in seen} == {1, 2, 5, 9, 17} and len(seen) == 7


def in_bytes(weight, axis):
    """What is left of a weight that is stored as -127..127 times a factor for each output channel."""
    scale = weight.abs().amax([i for i in range(4) if i != axis], keepdim=True) / 127
    return (weight / scale).round() * scale


@torch.inference_mode()
def test_a_convolution_in_bytes_is_one_of_whole_numbers(make, apart):
    """Of numbers 0..255 and weights -127..127, in float64, rounded once at the end."""
    network = make()
    found = apart(network, picture(*SIZE), Type.BYTE)
    for name, layer in middle_layers(network):
        given, out = found[f"{name}.0"], found[f"{name}.1"]
        weight = layer.weight.double()
        if isinstance(layer, nn.ConvTranspose2d):
            weight = weight.clone()
            # Each of the four places that a pixel becomes has taps, and so factors, of its own.
            for i, j in itertools.product((0, 1), repeat=2):
                weight[:, :, i::2, j::2] = in_bytes(weight[:, :, i::2, j::2], axis=1)
            sums = F.conv_transpose2d(image_of(given), weight, layer.bias.double(), 2, 1, 1)
        else:
            weight = in_bytes(weight, axis=0)
            sums = F.conv2d(image_of(given), weight, layer.bias.double(), layer.stride, layer.padding, layer.dilation)
        exact = (sums / out.factor).clamp(0, 255)
        wrong = (out.image.double().permute(2, 0, 1)[None] - exact).abs()
        assert wrong.max() <= 0.5001 and exact.max() > 250, name


def of_which(made, channels):
    """Of which of these channels each one made is, by its values; all but empty ones are there."""
    places = (made[0, :, None] - channels[0]).abs().amax((2, 3)).argmin(1).tolist()
    assert set(channels[0].amax((1, 2)).nonzero().flatten().tolist()) <= set(places)
    return places


@pytest.mark.parametrize("type", list(Type), ids=str)
@torch.inference_mode()
def test_what_is_no_convolution_is_torchs_too(make, apart, type):
    """Pooling, un-pooling with skips, FBNet's modulator; their inputs lie in pieces."""
    network = make(feature_balance=("stage2",), skips=True)
    inner, found = network.network, apart(network, picture(*SIZE), type)
    got = {name: image_of(buffer) for name, buffer in found.items()}

    def stage(name, below):
        folded = getattr(inner, name)
        units = [got[f"{name}.{number}.2"] for number in range(len(folded.units))]
        return gather([got[f"{below}.left"], got[f"{below}.right.2"], *units], folded.slices[-1])

    low, high = stage("stage1", "down1"), stage("stage2", "down2")
    first = got["init" if type is Type.FLOAT else "init.rounded"]
    # The maxima may stand in another order of the channels, and what is un-pooled then stands in that, too.
    at_first = of_which(got["down1.pool"], F.max_pool2d(got["init"], 2))
    at_low = of_which(got["down2.pool"], F.max_pool2d(low, 2))
    where1, where2 = (max_pool_places(x)[1] for x in (got["init"][:, at_first], low[:, at_low]))
    wanted = {
        "down1.pool": F.max_pool2d(got["init"], 2)[:, at_first],
        "down2.pool": F.max_pool2d(low, 2)[:, at_low],
        "stage2.balance": copy.deepcopy(inner.balance["stage2"]).double()(high)[0],
        "up4": max_unpool_places(got["up4.left"], where2) + got["up4.right.2"] + low[:, at_low],
        "up5": max_unpool_places(got["up5.left"], where1) + got["up5.right.2"] + first[:, at_first],
    }
    if type is not Type.FLOAT:
        wanted["init.rounded"] = got["init"]
    for name, exact in wanted.items():
        factor = found[name].factor
        if type is Type.BYTE:
            exact = exact.clamp(max=255 * factor)
        half = {Type.FLOAT: 0, Type.BFLOAT: 2**-8 * exact, Type.BYTE: 0.5 * factor}[type]
        assert ((got[name] - exact).abs() <= half + 1e-5 * exact.max()).all(), name


# --- What is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "chosen"),
    [("enet", {}), ("dsnet", {"pyramid_pooling": True}), ("dsnet", {"unit": "add"})],
    ids=["enet", "pyramid", "another unit"],
)
def test_other_networks_are_refused(library, name, chosen):
    network = fold(networks.build(name, 11, **chosen))
    with pytest.raises(UnsupportedError, match="the native kernels run DSNets of the paper's own units, without pyr"):
        Program(network, (8, 8), Type.FLOAT, library.lanes, 1)


def test_bytes_hold_nothing_negative(make, library):
    network = make(feature_balance=("stage4",), feature_modulator="conv")
    with pytest.raises(UnsupportedError, match="int8 is not available for FBNet's modulator 'conv'"):
        Program(network, (8, 8), Type.BYTE, library.lanes, 1, {})


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [("PIECES", 5, r"a step reads \d+ pieces, and 5 is the most"), ("WIDEST", 48, "64 channels, and 48 is the most")],
)
def test_a_network_that_is_too_large_is_refused(make, library, monkeypatch, limit, value, reason):
    monkeypatch.setattr(module, limit, value)
    with pytest.raises(UnsupportedError, match=reason):
        Program(make(), (8, 8), Type.FLOAT, library.lanes, 1)


# --- Pieces -------------------------------------------------------------------------------------------------------


def tensors(type):
    memory = [torch.zeros(2, 4, 48, dtype=type.dtype) for _ in range(2)]
    return [Buffer(str(n), (2, 2), each, type, n, halo=1) for n, each in zip((48, 33), memory, strict=True)]


def channel_list(rng, buffers):
    """Some channels of some buffers: runs, and single ones, in any order, each at most once."""
    there = [Channel(buffer, number) for buffer in buffers for number in range(buffer.channels)]
    if rng.random() < 0.5:
        rng.shuffle(there)
    there = [channel for channel in there if rng.random() < rng.choice((0.1, 0.6, 0.95))] or there[:1]
    cut = rng.randrange(len(there))
    return there[cut:] + there[:cut]


def read(piece, buffers, group):
    """The channels that a piece of so many groups reads of its first pixel, one by one."""
    (buffer,) = [b for b in buffers if 0 <= piece.data - b.address() < b.pixel_bytes]
    assert (piece.pixel, piece.row, piece.type) == (buffer.pixel_bytes, buffer.row_bytes, buffer.type)
    start = (piece.data - buffer.address()) // buffer.memory.element_size()
    assert start + piece.channels * group <= buffer.memory.shape[-1], "not beyond the pixel"
    return [(buffer.name, start + i) for i in range(piece.channels * group)]


@pytest.mark.parametrize("type", list(Type), ids=str)
def test_grouped_pieces_hold_every_channel_once_in_as_few_as_can_be(type):
    rng = random.Random(1)
    for _ in range(60):
        buffers = tensors(type)
        x, group = channel_list(rng, buffers), type.group
        pieces, numbers = grouped_pieces(x, group)
        found = [channel for piece in pieces for channel in read(piece, buffers, group)]
        wanted = {(buffer.name, number): i for i, (buffer, number) in enumerate(x)}
        assert numbers == [wanted.get(channel, -1) for channel in found]
        assert len(set(found)) == len(found) and set(wanted) <= set(found)
        groups = {(name, number // group) for name, number in wanted}
        assert len(found) == group * len(groups), "no group without a channel that is wanted"
        assert len(pieces) == sum((name, number - 1) not in groups for name, number in groups)


@pytest.mark.parametrize("type", list(Type), ids=str)
def test_exact_pieces_hold_just_the_channels_in_their_order(type):
    rng = random.Random(2)
    for _ in range(60):
        buffers = tensors(type)
        x = channel_list(rng, buffers)
        pieces = exact_pieces(x)
        assert [c for piece in pieces for c in read(piece, buffers, 1)] == [(b.name, number) for b, number in x]
        breaks = sum(a.buffer is not b.buffer or a.number + 1 != b.number for a, b in itertools.pairwise(x))
        assert len(pieces) == 1 + breaks


def test_the_kernels_say_the_same_of_steps():
    """What the size of a step does not show."""
    source = Path(module.__file__).with_name("kernels.cpp").read_text()
    for name in ("PIECES", "TAPS", "WIDEST"):
        assert f"constexpr int {name} = {getattr(steps, name)};" in source
    for kind in (Type, steps.Kind):
        members = ", ".join(f"{member.name} = {member.value}" for member in kind)
        assert f"enum {kind.__name__} : int32_t {{ {members} }};" in source


# --- Calibration --------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_a_factor_is_the_mean_of_the_largest_numbers_over_255(make, library):
    network = copy.deepcopy(make(feature_balance=("stage1",)))
    inner, images = network.network, [picture(24, 40), 3 * picture(24, 40), picture(24, 40)]
    parts = {
        "init": inner.init,
        "down2.right.1": inner.down2.right[3],
        "down1.left": inner.down1.left,
        "stage1.3.2": inner.stage1.units[3],
        "stage1.balance": inner.balance["stage1"],
        "stage2.5.2": inner.stage2.units[5],
        "up4": inner.up4,
        "up5.right.2": inner.up5.right,
        "stage5.0.2": inner.stage5.units[0],
    }
    largest = {name: [] for name in parts}
    for name, part in parts.items():
        part.register_forward_hook(
            lambda _, __, out, name=name: largest[name].append(
                float((out if isinstance(out, torch.Tensor) else out[0]).max())
            )
        )
    for image in images:
        network(image)
    factors = calibrate(network, (image for image in images), library)
    for name, numbers in largest.items():
        assert len(numbers) == 3 and factors[name] == pytest.approx(sum(numbers) / 3 / 255, rel=1e-4), name
    assert factors["init.rounded"] == factors["init"]
    program = Program(network, (24, 40), Type.FLOAT, library.lanes, 1)
    assert set(factors) == {buffer.name for buffer in program.buffers} | {"init.rounded"}


def test_images_to_calibrate_on_may_be_of_several_sizes(make, library):
    images = [picture(16, 24), picture(40, 32), picture(8, 8)]
    each = [calibrate(make(), [image], library) for image in images]
    together = calibrate(make(), images, library)
    for name, factor in together.items():
        assert factor == pytest.approx(sum(factors[name] for factors in each) / 3, rel=1e-5, abs=1e-6)


def test_a_tensor_of_zeros_has_a_factor_to_divide_by(make, library):
    network = copy.deepcopy(make())
    last = network.network.stage5.units[0][4]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, -1)
    factors = calibrate(network, [picture(16, 16)], library)
    assert factors["stage5.0.2"] == 1e-6 and min(factors.values()) > 0


def test_no_image_to_calibrate_on_is_a_sentence(make, library):
    with pytest.raises(ValueError, match="there is no image to calibrate on"):
        calibrate(make(), [], library)
