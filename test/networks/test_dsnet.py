"""DSNet against the figures of its paper, and its two forms of un-pooling against each other."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from drive_seg import networks
from drive_seg.networks import SegmentationOutput
from drive_seg.networks.dsnet import UNITS, BasicUnit, DownUnit, SemanticEncoding, UpUnit
from drive_seg.networks.layers import channel_shuffle, max_pool_one_hot, max_unpool_one_hot


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_table_5():
    assert parameters(networks.build("dsnet", 19, semantic_encoding=False)) == 910_447
    # 32 codewords of 128 channels, 32 factors, Batch Norm, one fully connected layer
    assert parameters(networks.build("dsnet", 19).semantic_encoding) == 32 * 128 + 32 + 2 * 128 + 128 * 19 + 19


@pytest.mark.parametrize(
    ("options", "count", "printed"),
    [
        ({"size": "0.5"}, 456_047, 0.45),
        ({"size": "1.0"}, 910_447, 0.91),
        ({"size": "1.5"}, 1_364_847, 1.36),
        ({"size": "2.0"}, 1_819_247, 1.81),
        ({"shuffle": False}, 910_447, 0.91),  # NOSF
        ({"unit": "add"}, 1_152_159, 1.15),  # ADD
        ({"unit": "mobilenetv2"}, 1_146_783, 1.17),  # MBV2, 2.0 % below
        ({"init": "conv"}, 910_528, 0.91),  # INIT
        ({"pyramid_pooling": True}, 1_222_255, 1.22),  # PSP
        ({"skips": True}, 910_447, 0.91),  # SKIP
        ({"dilation": "power"}, 910_447, 0.91),  # DILA
        ({"unit": "depthwise"}, 875_159, 0.89),  # DW, 1.7 % below
        ({"unit": "enet"}, 771_519, 0.95),  # ENET, 18.8 % below: not reproducible from the text
    ],
)
def test_parameters_of_tables_2_and_5(options, count, printed):
    with torch.device("meta"):
        network = networks.build("dsnet", 19, semantic_encoding=False, **options)
    assert parameters(network) == count
    assert count / 1e6 == pytest.approx(printed, rel=0.2 if options.get("unit") == "enet" else 0.03)


@pytest.mark.parametrize(
    ("options", "dilations"),
    [
        ({"size": "0.5"}, [[1] * 4, [2, 5, 9], [5, 9, 17]]),
        ({"size": "1.5"}, [[1] * 4, [1, 2, 5, 9] * 3 + [1], [2, 5, 9, 17] * 3 + [2]]),
        ({"size": "2.0"}, [[1] * 4, [1, 2, 5, 9] * 4 + [1, 2], [2, 5, 9, 17] * 4 + [2, 5]]),
        ({"dilation": "power"}, [[1] * 4, [2, 4, 8, 16] * 2, [2, 4, 8, 16] * 2]),
        ({"unit": "add"}, [[1] * 2, [2, 5, 9, 17], []]),
        ({"unit": "mobilenetv2"}, [[1] * 2, [2, 5, 9, 17], []]),
        ({"unit": "enet"}, [[1] * 8, [1, 2, 5, 9] * 4 + [1], [2, 5, 9, 17] * 4 + [2]]),
        ({"unit": "depthwise"}, [[1] * 8, [1, 2, 5, 9] * 4 + [1], [2, 5, 9, 17] * 4 + [2]]),
    ],
)
def test_units_of_the_ablations_and_their_dilations(options, dilations):
    network = networks.build("dsnet", 3, **options)
    found = [
        [m.dilation[0] for m in stage.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
        for stage in (network.stage1, network.stage2, network.stage3)
    ]
    assert found == dilations
    assert set(network.stages) == {f"stage{i}" for i in range(1, 6)} - (set() if dilations[2] else {"stage3"})


VARIANTS = [
    {"size": "0.5"},
    {"unit": "add"},
    {"unit": "depthwise"},
    {"unit": "mobilenetv2"},
    {"unit": "enet"},
    {"shuffle": False},
    {"init": "conv"},
    {"pyramid_pooling": True},
    {"skips": True},
    {"dilation": "power"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_row_runs_and_all_its_parameters_learn(options):
    network = networks.build("dsnet", 3, **options)
    output = network.train()(torch.randn(2, 3, 65, 97))
    assert output.logits.shape == (2, 3, 65, 97)
    (output.logits.square().mean() + output.semantic_presence.square().mean()).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("unit", ["dsnet", "add", "depthwise", "mobilenetv2", "enet"])
def test_a_unit_sees_as_far_as_its_dilation(unit):
    torch.manual_seed(0)
    basic = UNITS[unit][0](8, 3).double().eval()
    x = torch.randn(1, 8, 15, 15, dtype=torch.double, requires_grad=True)
    basic(x)[0, :, 7, 7].sum().backward()
    seen = {(y - 7, x - 7) for _, y, x in x.grad[0].nonzero().tolist()}
    assert seen <= {(dy, dx) for dy in (-3, 0, 3) for dx in (-3, 0, 3)}
    assert {abs(dy) for dy, _ in seen} == {abs(dx) for _, dx in seen} == {0, 3}


@pytest.mark.parametrize("unit", ["dsnet", "add", "depthwise", "mobilenetv2", "enet"])
def test_down_units_halve_the_size_and_say_where_the_maxima_stood(unit):
    x = torch.randn(1, 16, 8, 12)
    lower, where = UNITS[unit][1](16, 64, "indices").eval()(x)
    assert lower.shape == (1, 64, 4, 6)
    assert torch.equal(where, F.max_pool2d(x, 2, return_indices=True)[1])


def test_without_the_shuffle_one_half_never_changes():
    torch.manual_seed(0)
    plain = torch.nn.Sequential(*(BasicUnit(8, 1, shuffle=False) for _ in range(3))).eval()
    shuffled = torch.nn.Sequential(*(BasicUnit(8, 1) for _ in range(3))).eval()
    x = torch.randn(1, 8, 6, 6)
    untouched = [[torch.equal(f(x)[:, i], x[:, i]) for i in range(8)] for f in (plain, shuffled)]
    assert untouched[0] == [True] * 4 + [False] * 4
    assert sum(untouched[1]) <= 1


def test_skips_add_the_encoder_to_the_decoder():
    network = networks.build("dsnet", 3, skips=True).eval()
    seen = {}
    for name in ("init", "stage1", "up4", "up5"):
        getattr(network, name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    for name in ("stage4", "stage5"):
        getattr(network, name).register_forward_pre_hook(lambda _m, x, name=name: seen.update({name: x[0]}))
    with torch.no_grad():
        network(torch.randn(1, 3, 32, 48))
    assert torch.equal(seen["stage4"], seen["up4"] + seen["stage1"])
    assert torch.equal(seen["stage5"], seen["up5"] + seen["init"])


def test_multiply_accumulates_at_640x360():
    network = networks.build("dsnet", 19).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 360, 640))
    assert counter.get_total_flops() / 2 == pytest.approx(4.27e9, rel=0.002)


def test_shapes_and_dilations_of_table_3():
    network = networks.build("dsnet", 7).eval()
    seen = {}
    for name in ("init", "stage1", "stage2", "stage3", "up4", "up5"):
        getattr(network, name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: tuple(out.shape)})
        )
    assert network(torch.zeros(1, 3, 64, 80)).shape == (1, 7, 64, 80)
    assert seen == {
        "init": (1, 16, 32, 40),
        "stage1": (1, 64, 16, 20),
        "stage2": (1, 128, 8, 10),
        "stage3": (1, 128, 8, 10),
        "up4": (1, 64, 16, 20),
        "up5": (1, 16, 32, 40),
    }
    dilations = [
        unit.right[1][0].dilation[0] for stage in ("stage1", "stage2", "stage3") for unit in getattr(network, stage)
    ]
    assert dilations == [1, 1, 1, 1, 1, 2, 5, 9, 1, 2, 5, 9, 2, 5, 9, 17, 2, 5, 9, 17]
    assert not any(
        isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d) and m.bias is not None for m in network.modules()
    )


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (101, 70), (8, 8)])
def test_any_size_comes_back(size):
    network = networks.build("dsnet", 3).eval()
    assert network(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_padding_is_what_zeros_at_the_far_edges_would_be():
    network = networks.build("dsnet", 3).eval()
    image = torch.randn(1, 3, 29, 37)
    padded = torch.zeros(1, 3, 32, 40)
    padded[..., :29, :37] = image
    with torch.no_grad():
        torch.testing.assert_close(network(image), network(padded)[..., :29, :37])


def test_training_returns_named_outputs_and_every_parameter_learns():
    network = networks.build("dsnet", 5).train()
    output = network(torch.randn(2, 3, 64, 64))
    assert isinstance(output, SegmentationOutput)
    assert output.logits.shape == (2, 5, 64, 64) and output.semantic_presence.shape == (2, 5)
    (output.logits.square().mean() + output.semantic_presence.square().mean()).backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_the_encoding_branch_costs_nothing_at_inference():
    network = networks.build("dsnet", 5).eval()
    network.semantic_encoding.register_forward_hook(lambda *_: pytest.fail("the branch ran"))
    assert isinstance(network(torch.rand(1, 3, 32, 32)), torch.Tensor)
    assert (
        networks.build("dsnet", 5, semantic_encoding=False).train()(torch.rand(2, 3, 32, 32)).semantic_presence is None
    )


def test_basic_unit_passes_one_half_through():
    unit = BasicUnit(8, dilation=2).eval()
    x = torch.randn(1, 8, 6, 6)
    out = unit(x)
    assert torch.equal(out[:, ::2], x[:, :4])  # after the shuffle the untouched half has the even places
    torch.testing.assert_close(out[:, 1::2], unit.right(x[:, 4:]))


def test_channel_shuffle_by_hand():
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert channel_shuffle(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_down_and_up_units_agree_on_places():
    down, up = DownUnit(16, 64, "indices").eval(), UpUnit(64, 16, "indices").eval()
    x = torch.randn(1, 16, 8, 8)
    lower, where = down(x)
    assert lower.shape == (1, 64, 4, 4) and where.shape == (1, 16, 4, 4)
    left = up.unpool(up.left(lower), where)
    # each value stands where the maximum of its window stood
    _, indices = F.max_pool2d(x, 2, return_indices=True)
    torch.testing.assert_close(left.flatten(2).gather(2, indices.flatten(2)), up.left(lower).flatten(2))
    torch.testing.assert_close(up(lower, where), F.relu(left + up.right(lower)))


@pytest.mark.parametrize("ties", [False, True])
def test_one_hot_unpooling_equals_max_unpool2d(ties):
    torch.manual_seed(1)
    x = torch.randint(0, 2, (2, 3, 8, 12)).float() if ties else torch.randn(2, 3, 8, 12)
    values = torch.randn(2, 3, 4, 6)
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    pooled_one_hot, mask = max_pool_one_hot(x)
    assert torch.equal(pooled, pooled_one_hot)
    assert torch.equal(mask.sum(2), torch.ones(2, 3, 4, 6))
    assert torch.equal(max_unpool_one_hot(values, mask), F.max_unpool2d(values, indices, 2))


def test_both_forms_make_the_same_network():
    a = networks.build("dsnet", 4, semantic_encoding=False).eval()
    b = networks.build("dsnet", 4, semantic_encoding=False, unpool="one_hot").eval()
    b.load_state_dict(a.state_dict())
    image = torch.randn(1, 3, 45, 61)
    with torch.no_grad():
        torch.testing.assert_close(a(image), b(image), rtol=0, atol=0)


@pytest.mark.parametrize("unpool", ["indices", "one_hot"])
def test_torch_export_takes_both_forms(unpool):
    network = networks.build("dsnet", 4, unpool=unpool).eval()
    image = torch.randn(1, 3, 32, 40)
    exported = torch.export.export(network, (image,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(image), network(image))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_channels_last_stay_finite(dtype):
    network = networks.build("dsnet", 4).eval().to(dtype, memory_format=torch.channels_last)
    assert network(torch.randn(1, 3, 32, 32, dtype=dtype)).isfinite().all()


def test_encoding_follows_equation_6():
    torch.manual_seed(0)
    branch = SemanticEncoding(3, 2, codewords=4).eval()
    features = torch.randn(1, 3, 2, 2)
    x = features[0].flatten(1).T
    e = torch.zeros(4, 3)
    for i in range(4):
        r = [x[i] - branch.codewords[k] for k in range(4)]
        weight = [torch.exp(-branch.smoothing[k] * r[k].square().sum()) for k in range(4)]
        for k in range(4):
            e[k] += weight[k] / sum(weight) * r[k]
    expected = branch.fc(F.relu(branch.bn(e)).sum(0))
    torch.testing.assert_close(branch(features)[0], expected)


def test_unknown_names_and_options_list_the_valid_ones():
    with pytest.raises(ValueError, match="there are: .*dsnet"):
        networks.build("dsnett", 19)
    with pytest.raises(ValueError, match="'unpol'; its options are: dilation, feature_balance, .*, unit, unpool$"):
        networks.build("dsnet", 19, unpol="one_hot")
    with pytest.raises(ValueError, match="size '3.0' is not one of 0.5, 1.0, 1.5, 2.0"):
        networks.build("dsnet", 19, size="3.0")
    with pytest.raises(ValueError, match="unit 'resnet' is not one of dsnet, add, depthwise, mobilenetv2, enet"):
        networks.build("dsnet", 19, unit="resnet")
    with pytest.raises(ValueError, match="size and shuffle are for the unit 'dsnet', not for 'add'"):
        networks.build("dsnet", 19, unit="add", size="2.0")
    with pytest.raises(ValueError, match="indices, one_hot"):
        networks.build("dsnet", 19, unpool="magic")
