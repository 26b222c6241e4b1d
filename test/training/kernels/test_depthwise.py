"""The depth-wise kernels against PyTorch's convolution in fp32 on the same bfloat16 values."""

import copy

import pytest
import torch
from torch import nn

from drive_seg import networks
from drive_seg.networks.depthwise import DepthwiseConv2d
from drive_seg.networks.efficientnet_lite import Border, MBConv
from drive_seg.training.kernels import library
from drive_seg.training.kernels.depthwise import FusedDepthwise, fuse_depthwise

pytestmark = pytest.mark.skipif(not library.ready(), reason="the processor has no bfloat16, or there is no compiler")
ROUNDING = 2**-8


def run(layer, x, grad):
    """Output, and the gradients of input and weight."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(grad.to(y.dtype))
    return y.detach().float(), x.grad.float(), layer.weight.grad


@pytest.mark.parametrize("channels", [16, 48])
@pytest.mark.parametrize("size", [(9, 26), (6, 7), (5, 4)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "border"),
    [
        (3, 1, 1, 1, False),
        (5, 1, 2, 1, False),
        (3, 2, 1, 1, False),
        (5, 2, 2, 1, False),
        (5, 1, 4, 2, False),
        (3, 1, 4, 4, False),
        (3, 2, 0, 1, True),
        (5, 2, 0, 1, True),
        (3, 1, 0, 2, True),
    ],
)
def test_output_and_gradients_equal_the_convolution_in_fp32(channels, size, kernel, stride, padding, dilation, border):
    torch.manual_seed(0)
    plain = DepthwiseConv2d(channels, kernel, stride, padding, dilation)
    fused = copy.deepcopy(plain)
    fuse_depthwise(fused)
    assert type(fused) is FusedDepthwise
    pad = Border(kernel, dilation) if border else nn.Identity()
    fused.border = pad if border else None
    x = torch.randn(3, channels, *size).bfloat16()
    grad = torch.randn_like(plain(pad(x.float()))).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y, of_x, of_weight = run(fused, x, grad)
    plain_with_border = nn.Sequential(pad, plain)
    plain_with_border.weight = plain.weight
    wanted, wanted_of_x, wanted_of_weight = run(plain_with_border, x.float(), grad.float())
    torch.testing.assert_close(y, wanted, rtol=ROUNDING, atol=1e-5)
    torch.testing.assert_close(of_x, wanted_of_x, rtol=ROUNDING, atol=1e-5)
    torch.testing.assert_close(of_weight, wanted_of_weight, rtol=1e-4, atol=1e-4)


def test_what_needs_no_gradient_gets_none():
    layer = DepthwiseConv2d(16, 3, 1, 1)
    fuse_depthwise(layer)
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(1, 16, 4, 4)).sum().backward()
        layer.requires_grad_(False)
        layer(torch.randn(1, 16, 4, 4).requires_grad_()).sum().backward()
    assert layer.weight.grad is not None


def test_layers_that_the_kernels_do_not_know_stay():
    for layer in (DepthwiseConv2d(24, 3), DepthwiseConv2d(16, 7), DepthwiseConv2d(16, 3, 2, 1, 2)):
        fuse_depthwise(layer)
        assert type(layer) is DepthwiseConv2d


def test_a_network_keeps_names_and_outputs():
    torch.manual_seed(0)
    plain = networks.build("swiftnet", 5).eval()
    fused = copy.deepcopy(plain)
    fuse_depthwise(fused)
    blocks = [block for block in fused.modules() if isinstance(block, MBConv)]
    assert all(type(block.depthwise[0]) is FusedDepthwise and isinstance(block.border, nn.Identity) for block in blocks)
    assert list(fused.state_dict()) == list(plain.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(fused(x), plain(x))


def test_the_same_input_gives_the_same_bits():
    layer = DepthwiseConv2d(32, 5, 2, 2)
    fuse_depthwise(layer)
    x = torch.randn(4, 32, 33, 35).bfloat16()
    found = []
    for _ in range(2):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            found.append(run(layer, x, torch.ones(4, 32, 17, 18)))
    assert all(map(torch.equal, *found))
