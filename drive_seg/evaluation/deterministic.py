"""Deterministic replay: a model labels every image of a source exactly once, in order, without a clock."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from drive_seg.evaluation.judge import Judge
from drive_seg.evaluation.masks import MaskFile, Overlays
from drive_seg.evaluation.output import MASKS
from drive_seg.evaluation.partial import Partial
from drive_seg.evaluation.records import FrameRow, new_row
from drive_seg.evaluation.reliability import Confidences, Reliability
from drive_seg.evaluation.rivals import OtherModel, OtherRun, Rival, is_run
from drive_seg.evaluation.truths import TruthChoice, open_truths
from drive_seg.images.messages import ImageError
from drive_seg.recordings.reading import Reading, Slice, Taken
from drive_seg.recordings.sources import SourceError
from drive_seg.recordings.sources.topics import so_many
from drive_seg.segmenter import Segmenter

LATENCY_MEANING = (
    "The model's own time for one image, from the decoded image to the mask; images go through it one after the other. "
    "A replay without a clock has neither transport nor queue, and so no input age."
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelChoice:
    """A model and how to run it, as for ``Segmenter.load``."""

    path: str
    device: str = "auto"
    precision: str = "auto"
    runtime: str = "auto"
    input_size: tuple[int, int] | None = None
    threads: int = 0

    @property
    def name(self) -> str:
        return Path(self.path).stem

    def load(self, tell: Callable[[str], None] = log.info) -> Segmenter:
        more = {"threads": self.threads, "tell": tell}
        return Segmenter.load(self.path, self.device, self.precision, self.input_size, self.runtime, **more)


@dataclass(frozen=True)
class Models:
    """The model that is judged, and the second one where it is compared with a model."""

    model: Segmenter
    other: Segmenter | None = None

    @classmethod
    def load(cls, choice: ModelChoice, against: str = "", tell: Callable[[str], None] = log.info) -> Models:
        """Load what ``choice`` and ``against`` (a model, the folder of an earlier run, or nothing) name.

        Raises:
            ValueError: a model cannot be had.
        """
        second = None
        if against and not is_run(against):
            second = replace(choice, path=against).load(tell)
        return cls(choice.load(tell), second)


@dataclass(frozen=True)
class Work:
    """What to do with one source; plain data, for another process too.

    Attributes:
        source: what to read, see ``open_source``.
        bag: its name in the report; what is left out is made of the source.
        topics: patterns of image topics; None is every camera.
        part: which part of it.
        truth: where its ground truth is.
        against: the folder of an earlier run to compare with; nothing where there is none, or a second model.
        model_name: what masks.mcap says of who made it.
        worst: how many frames to keep for looking at.
        output: where ``masks.mcap`` and ``overlay.mp4`` go, if wanted.
        masks, video: whether they are.
    """

    source: str
    bag: str = ""
    topics: tuple[str, ...] | None = None
    part: Slice = field(default_factory=Slice)
    truth: TruthChoice = field(default_factory=TruthChoice)
    against: str = ""
    model_name: str = ""
    worst: int = 12
    output: Path | None = None
    masks: bool = False
    video: bool = False

    @property
    def name(self) -> str:
        if self.bag or self.source.startswith("synth:"):
            return self.bag or self.source
        return Path(self.source).expanduser().resolve().name


class Replay:
    """One source and one model: ``run`` labels and judges every image.

    Args:
        work: what to do.
        models: who labels.

    Attributes:
        expected: how many images there will be, where that is known.
        remark: a sentence for the user where a truth could not be used.
        written: the masks and videos that ``run`` wrote.

    Raises:
        ValueError: source, truth or the other run cannot be used; the sentence says why.
    """

    def __init__(self, work: Work, models: Models) -> None:
        self._work, self._model = work, models.model
        self._reading = Reading(work.source, work.topics, work.part, work.truth.topics())
        self._truths, self.remark = open_truths(work.truth, self._reading, models.model.label_map)
        self._rival = _rival(work, models, self._reading)
        self.expected = self._reading.expected
        self.written: list[Path] = []
        self._begin_ns: int | None = None
        self._warm: set[tuple[int, ...]] = set()
        self._confidences: Confidences | None = None
        self._reliability: Reliability | None = None

    def run(self, advance: Callable[[], None] = lambda: None) -> Partial:
        """Label and judge.

        Args:
            advance: called after each image.

        Raises:
            ValueError, OSError, RuntimeError: the source cannot be read on, or an output cannot be written.
        """
        label_map = self._model.label_map
        truth_ids, groups = (self._truths.ids, self._truths.groups) if self._truths is not None else ((), ())
        judge = Judge(label_map, truth_ids, self._work.worst, versus=self._rival is not None, groups=groups)
        if self._truths is not None and isinstance(self._model, Segmenter) and self._model.gives_logits:
            temperature = self._model.contract.confidence.temperature
            self._confidences = Confidences(temperature, label_map.num_classes, groups, truth_ids)
            self._reliability = Reliability.empty(temperature)
        with contextlib.ExitStack() as stack:
            masks, videos = self._outputs(stack)
            for taken in self._reading:
                judged = self._frame(taken, masks, videos)
                judge.frame(*judged)
                advance()
        self.written = [] if masks is None or not masks.count else [masks.path]
        self.written += videos.paths if videos is not None else []
        reading = self._reading
        if not judge.received:
            raise SourceError(f"{self._work.source} has no image that can be read in this part of it.")
        if reason := judge.why_none_decoded():
            raise SourceError(f"{self._work.source}: none of its images can be decoded, the first: {reason}.")
        remark = _remark(self.remark, reading)
        partial = judge.partial(self._work.name, judge.received + reading.damaged, reading.topics, remark)
        partial.repeated, partial.backward = reading.repeated, reading.backward
        partial.reliability = self._reliability
        return partial

    def _outputs(self, stack: contextlib.ExitStack) -> tuple[MaskFile | None, Overlays | None]:
        work, model = self._work, self._model
        masks = videos = None
        if (work.masks or work.video) and work.output is None:
            raise ValueError("masks and videos need a folder to go to")
        if work.masks:
            file = MaskFile(work.output / MASKS, model.label_map, work.model_name, model.sha256)
            masks = stack.enter_context(file)
        if work.video:
            file = Overlays(work.output, list(self._reading.topics), self._reading.rate(), model.label_map)
            videos = stack.enter_context(file)
        return masks, videos

    def _frame(
        self, taken: Taken, masks: MaskFile | None, videos: Overlays | None
    ) -> tuple[FrameRow, np.ndarray | None, np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """The frame's row, image, prediction, truth and the other's mask."""
        record, stamp = taken.record, taken.record.stamp_ns
        if self._begin_ns is None:
            self._begin_ns = record.moment_ns
        time_s = (record.moment_ns - self._begin_ns) / 1e9
        row = new_row(self._work.name, taken.camera, taken.number, stamp, time_s)
        try:
            image = record.image()
        except ImageError as error:
            row.update(fate="rejected", reason=str(error))
            return row, None, None, None, None
        prediction = self._predict(row, taken, image)
        if videos is not None:
            videos.write(taken.camera, image, prediction)
        if prediction is None:
            return row, image, None, None, None
        if masks is not None:
            masks.write(taken.camera, stamp, record.frame_id, record.time_ns, prediction)
        truth = _or_reason(row, "truth", lambda: self._truths.of(taken)) if self._truths is not None else None
        other = None
        if self._rival is not None:
            other = _or_reason(row, "other mask", lambda: self._rival.of(taken, image))
        if self._confidences is not None and truth is not None and truth.shape == prediction.shape:
            self._reliability += self._confidences.count(self._model.logits(image), truth)
        return row, image, prediction, truth, other

    def _predict(self, row: FrameRow, taken: Taken, image: np.ndarray) -> np.ndarray | None:
        """The frame's mask, uint8 [H, W], with its time in the row; None without one, and the row says why."""
        try:
            prediction, row["latency_ms"] = self._labelled(image)
        except Exception as error:  # whatever a runtime raises: this frame has no mask, the next may have one
            log.warning("Frame %d of %s could not be labelled: %s", taken.number, taken.camera, error)
            row.update(fate="failed", reason=f"{type(error).__name__}: {error}")
            return None
        return prediction

    def _labelled(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        """The mask and the milliseconds that it took; the first image of a size is labelled twice, once to warm up."""
        if image.shape not in self._warm:
            self._model(image)
            self._warm.add(image.shape)
        begin = perf_counter()
        label = self._model(image).label
        return label, 1000.0 * (perf_counter() - begin)


def _rival(work: Work, models: Models, reading: Reading) -> Rival | None:
    if models.other is not None:
        return OtherModel(models.other, models.model.label_map)
    return OtherRun(Path(work.against), models.model.label_map, reading) if work.against else None


def _or_reason(row: FrameRow, what: str, find: Callable[[], np.ndarray | None]) -> np.ndarray | None:
    try:
        return find()
    except ImageError as error:
        row["reason"] = f"{row['reason']}; {what}: {error}".removeprefix("; ")
        return None


def _remark(truth: str, reading: Reading) -> str:
    parts = [text.rstrip(".") for text in (truth, reading.truncated) if text]
    parts += [
        f"{so_many(count, 'image')} {what}"
        for count, what in (
            (reading.damaged, "could not be read"),
            (reading.repeated, "with the stamp of an earlier one"),
            (reading.backward, "with an earlier stamp than the one before"),
        )
        if count
    ]
    return "; ".join(parts)
