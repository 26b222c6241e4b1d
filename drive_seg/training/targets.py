"""What the label images of a training run mean: classes, and groups of classes where a dataset tells no finer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from drive_seg.labels import LabelMap
from drive_seg.labels.groups import fold, group_names


@dataclass(frozen=True)
class Targets:
    """The ids 0..C-1 are the classes of the label map; C + g says "one of the classes of group g"; 255 is void.

    Attributes:
        label_map: the classes that the network tells apart.
        groups: the class ids of each group, at least two each.
        frequency: float64 [C + G], the share of each id in the training labels.
    """

    label_map: LabelMap
    groups: tuple[tuple[int, ...], ...] = ()
    frequency: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def num_targets(self) -> int:
        return self.label_map.num_classes + len(self.groups)

    @property
    def names(self) -> tuple[str, ...]:
        """Of classes and groups; a group's is its classes' joined by "/"."""
        return (*self.label_map.names, *group_names(self.label_map, self.groups))

    def fold(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        """The prediction with a class counted as the labelled group where it is one of the group's, uint8; see
        :func:`~drive_seg.labels.groups.fold`."""
        return fold(prediction, label, self.label_map.num_classes, self.groups)


def log_probabilities(logits: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Log probability of each class and of each group, whose classes' probabilities add up.

    Args:
        logits: [B, C, H, W], any floating type.
        groups: as in :class:`Targets`.

    Returns:
        float32 [B, C + G, H, W].
    """
    log_p = logits.float().log_softmax(1)
    if not groups:
        return log_p
    joined = [torch.logsumexp(log_p[:, list(members)], 1, keepdim=True) for members in groups]
    return torch.cat((log_p, *joined), dim=1)


def known_presence(present: Tensor, classes: Sequence[int], groups: Sequence[Sequence[int]]) -> Tensor:
    """Of which classes is it known whether they occur? A class is in doubt where only a group of it was seen.

    Args:
        present: bool [..., C + G] (last axis: which ids occur).
        classes: class ids that are asked for.
        groups: as in :class:`Targets`.

    Returns:
        bool [..., len(classes)].
    """
    count = present.shape[-1] - len(groups)
    known = []
    for i in classes:
        inside = [count + g for g, members in enumerate(groups) if i in members]
        doubt = present[..., inside].any(-1) if inside else torch.zeros_like(present[..., 0])
        known.append(present[..., i] | ~doubt)
    return torch.stack(known, dim=-1)
