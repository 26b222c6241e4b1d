"""The schedule of playing: rounds, stamps, reading ahead."""

import threading

import numpy as np
import pytest

from drive_seg.recordings.playback import Ahead, Stamps, rounds
from drive_seg.recordings.sources import IMAGE, Frame, Record, open_source

MS = 1_000_000


def frame(time_ms: int, stamp_ms: int | None = None, topic: str = "camera/image_raw") -> Record:
    stamp = (time_ms if stamp_ms is None else stamp_ms) * MS
    return Record(topic, IMAGE, time_ms * MS, Frame(np.zeros((2, 2, 3), np.uint8), "bgr8", stamp, "camera"))


def test_one_round_is_the_source_as_it_is():
    records = [frame(10), frame(20)]
    assert [(d.record, d.time_ns, d.shift_ns, d.round) for d in rounds(records, loop=False)] == [
        (records[0], 10 * MS, 0, 0),
        (records[1], 20 * MS, 0, 0),
    ]


def test_rounds_go_on_at_the_images_own_distance():
    due = rounds([frame(100), frame(140), frame(180)], loop=True)
    times = [next(due).time_ns // MS for _ in range(9)]
    assert times == [100, 140, 180, 220, 260, 300, 340, 380, 420]


def test_stamps_grow_over_rounds_even_where_they_span_more_than_the_recording():
    # Recorded 50 ms after the stamp at first, at once in the end.
    source = [frame(100, 50), frame(140, 100), frame(180, 180)]
    due, stamps = rounds(source, loop=True), Stamps()
    given = [stamps.of(next(due)) for _ in range(12)]
    assert all(a < b for a, b in zip(given, given[1:], strict=False))


def test_single_frame_and_empty_source_loop_too():
    due = rounds([frame(100)], loop=True)
    assert [next(due).time_ns // MS for _ in range(3)] == [100, 200, 300]
    assert list(rounds([], loop=True)) == []


def test_synthetic_rounds_keep_the_rate():
    due = rounds(open_source("synth:frames=3,size=16x16,fps=20"), loop=True)
    images = [d.time_ns // MS for d in (next(due) for _ in range(14)) if d.record.topic.endswith("image_raw")]
    assert images == [1000, 1050, 1100, 1150, 1200, 1250, 1300]


def test_now_is_asked_once_for_all_that_shares_a_stamp():
    moments = iter(range(1000, 2000))
    stamps = Stamps(lambda: next(moments))
    records = [frame(10), frame(10, topic="camera/label_truth"), frame(20), frame(20, topic="camera/label_truth")]
    due = rounds(records, loop=True)
    assert [stamps.of(next(due)) for _ in range(8)] == [1000, 1000, 1001, 1001, 1002, 1002, 1003, 1003]


def test_repeated_stamps_get_a_now_each_and_stay_together_in_order():
    moments = iter(range(1000, 2000))
    stamps = Stamps(lambda: next(moments))
    records = [frame(0), frame(0, topic="camera/label_truth"), frame(0), frame(0, topic="camera/label_truth")]
    assert [stamps.of(due) for due in rounds(records, loop=False)] == [1000, 1000, 1001, 1001]


def test_reading_ahead_keeps_order_and_hands_errors_over():
    def items():
        yield from range(50)
        raise OSError("the disk is gone")

    got = []
    with pytest.raises(OSError, match="the disk is gone"), Ahead(items(), depth=4) as ahead:
        for item in ahead:
            got.append(item)
    assert got == list(range(50))


def test_leaving_early_ends_the_thread():
    before = threading.active_count()
    endless = iter(int, 1)
    with Ahead(endless, depth=2) as ahead:
        assert next(iter(ahead)) == 0
    assert threading.active_count() == before
