"""The synthetic drive as a dataset."""

import numpy as np
import pytest

from drive_seg.datasets import open_dataset, synth
from drive_seg.synth import SynthDrive


@pytest.fixture
def rendered(monkeypatch):
    """The numbers of all frames that are rendered from now on."""
    made, frame = [], SynthDrive.frame
    monkeypatch.setattr(SynthDrive, "frame", lambda drive, number: made.append(number) or frame(drive, number))
    synth._render.cache_clear()
    yield made
    synth._render.cache_clear()


def test_frames_are_rendered_once_whoever_reads_them(rendered):
    arguments = {"seeds": (5, 7), "frames": 2, "step": 3, "size": (64, 40)}
    first, again = open_dataset("synth", **arguments), open_dataset("synth", **arguments)
    samples = [first.read(i) for i in range(len(first))]
    assert rendered == [0, 3, 0, 3]
    for i, (image, label) in enumerate(samples):
        assert all(one is other for one, other in zip(again.read(i), (image, label), strict=True))
        assert image.shape == (40, 64, 3) and label.shape == (40, 64)
        exact = SynthDrive(seed=5 + i // 2, size=(64, 40)).frame(i % 2 * 3)
        assert np.array_equal(image, exact.image) and np.array_equal(label, exact.label)
    larger = open_dataset("synth", **{**arguments, "size": (96, 64)})
    assert larger.read(0)[0].shape == (64, 96, 3), "another size is another frame"


def test_variety_is_part_of_the_set():
    arguments = {"seeds": (5, 6), "frames": 1, "size": (64, 40)}
    street, wide = (open_dataset("synth", **arguments, variety=variety) for variety in ("street", "wide"))
    assert not np.array_equal(street.read(0)[0], wide.read(0)[0])
    exact = SynthDrive(5, (64, 40), variety="wide").frame(0)
    assert np.array_equal(wide.read(0)[0], exact.image) and np.array_equal(wide.read(0)[1], exact.label)
    assert street.fingerprint() != wide.fingerprint()
    assert street.fingerprint() == open_dataset("synth", **arguments).fingerprint()
    with pytest.raises(ValueError, match="variety must be one of street, wide, not 'all'"):
        open_dataset("synth", **arguments, variety="all")
