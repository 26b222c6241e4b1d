"""What was counted in a recording or several: plain data that can be sent to another process, and added up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from drive_seg.evaluation.records import FrameRow, Picture
from drive_seg.evaluation.reliability import Reliability
from drive_seg.evaluation.worst import Worst
from drive_seg.labels import LabelMap
from drive_seg.labels.groups import fold, with_groups
from drive_seg.metrics import BoundaryScore, ConfusionMatrix

SUMMED = ("confusion", "boundary", "predicted", "flicker", "in_source", "repeated", "backward")
"""The counts of a :class:`Partial` that several bags' are added up of."""


@dataclass
class Versus:
    """Counts of a comparison with another model's or run's masks, over the frames that have both.

    Attributes:
        both: int64 [C + 1, C + 1], pixels by the other's label (rows) and this one's; the last is void or no class.
        own: int64 [C + G, C + 1], as ``Partial.confusion``, of the frames that have both and a truth.
        other: as ``own``, of the other's masks.
        flicker: pixels changed and compared, of the other's masks.
        frames: how many frames have both.
    """

    both: np.ndarray
    own: np.ndarray
    other: np.ndarray
    flicker: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))
    frames: int = 0


@dataclass
class Partial:
    """What was counted in one bag or several: plain data that can be pickled, sent and merged.

    Attributes:
        label_map: what the ids of masks mean.
        truth_ids: the ids that the truths can hold; the means are over those. Empty without truth.
        confusion: int64 [C + G, C + 1]; rows are true classes and groups, columns predicted classes, the last void or
            no class.
        boundary: int64 [4, C + G], the counts of a ``BoundaryScore``.
        predicted: int64 [C + 1], pixels of all masks by label, the last void or no class.
        flicker: int64 [2], pixels changed for no reason to be seen, and compared.
        rows: one for each frame, in order.
        worst: the worst frames, the worst first: by mIoU if there is truth, else by flicker.
        different: the frames with the least agreement with the other masks.
        versus: the comparison with them; None if there are none.
        bags: name, status, reason, frames, scored, miou of each bag.
        cameras: names of the cameras.
        in_source: how many frames there were, those included that could not be read or were not received.
        ledger: how many frames were received, and ended with each fate, by a node's own account; None where the rows
            tell.
        groups: the class ids of each of the G groups that truths may hold instead of a class, as C + g.
        reliability: of the model's confidence beside the truths; None if it was not looked at.
        repeated, backward: how many images have a stamp that one before them of the same camera had, or an earlier one.
    """

    label_map: LabelMap
    truth_ids: tuple[int, ...]
    confusion: np.ndarray
    boundary: np.ndarray
    predicted: np.ndarray
    flicker: np.ndarray
    rows: list[FrameRow]
    worst: list[Picture]
    different: list[Picture]
    versus: Versus | None
    bags: list[dict[str, Any]]
    cameras: list[str]
    in_source: int
    ledger: dict[str, int] | None = None
    groups: tuple[tuple[int, ...], ...] = ()
    reliability: Reliability | None = None
    repeated: int = 0
    backward: int = 0

    def shown_map(self) -> LabelMap:
        """What the ids of truths mean: the label map's classes, then the groups."""
        return with_groups(self.label_map, self.groups)

    def shown_worst(self) -> list[Picture]:
        """The worst frames in the ids of :meth:`shown_map`: a class that is one of the true group's is the group."""
        return [self._folded(picture) for picture in self.worst]

    def matrix(self) -> ConfusionMatrix:
        """The confusion matrix as one that gives figures."""
        return self.matrix_of(self.confusion)

    def matrix_of(self, counts: np.ndarray) -> ConfusionMatrix:
        """A confusion matrix with these counts, int64 [C + G, C + 1]."""
        matrix = ConfusionMatrix(self.label_map.num_classes, self.groups)
        matrix.counts += counts
        return matrix

    def boundary_score(self) -> BoundaryScore:
        """The boundaries as a score that gives figures."""
        score = BoundaryScore(self.label_map.num_classes, self.groups)
        score.counts += self.boundary
        return score

    def regrouped(self, groups: tuple[tuple[int, ...], ...]) -> Partial:
        """The same counts with the ids of these groups, among which its own are."""
        if groups == self.groups:
            return self
        count = self.label_map.num_classes
        ids = np.arange(256, dtype=np.uint8)
        ids[count : count + len(self.groups)] = [count + groups.index(members) for members in self.groups]
        rows = ids[: count + len(self.groups)]

        def spread(counts: np.ndarray) -> np.ndarray:
            wide = np.zeros((count + len(groups), counts.shape[1]), counts.dtype)
            wide[rows] = counts
            return wide

        def renamed(picture: Picture) -> Picture:
            return picture if picture.truth is None else replace(picture, truth=ids[picture.truth])

        versus = self.versus
        if versus is not None:
            versus = replace(versus, own=spread(versus.own), other=spread(versus.other))
        return replace(
            self,
            truth_ids=tuple(int(ids[i]) for i in self.truth_ids),
            confusion=spread(self.confusion),
            boundary=spread(self.boundary.T).T,
            worst=[renamed(picture) for picture in self.worst],
            different=[renamed(picture) for picture in self.different],
            versus=versus,
            groups=groups,
        )

    def _folded(self, picture: Picture) -> Picture:
        if picture.truth is None or picture.prediction is None:
            return picture
        return replace(
            picture, prediction=fold(picture.prediction, picture.truth, self.label_map.num_classes, self.groups)
        )


def merge(partials: Sequence[Partial], worst: int = 12) -> Partial:
    """Many bags' counts as those of one, in the given order.

    Args:
        partials: at least one, of the same label map; the groups may differ. A group's boundary is counted in the bags
            whose truths may hold it.
        worst: how many frames to keep for looking at, of either kind.

    Raises:
        ValueError: there is none, or their label maps differ.
    """
    if not partials:
        raise ValueError("there is no bag whose figures could be merged")
    label_map = partials[0].label_map
    if any(part.label_map != label_map for part in partials):
        raise ValueError("the bags' masks have different label maps, so their figures cannot be merged")
    groups = tuple(dict.fromkeys(members for part in partials for members in part.groups))
    partials = [part.regrouped(groups) for part in partials]
    compared = [part.versus for part in partials if part.versus is not None]
    sure = [part.reliability for part in partials if part.reliability is not None]
    return Partial(
        label_map=label_map,
        truth_ids=tuple(sorted(set().union(*(part.truth_ids for part in partials)))),
        groups=groups,
        **_sums(partials, SUMMED),
        rows=[row for part in partials for row in part.rows],
        bags=[bag for part in partials for bag in part.bags],
        cameras=list(dict.fromkeys(camera for part in partials for camera in part.cameras)),
        worst=_worst(partials, worst),
        different=Worst.of(
            (shown for part in partials for shown in part.different), worst, lambda row: row["agreement"]
        ),
        versus=Versus(**_sums(compared, Versus.__dataclass_fields__)) if compared else None,
        reliability=sum(sure, Reliability.empty(sure[0].temperature)) if sure else None,
    )


def _sums(parts: Sequence[Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: sum(getattr(part, name) for part in parts) for name in names}


def _worst(partials: Sequence[Partial], count: int) -> list[Picture]:
    """By mIoU where there is truth, else by flicker."""
    pictures = [picture for part in partials for picture in part.worst]
    if not any(part.confusion.any() for part in partials):
        return Worst.of(pictures, count, lambda row: -(row["flicker"] or 0.0))
    return Worst.of((each for each in pictures if each.row["miou"] is not None), count, lambda row: row["miou"])


def failed(bag: str, reason: str) -> dict[str, Any]:
    """The entry of a bag that could not be replayed, for ``Partial.bags``."""
    return {"name": bag, "status": "failed", "reason": reason, "frames": 0, "scored": 0, "miou": None}
