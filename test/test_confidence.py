"""What a contract says of confidence: a temperature, and how sure the model usually is."""

import numpy as np
import pytest

from drive_seg.confidence import FAR, Confidence, Usual

PLANES = [np.array([[0, 100, 200, 200]], np.uint8), np.array([[100, 200, 200, 250]], np.uint8)]


def test_what_is_usual_is_of_all_frames_alike() -> None:
    usual = Usual.of([*PLANES, np.tile(PLANES[1], (3, 1))], "some")
    assert usual.frames == 3 and usual.data == "some"
    assert usual.sure_from == pytest.approx(200 / 255, abs=1e-4)
    assert usual.sure == pytest.approx((0.5 + 0.75 + 0.75) / 3, abs=1e-4)
    assert usual.least == FAR * usual.sure


def test_what_is_usual_of_frames_without_a_confidence_is_not_known() -> None:
    assert Usual.of([]) is None
    assert Usual.of([np.zeros((2, 2), np.uint8)]) is None


def test_a_frame_of_a_model_that_is_sure_of_everything_is_not_decided_by_rounding() -> None:
    usual = Usual.of([np.full((4, 4), 255, np.uint8)])
    assert usual.sure_from == 1 and usual.share(np.full((4, 4), 254, np.uint8)) == 1
    assert usual.share(np.full((4, 4), 253, np.uint8)) == 0


def test_how_sure_a_model_is_of_a_frame() -> None:
    frame = Confidence(usual=Usual.of(PLANES)).of_frame(PLANES[0])
    assert frame.mean == pytest.approx(125 / 255) and frame.sure == 0.5
    assert Confidence().of_frame(PLANES[0]).sure is None


@pytest.mark.parametrize(
    "confidence",
    [Confidence(), Confidence(1.7, "camvid val, 101 images"), Confidence(0.5, "x", Usual.of(PLANES, "some"))],
    ids=["nothing", "temperature", "all"],
)
def test_plain_data_and_back(confidence: Confidence) -> None:
    assert Confidence.from_dict(confidence.to_dict()) == confidence


def test_what_is_left_at_its_default_is_not_written() -> None:
    assert Confidence().to_dict() == {}, "older files keep their hashes"
    assert Confidence(2.0).to_dict() == {"temperature": 2.0}


USUAL = {"frames": 1, "sure_from": 0.5, "sure": 0.5}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (1.5, "confidence is not a list of keys with values, but 1.5; the keys are temperature, fitted_on, usual"),
        ({"temprature": 2}, "confidence has no key 'temprature'; the keys are temperature, fitted_on, usual"),
        ({"temperature": "2"}, "confidence.temperature cannot be '2'"),
        ({"temperature": True}, "confidence.temperature cannot be True"),
        ({"temperature": float("nan")}, "confidence.temperature cannot be nan"),
        ({"temperature": 0}, "temperature 0 is not from 0.05 to 20.0; 1 changes nothing"),
        ({"temperature": -1.0}, "temperature -1.0 is not from 0.05"),
        ({"fitted_on": 3}, "confidence.fitted_on cannot be 3"),
        ({"usual": 0.8}, "confidence.usual cannot be 0.8"),
        ({"usual": {"frames": 1}}, "confidence.usual lacks sure_from, sure"),
        ({"usual": {**USUAL, "frames": 0}}, "frames is not 1 or more, or another figure not in 0..1"),
        ({"usual": {**USUAL, "sure": 85}}, "not in 0..1"),
        ({"usual": {**USUAL, "sure_from": 0.0}}, "not in 0..1"),
    ],
)
def test_what_cannot_be_is_refused(data: object, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        Confidence.from_dict(data)
    assert reason in str(error.value)
