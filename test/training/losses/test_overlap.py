"""The Lovász-Softmax loss against its definition: sort the errors, weigh each by how much the Jaccard loss grows."""

import math

import pytest
import torch

from drive_seg.networks import SegmentationOutput
from drive_seg.training import losses
from drive_seg.training.losses.overlap import LovaszSoftmax


def jaccard_loss(wrong, inside):
    """1 - IoU of a class with the pixels of ``inside``, if the pixels of ``wrong`` are predicted wrongly."""
    kept = inside - wrong
    union = inside | wrong
    return 1 - len(kept) / len(union) if union else 0.0


def slow_lovasz(logits, label, targets):
    sets = [{i} for i in range(5)] + [set(group) for group in targets.groups]
    values = []
    for row in sets:
        errors, inside = [], set()
        for b in range(label.shape[0]):
            for y in range(label.shape[1]):
                for x in range(label.shape[2]):
                    if label[b, y, x] == 255:
                        continue
                    there = sets[int(label[b, y, x])]
                    if not there <= row and there & row:
                        continue  # may be of the row or not
                    scores = [math.exp(float(v)) for v in logits[b, :, y, x]]
                    p = sum(scores[i] for i in row) / sum(scores)
                    if there <= row:
                        inside.add((b, y, x))
                    errors.append((1 - p if there <= row else p, (b, y, x)))
        if not inside:
            continue
        value, before, wrong = 0.0, 0.0, set()
        for error, place in sorted(errors, reverse=True):
            wrong.add(place)
            after = jaccard_loss(wrong, inside)
            value, before = value + error * (after - before), after
        values.append(value)
    return sum(values) / max(len(values), 1)


def test_equals_the_definition_to_the_width_of_a_bin(batch, targets):
    logits, label = batch
    exact = slow_lovasz(logits, label, targets)
    loss = losses.build("lovasz", targets)(SegmentationOutput(logits.requires_grad_()), label)
    assert loss.item() == pytest.approx(exact, abs=1 / 1024)
    fine = losses.build("lovasz", targets, bins=1_000_000)(SegmentationOutput(logits), label)
    assert fine.item() == pytest.approx(exact, rel=1e-5, abs=1e-9)
    loss.backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[(label == 255).unsqueeze(1).expand_as(logits)].any()


def test_gradient_is_the_weight_of_each_pixel_s_error(plain):
    """Two pixels of one class, one of another, no ties: the weights by hand."""
    logits = torch.tensor([[2.0, 0.0], [0.5, 0.0], [1.5, 0.0]]).T.view(1, 2, 1, 3)
    logits = torch.cat((logits, torch.full((1, 3, 1, 3), -30.0)), 1).double().requires_grad_()
    label = torch.tensor([[[0, 0, 1]]])
    p = logits.detach().softmax(1)[0, :, 0]  # of class 0: 0.88, 0.62, 0.82
    loss = LovaszSoftmax(plain)(SegmentationOutput(logits), label)
    # class 0, from the largest error on: pixel 2 (union grows to 3), pixel 1, pixel 0
    of_0 = (p[0, 2] * (1 - 2 / 3) + (1 - p[0, 1]) * (1 / 3) + (1 - p[0, 0]) * (1 / 3)).item()
    # class 1: pixel 2 is all of it, then nothing is left to lose
    of_1 = (1 - p[1, 2]).item()
    assert loss.item() == pytest.approx((of_0 + of_1) / 2, rel=1e-6)
    (slope,) = torch.autograd.grad(loss, logits)
    one = p[0] * (1 - p[0])  # d p0 / d logit 0 = - d p1 / d logit 0
    expected = torch.tensor([-one[0] / 3, -one[1] / 3, one[2] / 3 + one[2]]) / 2
    torch.testing.assert_close(slope[0, 0, 0], expected, rtol=1e-5, atol=0)


def test_small_class_counts_as_much_as_a_large_one(plain):
    """Swapping which class is small changes nothing: each is judged by its own overlap."""
    label = torch.zeros(1, 10, 10, dtype=torch.long)
    label[0, 0, 0] = 1
    certain = 20.0 * torch.nn.functional.one_hot(label, 5).permute(0, 3, 1, 2)
    right = LovaszSoftmax(plain)(SegmentationOutput(certain), label)
    certain[0, :, 0, 0] = certain[0, :, 5, 5]
    missed = LovaszSoftmax(plain)(SegmentationOutput(certain), label)
    assert right.item() < 1e-6 and missed.item() == pytest.approx((1 / 100 + 1) / 2, abs=1e-5)


def test_it_learns_a_small_class_that_cross_entropy_gives_up(plain):
    """One free logit a class for 97 pixels of one class and 3 of another that look the same: no weights can tell them
    apart, and the loss's slope still pulls towards the rare one where cross-entropy's pulls away."""
    label = torch.zeros(1, 1, 100, dtype=torch.long)
    label[..., :3] = 1
    slopes = {}
    for name in ("lovasz", "cross_entropy"):
        logits = torch.zeros(5, requires_grad=True)
        image = logits.view(1, 5, 1, 1).expand(1, 5, 1, 100)
        losses.build(name, plain)(SegmentationOutput(image), label).backward()
        slopes[name] = logits.grad[1] / logits.grad[0]
    assert slopes["lovasz"] > slopes["cross_entropy"]


def test_half_precision_logits_and_bad_options(plain):
    logits = torch.randn(1, 5, 64, 64).half()
    label = torch.randint(0, 5, (1, 64, 64))
    loss = LovaszSoftmax(plain)
    assert loss(SegmentationOutput(logits), label).dtype == torch.float32
    torch.testing.assert_close(loss(SegmentationOutput(logits), label), loss(SegmentationOutput(logits.float()), label))
    with pytest.raises(ValueError, match="'lovasz': bins 1 is below 2"):
        losses.build("lovasz", plain, bins=1)
