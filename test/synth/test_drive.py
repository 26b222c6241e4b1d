"""SynthDrive: frames depend on their arguments alone, labels are exact, and the street has what it should."""

import cv2
import numpy as np
import pytest

from drive_seg.labels import CITYSCAPES19
from drive_seg.synth import SynthDrive

SMALL = (256, 144)
ID = {name: i for i, name in enumerate(CITYSCAPES19.names)}


def same(a, b) -> bool:
    return np.array_equal(a.image, b.image) and np.array_equal(a.label, b.label) and a.stamp_ns == b.stamp_ns


def test_frame_has_the_promised_shapes_and_stamp():
    frame = SynthDrive(seed=3, size=(200, 120), fps=8.0).frame(5)
    assert frame.image.shape == (120, 200, 3) and frame.image.dtype == np.uint8
    assert frame.label.shape == (120, 200) and frame.label.dtype == np.uint8
    assert frame.image.flags.c_contiguous and frame.label.flags.c_contiguous
    assert frame.stamp_ns == 625_000_000


def test_random_access_equals_playing_in_order():
    played = SynthDrive(seed=11, size=SMALL)
    in_order = [played.frame(i) for i in range(4)]
    jumped = SynthDrive(seed=11, size=SMALL)
    jumped.frame(900)
    for i in (3, 0, 2, 1):
        assert same(jumped.frame(i), in_order[i])


def test_global_random_state_is_neither_used_nor_touched():
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first = SynthDrive(seed=4, size=SMALL).frame(7)
    assert np.array_equal(np.random.get_state()[1], before)
    np.random.seed(2)
    assert same(SynthDrive(seed=4, size=SMALL).frame(7), first)


def test_returned_arrays_belong_to_the_caller():
    drive = SynthDrive(seed=4, size=SMALL)
    first = drive.frame(0)
    kept = first.label.copy()
    first.image[:] = 0
    first.label[:] = 0
    assert np.array_equal(drive.frame(0).label, kept)


def test_seeds_give_different_streets():
    labels = [SynthDrive(seed=seed, size=SMALL).frame(0).label for seed in range(4)]
    for i, a in enumerate(labels):
        for b in labels[i + 1 :]:
            assert np.mean(a != b) > 0.1


def test_frame_rate_only_changes_which_moments_are_seen():
    slow, fast = SynthDrive(seed=6, size=SMALL, fps=10.0), SynthDrive(seed=6, size=SMALL, fps=20.0)
    assert np.array_equal(slow.frame(9).label, fast.frame(18).label)
    assert slow.frame(9).stamp_ns == fast.frame(18).stamp_ns
    assert not np.array_equal(slow.frame(9).image, fast.frame(18).image)  # sensor noise is per frame


@pytest.mark.parametrize("seed", [0, 1])
def test_every_class_occurs_within_three_hundred_frames(seed):
    drive = SynthDrive(seed=seed, size=SMALL)
    seen = np.zeros(256, np.int64)
    for i in range(0, 300, 6):
        seen += np.bincount(drive.frame(i).label.ravel(), minlength=256)
    assert [name for name, i in ID.items() if seen[i] == 0] == []
    assert seen[19:].sum() == 0


def test_class_shares_are_those_of_a_street():
    counts = np.zeros(19)
    for seed in range(40, 48):
        drive = SynthDrive(seed=seed, size=SMALL)
        for i in (0, 50, 100, 150, 200):
            counts += np.bincount(drive.frame(i).label.ravel(), minlength=19)
    share = dict(zip(CITYSCAPES19.names, counts / counts.sum(), strict=True))
    assert 0.25 < share["road"] < 0.45
    assert 0.10 < share["building"] < 0.32
    assert 0.04 < share["vegetation"] < 0.22
    assert 0.08 < share["sky"] < 0.26
    assert 0.015 < share["sidewalk"] < 0.10
    assert 0.015 < share["car"] < 0.12
    for rare in ("motorcycle", "bicycle", "traffic light", "traffic sign", "person", "rider"):
        assert 0.0 < share[rare] < 0.025, rare
    for rare in ("train", "bus", "truck", "wall", "fence"):
        assert 0.0 < share[rare] < 0.06, rare


def test_colours_belong_to_the_labels():
    leaves = []
    for seed in range(5):
        frame = SynthDrive(seed=seed, size=SMALL).frame(20)
        grey = cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY)
        sky, road = grey[frame.label == ID["sky"]], grey[frame.label == ID["road"]]
        assert sky.size > 100 and road.size > 100
        assert sky.mean() > road.mean() + 15
        leaves.append(frame.image[frame.label == ID["vegetation"]])
    blue, green, _ = np.concatenate(leaves).astype(float).mean(axis=0)
    assert green > blue + 5


def test_label_edges_lie_on_image_edges():
    """Moving the label by two pixels must lose contrast across its borders."""

    def contrast(image: np.ndarray, label: np.ndarray) -> float:
        border = label[:, 1:] != label[:, :-1]
        step = np.abs(np.diff(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(float), axis=1))
        return float(step[border].mean())

    for seed in (0, 2, 5):
        frame = SynthDrive(seed=seed).frame(30)
        exact = contrast(frame.image, frame.label)
        for shift in (-2, 2):
            assert exact > 1.5 * contrast(frame.image, np.roll(frame.label, shift, axis=1))


def test_consecutive_frames_show_the_same_scene_a_little_later():
    drive = SynthDrive(seed=8, size=SMALL, fps=40.0)
    labels = [drive.frame(i).label for i in range(160, 166)]
    for a, b in zip(labels, labels[1:], strict=False):
        assert 0.002 < np.mean(a != b) < 0.12
    assert np.mean(labels[0] != labels[-1]) > np.mean(labels[0] != labels[1])


@pytest.mark.parametrize("size", [(16, 16), (33, 17), (321, 181), (414, 125), (90, 160)])
def test_any_size(size):
    frame = SynthDrive(seed=2, size=size).frame(12)
    assert frame.label.shape == (size[1], size[0]) and frame.image.shape == (size[1], size[0], 3)
    assert frame.label.max() <= 18
    assert len(np.unique(frame.label)) >= 3


def test_size_is_only_the_resolution():
    large = SynthDrive(seed=9, size=(640, 360)).frame(15).label
    small = SynthDrive(seed=9, size=(320, 180)).frame(15).label
    assert np.mean(cv2.resize(large, (320, 180), interpolation=cv2.INTER_NEAREST) == small) > 0.9


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"seed": -1}, "seed"),
        ({"size": (15, 100)}, "size"),
        ({"fps": 0}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"variety": "narrow"}, "street, wide, not 'narrow'"),
    ],
)
def test_bad_arguments_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        SynthDrive(**arguments)


def test_negative_frame_is_refused():
    with pytest.raises(ValueError, match="frame index"):
        SynthDrive(size=SMALL).frame(-1)
