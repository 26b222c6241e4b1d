"""FBNet: its equations written out, the rows of its Tables 3 and 4, and its label assignment."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from drive_seg.networks.counting import multiply_accumulates, parameters
from drive_seg.networks.fbnet import DualFeatureModulator, FeatureBalance, assign_blocks
from drive_seg.networks.fcn import FCN
from drive_seg.networks.layers import ConvBN, resize, strip_training_only, training_only_branches
from drive_seg.networks.network import SegmentationNetwork, SegmentationOutput, Stage


class TwoStages(SegmentationNetwork):
    """A host as small as can be."""

    def __init__(self, num_classes=7):
        super().__init__()
        self.stages = {"low": Stage(4, 2), "high": Stage(6, 4)}
        self.first = ConvBN(3, 4, 3, stride=2)
        self.second = ConvBN(4, 6, 3, stride=2)
        self.classifier = nn.Conv2d(6, num_classes, 1)

    def segment(self, image, balance):
        x = balance("low", self.first(image))
        x = balance("high", self.second(x))
        return SegmentationOutput(resize(self.classifier(x), image.shape[-2:]))


def randomise(module):
    for p in module.parameters():
        nn.init.normal_(p)
    return module


def dual_by_hand(modulator, x):
    """Equations 5 to 7, number by number."""

    def sigmoid(t):
        return 1 / (1 + math.exp(-t))

    w_s, b_s = modulator.spatial_sensor.weight[0, :, 0, 0].tolist(), modulator.spatial_sensor.bias.item()
    w_c, b_c = modulator.channel_sensor.weight.tolist(), modulator.channel_sensor.bias.tolist()
    out = torch.empty_like(x)
    batch, channels, height, width = x.shape
    for b in range(batch):
        average = [x[b, c].sum().item() / (height * width) for c in range(channels)]
        s_c = [sigmoid(b_c[c] + sum(w_c[c][k] * average[k] for k in range(channels))) for c in range(channels)]
        for i in range(height):
            for j in range(width):
                s_s = sigmoid(b_s + sum(w_s[c] * x[b, c, i, j].item() for c in range(channels)))
                for c in range(channels):
                    out[b, c, i, j] = x[b, c, i, j] * s_s * s_c[c]
    return out


@pytest.fixture
def features():
    torch.manual_seed(0)
    return torch.randn(2, 5, 3, 4)


@torch.no_grad()
def test_dfm_is_equations_5_to_7(features):
    modulator = randomise(DualFeatureModulator(5))
    torch.testing.assert_close(modulator(features), dual_by_hand(modulator, features))


@torch.no_grad()
def test_table_4_row_dfm_and_head_fuses_by_addition(features):
    balance = randomise(FeatureBalance(5, 3)).train()
    fused, presence = balance(features)
    modulated = dual_by_hand(balance.modulator, features)
    torch.testing.assert_close(fused, features + modulated)
    by_hand = torch.einsum("kc,bchw->bkhw", balance.head.weight[..., 0, 0], modulated)
    torch.testing.assert_close(presence, by_hand + balance.head.bias[:, None, None], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_table_4_row_convolution_and_head(features):
    balance = randomise(FeatureBalance(5, 3, "conv")).train()
    fused, presence = balance(features)
    kernel = balance.modulator.weight[..., 0, 0]
    assert kernel.shape == (5, 5)
    modulated = torch.einsum("kc,bchw->bkhw", kernel, features) + balance.modulator.bias[:, None, None]
    torch.testing.assert_close(fused, features + modulated)
    torch.testing.assert_close(presence, balance.head(modulated))


@torch.no_grad()
def test_table_4_row_head_alone_leaves_the_features(features):
    balance = randomise(FeatureBalance(5, 3, "none")).train()
    fused, presence = balance(features)
    assert torch.equal(fused, features)
    torch.testing.assert_close(presence, balance.head(features))
    assert parameters(balance) == 0


def test_table_4_unknown_modulator_lists_the_rows():
    with pytest.raises(ValueError, match="'cbam' is not one of dual, conv, none"):
        FeatureBalance(5, 3, "cbam")


@pytest.mark.parametrize("modulator", ["dual", "conv", "none"])
@torch.no_grad()
def test_the_head_is_for_training_only_and_its_absence_changes_nothing_else(features, modulator):
    balance = randomise(FeatureBalance(5, 3, modulator)).eval()
    fused, presence = balance(features)
    assert presence is None
    for stripped in (strip_training_only(balance), balance.train()):
        again, presence = stripped(features)
        assert torch.equal(again, fused) and presence is None


# C of each stage, height and width of its features at 1024x1024, of ResNet-101 at output stride 8
TABLE_3 = {"res2": (256, 256), "res3": (512, 128), "res4": (1024, 128), "res5": (2048, 128)}


def added_by(stage):
    """Spatial sensor 1 x C and head 14 x C with their biases at each place, channel sensor C x C."""
    channels, side = TABLE_3[stage]
    return 15 * (channels + 1) * side**2 + channels**2


@pytest.fixture(scope="module")
def dilated_fcn():
    def build(stages):
        with torch.device("meta"):
            network = FCN(19, "resnet101")
            network.attach_feature_balance(stages, 19)
        return network

    plain = build([])
    counts = [multiply_accumulates(plain, (1024, 1024), rules) for rules in (False, True)]
    return build, *counts


@pytest.mark.parametrize("stages", [["res2"], ["res3"], ["res4"], ["res5"], ["res2", "res3", "res4", "res5"]], ids=str)
def test_table_3_every_layer_takes_fbnet_at_the_cost_of_its_parts(dilated_fcn, stages):
    build, plain, plain_by_paper_rules = dilated_fcn
    network = build(stages)
    size = (1024, 1024)
    assert multiply_accumulates(network, size, True) - plain_by_paper_rules == sum(map(added_by, stages))
    at_inference = sum(TABLE_3[stage][0] * TABLE_3[stage][1] ** 2 + TABLE_3[stage][0] ** 2 for stage in stages)
    assert multiply_accumulates(network, size) - plain == at_inference
    if len(stages) == 4:
        assert sum(map(added_by, stages)) / 1e9 == pytest.approx(1.140, abs=0.002)


@pytest.mark.parametrize("stages", [["low"], ["high"], ["high", "low"]], ids=str)
def test_a_host_gives_the_logits_of_its_balanced_stages_in_training(stages):
    network = TwoStages()
    network.attach_feature_balance(stages, 7)
    output = network.train()(torch.randn(2, 3, 33, 47))
    shapes = {"low": (2, 2, 17, 24), "high": (2, 2, 9, 12)}
    assert {s: (p.logits.shape, p.stride) for s, p in output.block_presence.items()} == {
        s: (shapes[s], network.stages[s].stride) for s in stages
    }
    assert output.logits.shape == (2, 7, 33, 47)


@torch.no_grad()
def test_the_balanced_features_are_what_the_host_goes_on_with():
    torch.manual_seed(1)
    network = TwoStages().eval()
    network.attach_feature_balance(["low"], 7)
    randomise(network.feature_balance)
    image = torch.randn(2, 3, 32, 48)
    low = network.first(image)
    by_hand = network.classifier(network.second(low + dual_by_hand(network.feature_balance["low"].modulator, low)))
    torch.testing.assert_close(network(image), resize(by_hand, (32, 48)), rtol=1e-4, atol=1e-5)


def test_the_head_is_as_wide_as_the_foreground():
    network = TwoStages()
    network.attach_feature_balance(["low"], 19)
    assert network.feature_balance["low"].head.out_channels == 14  # Cityscapes: footnote 1
    network.attach_feature_balance(["high"], 19, foreground_classes=3)
    assert network.feature_balance["high"].head.out_channels == 3


def test_one_stage_may_be_given_as_a_word():
    network = TwoStages()
    network.attach_feature_balance("high", 7)
    assert list(network.feature_balance) == ["high"]


@pytest.mark.parametrize(
    ("stages", "num_classes", "foreground", "sentence"),
    [
        (["low", "res5"], 19, None, "has no stage 'res5'; its stages are: low, high"),
        (["low", "low"], 19, None, "was given a stage twice; its stages are: low, high"),
        (["low"], 5, None, "of 5 classes none is left beside 5 of background; set foreground_classes"),
        (["low"], 19, 0, "none is left"),
    ],
    ids=["unknown stage", "doubled stage", "too few classes", "no foreground"],
)
def test_what_cannot_be_attached_is_refused(stages, num_classes, foreground, sentence):
    network = TwoStages()
    with pytest.raises(ValueError, match=sentence):
        network.attach_feature_balance(stages, num_classes, foreground)
    assert len(network.feature_balance) == 0


def test_few_classes_are_enough_without_stages_or_with_a_foreground_named():
    network = TwoStages(3)
    network.attach_feature_balance([], 3)
    network.attach_feature_balance(["low"], 3, foreground_classes=2)
    assert list(network.feature_balance) == ["low"]


@torch.no_grad()
def test_a_stripped_network_keeps_its_sensors_and_loses_its_heads():
    network = TwoStages().eval()
    network.attach_feature_balance(["low", "high"], 7)
    image = torch.randn(1, 3, 32, 32)
    logits, count = network(image), parameters(network)
    assert [name for name, _, _ in training_only_branches(network)] == [
        "feature_balance.low.head",
        "feature_balance.high.head",
    ]
    strip_training_only(network)
    assert torch.equal(network(image), logits)
    assert parameters(network) == sum(p.numel() for p in network.parameters()) == count
    assert {key.split(".")[2] for key in network.state_dict() if key.startswith("feature_balance")} == {"modulator"}
    assert network.train()(image).block_presence == {}


def assign_by_loops(label, foreground, stride, h, w):
    """Eq. 2 as it is meant, one pixel after the other."""
    batch, height, width = label.shape
    presence = np.zeros((batch, len(foreground), h, w), bool)
    known = np.zeros((batch, h, w), bool)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                if label[b, i, j] != 255:
                    known[b, i // stride, j // stride] = True
                    for k, wanted in enumerate(foreground):
                        presence[b, k, i // stride, j // stride] |= bool(label[b, i, j] == wanted)
    return presence, known


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize(
    ("height", "width", "stride", "size"),
    [
        (16, 24, 4, None),
        (17, 23, 4, None),  # last blocks of one row and of three columns
        (15, 9, 8, None),
        (5, 7, 8, None),  # one block larger than the image
        (17, 23, 8, (4, 4)),  # features of an image padded to multiples of 32
        (9, 11, 1, None),
    ],
)
def test_assign_blocks_is_a_plain_triple_loop(height, width, stride, size, dtype):
    generator = np.random.default_rng(height * width * stride)
    label = generator.integers(0, 8, (3, height, width))
    label[generator.random(label.shape) < 0.4] = 255
    label[0, : height // 2] = 255  # blocks where nothing is known
    foreground = (6, 0, 3)  # neither all classes nor in order
    presence, known = assign_blocks(torch.from_numpy(label).to(dtype), foreground, stride, size)
    h, w = size or (math.ceil(height / stride), math.ceil(width / stride))
    expected_presence, expected_known = assign_by_loops(label, foreground, stride, h, w)
    assert presence.dtype == known.dtype == torch.bool
    assert np.array_equal(presence.numpy(), expected_presence)
    assert np.array_equal(known.numpy(), expected_known)
    assert expected_presence.any() and not expected_presence.all()


def test_neighbouring_blocks_share_no_pixel():
    """Eq. 2's sums run to inclusive bounds, which would give the pixel at a corner to four blocks."""
    label = torch.zeros(1, 8, 8, dtype=torch.uint8)
    label[0, 4, 4] = 1
    presence, _ = assign_blocks(label, [1], 4)
    assert presence[0, 0].tolist() == [[False, False], [False, True]]


def test_void_is_in_no_block_and_a_block_of_void_is_unknown():
    label = torch.full((1, 4, 8), 255, dtype=torch.uint8)
    label[0, 3, 7] = 2
    presence, known = assign_blocks(label, range(3), 4)
    assert known.tolist() == [[[False, True]]]
    assert presence[0, :, 0].tolist() == [[False, False], [False, False], [False, True]]
    presence, known = assign_blocks(torch.full((2, 4, 8), 255), range(3), 4)
    assert not presence.any() and not known.any()
