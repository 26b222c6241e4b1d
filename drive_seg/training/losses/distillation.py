"""Learning from what other networks say about the same images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from drive_seg.labels import VOID
from drive_seg.networks import SegmentationOutput
from drive_seg.training.targets import Targets


class Lesson(NamedTuple):
    """What a teacher says about a batch.

    Attributes:
        scores: float [B, N, H, W], log probability of each block, but for a summand that all of a pixel's have.
        blocks: the classes of the run in each, none in two of them.
        sure: bool [B, H, W], where it counts; None: everywhere.
    """

    scores: Tensor
    blocks: tuple[tuple[int, ...], ...]
    sure: Tensor | None = None


class Distillation(nn.Module):
    """G. Hinton et al., "Distilling the Knowledge in a Neural Network", section 2, for an ensemble, per pixel.

    T^2 KL(p || q), averaged over the labelled pixels, where q = softmax(z / T) is the student's and p the mean of the
    teachers' softmax(v / T). With T^2 the gradient keeps its size when T changes.

    A teacher that tells blocks of classes apart, as road and not road, is compared with what the student says of
    these: z is then the logarithm of each block's probability. Teachers of the same blocks make one ensemble, each
    where it is sure; the divergences from all ensembles are averaged over their pixels together. Classes that no block
    has are improbable where the teacher is sure of one.

    Pixels whose label is void do not count, as in the losses beside it: padding shows nothing, and what a dataset
    leaves unlabelled the teachers were never taught, so that theirs would be guesses. A pixel labelled as a group does
    count: there the teachers say which class of it they see.

    Args:
        targets: of the run.
        temperature: T, above 0; the higher, the more the teachers' small probabilities matter.
    """

    def __init__(self, targets: Targets, temperature: float = 2.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature {temperature} is not above 0")
        self.temperature = float(temperature)

    def forward(self, output: SegmentationOutput, label: Tensor, teachers: tuple[Lesson, ...]) -> Tensor:
        """The loss as a float32 scalar, zero where no pixel carries a label.

        Args:
            output: of the student, logits [B, C, H, W].
            label: uint8 or int64 [B, H, W].
            teachers: what each says, without gradient.

        Raises:
            ValueError: if there is no teacher.
        """
        if not teachers:
            raise ValueError("the loss 'distillation' needs at least one teacher")
        labelled = label != VOID
        sums, counts = [], []
        for blocks in dict.fromkeys(lesson.blocks for lesson in teachers):
            same = [lesson for lesson in teachers if lesson.blocks == blocks]
            sure = torch.stack([labelled if one.sure is None else labelled & one.sure for one in same]).unsqueeze(2)
            each = torch.stack([(one.scores.float() / self.temperature).softmax(1) for one in same])
            p = (each * sure).sum(0) / sure.sum(0).clamp_min(1)
            log_q = (_scores(output.logits.float(), blocks) / self.temperature).log_softmax(1)[:, : len(blocks)]
            sums.append((torch.xlogy(p, p) - p * log_q).sum())
            counts.append(sure.any(0).sum())
        return self.temperature**2 * torch.stack(sums).sum() / torch.stack(counts).sum().clamp_min(1)


def _scores(logits: Tensor, blocks: tuple[tuple[int, ...], ...]) -> Tensor:
    """The blocks' scores, and last that of the classes in none of them, if there are any: [B, N, H, W].

    Their softmax is the blocks' probability.
    """
    count = logits.shape[1]
    if blocks == tuple((i,) for i in range(count)):
        return logits
    rest = tuple(set(range(count)).difference(*blocks))
    parts = [*blocks, rest] if rest else blocks
    return torch.stack([logits[:, part].logsumexp(1) for part in parts], 1)
