"""WiderResNet-38. The full one has over 100 M parameters: it is built on "meta"; a narrow one computes."""

import pytest
import torch
from torch import nn

from drive_seg.networks import wider_resnet
from drive_seg.networks.wider_resnet import IdentityBlock, WiderResNet38


@pytest.fixture
def full():
    with torch.device("meta"):
        return WiderResNet38().eval()


@pytest.fixture
def narrow(monkeypatch):
    """The same network with a sixteenth of the channels."""
    channels = tuple(tuple(c // 16 for c in group) for group in wider_resnet.CHANNELS)
    monkeypatch.setattr(wider_resnet, "CHANNELS", channels)
    torch.manual_seed(0)
    return WiderResNet38().eval()


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (127, 70)])
def test_stages_have_the_channels_and_strides_they_state(full, size):
    with torch.device("meta"):
        features = full(torch.empty(2, 3, *size))
    assert list(features) == list(full.stages) == ["res2", "res3", "res4", "res5"]
    assert [tuple(stage) for stage in full.stages.values()] == [(256, 4), (512, 8), (1024, 8), (4096, 8)]
    for name, (channels, stride) in full.stages.items():
        assert features[name].shape == (2, channels, *(-(-length // stride) for length in size))


def test_thirty_eight_layers_lie_on_the_longest_way():
    """Counting as the paper does: the weights from the image to the classifier, which is the last one."""
    with torch.device("meta"):
        network = WiderResNet38()
    convolutions = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)]
    assert len([name for name in convolutions if "proj_conv" not in name]) + 1 == 38


def test_last_groups_dilate_and_drop_instead_of_striding(full):
    def settings(mod):
        convolutions = [part for part in mod.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)]
        dropout = {part.p for part in mod.modules() if isinstance(part, nn.Dropout)}
        return [(part.stride[0], part.dilation[0]) for part in convolutions], dropout

    assert settings(full.mod4) == ([(2, 1)] + [(1, 1)] * 11, set())
    assert settings(full.mod5) == ([(1, 2)] * 6, set())
    assert settings(full.mod6) == ([(1, 4)], {0.3})
    assert settings(full.mod7) == ([(1, 4)], {0.5})


def test_dropout_stands_before_the_last_convolution(full):
    assert list(dict(full.mod7.block1.convs.named_children())) == [
        *("conv1", "bn2", "relu2", "conv2", "bn3", "relu3", "dropout", "conv3")
    ]


def test_blocks_pass_negative_values_on():
    """Identity shortcut: where the convolutions give zero the block changes nothing, not even by a ReLU."""
    block = IdentityBlock(4, (4, 4), stride=1, dilation=1, dropout=0.0)
    nn.init.zeros_(block.convs.conv2.weight)
    x = torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        assert torch.equal(block.eval()(x), x)


def test_shortcut_of_another_shape_is_a_convolution_of_the_activated_input():
    block = IdentityBlock(2, (4, 4), stride=2, dilation=1, dropout=0.0).eval()
    nn.init.zeros_(block.convs.conv2.weight)
    nn.init.ones_(block.proj_conv.weight)
    x = torch.randn(1, 2, 6, 6)
    expected = x.relu().sum(dim=1, keepdim=True)[..., ::2, ::2].expand(1, 4, 3, 3)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_what_balance_returns_is_used_from_there_on(narrow):
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain = narrow(image)
        for changed in narrow.stages:
            features = narrow(image, lambda stage, x, changed=changed: x * 2 if stage == changed else x)
            first = list(features).index(changed)
            assert [not torch.equal(features[s], plain[s]) for s in features] == [i >= first for i in range(4)]


PUBLISHED_SPELLINGS = {
    "plain": lambda name: name,
    "parallel": lambda name: f"module.{name}",
    "norms in sequences": lambda name: (
        ".".join([*parts[:-1], "0", parts[-1]]) if (parts := name.split("."))[-2].startswith("bn") else name
    ),
}


@pytest.mark.parametrize("spelling", PUBLISHED_SPELLINGS)
def test_pretrained_weights_load_in_every_published_spelling_without_their_classifier(narrow, spelling):
    state = {
        PUBLISHED_SPELLINGS[spelling](name): torch.rand_like(tensor.float()).to(tensor.dtype)
        for name, tensor in narrow.state_dict().items()
        if not name.endswith("num_batches_tracked")  # weights of that time have none
    }
    prefix = "module." if spelling == "parallel" else ""
    narrow.load_pretrained({**state, f"{prefix}classifier.fc.weight": torch.rand(1000, 256)})
    loaded = narrow.state_dict()
    for name, tensor in loaded.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, state[PUBLISHED_SPELLINGS[spelling](name)]), name


def test_names_are_those_of_the_published_weights(full):
    names = set(full.state_dict())
    assert {
        "mod1.conv1.weight",
        "mod2.block1.bn1.running_mean",
        "mod2.block1.convs.conv1.weight",
        "mod2.block1.convs.bn2.weight",
        "mod2.block1.proj_conv.weight",
        "mod4.block6.convs.conv2.weight",
        "mod7.block1.convs.conv3.weight",
        "bn_out.bias",
    } <= names
    assert "mod2.block2.proj_conv.weight" not in names and not any(name.endswith("conv1.bias") for name in names)


@pytest.mark.parametrize("harm", ["missing", "left over", "misshapen"])
def test_other_weights_are_refused(full, harm):
    state = dict(full.state_dict())
    if harm == "missing":
        del state["bn_out.weight"]
    elif harm == "left over":
        state["mod8.block1.bn1.weight"] = torch.empty(3)
    else:
        state["mod1.conv1.weight"] = torch.empty(64, 4, 3, 3)
    name = {"missing": "bn_out.weight", "left over": "mod8.block1.bn1.weight", "misshapen": "mod1.conv1.weight"}[harm]
    with pytest.raises(ValueError, match=f"not those of WiderResNet-38: .*{name}"):
        full.load_pretrained(state)
