"""Scores of a segmentation, all from one confusion matrix over a whole set of images."""

from __future__ import annotations

import numpy as np

from drive_seg.labels import VOID


class ConfusionMatrix:
    """Counts of (true class, predicted class) pixels, gathered over any number of images.

    ``counts`` is int64 [C, C + 1]: rows are true classes, columns predicted ones; the last column counts pixels whose
    prediction is void or no class id, which are errors like any other wrong prediction. Pixels whose truth is void
    (255) are left out.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Add one image (or a stack of them).

        Args:
            prediction: uint8, class ids of any shape.
            target: uint8 of the same shape, true ids, 255 = void.

        Raises:
            ValueError: if the shapes differ, or a true id is neither a class nor void.
        """
        if prediction.shape != target.shape:
            raise ValueError(f"prediction is {prediction.shape} but target is {target.shape}")
        valid = target != VOID
        truth = target[valid].astype(np.int64)
        if truth.size and truth.max() >= self.num_classes:
            raise ValueError(f"target holds id {truth.max()}, but there are only {self.num_classes} classes")
        guess = np.minimum(prediction[valid].astype(np.int64), self.num_classes)
        width = self.num_classes + 1
        flat = np.bincount(truth * width + guess, minlength=self.num_classes * width)
        self.counts += flat.reshape(self.num_classes, width)

    def __iadd__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        self.counts += other.counts
        return self

    def iou(self) -> np.ndarray:
        """Intersection over union per class, float64 [C]; nan for a class neither present nor predicted."""
        hit = np.diag(self.counts[:, : self.num_classes]).astype(np.float64)
        union = self.counts.sum(1) + self.counts[:, : self.num_classes].sum(0) - hit
        return np.divide(hit, union, out=np.full(self.num_classes, np.nan), where=union > 0)

    def miou(self) -> float:
        """Mean of :meth:`iou` over the classes present or predicted; nan when nothing was counted."""
        iou = self.iou()
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of counted pixels that are right; nan when nothing was counted."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")

    def frequency(self) -> np.ndarray:
        """Each true class's share of the counted pixels, float64 [C]."""
        rows = self.counts.sum(1).astype(np.float64)
        return rows / max(rows.sum(), 1.0)
