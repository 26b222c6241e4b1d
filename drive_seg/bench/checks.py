"""What must be true of a contender's output before it may be timed."""

from __future__ import annotations

import torch
from torch import Tensor

AGREEMENT = {"fp32": 0.99, "fp16": 0.97, "bf16": 0.97, "int8": 0.9}
"""The least share of pixels with eager's class, by precision. It finds what computes something else; how much a
precision costs is for the reader to judge, who sees the share beside the time."""

TIES = 0.01
"""Weights that were never trained leave many pixels undecided: those whose two best logits of the reference lie closer
than this part of the logits' standard deviation are then left out."""


class WrongOutputError(ValueError):
    """A contender does not do what it is timed for; the message says in what."""


def check_logits(logits: object, batch: int, size: tuple[int, int], classes: int) -> None:
    """Refuse what are no finite logits [batch, classes, height, width].

    Raises:
        WrongOutputError: if they are not.
    """
    wanted = (batch, classes, *size)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise WrongOutputError(f"its output is {shape}, not {list(wanted)}")
    check_finite(logits)


def check_finite(values: Tensor) -> None:
    """
    Raises:
        WrongOutputError: if a value is not finite, or there is none.
    """
    if values.numel() == 0 or not bool(torch.isfinite(values).all()):
        raise WrongOutputError("its output holds values that are not finite" if values.numel() else "it gives nothing")


def check_agreement(logits: Tensor, reference: Tensor, trained: bool, precision: str = "fp32") -> float:
    """The share of pixels where both name the same class.

    Args:
        logits, reference: [B, C, H, W]; the reference is eager's, in fp32.
        trained: whether the weights were trained, so that the classes are decided.
        precision: in which the logits were computed.

    Raises:
        WrongOutputError: if the share is below AGREEMENT.
    """
    same = logits.argmax(1).to(reference.device) == reference.argmax(1)
    if not trained:
        first, second = reference.topk(2, dim=1).values.unbind(1)
        decided = first - second > TIES * reference.std()
        same = same[decided]
    share = same.float().mean().item()
    needed = AGREEMENT[precision]
    if not share >= needed:
        raise WrongOutputError(f"its labels agree with eager's on {share:.2%} of the pixels, {needed:.0%} is needed")
    return share
