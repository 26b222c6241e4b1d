"""ERFNet against Table I of its paper."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from drive_seg import networks
from drive_seg.networks import SegmentationOutput
from drive_seg.networks.erfnet import Downsampler, NonBottleneck1D

# Table I for an input of 1024x512: our name -> channels, width, height
TABLE_I = {
    "down0": (16, 512, 256),  # layer 1
    "down1": (64, 256, 128),  # 2
    "stage1": (64, 256, 128),  # 3-7
    "down2": (128, 128, 64),  # 8
    "stage2": (128, 128, 64),  # 9-12
    "stage3": (128, 128, 64),  # 13-16
    "up4": (64, 256, 128),  # 17
    "stage4": (64, 256, 128),  # 18-19
    "up5": (16, 512, 256),  # 20
    "stage5": (16, 512, 256),  # 21-22
    "fullconv": (19, 1024, 512),  # 23
}


def test_parameters_and_multiply_accumulates():
    with torch.device("meta"):
        network, image = networks.build("erfnet", 19).eval(), torch.empty(1, 3, 512, 1024)
    assert sum(p.numel() for p in network.parameters()) == 2_064_191
    with FlopCounterMode(display=False) as counter:
        network(image)
    assert counter.get_total_flops() / 2 == pytest.approx(26.60e9, rel=0.001)


def test_shapes_of_table_i():
    with torch.device("meta"):
        network, image = networks.build("erfnet", 19).eval(), torch.empty(1, 3, 512, 1024)
    seen = {}
    for name in TABLE_I:
        getattr(network, name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: (out.shape[1], out.shape[3], out.shape[2])})
        )
    network(image)
    assert seen == TABLE_I
    assert {name: (stage.channels, 1024 // stage.stride) for name, stage in network.stages.items()} == {
        name: TABLE_I[name][:2] for name in ("stage1", "stage2", "stage3", "stage4", "stage5")
    }


def test_units_dilations_and_dropout_of_table_i():
    network = networks.build("erfnet", 19)

    def units(stage):
        found = [m for m in stage.modules() if isinstance(m, NonBottleneck1D)]
        assert all(unit.residual[2].dilation == (1, 1) for unit in found)  # the first pair never dilates
        return [(unit.residual[5].dilation[0], unit.residual[7].dilation[1], unit.residual[-1].p) for unit in found]

    assert units(network.stage1) == [(1, 1, 0.03)] * 5
    assert units(network.stage2) == units(network.stage3) == [(d, d, 0.3) for d in (2, 4, 8, 16)]
    assert units(network.stage4) == units(network.stage5) == [(1, 1, 0.0)] * 2


@pytest.mark.parametrize(
    ("dilation", "places"),
    [
        (1, range(-2, 3)),
        (2, range(-3, 4)),
        (4, (-5, -4, -3, -1, 0, 1, 3, 4, 5)),
        (16, (-17, -16, -15, -1, 0, 1, 15, 16, 17)),
    ],
)
def test_a_unit_reaches_exactly_what_two_3x3_convolutions_would(dilation, places):
    unit = NonBottleneck1D(3, dilation).eval()
    for p in unit.parameters():  # positive throughout, so that no ReLU cuts a path
        p.data.abs_()
    x = torch.rand(1, 3, 48, 48, requires_grad=True)
    unit(x)[0, :, 24, 24].sum().backward()
    rows, columns = x.grad.abs().sum((0, 1)).nonzero(as_tuple=True)
    reached = {(int(r) - 24, int(c) - 24) for r, c in zip(rows, columns, strict=True)}
    assert reached == {(r, c) for r in places for c in places}


def test_a_unit_whose_residual_is_silent_passes_its_input():
    unit = NonBottleneck1D(4, 2, dropout=0.3).eval()
    nn.init.zeros_(unit.residual[-2].weight)
    x = torch.rand(1, 4, 8, 8)
    assert torch.equal(unit(x), x)


def test_the_downsampler_lays_pooled_input_behind_the_convolution():
    unit = Downsampler(3, 16).eval()
    unit.bn.eps = 0.0
    x = torch.rand(1, 3, 8, 10)
    out = unit(x)
    torch.testing.assert_close(out[:, :13], F.relu(unit.conv(x)))
    torch.testing.assert_close(out[:, 13:], F.max_pool2d(x, 2))


@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
def test_any_size_comes_back_as_if_padded_with_zeros(size):
    network = networks.build("erfnet", 3).eval()
    height, width = size
    image = torch.randn(1, 3, height, width)
    with torch.no_grad():
        padded = network(F.pad(image, (0, -width % 8, 0, -height % 8)))
        torch.testing.assert_close(network(image), padded[..., :height, :width])


def test_every_parameter_learns_but_the_biases_that_batch_norm_takes_away():
    torch.manual_seed(0)
    network = networks.build("erfnet", 5).train().double()  # so that zeros stand out from rounding
    output = network(torch.randn(2, 3, 64, 96, dtype=torch.float64))
    assert isinstance(output, SegmentationOutput) and output.logits.shape == (2, 5, 64, 96)
    (output.logits * torch.randn_like(output.logits)).mean().backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert None not in gradients.values()
    largest = {name: float(gradient.abs().max()) for name, gradient in gradients.items()}
    idle = {name for name, size in largest.items() if size < 1e-12}
    # a convolution's bias that the next layer's mean takes away again: down, up and the second of each pair
    before_norm = {f"{name}.conv.bias" for name in ("down0", "down1", "down2")} | {"up4.0.bias", "up5.0.bias"}
    for name, module in network.named_modules():
        if isinstance(module, NonBottleneck1D):
            before_norm |= {f"{name}.residual.2.bias", f"{name}.residual.7.bias"}
    assert idle == before_norm


def test_dropout_acts_in_training_only():
    network, image = networks.build("erfnet", 3), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        network.train()
        assert not torch.equal(network(image).logits, network(image).logits)
        network.eval()
        assert torch.equal(network(image), network(image))
