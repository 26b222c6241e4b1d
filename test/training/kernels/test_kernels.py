"""The kernels against PyTorch's operations in fp32 on the same bfloat16 values."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from drive_seg import networks
from drive_seg.labels import LabelMap
from drive_seg.networks import SegmentationOutput, dsnet
from drive_seg.networks.layers import channel_shuffle
from drive_seg.training.kernels import dsnet as fast
from drive_seg.training.kernels import layers, library
from drive_seg.training.losses import WeightedSum, shared
from drive_seg.training.targets import Targets

pytestmark = pytest.mark.skipif(not library.ready(), reason="the processor has no bfloat16, or there is no compiler")
ROUNDING = 2**-7
"""Relative; a bfloat16 has 8 bits, and what is compared was rounded once or twice."""


def features(*shape, seed=0):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
    return drawn.contiguous(memory_format=torch.channels_last)


def gradients(function, inputs, grads):
    """What a function returns, and the gradients of its inputs for these of its outputs."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.autograd.backward(outputs, grads)
    return [x.detach().float() for x in outputs], [x.grad.float() for x in inputs]


@pytest.mark.parametrize(("low", "high"), [(-math.inf, math.inf), (0.0, math.inf), (0.0, 6.0)])
@pytest.mark.parametrize("shape", [(2, 64, 6, 8), (3, 13, 5, 7), (1, 8, 4, 4), (2, 200, 3, 3)])
def test_norm_and_activation_equal_batch_norm_in_fp32(shape, low, high):
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(shape[1])
    nn.init.normal_(norm.weight, 2.0)
    nn.init.normal_(norm.bias, 1.0)
    kernel = copy.deepcopy(norm)
    layers.activate(kernel, low, high)
    x, grad = features(*shape), features(*shape, seed=1)
    (y,), (of_x,) = gradients(kernel, [x], [grad])
    (wanted,), (wanted_of_x,) = gradients(lambda v: norm(v).clamp(low, high), [x.float()], [grad.float()])
    torch.testing.assert_close(y, wanted, rtol=ROUNDING, atol=1e-6)
    torch.testing.assert_close(of_x, wanted_of_x, rtol=ROUNDING, atol=2e-3)
    for name, tensor in norm.state_dict().items():
        torch.testing.assert_close(kernel.state_dict()[name], tensor)
    for name, parameter in norm.named_parameters():
        torch.testing.assert_close(dict(kernel.named_parameters())[name].grad, parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(16, 24, 1, bias=False),
        nn.Conv2d(16, 24, 3, 2, 2, dilation=2, groups=2, bias=False),
        nn.ConvTranspose2d(16, 24, 3, 2, 1, output_padding=1, bias=False),
    ],
    ids=["1x1", "dilated", "transposed"],
)
def test_convolution_and_norm_as_one_equal_them_in_fp32(convolution):
    torch.manual_seed(1)
    plain = nn.Sequential(copy.deepcopy(convolution), nn.BatchNorm2d(24), nn.ReLU6())
    plain[0].weight.data = plain[0].weight.bfloat16().float()
    fused = nn.Sequential(*map(copy.deepcopy, plain))
    layers.fuse_norms(fused)
    assert type(fused) is layers.ConvNorm and list(fused.state_dict()) == list(plain.state_dict())
    x = features(2, 16, 12, 16)
    grad = features(*plain(x.float()).shape, seed=1)
    plain[1].reset_running_stats()
    with torch.autocast("cpu", torch.bfloat16):
        (y,), (of_x,) = gradients(fused, [x], [grad])
    (wanted,), (wanted_of_x,) = gradients(plain, [x.float()], [grad.float()])
    torch.testing.assert_close(y, wanted, rtol=4 * ROUNDING, atol=4 * ROUNDING)
    assert relative(of_x, wanted_of_x) < 0.03  # some values at 0 or 6 fall to either side
    for (name, found), parameter in zip(fused.named_parameters(), plain.parameters(), strict=True):
        assert found.grad.dtype == torch.float32 and relative(found.grad, parameter.grad) < 0.03, name
    for name, found in fused.named_buffers():
        torch.testing.assert_close(found, plain.get_buffer(name), rtol=ROUNDING, atol=1e-3)
    assert torch.equal(fused.eval()(x.float()), plain.load_state_dict(fused.state_dict()) and plain.eval()(x.float()))


def test_only_what_is_a_convolution_and_a_norm_becomes_one():
    for sequence in (
        nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)),
        nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Sigmoid()),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding="same", bias=False), nn.BatchNorm2d(8)),
    ):
        layers.fuse_norms(sequence)
        assert type(sequence) is nn.Sequential


def test_norm_takes_features_in_any_order_in_memory():
    x = features(2, 32, 4, 6)
    kernel = nn.BatchNorm2d(32)
    layers.activate(kernel, 0.0)
    assert torch.equal(kernel(x.contiguous()), kernel(x)) and torch.equal(
        kernel(x[:, :, :, :3]), kernel(x[..., :3].clone())
    )


def test_norm_is_pytorch_s_in_evaluation_and_in_fp32():
    kernel = nn.BatchNorm2d(8)
    layers.activate(kernel, 0.0, 6.0)
    x = 9 * torch.randn(2, 8, 3, 3)
    assert torch.equal(kernel(x), F.batch_norm(x, None, None, training=True).clamp(0, 6))
    assert torch.equal(kernel.eval()(x.bfloat16()).float() <= 6, torch.ones(x.shape, dtype=torch.bool))


@pytest.mark.parametrize("half", [8, 32])
def test_shuffle_equals_shufflenet_s(half):
    left, right, grad = features(2, half, 3, 5), features(2, half, 3, 5, seed=1), features(2, 2 * half, 3, 5, seed=2)

    def slow(a, b):
        return channel_shuffle(torch.cat((a, b), dim=1), 2)

    wanted, of_wanted = gradients(slow, [left, right], [grad])
    joined, of_joined = gradients(lambda a, b: fast._Shuffle.apply(a, b, True), [left, right], [grad])
    halves, of_halves = gradients(lambda a, b: fast._Shuffle.apply(a, b, False), [left, right], grad.chunk(2, dim=1))
    assert torch.equal(joined[0], wanted[0]) and torch.equal(torch.cat(halves, dim=1), wanted[0])
    for found in (of_joined, of_halves):
        assert all(map(torch.equal, found, of_wanted))


def test_shuffle_reads_halves_of_one_tensor():
    x = features(2, 16, 3, 5)
    left, right = x.chunk(2, dim=1)
    assert torch.equal(fast._Shuffle.apply(left, right, True), channel_shuffle(x, 2))


def test_pooling_and_joining_equal_pytorch_s():
    x, grad = features(2, 16, 6, 8).round(), features(2, 16, 3, 4, seed=1)  # rounded: many values are equal
    (pooled, where), _ = fast._Pool.apply(x), None
    wanted, indices = F.max_pool2d(x.float(), 2, return_indices=True)
    assert torch.equal(pooled.float(), wanted)
    _, (of_x,) = gradients(lambda v: fast._Pool.apply(v)[0], [x], [grad])
    _, (of_wanted,) = gradients(lambda v: F.max_pool2d(v, 2), [x.float()], [grad.float()])
    assert torch.equal(of_x, of_wanted)

    coarse, fine, grad = features(2, 16, 3, 4, seed=2), features(2, 16, 6, 8, seed=3), features(2, 16, 6, 8, seed=4)
    joined, of_joined = gradients(lambda a, b: fast._Join.apply(a, where, b), [coarse, fine], [grad])
    slow = [coarse.float(), fine.float()]
    wanted, of_wanted = gradients(lambda a, b: F.relu(F.max_unpool2d(a, indices, 2) + b), slow, [grad.float()])
    torch.testing.assert_close(joined[0], wanted[0], rtol=ROUNDING, atol=0)
    assert all(map(torch.equal, of_joined, of_wanted))


def relative(found, wanted):
    return float((found - wanted).detach().norm() / wanted.norm())


@pytest.mark.parametrize("name", ["stage1", "stage4", "down1", "up5"])
def test_a_fused_part_of_dsnet_has_its_output_and_gradients(name):
    """As near to fp32 as PyTorch's bf16 is: a rounding moves ReLUs at 0 to either side, and each of those the rest."""
    torch.manual_seed(0)
    plain = networks.build("dsnet", 5).to(memory_format=torch.channels_last).train()
    exact, fused = copy.deepcopy(plain), copy.deepcopy(plain)
    fast.fuse(fused)
    shape = {"stage1": (2, 64, 16, 24), "stage4": (2, 64, 16, 24), "down1": (2, 16, 16, 24), "up5": (2, 64, 16, 24)}
    images, skipped = features(*shape[name]), features(2, 16, 32, 48, seed=1)
    found = []
    for network, half in ((exact, False), (plain, True), (fused, True)):
        part = network.get_submodule(name)
        x = (images if half else images.float()).clone().requires_grad_()
        if name == "up5":
            where = (
                fast._Pool.apply(skipped)[1] if network is fused else F.max_pool2d(skipped, 2, return_indices=True)[1]
            )
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = part(x, where) if name == "up5" else part(x)
        y = y[0] if isinstance(y, tuple) else y
        y.backward(features(*y.shape, seed=2).to(y.dtype))
        of_weights = torch.cat([p.grad.detach().flatten() for p in part.parameters()])
        found.append((y.detach().float(), x.grad.float(), of_weights))
    assert type(fused.get_submodule(name)).__module__ == fast.__name__
    for wanted, by_pytorch, by_kernels in zip(*found, strict=True):
        assert relative(by_kernels, wanted) < 1.15 * relative(by_pytorch, wanted) + 0.01


@pytest.mark.parametrize("unit", ["dsnet", "add"])
def test_a_fused_network_keeps_names_and_is_the_same_in_fp32(unit):
    torch.manual_seed(0)
    plain = networks.build("dsnet", 5, unit=unit).to(memory_format=torch.channels_last)
    fused = copy.deepcopy(plain)
    fast.fuse(fused)
    assert list(fused.state_dict()) == list(plain.state_dict())
    image = torch.randn(2, 3, 32, 64)
    assert torch.equal(fused.eval()(image), plain.eval()(image))
    assert torch.equal(fused.train()(image).logits, plain.train()(image).logits)


def test_units_without_a_shuffle_keep_pytorch_s_forward():
    network = networks.build("dsnet", 5, shuffle=False)
    fast.fuse(network)
    assert type(network.stage4) is dsnet.BasicUnit and type(network.down1) is dsnet.DownUnit


CLASSES = LabelMap("five", ("road", "sky", "car", "person", "pole"), ((0, 0, 0),) * 5)


@pytest.mark.parametrize("groups", [(), ((0, 1), (2, 3, 4))])
@pytest.mark.parametrize("void", ["none", "some", "all"])
def test_shared_softmax_equals_pytorch_s(groups, void, monkeypatch):
    targets = Targets(CLASSES, groups, np.full(5 + len(groups), 0.1))
    losses = WeightedSum({"ohem": 0.5, "weighted_cross_entropy": 0.2, "lovasz": {"weight": 0.7, "bins": 64}}, targets)
    label = torch.randint(0, targets.num_targets, (2, 9, 11), generator=torch.Generator().manual_seed(3)).to(
        torch.uint8
    )
    if void != "none":
        label[0, : 3 if void == "some" else 9] = 255
        label[1, :, : 5 if void == "some" else 11] = 255

    def total(logits):
        return losses(SegmentationOutput(logits), label)[0]

    logits = 3 * features(2, 5, 9, 11)
    (value,), (grad,) = gradients(total, [logits], [torch.tensor(2.0)])
    monkeypatch.setattr(shared.library, "ready", lambda: False)
    (wanted,), (of_wanted,) = gradients(total, [logits], [torch.tensor(2.0)])
    torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(grad, of_wanted, rtol=ROUNDING, atol=1e-6)


def test_large_logits_have_finite_gradients():
    targets = Targets(CLASSES, ((0, 1),), np.full(6, 0.1))
    logits = features(1, 5, 4, 4) * 200
    label = torch.tensor([0, 4, 5, 255], dtype=torch.uint8).repeat(4).view(1, 4, 4)
    losses = WeightedSum({"cross_entropy": 1.0, "lovasz": 1.0}, targets)
    (value,), (grad,) = gradients(lambda z: losses(SegmentationOutput(z), label)[0], [logits], [torch.tensor(1.0)])
    assert value.isfinite() and grad.isfinite().all() and not grad[0, :, :, 3].any()


def test_without_a_compiler_pytorch_trains_and_a_broken_one_is_warned_of(monkeypatch):
    library.ready.cache_clear()
    monkeypatch.setattr(library.host, "can_compile", lambda: False)
    assert not library.ready()
    library.ready.cache_clear()
    monkeypatch.undo()

    def refuse():
        raise ValueError("it refuses")

    monkeypatch.setattr(library, "kernels", refuse)
    with pytest.warns(UserWarning, match="more slowly: it refuses"):
        assert not library.ready()
    library.ready.cache_clear()
