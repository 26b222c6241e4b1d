"""``drive-seg train RECIPE --check``: all that is wrong with a recipe's data, found before any training."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from drive_seg.labels import VOID, LabelMap, label_map
from drive_seg.training.datasets import Dataset, open_unchecked
from drive_seg.training.datasets.base import BrokenSample, Fault
from drive_seg.training.datasets.joined import table_of
from drive_seg.training.recipe import Recipe, Source
from drive_seg.training.statistics import for_each_sample

_THUMBNAIL = (16, 16)
_ALIKE = 0.05
"""Mean difference of thumbnails, as a share of their contrast, up to which frames of one name are the same picture.

On CamVid, another size and a JPEG quality of 50 make at most 0.02; train frames apart in time differ by 0.11 or more.
"""

_SENTENCES = {
    "missing": "{n} without a partner",
    "unreadable": "{n} that cannot be read",
    "size": "{n} whose label image has another size than the picture",
}


@dataclass(frozen=True)
class Problem:
    """Something wrong: ``level`` is "error" (no training) or "warning"; ``files`` are all that it concerns."""

    level: str
    where: str
    text: str
    files: tuple[str, ...] = ()


@dataclass
class SplitFigures:
    """What a split holds, repeats and broken samples left out.

    Attributes:
        name: "train" or "val".
        sizes: (height, width) -> images.
        pixels: float64 [256], how many of each target (class or group of the run) and, at 255, of void.
        images: int64 [256], in how many images each occurs.
        names: of the targets.
    """

    name: str
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256))
    images: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return sum(self.sizes.values())

    @property
    def void_share(self) -> float:
        """The share of void among all pixels."""
        return float(self.pixels[VOID] / max(self.pixels.sum(), 1))

    def shares(self) -> np.ndarray:
        """Each target's share of the labelled pixels, float64 [targets]."""
        labelled = self.pixels[: len(self.names)]
        return labelled / max(labelled.sum(), 1)


@dataclass
class Report:
    """The outcome of a check."""

    splits: list[SplitFigures]
    problems: list[Problem]

    @property
    def errors(self) -> int:
        return sum(problem.level == "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "errors": self.errors,
            "warnings": len(self.problems) - self.errors,
            "problems": [{**vars(problem), "files": list(problem.files)} for problem in self.problems],
            "splits": [
                {
                    "name": split.name,
                    "images": split.count,
                    "sizes": {f"{h}x{w}": count for (h, w), count in split.sizes.most_common()},
                    "void_share": split.void_share,
                    "classes": [
                        {"name": name, "share": float(share), "images": int(images)}
                        for name, share, images in zip(split.names, split.shares(), split.images, strict=False)
                    ],
                }
                for split in self.splits
            ],
        }


@dataclass(frozen=True)
class _Sample:
    """What remains of a sample once it was looked at; without ``digest`` it is broken."""

    name: str
    faults: tuple[Fault, ...] = ()
    digest: bytes = b""
    thumbnail: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    counts: np.ndarray | None = None


@dataclass
class _Checked:
    """A source of a recipe and what was seen of its samples; ``dataset`` is None where it could not be opened."""

    split: str
    source: Source
    dataset: Dataset | None
    samples: list[_Sample]

    @property
    def where(self) -> str:
        given = [f"{key}={value}" for key, value in self.source.arguments.items() if key != "root"]
        return f"{self.split}: {' '.join([self.source.dataset, *given])}"

    def whole(self) -> list[_Sample]:
        return [sample for sample in self.samples if sample.digest]


def check_data(recipe: Recipe, progress: bool = True) -> Report:
    """Read every sample of a recipe once and gather all that is wrong, rather than stop at the first.

    Errors: a dataset that cannot be opened, files without a partner, unreadable files, labels of another size than
    their image, ids outside the label map, classes without a counterpart in the run's label map, frames of validation
    that are in training too (the same pixels, or the same name and look), too few images for one batch.
    Warnings: images without any labelled pixel, images that a dataset holds twice, frames of both splits with the same
    name that look different, classes that never occur.
    """
    problems: list[Problem] = []
    checked = [
        _look_through(split, source, problems, progress)
        for split, sources in (("train", recipe.data.train), ("val", recipe.data.val))
        for source in sources
    ]
    for part in checked:
        problems += _of_source(part)
    splits = _figures(recipe, checked, problems)
    problems += _leaks(checked)
    images = sum(len(part.samples) * part.source.repeat for part in checked if part.split == "train")
    if recipe.augmentation.patches is not None:
        rows, columns = recipe.augmentation.patches.grid
        images *= rows * columns
    if 0 < images < recipe.data.batch_size:
        problems.append(Problem("error", "train", f"{images} images do not fill one batch of {recipe.data.batch_size}"))
    return Report(splits, sorted(problems, key=lambda problem: problem.level))


def _look_through(split: str, source: Source, problems: list[Problem], progress: bool) -> _Checked:
    checked = _Checked(split, source, None, [])
    try:
        dataset = open_unchecked(source.dataset, **source.arguments)
    except (ValueError, OSError) as error:
        problems.append(Problem("error", checked.where, str(error)))
        return checked
    checked.dataset = dataset
    checked.samples = list(for_each_sample(dataset, lambda i: _look_at(dataset, i), checked.where, progress))
    return checked


def _look_at(dataset: Dataset, i: int) -> _Sample:
    name = dataset.name_of(i)
    try:
        image, label = dataset.read(i)
    except BrokenSample as error:
        return _Sample(name, error.faults)
    except (ValueError, OSError) as error:
        return _Sample(name, (Fault("unreadable", name, f"cannot be read: {error}"),))
    grey = cv2.cvtColor(cv2.resize(image, _THUMBNAIL, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    digest = hashlib.blake2b(repr(image.shape).encode() + np.ascontiguousarray(image).data, digest_size=16).digest()
    return _Sample(name, (), digest, grey, label.shape, np.bincount(label.ravel(), minlength=256))


def _of_source(part: _Checked) -> Iterable[Problem]:
    if part.dataset is None:
        return
    faults = [*part.dataset.problems, *(fault for sample in part.samples for fault in sample.faults)]
    for kind, sentence in _SENTENCES.items():
        if files := tuple(str(fault) for fault in faults if fault.kind == kind):
            yield Problem("error", part.where, sentence.format(n=_files(len(files))), files)
    if outside := [fault for fault in faults if fault.kind == "ids"]:
        yield _foreign_ids(part, part.dataset.label_map, outside)
    if blank := tuple(s.name for s in part.whole() if s.counts[:VOID].sum() == 0):
        yield Problem("warning", part.where, f"{_images(len(blank))} without any labelled pixel", blank)
    by_digest = defaultdict(list)
    for sample in part.whole():
        by_digest[sample.digest].append(sample.name)
    if doubles := tuple(" = ".join(names) for names in by_digest.values() if len(names) > 1):
        yield Problem("warning", part.where, f"{_images(len(doubles))} held more than once", doubles)


def _foreign_ids(part: _Checked, classes: LabelMap, faults: list[Fault]) -> Problem:
    counts = Counter(i for fault in faults for i in fault.ids)
    ids = "".join(f", {i} in {_files(count)}" for i, count in sorted(counts.items()))
    text = f"{_files(len(faults))} with values that are no class of label map '{classes.name}' nor void{ids}"
    return Problem("error", part.where, text, tuple(map(str, faults)))


def _figures(recipe: Recipe, checked: list[_Checked], problems: list[Problem]) -> list[SplitFigures]:
    try:
        first = checked[0].dataset
        given = recipe.data.label_map
        classes = label_map(given) if given is not None else None if first is None else first.label_map
    except ValueError as error:
        problems.append(Problem("error", "data.label_map", str(error)))
        classes = None
    splits = {"train": SplitFigures("train"), "val": SplitFigures("val")}
    groups: list[tuple[int, ...]] = []
    for part in checked:
        table = np.arange(256)
        if part.dataset is not None and classes is not None:
            try:
                own = table_of(part.dataset.label_map, classes, part.source.meaning, groups)
                table = table if own is None else own
            except ValueError as error:
                problems.append(Problem("error", part.where, str(error)))
                continue
        _add(splits[part.split], part, table)
    if classes is not None:
        joined = tuple("/".join(classes.names[i] for i in members) for members in groups)
        for split in splits.values():
            split.names = (*classes.names, *joined)
            problems += _absent(split, classes, groups)
    return list(splits.values())


def _add(split: SplitFigures, part: _Checked, table: np.ndarray) -> None:
    for sample in part.whole():
        split.sizes[sample.size] += 1
        counts = np.bincount(table, weights=sample.counts, minlength=256)
        split.pixels += counts
        split.images += counts > 0


def _absent(split: SplitFigures, classes: LabelMap, groups: list[tuple[int, ...]]) -> Iterable[Problem]:
    if not split.count:
        return
    seen = {i for i in range(classes.num_classes) if split.images[i]}
    for g, members in enumerate(groups, start=classes.num_classes):
        seen |= set(members) if split.images[g] else set()
    if absent := [name for i, name in enumerate(classes.names) if i not in seen]:
        outcome = "cannot be learnt" if split.name == "train" else "get no score"
        yield Problem("warning", split.name, f"classes that never occur and {outcome}: {', '.join(absent)}")


def _leaks(checked: list[_Checked]) -> Iterable[Problem]:
    train, val = ([s for p in checked if p.split == split for s in p.whole()] for split in ("train", "val"))
    pictures = {sample.digest: sample.name for sample in train}
    names = defaultdict(list)
    for sample in train:
        names[sample.name].append(sample)
    shared, namesakes = [], []
    for sample in val:
        if sample.digest in pictures:
            shared.append(_both(sample.name, pictures[sample.digest]))
        elif any(_look_alike(sample, other) for other in names.get(sample.name, ())):
            shared.append(sample.name)
        elif sample.name in names:
            namesakes.append(sample.name)
    if shared:
        text = f"{_images(len(shared))} also in train: scores on them say nothing about new images"
        yield Problem("error", "val", text, tuple(dict.fromkeys(shared)))
    if namesakes:
        text = f"{_images(len(namesakes))} named as one of train, though they look different"
        yield Problem("warning", "val", text, tuple(dict.fromkeys(namesakes)))


def _both(val: str, train: str) -> str:
    return val if val == train else f"{val} is {train} of train"


def _look_alike(one: _Sample, other: _Sample) -> bool:
    difference = np.abs(one.thumbnail.astype(np.float32) - other.thumbnail).mean()
    return bool(difference < _ALIKE * min(one.thumbnail.std(), other.thumbnail.std()))


def _files(count: int) -> str:
    return f"{count} file{'s' if count > 1 else ''}"


def _images(count: int) -> str:
    return f"{count} image{'s' if count > 1 else ''}"
