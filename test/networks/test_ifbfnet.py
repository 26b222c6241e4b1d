"""IFBFNet against the equations and the tables of its paper."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from drive_seg import networks
from drive_seg.networks.ifbfnet import AuxiliaryHead, Concatenation, InterLevelBalancedFusion, SpatialStream
from drive_seg.networks.layers import training_only_branches

LADDER = ("aspp", "skip", "balanced_fusion", "spatial_stream")
ROWS = [{name: i < on for i, name in enumerate(LADDER)} for on in range(5)]
"""Table 2 for one backbone, from the plain network to the whole one."""

every_row = pytest.mark.parametrize("row", range(5), ids=["plain", *LADDER])
every_width = pytest.mark.parametrize("width", [16, 32, 48, 64, 128, 256])


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def conv_bn(c_in, c_out, kernel=1):
    return c_in * c_out * kernel**2 + 2 * c_out


def spatial_parameters(width):
    """The stream itself, the 1x1 of the second fusion, and the wider input of the head."""
    stream = conv_bn(3, 64, 7) + conv_bn(64, 64, 3) + conv_bn(64, width)
    return stream + (256 + width) ** 2 + (256 + width) + width * 128


ADDED = (
    conv_bn(2048, 256) + conv_bn(256, 128) + 128 * 19 + 19,  # reduction and head
    3 * conv_bn(256, 256, 3) + conv_bn(256, 256) + conv_bn(4 * 256, 256),
    conv_bn(256, 64, 3) + conv_bn(320, 256, 3) + conv_bn(256, 256, 3),
    320 * 320 + 320,
    spatial_parameters(128),
)
"""Parameters that each row of Table 2 adds to those before it."""


def small(**options):
    return networks.build("ifbfnet", 5, **{"backbone": "resnet50", **options})


@every_row
@pytest.mark.parametrize(("backbone", "torchvision"), [("resnet50", 25_557_032), ("resnet101", 44_549_160)])
def test_a_row_of_table_2_adds_the_part_it_names_and_no_other(backbone, torchvision, row):
    with torch.device("meta"):
        network = networks.build("ifbfnet", 19, backbone=backbone, auxiliary=False, **ROWS[row])
    encoder = torchvision - 2048 * 1000 - 1000  # without the classifier of 1000 classes
    assert parameters(network) == encoder + sum(ADDED[: row + 1])


@every_width
def test_the_spatial_stream_of_table_3_costs_what_its_width_asks(width):
    with torch.device("meta"):
        without = networks.build("ifbfnet", 19, spatial_stream=False)
        network = networks.build("ifbfnet", 19, spatial_channels=width)
        assert parameters(network) - parameters(without) == spatial_parameters(width)
        assert network.stages["fusion2"] == (256 + width, 4)
        seen = {}
        network.eval().segment(torch.empty(1, 3, 65, 97), lambda stage, x: seen.setdefault(stage, x))
    assert seen["fusion2"].shape == (1, 256 + width, 17, 25)


def test_the_default_is_the_last_row_at_the_best_width_of_table_3():
    with torch.device("meta"):
        default = networks.build("ifbfnet", 19)
        last = networks.build("ifbfnet", 19, backbone="resnet101", **ROWS[4], spatial_channels=128)
    assert {k: v.shape for k, v in default.state_dict().items()} == {k: v.shape for k, v in last.state_dict().items()}
    assert parameters(default.auxiliary) == conv_bn(256, 64, 3) + 64 * 19 + 19


def test_encoder_ends_at_stride_16_and_aspp_has_four_branches():
    with torch.device("meta"):
        network = small()
    for layer, strides, dilations in ((3, {2, 1}, {1}), (4, {1}, {1, 2})):
        spatial = [block.conv2 for block in getattr(network.encoder, f"layer{layer}")]
        assert {conv.stride[0] for conv in spatial} == strides
        assert {conv.dilation[0] for conv in spatial} == dilations
    assert network.encoder.layer3[0].conv2.stride == (2, 2)
    dilated = [m.dilation[0] for m in network.aspp.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert dilated == [6, 12, 18]
    reduction = network.aspp[-1][0]
    assert (reduction.in_channels, reduction.out_channels) == (4 * 256, 256)


def test_balanced_fusion_is_equations_2_and_3_with_a_residual():
    torch.manual_seed(0)
    fusion = InterLevelBalancedFusion(3, 2)
    high, low = torch.randn(2, 3, 4, 5), torch.randn(2, 2, 4, 5)
    weight, bias = fusion.weights[0].weight[:, :, 0, 0], fusion.weights[0].bias
    expected = torch.empty(2, 5, 4, 5)
    for b in range(2):
        average = torch.tensor([x[b, c].mean() for x, n in ((high, 3), (low, 2)) for c in range(n)])
        w = 1 / (1 + torch.exp(-(weight @ average + bias)))
        w_high, w_low = w[:3], w[3:]
        for c in range(3):
            expected[b, c] = w_high[c] * high[b, c] + high[b, c]
        for c in range(2):
            expected[b, 3 + c] = w_low[c] * low[b, c] + low[b, c]
    torch.testing.assert_close(fusion(high, low), expected)


def test_fusion_without_weight_is_the_ordinary_concatenation():
    fusion = InterLevelBalancedFusion(3, 2)
    nn.init.zeros_(fusion.weights[0].weight)
    nn.init.constant_(fusion.weights[0].bias, -200.0)
    high, low = torch.randn(1, 3, 4, 5), torch.randn(1, 2, 4, 5)
    assert torch.equal(fusion(high, low), Concatenation()(high, low))
    assert torch.equal(Concatenation()(high, low)[:, 3:], low)


def test_spatial_stream_is_fig_4():
    stream = SpatialStream(48)
    convolutions = [m for m in stream.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.kernel_size[0], m.stride[0], m.out_channels) for m in convolutions] == [
        (7, 2, 64),
        (3, 2, 64),
        (1, 1, 48),
    ]
    # a place sees 3x3 places, two pixels apart, of 7x7 pixels each
    image = torch.randn(1, 3, 64, 64, requires_grad=True)
    stream.eval()(image)[..., 8, 8].sum().backward()
    seen = image.grad[0].abs().sum(0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [11, 11]
    assert stream(torch.randn(1, 3, 65, 97)).shape == (1, 48, 17, 25)


@every_row
def test_stages_have_the_shapes_that_they_promise(row):
    network = small(**ROWS[row]).eval()
    seen = {}
    with torch.no_grad():
        output = network.segment(torch.randn(1, 3, 65, 97), lambda stage, x: seen.setdefault(stage, x))
    assert output.logits.shape == (1, 5, 65, 97)
    sizes = {4: (17, 25), 8: (9, 13), 16: (5, 7)}
    expected = ["res2", "res3", "res4", "res5", "aspp", "fusion1", "fusion2"]
    assert list(seen) == list(network.stages) == expected[: 4 + (row > 0) + (row > 1) + (row > 3)]
    for name, x in seen.items():
        assert x.shape == (1, network.stages[name].channels, *sizes[network.stages[name].stride])


@every_row
def test_training_gives_auxiliary_logits_and_every_parameter_learns(row):
    torch.manual_seed(0)
    network = small(**ROWS[row]).train()
    output = network(torch.randn(2, 3, 64, 96))
    assert output.logits.shape == output.aux_logits.shape == (2, 5, 64, 96)
    sum((x * torch.randn_like(x)).mean() for x in (output.logits, output.aux_logits)).backward()
    assert [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_auxiliary_sees_s1_alone():
    network = small().train()
    seen = {}
    output = network.segment(torch.randn(2, 3, 64, 64), lambda stage, x: seen.setdefault(stage, x))
    torch.testing.assert_close(
        output.aux_logits, F.interpolate(network.auxiliary(seen["res2"]), (64, 64), mode="bilinear")
    )
    used = torch.autograd.grad(output.aux_logits.square().sum(), list(seen.values()), allow_unused=True)
    assert [x is not None for x in used] == [True] + 6 * [False]


def test_the_auxiliary_costs_nothing_on_the_vehicle():
    network = small().eval()
    assert [name for name, _, _ in training_only_branches(network)] == ["auxiliary"]
    assert isinstance(network.auxiliary, AuxiliaryHead)
    network.auxiliary.register_forward_hook(lambda *_: pytest.fail("the head ran"))
    with torch.no_grad():
        assert network(torch.randn(1, 3, 64, 64)).shape == (1, 5, 64, 64)
    without = small(auxiliary=False).train()
    assert without(torch.randn(2, 3, 64, 64)).aux_logits is None


def test_skip_and_spatial_stream_go_without_each_other():
    for options in ({"skip": False}, {"spatial_stream": False}, {"aspp": False, "skip": False}):
        network = small(**options).eval()
        assert ("fusion1" in network.stages, "fusion2" in network.stages) == (
            options.get("skip", True),
            options.get("spatial_stream", True),
        )
        with torch.no_grad():
            assert network(torch.randn(1, 3, 64, 70)).shape == (1, 5, 64, 70)


def test_a_fusion_of_nothing_is_refused():
    with pytest.raises(ValueError, match="balanced_fusion has no two levels to fuse: turn on skip or spatial_stream"):
        small(skip=False, spatial_stream=False)
    with pytest.raises(ValueError, match="spatial_channels 0 is not 1 or more"):
        small(spatial_channels=0)
