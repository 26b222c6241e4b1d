"""What every network of the catalog promises, as it is and with FBNet at all of its stages."""

import functools
import itertools

import pytest
import torch
from torch import nn

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.labels import CAMVID11
from drive_seg.networks import SegmentationNetwork, SegmentationOutput
from drive_seg.networks.catalog import options
from drive_seg.networks.fbnet import BACKGROUND_CLASSES, assign_blocks
from drive_seg.networks.layers import strip_training_only, training_only_branches

CLASSES = CAMVID11.num_classes
FOREGROUND = CLASSES - BACKGROUND_CLASSES
SIZE = (64, 96)


@pytest.fixture(autouse=True)
def same_images():
    torch.manual_seed(11)


@pytest.fixture(scope="module", autouse=True)
def no_leftovers():
    """All networks together are gigabytes, which the tests of other files have no use for."""
    yield
    _settled_state.cache_clear()


every_network = pytest.mark.parametrize("name", networks.names())
with_and_without_fbnet = pytest.mark.parametrize("balanced", [False, True], ids=["alone", "fbnet"])


def small(name):
    """Options that keep a network small."""
    wish = {"backbone": "resnet50", "width": 64}
    return {key: value for key, value in wish.items() if key in options(name)}


@functools.cache
def stages(name):
    with torch.device("meta"):
        return networks.build(name, CLASSES, **small(name)).stages


def chosen(name, balanced):
    return {**small(name), **({"feature_balance": list(stages(name))} if balanced else {})}


@functools.cache
def _settled_state(name, balanced):
    """Random weights and Batch Norms that have seen images, so that activations stay small and errors as they are.

    Left at 1, a long chain of residual units overflows float16; below 1 (a channel that is nearly always off), a Batch
    Norm enlarges the rounding errors of all that came before it.
    """
    torch.manual_seed(3)
    network = networks.build(name, CLASSES, **chosen(name, balanced)).train()
    norms = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the plain average of what was seen
    with torch.no_grad():
        network(torch.randn(4, 3, *SIZE))
    for norm in norms:
        norm.running_var.clamp_(min=1)
    return network.state_dict()


def make(name, balanced=False) -> SegmentationNetwork:
    """The network in evaluation mode, always with the same weights."""
    with torch.device("meta"):
        network = networks.build(name, CLASSES, **chosen(name, balanced))
    network.load_state_dict({key: value.clone() for key, value in _settled_state(name, balanced).items()}, assign=True)
    return network.eval()


def all_outputs(output):
    """Every tensor of a training result by its name."""
    found = {"logits": output.logits}
    found |= {f"block_presence of {stage}": presence.logits for stage, presence in output.block_presence.items()}
    found |= {f"stage_logits {i}": logits for i, logits in enumerate(output.stage_logits)}
    found |= {f"border_logits {i}": logits for i, logits in enumerate(output.border_logits)}
    found |= {key: getattr(output, key) for key in ("semantic_presence", "aux_logits")}
    return {key: tensor for key, tensor in found.items() if tensor is not None}


@every_network
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (101, 70)])
def test_logits_have_the_input_size(name, size):
    network = make(name)
    with torch.inference_mode():
        assert network(torch.rand(2, 3, *size)).shape == (2, CLASSES, *size)


@every_network
def test_training_returns_named_outputs_and_every_parameter_learns(name):
    network = make(name, balanced=True).train()
    height, width = SIZE
    output = network(torch.randn(2, 3, height, width))
    assert isinstance(output, SegmentationOutput)
    for key, tensor in all_outputs(output).items():
        if key == "semantic_presence":
            assert tensor.shape == (2, CLASSES)
        elif key.startswith("border_logits"):
            assert tensor.shape == (2, 1, height, width)
        elif not key.startswith("block_presence"):
            assert tensor.shape == (2, CLASSES, height, width), key
    # random weights, because a plain sum or square has no gradient through a Batch Norm
    sum((tensor * torch.randn_like(tensor)).mean() for tensor in all_outputs(output).values()).backward()
    still = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


@every_network
@pytest.mark.parametrize("size", [SIZE, (65, 97)])
def test_fbnet_fits_every_stage(name, size):
    """Its head sees blocks of the stage's stride that cover the image, and the label assignment has its shape."""
    network = make(name, balanced=True).train()
    with torch.no_grad():
        presence = network(torch.randn(2, 3, *size)).block_presence
    assert list(presence) == list(stages(name))
    label = torch.randint(0, CLASSES, (2, *size), dtype=torch.uint8)
    for stage, (logits, stride) in presence.items():
        assert stride == stages(name)[stage].stride
        for blocks, length in zip(logits.shape[-2:], size, strict=True):
            padded = -(-length // 32) * 32
            assert blocks * stride >= length and (blocks - 1) * stride < padded, stage
        target, known = assign_blocks(label, range(FOREGROUND), stride, size=logits.shape[-2:])
        assert target.shape == logits.shape and known.shape == (2, *logits.shape[-2:])


@every_network
def test_fbnet_changes_the_logits_and_its_head_does_not_run_in_evaluation(name):
    """Attached to a stage, it is used there: each stage's contributes to the logits."""
    network = make(name, balanced=True)
    for balance in network.feature_balance.values():
        balance.head.register_forward_hook(lambda *_: pytest.fail("the head ran"))
    image = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        logits = network(image)
        for stage in stages(name):
            one_less = make(name, balanced=True)
            del one_less.feature_balance[stage]
            assert not torch.allclose(one_less(image), logits, atol=1e-6), f"{stage} is not balanced"


@every_network
@with_and_without_fbnet
def test_a_stripped_network_gives_the_same_logits_and_no_extras(name, balanced):
    network = make(name, balanced)
    image = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        logits = network(image)
        strip_training_only(network)
        assert torch.equal(network(image), logits)
        assert list(training_only_branches(network)) == []
        assert not any(key.startswith("feature_balance") and ".head." in key for key in network.state_dict())
        assert network.train()(image).block_presence == {}


def export(network):
    batch = torch.export.Dim("batch", min=1, max=8)
    return torch.export.export(network, (torch.randn(2, 3, *SIZE),), dynamic_shapes=({0: batch},))


@every_network
def test_torch_export_takes_it_at_any_batch(name):
    network = strip_training_only(make(name))
    exported = export(network).module()
    for count in (1, 3):
        image = torch.randn(count, 3, *SIZE)
        with torch.no_grad():
            torch.testing.assert_close(exported(image), network(image))


@every_network
def test_onnx_takes_it_at_any_batch(name, assert_onnx_agrees):
    """With FBNet at every stage: the graph holds all that the network alone has."""
    network = strip_training_only(make(name, balanced=True))
    assert_onnx_agrees(network, export(network), SIZE)


@every_network
@with_and_without_fbnet
@pytest.mark.parametrize(
    ("dtype", "tolerance"),  # unrelated logits would differ by 1.1 standard deviations
    [pytest.param(torch.float16, 0.03, id="float16"), pytest.param(torch.bfloat16, 0.1, id="bfloat16")],
)
def test_half_precision_in_channels_last_says_the_same(name, balanced, dtype, tolerance):
    network, image = make(name, balanced), torch.randn(1, 3, *SIZE)
    with torch.inference_mode():
        exact = network(image)
        network = network.to(dtype, memory_format=torch.channels_last)
        logits = network(image.to(dtype, memory_format=torch.channels_last))
    assert logits.dtype == dtype and logits.isfinite().all()
    assert (logits.float() - exact).abs().mean() < tolerance * exact.std()


@every_network
def test_loads_its_own_weights_strictly_and_refuses_others(name):
    state = _settled_state(name, False)
    for other in networks.names():
        with torch.device("meta"):
            network = networks.build(other, CLASSES, **small(other))
        if other == name:
            network.load_state_dict(state, assign=True)
            continue
        with pytest.raises(RuntimeError, match=r"Missing key|size mismatch"):
            network.load_state_dict(state, assign=True)


@every_network
def test_an_unknown_option_or_stage_lists_the_valid_ones(name):
    with pytest.raises(ValueError, match="has no option 'colour'") as raised:
        networks.build(name, CLASSES, colour="red")
    assert all(option in str(raised.value) for option in options(name))
    with torch.device("meta"), pytest.raises(ValueError, match="has no stage 'res9'") as raised:
        networks.build(name, CLASSES, **small(name), feature_balance=["res9"])
    assert ", ".join(stages(name)) in str(raised.value)


@every_network
@with_and_without_fbnet
def test_a_checkpoint_brings_back_the_same_logits_without_training_branches(name, balanced, tmp_path):
    network = make(name, balanced)
    contract = Contract(name, chosen(name, balanced), CAMVID11, InputSpec(SIZE))
    checkpoint.save(tmp_path / "m.safetensors", network, contract)
    loaded = checkpoint.load(tmp_path / "m.safetensors")
    left_out = [branch for branch, _, _ in training_only_branches(network)]
    assert len(left_out) >= (len(stages(name)) if balanced else 0)
    assert not any(key.startswith(f"{branch}.") for key, branch in itertools.product(loaded.tensors, left_out))
    image = torch.randn(1, 3, *SIZE)
    with torch.inference_mode():
        assert torch.equal(loaded.build_network()(image), network(image))
