"""Distillation against loops written from its formula, and what it does to a student."""

import math

import numpy as np
import pytest
import torch

from drive_seg.networks import SegmentationOutput
from drive_seg.training import losses
from drive_seg.training.losses.distillation import Distillation, Lesson


def softened(logits, temperature):
    scores = [math.exp(float(v) / temperature) for v in logits]
    return [s / sum(scores) for s in scores]


def slow(student, label, teachers, temperature):
    """Pixel by pixel: T^2 sum_c p_c log(p_c / q_c), p the mean of the teachers' probabilities."""
    terms = []
    for b, y, x in np.ndindex(*label.shape):
        if label[b, y, x] == 255:
            continue
        q = softened(student[b, :, y, x], temperature)
        each = [softened(t[b, :, y, x], temperature) for t in teachers]
        p = [sum(one[c] for one in each) / len(each) for c in range(len(q))]
        terms.append(temperature**2 * sum(pc * math.log(pc / qc) for pc, qc in zip(p, q, strict=True)))
    return sum(terms) / max(len(terms), 1)


CLASSES = tuple((i,) for i in range(5))


@pytest.fixture
def teachers():
    """The logits of three that know the run's classes."""
    generator = torch.Generator().manual_seed(9)
    return tuple(3 * torch.randn(2, 5, 6, 7, generator=generator) for _ in range(3))


def lessons(*logits):
    return tuple(Lesson(one, CLASSES) for one in logits)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("count", [1, 3])
def test_it_is_what_its_formula_says(batch, targets, teachers, temperature, count):
    logits, label = batch
    fast = Distillation(targets, temperature)(SegmentationOutput(logits), label, lessons(*teachers[:count]))
    assert fast.dtype == torch.float32 and fast.shape == ()
    assert float(fast) == pytest.approx(slow(logits, label.numpy(), teachers[:count], temperature), rel=1e-5, abs=1e-7)


def test_where_nothing_is_labelled_it_is_zero_and_pulls_nowhere(targets, teachers):
    logits = torch.randn(2, 5, 6, 7, requires_grad=True)
    loss = Distillation(targets)(SegmentationOutput(logits), torch.full((2, 6, 7), 255), lessons(*teachers))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_it_is_zero_only_where_the_student_says_the_mean_of_the_teachers(plain, teachers):
    label = torch.zeros(2, 6, 7, dtype=torch.uint8)
    mean = torch.stack([t.softmax(1) for t in teachers]).mean(0)
    loss = Distillation(plain, 1.0)
    assert float(loss(SegmentationOutput(mean.log()), label, lessons(*teachers))) == pytest.approx(0, abs=1e-6)
    assert all(loss(SegmentationOutput(t), label, lessons(*teachers)) > 0.1 for t in teachers)


def test_its_gradient_pulls_the_student_to_the_teachers(plain, teachers):
    """By steps of plain descent; and at T = 1 each pixel's gradient is q - p over the number of pixels."""
    label = torch.zeros(2, 6, 7, dtype=torch.uint8)
    student = torch.zeros(2, 5, 6, 7, requires_grad=True)
    mean = torch.stack([t.softmax(1) for t in teachers]).mean(0)
    loss = Distillation(plain, 1.0)
    (gradient,) = torch.autograd.grad(loss(SegmentationOutput(student), label, lessons(*teachers)), student)
    torch.testing.assert_close(gradient, (0.2 - mean) / label.numel())
    for _ in range(300):
        (gradient,) = torch.autograd.grad(loss(SegmentationOutput(student), label, lessons(*teachers)), student)
        student = (student - 2 * label.numel() * gradient).detach().requires_grad_()
    torch.testing.assert_close(student.softmax(1), mean, rtol=0, atol=0.01)


def test_extreme_logits_stay_finite(plain):
    logits = torch.zeros(1, 5, 1, 2)
    logits[:, 0] = 300.0
    student = logits.flip(1).half().requires_grad_()
    loss = Distillation(plain, 1.0)(
        SegmentationOutput(student), torch.zeros(1, 1, 2, dtype=torch.uint8), lessons(logits)
    )
    loss.backward()
    assert loss.item() == pytest.approx(300, rel=1e-3) and student.grad.isfinite().all()


def test_the_sum_hands_the_teachers_to_it_alone(plain, teachers):
    output, label = SegmentationOutput(torch.randn(2, 5, 6, 7)), torch.ones(2, 6, 7, dtype=torch.uint8)
    both = losses.WeightedSum({"cross_entropy": 0.5, "distillation": {"weight": 2.0, "temperature": 3.0}}, plain)
    total, terms = both(output, label, lessons(*teachers))
    assert terms["distillation"] == Distillation(plain, 3.0)(output, label, lessons(*teachers))
    torch.testing.assert_close(total, 0.5 * terms["cross_entropy"] + 2 * terms["distillation"])
    with pytest.raises(ValueError, match="at least one teacher"):
        both(output, label)


def group_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def test_a_teacher_of_blocks_is_compared_with_what_the_student_says_of_them(plain):
    """Road (0) against the rest, and a teacher that knows two groups and says nothing of the last class."""
    q = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25])
    student = SegmentationOutput((q.log() + 7).view(1, 5, 1, 1))
    label = torch.zeros(1, 1, 1, dtype=torch.uint8)
    road = Lesson(torch.tensor([0.8, 0.2]).log().view(1, 2, 1, 1), ((0,), (1, 2, 3, 4)))
    part = Lesson(torch.tensor([0.4, 0.6]).log().view(1, 2, 1, 1), ((0, 1), (2, 3)))
    loss = Distillation(plain, 1.0)
    one, other = group_kl((0.8, 0.2), (0.1, 0.9)), group_kl((0.4, 0.6), (0.3, 0.45))
    assert float(loss(student, label, (road,))) == pytest.approx(one, rel=1e-5)
    assert float(loss(student, label, (part,))) == pytest.approx(other, rel=1e-5)
    assert float(loss(student, label, (road, part))) == pytest.approx((one + other) / 2, rel=1e-5)
    soft = Distillation(plain, 2.0)(student, label, (road,))
    p, q = softened((math.log(0.8), math.log(0.2)), 2), softened((math.log(0.1), math.log(0.9)), 2)
    assert float(soft) == pytest.approx(4 * group_kl(p, q), rel=1e-5)


def test_a_teacher_counts_only_where_it_is_sure(plain, teachers):
    """Of an ensemble those that are; where none is, nothing pulls; the mean is over the pixels where one is."""
    label = torch.zeros(2, 6, 7, dtype=torch.uint8)
    student = torch.zeros(2, 5, 6, 7, requires_grad=True)
    first, second = torch.zeros(2, 2, 6, 7, dtype=torch.bool)
    first[0], second[0, :3], second[1, 0] = True, True, True
    loss = Distillation(plain, 1.0)
    both = loss(
        SegmentationOutput(student), label, (Lesson(teachers[0], CLASSES, first), Lesson(teachers[1], CLASSES, second))
    )
    p = [t.softmax(1) for t in teachers]
    mean = torch.where(second[:, None], torch.where(first[:, None], (p[0] + p[1]) / 2, p[1]), p[0])
    divergence = (torch.xlogy(mean, mean) + mean * math.log(5)).sum(1)
    torch.testing.assert_close(both, divergence[first | second].mean())
    both.backward()
    assert not student.grad[1, :, 1:].any() and student.grad[0].any()


def test_a_temperature_of_zero_is_refused(plain):
    with pytest.raises(ValueError, match="loss 'distillation': temperature 0 is not above 0"):
        losses.build("distillation", plain, temperature=0)
