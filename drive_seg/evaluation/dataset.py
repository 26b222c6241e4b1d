"""Scores of a checkpoint on a labelled dataset, by the same road as on the vehicle."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from drive_seg.datasets import Dataset
from drive_seg.datasets.joined import Joined
from drive_seg.evaluation.records import number
from drive_seg.evaluation.reliability import BINS, Confidences, Reliability, expected_error
from drive_seg.labels import frequency_orders
from drive_seg.metrics import BoundaryScore, ConfusionMatrix, mean
from drive_seg.segmenter import Segmenter
from drive_seg.training.inference import Inference, Labeller
from drive_seg.training.targets import Targets

CLASS_COLUMNS = ("class", "IoU %", "accuracy %", "boundary F1 %", "share %", "gamma")
"""The figures of one class, see :func:`class_rows`."""


def in_terms_of(
    segmenter: Segmenter, dataset: Dataset, meaning: Mapping[str, Sequence[str]] | None = None
) -> tuple[Joined, Targets]:
    """A dataset with its labels in the terms of a network, and what they mean: its classes, and groups of them.

    Raises:
        ValueError: if a class of the dataset has no counterpart among the network's.
    """
    target, groups = segmenter.label_map, []
    try:
        samples = Joined(target, [(dataset, 1, dict(meaning or {}))], groups)
    except ValueError as error:
        raise ValueError(
            f"the checkpoint knows the classes of '{target.name}', the dataset those of '{dataset.label_map.name}': "
            f"{error}"
        ) from None
    return samples, Targets(target, tuple(groups))


@dataclass
class Scores:
    """What an evaluation found. Figures are 0..1; nan where there is none.

    A mean is over the ids that the labels can hold and that are present or, wrongly, predicted: a class that was
    predicted where there was none counts as 0, as in torchmetrics.

    Attributes:
        targets: the network's classes, and the groups that the dataset's labels hold instead of some.
        ids: the classes and groups that the labels can hold.
        dataset_map: name of the dataset's label map.
        translated: whether labels were put in the network's terms.
        inference: how images were labelled.
        matrix: pixels of the whole set.
        boundary: boundaries of the whole set.
        image_miou: mIoU of each image by itself; nan where all its pixels are void.
        image_names: of each image.
        reliability: of the confidence; None if the model has none, or images are not labelled as on the vehicle.
    """

    targets: Targets
    ids: np.ndarray
    dataset_map: str
    translated: bool
    inference: Inference
    matrix: ConfusionMatrix
    boundary: BoundaryScore
    image_miou: list[float] = field(default_factory=list)
    image_names: list[str] = field(default_factory=list)
    reliability: Reliability | None = None

    @property
    def names(self) -> list[str]:
        """Of the ids; a group's is its classes' joined by "/"."""
        return [self.targets.names[i] for i in self.ids]

    def iou(self) -> np.ndarray:
        """IoU of each of ``ids``, float64."""
        return self.matrix.iou()[self.ids]

    def miou(self) -> float:
        return mean(self.iou())

    def f_miou(self) -> float:
        """FBNet's f-mIoU, the mean over foreground classes. A group is foreground if all of its classes are."""
        return mean(self.iou()[self.foreground()])

    def foreground(self) -> np.ndarray:
        """Which of ``ids`` are foreground, bool."""
        foreground = list(self.targets.label_map.foreground())
        return np.array([np.isin(np.flatnonzero(self.matrix.members[i]), foreground).all() for i in self.ids], bool)

    def pixel_accuracy(self) -> float:
        return self.matrix.pixel_accuracy()

    def orders(self) -> np.ndarray:
        """OWFL's gamma (DSNet eq. 3) of each of ``ids``, int64; -1 for one that is not in the labels.

        From the shares of labelled pixels in the evaluated set itself, not those of the training set: another set
        may sort a class into another group.
        """
        shares = self.matrix.frequency()[self.ids]
        return np.where(shares > 0, frequency_orders(shares), -1)

    def frequency_mious(self) -> dict[int, float]:
        """Mean IoU of the classes of each frequency group by gamma, the rarest (0) first."""
        iou, orders = self.iou(), self.orders()
        return {int(gamma): mean(iou[orders == gamma]) for gamma in np.unique(orders[orders >= 0])}

    def boundary_f1(self) -> float:
        return mean(self.boundary.f1()[self.ids])

    def worst(self, count: int) -> list[int]:
        """The images with the lowest mIoU by themselves, the lowest first."""
        scored = [i for i, miou in enumerate(self.image_miou) if not math.isnan(miou)]
        return sorted(scored, key=lambda i: self.image_miou[i])[:count]

    def remark(self) -> str:
        """What one must know to read the figures where labels were translated, or an empty string."""
        if not self.translated:
            return ""
        return (
            f"The labels have the classes of {self.dataset_map}, the network those of {self.targets.label_map.name}: "
            "where a label is a group of classes (a/b), a prediction inside the group counts as right."
        )


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    progress: bool = True,
    inference: Inference | None = None,
    meaning: Mapping[str, Sequence[str]] | None = None,
) -> Scores:
    """Score every image of a dataset at the labels' resolution.

    Args:
        segmenter: the checkpoint.
        dataset: labelled images. Where its classes are not the checkpoint's, labels are put in the checkpoint's terms
            by :func:`~drive_seg.training.targets.translation`.
        progress: show a progress bar.
        inference: how images are labelled; as on the vehicle if left out.
        meaning: class of the dataset -> classes of the checkpoint that it may be, none for void, where names differ and
            drive_seg does not know it.

    Raises:
        ValueError: if the dataset's classes cannot be told in the checkpoint's, a sample is broken, or the model
            cannot be used that way.
    """
    inference = inference or Inference()
    labeller, (samples, targets) = Labeller(segmenter, inference), in_terms_of(segmenter, dataset, meaning)
    shape, ids = (segmenter.label_map.num_classes, targets.groups), np.array(samples.ids(), np.int64)
    scores = Scores(
        targets,
        ids,
        dataset.label_map.name,
        dataset.label_map.names != segmenter.label_map.names or bool(meaning),
        inference,
        ConfusionMatrix(*shape),
        BoundaryScore(*shape),
    )
    temperature, confidences = segmenter.contract.confidence.temperature, None
    if inference.as_on_the_vehicle and segmenter.gives_logits:
        confidences = Confidences(temperature, *shape, ids)
        scores.reliability = Reliability.empty(temperature)
    reading = read_ahead(samples, range(len(samples)))
    screen = Console(stderr=True)
    for image, label in track(
        reading, "evaluating", len(samples), console=screen, transient=True, disable=not progress
    ):
        if confidences is None:
            prediction = labeller(image)
        else:
            prediction, logits = segmenter.label_and_logits(image)
            scores.reliability += confidences.count(logits, label)
        matrix = ConfusionMatrix(*shape)
        matrix.update(prediction, label)
        scores.matrix += matrix
        scores.boundary.update(prediction, label)
        scores.image_names.append(samples.name_of(len(scores.image_names)))
        scores.image_miou.append(mean(matrix.iou()[ids]))
    return scores


def as_report(scores: Scores) -> dict[str, Any]:
    """Plain data for ``--json``. None stands where there is no figure, as for the IoU of an absent class."""
    ids, boundary = scores.ids, scores.boundary
    orders, classes = scores.orders(), scores.targets.label_map.names
    return {
        "miou": number(scores.miou()),
        "f_miou": number(scores.f_miou()),
        "frequency_groups": {
            str(gamma): {
                "miou": number(miou),
                "classes": [name for name, order in zip(scores.names, orders, strict=True) if order == gamma],
            }
            for gamma, miou in scores.frequency_mious().items()
        },
        "pixel_accuracy": number(scores.pixel_accuracy()),
        "mean_class_accuracy": number(scores.matrix.mean_class_accuracy()),
        "boundary_f1": number(scores.boundary_f1()),
        "iou": _by_name(scores, scores.iou()),
        "class_accuracy": _by_name(scores, scores.matrix.class_accuracy()[ids]),
        "share": _by_name(scores, scores.matrix.frequency()[ids]),
        "foreground": [name for name, is_it in zip(scores.names, scores.foreground(), strict=True) if is_it],
        "boundary": {
            "tolerance": boundary.tolerance,
            "f1": _by_name(scores, boundary.f1()[ids]),
            "precision": _by_name(scores, boundary.precision()[ids]),
            "recall": _by_name(scores, boundary.recall()[ids]),
        },
        "confusion_matrix": scores.matrix.counts[ids].tolist(),
        "confusion_rows": scores.names,
        "confusion_columns": [*classes, "void"],
        "reliability": scores.reliability and scores.reliability.to_dict(),
        "images": len(scores.image_names),
        "worst_images": [
            {"image": scores.image_names[i], "miou": number(scores.image_miou[i])} for i in scores.worst(20)
        ],
        "label_map": scores.targets.label_map.name,
        "dataset_label_map": scores.dataset_map,
        "remark": scores.remark(),
        "inference": scores.inference.to_dict(),
    }


def as_tables(scores: Scores) -> Group:
    """The figures of every class, and those over all, for the terminal."""
    by_class, over_all = Table(), Table()
    for table, columns in ((by_class, CLASS_COLUMNS), (over_all, ("over all classes", "%"))):
        table.add_column(columns[0], overflow="fold")
        for title in columns[1:]:
            table.add_column(title, justify="right")
    for cells in class_rows(scores):
        by_class.add_row(*map(escape, cells))
    for title, value in means(scores):
        over_all.add_row(title, percent(value))
    more = [sentence for sentence in (calibration_sentence(scores.reliability), scores.remark()) if sentence]
    return Group(by_class, over_all, *map(escape, more))


def calibration_sentence(reliability: Reliability | None) -> str:
    """How far confidence and accuracy lie apart; empty where there is no confidence."""
    if reliability is None or not reliability.counts.any():
        return ""
    apart = percent(reliability.error())
    text = f"Confidence and accuracy lie {apart} % apart (expected calibration error, {BINS} bins)"
    if reliability.uncalibrated is None:
        return f"{text}; the model has no temperature: drive-seg calibrate fits one."
    before = percent(expected_error(reliability.uncalibrated))
    return f"{text}; {before} % without the temperature of {reliability.temperature:g}."


def class_rows(scores: Scores) -> list[tuple[str, ...]]:
    """Per id as text: name, IoU, accuracy, boundary F1 and share of the labelled pixels in %, frequency group.

    Its accuracy is the share of its pixels that are right.
    """
    ids, matrix = scores.ids, scores.matrix
    columns = (scores.iou(), matrix.class_accuracy()[ids], scores.boundary.f1()[ids])
    shares, orders = matrix.frequency()[ids], scores.orders()
    return [
        (
            name,
            *(percent(column[row]) for column in columns),
            f"{100 * shares[row]:.2f}",
            str(orders[row]) if orders[row] >= 0 else "none",
        )
        for row, name in enumerate(scores.names)
    ]


def means(scores: Scores) -> list[tuple[str, float]]:
    """The figures over all classes, by title."""
    return [
        ("mIoU", scores.miou()),
        ("foreground mIoU", scores.f_miou()),
        *((f"mIoU of gamma {gamma}", value) for gamma, value in scores.frequency_mious().items()),
        ("pixel accuracy", scores.pixel_accuracy()),
        ("mean class accuracy", scores.matrix.mean_class_accuracy()),
        ("boundary F1", scores.boundary_f1()),
    ]


def percent(value: float) -> str:
    return "absent" if np.isnan(value) else f"{100 * value:.1f}"


def read_ahead(samples: Joined, chosen: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The chosen samples in order, each read while the one before is worked on."""
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(samples.read, chosen[0])
        for i in range(1, len(chosen) + 1):
            sample = upcoming.result()
            if i < len(chosen):
                upcoming = reader.submit(samples.read, chosen[i])
            yield sample


def _by_name(scores: Scores, values: np.ndarray) -> dict[str, float | None]:
    return {name: number(value) for name, value in zip(scores.names, values, strict=True)}
