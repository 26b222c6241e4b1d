"""When work is given up and taken up again: the state machine against simulated loads."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

from drive_seg.images.messages import to_image
from drive_seg.node import control
from drive_seg.node.health.diagnostics import About
from drive_seg.node.models.overload import (
    OVERLOAD_S,
    PROBATION_S,
    ROOM_S,
    Degradation,
    Load,
    Step,
    plan,
)
from drive_seg.node.parameters.declared import DEGRADABLE, rank
from drive_seg.node.segmentation_node import SegmentationNode

CAMERAS = ("front", "left", "rear")
FPS = 10.0


class Vehicle:
    """Cameras of one rate and a worker that needs so long for a frame at full size; time passes in steps of 1 s.

    Drops are those of newest-frame slots: what the worker has no time for is replaced by newer frames.
    """

    def __init__(self, frame_s: float, order: tuple[str, ...] = DEGRADABLE, cameras: tuple[str, ...] = CAMERAS) -> None:
        self.frame_s, self.cameras, self.now = frame_s, cameras, 1000.0
        self.degradation = Degradation(plan(cameras, order), len(cameras))
        self.changes: list[tuple[float, Step]] = []
        self.degradation.look(self.now, Load(0, 0, 0.0))

    def load(self) -> Load:
        step = self.degradation.step
        sent = FPS * (len(self.cameras) - len(step.skipped))
        able = 1.0 / (self.frame_s * step.scale**2)
        served = min(sent, able)
        return Load(round(served), round(sent - served), min(1.0, sent / able))

    def drive(self, seconds: float, load: Callable[[], Load] | None = None) -> None:
        for _ in range(int(seconds)):
            self.now += 1.0
            if self.degradation.look(self.now, (load or self.load)()):
                self.changes.append((self.now, self.degradation.step))

    @property
    def step(self) -> Step:
        return self.degradation.step


def test_the_plan_ends_with_the_least_that_is_done() -> None:
    assert plan(CAMERAS, DEGRADABLE) == [
        Step(),
        Step(("rear",)),
        Step(("left", "rear")),
        Step(("left", "rear"), 0.75),
        Step(("left", "rear"), 0.5),
    ]
    assert plan(CAMERAS, ("input_size", "cameras")) == [
        Step(),
        Step((), 0.75),
        Step((), 0.5),
        Step(("rear",), 0.5),
        Step(("left", "rear"), 0.5),
    ]
    assert plan(CAMERAS, DEGRADABLE, can_shrink=False)[-1] == Step(("left", "rear"))
    assert plan(("only",), ("cameras",)) == [Step()], "the last camera is never skipped"


def test_who_has_the_highest_priority_stays_and_among_equals_the_first() -> None:
    assert rank(CAMERAS, (0, 0, 0)) == list(CAMERAS)
    assert rank(CAMERAS, (0, -1, 5)) == ["rear", "front", "left"]


def test_a_short_overload_changes_nothing() -> None:
    vehicle = Vehicle(0.02)
    vehicle.drive(20)
    vehicle.drive(OVERLOAD_S - 1, lambda: Load(20, 10, 1.0))
    vehicle.drive(20)
    assert vehicle.changes == []


def test_drops_of_an_idle_worker_are_no_overload() -> None:
    vehicle = Vehicle(0.02)
    vehicle.drive(60, lambda: Load(20, 10, 0.5))
    assert vehicle.changes == []


def test_a_busy_worker_that_drops_nothing_is_no_overload() -> None:
    vehicle = Vehicle(0.02)
    vehicle.drive(60, lambda: Load(30, 0, 1.0))
    assert vehicle.changes == []


@pytest.mark.parametrize(
    ("frame_s", "step"),
    [
        (0.030, Step()),
        (0.045, Step(("rear",))),
        (0.095, Step(("left", "rear"))),
        (0.150, Step(("left", "rear"), 0.75)),
        (0.300, Step(("left", "rear"), 0.5)),
        (3.000, Step(("left", "rear"), 0.5)),
    ],
)
def test_as_much_is_given_up_as_needed_and_it_stays_so(frame_s: float, step: Step) -> None:
    vehicle = Vehicle(frame_s)
    vehicle.drive(600)
    assert vehicle.step == step
    expected = plan(CAMERAS, DEGRADABLE)
    assert [step for _, step in vehicle.changes] == expected[1 : len(vehicle.changes) + 1], "and no way back"


def test_each_step_waits_for_the_overload_to_last() -> None:
    vehicle = Vehicle(3.0)
    vehicle.drive(60)
    times = [time for time, _ in vehicle.changes]
    assert times == [1000.0 + OVERLOAD_S * (i + 1) for i in range(4)]


def test_everything_comes_back_step_by_step_when_there_is_room() -> None:
    vehicle = Vehicle(3.0)
    vehicle.drive(30)
    assert vehicle.step == Step(("left", "rear"), 0.5)
    vehicle.frame_s, vehicle.changes = 0.01, []
    began = vehicle.now
    vehicle.drive(60)
    assert [step for _, step in vehicle.changes] == plan(CAMERAS, DEGRADABLE)[:4][::-1]
    assert [time - began for time, _ in vehicle.changes] == [ROOM_S * (i + 1) for i in range(4)]


def test_an_attempt_that_fails_is_repeated_ever_less_often() -> None:
    """A load that looks like room from below and is none: what is given up comes back, and must go again."""
    vehicle = Vehicle(0.02)

    def load() -> Load:
        return Load(10, 0, 0.1) if vehicle.step.skipped else Load(20, 10, 1.0)

    vehicle.drive(1200, load)
    ups = [time for time, step in vehicle.changes if not step.skipped]
    waits = [later - earlier for earlier, later in zip(ups, ups[1:], strict=False)]
    assert waits[0] == OVERLOAD_S + 2 * ROOM_S
    assert all(later > earlier for earlier, later in zip(waits[:4], waits[1:5], strict=True))
    assert len(ups) <= 8, "no flapping"


def test_an_attempt_that_held_is_forgotten() -> None:
    vehicle = Vehicle(0.05)
    vehicle.drive(30)
    vehicle.frame_s = 0.01
    vehicle.drive(ROOM_S + PROBATION_S + 5)
    assert vehicle.step == Step()
    vehicle.frame_s = 0.05
    vehicle.drive(30)
    vehicle.frame_s, began = 0.01, vehicle.now
    vehicle.drive(60)
    came_back, step = vehicle.changes[-1]
    assert step == Step()
    assert came_back <= began + ROOM_S, "not twice as long"


def test_looking_anew_forgets_the_load_so_far() -> None:
    vehicle = Vehicle(3.0)
    vehicle.drive(OVERLOAD_S - 1)
    vehicle.degradation.look_anew(vehicle.now)
    vehicle.drive(OVERLOAD_S - 1)
    assert vehicle.changes == []
    vehicle.drive(1)
    assert len(vehicle.changes) == 1


def test_an_input_size_that_cannot_be_had_is_left_out() -> None:
    vehicle = Vehicle(3.0)
    vehicle.drive(60)
    vehicle.degradation.forbid_scale(0.75)
    assert vehicle.step == Step(("left", "rear"))
    vehicle.drive(60)
    assert vehicle.step == Step(("left", "rear"))
    assert vehicle.degradation.describe() == "step 2 of 2: skipping left, rear"


def test_a_larger_input_that_cannot_be_had_is_tried_ever_less_often() -> None:
    vehicle = Vehicle(3.0)
    vehicle.drive(60)
    vehicle.frame_s, vehicle.changes, tries = 0.01, [], []
    for _ in range(200):
        vehicle.drive(1)
        if vehicle.step.scale > 0.5:
            tries.append(vehicle.now)
            assert vehicle.step.scale == 0.75
            assert vehicle.degradation.fall_back(0.5)
            assert vehicle.step == Step(("left", "rear"), 0.5), "what goes on"
            vehicle.degradation.look_anew(vehicle.now)
    assert np.diff(tries).tolist() == [2 * ROOM_S, 4 * ROOM_S, 8 * ROOM_S]
    vehicle.drive(16 * ROOM_S + PROBATION_S + 4 * ROOM_S)
    assert vehicle.step == Step(), "once it is to be had"


def test_there_may_be_no_step_with_the_input_that_goes_on() -> None:
    degradation = Degradation(plan(CAMERAS, ("cameras",)), 3)
    assert not degradation.fall_back(0.75)
    assert degradation.step == Step()


class Overloaded:
    """A node in this process with one camera, whose control is shown loads and a clock of our own."""

    def __init__(self, context: Context, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        given = {"model": str(model), "device": "cpu", "cameras": ["only"], "degrade": True}
        overrides = [Parameter(name, value=value) for name, value in given.items()]
        self.node = SegmentationNode(context=context, parameter_overrides=overrides, use_global_arguments=False)
        assert self.node.autostart()
        self.now, self.load = 0.0, Load(0, 0, 0.0)
        monkeypatch.setattr(control, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(control.Control, "_load_since_last_look", lambda control, now: self.load)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)

    def pass_seconds(self, count: float) -> None:
        for _ in range(int(count)):
            self.now += 1.0
            self.node._control.look()

    def about(self, done: Callable[[About], bool]) -> About:
        """What the diagnostics say of the camera, once it is so; models are loaded meanwhile, and no time passes."""
        end = time.monotonic() + 120
        while not done(about := self.node._about(self.node.cameras[0])):
            assert time.monotonic() < end, about
            self._executor.spin_once(timeout_sec=0.05)
        return about

    def close(self) -> None:
        self._executor.shutdown()
        self.node.trigger_shutdown()
        self.node.destroy_node()


@pytest.fixture
def overloaded(
    ros_context: Context, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Overloaded]:
    """Its model's file is a copy that may be spoilt; its timer, which would look too, is not spun before ``about``."""
    shutil.copy(model_file, tmp_path / "own.safetensors")
    made = Overloaded(ros_context, tmp_path / "own.safetensors", monkeypatch)
    yield made
    made.close()


def make_smaller_and_spoil(overloaded: Overloaded, file: Path) -> bytes:
    """Let the overload take the smaller input, and then spoil the model's file; what it held."""
    whole = file.read_bytes()
    overloaded.load = Load(10, 20, 1.0)
    overloaded.pass_seconds(OVERLOAD_S + 2)
    overloaded.about(lambda about: about.network_input == "72x48")
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    return whole


def test_a_larger_input_that_cannot_be_loaded_leaves_the_step_that_goes_on(
    overloaded: Overloaded, tmp_path: Path
) -> None:
    file = tmp_path / "own.safetensors"
    whole = make_smaller_and_spoil(overloaded, file)

    overloaded.load = Load(30, 0, 0.1)
    overloaded.pass_seconds(ROOM_S + 1)
    about = overloaded.about(lambda about: about.model_change.startswith("refused"))
    assert (about.degraded, about.network_input) == ("step 1 of 2: network input x0.75", "72x48")
    overloaded.pass_seconds(2 * ROOM_S - 2)
    assert overloaded.node._control.describe_degradation() == about.degraded, "not yet again"
    file.write_bytes(whole)
    overloaded.pass_seconds(5)
    about = overloaded.about(lambda about: about.network_input == "96x64")
    assert (about.degraded, about.model_change) == ("no", "none")


def test_an_input_that_shall_not_be_small_any_more_is_tried_until_it_can_be_had(
    overloaded: Overloaded, tmp_path: Path
) -> None:
    file = tmp_path / "own.safetensors"
    whole = make_smaller_and_spoil(overloaded, file)
    overloaded.node.set_parameters([Parameter("degrade", value=False)])
    overloaded.pass_seconds(1)
    about = overloaded.about(lambda about: about.model_change.startswith("refused"))
    assert (about.degraded, about.network_input) == ("off, but still with network input x0.75", "72x48")
    file.write_bytes(whole)
    overloaded.pass_seconds(ROOM_S + 1)
    about = overloaded.about(lambda about: about.network_input == "96x64")
    assert (about.degraded, about.model_change) == ("off", "none")


def test_what_is_given_up_is_told() -> None:
    degradation = Degradation(plan(("a", "b"), DEGRADABLE), 2)
    assert degradation.describe() == "no"
    assert Step(("b",), 0.75).describe() == "skipping b, network input x0.75"


def test_an_overload_that_lasts_skips_cameras_and_then_shrinks_the_input(
    peer: Any, start_node: Callable[..., Any], picture: Callable[..., np.ndarray]
) -> None:
    """And with the load gone everything comes back."""
    node = start_node(
        *("-p", "cameras:=[rear, front]", "-p", "front.priority:=1", "-p", "degrade:=true"),
        *("-p", "input_size:=[384, 576]"),
    )
    listened = {name: peer.listen(f"/{name}/segmentation/label") for name in ("front", "rear")}
    cameras = {name: peer.publisher(f"/{name}/image_raw") for name in ("front", "rear")}

    def flood() -> None:
        for name in cameras:
            peer.send(cameras[name], picture(), peer.header(name))
        peer.spin_once()

    def under_flood(done: Callable[[], bool], what: str) -> None:
        def seen() -> bool:
            flood()
            return done()

        peer.spin_until(seen, what)

    under_flood(lambda: peer.values("rear").get("state") == "skipped", "rear camera skipped")
    assert peer.status("rear").level == b"\x01"
    assert peer.status("rear").message == "skipped under overload: step 1 of 3: skipping rear"
    under_flood(lambda: peer.values("front").get("network_input") == "432x288", "smaller input")
    assert peer.values("rear")["last_reason"] == "withheld: skipped under overload"
    assert "input x0.75" in peer.values("front")["degraded"]
    listened["front"].clear()
    under_flood(lambda: listened["front"], "masks of the camera that stays")
    front = peer.settled("front")
    assert int(front["dropped"]) > 0
    assert front["failed"] == "0"
    peer.settled("rear")

    assert peer.set_parameter("degrade", False).successful
    peer.wait_for_values("all of it again", "front", network_input="576x384", degraded="off")
    listened["rear"].clear()
    peer.insist(
        cameras["rear"], to_image(picture(), peer.header("rear"), "bgr8"), lambda: listened["rear"], "rear camera"
    )
    assert node.stop() == 0, node.log
    assert "Traceback" not in node.log
    assert "[ERROR]" not in node.log
