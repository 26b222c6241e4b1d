"""Several datasets as one: their ids become the run's classes and groups of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from drive_seg.labels import VOID, LabelMap
from drive_seg.labels.groups import known_meaning, translation


class Joined:
    """Datasets one after the other, each ``repeat`` times, with labels in the run's targets.

    Args:
        label_map: the classes of the run.
        members: (dataset, how often, meaning of its classes where the names differ; see
            :func:`~drive_seg.labels.groups.translation`).
        groups: the groups so far, which this appends to.

    Raises:
        ValueError: if a class of a dataset has no counterpart.
    """

    def __init__(
        self,
        label_map: LabelMap,
        members: Sequence[tuple[Any, int, dict[str, list[str]]]],
        groups: list[tuple[int, ...]],
    ) -> None:
        self.label_map, self.groups = label_map, groups
        self._places: list[tuple[int, int]] = []
        self._sets, self._tables = [], []
        for number, (dataset, repeat, meaning) in enumerate(members):
            self._sets.append(dataset)
            self._tables.append(table_of(dataset.label_map, label_map, meaning, groups))
            self._places += [(number, i) for i in range(len(dataset))] * repeat

    @property
    def reads_in_parallel(self) -> bool:
        return all(dataset.reads_in_parallel for dataset in self._sets)

    def __len__(self) -> int:
        return len(self._places)

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 BGR [H, W, 3] and label uint8 [H, W], ids of the run's targets, of sample i."""
        number, place = self._places[i]
        image, label = self._sets[number].read(place)
        table = self._tables[number]
        return image, label if table is None else table[label]

    def place(self, i: int) -> tuple[int, int]:
        """(number of the dataset, sample within it) of sample i: equal for repeated ones."""
        return self._places[i]

    def ids(self) -> list[int]:
        """The targets that the labels can hold, in order."""
        tables = (np.arange(self.label_map.num_classes) if table is None else table for table in self._tables)
        return np.setdiff1d(np.concatenate([np.zeros(0, int), *tables]), [VOID]).tolist()

    def name_of(self, i: int) -> str:
        number, place = self._places[i]
        return self._sets[number].name_of(place)

    def counts(self, count_ids: Any) -> np.ndarray:
        """Pixels of each target, float64 [256], repeats included; ``count_ids(dataset)`` counts a dataset's own ids."""
        total = np.zeros(256, np.float64)
        for number, (dataset, table) in enumerate(zip(self._sets, self._tables, strict=True)):
            own = count_ids(dataset)
            repeats = sum(place == (number, 0) for place in self._places)
            ids = np.arange(len(own)) if table is None else table[: len(own)]
            np.add.at(total, ids, own * repeats)
        return total


def table_of(
    source: LabelMap, target: LabelMap, meaning: dict[str, list[str]], groups: list[tuple[int, ...]]
) -> np.ndarray | None:
    """The table from a dataset's ids to the run's targets, uint8 [256], or None where they are the same.

    ``meaning`` goes before what is known of the two label maps. New groups are appended to ``groups``.

    Raises:
        ValueError: if a class of the dataset has no counterpart.
    """
    if source.names == target.names and not meaning:
        return None
    return translation(source, target, {**known_meaning(source.name, target.name), **meaning}, groups)


def left_out(
    tables: Sequence[np.ndarray | None], num_classes: int, groups: Sequence[tuple[int, ...]]
) -> dict[int, list[int]]:
    """Classes that other datasets tell, alone or in a group, but one does not; its images may show them all the same.

    Args:
        tables: of each dataset, as of :func:`table_of`.
        num_classes: C.
        groups: the class ids of each.

    Returns:
        Number of a dataset -> class ids that its labels leave out; complete ones are not there.
    """
    told = []
    for table in tables:
        targets = range(num_classes) if table is None else set(table.tolist()) - {VOID}
        told.append({i for t in targets for i in ((t,) if t < num_classes else groups[t - num_classes])})
    missing = {number: sorted(set().union(*told) - own) for number, own in enumerate(told)}
    return {number: classes for number, classes in missing.items() if classes}
