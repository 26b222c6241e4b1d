"""Free space on the ground, on geometry that is known exactly."""

import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from drive_seg.geometry.ground import FREE, OCCUPIED, UNSEEN, GridSpec, Ground, GroundError, Mounting, ground_kinds
from drive_seg.geometry.lens import Lens, LensError, binning, image_size, offset
from drive_seg.images.masks import drivable_mask
from drive_seg.synth.drive import SynthDrive

ROAD, SIDEWALK, CAR, TERRAIN = 0, 1, 13, 9
FLAT = (SIDEWALK, TERRAIN)
PLAIN = Lens(320, 200, 180.0, 175.0, 161.3, 88.2)
BENT = Lens(320, 200, 180.0, 175.0, 161.3, 88.2, "plumb_bob", (-0.3, 0.1, 0.002, -0.001, -0.01))
RATIONAL = Lens(
    320, 200, 180.0, 175.0, 161.3, 88.2, "rational_polynomial", (0.3, 0.02, 1e-3, -5e-4, 0.001, 0.4, 0.09, 0.005)
)
FISHEYE = Lens(320, 200, 110.0, 112.0, 158.0, 97.0, "equidistant", (0.02, -0.01, 0.003, -0.001))
STRAIGHT = (1.2, 0.1, 1.5, 0.0, 0.06, 0.0)
TILTED = (0.4, -0.3, 2.1, 0.07, 0.25, -0.4)
LEFT = (0.0, 0.8, 1.1, -0.03, 0.3, math.pi / 2)
REAR = (-0.5, 0.0, 1.0, 0.02, 0.2, math.pi)


def slow_direction(lens: Lens, pixel: tuple[int, int], pose: tuple[float, ...]) -> np.ndarray:
    """Where a pixel looks in the vehicle frame, by the textbook's distortion and Euler angles."""
    target = np.array([(pixel[0] - lens.cx) / lens.fx, (pixel[1] - lens.cy) / lens.fy])
    if lens.model == "equidistant":
        k = lens.distortion
        radius, low, high = np.linalg.norm(target), 0.0, 2.0
        for _ in range(60):
            middle = (low + high) / 2
            bent = middle + sum(k[i] * middle ** (2 * i + 3) for i in range(4))
            low, high = (middle, high) if bent < radius else (low, middle)
        right, down = target / max(radius, 1e-12) * math.sin(low)
        forward = math.cos(low)
    else:
        right, down = slow_undistort(lens, target)
        forward = 1.0
    x, y, z = forward, -right, -down  # the camera's body frame
    roll, pitch, yaw = pose[3:]
    y, z = y * math.cos(roll) - z * math.sin(roll), y * math.sin(roll) + z * math.cos(roll)
    x, z = x * math.cos(pitch) + z * math.sin(pitch), -x * math.sin(pitch) + z * math.cos(pitch)
    x, y = x * math.cos(yaw) - y * math.sin(yaw), x * math.sin(yaw) + y * math.cos(yaw)
    return np.array([x, y, z])


def slow_undistort(lens: Lens, target: np.ndarray) -> np.ndarray:
    """By Newton's method with differences."""

    def bend(x: float, y: float) -> np.ndarray:
        d = [*lens.distortion, *(0.0,) * (8 - len(lens.distortion))]
        k1, k2, p1, p2, k3, k4, k5, k6 = d
        r2 = x * x + y * y
        radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
        return np.array(
            [
                x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
            ]
        )

    point, tiny = target.astype(float), 1e-6
    for _ in range(15):
        here = bend(*point)
        slope = np.stack(
            [(bend(point[0] + tiny, point[1]) - here) / tiny, (bend(point[0], point[1] + tiny) - here) / tiny], axis=1
        )
        point = point + np.linalg.solve(slope, target - here)
    return point


CAMERAS = [
    pytest.param(PLAIN, STRAIGHT, id="plain, straight"),
    pytest.param(PLAIN, TILTED, id="plain, tilted"),
    pytest.param(BENT, TILTED, id="plumb_bob, tilted"),
    pytest.param(RATIONAL, STRAIGHT, id="rational_polynomial, straight"),
    pytest.param(FISHEYE, LEFT, id="equidistant, to the left"),
    pytest.param(BENT, REAR, id="plumb_bob, to the rear"),
]


@pytest.mark.parametrize(("lens", "pose"), CAMERAS)
def test_rays_are_those_of_the_slow_reference_and_project_back(lens: Lens, pose: tuple[float, ...]) -> None:
    rays, rotation = lens.rays(), np.array(Mounting.from_pose(*pose).rotation)
    pixels = [(0, 0), (319, 199), (160, 100), (37, 150), (280, 60), (5, 199)]
    for column, row in pixels:
        slow = slow_direction(lens, (column, row), pose)
        np.testing.assert_allclose(rotation @ rays[row, column], slow / np.linalg.norm(slow), atol=0.02 / 180)
    points = np.array([rays[row, column] * 7.0 for column, row in pixels])
    np.testing.assert_allclose(lens.project(points), pixels, atol=0.02)


def small(lens: Lens) -> Lens:
    """The same camera with a fifth of the pixels each way, for references that take their time."""
    return Lens(64, 40, lens.fx / 5, lens.fy / 5, lens.cx / 5, lens.cy / 5, lens.model, lens.distortion)


def slow_pixel(lens: Lens, pose: tuple[float, ...], place: np.ndarray) -> tuple[int, int] | None:
    """The pixel that shows a place on the ground, (row, column): that which looks closest to it."""
    to = np.array([*place, 0.0]) - pose[:3]
    to /= np.linalg.norm(to)
    cosine = DIRECTIONS[lens, pose] @ to
    row, column = np.unravel_index(np.argmax(cosine), cosine.shape)
    border = row in (0, lens.height - 1) or column in (0, lens.width - 1)
    return None if border else (row, column)


DIRECTIONS: dict[tuple[Lens, tuple[float, ...]], np.ndarray] = {}


def directions(lens: Lens, pose: tuple[float, ...]) -> np.ndarray:
    """Of all pixels in the vehicle frame, unit vectors, float64 [H, W, 3], by the slow reference."""
    if (lens, pose) not in DIRECTIONS:
        every = [[slow_direction(lens, (c, r), pose) for c in range(lens.width)] for r in range(lens.height)]
        DIRECTIONS[lens, pose] = np.array([[one / np.linalg.norm(one) for one in row] for row in every])
    return DIRECTIONS[lens, pose]


@pytest.mark.parametrize(("lens", "pose"), CAMERAS)
def test_each_cell_is_what_its_pixels_show(lens: Lens, pose: tuple[float, ...]) -> None:
    """A pattern without anything standing: each pixel is laid down by the slow reference, one after the other."""
    lens, grid = small(lens), GridSpec(0.5, 10.0, 8.0, 9.0)
    rng = np.random.default_rng(5)
    label = rng.choice(np.array([ROAD, SIDEWALK, 255], np.uint8), (10, 16), p=[0.7, 0.2, 0.1])
    label = label.repeat(4, 0).repeat(4, 1)
    drivable = drivable_mask(label, (ROAD,))
    cells = Ground(lens, Mounting.from_pose(*pose), grid).occupancy(ground_kinds(label, drivable, FLAT))
    assert cells.dtype == np.int8
    assert cells.shape == (32, 38)

    look = directions(lens, pose)
    shown: dict[tuple[int, int], set[int]] = {}
    for row in range(lens.height):
        for column in range(lens.width):
            right, up, down = look[row, column, 0], look[row, column, 1], -look[row, column, 2]
            if down > 1e-6:
                place = np.array(pose[:2]) + np.array([right, up]) / down * pose[2]
                x, y = np.floor((place - grid.origin) / grid.cell)
                if 0 <= x < grid.columns and 0 <= y < grid.rows:
                    shown.setdefault((int(y), int(x)), set()).add(int(label[row, column]))
    assert len(shown) > 100
    compared = 0
    for y, x in np.ndindex(cells.shape):
        seen = shown.get((y, x))
        if seen is None:
            pixel = slow_pixel(lens, pose, np.array(grid.origin) + (np.array([x, y]) + 0.5) * grid.cell)
            if pixel is None or len(np.unique(label[pixel[0] - 1 : pixel[0] + 2, pixel[1] - 1 : pixel[1] + 2])) > 1:
                continue  # at the border of the picture, or of two patches, the closest pixel is a matter of taste
            seen = {int(label[pixel])}
        compared += 1
        expected = OCCUPIED if SIDEWALK in seen else UNSEEN if 255 in seen else FREE
        assert cells[y, x] == expected, (x, y, seen)
    assert compared > 200


@pytest.mark.parametrize(("lens", "pose"), CAMERAS)
def test_what_is_out_of_the_picture_or_behind_the_camera_is_unseen(lens: Lens, pose: tuple[float, ...]) -> None:
    grid = GridSpec(0.5, 12.0, 12.0, 12.0)
    road = np.zeros((lens.height, lens.width), np.uint8)
    ground = Ground(lens, Mounting.from_pose(*pose), grid)
    cells = ground.occupancy(ground_kinds(road, drivable_mask(road, (ROAD,)), FLAT))
    assert set(np.unique(cells)) == {FREE, UNSEEN}
    ahead = np.array([math.cos(pose[5]), math.sin(pose[5])])
    along = (grid.centres() - pose[:2]) @ ahead
    if lens.model != "equidistant":
        assert (cells[along < 0] == UNSEEN).all(), "distortion folds nothing back into the picture"
    corners = [lens.rays()[row, column] for row, column in ((-1, 0), (-1, -1))]
    rotation = np.array(Mounting.from_pose(*pose).rotation)
    for corner in corners:
        look = rotation @ corner
        place = np.array(pose[:2]) - look[:2] / look[2] * pose[2]
        x, y = ((place - grid.origin) / grid.cell).astype(int)
        around = cells[y - 2 : y + 3, x - 2 : x + 3]
        assert set(np.unique(around)) == {FREE, UNSEEN}, "the picture's corner lies within two cells of here"


def test_a_box_is_seen_where_it_stands_and_hides_what_is_behind_it() -> None:
    """Cast at a box of 2 x 2 x 1.6 m, 8 m ahead; every cell is known by its line of sight on the ground."""
    pose, grid = (0.0, 0.0, 1.4, 0.0, 0.05, 0.0), GridSpec(0.25, 20.0, 6.0)
    lens = Lens(640, 400, 420.0, 420.0, 319.5, 199.5)
    low, high = np.array([8.0, -0.5, 0.0]), np.array([10.0, 1.5, 1.6])
    rays = lens.rays() @ np.array(Mounting.from_pose(*pose).rotation).T
    start = np.array(pose[:3])
    with np.errstate(divide="ignore"):
        first, second = (low - start) / rays, (high - start) / rays
    near, far = np.minimum(first, second).max(axis=2), np.maximum(first, second).min(axis=2)
    label = np.where((near < far) & (far > 0), np.uint8(CAR), np.uint8(ROAD))
    cells = Ground(lens, Mounting.from_pose(*pose), grid).occupancy(
        ground_kinds(label, drivable_mask(label, (ROAD,)), FLAT)
    )

    centres, margin = grid.centres(), grid.cell
    x, y = centres[..., 0], centres[..., 1]
    at_front = y / np.maximum(x, 1e-6) * low[0]
    behind = (x > low[0] + margin) & (at_front > low[1] + margin) & (at_front < high[1] - margin)
    assert (cells[behind] == UNSEEN).all()
    front = (np.abs(x - low[0]) < margin) & (y > low[1] + margin) & (y < high[1] - margin)
    assert (cells[front & (x > low[0])] == OCCUPIED).all()
    clear = ((x < low[0] - margin) | (at_front < low[1] - margin) | (at_front > high[1] + 3 * margin)) & (x > 4.0)
    clear &= np.abs(y) < x * 300 / 420 - 0.5
    assert (cells[clear] == FREE).all()
    assert behind.sum() > 300
    assert clear.sum() > 1000
    assert not (cells == OCCUPIED)[(x < low[0] - margin) | (x > high[0] + margin)].any()


def test_flat_classes_are_occupied_and_hide_nothing() -> None:
    lens, mounting, grid = PLAIN, Mounting.from_pose(0, 0, 1.5, 0, 0.1, 0), GridSpec(0.5, 15.0, 4.0)
    label = np.zeros((200, 320), np.uint8)
    label[130:140] = SIDEWALK
    ground = Ground(lens, mounting, grid)

    def middle(strip: int) -> list[int]:
        label[130:140] = strip
        kinds = ground_kinds(label, drivable_mask(label, (ROAD,)), FLAT)
        row = ground.occupancy(kinds)[grid.rows // 2]
        return [int(value) for i, value in enumerate(row) if i == 0 or value != row[i - 1]]

    assert middle(SIDEWALK) == [UNSEEN, FREE, OCCUPIED, FREE]
    assert middle(CAR) == [UNSEEN, FREE, OCCUPIED, UNSEEN]
    assert middle(255) == [UNSEEN, FREE, UNSEEN, FREE]


@pytest.mark.parametrize(("seed", "frame"), [(0, 20), (1, 5), (3, 40), (8, 0), (11, 100)])
def test_free_space_of_the_synthetic_drive_is_right_to_a_cell(seed: int, frame: int) -> None:
    """Against the drive's own geometry: where its ground is road, and which of it its cars and poles hide."""
    drive = SynthDrive(seed, (960, 540))
    camera, pose, label = drive.camera, drive.ego_pose(frame), drive.frame(frame).label
    lens = Lens(camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy)
    mounting = Mounting.from_pose(0.0, 0.0, camera.height_above_ground, 0.0, camera.pitch, 0.0)
    grid = GridSpec(0.2, 30.0, 10.0)
    cells = Ground(lens, mounting, grid).occupancy(ground_kinds(label, drivable_mask(label, (ROAD,)), FLAT))

    centres = grid.centres()
    around = np.array([(0.0, 0.0), (0.2, 0.0), (-0.2, 0.0), (0.0, 0.2), (0.0, -0.2)])
    places = centres[:, :, None] + around
    cosine, sine = math.cos(pose.yaw), math.sin(pose.yaw)
    world_x = pose.x + places[..., 0] * cosine - places[..., 1] * sine
    world_y = pose.y + places[..., 0] * sine + places[..., 1] * cosine
    road = drive.ground_label(world_x, world_y) == ROAD
    free = cells == FREE
    assert free.sum() > 1000
    assert road[free].any(axis=-1).all(), "what is free is road, or within a cell of it"
    # A pixel row covers more than a cell beyond this distance.
    sharp = math.sqrt(0.2 * camera.height_above_ground * camera.fy)
    assert (road[..., 0] | (cells != FREE))[np.hypot(*np.moveaxis(centres, -1, 0)) < sharp].mean() > 0.9995

    forward = centres[..., 0] * math.cos(camera.pitch) + camera.height_above_ground * math.sin(camera.pitch)
    column = np.rint(camera.cx - centres[..., 1] / forward * camera.fx)
    in_sight = road.all(axis=-1) & (column > 1) & (column < camera.width - 2) & (cells != FREE)
    standing = ~np.isin(label, (ROAD, *FLAT))
    lowest = np.where(standing.any(axis=0), camera.height - 1 - np.argmax(standing[::-1], axis=0), -1)
    depth = np.where(
        lowest > camera.horizon_row,
        camera.height_above_ground / np.tan(np.arctan((lowest - camera.cy) / camera.fy) + camera.pitch),
        np.inf,
    )
    bottom = camera.height_above_ground / math.tan(
        math.atan((camera.height - 1 - camera.cy) / camera.fy) + camera.pitch
    )
    for y, x in np.argwhere(in_sight):
        ahead, at = centres[y, x, 0], int(column[y, x])
        reach = int(0.15 * camera.fx / forward[y, x]) + 2  # of the cell to either side, in pixel columns
        blocked = depth[max(at - reach, 0) : at + reach + 1].min() < ahead + 0.5
        assert blocked or ahead < bottom + 0.3, "road that is neither hidden nor out of the picture is free"


def test_mountings_from_angles_and_from_a_quaternion_are_the_same() -> None:
    """A camera at the left looking left and down, as URDF and TF write it."""
    from_pose = Mounting.from_pose(0.5, 0.8, 1.2, 0.0, 0.3, math.pi / 2)
    # body: yaw 90 deg after pitch 0.3; optical in body: the usual (-0.5, 0.5, -0.5, 0.5)
    yaw, pitch = (0, 0, math.sin(math.pi / 4), math.cos(math.pi / 4)), (0, math.sin(0.15), 0, math.cos(0.15))
    turn = multiplied(multiplied(yaw, pitch), (-0.5, 0.5, -0.5, 0.5))
    from_tf = Mounting.from_transform((0.5, 0.8, 1.2), [2 * value for value in turn])
    np.testing.assert_allclose(from_tf.rotation, from_pose.rotation, atol=1e-12)
    assert from_tf.position == from_pose.position
    # z of the optical frame is the view: to the left and down
    np.testing.assert_allclose(np.array(from_pose.rotation)[:, 2], (0, math.cos(0.3), -math.sin(0.3)), atol=1e-12)
    assert from_tf.is_near(from_pose)
    assert not from_tf.is_near(Mounting.from_pose(0.5, 0.8, 1.2, 0.001, 0.3, math.pi / 2))


def multiplied(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
    """Of quaternions x, y, z, w."""
    (ax, ay, az, aw), (bx, by, bz, bw) = a, b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def test_grids_have_whole_cells() -> None:
    grid = GridSpec(0.3, 3.0, 1.0, 0.5)
    assert (grid.columns, grid.rows) == (12, 8)
    assert grid.origin == pytest.approx((-0.6, -1.2))
    np.testing.assert_allclose(grid.centres()[0, 0], (-0.45, -1.05))
    np.testing.assert_allclose(grid.centres()[7, 11], (2.85, 1.05))
    assert GridSpec(0.1, 30.0, 10.0).columns == 300, "30 / 0.1 is not quite 300"


def test_what_cannot_be_seen_like_that_is_refused_with_a_sentence() -> None:
    grid = GridSpec(0.2, 10.0, 5.0)
    with pytest.raises(GroundError, match=r"the camera is -0.20 m above the plane z = 0"):
        Ground(PLAIN, Mounting.from_pose(0, 0, -0.2, 0, 0, 0), grid)
    with pytest.raises(GroundError, match="quaternion of length 0"):
        Mounting.from_transform((0, 0, 1), (0, 0, 0, 0))
    with pytest.raises(GroundError, match="not finite"):
        Mounting.from_pose(0, 0, math.nan, 0, 0, 0)
    with pytest.raises(GroundError, match="a grid of 100000 x 20000 cells is too large"):
        GridSpec(0.01, 1000.0, 100.0)
    with pytest.raises(GroundError, match="over 0"):
        GridSpec(0.1, 0.0, 10.0)


K = (180.0, 0, 161.3, 0, 175.0, 88.2, 0, 0, 1)
P = (150.0, 0, 160.0, 0, 0, 150.0, 90.0, 0, 0, 0, 1, 0)


def test_a_calibration_is_read_as_ros_writes_it() -> None:
    def lens(d: tuple[float, ...], model: str, rectified: bool = False) -> Lens:
        return Lens.from_calibration((200, 320), K, d, model, P, rectified)

    assert lens(BENT.distortion, "plumb_bob") == BENT
    assert lens(RATIONAL.distortion, "rational_polynomial") == RATIONAL
    assert lens((), "") == PLAIN
    assert lens((0.0,) * 5, "whatever") == PLAIN, "no distortion is of any model"
    assert lens((0.0,) * 4, "equidistant").model == "equidistant", "which bends without coefficients, too"
    assert lens(BENT.distortion, "plumb_bob", rectified=True) == Lens(320, 200, 150.0, 150.0, 160.0, 90.0)
    with pytest.raises(LensError, match="distortion model 'mei'; known are plumb_bob, "):
        lens((0.1,), "mei")
    with pytest.raises(LensError, match="3 coefficients of distortion, and plumb_bob has 4 or 5 or 8 or 12 or 14"):
        lens((0.1, 0.1, 0.1), "plumb_bob")
    with pytest.raises(LensError, match="not finite"):
        lens((0.1, 0.1, math.nan, 0.1), "plumb_bob")


@pytest.mark.parametrize(
    ("model", "d", "expected", "count"),
    [
        ("fisheye", (0.1, 0.0, 0.0, 0.0), "equidistant", 4),
        ("Kannala Brandt4", (0.1, 0.0, 0.0, 0.0), "equidistant", 4),
        ("kannala_brandt", (0.1, 0.0, 0.0, 0.0, 0.0), "equidistant", 4),
        ("equidistant", (0.1, 0.0, 0.0, 0.0, *(0.0,) * 10), "equidistant", 4),
        ("plumb_bob", (0.1, 0.0, 0.0, 0.0, 0.0), "plumb_bob", 5),
        ("plumb_bob", (0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), "plumb_bob", 4),
        ("Brown Conrady", (0.1, 0.0, 0.0, 0.0, 0.2), "plumb_bob", 5),
        ("plumb_bob", (0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2), "plumb_bob", 8),
        ("rational_polynomial", (0.1,) * 14, "rational_polynomial", 14),
    ],
)
def test_models_go_by_the_names_and_counts_that_drivers_give(
    model: str, d: tuple[float, ...], expected: str, count: int
) -> None:
    lens = Lens.from_calibration((200, 320), K, d, model, P, False)
    assert (lens.model, lens.distortion) == (expected, d[:count])


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, -1.0])
@pytest.mark.parametrize("rectified", [False, True])
def test_a_camera_that_is_not_calibrated_is_refused(value: float, rectified: bool) -> None:
    k, p = (value, *K[1:]), (value, *P[1:])
    matrix = "P" if rectified else "K"
    with pytest.raises(LensError, match=f"no calibration: {matrix} has the focal lengths {value:g} and "):
        Lens.from_calibration((200, 320), k, (), "plumb_bob", p, rectified)


@pytest.mark.parametrize("factor", [0.5, 0.6, 1.5, 2.0, 3.0])
def test_a_calibration_for_another_size_is_refused(factor: float) -> None:
    k = (180.0, 0, 160.0 * factor, 0, 175.0, 100.0 * factor, 0, 0, 1)
    about = f"of images of about {320 * factor:.0f}x{200 * factor:.0f}, by its principal point, .* they are 320x200"
    with pytest.raises(LensError, match=about):
        Lens.from_calibration((200, 320), k, (), "plumb_bob", P, False)


@pytest.mark.parametrize(("cx", "cy"), [(160, 20), (160, -60), (160, 190), (130, 80), (200, 110), (70, 100)])
def test_a_cut_picture_with_its_principal_point_aside_is_taken(cx: float, cy: float) -> None:
    k = (180.0, 0, cx, 0, 175.0, cy, 0, 0, 1)
    assert Lens.from_calibration((200, 320), k, (), "plumb_bob", P, False).cy == cy


THIN = (0.3, 0.02, 1e-3, -5e-4, 0.001, 0.4, 0.09, 0.005, 0.004, -0.002, 0.003, 0.001)


@pytest.mark.parametrize("d", [THIN[:5], THIN[:8], THIN, (*THIN, 0.02, -0.03)], ids=len)
def test_distortions_are_opencvs(d: tuple[float, ...]) -> None:
    lens = Lens.from_calibration((200, 320), K, d, "rational_polynomial", P, False)
    points = np.random.default_rng(0).uniform((-1, -0.6, 1.5), (1, 0.6, 3), (50, 3))
    matrix = np.array(K, float).reshape(3, 3)
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, np.array(d))[0].reshape(-1, 2)
    np.testing.assert_allclose(lens.project(points), expected, atol=1e-9)
    rays = lens.rays()
    back = lens.project(rays[20:180:9, 20:300:9].reshape(-1, 3))
    pixels = np.stack(np.meshgrid(np.arange(20, 300, 9), np.arange(20, 180, 9)), axis=-1).reshape(-1, 2)
    assert np.abs(back - pixels).max() < 0.1


@pytest.mark.parametrize(
    ("roi", "bins", "size"),
    [
        ((0, 0, 0, 0), (0, 0), (480, 640)),
        ((0, 0, 0, 0), (2, 2), (240, 320)),
        ((100, 60, 400, 300), (1, 1), (300, 400)),
        ((100, 60, 400, 300), (4, 2), (150, 100)),
        ((0, 60, 0, 0), (1, 1), (420, 640)),
    ],
    ids=["all of it", "binned", "region", "region, binned", "without its upper part"],
)
def test_a_region_and_binning_show_what_the_whole_picture_shows(
    roi: tuple[int, ...], bins: tuple[int, int], size: tuple[int, int]
) -> None:
    x, y, width, height = roi
    info = SimpleNamespace(
        height=480,
        width=640,
        binning_x=bins[0],
        binning_y=bins[1],
        roi=SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height),
    )
    assert image_size(info) == size
    whole = Lens(640, 480, 500.0, 490.0, 322.0, 236.0, "plumb_bob", (-0.1, 0.02, 0.0, 0.0))
    part = whole.window(offset(info), binning(info), size)
    assert (part.height, part.width) == size and part.distortion == whole.distortion
    points = np.random.default_rng(1).uniform((-1, -0.6, 2), (1, 0.6, 3), (20, 3))
    scale = np.maximum(bins, 1)
    np.testing.assert_allclose(part.project(points), (whole.project(points) - (x, y)) / scale)


def test_a_camera_that_looks_at_none_of_the_grid_is_known() -> None:
    grid = GridSpec(0.5, 10.0, 5.0)
    assert Ground(PLAIN, Mounting.from_pose(*STRAIGHT), grid).is_seen
    assert not Ground(PLAIN, Mounting.from_pose(*REAR), grid).is_seen
    up = Mounting.from_transform((0.0, 0.0, 1.5), (0.0, 0.0, 0.0, 1.0))  # of a body frame, as if it were optical
    assert not Ground(PLAIN, up, grid).is_seen


def test_rays_of_a_large_picture_are_right_between_the_points_that_are_solved() -> None:
    lens = Lens(1280, 720, 640.0, 640.0, 641.0, 355.0, "plumb_bob", (-0.28, 0.07, 0.001, -0.0005, -0.006))
    rays = lens.rays()
    pixels = np.stack(np.meshgrid(np.arange(0, 1280, 7), np.arange(0, 720, 7)), axis=-1).reshape(-1, 2)
    back = lens.project(rays[pixels[:, 1], pixels[:, 0]])
    assert np.abs(back - pixels).max() < 0.1


def test_what_a_distortion_cannot_show_has_no_ray() -> None:
    """This lens turns inside out short of the picture's corners."""
    rays = Lens(320, 200, 180.0, 175.0, 161.3, 88.2, "plumb_bob", (-0.5, 0.0, 0.0, 0.0, 0.0)).rays()
    assert np.isnan(rays[0, 0]).all()
    assert np.isfinite(rays[70:110, 80:240]).all()
