"""SwiftNet: the pyramid of averages, the upsampling path, and what the light options cost."""

import pytest
import torch
import torch.nn.functional as F

from drive_seg import networks
from drive_seg.networks.counting import multiply_accumulates, parameters
from drive_seg.networks.swiftnet import SpatialPyramidPooling, SwiftNet, Upsampling

LIGHT = {"backbone": "efficientnet_lite0", "width": 96}


def meta(**chosen):
    with torch.device("meta"):
        return networks.build("swiftnet", 19, **chosen).eval()


@pytest.mark.parametrize("chosen", [LIGHT, {**LIGHT, "feature_balance": ["res5"]}], ids=["alone", "fbnet"])
def test_the_light_options_cost_less_than_dsnet(chosen):
    network = meta(**chosen)
    assert multiply_accumulates(network, (360, 640)) <= 3_400_000_000
    assert parameters(network) <= 4_000_000
    with torch.device("meta"):
        assert multiply_accumulates(network, (360, 640)) < multiply_accumulates(networks.build("dsnet"), (360, 640))


def test_parameters_are_those_of_the_parts():
    width, level = 96, 24
    norm = 2
    context = 320 * width + norm * width + 4 * (width * level + norm * level)
    context += (width + 4 * level) * width + norm * width
    path = sum(c * width + norm * width + 9 * width * width + norm * width for c in (112, 40, 24))
    assert parameters(meta(**LIGHT)) == 2_958_848 + context + path + 19 * width + 19


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (1, 1), (363, 641)], ids=str)
def test_stages_lie_at_the_strides_they_state(size):
    network, seen = meta(width=32), {}
    stages = network.stages
    assert {name: stage.stride for name, stage in stages.items()} == {
        "res2": 4,
        "res3": 8,
        "res4": 16,
        "res5": 32,
        "up4": 16,
        "up3": 8,
        "up2": 4,
    }
    with torch.device("meta"):
        output = network.segment(torch.empty(1, 3, *size), lambda stage, x: seen.setdefault(stage, x))
    assert output.logits.shape == (1, 19, *size)
    assert list(seen) == ["res2", "res3", "res4", "res5", "up4", "up3", "up2"]
    for name, x in seen.items():
        channels, stride = stages[name]
        assert x.shape == (1, channels, *(-(-side // stride) for side in size)), name


@pytest.mark.parametrize("backbone", ["resnet50", "wider_resnet38"])
def test_other_encoders_do_as_well(backbone):
    with torch.device("meta"):
        network = SwiftNet(11, backbone, output_stride=8, width=32).eval()
        assert network(torch.empty(1, 3, 65, 97)).shape == (1, 11, 65, 97)
    assert network.stages["up2"] == (32, 4) and network.stages["up4"] == (32, 8)


@torch.inference_mode()
def test_the_pyramid_lays_averages_over_its_input():
    """Of ever coarser regions, each through its own 1x1, beside the reduced features."""
    torch.manual_seed(1)
    pyramid = SpatialPyramidPooling(24, 16, 8, 4).double().eval()
    x = torch.randn(2, 24, 12, 20, dtype=torch.float64)
    reduced = pyramid.reduce(x)
    parts = [reduced]
    for grid, level in zip((8, 4, 2, 1), pyramid.levels, strict=True):
        means = torch.stack(
            [
                torch.stack(
                    [
                        reduced[
                            ..., i * 12 // grid : -(-(i + 1) * 12 // grid), j * 20 // grid : -(-(j + 1) * 20 // grid)
                        ].mean((2, 3))
                        for j in range(grid)
                    ],
                    dim=-1,
                )
                for i in range(grid)
            ],
            dim=-2,
        )
        parts.append(F.interpolate(level[1](means), (12, 20), mode="bilinear"))
    torch.testing.assert_close(pyramid(x), pyramid.fuse(torch.cat(parts, 1)))


@torch.inference_mode()
def test_a_step_up_adds_the_encoders_stage_and_blends():
    torch.manual_seed(1)
    up = Upsampling(6, 8).double().eval()
    x, skip = torch.randn(1, 8, 3, 5, dtype=torch.float64), torch.randn(1, 6, 5, 10, dtype=torch.float64)
    total = F.interpolate(x, (5, 10), mode="bilinear") + F.conv2d(skip, up.skip[0].weight) / (1 + 1e-5) ** 0.5
    expected = F.conv2d(total, up.blend[0].weight, padding=1).relu() / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(up(x, skip), expected)


def test_an_unknown_encoder_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="backbone 'mobilenet' is not one of resnet50, .*efficientnet_lite2"):
        SwiftNet(19, backbone="mobilenet")
