"""Ages, latencies and diagnostics on the node's clock, real and simulated."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header

from drive_seg.images.messages import to_image

MASKS, IMAGES = "/camera/segmentation/label", "/camera/image_raw"
NOW_S = 1000


@pytest.fixture(scope="module")
def simulated(start_node: Callable[..., Any]) -> Iterator[Any]:
    """A node whose clock is /clock."""
    process = start_node("-p", "use_sim_time:=true")
    process.wait_for_log("active: awaiting")
    yield process
    assert process.stop() == 0, process.log
    assert "Traceback" not in process.log


@pytest.fixture
def image(simulated: Any, peer: Any, picture: Callable[..., np.ndarray]) -> Callable[[float], Any]:
    """An image message that is so many seconds old at simulated ``NOW_S``, which is the time on the node's clock."""
    assert peer.change_state(Transition.TRANSITION_DEACTIVATE)
    assert peer.change_state(Transition.TRANSITION_ACTIVATE)  # figures over time start anew
    clock = peer.publisher("/clock", Clock)
    peer.insist(clock, Clock(clock=Time(sec=NOW_S)), lambda: at_simulated_time(peer), "simulated time")

    def make(age_s: float) -> Any:
        stamp_ns = int((NOW_S - age_s) * 1e9)
        stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return to_image(picture(), Header(stamp=stamp), "bgr8")

    return make


def at_simulated_time(peer: Any) -> bool:
    return bool(peer.diagnostics) and peer.diagnostics[-1].header.stamp == Time(sec=NOW_S)


def latency(status: DiagnosticStatus) -> str:
    (value,) = {value.value for value in status.values if value.key.startswith("latency_ms")}
    return value


def test_latency_is_measured_on_the_simulated_clock(peer: Any, image: Callable[[float], Any]) -> None:
    peer.listen(MASKS)
    status = peer.status_under(peer.publisher(IMAGES), image(0.25), lambda status: latency(status) != "n/a")
    assert latency(status) == "250.0", "the clock stands still"
    assert status.message.startswith("masks come")
    assert peer.diagnostics[-1].header.stamp == Time(sec=NOW_S)


def test_latencies_of_another_time_are_unknown_and_said_to_be(peer: Any, image: Callable[[float], Any]) -> None:
    peer.listen(MASKS)
    status = peer.status_under(peer.publisher(IMAGES), image(500.0), lambda status: "unknown" in status.message)
    assert latency(status) == "n/a"
    assert status.message == "the latency is unknown: stamps lie 500.0 s behind the node's clock"
    assert status.level == b"\x01"


def test_images_over_the_age_limit_expire_and_the_clocks_are_blamed(
    peer: Any, image: Callable[[float], Any], simulated: Any
) -> None:
    masks = peer.listen(MASKS)
    camera = peer.publisher(IMAGES)
    assert peer.set_parameter("max_image_age_ms", 300).successful
    try:
        before = peer.settled()
        blame = "every image expires (max_image_age_ms 300): the node's clock and the image stamps disagree, "
        old = image(42.0)
        status = peer.status_under(camera, old, lambda status: status.message.startswith(blame))
        assert status.message == f"{blame}stamps lie 42.0 s behind the node's clock"
        assert status.level == b"\x02"
        assert blame in simulated.wait_for_log(blame)
        after = peer.settled()
        assert int(after["expired"]) > int(before["expired"])
        assert after["published"] == before["published"]
        assert after["last_reason"] == "expired: 42000 ms old when picked up"
        assert masks == []

        peer.answer(camera, image(0.3), masks)  # just within the limit
    finally:
        assert peer.set_parameter("max_image_age_ms", 0).successful
