"""Each pixel loss against a loop over pixels that is written from its equation alone."""

import math

import numpy as np
import pytest
import torch

from drive_seg.networks import SegmentationOutput
from drive_seg.training import losses
from drive_seg.training.losses import PIXEL_LOSSES, WeightedSum
from drive_seg.training.losses.pixelwise import (
    CrossEntropy,
    FocalLoss,
    HardestShare,
    HardPixels,
    ObjectWeightedFocalLoss,
    WeightedCrossEntropy,
)


def pixels(logits, label, targets):
    """(probability of the label, its id) of every labelled pixel."""
    found = []
    for b in range(label.shape[0]):
        for y in range(label.shape[1]):
            for x in range(label.shape[2]):
                target = int(label[b, y, x])
                if target == 255:
                    continue
                scores = [math.exp(float(v)) for v in logits[b, :, y, x]]
                members = [target] if target < 5 else targets.groups[target - 5]
                found.append((sum(scores[i] for i in members) / sum(scores), target))
    return found


def weights(share):
    omega = [1 / math.log(f + 1.02) for f in share]
    return [w / max(omega) for w in omega]


def mean(values):
    return sum(values) / max(len(values), 1)


def slow_cross_entropy(seen, targets):
    return mean([-math.log(p) for p, _ in seen])


def slow_weighted(seen, targets):
    alpha = weights(targets.frequency)
    return mean([-alpha[t] * math.log(p) for p, t in seen])


def slow_focal(seen, targets):
    alpha = weights(targets.frequency)
    return mean([-alpha[t] * (1 - p) ** 2 * math.log(p) for p, t in seen])


def slow_owfl(seen, targets):
    alpha, share = weights(targets.frequency), targets.frequency
    gamma = [math.floor(math.log10(f / min(share)) + 1e-12) for f in share]
    return mean([-alpha[t] * (1 - p) ** gamma[t] * math.log(p) for p, t in seen])


def slow_hardest_share(seen, targets):
    worst = sorted((-math.log(p) for p, _ in seen), reverse=True)
    return mean(worst[: math.ceil(0.75 * len(worst))])


def slow_hard_pixels(seen, targets):
    worst = sorted((-math.log(p) for p, _ in seen), reverse=True)
    hard = sum(p < 0.7 for p, _ in seen)
    return mean(worst[: max(hard, math.ceil(0.0625 * len(worst)))])


@pytest.mark.parametrize(
    ("name", "slow"),
    [
        ("cross_entropy", slow_cross_entropy),
        ("weighted_cross_entropy", slow_weighted),
        ("focal", slow_focal),
        ("owfl", slow_owfl),
        ("ohem_share", slow_hardest_share),
        ("ohem", slow_hard_pixels),
    ],
)
def test_equals_the_slow_reference_groups_included(name, slow, batch, targets):
    logits, label = batch
    loss = losses.build(name, targets)(SegmentationOutput(logits.requires_grad_()), label)
    assert loss.item() == pytest.approx(slow(pixels(logits, label, targets), targets), rel=1e-5, abs=1e-9)
    loss.backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[(label == 255).unsqueeze(1).expand_as(logits)].any()


@pytest.mark.parametrize("name", sorted(PIXEL_LOSSES))
def test_gradients_are_those_of_the_differences(name, plain):
    torch.manual_seed(1)
    loss = PIXEL_LOSSES[name](plain).double()
    logits = torch.randn(1, 5, 3, 4, dtype=torch.double, requires_grad=True)
    label = torch.randint(0, 5, (1, 3, 4))
    label[0, 0, 0] = 255

    def in_double(x):
        # log_probabilities works in float32: enough for training, too coarse for differences
        log_p = x.log_softmax(1).gather(1, torch.where(label == 255, 0, label).unsqueeze(1)).squeeze(1)
        return loss.reduce(log_p, torch.where(label == 255, 0, label), label != 255)

    assert torch.autograd.gradcheck(in_double, (logits,))


def test_owfl_gradient_follows_equation_5(plain):
    """d/dp of -(1-p)^g log p is g (1-p)^(g-1) log p - (1-p)^g / p."""
    loss = ObjectWeightedFocalLoss(plain)
    logits = torch.tensor([0.3, -0.2, 0.8, 0.1, -1.0]).view(1, 5, 1, 1).requires_grad_()
    loss(logits, torch.tensor([[[1]]])).backward()
    p = logits.detach().flatten().softmax(0)
    alpha, gamma = loss.alpha[1], loss.gamma[1]
    slope = alpha * (gamma * (1 - p[1]) ** (gamma - 1) * p[1].log() - (1 - p[1]) ** gamma / p[1])
    torch.testing.assert_close(logits.grad.flatten(), slope * p[1] * (torch.eye(5)[1] - p))


def test_families_meet_where_their_equations_do(plain):
    torch.manual_seed(2)
    logits, label = torch.randn(2, 5, 6, 7), torch.randint(0, 5, (2, 6, 7))
    plain_loss = torch.nn.functional.cross_entropy(logits, label)
    torch.testing.assert_close(CrossEntropy(plain)(logits, label), plain_loss)
    torch.testing.assert_close(FocalLoss(plain, gamma=0, weighted=False)(logits, label), plain_loss)
    torch.testing.assert_close(FocalLoss(plain, gamma=0)(logits, label), WeightedCrossEntropy(plain)(logits, label))
    torch.testing.assert_close(HardestShare(plain, share=1)(logits, label), plain_loss)
    torch.testing.assert_close(HardPixels(plain, threshold=1, floor=1)(logits, label), plain_loss)
    rarest = torch.full_like(label, 4)  # weight 1, order 0
    torch.testing.assert_close(
        ObjectWeightedFocalLoss(plain)(logits, rarest), torch.nn.functional.cross_entropy(logits, rarest)
    )


def test_ohem_keeps_the_floor_once_all_pixels_are_easy(plain):
    logits = torch.zeros(1, 5, 4, 8)
    logits[:, 0] = torch.linspace(5, 8, 32).view(4, 8)
    label = torch.zeros(1, 4, 8, dtype=torch.uint8)
    log_p = logits.log_softmax(1)[:, 0].flatten()
    assert log_p.exp().min() > 0.7
    torch.testing.assert_close(HardPixels(plain)(logits, label), -log_p[:2].mean())


def test_a_group_is_content_with_any_of_its_classes(targets):
    logits = torch.full((1, 5, 1, 1), -20.0)
    logits[0, 3] = 20
    in_group, other = (torch.full((1, 1, 1), t, dtype=torch.uint8) for t in (6, 5))
    assert CrossEntropy(targets)(logits, in_group) < 1e-6
    assert CrossEntropy(targets)(logits, other) > 30


@pytest.mark.parametrize("name", sorted(PIXEL_LOSSES))
def test_certain_pixels_stay_finite(name, plain):
    logits = torch.zeros(1, 5, 1, 2)
    logits[0, 0, 0, 0], logits[0, 0, 0, 1] = 200, -200
    loss = PIXEL_LOSSES[name](plain)(logits.requires_grad_(), torch.zeros(1, 1, 2, dtype=torch.uint8))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_half_precision_logits_are_summed_in_single(plain):
    logits = torch.randn(1, 5, 64, 64).half()
    label = torch.randint(0, 5, (1, 64, 64))
    loss = CrossEntropy(plain)(logits, label)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits.float(), label))


def test_the_sum_weights_by_name_and_hands_options_on(plain):
    torch.manual_seed(3)
    logits, label = torch.randn(2, 5, 6, 7), torch.randint(0, 5, (2, 6, 7))
    output = SegmentationOutput(logits, torch.randn(2, 5))
    total, terms = WeightedSum({"ohem": {"weight": 2.0, "threshold": 0.5}, "sel": 0.25}, plain)(output, label)
    torch.testing.assert_close(total, 2 * terms["ohem"] + 0.25 * terms["sel"])
    torch.testing.assert_close(terms["ohem"], HardPixels(plain, threshold=0.5)(logits, label))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"owl": 1.0}, "no loss is called 'owl'; there are: auxiliary, .*owfl"),
        ({"focal": {"gamma": "two"}}, "loss 'focal': gamma is 'two', not a number"),
        ({"focal": {"weighted": 3}}, "loss 'focal': weighted is 3, not true or false"),
        ({"focal": -1}, "loss 'focal': its weight is -1, not a number of 0 or more"),
        ({"focal": {"weight": "much"}}, "loss 'focal': its weight is 'much'"),
        ({"focal": {"weight": 1, "gama": 2}}, "'focal' has no option 'gama'; its options are: gamma, weighted"),
        ({"focal": {"gamma": -1}}, "'focal': gamma -1 is below 0"),
        ({"ohem_share": {"share": 0}}, "'ohem_share': share 0 is not above 0"),
        ({"ohem": {"threshold": 7}}, "'ohem': threshold 7 must be above 0 and up to 1"),
        ({"auxiliary": {"kind": "magic"}}, "'auxiliary': kind 'magic' is not one of cross_entropy"),
        ({"bwbce": {"reduction": "max"}}, "'bwbce': reduction 'max' is neither"),
        ({"border": {"width": 4}}, "'border': .*width 4 odd"),
    ],
)
def test_wrong_names_and_values_are_told(wrong, sentence, plain):
    with pytest.raises(ValueError, match=sentence):
        WeightedSum(wrong, plain)


def test_shares_of_never_seen_targets_do_no_harm():
    from drive_seg.labels import CAMVID11
    from drive_seg.training.targets import Targets

    share = np.zeros(11)
    share[:3] = [0.5, 0.3, 0.2]
    logits, label = torch.randn(1, 11, 4, 4), torch.randint(0, 3, (1, 4, 4))
    for name in PIXEL_LOSSES:
        assert PIXEL_LOSSES[name](Targets(CAMVID11, (), share))(logits, label).isfinite()
