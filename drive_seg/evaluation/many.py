"""Many recordings: each judged alone, in processes side by side or on Ray, and merged into one report."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drive_seg.checkpoint import find_model, read_contract
from drive_seg.evaluation.deterministic import ModelChoice, Models, Replay, Work
from drive_seg.evaluation.judge import Judge
from drive_seg.evaluation.partial import Partial, failed, merge
from drive_seg.evaluation.records import Picture
from drive_seg.evaluation.report import model_of
from drive_seg.inference.runtimes.files import onnx_file
from drive_seg.labels import LabelMap

JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]
FIELDS = ("image", "prediction", "truth", "other")


@dataclass(frozen=True)
class Outcome:
    """What became of one recording: ``partial``, or else ``reason`` says why it has none.

    ``written`` are the masks and videos beside the report. The pictures are packed, see :func:`packed`.
    """

    bag: str
    partial: Partial | None
    reason: str = ""
    written: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """A model that a worker has loaded, in words: what a report says of it, and its classes."""

    about: dict[str, Any]
    label_map: LabelMap


@dataclass(frozen=True)
class Job:
    """What every worker is to know: the model, what to compare with, and how many threads to use (0: all)."""

    choice: ModelChoice
    against: str = ""
    threads: int = 0

    def load(self, tell: Callable[[str], None]) -> Models:
        """Load the models, and let nothing use more threads than allotted: ValueError if they cannot be had."""
        if self.threads:
            import torch

            torch.set_num_threads(self.threads)
            cv2.setNumThreads(self.threads)
        return Models.load(replace(self.choice, threads=self.threads), self.against, tell)

    def describe(self, models: Models) -> Loaded:
        """What the report has to know of the loaded model."""
        return Loaded(model_of(self.choice.name, models.model), models.model.label_map)


def judge_one(work: Work, models: Models, expect: Callable[[int | None], None], advance: Callable[[], None]) -> Outcome:
    """Judge one recording; whatever is wrong with it becomes its outcome.

    Args:
        work: what to do.
        models: who labels.
        expect: called once with how many images there are, if that is known.
        advance: called after each image.
    """
    try:
        if work.output is not None and (work.masks or work.video):
            work.output.mkdir(parents=True, exist_ok=True)
        replay = Replay(work, models)
        expect(replay.expected)
        partial = replay.run(advance)
    except Exception as error:  # one recording must not take the others with it, whatever is wrong with it
        text = str(error) or type(error).__name__
        return Outcome(work.name, None, text if isinstance(error, (ValueError, OSError, RuntimeError)) else repr(error))
    return Outcome(work.name, packed(partial), "", tuple(map(str, replay.written)))


def packed(partial: Partial) -> Partial:
    """The same with every picture as files in memory: the image as JPEG, the masks as PNG."""
    return _with_pictures(partial, lambda kept: replace(kept, **{name: _encoded(kept, name) for name in FIELDS}))


def unpacked(partial: Partial) -> Partial:
    """The inverse of :func:`packed`, but for what JPEG changes of the images."""
    return _with_pictures(partial, lambda kept: replace(kept, **{name: _decoded(kept, name) for name in FIELDS}))


class Merger:
    """Merges outcomes in the order of the names, whatever the order in which they come; the others wait, packed.

    Args:
        names: of all recordings, in order.
        worst: how many frames to keep for looking at.
    """

    def __init__(self, names: list[str], worst: int) -> None:
        self._open, self._worst = list(names), worst
        self._waiting: dict[str, Outcome] = {}
        self._entries: list[dict[str, Any]] = []
        self._partial: Partial | None = None

    def add(self, outcome: Outcome) -> None:
        """Take the outcome of one recording."""
        self._waiting[outcome.bag] = outcome
        while self._open and self._open[0] in self._waiting:
            self._merge(self._waiting.pop(self._open.pop(0)))

    def result(self, label_map: LabelMap) -> Partial:
        """All in one; recordings without an outcome are left out."""
        partial = self._partial or Judge(label_map, ()).partial("", 0)
        return replace(partial, bags=self._entries)

    def _merge(self, outcome: Outcome) -> None:
        if outcome.partial is None:
            self._entries.append(failed(outcome.bag, outcome.reason.rstrip(".")))
            return
        partial = unpacked(outcome.partial)
        try:
            self._partial = partial if self._partial is None else merge([self._partial, partial], self._worst)
        except ValueError as error:
            self._entries.append(failed(outcome.bag, str(error)))
            return
        self._entries += partial.bags


def classes_of(model: str) -> LabelMap:
    """The classes of a model, without loading it: ValueError if it is none."""
    path = find_model(model)
    read = onnx_file.read_contract if onnx_file.is_file_with_contract(path) else read_contract
    return read(path).label_map


def works_of(sources: Mapping[str, str], template: Work) -> list[Work]:
    """The work at each recording (name -> source): as the template, with folders of its own."""
    from drive_seg.evaluation.output import BAGS, distinct_names

    folders = distinct_names(sources)
    made = []
    for name, source in sources.items():
        output = template.output / BAGS / folders[name] if template.output is not None else None
        against = os.path.join(template.against, BAGS, folders[name]) if template.against else ""
        truth = template.truth
        if truth.folder is not None and (truth.folder / name).is_dir():
            truth = replace(truth, folder=truth.folder / name)
        made.append(replace(template, source=source, bag=name, output=output, against=against, truth=truth))
    return made


def absolute(work: Work) -> Work:
    """The same work for a process with another current folder."""
    folder = work.truth.folder
    return replace(
        work,
        source=absolute_path(work.source),
        output=work.output.absolute() if work.output is not None else None,
        against=absolute_path(work.against),
        truth=replace(work.truth, folder=folder.absolute() if folder is not None else None),
    )


def absolute_path(text: str) -> str:
    """The path made absolute, if it is one: names of models and synthetic drives stay."""
    path = Path(text).expanduser()
    return str(path.absolute()) if text and path.exists() else text


def default_jobs(count: int, device: str) -> int:
    """How many processes for so many recordings: one for each core; two where a GPU does the work."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return max(1, min(count, cores, 2 if on_gpu else cores))


def threads_for(jobs: int) -> int:
    """How many threads each of so many processes may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wished = os.environ.get("OMP_NUM_THREADS", "")
    most = min(cores, int(wished)) if wished.isdigit() and int(wished) else cores
    return max(1, min(most, cores // jobs))


def _with_pictures(partial: Partial, change: Callable[[Picture], Picture]) -> Partial:
    return replace(partial, worst=[*map(change, partial.worst)], different=[*map(change, partial.different)])


def _encoded(picture: Picture, name: str) -> np.ndarray | None:
    array = getattr(picture, name)
    if array is None:
        return None
    return cv2.imencode(".jpg", array, JPEG)[1] if name == "image" else cv2.imencode(".png", array)[1]


def _decoded(picture: Picture, name: str) -> np.ndarray | None:
    file = getattr(picture, name)
    return None if file is None else cv2.imdecode(file, cv2.IMREAD_COLOR if name == "image" else cv2.IMREAD_UNCHANGED)
