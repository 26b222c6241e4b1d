"""Colours of photographs on training images: taken over, from the generator alone, and off unless asked for."""

import cv2
import numpy as np
import pytest

from drive_seg.training import appearance
from drive_seg.training.appearance import Appearance, Styles
from drive_seg.training.augmentation import Augment
from drive_seg.training.recipe import Augmentation


@pytest.fixture
def photographs(tmp_path):
    """Two photographs, one in a subfolder: a red and a blue one, both with texture."""
    (tmp_path / "more").mkdir()
    for name, color in (("red.png", (30, 40, 180)), ("more/blue.jpg", (190, 60, 30))):
        grain = np.random.default_rng(1).integers(-25, 26, (90, 120, 3))
        cv2.imwrite(str(tmp_path / name), np.clip(np.array(color) + grain, 0, 255).astype(np.uint8))
    return tmp_path


@pytest.fixture
def image():
    image = np.random.default_rng(2).integers(60, 110, (80, 100, 3)).astype(np.uint8)
    image[20:40, 30:70] = (200, 210, 205)
    return image


@pytest.mark.parametrize("way", [appearance._fourier, appearance._reinhard, appearance._histograms])
def test_each_way_brings_the_colours_of_the_photograph(way, photographs, image):
    red = cv2.imread(str(photographs / "red.png"))
    out = way(image, appearance._look(red), np.random.default_rng(0))
    assert out.shape == image.shape and out.dtype == np.uint8
    assert np.abs(out.mean(axis=(0, 1)) - red.mean(axis=(0, 1))).max() < 15
    grey, before = (cv2.cvtColor(x, cv2.COLOR_BGR2GRAY) for x in (out, image))
    if way is not appearance._fourier:  # it swaps large areas for those of the photograph
        assert grey[22:38, 32:68].mean() > grey[50:].mean() + 8, "what was brighter stays brighter"
    assert np.corrcoef(grey[50:].ravel(), before[50:].ravel())[0, 1] > 0.5


def test_an_image_in_its_own_colours_hardly_changes(image):
    look = appearance._look(image)
    for way in (appearance._fourier, appearance._reinhard, appearance._histograms):
        assert cv2.absdiff(way(image, look, np.random.default_rng(3)), image).mean() < 4


def test_styles_use_every_photograph_and_the_generator_alone(photographs, image):
    styles = Styles(photographs)
    assert len(styles) == 2
    out = [styles(image, np.random.default_rng(seed)) for seed in range(24)]
    redder = [one[..., 2].mean() > one[..., 0].mean() for one in out]
    assert any(redder) and not all(redder)
    assert all(np.array_equal(one, styles(image, np.random.default_rng(s))) for s, one in enumerate(out))


def test_share_of_images_that_are_changed(photographs, image):
    for settings, wanted in (
        ({"style": {"folder": str(photographs), "share": 0.5}}, (0.35, 0.65)),
        ({"degraded": 0.3}, (0.2, 0.4)),
    ):
        look = Appearance(Augmentation(**settings))
        changed = np.mean([look(image, np.random.default_rng(s)) is not image for s in range(200)])
        assert wanted[0] < changed < wanted[1]


def test_off_draws_nothing(image):
    rng = np.random.default_rng(7)
    assert Appearance(Augmentation())(image, rng) is image
    assert rng.random() == np.random.default_rng(7).random()


def test_labels_are_untouched(photographs, image):
    label = np.random.default_rng(3).integers(0, 19, image.shape[:2]).astype(np.uint8)
    style = {"folder": str(photographs), "share": 1.0}
    plain, changed = (
        Augment((64, 64), Augmentation(photometric=0, **more))(image, label, np.random.default_rng(5))
        for more in ({}, {"style": style, "degraded": 1.0})
    )
    assert np.array_equal(plain[1], changed[1]) and not np.array_equal(plain[0], changed[0])
    assert changed[0].flags.c_contiguous and changed[0].shape == (64, 64, 3)


def test_folders_without_photographs_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no image \(.*\.jpg"):
        Styles(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no jpeg")
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be decoded"):
        Styles(tmp_path)
