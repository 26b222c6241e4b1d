"""Losses by name. Each takes a network's output and the labels, asks the output for what it needs, returns a scalar.

Distillation takes the logits of the teachers as well.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from drive_seg.networks import SegmentationOutput
from drive_seg.networks.layers import resize
from drive_seg.training.losses.border import BorderFocalLoss
from drive_seg.training.losses.distillation import Distillation
from drive_seg.training.losses.overlap import LovaszSoftmax
from drive_seg.training.losses.pixelwise import (
    CrossEntropy,
    FocalLoss,
    HardestShare,
    HardPixels,
    ObjectWeightedFocalLoss,
    PixelLoss,
    WeightedCrossEntropy,
)
from drive_seg.training.losses.presence import BlockPresenceLoss, SemanticEncodingLoss
from drive_seg.training.losses.shared import Shared
from drive_seg.training.targets import Targets

PIXEL_LOSSES: dict[str, Callable[..., PixelLoss]] = {
    "cross_entropy": CrossEntropy,
    "weighted_cross_entropy": WeightedCrossEntropy,
    "focal": FocalLoss,
    "owfl": ObjectWeightedFocalLoss,
    "ohem_share": HardestShare,
    "ohem": HardPixels,
}
"""Losses of the main logits, which the auxiliary ones may name as their ``kind``."""


class _OnMain(nn.Module):
    """A pixel loss on the network's main logits."""

    def __init__(self, loss: PixelLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, output: SegmentationOutput, label: Tensor) -> Tensor:
        return self.loss(output.logits, label)


class _Supervision(nn.Module):
    """A pixel loss on further logits of the network."""

    needs = ""

    def __init__(self, targets: Targets, kind: str = "cross_entropy", **options: Any) -> None:
        super().__init__()
        if kind not in PIXEL_LOSSES:
            raise ValueError(f"kind '{kind}' is not one of {', '.join(PIXEL_LOSSES)}")
        self.loss = PIXEL_LOSSES[kind](targets, **options)

    def _all(self, logits: tuple[Tensor, ...], label: Tensor) -> Tensor:
        if not logits:
            raise ValueError(f"this loss needs a network with {self.needs}")
        return torch.stack([self.loss(one, label) for one in logits]).sum()


class AuxiliaryLoss(_Supervision):
    """A pixel loss on the auxiliary head's logits (IFBFNet eq. 8, weighted 0.4; PSPNet)."""

    needs = "an auxiliary head (option auxiliary: true)"

    def forward(self, output: SegmentationOutput, label: Tensor) -> Tensor:
        return self._all(() if output.aux_logits is None else (output.aux_logits,), label)


class DeepSupervision(_Supervision):
    """A pixel loss on the logits of each coarser stage, added up (DFN eq. 5; the finest stage is the main output)."""

    needs = "deep supervision (DFN's option deep_supervision: true)"

    def forward(self, output: SegmentationOutput, label: Tensor) -> Tensor:
        return self._all(output.stage_logits, label)


class PointwiseStageLoss(_Supervision):
    """P-CE of FBNet's Table 4: the block-wise head, as wide as there are classes, judged pixel by pixel instead."""

    needs = "the options feature_balance: [a stage] and foreground_classes: as many as there are classes"

    def forward(self, output: SegmentationOutput, label: Tensor) -> Tensor:
        size = label.shape[-2:]
        return self._all(tuple(resize(p.logits, size) for p in output.block_presence.values()), label)


_LOSSES: dict[str, Callable[..., nn.Module]] = {
    "lovasz": LovaszSoftmax,
    "sel": SemanticEncodingLoss,
    "bwbce": BlockPresenceLoss,
    "border": BorderFocalLoss,
    "auxiliary": AuxiliaryLoss,
    "deep_supervision": DeepSupervision,
    "pointwise_stages": PointwiseStageLoss,
    "distillation": Distillation,
}


_KINDS: dict[str, tuple[Any, str]] = {
    "float": ((int, float), "a number"),
    "int": (int, "a whole number"),
    "bool": (bool, "true or false"),
    "str": (str, "text"),
}
"""Types of options, as their annotations name them, and how they are called."""


def names() -> list[str]:
    """The names a recipe may use."""
    return sorted({**PIXEL_LOSSES, **_LOSSES})


def build(name: str, targets: Targets, **options: Any) -> nn.Module:
    """A loss: ``loss(output, label)`` takes a :class:`SegmentationOutput` and labels [B, H, W].

    Distillation's is ``loss(output, label, teachers)``.

    Raises:
        ValueError: if no loss has that name, or not that option or value; the message lists those there are.
    """
    make = PIXEL_LOSSES.get(name) or _LOSSES.get(name)
    if make is None:
        raise ValueError(f"no loss is called '{name}'; there are: {', '.join(names())}")
    known = inspect.signature(make).parameters
    unknown = sorted(set(options) - set(known))
    if unknown and "options" not in known:
        has = ", ".join(sorted(set(known) - {"targets"})) or "none"
        raise ValueError(f"loss '{name}' has no option {', '.join(map(repr, unknown))}; its options are: {has}")
    for option, value in options.items():
        kinds, called = _KINDS.get(str(known[option].annotation) if option in known else "", (object, ""))
        if not isinstance(value, kinds):
            raise ValueError(f"loss '{name}': {option} is {value!r}, not {called}")
    try:
        loss = make(targets, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"loss '{name}': {error}") from None
    return _OnMain(loss) if isinstance(loss, PixelLoss) else loss


def _weight(name: str, weight: Any) -> float:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise ValueError(f"loss '{name}': its weight is {weight!r}, not a number of 0 or more")
    return float(weight)


class WeightedSum(nn.Module):
    """The losses of a recipe, by name, each times its weight (DSNet eq. 1, FBNet eq. 8, IFBFNet eq. 8, DFN eq. 7).

    Args:
        losses: name -> weight, or name -> {"weight": ..., further options of that loss}.
        targets: of the run.

    Forward returns the total and the unweighted terms by name; it takes the teachers' logits for distillation.

    Raises:
        ValueError: for a name that is no loss, or an option it has not.
    """

    def __init__(self, losses: Mapping[str, float | Mapping[str, Any]], targets: Targets) -> None:
        super().__init__()
        self.weights: dict[str, float] = {}
        self.terms = nn.ModuleDict()
        for name, setting in losses.items():
            options = dict(setting) if isinstance(setting, Mapping) else {"weight": setting}
            self.weights[name] = _weight(name, options.pop("weight", 1.0))
            self.terms[name] = build(name, targets, **options)
        self.shared = Shared(targets)
        self.overlap = next((term.overlap for term in self.terms.values() if isinstance(term, LovaszSoftmax)), None)

    def forward(
        self, output: SegmentationOutput, label: Tensor, teachers: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        terms = {}
        log_p = overlapped = None
        for name, term in self.terms.items():
            if isinstance(term, _OnMain | LovaszSoftmax) and log_p is None:
                log_p, overlapped = self.shared(output.logits, label, self.overlap)  # one softmax for all of them
            if isinstance(term, _OnMain):
                terms[name] = term.loss.of(log_p, label)
            elif isinstance(term, LovaszSoftmax):
                terms[name] = overlapped
            else:
                terms[name] = term(output, label, teachers) if isinstance(term, Distillation) else term(output, label)
        return sum(self.weights[name] * term for name, term in terms.items()), terms
