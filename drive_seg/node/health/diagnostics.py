"""The health of one camera, gathered while frames pass and told once a second on ``/diagnostics``.

States: ``inactive`` (the node is not active), ``paused`` (by the service ``enable``), ``waiting`` (no image yet),
``active``, ``skipped`` (given up under overload), ``stale`` (images have stopped), ``rejecting`` (the latest image
could not be used), ``stalled`` (the worker hangs, or its device is lost). What is not known is "n/a", never an invented
0.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from drive_seg.confidence import FrameConfidence, Usual
from drive_seg.inference.output_checks import Doubt, Finding
from drive_seg.node.health.ledger import Fate, FrameLedger
from drive_seg.node.health.measures import WINDOW_S, Clock, Rate, Window
from drive_seg.node.health.watchdog import Fault

STALE_AFTER_S = 2.0
AWAITED_AFTER_S = 5.0
HUGE_LATENCY_S = 60.0
"""No frame waits that long in a newest-frame slot: beyond it the stamps come from another time."""
STAGES = ("decode", "preprocess", "network", "postprocess", "publish")
_FATES = tuple(Fate)


@dataclass(frozen=True)
class About:
    """What the diagnostics say of a camera besides its figures."""

    camera: str
    topic: str = "n/a"
    model: str = "n/a"
    model_hash: str = "n/a"
    device: str = "n/a"
    precision: str = "n/a"
    max_age_ns: int | None = None
    network_input: str = "n/a"
    runtime: str = "n/a"
    missing: str = ""
    model_change: str = "none"
    paused: bool = False
    skipped: bool = False
    degraded: str = "off"
    self_check: bool = True
    usual: Usual | None = None
    graphs: str = "n/a"
    fault: Fault | None = None
    node: str = "/segmentation_node"


@dataclass(frozen=True)
class _Doubted:
    """A doubt about the frames of late."""

    text: str
    first_stamp_ns: int
    began: float
    last_seen: float


@dataclass(frozen=True)
class Verdict:
    """State and level of a camera, and the sentence that says why."""

    state: str
    level: bytes
    message: str


class CameraHealth:
    """Everything that is counted and timed of one camera. Any thread may report and read."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.ledger = FrameLedger()
        self.lost_by_middleware: int | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._active_since: float | None = None
        self._last_received: float | None = None
        self._last_worked = Fate.PUBLISHED
        self._last_reason = "n/a"
        self._doubts: dict[Doubt, _Doubted] = {}
        self._doubted: Counter[Doubt] = Counter()
        self._fates = Window(clock)
        self._ages, self._latencies, self._processing = Window(clock), Window(clock), Window(clock)
        self._sure = Window(clock)
        self._stages = {stage: Window(clock) for stage in STAGES}
        self._fps = Rate(clock)

    def activate(self) -> None:
        """Images may come from now on. Counters go on; figures over time start anew."""
        with self._lock:
            self._active_since = self._clock()
            self._last_received = None
            self._last_worked = Fate.PUBLISHED
            self._doubts.clear()
        for figure in (
            self._fates,
            self._ages,
            self._latencies,
            self._processing,
            self._sure,
            self._fps,
            *self._stages.values(),
        ):
            figure.clear()

    def deactivate(self) -> None:
        with self._lock:
            self._active_since = None

    def receive(self) -> None:
        """An image came in."""
        self.ledger.receive()
        with self._lock:
            self._last_received = self._clock()

    def end(self, fate: Fate, reason: str = "") -> None:
        """A received image ended; the reason is kept for the diagnostics."""
        self.ledger.end(fate)
        self._fates.add(_FATES.index(fate))
        with self._lock:
            if reason:
                self._last_reason = f"{fate.value}: {reason}"
            if fate in (Fate.PUBLISHED, Fate.REJECTED, Fate.FAILED):
                self._last_worked = fate
        if fate is Fate.PUBLISHED:
            self._fps.tick()

    def time_age(self, age_ns: int) -> None:
        """The age of an image by the node's clock when it was picked up; negative if its stamp lies ahead."""
        self._ages.add(age_ns / 1e9)

    def time_latency(self, latency_ns: int) -> None:
        """From an image's stamp to the moment its masks were published, on the node's clock."""
        self._latencies.add(latency_ns / 1e9)

    def time_processing(self, seconds: float, stages: dict[str, float]) -> None:
        """From pick-up to published, and the stages within; those of a batch count in full for each frame."""
        self._processing.add(seconds)
        for stage, duration in stages.items():
            if stage in self._stages:
                self._stages[stage].add(duration)

    def note_confidence(self, confidence: FrameConfidence) -> None:
        """How sure the model is of a frame."""
        if confidence.sure is not None:
            self._sure.add(confidence.sure)

    def doubt(self, findings: Sequence[Finding], stamp_ns: int) -> None:
        """What the self-check found in a frame with this stamp; an empty list is news as well.

        A doubt lasts until it has not been found for ``WINDOW_S`` seconds.
        """
        now = self._clock()
        with self._lock:
            for finding in findings:
                known = self._doubts.get(finding.doubt)
                new = known is None or now - known.last_seen > WINDOW_S
                first_stamp_ns, began = (stamp_ns, now) if new else (known.first_stamp_ns, known.began)
                self._doubts[finding.doubt] = _Doubted(finding.text, first_stamp_ns, began, now)
                self._doubted[finding.doubt] += 1

    def seconds_without_image(self) -> float | None:
        """Since the last image, or since activation if none came; None while inactive."""
        with self._lock:
            if self._active_since is None:
                return None
            return self._clock() - max(self._active_since, self._last_received or 0.0)

    def verdict(self, about: About) -> Verdict:
        """Judge the camera as it is now."""
        quiet = self.seconds_without_image()
        if quiet is None:
            return Verdict("inactive", DiagnosticStatus.OK, "the node is not active")
        if about.fault is not None:
            level = DiagnosticStatus.ERROR if about.fault.severe else DiagnosticStatus.WARN
            return Verdict("stalled", level, about.fault.text)
        if about.paused:
            return Verdict("paused", DiagnosticStatus.OK, "inference is paused: the service 'enable' was called")
        if self._last_received is None:
            level = DiagnosticStatus.WARN if quiet > AWAITED_AFTER_S else DiagnosticStatus.OK
            return Verdict("waiting", level, f"no image on {about.topic} yet ({quiet:.0f} s)")
        if quiet > STALE_AFTER_S:
            return Verdict("stale", DiagnosticStatus.STALE, f"no image on {about.topic} for {quiet:.0f} s")
        if about.skipped:
            return Verdict("skipped", DiagnosticStatus.WARN, f"skipped under overload: {about.degraded}")
        if self._last_worked is Fate.REJECTED:
            return Verdict("rejecting", DiagnosticStatus.ERROR, self._last_reason)
        return self._verdict_while_images_come(about)

    def status(self, about: About) -> DiagnosticStatus:
        """The camera's entry in a DiagnosticArray."""
        verdict, count = self.verdict(about), self.ledger.count()
        clocks_disagree = _strange_latency(self._latencies.percentile(50)) is not None
        latency = Window(self._clock) if clocks_disagree else self._latencies
        values = {
            "state": verdict.state,
            "received": count.received,
            **{fate.value: count.ended[fate] for fate in Fate},
            "in_flight": count.in_flight,
            "lost_by_middleware": "n/a" if self.lost_by_middleware is None else self.lost_by_middleware,
            "last_reason": self._last_reason,
            "processing_ms_p50": _ms(self._processing.percentile(50)),
            "processing_ms_p99": _ms(self._processing.percentile(99)),
            "latency_ms_p50": _ms(latency.percentile(50)),
            "latency_ms_p99": _ms(latency.percentile(99)),
            "fps": _figure(self._fps.per_second()),
            **{f"stage_{stage}_ms": _ms(self._stages[stage].percentile(50)) for stage in STAGES},
            "topic": about.topic,
            "model": about.model,
            "model_hash": about.model_hash,
            "device": about.device,
            "precision": about.precision,
            "runtime": about.runtime,
            "graphs": about.graphs,
            "network_input": about.network_input,
            "missing_outputs": about.missing or "none",
            "model_change": about.model_change,
            "degraded": about.degraded,
            "self_check": self._describe_doubts() or "nothing found" if about.self_check else "off",
            **{f"self_check_{doubt.value}": self._doubted[doubt] for doubt in Doubt},
            "sure_share_p50": _share(self._sure.percentile(50)),
            "sure_share_doubted_below": "n/a" if about.usual is None else f"{about.usual.least:.3f}",
        }
        return DiagnosticStatus(
            level=verdict.level,
            name=f"drive_seg: {about.node}: {about.camera}",
            message=verdict.message,
            hardware_id=f"{about.model}/{about.device}",
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )

    def _verdict_while_images_come(self, about: About) -> Verdict:
        recent = Counter(_FATES[int(index)] for index in self._fates.values())
        troubles = [fate for fate in (Fate.FAILED, Fate.REJECTED, Fate.EXPIRED) if recent[fate]]
        if recent[Fate.EXPIRED] and not recent[Fate.PUBLISHED] and self._ages.values():
            limit_ms = (about.max_age_ns or 0) / 1e6
            return Verdict(
                "active",
                DiagnosticStatus.ERROR,
                f"every image expires (max_image_age_ms {limit_ms:.0f}): the node's clock and the image "
                f"stamps disagree, {describe_offset(median(self._ages.values()))}",
            )
        if self._last_worked is Fate.FAILED:
            return Verdict("active", DiagnosticStatus.ERROR, self._last_reason)
        if strange := _strange_latency(self._latencies.percentile(50)):
            return Verdict("active", DiagnosticStatus.WARN, f"the latency is unknown: {strange}")
        if troubles:
            figures = ", ".join(f"{recent[fate]} {fate.value}" for fate in troubles)
            return Verdict("active", DiagnosticStatus.WARN, f"in the last 10 s: {figures}; {self._last_reason}")
        if about.self_check and (doubts := self._describe_doubts()):
            return Verdict("active", DiagnosticStatus.WARN, doubts)
        if about.missing:
            return Verdict("active", DiagnosticStatus.WARN, about.missing)
        if recent[Fate.WITHHELD] and not recent[Fate.PUBLISHED]:
            return Verdict("active", DiagnosticStatus.OK, self._last_reason)
        fps = self._fps.per_second()
        masks = "masks come" if fps is None else f"masks come at {fps:.1f} fps"
        if about.degraded.startswith("step"):
            return Verdict("active", DiagnosticStatus.WARN, f"{masks}; degraded under overload: {about.degraded}")
        if about.degraded not in ("off", "no"):
            return Verdict("active", DiagnosticStatus.WARN, f"{masks}; degrade: {about.degraded}")
        return Verdict("active", DiagnosticStatus.OK, masks)

    def _describe_doubts(self) -> str:
        """Every doubt of the last seconds with its beginning; "" if there is none."""
        now = self._clock()
        with self._lock:
            current = [doubted for doubted in self._doubts.values() if now - doubted.last_seen <= WINDOW_S]
        return "; ".join(
            f"{doubted.text} (since stamp {doubted.first_stamp_ns / 1e9:.3f}, {now - doubted.began:.0f} s ago)"
            for doubted in current
        )


def describe_offset(age_s: float) -> str:
    """How image stamps lie to the node's clock, in words: ``stamps lie 3.2 s behind the node's clock``."""
    size = abs(age_s)
    units = (
        (1.0, "ms", 1e-3),
        (7200.0, "s", 1.0),
        (2 * 86400.0, "h", 3600.0),
        (float("inf"), "days", 86400.0),
    )
    unit, seconds = next((unit, seconds) for limit, unit, seconds in units if size < limit)
    return f"stamps lie {size / seconds:.1f} {unit} {'ahead of' if age_s < 0 else 'behind'} the node's clock"


def _strange_latency(p50_s: float | None) -> str | None:
    if p50_s is None or 0 <= p50_s <= HUGE_LATENCY_S:
        return None
    return describe_offset(p50_s)


def _ms(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{seconds * 1e3:.1f}"


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"
