"""OWFL and SEL against slow, obvious references."""

import math

import numpy as np
import pytest
import torch

from drive_seg.networks import SegmentationOutput
from drive_seg.training.losses import ObjectWeightedFocalLoss, SemanticEncodingLoss, WeightedSum, presence

SHARE = np.array([0.6, 0.3, 0.09, 0.0099, 0.0001])


def slow_owfl(logits, label):
    """Pixel by pixel, from the paper's equations alone."""
    omega = [1 / math.log(f + 1.02) for f in SHARE]
    alpha = [w / max(omega) for w in omega]
    gamma = [math.floor(math.log10(f / min(SHARE))) for f in SHARE]
    total, count = 0.0, 0
    for b in range(label.shape[0]):
        for y in range(label.shape[1]):
            for x in range(label.shape[2]):
                c = int(label[b, y, x])
                if c == 255:
                    continue
                scores = [math.exp(float(v)) for v in logits[b, :, y, x]]
                p = scores[c] / sum(scores)
                total += -alpha[c] * (1 - p) ** gamma[c] * math.log(p)
                count += 1
    return total / max(count, 1)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(2, 5, 6, 7, generator=generator)
    label = torch.randint(0, 5, (2, 6, 7), generator=generator).to(torch.uint8)
    label[0, :2] = 255
    return logits, label


def test_owfl_equals_the_slow_reference(batch):
    logits, label = batch
    loss = ObjectWeightedFocalLoss(SHARE)(SegmentationOutput(logits), label)
    assert loss.item() == pytest.approx(slow_owfl(logits, label), rel=1e-5)


def test_owfl_gradient_follows_equation_5():
    """d/dp of -(1-p)^g log p is g (1-p)^(g-1) log p - (1-p)^g / p."""
    loss = ObjectWeightedFocalLoss(SHARE)
    logits = torch.tensor([0.3, -0.2, 0.8, 0.1, -1.0]).view(1, 5, 1, 1).requires_grad_()
    loss(SegmentationOutput(logits), torch.tensor([[[1]]])).backward()
    p = logits.detach().flatten().softmax(0)
    alpha, gamma = loss.alpha[1], loss.gamma[1]
    slope = alpha * (gamma * (1 - p[1]) ** (gamma - 1) * p[1].log() - (1 - p[1]) ** gamma / p[1])
    expected = slope * p[1] * (torch.eye(5)[1] - p)
    torch.testing.assert_close(logits.grad.flatten(), expected)


def test_owfl_is_weighted_cross_entropy_for_the_rarest_group(batch):
    logits, _ = batch
    label = torch.full((2, 6, 7), 4)
    loss = ObjectWeightedFocalLoss(SHARE)(SegmentationOutput(logits), label)
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, label).item(), rel=1e-5)


def test_void_pixels_change_nothing(batch):
    logits, label = batch
    loss = ObjectWeightedFocalLoss(SHARE)
    before = loss(SegmentationOutput(logits), label)
    disturbed = logits.clone()
    disturbed[0, :, :2] += 50
    assert torch.equal(loss(SegmentationOutput(disturbed), label), before)


def test_an_all_void_batch_gives_zero_loss_and_zero_gradient():
    logits = torch.randn(2, 5, 4, 4, requires_grad=True)
    presence_logits = torch.randn(2, 5, requires_grad=True)
    label = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    output = SegmentationOutput(logits, presence_logits)
    total, _ = WeightedSum({"owfl": 1.0, "sel": 1.0}, SHARE)(output, label)
    total.backward()
    assert total.item() == 0 and not logits.grad.any() and not presence_logits.grad.any()


def test_certain_pixels_stay_finite():
    logits = torch.zeros(1, 5, 1, 2)
    logits[0, 0, 0, 0], logits[0, 0, 0, 1] = 200, -200
    logits.requires_grad_()
    loss = ObjectWeightedFocalLoss(SHARE)(SegmentationOutput(logits), torch.zeros(1, 1, 2, dtype=torch.uint8))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_presence_is_histogram_above_zero():
    label = torch.tensor([[[0, 0, 255], [2, 255, 2]], [[255, 255, 255], [255, 255, 255]]], dtype=torch.uint8)
    assert presence(label, 4).tolist() == [[True, False, True, False], [False] * 4]


def test_sel_equals_the_slow_reference():
    logits = torch.tensor([[0.5, -1.0, 2.0], [1.0, 1.0, 1.0]])
    label = torch.tensor([[[0, 2]], [[255, 255]]], dtype=torch.uint8)  # the second image has no label: left out
    sigmoid = [1 / (1 + math.exp(-s)) for s in logits[0].tolist()]
    expected = -(math.log(sigmoid[0]) + math.log(1 - sigmoid[1]) + math.log(sigmoid[2])) / 3
    loss = SemanticEncodingLoss()(SegmentationOutput(torch.zeros(2, 3, 1, 2), logits), label)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_sel_needs_its_branch():
    with pytest.raises(ValueError, match="semantic_encoding: true"):
        SemanticEncodingLoss()(SegmentationOutput(torch.zeros(1, 3, 1, 1)), torch.zeros(1, 1, 1))


def test_the_sum_weights_by_name(batch):
    logits, label = batch
    output = SegmentationOutput(logits, torch.randn(2, 5))
    total, terms = WeightedSum({"owfl": 2.0, "sel": 0.25}, SHARE)(output, label)
    assert set(terms) == {"owfl", "sel"}
    torch.testing.assert_close(total, 2 * terms["owfl"] + 0.25 * terms["sel"])
    with pytest.raises(ValueError, match="'owl'; there are: owfl, sel"):
        WeightedSum({"owl": 1.0}, SHARE)
