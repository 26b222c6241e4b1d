"""Scores of a checkpoint on a labelled dataset, by the same road as on the vehicle."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table

from drive_seg.metrics import ConfusionMatrix
from drive_seg.segmenter import Segmenter
from drive_seg.training.datasets import Dataset


def evaluate(segmenter: Segmenter, dataset: Dataset, progress: bool = True) -> ConfusionMatrix:
    """The confusion matrix over a whole dataset at the labels' resolution.

    Raises:
        ValueError: if the dataset's classes are not the checkpoint's, or a sample is broken.
    """
    if dataset.label_map.names != segmenter.label_map.names:
        raise ValueError(
            f"the checkpoint knows the classes of '{segmenter.label_map.name}', the dataset those of "
            f"'{dataset.label_map.name}'"
        )
    matrix = ConfusionMatrix(dataset.label_map.num_classes)
    for i in track(range(len(dataset)), description="evaluating", transient=True, disable=not progress):
        image, label = dataset.read(i)
        matrix.update(segmenter(image).label, label)
    return matrix


def as_report(matrix: ConfusionMatrix, names: tuple[str, ...]) -> dict[str, Any]:
    """Plain data for ``--json``: ``miou``, ``pixel_accuracy``, ``iou`` by class (None = absent), the counts."""
    iou = {n: (None if np.isnan(v) else float(v)) for n, v in zip(names, matrix.iou(), strict=True)}
    return {
        "miou": matrix.miou(),
        "pixel_accuracy": matrix.pixel_accuracy(),
        "iou": iou,
        "confusion_matrix": matrix.counts.tolist(),
    }


def as_table(matrix: ConfusionMatrix, names: tuple[str, ...]) -> Table:
    """IoU and share of every class, for the terminal."""
    table = Table("class", "IoU %", "share of labelled pixels %")
    for name, iou, share in zip(names, matrix.iou(), matrix.frequency(), strict=True):
        table.add_row(name, "absent" if np.isnan(iou) else f"{100 * iou:.1f}", f"{100 * share:.2f}")
    table.add_section()
    table.add_row("mean", f"{100 * matrix.miou():.1f}", f"pixel accuracy {100 * matrix.pixel_accuracy():.1f}")
    return table
