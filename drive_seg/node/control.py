"""What holds frames of an active node back: the service ``enable``, and the degradation under overload."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rclpy.lifecycle import LifecycleNode
from std_srvs.srv import SetBool

from drive_seg.node import parameters
from drive_seg.node.camera import PAUSED, SKIPPED, Camera
from drive_seg.node.health.ledger import Fate
from drive_seg.node.models.overload import ROOM_S, ROOM_S_MAX, Degradation, Load, Step, plan
from drive_seg.node.parameters import Degrading

if TYPE_CHECKING:
    from drive_seg.node.models.change import ModelChange
    from drive_seg.node.worker import Worker

UNSERVED = (Fate.DROPPED, Fate.WITHHELD)


class Control:
    """Pauses the node when it is told to, and makes it do less when it is told to and must.

    Both last until the node is deactivated: active again, it is enabled and gives nothing up.

    Attributes:
        paused: inference is paused.
    """

    def __init__(self, node: LifecycleNode, cameras: Sequence[Camera]) -> None:
        self._node, self._cameras = node, list(cameras)
        self._worker: Worker | None = None
        self._change: ModelChange | None = None
        self.paused = False
        self._degrading: Degrading | None = None
        self._degradation: Degradation | None = None
        self._before: tuple[float, float, int, int] | None = None
        self._retry_at, self._retry_s = float("-inf"), ROOM_S
        node.create_service(SetBool, "~/enable", self._enable)

    def activated(self, worker: Worker, change: ModelChange) -> None:
        self._worker, self._change = worker, change

    def deactivated(self) -> None:
        """Call it after the worker was stopped."""
        self._worker = None
        self.paused = False
        self._give_nothing_up()

    def is_skipped(self, camera: str) -> bool:
        return self._degradation is not None and camera in self._degradation.step.skipped

    def describe_degradation(self) -> str:
        """For the diagnostics: ``off``, ``no``, or which step is taken, and whether the network's input lags behind."""
        said = self._degradation.describe() if self._degradation else "off"
        if self._change is None or self._change.busy or self._change.scale == self._scale:
            return said
        return f"{said}, but still with network input x{self._change.scale:g}"

    def image_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the latest image of each camera that sent one since the node became active."""
        return self._worker.image_sizes() if self._worker else []

    def scale_failed(self, scale: float) -> None:
        """The model cannot be had with this factor for its input, and goes on with another."""
        now, running = time.monotonic(), self._change.scale
        if self._degradation is not None and scale < running:
            self._degradation.forbid_scale(scale)
        elif self._degradation is None or not self._degradation.fall_back(running):
            # No step has the input that goes on, or nothing is to be given up: only the larger one will do.
            self._retry_at, self._retry_s = now + self._retry_s, min(2 * self._retry_s, ROOM_S_MAX)
            return
        self._node.get_logger().warning(f"degraded under overload: {self._degradation.describe()}")
        self._apply()

    def look(self) -> None:
        """Look at the load; call it about once a second."""
        if self._worker is None:
            return
        degrading = parameters.read_degrading(self._node)
        if degrading != self._degrading:
            self._degrading = degrading
            self._plan(degrading)
        now = time.monotonic()
        self._try_again(now)
        if self._degradation is None:
            return
        load = self._load_since_last_look(now)
        if self.paused or self._change.busy or load is None:
            self._degradation.look_anew(now)
        elif self._degradation.look(now, load):
            self._node.get_logger().warning(f"load {load}: now at {self._degradation.describe()}")
            self._apply()

    # Pausing

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        wanted = "enabled" if request.data else "paused"
        if self._worker is None:
            response.success = False
            response.message = (
                f"inference cannot be {wanted}: the node is not active; it is enabled whenever it becomes so"
            )
            return response
        response.success = True
        if request.data == (not self.paused):
            response.message = f"inference is {wanted} already"
            return response
        self.paused = not request.data
        self._worker.pause(self.paused)
        self._hold_back()
        response.message = f"inference is {wanted}"
        self._node.get_logger().info(response.message)
        return response

    def _hold_back(self) -> None:
        for camera in self._cameras:
            camera.hold_back(PAUSED if self.paused else SKIPPED if self.is_skipped(camera.name) else "")

    # Degradation

    @property
    def _scale(self) -> float:
        """The factor for the sides of the network's input that is wanted now."""
        return self._degradation.step.scale if self._degradation else 1.0

    def _try_again(self, now: float) -> None:
        """Ask once more for an input that could not be had when it was asked for."""
        if self._change.scale == self._scale:
            self._retry_s = ROOM_S
        elif not self._change.busy and now >= self._retry_at:
            self._change.shrink(self._scale)

    def _plan(self, degrading: Degrading) -> None:
        had_given_up = self._degradation is not None and self._degradation.step != Step()
        self._degradation, self._before = None, None
        if degrading.wanted:
            can_shrink = self._change.model.segmenter.fixed_size is None
            steps = plan(degrading.ranked, degrading.order, can_shrink)
            self._degradation = Degradation(steps, len(self._cameras))
        if had_given_up:
            self._apply()

    def _give_nothing_up(self) -> None:
        self._degrading = self._degradation = self._before = None
        if self._change is not None:
            self._change.shrink(1.0)

    def _apply(self) -> None:
        self._before = None
        self._hold_back()
        self._change.shrink(self._scale)

    def _load_since_last_look(self, now: float) -> Load | None:
        """None at the first look."""
        served = dropped = 0
        for camera in self._cameras:
            if not self.is_skipped(camera.name):
                ended = camera.health.ledger.count().ended
                served += sum(count for fate, count in ended.items() if fate not in UNSERVED)
                dropped += ended[Fate.DROPPED] + (camera.health.lost_by_middleware or 0)
        before, self._before = self._before, (now, self._worker.busy_seconds(), served, dropped)
        if before is None or now <= before[0]:
            return None
        busy = (self._before[1] - before[1]) / (now - before[0])
        return Load(served - before[2], dropped - before[3], min(busy, 1.0))
