"""A SwiftNet's program gives the logits of the folded network, and each of its steps is torch's."""

import copy

import pytest
import torch
import torch.nn.functional as F

from drive_seg import networks
from drive_seg.inference.decision import SPARSE, decide
from drive_seg.inference.runtimes.native.program import Program, UnsupportedError
from drive_seg.inference.runtimes.native.steps import Type
from drive_seg.networks.fold import fold

SIZE = (41, 67)
STAGES = ("res2", "res3", "res4", "res5", "up4", "up3", "up2")
TYPES = pytest.mark.parametrize("type", [Type.FLOAT, Type.BFLOAT], ids=str)


@pytest.fixture
def swiftnet(make):
    return lambda classes=11, width=32, **chosen: make(classes, "swiftnet", width=width, **chosen)


@torch.inference_mode()
def assert_close(logits, network, image):
    """To the folded network's by torch, relative to the largest."""
    expected = network(image)
    assert logits.shape == expected.shape and logits.dtype == torch.float32
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def need(library, type):
    if type is Type.BFLOAT and not library.bfloats:
        pytest.skip("this processor lacks the instructions")


@pytest.mark.parametrize(
    "chosen",
    [
        # So many vectors of channels take passes of two, three and four in every mixture.
        *({"width": width} for width in (16, 80, 96, 112, 160, 176)),
        {"backbone": "efficientnet_lite1"},
        {"backbone": "efficientnet_lite2", "feature_balance": STAGES},
        *({"feature_balance": (stage,)} for stage in STAGES),
        {"feature_balance": STAGES, "feature_modulator": "conv"},
        {"feature_balance": STAGES, "feature_modulator": "none"},
    ],
    ids=str,
)
def test_every_swiftnet_has_the_logits_of_the_folded_network(swiftnet, run, chosen):
    network, image = swiftnet(**chosen), torch.randn(1, 3, *SIZE)
    assert_close(run(network, image, threads=2), network, image)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 33), (31, 8), (64, 96), (65, 97), (9, 330), (200, 13)], ids=str)
def test_images_of_any_size(swiftnet, run, size):
    image = torch.randn(1, 3, *size)
    assert_close(run(swiftnet(), image), swiftnet(), image)


def test_an_image_may_lie_in_memory_as_it_likes(swiftnet, run):
    image = torch.randn(1, 3, *SIZE)
    other = image.contiguous(memory_format=torch.channels_last)
    assert other.stride() != image.stride() and run(swiftnet(), other).equal(run(swiftnet(), image))


@TYPES
@pytest.mark.parametrize("chosen", [{}, {"feature_balance": STAGES}], ids=["plain", "balanced"])
def test_threads_memory_and_what_ran_before_change_no_bit(swiftnet, library, type, chosen):
    """Many threads expand whole tensors, few keep rows of them."""
    need(library, type)
    network, image, other = swiftnet(**chosen), torch.randn(1, 3, *SIZE), 100 * torch.randn(1, 3, *SIZE)
    logits = []
    for threads, apart in ((1, False), (2, False), (3, False), (8, False), (1, True)):
        program = Program(network, SIZE, type, library.lanes, threads, apart=apart)
        logits.append(program.run(library, image).clone())
        assert not program.run(library, other).equal(logits[-1])
        assert program.run(library, image).equal(logits[-1])
    assert all(each.equal(logits[0]) for each in logits)


def test_what_is_expanded_is_never_whole_in_memory(swiftnet, library):
    rows, whole = (
        Program(swiftnet(), (360, 640), Type.FLOAT, library.lanes, 2, apart=apart) for apart in (False, True)
    )
    taken, free = (sum({b.memory.data_ptr(): b.memory.nbytes for b in p.buffers}.values()) for p in (rows, whole))
    assert taken < 0.25 * free
    widest = max((b for b in whole.buffers), key=lambda b: b.memory.nbytes)
    assert widest.name == "blocks.1.0.expand" and widest.channels == 96 and widest.size == (180, 320)
    kept = next(b for b in rows.buffers if b.name == widest.name)
    assert kept.memory.shape == (2, 3, 324, 96), "of each thread three rows, with two columns of zeros on each side"


@pytest.mark.parametrize("classes", [1, 2, 16, 19, 33])
@TYPES
def test_classes_and_confidence_are_those_of_the_logits(swiftnet, library, type, classes):
    need(library, type)
    for size in (SIZE, (1, 1), (16, 40), (10, 330)):
        image = 10 * torch.randn(1, 3, *size)
        program = Program(swiftnet(classes), size, type, library.lanes, 2)
        ids, sureness, sparse = program.decide(library, image, True, 1.0, 3.0)
        logits = program.run(library, image)
        alone, *nothing = program.decide(library, image, False)
        assert nothing == [None, None] and alone.equal(ids) and ids.shape == sureness.shape == (1, *size)
        # Where rounding decides, the class chosen is as good as the best one.
        chosen = logits.gather(1, ids[:, None].long())[:, 0]
        assert (logits.amax(1) - chosen <= 1e-5 * logits.abs().max()).all()
        assert (ids == decide(logits, False)[0]).float().mean() >= 0.999
        some = decide(logits[:, :, ::SPARSE], True, 3.0)[1]
        assert sparse.shape == some.shape and (sparse.short() - some.short()).abs().max() <= 1
        exact = 255 * logits.double().softmax(1).amax(1)
        assert (sureness - exact).abs().max() < 0.52


@TYPES
@torch.inference_mode()
def test_each_kind_of_step_is_torchs(swiftnet, library, type):
    """Of what the step before wrote, in float64."""
    need(library, type)
    network = swiftnet(feature_balance=("res2",))
    net, image = network.network, torch.randn(1, 3, *SIZE)
    program = Program(network, SIZE, type, library.lanes, 1, apart=True)
    program.run(library, image)
    got = {b.name: b.image.double().permute(2, 0, 1)[None] for b in program.buffers}
    rounded = lambda layer: layer.weight.to(type.dtype).double()  # noqa: E731
    wanted = {
        "stem": F.relu6(F.conv2d(F.pad(image, (0, 2, 0, 2)), net.encoder.stem[0].weight, net.encoder.stem[0].bias, 2))
    }
    kinds = set()
    for i, layer in enumerate(net.encoder.layers):
        for j, block in enumerate(layer):
            name, conv = f"blocks.{i}.{j}", block.depthwise[0]
            wide = got[f"{name}.expand"] if i else got["stem"]
            wanted[f"{name}.depthwise"] = F.relu6(
                F.conv2d(
                    block.border(wide),
                    conv.weight.double(),
                    conv.bias.double(),
                    conv.stride,
                    conv.padding,
                    groups=conv.groups,
                )
            )
            kinds.add((conv.kernel_size, conv.stride))
            project = block.project[0]
            x = F.conv2d(got[f"{name}.depthwise"], rounded(project), project.bias.double())
            before = f"blocks.{i}.{j - 1}"
            wanted[name] = x + got[before] if block.residual else x
    assert kinds == {((k, k), (s, s)) for k in (3, 5) for s in (1, 2)}
    for grid in (8, 4, 2, 1):
        wanted[f"context.{grid}.means"] = F.adaptive_avg_pool2d(got["context.reduce"], grid)
        wanted[f"context.{grid}"] = resized(got[f"context.{grid}.level"], got["context.reduce"])
    wanted["res2.balance"] = copy.deepcopy(net.feature_balance["res2"]).double()(got["blocks.1.1"])[0]
    wanted["up2.resized"] = resized(got["up3"], got["up2.sum"])
    skip = net.up2.skip[0]
    wanted["up2.sum"] = F.conv2d(got["res2.balance"], rounded(skip), skip.bias.double()) + got["up2.resized"]
    floats = {"stem", "up2.resized"}
    for name, exact in wanted.items():
        half = 2**-8 * exact.abs() if type is Type.BFLOAT and name not in floats else 0
        assert ((got[name] - exact).abs() <= half + 1e-5 * exact.abs().max()).all(), name


def resized(x, like):
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


@torch.inference_mode()
def test_bfloats_say_the_same(swiftnet, library, run):
    need(library, Type.BFLOAT)
    network, image = swiftnet(19, 96), torch.randn(1, 3, 96, 160)
    exact, logits = network(image), run(network, image, Type.BFLOAT)
    assert (logits - exact).abs().mean() < 0.02 * exact.std()
    assert (logits.argmax(1) == exact.argmax(1)).float().mean() > 0.97


@pytest.mark.parametrize(
    "chosen",
    [{"backbone": "resnet50"}, {"output_stride": 16}, {"output_stride": 8, "backbone": "efficientnet_lite1"}],
    ids=str,
)
def test_another_encoder_or_stride_is_refused(library, chosen):
    network = fold(networks.build("swiftnet", 11, width=32, **chosen))
    with pytest.raises(UnsupportedError, match="run those on an EfficientNet-Lite with an output stride of 32$"):
        Program(network, (64, 64), Type.FLOAT, library.lanes, 1)


def test_bytes_hold_nothing_negative(swiftnet, library):
    with pytest.raises(UnsupportedError, match="int8 is not available for SwiftNet: .* may be negative"):
        Program(swiftnet(), (64, 64), Type.BYTE, library.lanes, 1, {})
