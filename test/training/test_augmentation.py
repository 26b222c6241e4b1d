"""Geometry moves image and label alike; windows go where they should; randomness comes from the generator alone."""

import numpy as np
import pytest

from drive_seg.training.augmentation import Augment, jitter_colour, largest_share, patch_windows
from drive_seg.training.recipe import Augmentation


def test_augmentation_moves_image_and_label_alike():
    """An image whose blue channel is its label: after any geometry they still agree, padding is void."""
    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(0, 11, (6, 8)), np.ones((16, 16))).astype(np.uint8)
    image = np.repeat((label * 20)[..., None], 3, 2).astype(np.uint8)
    augment = Augment((64, 96), Augmentation(scale=(0.4, 2.0), aspect=0.2, photometric=0.0))
    voids = 0
    for seed in range(40):
        a, b = augment(image, label, np.random.default_rng(seed))
        assert a.shape == (64, 96, 3) and b.shape == (64, 96) and a.flags.c_contiguous
        inside = b != 255
        voids += (~inside).sum()
        agree = np.abs(a[..., 0].astype(int) - b.astype(int) * 20) <= 10
        assert agree[inside].mean() > 0.75  # resizing blurs the borders of the patches
    assert voids > 0


def test_augmentation_depends_on_its_generator_alone():
    image = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    label = np.zeros((40, 60), np.uint8)
    augment = Augment((32, 48), Augmentation())
    one, same = (augment(image, label, np.random.default_rng(5)) for _ in range(2))
    other = augment(image, label, np.random.default_rng(6))
    assert (one[0] == same[0]).all() and not (one[0] == other[0]).all()


def test_crops_visit_every_corner_and_pad_small_images():
    label = np.arange(16, dtype=np.uint8).reshape(4, 4)
    image = np.repeat(label[..., None], 3, 2)
    seen = {Augment((2, 2), plain())(image, label, np.random.default_rng(s))[1][0, 0] for s in range(200)}
    assert seen == {0, 1, 2, 4, 5, 6, 8, 9, 10}
    padded, void = Augment((6, 6), plain())(image, label, np.random.default_rng(0))
    assert (void != 255).sum() == 16 and padded.shape == (6, 6, 3)


def test_colour_jitter_keeps_the_picture():
    image = np.kron(np.array([[40, 200], [120, 80]]), np.ones((16, 16)))[..., None].repeat(3, 2).astype(np.uint8)
    for seed in range(20):
        out = jitter_colour(image, np.random.default_rng(seed)).astype(int)
        assert out.shape == image.shape
        assert out[:12, :12].mean() < out[20:, :12].mean() + 1 and out[:12, 20:].mean() > out[20:, 20:].mean() - 1


def plain(**settings):
    return Augmentation(**{"scale": (1, 1), "flip": 0, "photometric": 0, **settings})


def grey(label):
    return np.repeat((label * 20)[..., None], 3, 2).astype(np.uint8)


def test_discrete_scales_are_taken_alike_and_no_others():
    """A square of 8x8 has 64 f^2 pixels at a factor f."""
    label = np.zeros((40, 40), np.uint8)
    label[16:24, 16:24] = 3
    augment = Augment((120, 120), plain(scales=(0.5, 1.0, 1.75)))
    sizes = [int((augment(grey(label), label, np.random.default_rng(s))[1] == 3).sum()) for s in range(300)]
    assert set(sizes) == {16, 64, 196}
    assert min(sizes.count(size) for size in set(sizes)) > 75


def test_a_window_is_centred_on_the_class_asked_for():
    label = np.zeros((60, 80), np.uint8)
    label[50, 70] = 7  # a single pixel that a random window of 16x16 holds one time in twelve
    augment = Augment((16, 16), plain(scale=(1.0, 2.0)))
    for seed in range(30):
        _, window = augment(grey(label), label, np.random.default_rng(seed), focus=7)
        assert (window == 7).any()
    _, window = Augment((16, 16), plain())(grey(label), label, np.random.default_rng(0), focus=7)
    assert np.argwhere(window == 7).tolist() == [[8, 8]]
    with pytest.raises(ValueError, match="no pixel of id 4"):
        augment(grey(label), label, np.random.default_rng(0), focus=4)


def test_the_window_stays_inside_where_the_class_is_at_the_border():
    label = np.zeros((60, 80), np.uint8)
    label[0, 0] = 7
    _, window = Augment((16, 16), plain())(grey(label), label, np.random.default_rng(0), focus=7)
    assert window[0, 0] == 7 and not (window == 255).any()


def test_windows_that_one_class_fills_are_drawn_anew():
    """Of 65 windows of 64x32, the 17 around the middle have a quarter or more of either class."""
    label = np.zeros((64, 96), np.uint8)
    label[:, 48:] = 1

    def mixed(share):
        augment = Augment((64, 32), plain(max_class_share=share))
        return sum(largest_share(augment(grey(label), label, np.random.default_rng(s))[1]) <= 0.75 for s in range(200))

    assert mixed(1.0) < 80  # 52 expected
    assert mixed(0.75) > 175  # one of ten fits with a probability of 1 - (48 / 65)^10 = 0.95


def test_without_a_fitting_window_the_last_one_is_taken():
    label = np.zeros((32, 32), np.uint8)
    _, window = Augment((16, 16), plain(max_class_share=0.5))(grey(label), label, np.random.default_rng(0))
    assert window.shape == (16, 16) and not window.any()


def test_the_largest_share_is_of_labelled_pixels():
    assert largest_share(np.array([[1, 1, 2, 255]], np.uint8)) == pytest.approx(2 / 3)
    assert largest_share(np.full((2, 2), 255, np.uint8)) == 1


def test_eight_patches_of_880_cover_an_image_of_cityscapes():
    windows = patch_windows((1024, 2048), (880, 880), (2, 4))
    assert [(y.start, x.start) for y, x in windows] == [(y, x) for y in (0, 144) for x in (0, 389, 779, 1168)]
    covered = np.zeros((1024, 2048), bool)
    for window in windows:
        assert covered[window].shape == (880, 880)
        covered[window] = True
    assert covered.all()
    with pytest.raises(ValueError, match="leave gaps"):
        patch_windows((1024, 2048), (880, 600), (2, 3))
