"""Atrous spatial pyramid pooling: what each branch sees."""

import pytest
import torch
from torch import nn

from drive_seg.networks.aspp import ASPP

RATES = (2, 5)


def all_ones(module):
    """Sums over what each branch sees, as far as Batch Norm in evaluation mode lets them through (1e-5 off)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.ones_(part.weight)
    return module.eval()


def test_branches_are_in_order_a_pixel_nine_pixels_at_each_rate_and_the_whole_image():
    aspp = all_ones(ASPP(1, 1, RATES))
    x = torch.zeros(1, 1, 15, 13)
    x[0, 0, 7, 6] = 1.0
    with torch.no_grad():
        (out,) = aspp(x)
    assert out.shape == (aspp.channels, 15, 13) == (4, 15, 13)
    assert out[0].nonzero().tolist() == [[7, 6]]
    for branch, rate in enumerate(RATES, start=1):
        assert out[branch].nonzero().tolist() == [[7 + i * rate, 6 + j * rate] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    torch.testing.assert_close(out[3], torch.full((15, 13), 1 / (15 * 13)), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("pointwise", "image_pooling", "branches"), [(True, True, 5), (False, True, 4), (True, False, 4), (False, False, 3)]
)
def test_each_branch_left_out_is_that_many_channels_less(pointwise, image_pooling, branches):
    with torch.device("meta"):
        aspp = ASPP(32, 8, (6, 12, 18), pointwise, image_pooling)
        assert aspp.channels == branches * 8
        assert aspp(torch.empty(2, 32, 9, 11)).shape == (2, branches * 8, 9, 11)
    kernels = [part.kernel_size[0] for part in aspp.modules() if isinstance(part, nn.Conv2d)]
    assert kernels == [1] * pointwise + [3, 3, 3] + [1] * image_pooling


def test_outputs_are_not_negative():
    aspp = all_ones(ASPP(3, 4, RATES))
    with torch.no_grad():
        assert aspp(-torch.ones(1, 3, 8, 8)).abs().max() == 0
