"""Frames in, counts out: what a replay's figures are made of, wherever the masks come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from drive_seg.evaluation.flicker import Changes, Flicker
from drive_seg.evaluation.partial import Partial, Versus
from drive_seg.evaluation.records import FrameRow, Picture, number
from drive_seg.evaluation.worst import Worst
from drive_seg.labels import LabelMap
from drive_seg.metrics import BoundaryScore, ConfusionMatrix, mean


class Judge:
    """Counts the frames of one bag, given in order.

    Args:
        label_map: what the ids of masks and truths mean.
        truth_ids: the ids that truths can hold; None is all of them. A class that no truth can hold is in no mean.
        worst: how many frames to keep for looking at, of either kind.
        versus: whether there are masks of another model or run.
        groups: the class ids of each of the G groups that truths may hold instead of a class, as C + g.
    """

    def __init__(
        self,
        label_map: LabelMap,
        truth_ids: Sequence[int] | None = None,
        worst: int = 12,
        versus: bool = False,
        groups: Sequence[tuple[int, ...]] = (),
    ) -> None:
        count = label_map.num_classes
        self.label_map, self._groups = label_map, tuple(groups)
        rows = count + len(self._groups)
        self._truth_ids = tuple(range(rows)) if truth_ids is None else tuple(truth_ids)
        self._matrix, self._boundary = ConfusionMatrix(count, self._groups), BoundaryScore(count, self._groups)
        self._predicted, self._flicker = np.zeros(count + 1, np.int64), np.zeros(2, np.int64)
        self._versus = None
        if versus:
            self._versus = Versus(np.zeros((count + 1, count + 1), np.int64), *np.zeros((2, rows, count + 1), np.int64))
        self._motion: dict[str, Flicker] = {}
        self._rows: list[FrameRow] = []
        self._by_miou = Worst(worst, lambda row: row["miou"])
        self._by_flicker = Worst(worst, lambda row: -(row["flicker"] or 0.0))
        self._by_agreement = Worst(worst, lambda row: row["agreement"])

    @property
    def received(self) -> int:
        """How many frames it was given."""
        return len(self._rows)

    def why_none_decoded(self) -> str:
        """The first frame's reason where every frame was rejected, so that none could be decoded; else empty."""
        all_rejected = self._rows and all(row["fate"] == "rejected" for row in self._rows)
        return self._rows[0]["reason"] if all_rejected else ""

    def frame(
        self,
        row: FrameRow,
        image: np.ndarray | None = None,
        prediction: np.ndarray | None = None,
        truth: np.ndarray | None = None,
        other: np.ndarray | None = None,
    ) -> None:
        """Take one frame; the frames of a camera come in the order of the recording.

        Args:
            row: who, when and what became of it; its figures are filled in here. A truth or other mask of another size
                than the prediction is not used, which the row's ``reason`` then says.
            image: uint8 [H, W, 3] BGR; without it there is no flicker and no picture.
            prediction: uint8 [H, W]; None if nothing was published.
            truth: uint8 [H, W], ids of the label map and groups, 255 = void.
            other: uint8 [H, W], ids of the label map.

        Raises:
            ValueError: the truth holds an id that is neither a class nor a group nor void.
        """
        self._rows.append(row)
        if prediction is None:
            return
        truth = _fitting(row, "truth", truth, prediction)
        other = _fitting(row, "other mask", other, prediction)
        if image is not None and image.shape[:2] != prediction.shape:
            _add_reason(row, f"the mask is {_size(prediction)} but the image {_size(image)}")
            image = None
        self._predicted += np.bincount(self._clipped(prediction), minlength=len(self._predicted))
        own = self._score(row, prediction, truth) if truth is not None else None
        if image is not None:
            self._watch(row, image, prediction, other)
        if other is not None and self._versus is not None:
            self._compare(row, prediction, other, truth, own)
        if image is not None:
            self._show(Picture(dict(row), image, prediction, truth, other))

    def partial(self, bag: str, in_source: int, cameras: Iterable[str] = (), remark: str = "") -> Partial:
        """What was counted so far, as the result of this bag.

        Args:
            bag: its name.
            in_source: how many frames there were in it.
            cameras: their names; those without a frame are named here.
            remark: what one must know of the bag, such as where it ended early.
        """
        miou = mean(self._matrix.iou()[list(self._truth_ids)])
        scored = sum(row["miou"] is not None for row in self._rows)
        entry = {
            "name": bag,
            "status": "ok",
            "reason": remark,
            "frames": len(self._rows),
            "scored": scored,
            "miou": number(miou),
        }
        return Partial(
            self.label_map,
            self._truth_ids,
            self._matrix.counts,
            self._boundary.counts,
            self._predicted,
            self._flicker,
            self._rows,
            self._by_miou.pictures or self._by_flicker.pictures,
            self._by_agreement.pictures,
            self._versus,
            [entry],
            list(dict.fromkeys([*cameras, *(row["camera"] for row in self._rows)])),
            in_source,
            groups=self._groups,
        )

    def _score(self, row: FrameRow, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray | None:
        """Fill in the row's figures; the frame's confusion counts, None if its truth is all void."""
        count, ids = self.label_map.num_classes, list(self._truth_ids)
        matrix, boundary = ConfusionMatrix(count, self._groups), BoundaryScore(count, self._groups)
        matrix.update(prediction, truth)
        if not matrix.counts.any():
            _add_reason(row, "the truth is all void")
            return None
        boundary.update(prediction, truth)
        self._matrix += matrix
        self._boundary += boundary
        row["miou"] = number(mean(matrix.iou()[ids]))
        row["pixel_accuracy"] = number(matrix.pixel_accuracy())
        row["boundary_f1"] = number(mean(boundary.f1()[ids]))
        return matrix.counts

    def _watch(self, row: FrameRow, image: np.ndarray, prediction: np.ndarray, other: np.ndarray | None) -> None:
        masks = [prediction] if self._versus is None else [prediction, other]
        found = self._motion.setdefault(row["camera"], Flicker()).update(round(row["time_s"] * 1e9), image, masks)
        self._flicker += _counts(found[0])
        row["flicker"] = found[0].share if found[0] is not None else None
        if self._versus is not None:
            self._versus.flicker += _counts(found[1])

    def _compare(
        self,
        row: FrameRow,
        prediction: np.ndarray,
        other: np.ndarray,
        truth: np.ndarray | None,
        own: np.ndarray | None,
    ) -> None:
        count = self.label_map.num_classes
        pairs = self._clipped(other) * (count + 1) + self._clipped(prediction)
        self._versus.both += np.bincount(pairs, minlength=(count + 1) ** 2).reshape(count + 1, count + 1)
        self._versus.frames += 1
        row["agreement"] = float(np.mean(prediction == other))
        if own is not None:
            matrix = ConfusionMatrix(count, self._groups)
            matrix.update(other, truth)
            self._versus.own += own
            self._versus.other += matrix.counts

    def _show(self, picture: Picture) -> None:
        if picture.row["miou"] is not None:
            self._by_miou.add(picture)
        else:
            self._by_flicker.add(picture)
        if picture.row["agreement"] is not None:
            self._by_agreement.add(picture)

    def _clipped(self, mask: np.ndarray) -> np.ndarray:
        return np.minimum(mask.ravel(), self.label_map.num_classes).astype(np.int64)


def _fitting(row: FrameRow, what: str, mask: np.ndarray | None, prediction: np.ndarray) -> np.ndarray | None:
    if mask is None or mask.shape == prediction.shape:
        return mask
    _add_reason(row, f"the {what} is {_size(mask)} but the mask {_size(prediction)}")
    return None


def _add_reason(row: FrameRow, reason: str) -> None:
    row["reason"] = f"{row['reason']}; {reason}" if row["reason"] else reason


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


def _counts(changes: Changes | None) -> tuple[int, int]:
    return (changes.changed, changes.compared) if changes is not None else (0, 0)
