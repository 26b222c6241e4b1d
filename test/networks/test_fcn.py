"""Dilated FCN: FBNet's baseline."""

import pytest
import torch

from drive_seg.networks.counting import parameters
from drive_seg.networks.fcn import FCN

HEAD = 2048 * 512 * 9 + 2 * 512 + 512 * 19 + 19


@pytest.mark.parametrize(
    ("backbone", "encoder_parameters"),
    # torchvision's 25,557,032 and 44,549,160 less the classifier of 1000 classes
    [("resnet50", 25_557_032 - 2_049_000), ("resnet101", 44_549_160 - 2_049_000)],
)
def test_fbnet_table_1_backbones_have_the_published_parameters(backbone, encoder_parameters):
    with torch.device("meta"):
        network = FCN(19, backbone, stem="plain")
    assert parameters(network.encoder) == encoder_parameters
    assert parameters(network) == encoder_parameters + HEAD


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "wider_resnet38"])
def test_the_head_sees_a_grid_of_stride_8(backbone):
    seen = []
    with torch.device("meta"):
        network = FCN(19, backbone).eval()
        network.head.register_forward_hook(lambda m, xs, y: seen.append((xs[0].shape[1:], y.shape[1:])))
        assert network(torch.empty(1, 3, 129, 193)).shape == (1, 19, 129, 193)
    channels = network.stages["res5"].channels
    assert seen == [((channels, 17, 25), (19, 17, 25))]


@pytest.mark.parametrize(("output_stride", "strides"), [(8, [4, 8, 8, 8]), (16, [4, 8, 16, 16]), (32, [4, 8, 16, 32])])
def test_stages_have_the_stride_they_state(output_stride, strides):
    with torch.device("meta"):
        network = FCN(19, output_stride=output_stride).eval()
        features = network.encoder(torch.empty(1, 3, 128, 192))
    assert list(network.stages) == list(features) == ["res2", "res3", "res4", "res5"]
    assert [stage.stride for stage in network.stages.values()] == strides
    for name, (channels, stride) in network.stages.items():
        assert features[name].shape == (1, channels, 128 // stride, 192 // stride)


def test_auxiliary_head_predicts_from_res4_in_training_only():
    torch.manual_seed(0)
    network = FCN(5, auxiliary=True, output_stride=32).train()
    output = network(torch.randn(2, 3, 65, 97))
    assert output.aux_logits.shape == output.logits.shape == (2, 5, 65, 97)
    output.aux_logits.square().mean().backward()
    assert network.encoder.layer3[0].conv1.weight.grad.abs().sum() > 0
    assert network.encoder.layer4[0].conv1.weight.grad is None
    network.eval().auxiliary.register_forward_hook(lambda *_: pytest.fail("the auxiliary head ran"))
    with torch.no_grad():
        assert network(torch.randn(1, 3, 65, 97)).shape == (1, 5, 65, 97)
    with torch.device("meta"):
        assert FCN(5).train()(torch.empty(2, 3, 64, 64)).aux_logits is None
        assert parameters(FCN(5)) == parameters(network)


@pytest.mark.parametrize(
    ("wrong", "valid"),
    [
        ({"backbone": "vgg16"}, "resnet50, resnet101, wider_resnet38"),
        ({"stem": "thick"}, "plain, deep"),
        ({"output_stride": 4}, "8, 16, 32"),
        ({"backbone": "wider_resnet38", "output_stride": 16}, "output stride of 8"),
    ],
)
def test_wrong_options_are_refused_with_the_valid_ones(wrong, valid):
    with torch.device("meta"), pytest.raises(ValueError, match=valid):
        FCN(19, **wrong)
