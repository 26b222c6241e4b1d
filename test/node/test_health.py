"""Ledger, figures and judgement of one camera, on a clock of the test's own."""

import threading
from dataclasses import replace
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from drive_seg.inference.output_checks import Doubt, Finding
from drive_seg.node.health.diagnostics import About, CameraHealth, describe_offset
from drive_seg.node.health.ledger import Fate, FrameLedger
from drive_seg.node.health.measures import Rate, Throttle, Window

ABOUT = About("camera", "/camera/image_raw", "m", "h", "cpu", "fp32", max_age_ns=100_000_000)


class SteppedClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def health(clock: SteppedClock) -> CameraHealth:
    health = CameraHealth(clock)
    health.activate()
    return health


def values(health: CameraHealth) -> dict[str, str]:
    return {value.key: value.value for value in health.status(ABOUT).values}


def test_the_ledger_adds_up_at_every_moment_under_many_threads() -> None:
    ledger = FrameLedger()
    done = threading.Event()

    def frames(fate: Fate) -> None:
        for _ in range(2000):
            ledger.receive()
            ledger.end(fate)

    threads = [threading.Thread(target=frames, args=(fate,)) for fate in Fate]
    faults = []

    def audit() -> None:
        while not done.is_set():
            count = ledger.count()
            if count.received != sum(count.ended.values()) + count.in_flight or count.in_flight < 0:
                faults.append(count)

    auditor = threading.Thread(target=audit)
    auditor.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    auditor.join()
    assert faults == []
    count = ledger.count()
    assert (count.received, count.in_flight) == (2000 * len(Fate), 0)
    assert count.ended == dict.fromkeys(Fate, 2000)


def test_a_frame_cannot_end_twice() -> None:
    ledger = FrameLedger()
    ledger.receive()
    ledger.end(Fate.DROPPED)
    with pytest.raises(ValueError, match="none is in flight"):
        ledger.end(Fate.PUBLISHED)


def test_window_forgets_after_ten_seconds(clock: SteppedClock) -> None:
    window = Window(clock)
    assert window.percentile(50) is None
    for value in (1.0, 2.0, 9.0):
        window.add(value)
        clock.now += 4.0
    assert window.values() == [2.0, 9.0]
    assert window.percentile(50) == 5.5


def test_rate_counts_intervals_then_the_window(clock: SteppedClock) -> None:
    rate = Rate(clock)
    assert rate.per_second() is None
    rate.tick()
    assert rate.per_second() is None, "one event has no rate"
    for _ in range(20):
        clock.now += 0.1
        rate.tick()
    assert rate.per_second() == pytest.approx(10.0)
    clock.now += 2.0
    assert rate.per_second() == pytest.approx(5.0), "a pause lowers the rate"
    clock.now += 20.0
    assert rate.per_second() is None, "nothing in the window is not a rate of 0"


def test_throttle_lets_through_once_per_period_and_key(clock: SteppedClock) -> None:
    throttle = Throttle(5.0, clock)
    assert [throttle.lets_through(key) for key in ("a", "a", "b")] == [True, False, True]
    clock.now += 5.0
    assert throttle.lets_through("a")


@pytest.mark.parametrize(
    ("age_s", "words"),
    [
        (0.25, "stamps lie 250.0 ms behind the node's clock"),
        (-3.0, "stamps lie 3.0 s ahead of the node's clock"),
        (7200.0, "stamps lie 2.0 h behind the node's clock"),
        (864000.0, "stamps lie 10.0 days behind the node's clock"),
    ],
)
def test_offsets_in_words(age_s: float, words: str) -> None:
    assert describe_offset(age_s) == words


def test_states_from_waiting_to_stale(health: CameraHealth, clock: SteppedClock) -> None:
    def state() -> tuple[str, bytes]:
        verdict = health.verdict(ABOUT)
        return verdict.state, verdict.level

    assert state() == ("waiting", b"\x00")
    clock.now += 6.0
    assert state() == ("waiting", b"\x01")
    for fate, expected in (
        (Fate.PUBLISHED, ("active", b"\x00")),
        (Fate.REJECTED, ("rejecting", b"\x02")),
        (Fate.FAILED, ("active", b"\x02")),
        (Fate.PUBLISHED, ("active", b"\x01")),
    ):
        health.receive()
        health.end(fate, f"{fate.value} for a test")
        assert state() == expected
    assert health.verdict(ABOUT).message == ("in the last 10 s: 1 failed, 1 rejected; published: published for a test")
    clock.now += 3.0
    assert state() == ("stale", b"\x03")
    health.deactivate()
    assert state() == ("inactive", b"\x00")


def test_paused_and_skipped_are_states_of_their_own(health: CameraHealth) -> None:
    def verdict(**about: Any) -> tuple[str, bytes, str]:
        found = health.verdict(replace(ABOUT, **about))
        return found.state, found.level, found.message

    health.receive()
    health.end(Fate.PUBLISHED)
    assert verdict(paused=True)[:2] == ("paused", b"\x00")
    assert verdict(skipped=True, degraded="step 1 of 2: skipping camera") == (
        "skipped",
        b"\x01",
        "skipped under overload: step 1 of 2: skipping camera",
    )
    assert verdict(degraded="step 1 of 2: skipping rear") == (
        "active",
        b"\x01",
        "masks come; degraded under overload: step 1 of 2: skipping rear",
    )
    assert verdict(degraded="off, but still with network input x0.75") == (
        "active",
        b"\x01",
        "masks come; degrade: off, but still with network input x0.75",
    )
    assert verdict(degraded="no")[:2] == ("active", b"\x00")
    health.deactivate()
    assert verdict(paused=True)[0] == "inactive"


def test_a_doubt_is_told_with_its_beginning_until_it_was_not_found_for_a_while(
    health: CameraHealth, clock: SteppedClock
) -> None:
    for _ in range(3):
        health.receive()
        health.doubt([Finding(Doubt.FROZEN, "the image is frozen")], int(clock.now * 1e9))
        health.end(Fate.PUBLISHED)
        clock.now += 1.0
    assert health.verdict(ABOUT).level == b"\x01"
    assert values(health)["self_check"] == "the image is frozen (since stamp 100.000, 3 s ago)"
    assert values(health)["self_check_frozen_image"] == "3"
    clock.now += 12.0
    health.receive()
    health.doubt([], int(clock.now * 1e9))
    health.end(Fate.PUBLISHED)
    assert health.verdict(ABOUT).level == b"\x00"
    assert values(health)["self_check"] == "nothing found"
    health.doubt([Finding(Doubt.FROZEN, "frozen again")], int(clock.now * 1e9))
    assert values(health)["self_check"] == "frozen again (since stamp 115.000, 0 s ago)"
    assert values(health)["self_check_frozen_image"] == "4"


def test_all_expired_blames_the_clocks_until_one_is_published(health: CameraHealth) -> None:
    for age_ns in (3_000_000_000, 5_000_000_000, 4_000_000_000):
        health.receive()
        health.time_age(age_ns)
        health.end(Fate.EXPIRED, "too old")
    verdict = health.verdict(ABOUT)
    assert verdict.level == b"\x02"
    assert verdict.message == (
        "every image expires (max_image_age_ms 100): the node's clock and the image stamps disagree, "
        "stamps lie 4.0 s behind the node's clock"
    )
    health.receive()
    health.end(Fate.PUBLISHED)
    assert "disagree" not in health.verdict(ABOUT).message


def test_what_is_not_known_is_not_zero(health: CameraHealth) -> None:
    figures = values(health)
    unknown = {key for key, value in figures.items() if value == "n/a"}
    assert unknown >= {"fps", "latency_ms_p50", "processing_ms_p99", "stage_network_ms", "last_reason"}
    assert figures["lost_by_middleware"] == "n/a", "until the middleware says that it can tell"
    assert figures["received"] == "0"


def test_latency_and_processing_are_percentiles_in_ms(health: CameraHealth) -> None:
    for milliseconds in range(1, 101):
        health.time_latency(milliseconds * 1_000_000)
        health.time_processing(milliseconds / 2000, {"network": milliseconds / 4000, "unknown": 1.0})
    figures = values(health)
    expected = {
        "latency_ms_p50": "50.5",
        "latency_ms_p99": "99.0",
        "processing_ms_p50": "25.2",
        "processing_ms_p99": "49.5",
        "stage_network_ms": "12.6",
    }
    assert {key: figures[key] for key in expected} == expected


@pytest.mark.parametrize("latency_ns", [-5_000_000, 86_400 * 10**9])
def test_an_impossible_latency_is_not_reported_as_one(health: CameraHealth, latency_ns: int) -> None:
    health.receive()
    health.time_latency(latency_ns)
    health.end(Fate.PUBLISHED)
    assert values(health)["latency_ms_p50"] == "n/a"
    verdict = health.verdict(ABOUT)
    assert verdict.level == b"\x01"
    assert verdict.message.startswith("the latency is unknown: stamps lie ")


def test_counters_go_on_over_activate_and_figures_start_anew(health: CameraHealth, clock: Any) -> None:
    health.receive()
    health.time_processing(0.1, {})
    health.end(Fate.PUBLISHED)
    health.deactivate()
    health.activate()
    assert values(health)["published"] == "1"
    assert values(health)["processing_ms_p50"] == "n/a"
    assert health.verdict(ABOUT).state == "waiting"


def test_an_output_that_is_wanted_and_does_not_come_is_a_warning(health: CameraHealth) -> None:
    about = replace(ABOUT, missing="no free_space: no camera_info on /camera_info yet", node="/car/front")
    for fate in (Fate.WITHHELD, Fate.PUBLISHED):
        health.receive()
        health.end(fate, "some reason" * (fate is Fate.WITHHELD))
        status = health.status(about)
        assert (status.level, status.message) == (DiagnosticStatus.WARN, about.missing)
    assert status.name == "drive_seg: /car/front: camera"
    assert {pair.key: pair.value for pair in status.values}["missing_outputs"] == about.missing
    assert values(health)["missing_outputs"] == "none"
