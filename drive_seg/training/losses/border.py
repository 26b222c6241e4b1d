"""DFN's loss on the borders between classes, and how the borders are made from labels."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_seg.labels import VOID
from drive_seg.networks import SegmentationOutput
from drive_seg.training.losses.pixelwise import masked_mean
from drive_seg.training.targets import Targets

SOBEL = 7
"""Side of the filter by which Canny finds edges, in pixels."""


class BorderFocalLoss(nn.Module):
    """DFN eqs. 4 and 6: the focal loss of each output of the Border Network against Canny's borders, added up.

    Eq. 4 is the form for the probability of the right answer: with t = 1 on a border and p = sigmoid(logit), p_t is p
    there and 1 - p elsewhere, alpha_t likewise: -alpha_t (1 - p_t)^gamma log p_t. (The published code applies the
    sigmoid twice and pulls every logit up, whatever the label.) Each output's mean is taken over known pixels.

    Args:
        targets: of the run; unused, borders lie between whatever ids differ.
        gamma, alpha: 2 and 0.25, the values that the focal loss's own paper found best.
        width: thickness of a border in pixels, odd.

    Forward takes an output with ``border_logits`` and labels [B, H, W], 255 = void.

    Raises:
        ValueError: if gamma, alpha or width is out of range, or the network has no Border Network.
    """

    def __init__(self, targets: Targets, gamma: float = 2.0, alpha: float = 0.25, width: int = 7) -> None:
        super().__init__()
        if gamma < 0 or not 0 <= alpha <= 1 or width < 1 or width % 2 == 0:
            raise ValueError(f"gamma {gamma} must be 0 or more, alpha {alpha} within 0 to 1, width {width} odd")
        self.gamma, self.alpha, self.width = gamma, alpha, width

    def forward(self, output: SegmentationOutput, label: Tensor) -> Tensor:
        if not output.border_logits:
            raise ValueError("the loss 'border' needs a network with the option border_network: true")
        known, border = (torch.from_numpy(part).to(label.device) for part in self._borders(label))
        return torch.stack([self._focal(logits[:, 0], border, known) for logits in output.border_logits]).sum()

    def _focal(self, logits: Tensor, border: Tensor, known: Tensor) -> Tensor:
        logits, target = logits.float(), border.float()
        cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")  # -log p_t
        p = logits.sigmoid()
        missed = target * (1 - p) + (1 - target) * p  # 1 - p_t
        alpha = target * self.alpha + (1 - target) * (1 - self.alpha)
        return masked_mean(alpha * missed.clamp_min(1e-12) ** self.gamma * cross_entropy, known)

    def _borders(self, label: Tensor) -> tuple[np.ndarray, np.ndarray]:
        both = [borders(one, self.width) for one in label.to(torch.uint8).cpu().numpy()]
        return np.stack([known for known, _ in both]), np.stack([border for _, border in both])


def borders(label: np.ndarray, width: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Where borders between classes run, by Canny's edge detector on the ids, widened.

    Args:
        label: uint8 [H, W], 255 = void.
        width: thickness in pixels, odd.

    Returns:
        bool [H, W]: is anything known here? Not in void, nor within a border's reach of it, for what lies there may be
        the edge of an object or not; and bool [H, W]: is this a border?
    """
    # Ids are names, not brightnesses: neighbours such as 3 and 4 must make an edge like 0 and 18. Canny's 7x7 Sobel
    # filter answers a step of 1 with thousands, so that thresholds of 5 find each.
    edges = cv2.Canny(np.where(label == VOID, 0, label + 1).astype(np.uint8), 5, 5, apertureSize=SOBEL)
    void = _widened(label == VOID, width + 2 * (SOBEL // 2))  # so far reaches an edge of void
    return ~void, _widened(edges > 0, width) & ~void


def _widened(mask: np.ndarray, width: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((width, width), np.uint8)) > 0
