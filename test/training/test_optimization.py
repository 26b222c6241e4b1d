"""Learning rates over time and over layers."""

import pytest
import torch
from torch import nn

from drive_seg.training.optimization import build_optimizer, learning_rate, parameter_groups, poly_rate, whole_epochs
from drive_seg.training.recipe import Optimizer, Schedule


def test_poly_falls_as_the_papers_say():
    assert poly_rate(50, 100, 0.9) == pytest.approx(0.5**0.9)
    assert poly_rate(100, 100, 0.9) == 0


def test_warm_up_rises_to_the_first_step_after_it():
    rate = learning_rate(Schedule(epochs=10, warmup_epochs=0.9), 10)
    assert rate(0) == pytest.approx(0.1)
    assert rate(9) == pytest.approx((1 - 9 / 100) ** 0.9)
    assert learning_rate(Schedule(epochs=10), 10)(0) == 1


def test_a_length_in_iterations_is_kept_to_the_step():
    schedule = Schedule(iterations=81000, warmup_iterations=1000)
    assert whole_epochs(schedule, 371) == 219  # 2975 images of Cityscapes by 8: 218.3 epochs
    rate = learning_rate(schedule, 371)
    assert rate(499) == pytest.approx(500 / 1001 * (1 - 499 / 81000) ** 0.9)
    assert rate(40500) == pytest.approx(0.5**0.9)
    assert rate(80999) > 0 and rate(81000) == 0 and rate(81248) == 0


def test_steps_halve_every_ten_epochs():
    rate = learning_rate(Schedule(kind="step", epochs=80, every=10, factor=0.5), 7)
    assert [rate(7 * epoch) for epoch in (0, 9, 10, 25, 79)] == [1, 1, 0.5, 0.25, 0.5**7]
    assert rate(69) == 1 and rate(70) == 0.5


def test_constant_stays():
    rate = learning_rate(Schedule(kind="constant", epochs=3, warmup_iterations=1), 5)
    assert [rate(step) for step in (0, 1, 14, 15)] == [0.5, 1, 1, 0]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "either epochs or iterations"),
        ({"epochs": 1, "iterations": 5}, "either epochs or iterations"),
        ({"epochs": 1, "warmup_epochs": 1, "warmup_iterations": 5}, "either warmup_epochs or warmup_iterations"),
    ],
)
def test_a_length_is_given_once(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        Schedule(**settings)


class Host(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.fusion1 = nn.Conv2d(4, 4, 1)
        self.fusion10 = nn.Conv2d(4, 4, 1)


def rates(**settings):
    """Learning rate and weight decay of each parameter by name."""
    network = Host()
    groups = parameter_groups(network, Optimizer(lr=0.1, weight_decay=0.01, **settings))
    names = {id(p): name for name, p in network.named_parameters()}
    found = {names[id(p)]: (round(g["lr"], 9), g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(found) == len(names) == sum(len(g["params"]) for g in groups)
    return found


def test_weight_decay_spares_batch_norm_and_biases():
    for name, (rate, decay) in rates().items():
        assert rate == 0.1 and decay == (
            0.01 if name in ("encoder.0.weight", "fusion1.weight", "fusion10.weight") else 0
        )


def test_new_layers_are_all_outside_the_encoder():
    found = rates(new_layers=10)
    assert found["encoder.0.weight"] == (0.1, 0.01) and found["encoder.1.bias"] == (0.1, 0)
    assert found["fusion1.weight"] == (1.0, 0.01) and found["fusion10.bias"] == (1.0, 0)


def test_new_layers_can_be_named():
    found = rates(new_layers=10, new_parts=("fusion1",))
    assert found["fusion1.weight"][0] == 1.0 and found["fusion10.weight"][0] == found["encoder.0.weight"][0] == 0.1


def test_new_layers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="no 'fusion2'; its parts are: encoder, fusion1, fusion10"):
        rates(new_layers=10, new_parts=("fusion2",))
    with pytest.raises(ValueError, match="Conv2d has no encoder"):
        parameter_groups(nn.Conv2d(1, 1, 1), Optimizer(lr=0.1, new_layers=10))


@pytest.mark.parametrize(
    ("name", "kind", "own"),
    [("sgd", torch.optim.SGD, {"momentum": 0.8}), ("adam", torch.optim.Adam, {}), ("adamw", torch.optim.AdamW, {})],
)
def test_optimisers(name, kind, own):
    optimizer = build_optimizer(Host(), Optimizer(name=name, lr=0.1, weight_decay=0.5, **own))
    assert type(optimizer) is kind
    assert all(optimizer.param_groups[0][key] == value for key, value in own.items())


def test_adam_decays_by_the_gradient():
    """At a gradient of zero Adam with an L2 term steps by the sign of the weight, AdamW by lr x decay x weight."""
    moved = {}
    for name in ("adam", "adamw"):
        layer = nn.Conv2d(1, 1, 1)
        nn.init.constant_(layer.weight, 3.0)
        optimizer = build_optimizer(layer, Optimizer(name=name, lr=0.1, weight_decay=0.5))
        layer(torch.zeros(1, 1, 1, 1)).sum().backward()
        optimizer.step()
        moved[name] = 3.0 - layer.weight.item()
    assert moved["adam"] == pytest.approx(0.1, rel=1e-4) and moved["adamw"] == pytest.approx(0.15, rel=1e-4)
