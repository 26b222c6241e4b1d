"""What the label images of a training run mean: classes, and groups of classes where a dataset tells no finer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from drive_seg.labels import VOID, LabelMap


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
        classes = self.label_map.names
        return (*classes, *("/".join(classes[i] for i in members) for members in self.groups))

    def fold(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Count a predicted class as the labelled group where it is one of the group's.

        Args:
            prediction: uint8 of any shape, class ids.
            label: uint8 of the same shape, targets.

        Returns:
            uint8, the prediction with those pixels set to the group's id.
        """
        folded = prediction.copy()
        for g, members in enumerate(self.groups, start=self.label_map.num_classes):
            folded[(label == g) & np.isin(prediction, members)] = g
        return folded


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


def translation(
    source: LabelMap, target: LabelMap, meaning: Mapping[str, Sequence[str]], groups: list[tuple[int, ...]]
) -> np.ndarray:
    """The table that turns a dataset's ids into targets.

    Args:
        source: the dataset's classes.
        target: the network's classes.
        meaning: class of the source -> classes of the target that it may be; none means void. A class that is not
            named keeps its name.
        groups: the groups so far; new ones are appended.

    Returns:
        uint8 [256], ids of the source -> class, group or void.

    Raises:
        ValueError: if a name is no class, or a class of the source has no counterpart.
    """
    for name, classes in meaning.items():
        _ids(source, [name])
        _ids(target, classes)
    table = np.full(256, VOID, np.uint8)
    for i, name in enumerate(source.names):
        if name not in meaning and name not in target.names:
            raise ValueError(
                f"class '{name}' of label map '{source.name}' is not in '{target.name}'; say what it is under 'meaning'"
            )
        classes = tuple(sorted(_ids(target, meaning.get(name, [name]))))
        if len(classes) == 1:
            table[i] = classes[0]
        elif classes:
            if classes not in groups:
                groups.append(classes)
            table[i] = target.num_classes + groups.index(classes)
    return table


def _ids(label_map: LabelMap, names: Sequence[str]) -> list[int]:
    unknown = [name for name in names if name not in label_map.names]
    if unknown:
        raise ValueError(f"label map '{label_map.name}' has no class {', '.join(map(repr, unknown))}")
    return [label_map.names.index(name) for name in names]
