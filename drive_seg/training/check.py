"""``drive-seg train RECIPE --check``: all that is wrong with a recipe's data, found before any training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from drive_seg.datasets import Dataset, open_unchecked
from drive_seg.datasets.base import BrokenSample, Fault
from drive_seg.datasets.joined import left_out, table_of
from drive_seg.labels import VOID, LabelMap, label_map
from drive_seg.labels.groups import group_names
from drive_seg.training.augmentation import patch_windows
from drive_seg.training.check_report import Problem, Report, SplitFigures, print_problems
from drive_seg.training.leaks import Look, find_leaks, look_of
from drive_seg.training.recipe import Recipe, Source
from drive_seg.training.statistics import for_each_sample

_NAMED = 3
"""Files of a kind that a refusal names."""

_MUCH_VOID, _MUCH_VOID_OF_ONE_CLASS = 0.5, 0.01
"""Shares of void among all pixels from which on it is told."""

_SENTENCES = {
    "missing": "{n} without a partner",
    "unreadable": "{n} that cannot be read",
    "size": "{n} whose label image has another size than the picture",
}


@dataclass(frozen=True)
class _Sample:
    """What remains of a sample once it was looked at; without ``look`` it is broken."""

    name: str
    faults: tuple[Fault, ...] = ()
    look: Look | None = None
    size: tuple[int, int] = (0, 0)
    counts: np.ndarray | None = None
    is_turned: bool = False


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
        return [sample for sample in self.samples if sample.look is not None]


def check_data(recipe: Recipe, progress: bool = True) -> Report:
    """Read every sample of a recipe once and gather all that is wrong, rather than stop at the first.

    Errors: a dataset that cannot be opened, files without a partner, unreadable files, labels of another size than
    their image, ids outside the label map, classes without a counterpart in the run's label map, frames of validation
    that are in training too (the same pixels, or the same name and look; a warning where the recipe means it so),
    patches that leave a part of an image out, sources that cannot tell the presence of classes to a loss that asks for
    it, validation without any labelled pixel, too few images for one batch.
    Warnings: images without any labelled pixel, images that state an EXIF orientation, much void, images that a dataset
    holds twice, frames of both splits with the same name that look different or with different names that look the
    same, classes that never occur.
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
    problems += _leaks(checked, allowed=recipe.data.val_is_trained_on)
    problems += _unscored(splits[1])
    problems += _patches(recipe, [part for part in checked if part.split == "train"])
    images = sum(len(part.samples) * part.source.repeat for part in checked if part.split == "train")
    if recipe.augmentation.patches is not None:
        rows, columns = recipe.augmentation.patches.grid
        images *= rows * columns
    if 0 < images < recipe.data.batch_size:
        text = f"{_images(images)} do not fill one batch of {recipe.data.batch_size}"
        problems.append(Problem("error", "train", text))
    return Report(splits, sorted(problems, key=lambda problem: problem.level))


def refuse_broken(recipe: Recipe, progress: bool = True) -> None:
    """Check a recipe's data before it is trained on; warnings go to standard error, be it a terminal or a log file.

    Raises:
        ValueError: if there is an error; it says which files, the first ones of each kind.
    """
    report = check_data(recipe, progress)
    errors = [problem for problem in report.problems if problem.level == "error"]
    if errors:
        told = "; ".join(_with_files(problem) for problem in errors)
        raise ValueError(f"this data is not trained on: {told} (`drive-seg train RECIPE --check` lists all)")
    if report.problems:
        print_problems(report.problems, Console(stderr=True), most_files=_NAMED)


def _with_files(problem: Problem) -> str:
    files = ", ".join(problem.files[:_NAMED]) + (", ..." if len(problem.files) > _NAMED else "")
    return f"{problem.where}: {problem.text}" + (f" ({files})" if files else "")


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
    counts = np.bincount(label.ravel(), minlength=256)
    is_turned = getattr(dataset, "is_turned", lambda i: False)(i)  # which datasets of files can tell
    return _Sample(name, (), look_of(name, image), label.shape, counts, is_turned)


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
    if turned := tuple(sample.name for sample in part.whole() if sample.is_turned):
        text = (
            f"{_images(len(turned))} with an EXIF orientation, which is not followed: labels must lie on them as stored"
        )
        yield Problem("warning", part.where, text, turned)
    yield from _void(part, part.dataset.label_map)
    by_digest = defaultdict(list)
    for sample in part.whole():
        by_digest[sample.look.digest].append(sample.name)
    if doubles := tuple(" = ".join(names) for names in by_digest.values() if len(names) > 1):
        yield Problem("warning", part.where, f"{_images(len(doubles))} held more than once", doubles)


def _void(part: _Checked, classes: LabelMap) -> Iterable[Problem]:
    """Masks of 0 and 255, in which 255 was to be a class; and much void of any other kind."""
    counts = sum((sample.counts for sample in part.whole()), np.zeros(256, np.int64))
    share, ids = counts[VOID] / max(counts.sum(), 1), np.flatnonzero(counts[:VOID])
    if len(ids) == 1 and share >= _MUCH_VOID_OF_ONE_CLASS and classes.num_classes > 1:
        yield Problem(
            "warning",
            part.where,
            f"labels hold {ids[0]} ({classes.names[ids[0]]}) and {VOID} alone: {VOID} is {share:.0%} of all pixels and "
            "means void here; where it is to be a class, write that class's id instead",
        )
    elif share > _MUCH_VOID:
        yield Problem("warning", part.where, f"{VOID}, which means void, is {share:.0%} of all pixels")


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
    trained: list[tuple[_Checked, np.ndarray | None]] = []
    for part in checked:
        table = None
        if part.dataset is not None and classes is not None:
            try:
                table = table_of(part.dataset.label_map, classes, part.source.meaning, groups)
            except ValueError as error:
                problems.append(Problem("error", part.where, str(error)))
                continue
            if part.split == "train":
                trained.append((part, table))
        _add(splits[part.split], part, np.arange(256) if table is None else table)
    if classes is not None:
        problems += _unknown_presence(recipe, trained, classes, groups)
        for split in splits.values():
            split.names = (*classes.names, *group_names(classes, groups))
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


def _unscored(val: SplitFigures) -> Iterable[Problem]:
    """Nothing in validation that the best weights could be chosen by."""
    if val.count and not val.pixels[:VOID].any():
        yield Problem("error", "val", "no labelled pixel, so nothing tells which weights are best")


def _unknown_presence(
    recipe: Recipe,
    trained: list[tuple[_Checked, np.ndarray | None]],
    classes: LabelMap,
    groups: list[tuple[int, ...]],
) -> Iterable[Problem]:
    """Sources whose labels cannot say what an image does not show, where a loss would learn from their silence."""
    asking = sorted({"sel", "bwbce"} & set(recipe.losses))
    missing = left_out([table for _, table in trained], classes.num_classes, groups) if asking else {}
    for number, ids in missing.items():
        names = ", ".join(classes.names[i] for i in ids)
        text = (
            f"the loss '{asking[0]}' learns which classes an image does not show, but labels of '{classes.name}' made "
            f"from these leave out {names}: say under 'meaning' what they are part of here, or leave that loss out"
        )
        yield Problem("error", trained[number][0].where, text)


def _leaks(checked: list[_Checked], allowed: bool) -> Iterable[Problem]:
    train, val = ([s.look for p in checked if p.split == split for s in p.whole()] for split in ("train", "val"))
    leaks = find_leaks(train, val)
    if leaks.shared:
        text = f"{_images(len(leaks.shared))} also in train: scores on them say nothing about new images"
        yield Problem("warning" if allowed else "error", "val", text, tuple(leaks.shared))
    if leaks.twins:
        text = f"{_images(len(leaks.twins))} that look like one of train: stored anew, or a moment apart"
        yield Problem("warning", "val", text, tuple(leaks.twins))
    if leaks.namesakes:
        text = f"{_images(len(leaks.namesakes))} named as one of train, though they look different"
        yield Problem("warning", "val", text, tuple(leaks.namesakes))


def _patches(recipe: Recipe, train: list[_Checked]) -> Iterable[Problem]:
    """Images of which the recipe's patches would leave out a part."""
    patches = recipe.augmentation.patches
    if patches is None:
        return
    gaps: dict[str, list[str]] = defaultdict(list)
    for sample in (sample for part in train for sample in part.whole()):
        try:
            patch_windows(sample.size, patches.size, patches.grid)
        except ValueError as error:
            gaps[str(error)].append(sample.name)
    for text, names in gaps.items():
        yield Problem("error", "augmentation.patches", text, tuple(names))


def _files(count: int) -> str:
    return f"{count} file{'s' if count > 1 else ''}"


def _images(count: int) -> str:
    return f"{count} image{'s' if count > 1 else ''}"
