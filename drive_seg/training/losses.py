"""Losses. Each takes a network's output and the label image, asks the output for what it needs, returns a scalar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_seg.labels import VOID, frequency_orders, frequency_weights
from drive_seg.networks import SegmentationOutput


class ObjectWeightedFocalLoss(nn.Module):
    """OWFL, DSNet eqs. 2-4: -alpha_y (1 - p_y)^gamma_y log p_y, averaged over the pixels that carry a label.

    Args:
        frequency: float64 [C], each class's share of the training set's labelled pixels.

    Forward takes the network's output with logits [B, C, H, W] and labels int64 or uint8 [B, H, W], 255 = void, and
    returns a float32 scalar; zero, with a gradient of zero, where no pixel carries a label.
    """

    def __init__(self, frequency: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("alpha", torch.from_numpy(frequency_weights(frequency)).float(), persistent=False)
        self.register_buffer("gamma", torch.from_numpy(frequency_orders(frequency)).float(), persistent=False)

    def forward(self, output: SegmentationOutput, label: Tensor) -> Tensor:
        target = label.long()
        valid = target != VOID
        target = torch.where(valid, target, 0)
        log_p = output.logits.float().log_softmax(1).gather(1, target.unsqueeze(1)).squeeze(1)
        focus = (1 - log_p.exp()).clamp_min(0) ** self.gamma[target]
        loss = -self.alpha[target] * focus * log_p
        return (loss * valid).sum() / valid.sum().clamp_min(1)


class SemanticEncodingLoss(nn.Module):
    """SEL, DSNet eq. 7 and line 6 of Algorithm 1: does each class occur in the image's label? Binary cross-entropy.

    Eq. 7 prints the term of present classes only; as in the cross-entropy it names, absent classes count as well
    (without them, "everything is present" would be the optimum). The mean is taken over images and classes; an image
    without any labelled pixel is left out.

    Forward takes an output with ``semantic_presence`` [B, C] and labels [B, H, W], 255 = void.

    Raises:
        ValueError: if the network has no Semantic Encoding branch.
    """

    def forward(self, output: SegmentationOutput, label: Tensor) -> Tensor:
        logits = output.semantic_presence
        if logits is None:
            raise ValueError("the loss 'sel' needs a network with the option semantic_encoding: true")
        present = presence(label, logits.shape[1])
        labelled = present.any(1)
        loss = F.binary_cross_entropy_with_logits(logits.float(), present.float(), reduction="none").mean(1)
        return (loss * labelled).sum() / labelled.sum().clamp_min(1)


def presence(label: Tensor, num_classes: int) -> Tensor:
    """Which classes occur: labels [B, H, W] -> bool [B, C] (histogram > 0, void left out)."""
    flat = label.long().flatten(1)
    flat = torch.where(flat == VOID, num_classes, flat)
    counts = torch.zeros(len(flat), num_classes + 1, device=label.device).scatter_add_(
        1, flat, torch.ones_like(flat, dtype=torch.float32)
    )
    return counts[:, :num_classes] > 0


_LOSSES: dict[str, Callable[..., nn.Module]] = {
    "owfl": lambda frequency: ObjectWeightedFocalLoss(frequency),
    "sel": lambda frequency: SemanticEncodingLoss(),
}


def names() -> list[str]:
    """The names a recipe may use."""
    return sorted(_LOSSES)


class WeightedSum(nn.Module):
    """The losses of a recipe, by name, each times its weight (DSNet eq. 1).

    Args:
        weights: name -> weight.
        frequency: float64 [C], class shares of the training set.

    Forward returns the total and the unweighted terms by name.

    Raises:
        ValueError: for a name that is no loss; the message lists those there are.
    """

    def __init__(self, weights: dict[str, float], frequency: np.ndarray) -> None:
        super().__init__()
        unknown = sorted(set(weights) - set(_LOSSES))
        if unknown:
            raise ValueError(f"no loss is called {', '.join(map(repr, unknown))}; there are: {', '.join(names())}")
        self.weights = dict(weights)
        self.terms = nn.ModuleDict({name: _LOSSES[name](frequency) for name in weights})

    def forward(self, output: SegmentationOutput, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        terms: dict[str, Any] = {name: loss(output, label) for name, loss in self.terms.items()}
        return sum(self.weights[name] * term for name, term in terms.items()), terms
