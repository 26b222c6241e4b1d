"""DeepLabv3+: FBNet's Table 2, and its parts."""

import pytest
import torch
from torch import nn

from drive_seg.networks.counting import multiply_accumulates, parameters
from drive_seg.networks.deeplabv3plus import DeepLabV3Plus

SIZE = (1024, 1024)


def on_meta(feature_balance=(), **options):
    with torch.device("meta"):
        network = DeepLabV3Plus(19, **options)
        network.attach_feature_balance(feature_balance, 19)
    return network


def test_fbnet_table_2_row_deeplabv3plus():
    network = on_meta()
    assert multiply_accumulates(network, SIZE, paper_rules=True) / 1e9 == pytest.approx(760.44, abs=0.005)
    assert multiply_accumulates(network, SIZE) / 1e9 == pytest.approx(758.57, abs=0.005)
    assert parameters(network) / 1e6 == pytest.approx(40.475, abs=0.0005)


@pytest.mark.parametrize(
    ("stages", "low", "high"),
    [(["res5"], 0.5077, 0.5078), (["res4", "res5"], 0.7602, 0.76075)],
    ids=["res5", "res4 and res5: the table's + 0.76"],
)
def test_fbnet_table_2_what_fbnet_adds(stages, low, high):
    added = multiply_accumulates(on_meta(stages), SIZE, True) - multiply_accumulates(on_meta(), SIZE, True)
    assert low <= added / 1e9 <= high


def test_fbnet_table_2_row_deeplabv3plus_with_fbnet():
    network = on_meta(["res4", "res5"])
    assert multiply_accumulates(network, SIZE, paper_rules=True) / 1e9 == pytest.approx(761.20, abs=0.005)


def test_fbnet_at_inference_adds_one_pass_and_one_layer():
    network = on_meta(["res5"])
    added = multiply_accumulates(network, SIZE) - multiply_accumulates(on_meta(), SIZE)
    assert added == 2048 * 128**2 + 2048**2  # 0.038 G
    assert parameters(network) - parameters(on_meta()) == 2048 + 1 + 2048**2 + 2048


@pytest.mark.parametrize(
    ("options", "plain", "by_paper_rules"),
    [({"stem": "plain"}, 730.25, 731.95), ({"output_stride": 16}, 305.18, 306.24)],
    ids=["plain stem", "output stride 16"],
)
def test_other_stems_and_strides_cost_as_much(options, plain, by_paper_rules):
    network = on_meta(**options)
    assert multiply_accumulates(network, SIZE) / 1e9 == pytest.approx(plain, abs=0.005)
    assert multiply_accumulates(network, SIZE, paper_rules=True) / 1e9 == pytest.approx(by_paper_rules, abs=0.005)


def test_on_wider_resnet_38_it_has_the_published_137_1_million_parameters():
    assert parameters(on_meta(backbone="wider_resnet38")) / 1e6 == pytest.approx(137.1, abs=0.05)


@pytest.mark.parametrize(("output_stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])])
def test_aspp_reaches_equally_far_at_every_output_stride(output_stride, rates):
    aspp = on_meta(output_stride=output_stride).aspp
    dilations = [
        part.dilation[0] for part in aspp.modules() if isinstance(part, nn.Conv2d) and part.kernel_size[0] == 3
    ]
    assert dilations == rates
    assert {rate * output_stride for rate in dilations} == {96, 192, 288}


def test_decoder_sees_48_channels_of_res2_beside_256_of_aspp_at_stride_4():
    network, seen = on_meta().eval(), []
    network.decoder.register_forward_hook(lambda m, xs, y: seen.append((xs[0].shape, y.shape)))
    with torch.device("meta"):
        assert network(torch.empty(2, 3, 129, 193)).shape == (2, 19, 129, 193)
    assert seen == [((2, 304, 33, 49), (2, 256, 33, 49))]


def test_both_paths_into_the_decoder_matter():
    torch.manual_seed(0)
    network = DeepLabV3Plus(5, output_stride=32).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        logits = network(image)
        for part in (network.reduce_low, network.reduce):
            weight = part.weight.clone()
            part.weight.zero_()
            assert not torch.allclose(network(image), logits)
            part.weight.copy_(weight)
        assert torch.equal(network(image), logits)
