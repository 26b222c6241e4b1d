"""The depth-wise convolution is torch's; under bf16 autocast its own gradients are fp32's up to rounding."""

import pytest
import torch
from torch import nn

from drive_seg.networks.depthwise import DepthwiseConv2d
from drive_seg.networks.fold.norms import fold_norm

SHAPES = pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(3, 1, 1, 1), (5, 1, 2, 1), (3, 2, 0, 1), (5, 2, 0, 1), (3, 2, 1, 1), (5, 1, 4, 2), (3, 1, 0, 4)],
)


def layers(*shape):
    """Ours, and torch's with the same weights."""
    torch.manual_seed(2)
    own = DepthwiseConv2d(6, *shape)
    other = nn.Conv2d(6, 6, *shape, groups=6, bias=False)
    other.load_state_dict(own.state_dict())
    return own, other


@SHAPES
def test_without_autocast_it_is_torchs(kernel, stride, padding, dilation):
    own, other = layers(kernel, stride, padding, dilation)
    x = torch.randn(2, 6, 19, 24)
    assert torch.equal(own(x), other(x))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(own(x), other(x))


@SHAPES
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_in_bf16_are_those_of_fp32(kernel, stride, padding, dilation, channels_last):
    own, other = layers(kernel, stride, padding, dilation)
    x = torch.randn(2, 6, 19, 24)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x, same = x.requires_grad_(), x.detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = own(x)
    expected = other(same)
    assert out.dtype == torch.bfloat16 and out.shape == expected.shape
    grad = torch.randn_like(expected)
    out.backward(grad.to(out.dtype))
    expected.backward(grad)
    assert x.grad.dtype == own.weight.grad.dtype == torch.float32
    for found, exact in ((out, expected), (x.grad, same.grad), (own.weight.grad, other.weight.grad)):
        assert (found.float() - exact).abs().max() <= 0.02 * exact.abs().max()


def test_what_needs_no_gradient_gets_none():
    own, _ = layers(3, 1, 1, 1)
    x = torch.randn(1, 6, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        own(x).sum().backward()
    assert x.grad is None and own.weight.grad.abs().sum() > 0
    own.zero_grad()
    own.weight.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        own(x.requires_grad_()).sum().backward()
    assert own.weight.grad is None and x.grad.abs().sum() > 0


def test_a_folded_one_keeps_its_bias_under_autocast():
    own, _ = layers(3, 1, 1, 1)
    norm = nn.BatchNorm2d(6).eval()
    nn.init.constant_(norm.bias, 7)
    folded, x = fold_norm(own, norm), torch.zeros(1, 6, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert (folded(x) == 7).all()
