"""Camera, ground and depth order of the synthetic drive."""

import math

import numpy as np
import pytest

from drive_seg.labels import CITYSCAPES19
from drive_seg.synth import SynthDrive
from drive_seg.synth.camera import View, clip_near
from drive_seg.synth.depth import far_to_near
from drive_seg.synth.road import wave, wave_slope
from drive_seg.synth.things import Thing

GROUND = [CITYSCAPES19.names.index(name) for name in ("road", "sidewalk", "terrain")]


def ground_point(drive: SynthDrive, i: int, column: np.ndarray, row: np.ndarray):
    """World x, y of ground pixels, from the published camera and pose alone (the textbook formula)."""
    camera, pose = drive.camera, drive.ego_pose(i)
    right, down = (column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy
    sin, cos = math.sin(camera.pitch), math.cos(camera.pitch)
    scale = camera.height_above_ground / (sin + down * cos)
    ahead, right = scale * (cos - down * sin), scale * right
    x = pose.x + ahead * math.cos(pose.yaw) + right * math.sin(pose.yaw)
    y = pose.y + ahead * math.sin(pose.yaw) - right * math.cos(pose.yaw)
    return x, y


@pytest.mark.parametrize("seed", [0, 3, 7])
def test_ground_label_agrees_with_the_label_image(seed):
    drive = SynthDrive(seed=seed, size=(320, 180))
    i = 25
    label = drive.frame(i).label
    first = math.ceil(drive.camera.horizon_row) + 3
    row, column = np.mgrid[first:180, 0:320]
    seen = label[first:]
    x, y = ground_point(drive, i, column.astype(float), row.astype(float))
    free = np.isin(seen, GROUND)
    expected = drive.ground_label(x, y)
    assert free.sum() > 5000
    assert np.mean(expected[free] == seen[free]) > 0.9995
    assert set(np.unique(expected)) <= set(GROUND)


def test_ground_label_takes_scalars_and_knows_the_own_lane():
    drive = SynthDrive(seed=5)
    for i in range(0, 200, 25):
        pose = drive.ego_pose(i)
        assert drive.ground_label(pose.x, pose.y) == CITYSCAPES19.names.index("road")
    assert drive.ground_label(pose.x + np.zeros((2, 3)), pose.y).shape == (2, 3)
    assert drive.ground_label(np.zeros(0), np.zeros(0)).shape == (0,)


def test_nothing_is_ground_above_the_horizon():
    for seed in range(3):
        drive = SynthDrive(seed=seed, size=(320, 180))
        above = drive.frame(10).label[: math.floor(drive.camera.horizon_row)]
        assert not np.isin(above, GROUND).any()


def test_ego_moves_at_its_speed_along_the_road():
    drive = SynthDrive(seed=1, fps=50.0)
    for i in range(0, 400, 57):
        a, b = drive.ego_pose(i), drive.ego_pose(i + 1)
        assert 2.0 < a.speed < 16.0
        assert b.x - a.x == pytest.approx(a.speed / 50.0, rel=0.05)
        heading = math.atan2(b.y - a.y, b.x - a.x)
        assert heading == pytest.approx(a.yaw, abs=0.02)


def test_camera_is_fixed_and_plausible():
    for seed in range(8):
        camera = SynthDrive(seed=seed, size=(641, 360)).camera
        assert (camera.width, camera.height) == (641, 360)
        assert (camera.cx, camera.cy) == (320.0, 179.5)
        assert camera.fx == camera.fy and 40 < math.degrees(2 * math.atan(320.5 / camera.fx)) < 75
        assert 1.2 <= camera.height_above_ground <= 1.7
    with pytest.raises(AttributeError):
        camera.fx = 1.0


def test_projection_and_ground_rows_are_inverse():
    drive = SynthDrive(seed=2, size=(160, 90))
    view = View(drive.camera, drive.ego_pose(30))
    x, y, _ = view.ground_rows()
    points = np.stack([x, y, np.zeros_like(x)], axis=-1)
    pixels = view.to_pixels(view.to_camera(points))
    row, column = np.mgrid[view.first_ground_row : 90, 0:160]
    np.testing.assert_allclose(pixels[..., 0], column, atol=1e-6)
    np.testing.assert_allclose(pixels[..., 1], row, atol=1e-6)


def test_polygons_are_cut_at_the_near_plane():
    square = np.array([(-1, 0, -1), (1, 0, -1), (1, 0, 5), (-1, 0, 5)], float)
    cut = clip_near(square)
    assert len(cut) == 4 and cut[:, 2].min() == pytest.approx(0.4)
    assert len(clip_near(square - [0, 0, 10])) == 0
    assert np.array_equal(clip_near(square + [0, 0, 2]), square + [0, 0, 2])


def test_wave_is_smooth_and_periodic():
    phase = np.linspace(-2, 2, 4001)
    np.testing.assert_allclose(wave(phase + 1), wave(phase), atol=1e-12)
    np.testing.assert_allclose(np.gradient(wave(phase), phase)[1:-1], wave_slope(phase)[1:-1], atol=0.02)
    assert wave(0.25) == 1.0 and wave(0.75) == -1.0


def thing(name: str, s0: float, s1: float, d0: float, d1: float) -> Thing:
    return Thing(s0, s1, d0, d1, draw=lambda canvas: name)


def test_what_hides_is_drawn_after_what_is_hidden():
    row_of_houses = thing("houses", 5, 60, 10, 20)
    tree = thing("tree", 30, 30.4, 8, 8.4)
    car = thing("car", 10, 14, 1, 3)
    bus = thing("bus", 12, 24, 4, 6.5)
    order = [item.draw(None) for item in far_to_near([car, bus, tree, row_of_houses], s=0.0, d=-2.0)]
    assert order.index("houses") < order.index("tree") < order.index("bus") < order.index("car")


def test_depth_order_survives_a_ring():
    ring = [thing("a", 10, 30, 0, 1), thing("b", 10, 30, 0.5, 2), thing("c", 12, 20, 0.2, 1.8)]
    assert sorted(item.draw(None) for item in far_to_near(ring, 0.0, 0.0)) == ["a", "b", "c"]
