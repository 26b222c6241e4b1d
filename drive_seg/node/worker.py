"""The one worker thread: the road of a frame from the slot of its camera to its published masks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from rclpy.clock import Clock

from drive_seg.images.messages import ImageError
from drive_seg.inference.output_checks import STEP, OutputCheck
from drive_seg.labels import VOID
from drive_seg.node.camera import DEACTIVATED, PAUSED, Camera, Frame
from drive_seg.node.health.ledger import Fate
from drive_seg.node.health.measures import Throttle
from drive_seg.node.parameters import Tuning
from drive_seg.segmenter import DeviceLostError, NotFiniteError, Segmentation, Segmenter

if TYPE_CHECKING:
    from rclpy.impl.rcutils_logger import RcutilsLogger


@dataclass
class Job:
    """A frame the worker has picked up, and what it has found out about it so far."""

    frame: Frame
    tuning: Tuning
    started: float = field(default_factory=time.perf_counter)
    wanted: frozenset[str] = frozenset()
    image: np.ndarray | None = None
    mask: Segmentation | None = None
    stages: dict[str, float] = field(default_factory=dict)


class Worker:
    """Takes the newest frame of every camera that has one, and serves them together as one batch.

    So there is never a backlog, and no camera can starve another.

    Attributes:
        lost: why the device will label nothing more; empty while it may.
        ending: why the thread ended before it was stopped; empty if it did not.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        cameras: Sequence[Camera],
        clock: Clock,
        tuning: Callable[[], Tuning],
        logger: RcutilsLogger,
    ) -> None:
        self._segmenter, self._cameras, self._clock = segmenter, list(cameras), clock
        self._tuning, self._logger, self._throttle = tuning, logger, Throttle()
        self._checks: dict[str, OutputCheck] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._wake = threading.Condition()
        self._stopping = False
        self._successor: tuple[Segmenter, Callable[[], None]] | None = None
        self._busy_s, self._busy_since = 0.0, None
        self.lost = self.ending = ""
        self._failing_since: float | None = None
        self._expected: tuple | None = None
        # Held while a frame is published, so that nothing is once the batch in hand was given up.
        self._publishing = threading.Lock()
        self._given_up = False
        self._paused = False
        self._thread = threading.Thread(target=self._run, name="drive_seg worker", daemon=True)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def stopped(self) -> bool:
        """It was asked to stop."""
        return self._stopping

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """A frame waits; called from the executor's thread."""
        with self._wake:
            self._wake.notify()

    def pause(self, paused: bool) -> None:
        """Let nothing be published, or let frames through again.

        What is being worked on when a pause begins ends as withheld, unless the pause is over before its masks are
        ready.
        """
        with self._publishing:
            self._paused = paused

    def succeed(self, segmenter: Segmenter, taken_over: Callable[[], None]) -> bool:
        """Let another segmenter label all frames from the next batch on; False if the worker was stopped.

        Args:
            taken_over: called from the worker's thread between the last batch of the one and the first of the other;
                not called if the worker is stopped before, or the batch in hand never comes back.
        """
        with self._wake:
            if self._stopping:
                return False
            self._successor = segmenter, taken_over
            self._wake.notify()
            return True

    def image_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the latest image of each camera that sent one."""
        return list(self._sizes.values())

    def busy_seconds(self) -> float:
        """How long it has worked since it was started, up to now."""
        with self._wake:
            since = self._busy_since
            return self._busy_s + (time.monotonic() - since if since is not None else 0.0)

    def batch_seconds(self) -> float:
        """How long it has worked on the batch in hand; 0 if there is none."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def failing_seconds(self) -> float:
        """How long every frame has failed on a device other than the CPU; 0 if the latest did not."""
        since = self._failing_since
        return 0.0 if since is None else time.monotonic() - since

    def stop(self, patience_s: float) -> bool:
        """Finish the batch in hand, publish it, and end the thread.

        A batch that takes longer than the patience is given up: its frames will end as withheld, and nothing of
        them is published after this call. Returns False in that case.
        """
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self.running:
            self._thread.join(patience_s)
        if self.running:
            with self._publishing:
                self._given_up = True
        return not self._given_up

    def _run(self) -> None:
        try:
            self._serve_batches()
        except BaseException as error:  # the watchdog tells it
            self.ending = _in_words(error)
            raise

    def _serve_batches(self) -> None:
        while True:
            with self._wake:
                self._note_idle()
                self._wake.wait_for(self._has_work)
                if self._stopping:
                    return
                successor, self._successor = self._successor, None
                self._busy_since = time.monotonic()
            if successor:
                self._take_over(*successor)
            frames = [frame for camera in self._cameras if (frame := camera.take())]
            # Who is first in the batch is also published first, so the cameras take turns.
            self._cameras.append(self._cameras.pop(0))
            self._serve(frames)

    def _has_work(self) -> bool:
        return self._stopping or self._successor is not None or any(camera.has_frame for camera in self._cameras)

    def _note_idle(self) -> None:
        if self._busy_since is not None:
            self._busy_s += time.monotonic() - self._busy_since
            self._busy_since = None

    def _take_over(self, segmenter: Segmenter, taken_over: Callable[[], None]) -> None:
        self._segmenter, self._expected = segmenter, None
        # They know the classes by the ids of the label map before.
        self._checks.clear()
        try:
            taken_over()
        except Exception as error:  # the thread must live on: without it the node is deaf
            self._logger.error(f"after the model change: {_in_words(error)}")

    def _serve(self, frames: list[Frame]) -> None:
        tuning = self._tuning()  # once, so that no frame sees two settings
        jobs = [Job(frame, tuning) for frame in frames]
        jobs = self._each(self._pick_up, jobs)
        jobs = self._each(self._decode, jobs)
        jobs = self._segment(jobs)
        jobs = self._each(self._check, jobs)
        self._each(self._publish, jobs)

    def _each(self, step: Callable[[Job], None], jobs: list[Job]) -> list[Job]:
        """Take one step with every job; those whose frames have not ended by it."""
        for job in jobs:
            try:
                step(job)
            except Exception as error:  # whatever it is, it costs this frame and neither the others nor the thread
                self._end(job.frame, Fate.FAILED, _in_words(error))
        return [job for job in jobs if job.frame.in_flight]

    def _pick_up(self, job: Job) -> None:
        tuning, age_ns = job.tuning, self._age_ns(job.frame)
        job.frame.health.time_age(age_ns)
        job.wanted = job.frame.camera.outputs.wanted(tuning.publish_confidence)
        if tuning.max_age_ns is not None and age_ns > tuning.max_age_ns:
            self._end(job.frame, Fate.EXPIRED, f"{age_ns / 1e6:.0f} ms old when picked up")
        elif self._paused:
            self._end(job.frame, Fate.WITHHELD, PAUSED)
        elif not job.wanted:
            self._end(job.frame, Fate.WITHHELD, "nobody listens")

    def _decode(self, job: Job) -> None:
        started = time.perf_counter()
        try:
            job.image = job.frame.camera.decode(job.frame.message)
            self._sizes[job.frame.camera.name] = job.image.shape[:2]
        except ImageError as error:
            self._end(job.frame, Fate.REJECTED, str(error))
        job.stages["decode"] = time.perf_counter() - started

    def _segment(self, jobs: list[Job]) -> list[Job]:
        """Run the network on all images at once; the jobs that have their masks."""
        if self.lost:  # nothing is asked of the device any more
            for job in jobs:
                self._end(job.frame, Fate.FAILED, self.lost)
            return []
        if not jobs:
            return []
        tuning = jobs[0].tuning
        confidence = any("confidence" in job.wanted for job in jobs) or tuning.min_confidence > 0
        stages: dict[str, float] = {}
        try:
            self._expect(confidence)
            masks = self._segmenter([job.image for job in jobs], confidence, stages, frame_confidence=tuning.self_check)
        except DeviceLostError as error:
            self.lost = str(error)
            return self._segment(jobs)
        except Exception as error:  # out of memory: it costs these frames and not the node
            if len(jobs) > 1:
                # One image may be at fault, or the batch too large: the others shall not suffer.
                return [done for job in jobs for done in self._segment([job])]
            self._end(jobs[0].frame, Fate.FAILED, _in_words(error))
            if self._segmenter.device != "cpu" and not isinstance(error, NotFiniteError):
                self._failing_since = self._failing_since or time.monotonic()
            return []
        self._failing_since = None
        for job, mask in zip(jobs, masks, strict=True):
            job.mask = mask
            job.stages.update(stages)
        return jobs

    def _expect(self, confidence: bool) -> None:
        """Have the segmenter make ready for the sizes of images of all cameras that have sent one."""
        expected = *self._sizes.values(), confidence
        if expected != self._expected:
            self._expected = expected
            self._segmenter.expect(self.image_sizes(), [confidence])

    def _check(self, job: Job) -> None:
        """Look whether the mask is to be believed, and do with one that is not what the user wants."""
        tuning, camera = job.tuning, job.frame.camera
        if not tuning.self_check:
            self._checks.pop(camera.name, None)
            return
        check = self._checks.get(camera.name)
        if check is None:
            contract = self._segmenter.contract
            check = self._checks[camera.name] = OutputCheck(contract.label_map.names, contract.confidence)
        published = camera.outputs.kept_pixels(job.mask.label, job.mask.confidence, tuning.min_confidence, STEP)
        confidence = job.mask.frame_confidence
        findings = check.look(job.image, job.mask.label, job.frame.stamp_ns, confidence, published)
        if confidence is not None:
            job.frame.health.note_confidence(confidence)
        job.frame.health.doubt(findings, job.frame.stamp_ns)
        if findings and tuning.unsafe_output == "withhold":
            self._end(job.frame, Fate.WITHHELD, f"self-check: {findings[0].text}")
        elif findings and tuning.unsafe_output == "void":
            confidence = None if job.mask.confidence is None else np.zeros_like(job.mask.confidence)
            job.mask = Segmentation(np.full_like(job.mask.label, VOID), confidence)

    def _publish(self, job: Job) -> None:
        frame, tuning, started = job.frame, job.tuning, time.perf_counter()
        with self._publishing:
            age_ns = self._age_ns(frame)
            if self._given_up:
                self._end(frame, Fate.WITHHELD, DEACTIVATED)
                return
            if self._paused:
                self._end(frame, Fate.WITHHELD, PAUSED)
                return
            if tuning.max_age_ns is not None and age_ns > tuning.max_age_ns:
                self._end(frame, Fate.EXPIRED, f"{age_ns / 1e6:.0f} ms old when its mask was ready")
                return
            reason = frame.camera.outputs.publish(
                job.wanted,
                frame.message.header,
                job.image,
                job.mask.label,
                job.mask.confidence,
                self._segmenter.label_map,
                tuning,
            )
            if reason:
                self._end(frame, Fate.WITHHELD, reason)
                return
            latency_ns = self._age_ns(frame)
            frame.health.time_latency(latency_ns)
            finished = time.perf_counter()
            frame.camera.outputs.publish_times((finished - job.started) * 1e3, latency_ns / 1e6)
        job.stages["publish"] = finished - started
        frame.health.time_processing(finished - job.started, job.stages)
        self._end(frame, Fate.PUBLISHED)

    def _age_ns(self, frame: Frame) -> int:
        return self._clock.now().nanoseconds - frame.stamp_ns

    def _end(self, frame: Frame, fate: Fate, reason: str = "") -> None:
        frame.end(fate, reason)
        if fate in (Fate.REJECTED, Fate.FAILED) and self._throttle.lets_through(f"{fate} {frame.camera.name}"):
            count = frame.health.ledger.count().ended[fate]
            self._logger.warning(f"camera '{frame.camera.name}': image {fate.value}: {reason} ({count} so far)")


def _in_words(error: Exception) -> str:
    """One line of an exception: those of CUDA run over pages."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
