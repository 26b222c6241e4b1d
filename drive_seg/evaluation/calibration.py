"""A temperature for a model's confidence, fitted on labels that its weights have not seen, and how sure it usually is.

C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2: one number T > 0 divides all logits.
It minimises the negative log-likelihood of the labels, and moves no class past another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from drive_seg.confidence import COOLEST, HOTTEST, Confidence, Usual
from drive_seg.datasets import Dataset
from drive_seg.evaluation.dataset import in_terms_of, read_ahead
from drive_seg.evaluation.reliability import Confidences, Reliability
from drive_seg.inference.decision import SPARSE, decide, to_size
from drive_seg.labels import VOID
from drive_seg.segmenter import Segmenter
from drive_seg.training.targets import log_probabilities

MOST_FRAMES = 1000
"""So many images at most are looked at, evenly spread over the dataset; more move the temperature no further."""
EXACTNESS = 1e-3
"""Of the temperature's logarithm."""
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Calibration:
    """What was found out on a dataset.

    Attributes:
        confidence: for the contract.
        reliability: at the temperature found, and at 1, over the pixels that it was fitted on.
        nll: negative log-likelihood of a labelled pixel at the temperature found, and at 1, in nats.
        pixels: how many labelled pixels it was fitted on.
    """

    confidence: Confidence
    reliability: Reliability
    nll: tuple[float, float]
    pixels: int

    def to_dict(self) -> dict[str, Any]:
        return {**self.confidence.to_dict(), **self.summary(), "reliability": self.reliability.to_dict()}

    def summary(self) -> dict[str, Any]:
        """The figures that a checkpoint keeps among its metrics."""
        report = self.reliability.to_dict()
        before = report["before"] or report
        return {
            "data": self.confidence.fitted_on,
            "pixels": self.pixels,
            "nll": round(self.nll[0], 4),
            "nll_before": round(self.nll[1], 4),
            "expected_calibration_error": round(report["expected_calibration_error"], 4),
            "expected_calibration_error_before": round(before["expected_calibration_error"], 4),
        }


def calibrate(
    segmenter: Segmenter,
    dataset: Dataset,
    name: str,
    meaning: Mapping[str, Sequence[str]] | None = None,
    progress: bool = True,
) -> Calibration:
    """Fit a temperature, whatever the contract says of one, and measure with it how sure the model usually is.

    Of each image every 8th row and 4th column of the network's output is looked at: neighbours hardly differ.

    Args:
        segmenter: the model, with the runtime and precision that is to be calibrated.
        dataset: images that its weights have not seen. A group of classes counts as the sum of their probabilities.
        name: of the dataset in words, for the contract.
        meaning: as for :func:`~drive_seg.evaluation.dataset.evaluate`.
        progress: show a progress bar.

    Raises:
        ValueError: if the model gives no probabilities, the labels cannot be put in its terms, no pixel is labelled,
            or the labels set the temperature no bound.
    """
    samples, targets = in_terms_of(segmenter, dataset, meaning)
    step = -(-len(samples) // MOST_FRAMES)
    chosen = range(0, len(samples), step)
    seen: list[tuple[Tensor, Tensor]] = []
    bar = track(
        read_ahead(samples, chosen),
        "labelling",
        len(chosen),
        console=Console(stderr=True),
        transient=True,
        disable=not progress,
    )
    for image, label in bar:
        logits = segmenter.logits(image).float().cpu()
        truth = to_size(torch.from_numpy(label), tuple(logits.shape[-2:]))
        seen.append((logits[..., ::SPARSE, ::4].clone(), truth[::SPARSE, ::4].clone()))
    pixels = sum(int((truth != VOID).sum()) for _, truth in seen)
    if not pixels:
        raise ValueError(f"{name} has no labelled pixel")

    def nll(temperature: float) -> float:
        return sum(_nll(logits / temperature, truth, targets.groups) for logits, truth in seen) / pixels

    temperature = round(minimum(nll), 4)
    confidences = Confidences(temperature, targets.label_map.num_classes, targets.groups, samples.ids())
    warm, reliability, planes = Confidence(temperature).frame_temperature, Reliability.empty(temperature), []
    for logits, truth in seen:
        reliability += confidences.count(logits, truth.numpy())
        planes.append(decide(logits, True, warm)[1][0].numpy())
    data = f"{name}, {len(seen)} image{'s' if len(seen) > 1 else ''}"
    confidence = Confidence(temperature, data, Usual.of(planes, data))
    return Calibration(confidence, reliability, (nll(temperature), nll(1.0)), pixels)


def minimum(function: Callable[[float], float]) -> float:
    """The temperature at which a function of it is least, by golden section on its logarithm.

    The negative log-likelihood has one minimum: it is convex in 1 / T where labels are classes.

    Raises:
        ValueError: if it is least at an end of the range.
    """
    low, high = math.log(COOLEST), math.log(HOTTEST)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(math.exp(left)), function(math.exp(right))
    while high - low > EXACTNESS:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(math.exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(math.exp(right))
    found = math.exp((low + high) / 2)
    if found < COOLEST * 1.01 or found > HOTTEST / 1.01:
        like = "nearly every pixel is right" if found < 1 else "labels have nothing to do with what the model says"
        raise ValueError(
            f"the labels set the temperature no bound between {COOLEST} and {HOTTEST}: it runs to {found:.4g}, as "
            f"where {like}"
        )
    return found


def _nll(logits: Tensor, truth: Tensor, groups: Sequence[Sequence[int]]) -> float:
    """The sum over labelled pixels: logits [1, C, h, w] and targets uint8 [h, w]."""
    labelled = truth != VOID
    log_p = log_probabilities(logits, groups)[0]
    return -log_p[:, labelled].gather(0, truth[labelled].long()[None]).double().sum().item()
