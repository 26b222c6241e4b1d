"""ENet against Table 1 and Fig. 2 of its paper."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from drive_seg import networks
from drive_seg.networks import SegmentationOutput
from drive_seg.networks.enet import ASYMMETRIC, REGULAR, Bottleneck, DownBottleneck, UpBottleneck, prelu

# Table 1 for an input of 512x512, halved eight times less: name -> channels, stride
TABLE_1 = {
    "initial": (16, 2),
    "down1": (64, 4),
    "stage1": (64, 4),
    "down2": (128, 8),
    "stage2": (128, 8),
    "stage3": (128, 8),
    "up4": (64, 4),
    "stage4": (64, 4),
    "up5": (16, 2),
    "stage5": (16, 2),
    "fullconv": (19, 1),
}


def parameters(modules):
    return sum(p.numel() for module in modules for p in module.parameters(recurse=False))


def reached(module, channels, size=48):
    """Rows and columns, relative to the centre, of the inputs that the centre of the output depends on."""
    x = torch.randn(1, channels, size, size, requires_grad=True)
    centre = size // 2
    module.eval()(x)[0, :, centre, centre].sum().backward()
    rows, columns = x.grad.abs().sum((0, 1)).nonzero(as_tuple=True)
    return {(int(r) - centre, int(c) - centre) for r, c in zip(rows, columns, strict=True)}


def square(places):
    return {(r, c) for r in places for c in places}


def test_parameters_are_the_papers_037_million():
    network = networks.build("enet", 19)
    parts = list(network.modules())
    convolutions = [m for m in parts if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    slopes = [m for m in parts if isinstance(m, nn.PReLU)]
    assert parameters(parts) == 365_503
    assert parameters(convolutions) == 353_007 and all(m.bias is None for m in convolutions)
    assert parameters(slopes) == 3_888 and len(slopes) == 71
    # the two other readings that the file names
    assert 365_503 - 16 * 19 * (9 - 4) == 363_983 and 365_503 - 3_888 + len(slopes) == 361_686


def test_shapes_of_table_1():
    with torch.device("meta"):
        network, image = networks.build("enet", 19).eval(), torch.empty(1, 3, 512, 512)
    seen = {}
    for name in TABLE_1:
        getattr(network, name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    network(image)
    for name, (channels, stride) in TABLE_1.items():
        out = seen[name][0] if name.startswith("down") else seen[name]
        assert out.shape == (1, channels, 512 // stride, 512 // stride), name
    assert {name: tuple(stage) for name, stage in network.stages.items()} == {
        name: TABLE_1[name] for name in ("stage1", "stage2", "stage3", "stage4", "stage5")
    }


def test_bottleneck_kinds_of_table_1():
    network = networks.build("enet", 19)

    def kind(unit):
        main = [m for m in unit.extension if isinstance(m, nn.Conv2d)][1:-1]
        return [(m.kernel_size, m.dilation[0]) for m in main]

    regular, asymmetric = [((3, 3), 1)], [((5, 1), 1), ((1, 5), 1)]
    section = [regular, [((3, 3), 2)], asymmetric, [((3, 3), 4)], regular, [((3, 3), 8)], asymmetric, [((3, 3), 16)]]
    assert [kind(unit) for unit in network.stage1] == [regular] * 4
    assert [kind(unit) for unit in network.stage2] == section
    assert [kind(unit) for unit in network.stage3] == section
    assert [kind(unit) for unit in (*network.stage4, network.stage5)] == [regular] * 3
    assert network.down2.extension[0].kernel_size == network.down2.extension[0].stride == (2, 2)


def test_activations_have_slopes_in_the_encoder_only_and_dropout_follows_the_depth():
    network = networks.build("enet", 19)
    probabilities, activations = {}, {}
    for name in TABLE_1:
        for part in getattr(network, name).modules():
            if isinstance(part, nn.Dropout2d):
                probabilities.setdefault(name, set()).add(part.p)
            if isinstance(part, nn.PReLU | nn.ReLU):
                activations.setdefault(name, set()).add(type(part))
    early, late = ("down1", "stage1"), ("down2", "stage2", "stage3", "up4", "stage4", "up5", "stage5")
    assert probabilities == {**dict.fromkeys(early, {0.01}), **dict.fromkeys(late, {0.1})}
    encoder, decoder = ("initial", "down1", "stage1", "down2", "stage2", "stage3"), ("up4", "stage4", "up5", "stage5")
    assert activations == {**dict.fromkeys(encoder, {nn.PReLU}), **dict.fromkeys(decoder, {nn.ReLU})}


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        (REGULAR, (-1, 0, 1)),
        (2, (-2, 0, 2)),
        (16, (-16, 0, 16)),
        (ASYMMETRIC, (-2, -1, 0, 1, 2)),
    ],
)
def test_a_bottleneck_reaches_exactly_its_kernel(kind, places):
    assert reached(Bottleneck(16, kind, prelu, 0.1), 16) == square(places)


@pytest.mark.parametrize("kind", [REGULAR, ASYMMETRIC, 4])
def test_a_bottleneck_whose_extension_is_silent_passes_its_input_to_the_activation(kind):
    unit = Bottleneck(16, kind, prelu, 0.1).eval()
    nn.init.zeros_(unit.extension[-2].weight)  # the expansion's Batch Norm
    x = torch.randn(2, 16, 20, 24)
    torch.testing.assert_close(unit(x), torch.where(x > 0, x, 0.25 * x), rtol=0, atol=0)


def test_the_down_bottleneck_pools_and_fills_up_with_zeros():
    unit = DownBottleneck(4, 16, 0.1, "indices").eval()
    nn.init.zeros_(unit.extension[-2].weight)
    x = torch.rand(1, 4, 8, 8)
    out, _ = unit(x)
    assert torch.equal(out[:, :4], F.max_pool2d(x, 2)) and not out[:, 4:].any()


@pytest.mark.parametrize("unpool", ["indices", "one_hot"])
def test_the_up_bottleneck_puts_values_where_the_maxima_stood(unpool):
    down, up = DownBottleneck(4, 16, 0.1, unpool).eval(), UpBottleneck(16, 4, 0.1, unpool).eval()
    nn.init.zeros_(up.extension[-2].weight)
    x = torch.randn(1, 4, 8, 8)
    low, where = down(x)
    out = up(low, where)
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    expected = F.relu(F.max_unpool2d(up.main(low), indices, 2))
    assert torch.equal(out, expected)
    assert not out[x != F.interpolate(pooled, scale_factor=2)].any()


def test_both_forms_of_unpooling_make_the_same_network():
    one, other = networks.build("enet", 4).eval(), networks.build("enet", 4, unpool="one_hot").eval()
    other.load_state_dict(one.state_dict())
    image = torch.randn(1, 3, 69, 91)
    with torch.no_grad():
        torch.testing.assert_close(one(image), other(image), rtol=0, atol=0)


@pytest.mark.parametrize("unpool", ["indices", "one_hot"])
def test_torch_export_takes_both_forms(unpool):
    network, image = networks.build("enet", 4, unpool=unpool).eval(), torch.randn(1, 3, 67, 96)
    exported = torch.export.export(network, (image,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(image), network(image))


def test_padding_is_what_zeros_at_the_far_edges_would_be():
    network = networks.build("enet", 3).eval()
    image = torch.randn(1, 3, 67, 85)
    with torch.no_grad():
        torch.testing.assert_close(network(image), network(F.pad(image, (0, 3, 0, 5)))[..., :67, :85])


def test_every_parameter_learns():
    torch.manual_seed(0)
    output = (network := networks.build("enet", 5).train())(torch.randn(2, 3, 64, 96))
    assert isinstance(output, SegmentationOutput) and output.logits.shape == (2, 5, 64, 96)
    (output.logits * torch.randn_like(output.logits)).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_dropout_acts_in_training_only():
    network, image = networks.build("enet", 3), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        network.train()
        assert not torch.equal(network(image).logits, network(image).logits)
        network.eval()
        assert torch.equal(network(image), network(image))


def test_whole_channels_are_dropped():
    unit = Bottleneck(64, REGULAR, prelu, 0.5).train()
    with torch.no_grad():
        kept = unit.extension(torch.randn(1, 64, 8, 8)).ne(0)
    assert {int(n) for n in kept.sum((2, 3)).flatten()} == {0, 64}


def test_an_unknown_form_of_unpooling_lists_the_two():
    with pytest.raises(ValueError, match="unpool 'magic' is not one of indices, one_hot"):
        networks.build("enet", 19, unpool="magic")
