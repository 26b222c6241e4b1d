"""Effects of weather, lens and sensor: the same from the same seed, and each does what its name says."""

import cv2
import numpy as np
import pytest

from drive_seg.images.degradations import EFFECTS, Degradation, degrade, draw_degradations


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """A street in four colours with fine grain, 160x96."""
    image = np.zeros((96, 160, 3), np.uint8)
    image[:40] = (220, 190, 160)
    image[40:] = (90, 92, 95)
    image[30:60, 100:140] = (40, 40, 170)
    grain = np.random.default_rng(0).integers(-12, 13, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def contrast(image: np.ndarray) -> float:
    return float(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).std())


def detail(image: np.ndarray) -> float:
    return float(np.abs(np.diff(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(float), axis=1)).mean())


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("shape", [(96, 160), (2, 3), (41, 17)])
def test_effects_keep_size_and_type_and_their_input(name, shape, scene):
    image = cv2.resize(scene, shape[::-1])
    before = image.copy()
    for severity in (0.0, 0.5, 1.0):
        out = EFFECTS[name](image, severity, np.random.default_rng(3))
        assert out.shape == image.shape and out.dtype == np.uint8
        assert np.array_equal(out, EFFECTS[name](image, severity, np.random.default_rng(3)))
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", EFFECTS)
def test_more_severe_is_further_from_the_scene(name, scene):
    def change(severity: float) -> float:
        seeds = range(6)
        return float(
            np.mean(
                [cv2.absdiff(EFFECTS[name](scene, severity, np.random.default_rng(s)), scene).mean() for s in seeds]
            )
        )

    assert change(0.1) < change(1.0)
    assert change(1.0) > 0.3


def test_effects_do_what_their_names_say(scene):
    def worst(name: str, seed: int = 1) -> np.ndarray:
        return EFFECTS[name](scene, 1.0, np.random.default_rng(seed))

    for name in ("defocus", "motion", "resampling", "fog"):
        assert detail(worst(name)) < 0.8 * detail(scene), name
    for name in ("noise", "sharpening"):
        assert detail(worst(name)) > 1.3 * detail(scene), name
    assert contrast(worst("low_contrast")) < 0.4 * contrast(scene)
    assert worst("darkness").mean() < 0.4 * scene.mean()
    assert worst("vignette")[:8, :8].mean() < 0.4 * scene[:8, :8].mean()
    assert worst("glare").mean() > scene.mean() + 20
    assert worst("fog")[:40].std() < scene[:40].std()


def test_tone_curves_keep_the_order_of_grey_levels():
    levels = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    for seed in range(20):
        for name in ("tone_curve", "low_contrast", "exposure"):
            assert (np.diff(EFFECTS[name](levels, 0.8, np.random.default_rng(seed)).astype(int), axis=1) >= 0).all()


def test_cameras_differ_and_use_every_effect():
    drawn = [draw_degradations(np.random.default_rng(seed)) for seed in range(400)]
    assert {mark.effect for marks in drawn for mark in marks} == set(EFFECTS)
    assert 2 < np.mean([len(marks) for marks in drawn]) < 5
    severities = np.array([mark.severity for marks in drawn for mark in marks])
    assert severities.min() >= 0 and severities.max() <= 1 and 0.3 < severities.mean() < 0.45


def test_only_noise_changes_from_frame_to_frame(scene):
    drops = (Degradation("rain", 0.7, 4), Degradation("dirt", 0.7, 5), Degradation("glare", 0.5, 6))
    assert np.array_equal(degrade(scene, drops, 0), degrade(scene, drops, 9))
    noisy = (*drops, Degradation("noise", 0.5, 7))
    assert not np.array_equal(degrade(scene, noisy, 0), degrade(scene, noisy, 9))
    assert np.array_equal(degrade(scene, noisy, 9), degrade(scene, noisy, 9))
    assert degrade(scene, ()) is scene
