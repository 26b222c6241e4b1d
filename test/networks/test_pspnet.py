"""PSPNet: FBNet's Table 2 and PSPNet's own form."""

import pytest
import torch

from drive_seg.networks.counting import multiply_accumulates, parameters
from drive_seg.networks.pspnet import PSPNet

SIZE = (1024, 1024)


def on_meta(feature_balance=(), **options):
    with torch.device("meta"):
        network = PSPNet(19, **options)
        network.attach_feature_balance(feature_balance, 19)
    return network


def test_fbnet_table_2_row_pspnet():
    network = on_meta()
    assert multiply_accumulates(network, SIZE, paper_rules=True) / 1e9 == pytest.approx(540.78, abs=0.005)
    assert multiply_accumulates(network, SIZE) / 1e9 == pytest.approx(538.88, abs=0.005)
    assert parameters(network) / 1e6 == pytest.approx(34.66, abs=0.005)


def test_fbnet_table_2_row_pspnet_with_fbnet():
    network = on_meta(["res4", "res5"])
    assert multiply_accumulates(network, SIZE, paper_rules=True) / 1e9 == pytest.approx(541.54, abs=0.005)


def test_the_canonical_head_costs_what_pspnets_own_does():
    network = on_meta(head="canonical")
    assert multiply_accumulates(network, SIZE) / 1e9 == pytest.approx(736.45, abs=0.005)
    assert multiply_accumulates(network, SIZE, paper_rules=True) / 1e9 == pytest.approx(738.29, abs=0.005)


def test_pyramid_averages_over_1_4_9_and_36_regions():
    network = on_meta()
    assert [branch[0].output_size for branch in network.pyramid.branches] == [1, 2, 3, 6]
    with torch.device("meta"):
        assert network.pyramid(torch.empty(2, 2048, 9, 13)).shape == (2, 4096, 9, 13)
        assert network.head(torch.empty(2, 4096, 9, 13)).shape == (2, 512, 9, 13)


def test_the_pyramid_lets_each_place_see_the_whole_image():
    pyramid = PSPNet(5, output_stride=32).eval().pyramid
    x = torch.rand(1, 2048, 9, 13, requires_grad=True)
    pyramid(x)[0, :, 0, 0].sum().backward()
    assert (x.grad[0].abs().sum(dim=0) > 0).all()
    # the global average alone reaches the far corner: everywhere there it is one of 9 * 13 equal parts
    assert x.grad[0, :, -4:, -4:].amax(dim=(1, 2)).allclose(x.grad[0, :, -4:, -4:].amin(dim=(1, 2)))


def test_auxiliary_head_predicts_from_res4_in_training_only():
    torch.manual_seed(0)
    network = PSPNet(5, output_stride=32, auxiliary=True).train()
    output = network(torch.randn(2, 3, 65, 97))
    assert output.aux_logits.shape == output.logits.shape == (2, 5, 65, 97)
    output.aux_logits.square().mean().backward()
    assert network.encoder.layer3[0].conv1.weight.grad.abs().sum() > 0
    assert network.encoder.layer4[0].conv1.weight.grad is None
    network.eval().auxiliary.register_forward_hook(lambda *_: pytest.fail("the auxiliary head ran"))
    with torch.no_grad():
        assert network(torch.randn(1, 3, 65, 97)).shape == (1, 5, 65, 97)


def test_table_2_counts_no_auxiliary_head():
    network, with_auxiliary = on_meta(), on_meta(auxiliary=True)
    assert parameters(with_auxiliary) == parameters(network)
    for paper_rules in (False, True):
        assert multiply_accumulates(with_auxiliary, (128, 128), paper_rules) == multiply_accumulates(
            network, (128, 128), paper_rules
        )


def test_an_unknown_head_lists_the_two():
    with pytest.raises(ValueError, match="head 'tiny' is not one of light, canonical"):
        PSPNet(19, head="tiny")
