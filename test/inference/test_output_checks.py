"""What the self-check of outputs finds, and that driving as it is finds nothing."""

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from drive_seg.confidence import Confidence, FrameConfidence, Usual
from drive_seg.inference import output_checks
from drive_seg.inference.output_checks import COLLAPSED_FRAMES, FROZEN_FRAMES, STEP, Doubt, OutputCheck
from drive_seg.labels import CITYSCAPES19, VOID
from drive_seg.segmenter import Segmenter
from drive_seg.synth import SynthDrive

TENTH_NS = 100_000_000
CLIPS = (
    "kitti_2011_09_26_urban_1242x374.mp4",
    "udacity_solidWhiteRight_960x540.mp4",
    "autoware_vision_pilot_highway_1024x512.mp4",
)


@pytest.fixture
def check() -> OutputCheck:
    return OutputCheck(CITYSCAPES19.names)


def noise(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def halves(left: int, right: int, height: int = 96, width: int = 128) -> np.ndarray:
    label = np.full((height, width), left, np.uint8)
    label[:, width // 2 :] = right
    return label


def doubts(check: OutputCheck, image: np.ndarray, label: np.ndarray, stamp_ns: int = 0) -> list[Doubt]:
    return [finding.doubt for finding in check.look(image, label, stamp_ns)]


def test_a_frozen_image_is_told_from_the_tenth_on_until_it_moves(check: OutputCheck) -> None:
    image, label = noise(0), halves(0, 10)
    found = [doubts(check, image.copy(), label) for _ in range(FROZEN_FRAMES + 2)]
    assert found == [[]] * (FROZEN_FRAMES - 1) + [[Doubt.FROZEN]] * 3
    (finding,) = check.look(image.copy(), label, 0)
    assert finding.text == f"the image is frozen: the same bytes {FROZEN_FRAMES + 3} times in a row"
    assert doubts(check, noise(1), label) == []


def test_an_image_that_differs_in_one_byte_is_not_frozen(check: OutputCheck) -> None:
    """And not where the sample looks, so the whole image has to be compared."""
    for i in range(2 * FROZEN_FRAMES):
        image = noise(0)
        image[STEP + 1, STEP + 1, 2] = i
        assert doubts(check, image, halves(0, 10)) == []


def test_another_size_is_another_image(check: OutputCheck) -> None:
    for i in range(2 * FROZEN_FRAMES):
        height = 96 + i % 2
        image = np.ascontiguousarray(noise(0, 97)[:height])
        assert Doubt.FROZEN not in doubts(check, image, halves(0, 10, height))


@pytest.mark.parametrize(
    ("image", "doubt", "words"),
    [
        (noise(0) // 16, Doubt.DARK, "the image is dark: 100.0% of it below 32 of 255"),
        (np.maximum(noise(0), 251), Doubt.SATURATED, "the image is saturated: 100% of it from 250 of 255 on"),
        (np.full((96, 128, 3), 135, np.uint8), Doubt.BLANK, "shows nothing: its grey values deviate by 0.0 of 255"),
    ],
)
def test_images_that_show_nothing(check: OutputCheck, image: np.ndarray, doubt: Doubt, words: str) -> None:
    (finding,) = check.look(image, halves(0, 10), 0)
    assert finding.doubt is doubt
    assert words in finding.text


def test_a_night_with_a_lamp_is_not_dark(check: OutputCheck) -> None:
    image = noise(0) // 16
    image[:24, :24] = 200
    assert doubts(check, image, halves(0, 10)) == []


def test_one_class_everywhere_is_a_collapse_after_some_frames(check: OutputCheck) -> None:
    label = np.full((96, 128), 2, np.uint8)
    label[:STEP] = 5  # 1 row of 12 that are looked at
    found = [doubts(check, noise(i), np.full_like(label, 2)) for i in range(COLLAPSED_FRAMES)]
    assert found == [[]] * (COLLAPSED_FRAMES - 1) + [[Doubt.COLLAPSED]]
    (finding,) = check.look(noise(99), np.full_like(label, 2), 0)
    assert finding.text == "class 'building' covers 100.0% of the mask"
    assert doubts(check, noise(100), label) == [], "92 % is no collapse"
    assert doubts(check, noise(101), np.full_like(label, 3)) == [], "the count began anew"


def test_a_sudden_change_is_told_only_between_frames_that_belong_together(check: OutputCheck) -> None:
    assert doubts(check, noise(0), halves(0, 10), 5 * TENTH_NS) == []
    (finding,) = check.look(noise(1), halves(8, 13), 6 * TENTH_NS)
    assert finding.doubt is Doubt.JUMP
    assert finding.text.startswith("the classes of 100% of the mask changed within 100 ms, most from 'road' to '")
    assert doubts(check, noise(2), halves(8, 13), 7 * TENTH_NS) == [], "a change is told once"
    assert doubts(check, noise(3), halves(8, 0), 8 * TENTH_NS) == [], "half of the mask may change"
    assert doubts(check, noise(4), halves(1, 2), 18 * TENTH_NS) == [], "a second lies between"
    assert doubts(check, noise(5), halves(8, 13), 2 * TENTH_NS) == [], "time ran backwards"


def test_a_mask_that_is_almost_all_void_as_it_is_published(check: OutputCheck) -> None:
    label, published = halves(8, 13), np.full((12, 16), VOID, np.uint8)
    (finding,) = check.look(noise(0), label, 0, published=published)
    assert finding.doubt is Doubt.VOID and finding.text == "the mask says next to nothing: 100.0% of it is void"
    published[:2] = 8
    assert check.look(noise(1), label, 0, published=published) == [], "a sixth is left"
    assert check.look(noise(2), label, 0, published=published[:0]) == [], "all of it is ignored: the user said so"
    assert doubts(check, noise(3), np.full_like(label, VOID), 10**10) == [Doubt.VOID], "of a network that gives ids"


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_confidence_near_none(temperature: float) -> None:
    check = OutputCheck(CITYSCAPES19.names, Confidence(temperature))
    most = math.exp(1 / 3 / temperature)  # of a softmax that is certain, taken for logits
    (finding,) = check.look(noise(0), halves(8, 13), 0, FrameConfidence(most / (most + 18)))
    assert finding.doubt is Doubt.NO_CONFIDENCE
    assert finding.text == (
        "the confidence is next to none, as if all 19 classes were equally likely: is the model's output what its "
        "contract says?"
    )
    assert check.look(noise(1), halves(8, 13), 0, FrameConfidence(0.0))[0].doubt is Doubt.NO_CONFIDENCE
    assert check.look(noise(2), halves(8, 13), 0, FrameConfidence(most / (most + 18) + 0.001)) == []


def test_of_two_classes_one_has_half_at_least() -> None:
    assert OutputCheck(("road", "other")).look(noise(3), halves(0, 1), 0, FrameConfidence(0.55)) == []


def test_a_frame_that_the_model_was_not_made_for() -> None:
    usual = Usual(frames=100, sure_from=0.9, sure=0.5)
    check = OutputCheck(CITYSCAPES19.names, Confidence(usual=usual))
    (finding,) = check.look(noise(0), halves(8, 13), 0, FrameConfidence(0.62, 0.12))
    assert finding.doubt is Doubt.UNFAMILIAR
    assert finding.text == (
        "the model was not made for this frame: it is sure of 12.0% of it, in its validation of 50% (doubted below 20%)"
    )
    assert check.look(noise(1), halves(8, 13), 0, FrameConfidence(0.8, 0.2)) == []
    assert OutputCheck(CITYSCAPES19.names).look(noise(2), halves(8, 13), 0, FrameConfidence(0.62)) == [], "not known"


def every(step: int, path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """(stamp in ns, image) of every so many-th frame of a clip."""
    clip = cv2.VideoCapture(str(path))
    rate, i = clip.get(cv2.CAP_PROP_FPS), 0
    while (read := clip.read())[0]:
        if i % step == 0:
            yield int(i / rate * 1e9), read[1]
        i += 1


@pytest.mark.parametrize("clip", CLIPS)
def test_real_drives_find_nothing(shared_data: Path, clip: str) -> None:
    segmenter = Segmenter.load("dsnet_camvid11", device="cpu")
    check, frames = OutputCheck(segmenter.label_map.names), 0
    for stamp_ns, image in every(6, shared_data / "clips" / clip):
        assert check.look(image, segmenter(image).label, stamp_ns) == []
        frames += 1
    assert frames > 10


@pytest.mark.parametrize("seed", [1, 2])
def test_synthetic_drives_find_nothing(seed: int) -> None:
    drive, check = SynthDrive(seed=seed), OutputCheck(CITYSCAPES19.names)
    for i in range(0, 60, 5):
        frame = drive.frame(i)
        assert check.look(frame.image, frame.label, i * TENTH_NS) == []


def test_the_classes_of_a_mask_are_counted_as_they_are() -> None:
    label = np.random.default_rng(0).integers(0, 256, (33, 47), np.uint8)
    expected = [(label == value).sum() / label.size for value in range(256)]
    np.testing.assert_allclose(output_checks._shares(label), expected, atol=1e-9)
