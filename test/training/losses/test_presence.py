"""SEL and the block-wise loss against loops, groups and void included."""

import math

import pytest
import torch

from drive_seg import networks
from drive_seg.networks import BlockPresence, SegmentationOutput
from drive_seg.training.losses.presence import BlockPresenceLoss, SemanticEncodingLoss, presence


def log_sigmoid(value):
    return -math.log(1 + math.exp(-value))


def term(logit, present):
    return -(log_sigmoid(logit) if present else log_sigmoid(-logit))


def in_doubt(i, ids, targets):
    """Only a group that holds class i was seen."""
    return i not in ids and any(5 + g in ids and i in members for g, members in enumerate(targets.groups))


def slow_sel(logits, label, targets):
    per_image = []
    for b in range(len(label)):
        ids = set(label[b].unique().tolist()) - {255}
        if ids:
            terms = [term(float(logits[b, i]), i in ids) for i in range(5) if not in_doubt(i, ids, targets)]
            per_image.append(sum(terms) / max(len(terms), 1))
    return sum(per_image) / max(len(per_image), 1)


def slow_bwbce(logits, label, stride, foreground, targets):
    terms = []
    for b in range(len(label)):
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                block = label[b, y * stride : (y + 1) * stride, x * stride : (x + 1) * stride]
                ids = set(block.unique().tolist()) - {255}
                if not ids:
                    continue
                for channel, i in enumerate(foreground):
                    if not in_doubt(i, ids, targets):
                        terms.append(term(float(logits[b, channel, y, x]), i in ids))
    return terms


def test_presence_is_histogram_above_zero():
    label = torch.tensor([[[0, 0, 255], [2, 255, 2]], [[255, 255, 255], [255, 255, 255]]], dtype=torch.uint8)
    assert presence(label, 4).tolist() == [[True, False, True, False], [False] * 4]


def test_sel_equals_the_slow_reference(batch, targets):
    _, label = batch
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = SemanticEncodingLoss(targets)(SegmentationOutput(torch.zeros(2, 5, 6, 7), logits), label)
    assert loss.item() == pytest.approx(slow_sel(logits, label, targets), rel=1e-6, abs=1e-9)
    loss.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_bwbce_equals_the_slow_reference(batch, targets, stride, reduction):
    _, label = batch
    size = (2, 3, -(-6 // stride), -(-7 // stride))
    generator = torch.Generator().manual_seed(2)
    stages = {name: torch.randn(size, generator=generator).requires_grad_() for name in ("a", "b")}
    output = SegmentationOutput(
        torch.zeros(2, 5, 6, 7), block_presence={k: BlockPresence(v, stride) for k, v in stages.items()}
    )
    loss = BlockPresenceLoss(targets, reduction)
    assert loss.foreground == (2, 3, 4)
    value = loss(output, label)
    expected = 0.0
    for logits in stages.values():
        terms = slow_bwbce(logits, label, stride, (2, 3, 4), targets)
        expected += sum(terms) / (max(len(terms), 1) if reduction == "mean" else 2)
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)
    value.backward()
    assert all(logits.grad.isfinite().all() for logits in stages.values())


def test_bwbce_pulls_present_classes_up_and_absent_ones_down(plain):
    logits = torch.zeros(1, 3, 1, 2, requires_grad=True)
    label = torch.tensor([[[0, 3, 0, 0], [0, 0, 0, 2]]], dtype=torch.uint8)
    output = SegmentationOutput(torch.zeros(1, 5, 2, 4), block_presence={"x": BlockPresence(logits, 2)})
    BlockPresenceLoss(plain)(output, label).backward()
    # channels are car, person, pole; the person fills one pixel of the left block, the car one of the right
    assert torch.equal(logits.grad[0, :, 0].sign(), torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]))
    assert logits.grad.abs().unique().numel() == 1  # one pixel counts as much as a whole block


@pytest.mark.parametrize("size", [(64, 96), (65, 97)])
def test_bwbce_takes_what_the_networks_give(size, plain):
    network = networks.build("dsnet", 5, feature_balance=["stage1", "stage3"], foreground_classes=3).train()
    label = torch.randint(0, 5, (2, *size))
    loss = BlockPresenceLoss(plain)(network(torch.randn(2, 3, *size)), label)
    loss.backward()
    assert network.feature_balance["stage1"].head.weight.grad.abs().sum() > 0


def test_what_a_network_lacks_is_named(plain):
    bare, label = SegmentationOutput(torch.zeros(1, 5, 2, 2)), torch.zeros(1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="semantic_encoding: true"):
        SemanticEncodingLoss(plain)(bare, label)
    with pytest.raises(ValueError, match=r"feature_balance: \[a stage\]"):
        BlockPresenceLoss(plain)(bare, label)
    wide = bare._replace(block_presence={"x": BlockPresence(torch.zeros(1, 9, 1, 1), 2)})
    with pytest.raises(ValueError, match="tells 9 classes apart, but the label map has 3 of foreground"):
        BlockPresenceLoss(plain)(wide, label)
