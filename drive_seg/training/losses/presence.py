"""Losses that ask whether a class occurs: in the whole image (SEL), in each block of pixels (BwBCE)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_seg.labels import VOID
from drive_seg.networks import SegmentationOutput
from drive_seg.networks.fbnet import assign_blocks
from drive_seg.training.losses.pixelwise import masked_mean
from drive_seg.training.targets import Targets, known_presence


class SemanticEncodingLoss(nn.Module):
    """SEL, DSNet eq. 7 and line 6 of Algorithm 1: does each class occur in the image's label? Binary cross-entropy.

    Eq. 7 prints the term of present classes only; as in the cross-entropy it names, absent classes count as well
    (without them, "everything is present" would be the optimum). The mean is taken over classes, then over images; an
    image without any labelled pixel is left out, and so is a class of which only a group was labelled.

    Forward takes an output with ``semantic_presence`` [B, C] and labels [B, H, W], 255 = void.

    Raises:
        ValueError: if the network has no Semantic Encoding branch.
    """

    def __init__(self, targets: Targets) -> None:
        super().__init__()
        self.targets = targets

    def forward(self, output: SegmentationOutput, label: Tensor) -> Tensor:
        logits = output.semantic_presence
        if logits is None:
            raise ValueError("the loss 'sel' needs a network with the option semantic_encoding: true")
        classes = range(logits.shape[1])
        present = presence(label, self.targets.num_targets)
        known = known_presence(present, classes, self.targets.groups)
        target = present[:, : len(classes)].float()
        loss = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
        per_image = (loss * known).sum(1) / known.sum(1).clamp_min(1)
        return masked_mean(per_image, present.any(1))


def presence(label: Tensor, num_targets: int) -> Tensor:
    """Which ids occur: labels [B, H, W] -> bool [B, num_targets] (histogram > 0, void left out)."""
    offset = (VOID + 1) * torch.arange(len(label), device=label.device)
    counts = torch.bincount((label.flatten(1) + offset.unsqueeze(1)).flatten(), minlength=(VOID + 1) * len(label))
    counts = counts.view(len(label), VOID + 1)
    return counts[:, :num_targets] > 0


class BlockPresenceLoss(nn.Module):
    """BwBCE, FBNet eq. 4, summed over the stages that FBNet is attached to (eq. 8).

    Eq. 4 lacks the minus sign of a cross-entropy. It sums over classes and blocks; with the sum, the loss grows with
    the crop and the number of foreground classes, while the segmentation loss beside it is a mean. So the mean is what
    the name "bwbce" gives, and ``reduction="sum"`` the letter of the paper (then averaged over images). Blocks without
    any labelled pixel are left out, and classes in a block of which only a group was labelled there.

    Args:
        targets: of the run. Foreground are all classes but road, sidewalk, building, sky and vegetation, whatever the
            label map calls them; if it knows none of them, every class.
        reduction: "mean" or "sum".

    Forward takes an output with ``block_presence`` and labels [B, H, W], 255 = void.

    Raises:
        ValueError: for another reduction; if the network has no block-wise head, or one of another width.
    """

    def __init__(self, targets: Targets, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction '{reduction}' is neither 'mean' nor 'sum'")
        self.targets, self.reduction = targets, reduction
        self.foreground = targets.label_map.foreground()

    def forward(self, output: SegmentationOutput, label: Tensor) -> Tensor:
        if not output.block_presence:
            raise ValueError("the loss 'bwbce' needs a network with the option feature_balance: [a stage]")
        return torch.stack([self._stage(*presence, label) for presence in output.block_presence.values()]).sum()

    def _stage(self, logits: Tensor, stride: int, label: Tensor) -> Tensor:
        if logits.shape[1] != len(self.foreground):
            raise ValueError(
                f"the block-wise head tells {logits.shape[1]} classes apart, but the label map has "
                f"{len(self.foreground)} of foreground; set the network's option foreground_classes to that"
            )
        present, labelled = assign_blocks(label, range(self.targets.num_targets), stride, logits.shape[-2:])
        known = known_presence(present.movedim(1, -1), self.foreground, self.targets.groups).movedim(-1, 1)
        known &= labelled.unsqueeze(1)
        target = present[:, list(self.foreground)].float()
        loss = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none") * known
        return loss.sum() / (known.sum().clamp_min(1) if self.reduction == "mean" else len(label))
