"""Drives of the variety "wide": every kind of scene, exact labels, the same pixels from the same seed."""

import math

import numpy as np
import pytest

from drive_seg.labels import CITYSCAPES19, VOID
from drive_seg.synth import SynthDrive
from drive_seg.synth.classes import derived_rng
from drive_seg.synth.scene import Scene, draw_scene

SMALL = (256, 144)
ID = {name: i for i, name in enumerate(CITYSCAPES19.names)}
GROUND = [ID[name] for name in ("road", "sidewalk", "terrain")]


def wide(seed: int, size: tuple[int, int] = SMALL) -> SynthDrive:
    return SynthDrive(seed, size, variety="wide")


def scenes(count: int) -> list[Scene]:
    return [draw_scene(derived_rng(seed, 0), (640, 360), "wide") for seed in range(count)]


def seed_of(fits) -> int:
    """The first seed whose scene is as wanted."""
    return next(seed for seed, scene in enumerate(scenes(400)) if fits(scene))


def test_scenes_cover_roads_weathers_and_cameras():
    drawn = scenes(400)
    assert {(scene.road, scene.jam) for scene in drawn} >= {
        ("street", False),
        ("street", True),
        ("highway", False),
        ("highway", True),
        ("country", False),
    }
    assert {scene.mood.name for scene in drawn} == {"clear", "cloudy", "overcast", "low sun", "dusk", "haze", "night"}
    heights = [scene.camera.height_above_ground for scene in drawn]
    angles = [math.degrees(2 * math.atan(320 / scene.camera.fx)) for scene in drawn]
    assert 1.0 <= min(heights) < 1.1 and 2.3 < max(heights) <= 2.6
    assert 40 <= min(angles) < 45 and 95 < max(angles) <= 110
    assert all(0.2 < scene.camera.horizon_row / 360 < 0.7 for scene in drawn)
    for share in (
        np.mean([bool(scene.marks) for scene in drawn]),
        np.mean([scene.bonnet is not None for scene in drawn]),
    ):
        assert 0.25 < share < 0.55
    assert np.mean([scene.wet > 0 for scene in drawn]) > 0.05


def test_frames_depend_on_seed_and_index_alone():
    for seed in range(4):
        first = wide(seed)
        first.frame(300)
        a, b = first.frame(12), wide(seed).frame(12)
        assert np.array_equal(a.image, b.image) and np.array_equal(a.label, b.label)


@pytest.mark.parametrize("road", ["street", "highway", "country"])
def test_ground_label_agrees_with_the_label_image(road):
    seed = seed_of(lambda scene: scene.road == road and scene.bonnet is None)
    drive, i = wide(seed, (320, 180)), 25
    camera, pose, label = drive.camera, drive.ego_pose(i), drive.frame(i).label
    first = math.ceil(camera.horizon_row) + 3
    row, column = np.mgrid[first:180, 0:320].astype(float)
    down, right = (row - camera.cy) / camera.fy, (column - camera.cx) / camera.fx
    scale = camera.height_above_ground / (math.sin(camera.pitch) + down * math.cos(camera.pitch))
    ahead, right = scale * (math.cos(camera.pitch) - down * math.sin(camera.pitch)), scale * right
    x = pose.x + ahead * math.cos(pose.yaw) + right * math.sin(pose.yaw)
    y = pose.y + ahead * math.sin(pose.yaw) - right * math.cos(pose.yaw)
    seen = label[first:]
    flat = np.isin(seen, (ID["road"], ID["sidewalk"]))  # terrain may be a bank beside the road
    assert flat.sum() > 2000
    assert np.mean(drive.ground_label(x, y)[flat] == seen[flat]) > 0.9995
    assert drive.ground_label(pose.x, pose.y) == ID["road"]


def test_void_is_the_own_bonnet_alone():
    with_bonnet = seed_of(lambda scene: scene.bonnet is not None)
    label = wide(with_bonnet).frame(5).label
    void = label == VOID
    assert void[-1, SMALL[0] // 2] and 0.002 < void.mean() < 0.2
    assert np.array_equal(void, np.maximum.accumulate(void, axis=0)), "it reaches down to the lower edge"
    without = seed_of(lambda scene: scene.bonnet is None)
    assert wide(without).frame(5).label.max() <= 18


def test_highways_have_what_towns_have_not():
    seed = seed_of(lambda scene: scene.road == "highway" and not scene.jam)
    drive = wide(seed)
    assert drive.ego_pose(0).speed > 17
    counts = np.zeros(256, np.int64)
    others = [number for number, scene in enumerate(scenes(60)) if scene.road == "highway"]
    for number in others[:6]:
        for i in (0, 60):
            counts += np.bincount(wide(number).frame(i).label.ravel(), minlength=256)
    share = counts[:19] / counts[:19].sum()
    assert share[ID["sidewalk"]] == 0 and share[ID["person"]] == 0
    for name in ("wall", "fence", "terrain", "vegetation", "truck", "traffic sign", "building"):
        assert share[ID[name]] > 0.0005, name
    assert 0.2 < share[ID["road"]] < 0.6


def test_jams_are_slow_and_full_of_vehicles():
    shares = {True: [], False: []}
    for seed, scene in enumerate(scenes(24)):
        if scene.road != "country" and scene.mood.name != "night":
            drive = wide(seed)
            if scene.jam:
                assert drive.ego_pose(3).speed < 6
            vehicles = np.isin(drive.frame(10).label, [ID[name] for name in ("car", "truck", "bus")])
            shares[scene.jam].append(vehicles.mean())
    assert np.mean(shares[True]) > 1.5 * np.mean(shares[False])


def test_nights_are_dark_with_lamps():
    seed = seed_of(lambda scene: scene.mood.name == "night" and not scene.marks and scene.road == "street")
    frame = wide(seed).frame(10)
    assert np.median(frame.image) < 60 and frame.image.max() > 180


def test_consecutive_frames_show_the_same_scene():
    for seed in range(3):
        drive = SynthDrive(seed, SMALL, fps=100.0, variety="wide")
        a, b = drive.frame(100).label, drive.frame(101).label
        assert np.mean(a != b) < 0.12


@pytest.mark.parametrize("size", [(16, 16), (33, 17), (90, 160)])
def test_any_size(size):
    for seed in range(8):
        frame = wide(seed, size).frame(3)
        assert frame.image.shape == (size[1], size[0], 3) and frame.label.shape == (size[1], size[0])
