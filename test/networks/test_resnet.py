"""The dilated ResNets: torchvision's names, and the same features at any output stride."""

import functools

import pytest
import torch
from torch import nn

from drive_seg.networks.resnet import Bottleneck, ResNet

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def meta(*args, **options):
    with torch.device("meta"):
        return ResNet(*args, **options)


def batch_norm(name, channels):
    shapes = {f"{name}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")}
    return {**shapes, f"{name}.num_batches_tracked": ()}


def torchvision_shapes(depth):
    """Names and shapes of torchvision's resnet50 / resnet101, classifier included."""
    shapes = {"conv1.weight": (64, 3, 7, 7), **batch_norm("bn1", 64)}
    c_in = 64
    for layer, (width, blocks) in enumerate(zip((64, 128, 256, 512), BLOCKS[depth], strict=True), start=1):
        for block in range(blocks):
            at = f"layer{layer}.{block}"
            kernels = {1: (width, c_in, 1, 1), 2: (width, width, 3, 3), 3: (4 * width, width, 1, 1)}
            for i, kernel in kernels.items():
                shapes |= {f"{at}.conv{i}.weight": kernel, **batch_norm(f"{at}.bn{i}", kernel[0])}
            if block == 0:
                shapes[f"{at}.downsample.0.weight"] = (4 * width, c_in, 1, 1)
                shapes |= batch_norm(f"{at}.downsample.1", 4 * width)
            c_in = 4 * width
    return {**shapes, "fc.weight": (1000, 2048), "fc.bias": (1000,)}


def torchvision_state(depth=50):
    return {name: torch.zeros(shape) for name, shape in torchvision_shapes(depth).items()}


@pytest.mark.parametrize(("depth", "tensors", "parameters"), [(50, 320, 25_557_032), (101, 626, 44_549_160)])
def test_names_shapes_and_parameters_are_torchvisions(depth, tensors, parameters):
    expected = torchvision_shapes(depth)
    encoder = meta(depth)
    classifier = {"fc.weight": (1000, 2048), "fc.bias": (1000,)}
    assert {name: tuple(t.shape) for name, t in encoder.state_dict().items()} | classifier == expected
    assert len(expected) == tensors
    assert sum(p.numel() for p in encoder.parameters()) + 2048 * 1000 + 1000 == parameters


def test_the_deep_stem_has_three_small_convolutions():
    encoder = meta(50, stem="deep")
    kernels = [(tuple(m.weight.shape), m.stride) for m in encoder.conv1 if isinstance(m, nn.Conv2d)]
    assert kernels == [((64, 3, 3, 3), (2, 2)), ((64, 64, 3, 3), (1, 1)), ((128, 64, 3, 3), (1, 1))]
    assert encoder.bn1.num_features == encoder.layer1[0].conv1.in_channels == 128


@pytest.mark.parametrize("stem", ["plain", "deep"])
@pytest.mark.parametrize(
    ("output_stride", "strides", "dilations"),
    [
        (32, (4, 8, 16, 32), ({1}, {1}, {1}, {1})),
        (16, (4, 8, 16, 16), ({1}, {1}, {1}, {2})),
        (8, (4, 8, 8, 8), ({1}, {1}, {2}, {4})),
    ],
)
def test_strides_and_dilations(stem, output_stride, strides, dilations):
    encoder = meta(50, stem=stem, output_stride=output_stride)
    assert [stage.stride for stage in encoder.stages.values()] == list(strides)
    before = 1
    for layer, rest in zip((encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4), dilations, strict=True):
        first, *others = (block.conv2.dilation[0] for block in layer)
        assert first == before  # the first block of a stage still sees the spacing of the stage before
        assert set(others) == rest
        (before,) = rest
    with torch.device("meta"):
        features = encoder(torch.empty(1, 3, 96, 160))
    assert {name: tuple(f.shape) for name, f in features.items()} == {
        f"res{i + 2}": (1, 256 * 2**i, 96 // stride, 160 // stride) for i, stride in enumerate(strides)
    }


@functools.cache
def settled():
    """A ResNet-50 whose Batch Norms have seen an image, so that its features stay in a sane range."""
    torch.manual_seed(0)
    encoder = ResNet(50).train()
    for part in encoder.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    with torch.no_grad():
        encoder(torch.randn(2, 3, 96, 96))
    return encoder.eval()


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_features_subsampled_are_the_strided_ones(output_stride):
    dilated = ResNet(50, output_stride=output_stride)
    dilated.load_state_dict(settled().state_dict())
    # in double precision: another memory layout may round single differently
    dilated, strided = dilated.eval().double(), ResNet(50).eval().double()
    strided.load_state_dict(settled().state_dict())
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        fine, coarse = dilated(image), strided(image)
    for name, stage in strided.stages.items():
        step = stage.stride // dilated.stages[name].stride
        torch.testing.assert_close(fine[name][..., ::step, ::step], coarse[name], rtol=1e-10, atol=1e-10)
    assert dilated.stages["res5"].stride == output_stride and coarse["res5"].std() > 0.1


def test_a_bottleneck_adds_its_input_before_the_last_relu():
    block = Bottleneck(16, 4, 1, 2, project=False).eval()
    nn.init.zeros_(block.bn3.weight)
    x = torch.randn(1, 16, 6, 6)
    assert torch.equal(block(x), x.relu())


def test_every_stage_goes_through_the_balance():
    encoder = meta(50)
    with torch.device("meta"):
        image = torch.empty(1, 3, 64, 64)
    passed = []

    def balance(stage, x):
        passed.append((stage, x.shape[1]))
        return x

    encoder(image, balance)
    assert passed == [("res2", 256), ("res3", 512), ("res4", 1024), ("res5", 2048)]


def test_pretrained_weights_are_taken_over_without_the_classifier():
    state = torchvision_state()
    state["layer3.2.conv2.weight"] += 0.5
    old = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    encoder = ResNet(50)
    for given in (state, old):  # torchvision's oldest files do not count batches
        nn.init.ones_(encoder.layer3[2].conv2.weight)
        encoder.load_pretrained(given)
        assert all(torch.equal(encoder.state_dict()[name], t) for name, t in given.items() if name[:3] != "fc.")
    assert "fc.weight" in state  # the caller's mapping is left as it was


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda state: state.pop("layer2.1.bn3.weight"), "layer2.1.bn3.weight"),
        (lambda state: state.update({"layer3.6.conv1.weight": torch.zeros(256, 1024, 1, 1)}), "layer3.6.conv1.weight"),
        (lambda state: state.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}), "conv1.weight"),
    ],
    ids=["missing", "left over", "misshapen"],
)
def test_weights_of_another_network_are_refused_by_name(spoil, complaint):
    encoder, state = ResNet(50), torchvision_state()
    spoil(state)
    with pytest.raises(ValueError, match="not those of this ResNet") as raised:
        encoder.load_pretrained(state)
    assert complaint in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"depth": 34}, "depth 34 is not one of 50, 101"),
        ({"depth": 50, "stem": "wide"}, "stem 'wide' is not one of plain, deep"),
        ({"depth": 50, "output_stride": 4}, "output_stride 4 is not one of 8, 16, 32"),
    ],
)
def test_other_forms_are_refused_with_those_that_exist(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        ResNet(**arguments)
