"""The one worker thread: the road of a frame from the slot of its camera to its published masks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from rclpy.clock import Clock
from rclpy.impl.rcutils_logger import RcutilsLogger

from drive_seg.image_messages import ImageError, decode
from drive_seg.node.camera import DEACTIVATED, Camera, Frame
from drive_seg.node.ledger import Fate
from drive_seg.node.measures import Throttle
from drive_seg.node.parameters import Tuning
from drive_seg.segmenter import Segmentation, Segmenter


@dataclass
class Job:
    """A frame the worker has picked up, and what it has found out about it so far."""

    frame: Frame
    started: float = field(default_factory=time.perf_counter)
    wanted: frozenset[str] = frozenset()
    image: np.ndarray | None = None
    mask: Segmentation | None = None
    stages: dict[str, float] = field(default_factory=dict)


class Worker:
    """Takes the newest frame of every camera that has one, and serves them together as one batch.

    So there is never a backlog, and no camera can starve another.
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
        self._wake = threading.Condition()
        self._stopping = False
        # Held while a frame is published, so that nothing is once the batch in hand was given up.
        self._publishing = threading.Lock()
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="drive_seg worker", daemon=True)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """A frame waits; called from the executor's thread."""
        with self._wake:
            self._wake.notify()

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
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or any(camera.has_frame for camera in self._cameras))
                if self._stopping:
                    return
            frames = [frame for camera in self._cameras if (frame := camera.take())]
            # Who is first in the batch is also published first, so the cameras take turns.
            self._cameras.append(self._cameras.pop(0))
            self._serve(frames)

    def _serve(self, frames: list[Frame]) -> None:
        jobs = [Job(frame) for frame in frames]
        jobs = self._each(self._pick_up, jobs)
        jobs = self._each(self._decode, jobs)
        jobs = self._segment(jobs)
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
        tuning, age_ns = self._tuning(), self._age_ns(job.frame)
        job.frame.health.time_age(age_ns)
        job.wanted = job.frame.camera.outputs.wanted(tuning.publish_confidence)
        if tuning.max_age_ns is not None and age_ns > tuning.max_age_ns:
            self._end(job.frame, Fate.EXPIRED, f"{age_ns / 1e6:.0f} ms old when picked up")
        elif not job.wanted:
            self._end(job.frame, Fate.WITHHELD, "nobody listens")

    def _decode(self, job: Job) -> None:
        started = time.perf_counter()
        try:
            job.image = decode(job.frame.message)
        except ImageError as error:
            self._end(job.frame, Fate.REJECTED, str(error))
        job.stages["decode"] = time.perf_counter() - started

    def _segment(self, jobs: list[Job]) -> list[Job]:
        """Run the network on all images at once; the jobs that have their masks."""
        if not jobs:
            return []
        confidence = any("confidence" in job.wanted for job in jobs)
        stages: dict[str, float] = {}
        try:
            masks = self._segmenter([job.image for job in jobs], confidence=confidence, stages=stages)
        except Exception as error:  # out of memory, a lost device: it costs these frames and not the node
            if len(jobs) > 1:
                # One image may be at fault, or the batch too large: the others shall not suffer.
                return [done for job in jobs for done in self._segment([job])]
            self._end(jobs[0].frame, Fate.FAILED, _in_words(error))
            return []
        for job, mask in zip(jobs, masks, strict=True):
            job.mask = mask
            job.stages.update(stages)
        return jobs

    def _publish(self, job: Job) -> None:
        frame, tuning, started = job.frame, self._tuning(), time.perf_counter()
        with self._publishing:
            age_ns = self._age_ns(frame)
            if self._given_up:
                self._end(frame, Fate.WITHHELD, DEACTIVATED)
                return
            if tuning.max_age_ns is not None and age_ns > tuning.max_age_ns:
                self._end(frame, Fate.EXPIRED, f"{age_ns / 1e6:.0f} ms old when its mask was ready")
                return
            frame.camera.outputs.publish(
                job.wanted,
                frame.message.header,
                job.image,
                job.mask.label,
                job.mask.confidence,
                self._segmenter.label_map,
                tuning.overlay_alpha,
            )
            frame.health.time_latency(self._age_ns(frame))
        finished = time.perf_counter()
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
