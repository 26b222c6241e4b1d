"""DFN's border loss and borders, and losses on further logits."""

import math

import cv2
import numpy as np
import pytest
import torch

from drive_seg.networks import BlockPresence, SegmentationOutput
from drive_seg.training import losses
from drive_seg.training.losses.border import BorderFocalLoss, borders


def slow_border_loss(logits, label, gamma=2.0, alpha=0.25):
    terms = []
    for b in range(len(label)):
        known, border = borders(label[b].numpy())
        for y, x in np.argwhere(known):
            p = 1 / (1 + math.exp(-float(logits[b, 0, y, x].detach())))
            if border[y, x]:
                terms.append(-alpha * (1 - p) ** gamma * math.log(p))
            else:
                terms.append(-(1 - alpha) * p**gamma * math.log(1 - p))
    return sum(terms) / max(len(terms), 1)


def streets(height=40, width=48):
    label = np.zeros((2, height, width), np.uint8)
    label[0, :, 20:] = 1
    label[0, 25:, :] = 3
    label[1, 10:20, 5:40] = 4
    label[1, :4] = 255
    return torch.from_numpy(label)


def test_border_loss_equals_the_slow_reference(plain):
    label = streets()
    stages = [torch.randn(2, 1, 40, 48, generator=torch.Generator().manual_seed(i)).requires_grad_() for i in range(2)]
    loss = BorderFocalLoss(plain)(SegmentationOutput(torch.zeros(1), border_logits=tuple(stages)), label)
    assert loss.item() == pytest.approx(sum(slow_border_loss(s, label) for s in stages), rel=1e-5)


@pytest.mark.parametrize("content", ["random", "one class", "partly void"])
def test_border_loss_of_any_label_equals_the_slow_reference(plain, content):
    rng = np.random.default_rng(3)
    label = np.kron(rng.integers(0, 5, (2, 4, 5)), np.ones((9, 8))).astype(np.uint8)
    if content == "one class":
        label[:] = 3
    if content == "partly void":
        label[0, :, 20:] = 255
    label = torch.from_numpy(label)
    logits = torch.randn(2, 1, 36, 40, generator=torch.Generator().manual_seed(5)).requires_grad_()
    loss = BorderFocalLoss(plain)(SegmentationOutput(torch.zeros(1), border_logits=(logits,)), label)
    loss.backward()
    assert loss.item() == pytest.approx(slow_border_loss(logits, label), rel=1e-5)
    if content == "one class":
        assert not any(borders(one.numpy())[1].any() for one in label) and (logits.grad > 0).all()


def test_border_loss_pulls_towards_the_label_on_both_sides(plain):
    label = streets()
    for value in (-4.0, 0.0, 4.0):
        logits = torch.full((2, 1, 40, 48), value, requires_grad=True)
        BorderFocalLoss(plain)(SegmentationOutput(torch.zeros(1), border_logits=(logits,)), label).backward()
        for b in range(2):
            known, border = borders(label[b].numpy())
            grad = logits.grad[b, 0].numpy()
            assert (grad[border] < 0).all() and (grad[known & ~border] > 0).all() and not grad[~known].any()


def test_border_loss_of_void_alone_is_zero(plain):
    logits = torch.randn(1, 1, 20, 20, requires_grad=True)
    label = torch.full((1, 20, 20), 255, dtype=torch.uint8)
    loss = BorderFocalLoss(plain)(SegmentationOutput(torch.zeros(1), border_logits=(logits,)), label)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


@pytest.mark.parametrize("pair", [(0, 1), (3, 4), (0, 18), (17, 18), (9, 10)])
def test_borders_lie_where_ids_change_whatever_the_ids(pair):
    label = np.full((40, 60), pair[0], np.uint8)
    label[12:30, 20:45] = pair[1]
    changes = np.zeros(label.shape, np.uint8)
    changes[:, 1:] |= label[:, 1:] != label[:, :-1]
    changes[1:] |= label[1:] != label[:-1]
    known, border = borders(label)
    assert known.all()
    # Canny's line lies within a pixel or two of the change, and is widened by 3
    assert not (border & (cv2.dilate(changes, np.ones((13, 13), np.uint8)) == 0)).any()
    assert border[changes > 0].mean() > 0.95


def test_the_edge_of_void_is_no_border():
    label = np.full((40, 60), 5, np.uint8)
    label[:, 30:] = 255
    known, border = borders(label)
    assert not border.any()
    assert known[:, :24].all() and not known[:, 24:].any()


def test_auxiliary_logits_count_like_main_ones(plain):
    torch.manual_seed(0)
    logits, further = torch.randn(2, 5, 6, 7), torch.randn(3, 2, 5, 6, 7)
    label = torch.randint(0, 5, (2, 6, 7))
    reference = torch.nn.functional.cross_entropy
    output = SegmentationOutput(logits, aux_logits=further[0], stage_logits=tuple(further[1:]))
    torch.testing.assert_close(losses.build("auxiliary", plain)(output, label), reference(further[0], label))
    both = reference(further[1], label) + reference(further[2], label)
    torch.testing.assert_close(losses.build("deep_supervision", plain)(output, label), both)
    hard = losses.build("auxiliary", plain, kind="ohem", threshold=0.3)(output, label)
    main = losses.build("ohem", plain, threshold=0.3)(SegmentationOutput(further[0]), label)
    torch.testing.assert_close(hard, main)


@pytest.mark.parametrize("name", ["auxiliary", "deep_supervision", "pointwise_stages"])
def test_further_logits_are_judged_as_the_main_ones_whatever_the_labels(name, targets, batch):
    """With void, groups, one class or nothing at all; value and gradient are those of the tested cross-entropy."""
    logits, label = batch
    main, further = (logits.clone().requires_grad_() for _ in range(2))
    reference = losses.build("cross_entropy", targets)(SegmentationOutput(main), label)
    reference.backward()
    output = SegmentationOutput(
        torch.zeros_like(logits),
        aux_logits=further,
        stage_logits=(further,),
        block_presence={"stage": BlockPresence(further, 1)},
    )
    loss = losses.build(name, targets)(output, label)
    loss.backward()
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(further.grad, main.grad)
    if (label == 255).all():
        assert loss.item() == 0 and not further.grad.any()


def test_pointwise_stages_judge_the_block_head_pixel_by_pixel(plain):
    torch.manual_seed(0)
    head, label = torch.randn(2, 5, 3, 4), torch.randint(0, 5, (2, 12, 16))
    output = SegmentationOutput(torch.zeros(2, 5, 12, 16), block_presence={"x": BlockPresence(head, 4)})
    upsampled = torch.nn.functional.interpolate(head, (12, 16), mode="bilinear")
    expected = torch.nn.functional.cross_entropy(upsampled, label)
    torch.testing.assert_close(losses.build("pointwise_stages", plain)(output, label), expected)


@pytest.mark.parametrize("name", ["auxiliary", "deep_supervision", "pointwise_stages", "border"])
def test_what_a_network_lacks_is_named(name, plain):
    bare = SegmentationOutput(torch.zeros(1, 5, 2, 2))
    with pytest.raises(ValueError, match="needs a network with"):
        losses.build(name, plain)(bare, torch.zeros(1, 2, 2, dtype=torch.uint8))
