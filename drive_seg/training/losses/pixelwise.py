"""Losses that look at each pixel by itself: cross-entropy, weighted, focal, OWFL, and the hardest pixels alone.

Each takes logits [B, C, H, W] and labels uint8 or int64 [B, H, W] of a run's targets (255 = void) and returns a float32
scalar; zero, with a gradient of zero, where no pixel carries a label. Where a label is a group of classes, the
probability is the group's.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from drive_seg.labels import VOID, frequency_orders, frequency_weights
from drive_seg.training.losses.shared import Shared
from drive_seg.training.targets import Targets


class PixelLoss(nn.Module):
    """What they share: log p of the labelled target at each pixel, and which pixels count."""

    def __init__(self, targets: Targets) -> None:
        super().__init__()
        self.shared = Shared(targets)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        return self.of(self.shared(logits, label)[0], label)

    def of(self, log_p: Tensor, label: Tensor) -> Tensor:
        """The loss where log p of each pixel's label, [B, H, W], is there already."""
        target, valid = label.long(), label != VOID
        return self.reduce(log_p, target.masked_fill(~valid, 0), valid)

    @abstractmethod
    def reduce(self, log_p: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """All [B, H, W]: log p of the target, its id (0 where void), and whether there is a label -> scalar."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values where the mask is true, 0 where it is true nowhere."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


class CrossEntropy(PixelLoss):
    """-log p_y, averaged over the labelled pixels."""

    def reduce(self, log_p: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return masked_mean(-log_p, valid)


class WeightedCrossEntropy(PixelLoss):
    """WCE of DSNet's Table 6: -alpha_y log p_y, averaged over the labelled pixels; alpha of eq. 2."""

    def __init__(self, targets: Targets) -> None:
        super().__init__(targets)
        self.register_buffer("alpha", _float(frequency_weights(targets.frequency)), persistent=False)

    def reduce(self, log_p: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return masked_mean(-self.alpha[target] * log_p, valid)


class FocalLoss(PixelLoss):
    """T.-Y. Lin et al., "Focal Loss", eq. 5 with softmax probabilities: -alpha_y (1 - p_y)^gamma log p_y.

    Args:
        targets: of the run.
        gamma: focus, 0 or more; 2 as in its paper and in FL of DSNet's Table 6.
        weighted: alpha of DSNet's eq. 2; otherwise 1.
    """

    def __init__(self, targets: Targets, gamma: float = 2.0, weighted: bool = True) -> None:
        super().__init__(targets)
        if gamma < 0:
            raise ValueError(f"gamma {gamma} is below 0")
        self.gamma = gamma
        alpha = frequency_weights(targets.frequency) if weighted else np.ones(targets.num_targets)
        self.register_buffer("alpha", _float(alpha), persistent=False)

    def reduce(self, log_p: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return masked_mean(-self.alpha[target] * _focus(log_p) ** self.gamma * log_p, valid)


class ObjectWeightedFocalLoss(PixelLoss):
    """OWFL, DSNet eqs. 2-4: -alpha_y (1 - p_y)^gamma_y log p_y, averaged over the labelled pixels."""

    def __init__(self, targets: Targets) -> None:
        super().__init__(targets)
        self.register_buffer("alpha", _float(frequency_weights(targets.frequency)), persistent=False)
        self.register_buffer("gamma", _float(frequency_orders(targets.frequency)), persistent=False)

    def reduce(self, log_p: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return masked_mean(-self.alpha[target] * _focus(log_p) ** self.gamma[target] * log_p, valid)


class HardestShare(PixelLoss):
    """OHEM by IFBFNet's eq. 7: the mean over the share of labelled pixels with the largest loss, three quarters.

    Args:
        targets: of the run.
        share: above 0, up to 1.
    """

    def __init__(self, targets: Targets, share: float = 0.75) -> None:
        super().__init__(targets)
        if not 0 < share <= 1:
            raise ValueError(f"share {share} is not above 0 and up to 1")
        self.share = share

    def reduce(self, log_p: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return _mean_of_hardest(-log_p, valid, torch.ceil(self.share * valid.sum()).long())


class HardPixels(PixelLoss):
    """OHEM by IFBFNet's section 4.3.4: the mean over pixels whose probability is below a threshold.

    Args:
        targets: of the run.
        threshold: of p_y, 0.7 in the paper.
        floor: at least this share of the batch's labelled pixels is kept, the hardest of them: once the network is
            good, few are below the threshold, and their mean would be noise.
    """

    def __init__(self, targets: Targets, threshold: float = 0.7, floor: float = 0.0625) -> None:
        super().__init__(targets)
        if not 0 < threshold <= 1 or not 0 <= floor <= 1:
            raise ValueError(f"threshold {threshold} must be above 0 and up to 1, floor {floor} between 0 and 1")
        self.threshold, self.floor = threshold, floor

    def reduce(self, log_p: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        hard = valid & (log_p.exp() < self.threshold)
        count, least = hard.sum(), torch.ceil(self.floor * valid.sum()).long()
        if count >= least:  # the usual case, which needs no ranking
            return masked_mean(-log_p, hard)
        return _mean_of_hardest(-log_p, valid, least)


def _mean_of_hardest(loss: Tensor, valid: Tensor, count: Tensor) -> Tensor:
    """The mean of the ``count`` largest losses of labelled pixels; 0 if there is none to count."""
    loss = torch.where(valid, loss, 0).flatten()
    # ranked apart from the gradient: which pixels are hard is not learnt
    order = torch.where(valid.flatten(), loss.detach(), -1.0).argsort(descending=True, stable=True)
    kept = torch.arange(len(order), device=loss.device) < count
    return (loss[order] * kept).sum() / count.clamp_min(1)


def _focus(log_p: Tensor) -> Tensor:
    """1 - p, not below a hair: the power's gradient at 0 would be infinite for orders under 1."""
    return (1 - log_p.exp()).clamp_min(1e-12)


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values)).float()
