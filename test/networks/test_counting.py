"""Parameters and multiply-accumulates against counts by hand."""

import copy

import pytest
import torch
from torch import nn

from drive_seg import networks
from drive_seg.networks.counting import multiply_accumulates, parameters
from drive_seg.networks.fbnet import FeatureBalance
from drive_seg.networks.layers import strip_training_only, training_only

SIZE = (12, 20)
PIXELS = 12 * 20
HALVED = 6 * 10


class AverageThenLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 7)

    def forward(self, x):
        return self.linear(x.mean(dim=(2, 3)))


class Balanced(nn.Module):
    def __init__(self):
        super().__init__()
        self.balance = FeatureBalance(3, foreground_classes=5)

    def forward(self, x):
        return self.balance(x)[0]


BY_HAND = {
    "convolution": (nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), HALVED * 8 * 3 * 9, HALVED * 8 * 3 * 9),
    "biased": (nn.Conv2d(3, 8, 1), PIXELS * 8 * 3, PIXELS * 8 * 3 + PIXELS * 8),
    "grouped": (nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False), PIXELS * 6 * 9, PIXELS * 6 * 9),
    "transposed": (
        nn.ConvTranspose2d(3, 8, 2, stride=2),
        PIXELS * 3 * 8 * 4,
        PIXELS * 3 * 8 * 4 + 4 * PIXELS * 8,
    ),
    "transposed, grouped": (
        nn.ConvTranspose2d(3, 6, 3, stride=2, padding=1, output_padding=1, groups=3, bias=False),
        PIXELS * 3 * 2 * 9,
        PIXELS * 3 * 2 * 9,
    ),
    "linear": (AverageThenLinear(), 3 * 7, 3 * 7),
    "batch norm": (nn.BatchNorm2d(3), 0, 2 * 3 * PIXELS),
    "relu": (nn.ReLU(inplace=True), 0, 3 * PIXELS),
    "prelu": (nn.PReLU(3), 0, 3 * PIXELS),
    "max-pool": (nn.MaxPool2d(3, 2, padding=1), 0, 3 * PIXELS),
    "max-pool with indices": (nn.MaxPool2d(2, return_indices=True), 0, 3 * PIXELS),
    "average pool": (nn.AvgPool2d(2), 0, 3 * PIXELS),
    "adaptive pool": (nn.AdaptiveAvgPool2d(1), 0, 3 * PIXELS),
    "sigmoid and resizing": (nn.Sequential(nn.Sigmoid(), nn.Upsample(scale_factor=2, mode="bilinear")), 0, 0),
    "in a sequence": (
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        HALVED * 8 * 3 * 9,
        HALVED * 8 * (3 * 9 + 2 + 1),
    ),
    # spatial sensor and channel sensor; by the paper's rules the head and both convolutions' biases as well
    "FBNet": (Balanced(), PIXELS * 3 + 3 * 3, PIXELS * 3 + 3 * 3 + PIXELS + PIXELS * 5 * 3 + PIXELS * 5),
    "FBNet without its head": (strip_training_only(Balanced()), PIXELS * 3 + 3 * 3, PIXELS * 3 + 3 * 3 + PIXELS),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("case", BY_HAND)
def test_multiply_accumulates_are_those_counted_by_hand(case, device):
    network, plain, by_paper_rules = BY_HAND[case]
    network = copy.deepcopy(network).to(device)
    assert multiply_accumulates(network, SIZE) == plain
    assert multiply_accumulates(network, SIZE, paper_rules=True) == by_paper_rules


@pytest.mark.parametrize("paper_rules", [False, True])
def test_counting_leaves_modes_hooks_and_values_as_they_were(paper_rules):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(), FeatureBalanceLast(4))
    network.train()
    network[1].eval()  # a frozen Batch Norm inside a network in training
    seen = []
    network[0].register_forward_hook(lambda *_: seen.append("hook"))
    before = copy.deepcopy(network.state_dict())
    multiply_accumulates(network, (64, 64), paper_rules)
    assert [part.training for part in network] == [True, False, True, True, True]
    assert network[4].balance.training and network[4].balance.head.training
    assert [len(part._forward_hooks) for part in network.modules()] == [0, 1] + [0] * (len([*network.modules()]) - 2)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert {p.device.type for p in network.parameters()} == {"cpu"}
    assert seen == ["hook"]


class FeatureBalanceLast(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.balance = FeatureBalance(channels, 2)

    def forward(self, x):
        return self.balance(x)[0]


def test_hooks_go_when_the_network_fails():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3)).train()
    with pytest.raises(RuntimeError):
        multiply_accumulates(network, SIZE, paper_rules=True)
    assert not any(part._forward_hooks for part in network.modules())
    assert network[0].training


def test_parameters_leave_out_training_only_branches_and_count_shared_ones_once():
    shared = nn.Conv2d(3, 3, 1)
    network = nn.Sequential(shared, shared, training_only(nn.Linear(100, 100)), nn.Sequential(nn.BatchNorm2d(5)))
    assert parameters(network) == 3 * 3 + 3 + 2 * 5
    assert parameters(strip_training_only(network)) == 3 * 3 + 3 + 2 * 5
    assert isinstance(network[3], nn.Sequential)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_real_network_counts_as_one_on_meta(dtype):
    with torch.device("meta"):
        on_meta = networks.build("dsnet", 19, feature_balance=["stage3"])
    real = networks.build("dsnet", 19, feature_balance=["stage3"]).to(dtype)
    for paper_rules in (False, True):
        assert multiply_accumulates(real, (65, 97), paper_rules) == multiply_accumulates(on_meta, (65, 97), paper_rules)
    assert parameters(real) == parameters(on_meta)
