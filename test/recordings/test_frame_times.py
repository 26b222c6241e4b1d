"""Times of a labelled dataset's frames: read off their names, shots apart from each other."""

import pytest

from drive_seg.recordings.frame_times import FrameTime, frame_times

S = 1_000_000_000


def seconds(dataset, names, rate=None):
    """(seconds after the first, index) of each frame."""
    times, _ = frame_times(dataset, names, rate)
    assert times[0].stamp_ns == S
    return [(round((time.stamp_ns - S) / S, 6), time.index) for time in times]


def test_camvid_counts_at_30_hz_and_shots_lie_apart():
    names = ["0001TP_006690", "0001TP_006720", "0016E5_07961", "0016E5_07959", "Seq05VD_f00000", "Seq05VD_f00030"]
    times, source = frame_times("camvid", names)
    assert [(t.index, t.shot) for t in times] == [(0, 0), (1, 0), (3, 1), (2, 1), (4, 2), (5, 2)]
    assert [t.stamp_ns for t in times] == [
        S,
        2 * S,
        7 * S,
        7 * S + 66_666_667,
        12 * S + 66_666_667,
        13 * S + 66_666_667,
    ]
    assert source == "the frame numbers of CamVid at 30 Hz"


def test_long_drives_do_not_drift():
    times, _ = frame_times("camvid32", [f"0006R0_f{i:05d}" for i in range(0, 300_001, 30_000)])
    assert [t.stamp_ns for t in times] == [S + 1000 * S * i for i in range(11)]


@pytest.mark.parametrize(
    ("dataset", "names", "expected"),
    [
        (
            "cityscapes",
            ["frankfurt/frankfurt_000000_000294", "frankfurt/frankfurt_000000_000311", "ulm/ulm_000000_000019"],
            [(0, 0), (1, 1), (6, 2)],
        ),
        ("synth", ["seed 10 frame 0", "seed 10 frame 5", "seed 2 frame 0"], [(0, 0), (0.5, 1), (5.5, 2)]),
        ("bdd100k", ["b1c66a42", "b1c9c847"], [(0, 0), (0.1, 1)]),
        ("folder", ["monday/1", "monday/2"], [(0, 0), (0.1, 1)]),
        ("camvid", ["0016E5_07959", "a picture of my own"], [(0, 0), (0.1, 1)]),
    ],
)
def test_what_each_kind_of_name_tells(dataset, names, expected):
    assert seconds(dataset, names) == expected


def test_a_given_rate_goes_before_the_names():
    assert seconds("camvid", ["0016E5_07961", "0016E5_07959"], rate=4) == [(0, 0), (0.25, 1)]


def test_stamps_of_bags_and_files_are_taken_as_they_are():
    times, _ = frame_times("bag", ["drive at 1700000000.250000000 s", "drive at 1700000000.150000007 s"])
    assert times == [FrameTime(1_700_000_000_150_000_007, 1, 0), FrameTime(1_700_000_000_250_000_000, 0, 0)]
    names = ["a/1700000000250000000", "a/1700000000_150000007", "a/1700000001.000000000"]
    times, _ = frame_times("folder", names)
    assert [(t.stamp_ns - 1_700_000_000 * S, t.index) for t in times] == [(150_000_007, 1), (250_000_000, 0), (S, 2)]


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="0016E5_07959 and 0016E5_7959 have the same time; --rate"):
        frame_times("camvid", ["0016E5_07959", "0016E5_7959"])
    for rate in (0, -1, float("nan"), 1e9):
        with pytest.raises(ValueError, match="the rate must lie above 0"):
            frame_times("voc", ["a"], rate)
