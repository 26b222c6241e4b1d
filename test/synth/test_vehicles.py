"""Meshes of vehicles: of the size they say, on the ground, of one class; and uneven light that leaves labels alone."""

import numpy as np
import pytest

from drive_seg.labels import CITYSCAPES19
from drive_seg.synth import SynthDrive, bodies, cars, drive, vehicles
from drive_seg.synth.classes import derived_rng

ID = {name: i for i, name in enumerate(CITYSCAPES19.names)}


@pytest.mark.parametrize(
    ("make", "label", "longest", "highest"),
    [
        (cars.car, "car", 5.2, 2.1),
        (bodies.modern_car, "car", 5.8, 2.5),
        (vehicles.truck, "truck", 11.6, 4.0),
        (vehicles.lorry, "truck", 12.6, 4.1),
    ],
)
def test_vehicles_have_the_size_they_say(make, label, longest, highest):
    lengths = set()
    for seed in range(40):
        mesh, length, width = make(derived_rng(1, seed))
        low, high = mesh.points.min(axis=0), mesh.points.max(axis=0)
        assert mesh.label == ID[label]
        assert 3.5 < length < longest and 1.5 < width < 2.6
        assert high[0] - low[0] == pytest.approx(length, abs=0.25)
        assert width - 0.1 < high[1] - low[1] < width + 0.4  # mirrors and wheels stand out
        assert -0.01 < low[2] < 0.05 and 1.1 < high[2] < highest
        assert np.allclose((mesh.normals**2).sum(axis=1), 1.0, atol=1e-6)
        lengths.add(round(length, 2))
    assert len(lengths) > 3, "they differ"


def test_light_on_vehicles_varies_without_a_change_of_labels(monkeypatch):
    with_relief = SynthDrive(4, (320, 180), variety="wide").frame(30)
    monkeypatch.setattr(drive, "draw_with_relief", lambda canvas, thing, noise: thing.draw(canvas))
    flat = SynthDrive(4, (320, 180), variety="wide").frame(30)
    assert np.array_equal(with_relief.label, flat.label)
    moving = np.isin(flat.label, [ID[name] for name in ("car", "truck", "bus", "person", "rider", "bicycle")])
    assert moving.any() and not np.array_equal(with_relief.image[moving], flat.image[moving])
