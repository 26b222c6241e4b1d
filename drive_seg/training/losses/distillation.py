"""Learning from what other networks say about the same images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drive_seg.labels import VOID
from drive_seg.networks import SegmentationOutput
from drive_seg.training.losses.pixelwise import masked_mean
from drive_seg.training.targets import Targets


class Distillation(nn.Module):
    """G. Hinton et al., "Distilling the Knowledge in a Neural Network", section 2, for an ensemble, per pixel.

    T^2 KL(p || q), averaged over the labelled pixels, where q = softmax(z / T) is the student's and p the mean of the
    teachers' softmax(v / T). With T^2 the gradient keeps its size when T changes.

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

    def forward(self, output: SegmentationOutput, label: Tensor, teachers: tuple[Tensor, ...]) -> Tensor:
        """The loss as a float32 scalar, zero where no pixel carries a label.

        Args:
            output: of the student, logits [B, C, H, W].
            label: uint8 or int64 [B, H, W].
            teachers: the logits of each, [B, C, H, W], without gradient.

        Raises:
            ValueError: if there is no teacher.
        """
        if not teachers:
            raise ValueError("the loss 'distillation' needs the logits of at least one teacher")
        log_q = (output.logits.float() / self.temperature).log_softmax(1)
        p = torch.stack([(logits.float() / self.temperature).softmax(1) for logits in teachers]).mean(0)
        divergence = (torch.xlogy(p, p) - p * log_q).sum(1)
        return self.temperature**2 * masked_mean(divergence, label != VOID)
