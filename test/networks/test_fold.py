"""Folding: each fold alone against the modules it replaces, then whole networks."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from drive_seg import networks
from drive_seg.networks import dsnet, enet, erfnet, resnet
from drive_seg.networks.catalog import options
from drive_seg.networks.dsnet_ablations import separable
from drive_seg.networks.fbnet import FeatureBalance
from drive_seg.networks.fold import fold
from drive_seg.networks.fold.balance import FoldedBalance, order_balance
from drive_seg.networks.fold.channels import ordered, plan, runs, shuffled
from drive_seg.networks.fold.dsnet import FoldedDownUnit, FoldedStage, FoldedUpUnit
from drive_seg.networks.fold.network import _folded
from drive_seg.networks.fold.unpooling import max_pool_places, max_unpool_places
from drive_seg.networks.layers import ConvBN, TransposedConvBN, max_pool_one_hot, max_unpool_one_hot
from drive_seg.networks.wider_resnet import IdentityBlock

CLASSES = 11
SIZE = (64, 96)
ALL_STAGES = ["stage1", "stage2", "stage3", "stage4", "stage5"]


@pytest.fixture(autouse=True)
def same_values():
    torch.manual_seed(7)


@pytest.fixture(scope="module", autouse=True)
def no_leftovers():
    """All networks together are gigabytes, which the tests of other files have no use for."""
    yield
    _made.cache_clear()


def randomised(module):
    """Evaluation mode in float64 with random Batch Norms and biases."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                nn.init.uniform_(part.weight, -0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.3)
        elif isinstance(part, nn.Conv2d | nn.ConvTranspose2d) and part.bias is not None:
            nn.init.normal_(part.bias)
    return module.double().eval()


def norms(module):
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]


def assert_same(one, other, tolerance=1e-10):
    assert (one - other).abs().max() <= tolerance * other.std()


@torch.inference_mode()
def check_fold(module, *inputs, norms_left=0):
    """The folded module gives the same, in as many Batch Norms as said."""
    module = randomised(module)
    folded = fold(module)
    assert len(norms(folded)) == norms_left
    assert_same(folded(*inputs), module(*inputs))
    return folded


def image(channels, *size):
    return torch.randn(2, channels, *(size or (16, 24)), dtype=torch.float64)


# --- Batch Norm ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sequence",
    [
        ConvBN(6, 8, 3, stride=2),
        TransposedConvBN(6, 8),
        separable(6, dilation=2),
        nn.Sequential(nn.Conv2d(6, 8, (3, 1)), nn.BatchNorm2d(8, affine=False, eps=0.1), nn.Dropout2d(0.3)),
        nn.Sequential(nn.Sequential(nn.Conv2d(6, 4, 1), nn.PReLU(4), nn.Conv2d(4, 8, 1)), nn.Sequential(ConvBN(8, 8))),
        nn.Sequential(nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)),
    ],
    ids=["convolution", "transposed", "depthwise separable", "no affine, dropout", "nested", "two norms"],
)
def test_a_batch_norm_goes_into_the_convolution_before_it(sequence):
    folded = check_fold(sequence, image(6))
    assert not any(isinstance(part, nn.Dropout2d) for part in folded.modules())


@pytest.mark.parametrize(
    "sequence",
    [
        nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3)),
        nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)),
        nn.Sequential(nn.ConvTranspose2d(6, 8, 3, groups=2), nn.BatchNorm2d(8)),
    ],
    ids=["before", "behind a ReLU", "grouped transposed"],
)
def test_a_batch_norm_that_has_no_convolution_to_go_into_stays(sequence):
    check_fold(sequence, image(6), norms_left=1)


def test_a_batch_norm_that_uses_the_batch_itself_stays():
    tracks_nothing = nn.Sequential(nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)).double().eval()
    assert len(norms(fold(tracks_nothing))) == 1


@pytest.mark.parametrize(
    "unit", [dsnet.InitUnit(), enet.InitialBlock(), erfnet.Downsampler(16, 64)], ids=["dsnet", "enet", "erfnet"]
)
def test_a_batch_norm_over_convolution_and_pooling_is_parted(unit):
    check_fold(unit, image(unit.conv.in_channels))


@pytest.mark.parametrize("project", [False, True])
def test_resnets_block(project):
    check_fold(resnet.Bottleneck(64, 16, 2 if project else 1, 1, project), image(64))


@pytest.mark.parametrize("stem", resnet.STEMS)
def test_resnets_stem(stem):
    encoder = randomised(resnet.ResNet(50, stem))
    folded = _folded(copy.deepcopy(encoder))
    assert norms(folded) == []
    with torch.inference_mode():
        x = image(3, *SIZE)
        for stage, features in encoder(x).items():
            assert_same(folded(x)[stage], features)


def test_pre_activation_stays_and_the_norms_behind_convolutions_go():
    check_fold(IdentityBlock(16, (8, 8, 32), 1, 1, 0.3), image(16), norms_left=1)


# --- FBNet, un-pooling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modulator", ["dual", "conv", "none"])
def test_feature_balance_and_its_order(modulator):
    balance, x = FeatureBalance(8, 3, modulator).double().eval(), image(8)
    order = torch.randperm(8).tolist()
    with torch.no_grad():
        expected = balance(x)[0]
        folded = FoldedBalance(copy.deepcopy(balance))
        assert_same(folded(x)[0], expected)
        assert_same(order_balance(folded, order)(x[:, order])[0], expected[:, order])


def test_places_of_the_maxima_are_those_of_the_one_hot_planes_in_ties_too():
    x = torch.randint(0, 3, (2, 5, 8, 12)).float()
    pooled, where = max_pool_places(x)
    expected, planes = max_pool_one_hot(x)
    assert torch.equal(pooled, expected) and torch.equal(where, planes.argmax(2).float())
    y = torch.randn_like(pooled)
    assert torch.equal(max_unpool_places(y, where), max_unpool_one_hot(y, planes))
    assert torch.equal(max_unpool_places(y, where), F.max_unpool2d(y, F.max_pool2d(x, 2, return_indices=True)[1], 2))


# --- DSNet --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 8, 3), nn.ConvTranspose2d(6, 8, 3), nn.Linear(6, 8)])
def test_a_layer_reads_and_writes_channels_in_another_order(layer):
    layer, reads, writes = layer.double(), torch.randperm(6).tolist(), torch.randperm(8).tolist()
    x = image(6) if not isinstance(layer, nn.Linear) else image(6).mean((2, 3))
    with torch.no_grad():
        assert_same(ordered(layer, reads)(x[:, reads]), layer(x))
        assert_same(ordered(layer, reads, writes)(x[:, reads]), layer(x)[:, writes])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_shuffled_is_the_channel_shuffle(groups):
    expected = F.channel_shuffle(torch.arange(16.0).view(1, 16, 1, 1), groups).flatten().int().tolist()
    assert shuffled(list(range(16)), groups) == expected


def test_runs_are_as_long_as_they_can_be():
    assert runs([(0, 2), (0, 3), (1, 4), (1, 0), (1, 1)]) == [(0, 2, 4), (1, 4, 5), (1, 0, 2)]


@pytest.mark.parametrize("groups", [1, 2])
def test_every_channel_that_is_written_is_read_once(groups):
    channels, units = 64, 16
    planned = plan([(0, c) for c in range(channels)], units, groups)
    assert [len(order) for order in planned.writes] == [channels] + [channels // 2] * units
    assert all(sorted(order) == list(range(len(order))) for order in planned.writes)
    read = [(s.source, at) for slices in planned.slices for s in slices for at in range(s.start, s.stop)]
    assert sorted(read) == [(s, at) for s, order in enumerate(planned.writes) for at in range(len(order))]
    # log2 of the channels: half of a unit's input comes from the unit before, a quarter from the one before that, ...
    assert max(len(slices) for slices in planned.slices[:-1]) == (6 if groups == 2 else 1)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("units", [0, 1, 4, 9])
@pytest.mark.parametrize("fixed", [True, False])
def test_a_stage_without_split_concatenation_and_shuffle(units, shuffle, fixed):
    chain = randomised(nn.Sequential(*(dsnet.BasicUnit(16, 1 + i, shuffle) for i in range(units))))
    x, order = image(16), torch.randperm(16).tolist()
    planned = plan([(0, order.index(c)) for c in range(16)], units, 2 if shuffle else 1, fixed)
    assert not fixed or planned.writes[0] == list(range(16))
    stage = FoldedStage(list(_folded(copy.deepcopy(chain))), planned).double()
    with torch.inference_mode():
        result = stage(x[:, order][:, planned.writes[0]])
        assert_same(result, chain(x)[:, planned.reads[-1]])


def test_the_half_that_the_decoders_unit_reads_lies_in_one_piece():
    """Its channels stand in the order of stage 1, because un-pooling puts them where the maxima of stage 1 stood."""
    folded = fold(networks.build("dsnet", CLASSES)).network
    assert folded.stage4.slices[0] == [(0, 32, 64)] and folded.stage5.slices[0] == [(0, 8, 16)]


@pytest.mark.parametrize("unpool", ["indices", "one_hot"])
def test_down_and_up_units(unpool):
    down, up = randomised(dsnet.DownUnit(8, 16, unpool)), randomised(dsnet.UpUnit(16, 8, unpool))
    reads, middle = torch.randperm(8).tolist(), torch.randperm(16).tolist()
    left, right = torch.randperm(8).tolist(), torch.randperm(8).tolist()
    x, y = image(8), image(16, 8, 12)
    folded_down = FoldedDownUnit(_folded(copy.deepcopy(down)), reads, (left, right))
    folded_up = FoldedUpUnit(_folded(copy.deepcopy(up)), middle, reads)
    with torch.inference_mode():
        shuffled, where = down(x)
        branches, ordered_where = folded_down(x[:, reads])
        for i, order in enumerate((left, right)):
            assert_same(branches[i], shuffled[:, i::2][:, order])
        assert_same(folded_up(y[:, middle], ordered_where), up(y, where)[:, reads])


@pytest.mark.parametrize(
    "chosen",
    [
        {"size": "0.5"},
        {"size": "2.0"},
        {"shuffle": False},
        {"init": "conv"},
        {"pyramid_pooling": True},
        {"skips": True},
        {"dilation": "power"},
        {"unpool": "one_hot"},
        *({"unit": unit} for unit in ("add", "depthwise", "mobilenetv2", "enet")),
        *({"feature_balance": [stage]} for stage in ALL_STAGES),
        {"feature_balance": ALL_STAGES, "feature_modulator": "conv", "skips": True, "pyramid_pooling": True},
        {"feature_balance": ALL_STAGES, "feature_modulator": "none"},
    ],
    ids=str,
)
def test_every_dsnet(chosen):
    check_fold(networks.build("dsnet", CLASSES, **chosen), image(3, 41, 67))


# --- Whole networks -----------------------------------------------------------------------------------------------

every_network = pytest.mark.parametrize("name", networks.names())
with_and_without_fbnet = pytest.mark.parametrize("balanced", [False, True], ids=["alone", "fbnet"])


@functools.cache
def _made(name, balanced):
    """In float32; Batch Norms have seen images, so that activations stay as small as those of a trained network."""
    torch.manual_seed(3)
    chosen = {key: value for key, value in {"backbone": "resnet50", "width": 64}.items() if key in options(name)}
    if "unpool" in options(name):
        chosen["unpool"] = "one_hot"
    with torch.device("meta"):
        stages = list(networks.build(name, CLASSES, **chosen).stages)
    network = networks.build(name, CLASSES, **chosen, feature_balance=stages if balanced else ()).train()
    for norm in norms(network):
        norm.momentum = None
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)
    with torch.no_grad():
        network(torch.randn(4, 3, 48, 64))
    for norm in norms(network):
        norm.running_var.clamp_(min=1)  # below, rounding errors grow from norm to norm
    return network.eval()


def make(name, balanced=False):
    return copy.deepcopy(_made(name, balanced))


@every_network
@with_and_without_fbnet
def test_logits_are_the_same_to_a_hundred_thousandth(name, balanced):
    """In float32 of the largest logit; in float64, where rounding is no excuse, in either layout of memory."""
    network = make(name, balanced)
    folded = fold(network)
    assert norms(folded) == []
    with torch.inference_mode():
        x = torch.randn(1, 3, 41, 67)
        logits = network(x)
        assert (folded(x) - logits).abs().max() <= 1e-5 * logits.abs().max()
        logits, folded, x = network.double()(x.double()), fold(network), x.double()
        assert_same(folded(x), logits)
        assert_same(folded.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), logits)


@every_network
def test_the_network_is_left_as_it_is(name):
    network = make(name, balanced=True).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold(network)
    assert network.training and not any(part.training for part in folded.modules())
    after = network.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(p.requires_grad for p in folded.parameters())
    assert not {p.data_ptr() for p in folded.parameters()} & {p.data_ptr() for p in network.parameters()}


def test_it_cannot_be_trained_but_copied():
    folded = fold(make("dsnet"))
    with pytest.raises(RuntimeError, match="train the network that it was made from"):
        folded.train()
    assert folded.eval() is folded and not folded.training
    x = torch.randn(1, 3, *SIZE)
    with torch.inference_mode():
        assert torch.equal(copy.deepcopy(folded)(x), folded(x))
        assert torch.equal(fold(folded)(x), folded(x))


def export(folded):
    batch = torch.export.Dim("batch", min=1, max=8)
    return torch.export.export(folded, (torch.randn(2, 3, *SIZE),), dynamic_shapes=({0: batch},))


@every_network
def test_torch_export_takes_it_at_any_batch(name):
    folded = fold(make(name))
    exported = export(folded).module()
    for count in (1, 3):
        x = torch.randn(count, 3, *SIZE)
        with torch.no_grad():
            assert_same(exported(x), folded(x), 1e-5)


@every_network
def test_onnx_takes_it_at_any_batch(name, assert_onnx_agrees):
    """With FBNet at every stage: the graph holds all that the network alone has."""
    folded = fold(make(name, balanced=True))
    assert_onnx_agrees(folded, export(folded), SIZE)


@pytest.mark.parametrize("name", ["dsnet", "enet", "erfnet"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.03), (torch.bfloat16, 0.1)], ids=str)
def test_half_precision_in_channels_last_says_the_same(name, dtype, tolerance):
    """In standard deviations of the logits; unrelated ones would differ by 1.1."""
    network, x = make(name), torch.randn(2, 3, *SIZE)
    folded = fold(network).to(dtype, memory_format=torch.channels_last)
    with torch.inference_mode():
        exact = network(x)
        logits = folded(x.to(dtype, memory_format=torch.channels_last))
    assert logits.dtype == dtype
    assert (logits.float() - exact).abs().mean() < tolerance * exact.std()


def test_a_module_of_the_users_own_is_copied_as_it_is():
    class Own(nn.Module):
        def forward(self, x):
            return 2 * x

    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(fold(Own())(x), 2 * x)
