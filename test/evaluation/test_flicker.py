"""Masks that move with the picture do not flicker; labels that flip do, by their share."""

import cv2
import numpy as np
import pytest

from drive_seg.evaluation.flicker import Flicker

STEP_NS = 100_000_000
HEIGHT, WIDTH = 192, 256


def world(seed=0):
    """A textured picture and a mask of large regions, both wider than the view."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (HEIGHT + 40, WIDTH + 80), np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    mask = np.zeros(texture.shape, np.uint8)
    mask[90:] = 1
    cv2.circle(mask, (150, 80), 40, 2, -1)
    return cv2.merge([texture] * 3), mask


def view(picture, x, y=0):
    return np.ascontiguousarray(picture[y : y + HEIGHT, x : x + WIDTH])


def second(pairs, step_ns=STEP_NS):
    """The changes between two (image, mask)."""
    flicker = Flicker()
    assert flicker.update(0, pairs[0][0], [pairs[0][1]]) == [None]
    return flicker.update(step_ns, pairs[1][0], [pairs[1][1]])[0]


@pytest.mark.parametrize("shift", [0, 3, 9])
def test_moving_mask_that_is_consistent_does_not_flicker(shift):
    picture, mask = world()
    changes = second([(view(picture, 10), view(mask, 10)), (view(picture, 10 + shift, 2), view(mask, 10 + shift, 2))])
    assert changes.compared > 0.8 * HEIGHT * (WIDTH - shift)
    assert changes.share < 0.002


def test_mask_that_stays_while_the_picture_moves_flickers():
    picture, mask = world()
    stays = view(mask, 10)
    changes = second([(view(picture, 10), stays), (view(picture, 19), stays)])
    moved = np.mean(view(mask, 10)[:, 9:] != view(mask, 19)[:, 9:])
    assert changes.share == pytest.approx(moved, rel=0.2)


@pytest.mark.parametrize("shift", [0, 5])
def test_flipped_labels_give_their_share(shift):
    picture, mask = world()
    flipped = view(mask, 10 + shift).copy()
    flipped[40:120, 60:180] = 9
    changes = second([(view(picture, 10), view(mask, 10)), (view(picture, 10 + shift), flipped)])
    assert changes.share == pytest.approx(80 * 120 / changes.compared, rel=0.05)


def test_brighter_image_is_still_compared_and_other_content_is_not():
    picture, mask = world()
    brighter = cv2.add(view(picture, 10) // 2, 40)
    assert second([(view(picture, 10) // 2, view(mask, 10)), (brighter, view(mask, 10))]).share == 0
    assert second([(view(picture, 10), view(mask, 10)), (view(world(1)[0], 10), 1 - view(mask, 10))]) is None


def test_what_came_into_view_does_not_count():
    picture, mask = world()
    image, label = view(picture, 10).copy(), view(mask, 10).copy()
    covered, relabelled = image.copy(), label.copy()
    covered[60:110, 80:150] = np.random.default_rng(5).integers(0, 256, (50, 70, 1), np.uint8)
    relabelled[60:110, 80:150] = 7
    changes = second([(image, label), (covered, relabelled)])
    assert changes.share < 0.2 * 50 * 70 / (HEIGHT * WIDTH)


def test_frames_far_apart_backwards_or_of_other_size_are_not_compared():
    picture, mask = world()
    frame = (view(picture, 10), view(mask, 10))
    smaller = tuple(np.ascontiguousarray(part[:-8]) for part in frame)
    assert second([frame, frame], 500_000_000).share == 0
    assert second([frame, frame], 500_000_001) is None
    assert second([frame, frame], 0) is None
    assert second([frame, frame], -STEP_NS) is None
    assert second([frame, smaller]) is None


def test_each_model_is_compared_with_itself():
    picture, mask = world()
    image, label = view(picture, 10), view(mask, 10)
    flicker = Flicker()
    flicker.update(0, image, [label, None, label])
    steady, new, flipped = flicker.update(STEP_NS, image, [label, label, label + 3])
    assert (steady.share, new, flipped.share) == (0, None, 1)


def test_result_does_not_hang_on_the_number_of_threads():
    picture, mask = world()
    pairs = [(view(picture, 10), view(mask, 10)), (view(picture, 14, 3), view(mask, 15, 1))]
    before = cv2.getNumThreads()
    found = []
    try:
        for threads in (1, 3):
            cv2.setNumThreads(threads)
            found.append(second(pairs))
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    assert found[0] == found[1]
