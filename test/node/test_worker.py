"""The worker thread alone: batches, faults and their cost, and what happens to a batch when the node is stopped."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rclpy.clock import Clock
from rclpy.duration import Duration
from rclpy.logging import get_logger
from rclpy.time import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.confidence import Confidence, Usual
from drive_seg.images.masks import hide
from drive_seg.images.messages import ImageError, decode, to_image
from drive_seg.labels import CAMVID11, CITYSCAPES19
from drive_seg.node.camera import Frame
from drive_seg.node.health.diagnostics import About, CameraHealth
from drive_seg.node.health.ledger import Fate
from drive_seg.node.parameters import Tuning
from drive_seg.node.worker import Worker
from drive_seg.segmenter import DeviceLostError, NotFiniteError, Segmentation

PATIENCE_S = 30.0
USUAL = Usual(frames=9, sure_from=0.1, sure=1.0)
"""A frame of the value 26 and more is one that the model was made for."""


class RecordingOutputs:
    """Remembers what was to be published."""

    def __init__(self) -> None:
        self.listeners = frozenset({"label"})
        self.published: list[tuple] = []
        self.times: list[tuple[float, float]] = []
        self.came = threading.Event()
        self.missing = ""

    def wanted(self, publish_confidence: bool) -> frozenset[str]:
        return self.listeners if publish_confidence else self.listeners - {"confidence"}

    def kept_pixels(
        self, label: np.ndarray, confidence: np.ndarray | None, min_confidence: float, step: int
    ) -> np.ndarray:
        return hide(
            label[::step, ::step], None if confidence is None else confidence[::step, ::step], None, min_confidence
        )[0]

    def publish(self, *arguments: Any) -> str:
        self.published.append(arguments)
        self.came.set()
        return self.missing

    def publish_times(self, processing_ms: float, pipeline_ms: float) -> None:
        self.times.append((processing_ms, pipeline_ms))


class SlotCamera:
    """The slot, health and outputs of a camera, without DDS."""

    def __init__(self, name: str) -> None:
        self.name, self.health, self.outputs = name, CameraHealth(), RecordingOutputs()
        self.newest: Frame | None = None
        self.health.activate()

    @property
    def has_frame(self) -> bool:
        return self.newest is not None

    def take(self) -> Frame | None:
        frame, self.newest = self.newest, None
        return frame

    def decode(self, message: Image) -> np.ndarray:
        image = decode(message)
        if (image == 201).all():
            raise ImageError("201 is not to be had")
        return image

    def give(self, message: Image) -> None:
        self.health.receive()
        self.newest = Frame(self, message)

    @property
    def ended(self) -> dict[Fate, int]:
        return {fate: count for fate, count in self.health.ledger.count().ended.items() if count}


class BlueChannelSegmenter:
    """Labels an image with its blue channel modulo 19; raises for images with the value 200."""

    label_map, device = CITYSCAPES19, "cpu"
    contract = Contract("", {}, CITYSCAPES19, InputSpec((8, 8)), confidence=Confidence(usual=USUAL))

    def __init__(self) -> None:
        self.expected: list[tuple] = []
        self.error: Exception | None = None
        self.batches: list[int] = []
        self.confidences: list[bool] = []
        self.entered, self.may_go = threading.Event(), threading.Event()
        self.may_go.set()

    def __call__(
        self, images: list, confidence: bool, stages: dict[str, float], frame_confidence: bool = False
    ) -> list[Segmentation]:
        self.batches.append(len(images))
        self.confidences.append(confidence)
        self.entered.set()
        assert self.may_go.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        if any((image == 200).all() for image in images):
            raise RuntimeError("CUDA error: out of luck\nCompile with ...")
        stages["network"] = 0.001
        return [
            Segmentation(
                image[..., 0] % 19,
                image[..., 1] if confidence else None,
                self.contract.confidence.of_frame(image[..., 1]) if frame_confidence else None,
            )
            for image in images
        ]

    def expect(self, sizes: list[tuple[int, int]], confidence: list[bool]) -> None:
        self.expected.append((sizes, confidence))


class MovableClock(Clock):
    """The system's clock, or one that is ahead of it."""

    ahead = Duration()

    def now(self) -> Time:
        return super().now() + self.ahead


class Bench:
    """A worker with three cameras."""

    def __init__(self) -> None:
        self.cameras = [SlotCamera(name) for name in ("a", "b", "c")]
        self.segmenter = BlueChannelSegmenter()
        self.tuning = Tuning(max_age_ns=None, overlay_alpha=0.5, publish_confidence=False)
        logger = get_logger("worker_test")
        self.clock = MovableClock()
        self.worker = Worker(self.segmenter, self.cameras, self.clock, lambda: self.tuning, logger)

    def give(self, *values: int | None, age_s: float = 0.0) -> None:
        for camera, value in zip(self.cameras, values, strict=False):
            if value is not None:
                camera.give(message(value, age_s))
        self.worker.wake()


def message(value: int, age_s: float = 0.0) -> Image:
    stamp_ns = Clock().now().nanoseconds - int(age_s * 1e9)
    header = Header(frame_id=str(value))
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
    return to_image(np.full((4, 6, 3), value, np.uint8), header, "bgr8")


def textured(value: int) -> Image:
    """An image that is not blank, its values within 8 of that one."""
    stamp_ns = Clock().now().nanoseconds
    header = Header(frame_id=str(value))
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
    return to_image(np.random.default_rng(0).integers(value - 8, value + 8, (48, 64, 3), np.uint8), header, "bgr8")


def wait_for(done: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < end
        threading.Event().wait(0.01)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.segmenter.may_go.set()
    if bench.worker.running:
        assert bench.worker.stop(PATIENCE_S)


def test_frames_that_wait_together_are_one_batch(bench: Bench) -> None:
    bench.give(1, 2, 3)
    bench.worker.start()
    for camera in bench.cameras:
        assert camera.outputs.came.wait(PATIENCE_S)
    assert bench.segmenter.batches == [3]
    assert bench.worker.stop(PATIENCE_S)
    for value, camera in enumerate(bench.cameras, start=1):
        ((wanted, header, image, label, confidence, label_map, tuning),) = camera.outputs.published
        assert (wanted, header.frame_id, confidence, tuning) == ({"label"}, str(value), None, bench.tuning)
        assert np.array_equal(image, np.full((4, 6, 3), value))
        assert np.array_equal(label, np.full((4, 6), value))
        assert label_map is CITYSCAPES19
        assert camera.ended == {Fate.PUBLISHED: 1}


def test_a_frame_is_served_by_the_settings_that_it_was_picked_up_with(bench: Bench) -> None:
    before = bench.tuning
    bench.segmenter.may_go.clear()
    bench.give(1)
    bench.worker.start()
    assert bench.segmenter.entered.wait(PATIENCE_S)
    bench.tuning = Tuning(max_age_ns=1, overlay_alpha=0.5, publish_confidence=True, min_confidence=0.9)
    bench.segmenter.may_go.set()
    assert bench.cameras[0].outputs.came.wait(PATIENCE_S)
    assert bench.cameras[0].outputs.published[0][-1] is before
    assert bench.worker.stop(PATIENCE_S) and bench.cameras[0].ended == {Fate.PUBLISHED: 1}


def test_confidence_is_computed_only_when_one_of_the_batch_wants_it(bench: Bench) -> None:
    bench.cameras[1].outputs.listeners = frozenset({"confidence"})
    bench.give(1, None, None)
    bench.worker.start()
    assert bench.cameras[0].outputs.came.wait(PATIENCE_S)
    bench.tuning = Tuning(None, 0.5, publish_confidence=True)
    bench.give(None, 2, None)
    assert bench.cameras[1].outputs.came.wait(PATIENCE_S)
    assert bench.segmenter.confidences == [False, True]
    bench.tuning = Tuning(None, 0.5, publish_confidence=False)
    bench.give(None, 3, None)
    assert bench.worker.stop(PATIENCE_S)


def test_confidence_is_computed_for_all_when_a_least_one_is_asked_for(bench: Bench) -> None:
    bench.tuning = Tuning(None, 0.5, publish_confidence=False, min_confidence=0.5)
    bench.give(1, None, None)
    bench.worker.start()
    assert bench.cameras[0].outputs.came.wait(PATIENCE_S)
    assert bench.worker.stop(PATIENCE_S)
    assert bench.segmenter.confidences == [True]


def test_a_frame_that_its_camera_cannot_have_made_is_rejected_before_the_network_sees_it(bench: Bench) -> None:
    bench.give(201, 2, None)
    bench.worker.start()
    assert bench.cameras[1].outputs.came.wait(PATIENCE_S)
    assert bench.worker.stop(PATIENCE_S)
    assert bench.segmenter.batches == [1]
    assert bench.cameras[0].ended == {Fate.REJECTED: 1}
    assert bench.cameras[0].health.verdict(About("a")).message == "rejected: 201 is not to be had"


def test_a_frame_of_which_nothing_could_be_published_is_withheld_with_the_reason(bench: Bench) -> None:
    bench.tuning = Tuning(None, 0.5, publish_confidence=False, self_check=False)
    bench.cameras[0].outputs.missing = "camera_info: none yet"
    bench.give(1, None, None)
    bench.worker.start()
    assert bench.cameras[0].outputs.came.wait(PATIENCE_S)
    assert bench.worker.stop(PATIENCE_S)
    assert bench.cameras[0].ended == {Fate.WITHHELD: 1}
    assert bench.cameras[0].health.verdict(About("a")).message == "withheld: camera_info: none yet"


def test_a_frame_that_the_model_was_not_made_for_is_doubted_and_can_be_withheld(bench: Bench) -> None:
    bench.tuning = Tuning(None, 0.5, publish_confidence=False, unsafe_output="withhold")
    dim, fine = bench.cameras[:2]
    dim.give(textured(60))
    fine.give(textured(120))
    bench.segmenter.contract = replace(
        bench.segmenter.contract, confidence=Confidence(usual=replace(USUAL, sure_from=100 / 255))
    )
    bench.worker.start()
    bench.worker.wake()
    assert fine.outputs.came.wait(PATIENCE_S)
    assert bench.worker.stop(PATIENCE_S)
    assert dim.ended == {Fate.WITHHELD: 1} and fine.ended == {Fate.PUBLISHED: 1}
    values = {value.key: value.value for value in dim.health.status(About("a", usual=USUAL)).values}
    assert values["last_reason"].startswith("withheld: self-check: the model was not made for this frame")
    assert values["self_check_unfamiliar_frame"] == "1"
    assert values["sure_share_p50"] == "0.000"
    assert values["sure_share_doubted_below"] == "0.400"


def test_a_mask_that_is_void_for_want_of_confidence_is_doubted(bench: Bench) -> None:
    bench.tuning = Tuning(None, 0.5, publish_confidence=False, min_confidence=0.5)
    bench.give(60, 140)
    bench.worker.start()
    for camera in bench.cameras[:2]:
        assert camera.outputs.came.wait(PATIENCE_S)
    assert bench.worker.stop(PATIENCE_S)
    verdicts = [camera.health.verdict(About("a")) for camera in bench.cameras[:2]]
    assert "the mask says next to nothing: 100.0% of it is void" in verdicts[0].message
    assert "void" not in verdicts[1].message


def test_a_fault_costs_one_frame_and_not_its_batch(bench: Bench) -> None:
    broken = message(9)
    broken.step = 1
    bench.give(5, 200, 6)
    bench.worker.start()
    for camera in (bench.cameras[0], bench.cameras[2]):
        assert camera.outputs.came.wait(PATIENCE_S)
    bench.cameras[2].outputs.came.clear()
    bench.cameras[0].give(broken)
    bench.give(None, None, 7)
    assert bench.cameras[2].outputs.came.wait(PATIENCE_S)
    assert bench.worker.stop(PATIENCE_S)
    assert bench.cameras[0].ended == {Fate.PUBLISHED: 1, Fate.REJECTED: 1}
    assert bench.cameras[1].ended == {Fate.FAILED: 1}
    assert bench.cameras[2].ended == {Fate.PUBLISHED: 2}


def test_the_reason_of_a_failure_is_one_line(bench: Bench) -> None:
    bench.segmenter.may_go.clear()
    bench.give(200)
    bench.worker.start()
    assert bench.segmenter.entered.wait(PATIENCE_S)
    bench.segmenter.may_go.set()
    assert bench.worker.stop(PATIENCE_S)
    assert bench.cameras[0].ended == {Fate.FAILED: 1}
    verdict = bench.cameras[0].health.verdict(About("a"))
    assert verdict.message == "failed: RuntimeError: CUDA error: out of luck"


def test_nothing_runs_when_nobody_listens(bench: Bench) -> None:
    bench.cameras[0].outputs.listeners = frozenset()
    bench.give(1, 2)
    bench.worker.start()
    assert bench.cameras[1].outputs.came.wait(PATIENCE_S)
    assert bench.worker.stop(PATIENCE_S)
    assert bench.segmenter.batches == [1]
    assert bench.cameras[0].ended == {Fate.WITHHELD: 1}


def test_too_old_at_pick_up_or_too_late_with_the_mask(bench: Bench) -> None:
    bench.tuning = Tuning(60 * 10**9, 0.5, False)
    bench.give(1, None, None, age_s=61.0)
    bench.give(None, 2, 3)
    bench.segmenter.may_go.clear()
    bench.worker.start()
    assert bench.segmenter.entered.wait(PATIENCE_S)
    bench.clock.ahead = Duration(seconds=61)
    bench.segmenter.may_go.set()
    assert bench.worker.stop(PATIENCE_S)
    assert bench.segmenter.batches == [2]
    assert [camera.ended for camera in bench.cameras] == [{Fate.EXPIRED: 1}] * 3
    assert all(camera.outputs.published == [] for camera in bench.cameras)


def test_stop_waits_until_the_batch_in_hand_is_published(bench: Bench) -> None:
    bench.segmenter.may_go.clear()
    bench.give(1)
    bench.worker.start()
    assert bench.segmenter.entered.wait(PATIENCE_S)
    threading.Timer(0.2, bench.segmenter.may_go.set).start()
    assert bench.worker.stop(PATIENCE_S)
    assert not bench.worker.running
    assert bench.cameras[0].ended == {Fate.PUBLISHED: 1}


def test_a_pause_ends_frames_as_withheld_even_the_one_in_hand(bench: Bench) -> None:
    bench.segmenter.may_go.clear()
    bench.give(1)
    bench.worker.start()
    assert bench.segmenter.entered.wait(PATIENCE_S)
    bench.worker.pause(True)
    bench.segmenter.may_go.set()
    bench.give(None, 2)
    while any(camera.health.ledger.count().in_flight for camera in bench.cameras):
        threading.Event().wait(0.001)
    assert [camera.ended for camera in bench.cameras[:2]] == [{Fate.WITHHELD: 1}] * 2
    assert bench.segmenter.batches == [1], "the second did not reach the network"
    bench.worker.pause(False)
    bench.give(None, None, 3)
    assert bench.cameras[2].outputs.came.wait(PATIENCE_S)
    assert bench.worker.stop(PATIENCE_S)
    assert bench.cameras[2].ended == {Fate.PUBLISHED: 1}


def test_a_successor_takes_over_after_the_batch_in_hand(bench: Bench) -> None:
    successor, taken_over = BlueChannelSegmenter(), threading.Event()
    successor.label_map = CAMVID11
    bench.segmenter.may_go.clear()
    bench.give(1)
    bench.worker.start()
    assert bench.segmenter.entered.wait(PATIENCE_S)
    assert bench.worker.succeed(successor, taken_over.set)
    assert not taken_over.is_set(), "the batch in hand is still the old one's"
    bench.segmenter.may_go.set()
    assert taken_over.wait(PATIENCE_S), "no new frame is needed"
    bench.give(None, 2)
    assert bench.cameras[1].outputs.came.wait(PATIENCE_S)
    assert (bench.segmenter.batches, successor.batches) == ([1], [1])
    label_maps = [camera.outputs.published[0][5] for camera in bench.cameras[:2]]
    assert label_maps == [CITYSCAPES19, CAMVID11]
    assert bench.worker.stop(PATIENCE_S)
    assert not bench.worker.succeed(successor, taken_over.set), "nobody is there to take over"


def test_the_time_it_works_is_counted_while_it_works(bench: Bench) -> None:
    bench.segmenter.may_go.clear()
    bench.worker.start()
    assert bench.worker.busy_seconds() == 0
    bench.give(1)
    assert bench.segmenter.entered.wait(PATIENCE_S)
    first = bench.worker.busy_seconds()
    assert bench.worker.busy_seconds() > first > 0
    bench.segmenter.may_go.set()
    assert bench.worker.stop(PATIENCE_S)
    assert bench.worker.image_sizes() == [(4, 6)]


@pytest.mark.parametrize(
    ("policy", "fates", "labels"),
    [("publish", {Fate.PUBLISHED: 1}, [9]), ("void", {Fate.PUBLISHED: 1}, [255]), ("withhold", {Fate.WITHHELD: 1}, [])],
)
def test_what_becomes_of_a_mask_that_is_doubted(
    bench: Bench, policy: str, fates: dict[Fate, int], labels: list[int]
) -> None:
    bench.tuning = Tuning(None, 0.5, True, unsafe_output=policy)
    bench.cameras[0].outputs.listeners = frozenset({"label", "confidence"})
    bench.give(9)  # a dark image
    bench.worker.start()
    while bench.cameras[0].health.ledger.count().in_flight:
        threading.Event().wait(0.001)
    assert bench.worker.stop(PATIENCE_S)
    camera = bench.cameras[0]
    assert camera.ended == fates
    assert [int(arguments[3].max()) for arguments in camera.outputs.published] == labels
    assert [int(arguments[3].min()) for arguments in camera.outputs.published] == labels
    if policy == "void":
        assert camera.outputs.published[0][4].max() == 0, "confidence"
    verdict = camera.health.verdict(About("a"))
    assert verdict.level == b"\x01"
    assert "the image is dark" in verdict.message


def test_a_batch_that_was_given_up_is_never_published(bench: Bench) -> None:
    bench.segmenter.may_go.clear()
    bench.give(1)
    bench.worker.start()
    assert bench.segmenter.entered.wait(PATIENCE_S)
    assert not bench.worker.stop(0.05)
    assert bench.worker.running
    bench.segmenter.may_go.set()
    bench.worker._thread.join(PATIENCE_S)
    assert bench.cameras[0].ended == {Fate.WITHHELD: 1}
    assert bench.cameras[0].outputs.published == []


def test_the_segmenter_makes_ready_for_the_sizes_of_all_cameras(bench: Bench) -> None:
    bench.give(1, 2, None)
    bench.worker.start()
    assert bench.cameras[0].outputs.came.wait(PATIENCE_S) and bench.cameras[1].outputs.came.wait(PATIENCE_S)
    bench.give(1, None, None)
    bench.give(None, None, 3)
    assert bench.cameras[2].outputs.came.wait(PATIENCE_S)
    assert bench.worker.stop(PATIENCE_S)
    assert bench.segmenter.expected == [([(4, 6)] * 2, [False]), ([(4, 6)] * 3, [False])]


def test_a_lost_device_is_asked_for_nothing_more(bench: Bench) -> None:
    bench.segmenter.error = DeviceLostError("the GPU cuda:0 is lost to this process: CUDA error: unspecified")
    bench.give(1, 2, None)
    bench.worker.start()
    wait_for(lambda: bench.cameras[1].ended)
    assert bench.segmenter.batches == [2], "and not each image alone"
    bench.segmenter.error = None
    bench.give(None, None, 3)
    wait_for(lambda: bench.cameras[2].ended)
    assert bench.worker.stop(PATIENCE_S) and bench.segmenter.batches == [2]
    assert bench.worker.lost == "the GPU cuda:0 is lost to this process: CUDA error: unspecified"
    assert all(camera.ended == {Fate.FAILED: 1} for camera in bench.cameras)


@pytest.mark.parametrize(
    "device, error, counts",
    [
        ("cuda", RuntimeError("CUDA failure 719"), True),
        ("cuda", NotFiniteError(0.5), False),
        ("cpu", RuntimeError("no"), False),
    ],
)
def test_a_device_that_fails_every_frame_is_noticed(
    device: str, error: Exception, counts: bool, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.segmenter, "device", device, raising=False)
    bench.segmenter.error = error
    bench.give(1, None, None)
    bench.worker.start()
    wait_for(lambda: bench.cameras[0].ended)
    assert (bench.worker.failing_seconds() > 0) == counts
    bench.segmenter.error = None
    bench.give(None, 2, None)
    assert bench.cameras[1].outputs.came.wait(PATIENCE_S)
    assert bench.worker.failing_seconds() == 0
