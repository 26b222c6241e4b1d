"""What planners get beside the mask, from one node process with one camera over DDS; and its parts alone."""

import re
import sys
from array import array
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import OccupancyGrid
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time as RclpyTime
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header

from drive_seg.geometry.ground import GridSpec, Ground, Mounting, ground_kinds
from drive_seg.geometry.lens import Lens
from drive_seg.images.masks import class_ids, drivable_mask, hide
from drive_seg.images.messages import to_image
from drive_seg.labels import CAMVID11, CITYSCAPES19
from drive_seg.node.parameters.planning import CameraPlanning, PlanningParameters
from drive_seg.node.planning.planner import Planner, UnavailableError, beside
from drive_seg.node.planning.transforms import TransformError, Transforms
from drive_seg.segmenter import Segmenter

PREFIX = "/camera/segmentation"
HEIGHT, WIDTH = 90, 120
MOUNTING = (0.5, -0.2, 1.4, 0.02, 0.15, 0.1)
GRID = GridSpec(0.25, 8.0, 4.0, 1.0)
FLAT = ("vegetation", "sky")
Picture = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def drivable(segmenter: Segmenter, picture: Picture) -> list[str]:
    """What the network, which nobody trained, sees most of, so that there is something to drive on."""
    counts = np.bincount(segmenter(picture(1, HEIGHT, WIDTH)).label.reshape(-1), minlength=19)
    return [CITYSCAPES19.names[i] for i in np.argsort(-counts)[:8]]


@pytest.fixture(scope="module")
def ignored() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[80:, 30:90] = True
    return mask


@pytest.fixture(scope="module", autouse=True)
def node(
    start_node: Callable[..., Any], drivable: list[str], ignored: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    png = tmp_path_factory.mktemp("masks") / "hood.png"
    cv2.imwrite(str(png), ignored.astype(np.uint8) * 255)
    flat = [name for name in FLAT if name not in drivable]
    given = {
        "drivable_classes": f"[{', '.join(name.upper() for name in drivable)}]",
        "drivable_min_area": "0.0003",
        "flat_classes": f"[{', '.join(flat)}]",
        "vehicle_frame": "base_footprint",
        "grid_cell_m": str(GRID.cell),
        "grid_range_m": f"[{GRID.forward}, {GRID.sideways}, {GRID.backward}]",
        "camera.ignore_mask": str(png),
        "camera.mounting": str(list(MOUNTING)),
        "self_check": "false",
    }
    process = start_node(*(part for name, value in given.items() for part in ("-p", f"{name}:={value}")))
    process.wait_for_log("active: awaiting /camera/image_raw")
    yield process
    assert process.stop() == 0, process.log
    assert "Traceback" not in process.log


def info_message(height: int = HEIGHT, width: int = WIDTH) -> CameraInfo:
    return CameraInfo(
        header=Header(stamp=Time(sec=5), frame_id="whatever"),
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=[-0.2, 0.05, 0.001, -0.001, 0.0],
        k=[80.0, 0.0, 60.5, 0.0, 82.0, 40.2, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[80.0, 0.0, 60.5, 0.0, 0.0, 82.0, 40.2, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


class Calibrated:
    """The peer's camera: an image goes out with its camera_info, again and again until what is awaited came."""

    def __init__(self, peer: Any) -> None:
        self._peer = peer
        self._images = peer.publisher("camera/image_raw")
        self._infos = peer.node.create_publisher(CameraInfo, "camera/camera_info", 1)

    def wait_for_listener(self) -> None:
        self._peer.spin_until(lambda: self._infos.get_subscription_count() > 0, "listener on camera_info")

    def insist(self, image: Image, done: Callable[[], Any], what: str, info: CameraInfo | None = None) -> None:
        publisher = SimpleNamespace(publish=lambda message: self._send(message, info or info_message()))
        self._peer.insist(publisher, image, done, what)

    def _send(self, image: Image, info: CameraInfo) -> None:
        self._infos.publish(info)
        self._images.publish(image)

    def close(self) -> None:
        self._peer.node.destroy_publisher(self._infos)


@pytest.fixture
def camera(peer: Any) -> Iterator[Calibrated]:
    calibrated = Calibrated(peer)
    yield calibrated
    calibrated.close()


def pixels(message: Image) -> np.ndarray:
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)


def test_everything_for_planners_is_made_of_the_mask_of_the_same_frame(
    peer: Any, camera: Calibrated, segmenter: Segmenter, picture: Picture, drivable: list[str], ignored: np.ndarray
) -> None:
    kinds = {"label": Image, "drivable": Image, "camera_info": CameraInfo, "free_space": OccupancyGrid}
    heard = {name: peer.listen(f"{PREFIX}/{name}", kind) for name, kind in kinds.items()}
    image = picture(1, HEIGHT, WIDTH)
    header = Header(stamp=Time(sec=2_000_000_000, nanosec=123_456_789), frame_id="front_optical")
    camera.wait_for_listener()
    camera.insist(to_image(image, header, "bgr8"), lambda: all(heard.values()), "all outputs")

    label, _ = hide(segmenter(image).label, None, ignored, 0.0)
    ids = class_ids(drivable, CITYSCAPES19)
    mask = drivable_mask(label, ids, 0.0003)
    assert 0 < np.count_nonzero(mask) < mask.size
    assert np.array_equal(pixels(heard["label"][-1]), label)
    assert (label[ignored] == 255).all()
    assert np.array_equal(pixels(heard["drivable"][-1]), mask)
    assert heard["drivable"][-1].encoding == "mono8"
    assert heard["drivable"][-1].header == header

    expected = info_message()
    expected.header = header
    assert heard["camera_info"][-1] == expected

    grid = heard["free_space"][-1]
    assert grid.header == Header(stamp=header.stamp, frame_id="base_footprint")
    assert (grid.info.width, grid.info.height) == (GRID.columns, GRID.rows) == (36, 32)
    assert grid.info.resolution == pytest.approx(GRID.cell)
    origin = grid.info.origin
    assert (origin.position.x, origin.position.y, origin.position.z) == (-1.0, -4.0, 0.0)
    assert (origin.orientation.x, origin.orientation.y, origin.orientation.z, origin.orientation.w) == (0, 0, 0, 1)
    info = info_message()
    lens = Lens.from_calibration((HEIGHT, WIDTH), info.k, info.d, "plumb_bob", info.p, rectified=False)
    flat = class_ids([name for name in FLAT if name not in drivable], CITYSCAPES19)
    cells = Ground(lens, Mounting.from_pose(*MOUNTING), GRID).occupancy(ground_kinds(label, mask, flat))
    assert {-1, 0, 100} == set(np.unique(cells)), "the picture must tell right from wrong"
    assert np.array_equal(np.array(grid.data, np.int8).reshape(GRID.rows, GRID.columns), cells)


def test_the_node_listens_to_camera_info_only_while_somebody_needs_it(peer: Any, camera: Calibrated) -> None:
    def listeners() -> int:
        return peer.node.count_subscribers("/camera/camera_info")

    peer.spin_until(lambda: listeners() == 0, "silence on camera_info")
    peer.listen(f"{PREFIX}/drivable")
    for _ in range(2):
        peer.forget_diagnostics()
        peer.spin_until(lambda: peer.diagnostics, "another second")
    assert listeners() == 0
    peer.listen(f"{PREFIX}/free_space", OccupancyGrid)
    camera.wait_for_listener()
    peer.deaf()
    peer.spin_until(lambda: listeners() == 0, "end of the subscription")


def test_a_camera_info_that_was_latched_before_the_node_listened_is_heard(
    peer: Any, node: Any, segmenter: Segmenter, picture: Picture
) -> None:
    def durabilities() -> list[DurabilityPolicy]:
        found = peer.node.get_subscriptions_info_by_topic("/camera/camera_info")
        return sorted(each.qos_profile.durability for each in found)

    volatile, latched = DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL
    peer.spin_until(lambda: not durabilities(), "silence on camera_info")
    once = peer.node.create_publisher(CameraInfo, "camera/camera_info", QoSProfile(depth=1, durability=latched))
    once.publish(info_message())
    infos, images = peer.listen(f"{PREFIX}/camera_info", CameraInfo), peer.publisher("camera/image_raw")
    header = peer.header()
    peer.insist(images, to_image(picture(1, HEIGHT, WIDTH), header, "bgr8"), lambda: infos, "camera_info")
    expected = info_message()
    expected.header = header
    assert infos[-1] == expected
    peer.spin_until(lambda: durabilities() == sorted([volatile, latched]), "both subscriptions in the graph")

    peer.node.destroy_publisher(once)
    often = peer.node.create_publisher(CameraInfo, "camera/camera_info", 1)
    peer.spin_until(lambda: durabilities() == [volatile], "nobody whom an ordinary driver would have to warn of")
    infos.clear()
    newer = info_message()
    newer.roi.do_rectify = True

    def heard() -> bool:
        often.publish(newer)
        return bool(infos) and infos[-1].roi.do_rectify

    peer.insist(images, to_image(picture(1, HEIGHT, WIDTH), peer.header(), "bgr8"), heard, "what it publishes now")
    peer.node.destroy_publisher(often)
    assert "incompatible QoS" not in node.log


def test_a_camera_info_of_another_size_costs_only_what_needs_it(
    peer: Any, camera: Calibrated, node: Any, picture: Picture
) -> None:
    masks, infos = peer.listen(f"{PREFIX}/label"), peer.listen(f"{PREFIX}/camera_info", CameraInfo)
    camera.wait_for_listener()
    image = to_image(picture(2, HEIGHT, WIDTH), peer.header(), "bgr8")
    told = "no camera_info: the camera_info on /camera/camera_info is of images of 60x45, and these are 120x90"
    camera.insist(image, lambda: told in node.log, "warning", info_message(45, 60))
    assert masks
    assert not infos
    before = node.log.count("no camera_info")
    masks.clear()
    camera.insist(image, lambda: len(masks) > 2, "more masks", info_message(45, 60))
    assert node.log.count("no camera_info") == before == 1, "it is told once"
    wanting = peer.wait_for_values("what is missing", missing_outputs=told)
    assert wanting["state"] == "active"
    assert (peer.status().level, peer.status().message) == (DiagnosticStatus.WARN, told)
    camera.insist(image, lambda: infos, "camera_info of the right size")
    peer.wait_for_values("nothing missing", missing_outputs="none")


def test_without_anything_to_publish_a_frame_is_withheld_with_the_reason(
    peer: Any, camera: Calibrated, picture: Picture
) -> None:
    peer.spin_until(lambda: peer.node.count_subscribers("/camera/camera_info") == 0, "silence on camera_info")
    peer.listen(f"{PREFIX}/camera_info", CameraInfo)
    image = to_image(picture(2, HEIGHT, WIDTH), peer.header(), "bgr8")
    images = peer.publisher("camera/image_raw")
    reason = "withheld: camera_info: no camera_info on /camera/camera_info yet"
    peer.forget_diagnostics()
    peer.insist(images, image, lambda: peer.values().get("last_reason") == reason, "frame withheld")


def test_an_image_that_does_not_fit_the_ignore_mask_is_rejected(peer: Any, picture: Picture) -> None:
    peer.listen(f"{PREFIX}/label")
    images = peer.publisher("camera/image_raw")
    image = to_image(picture(2, 64, 96), peer.header(), "bgr8")
    status = peer.status_under(images, image, lambda status: "rejected" in status.message)
    assert "the image is 96x64, and the ignore mask of the camera 120x90" in status.message


def test_unsure_pixels_become_void_as_soon_as_that_is_asked_for(
    peer: Any, segmenter: Segmenter, picture: Picture, ignored: np.ndarray
) -> None:
    masks, drivable_areas = peer.listen(f"{PREFIX}/label"), peer.listen(f"{PREFIX}/drivable")
    images = peer.publisher("camera/image_raw")
    image = picture(1, HEIGHT, WIDTH)
    sure = segmenter(image, confidence=True)
    least = (float(np.median(sure.confidence)) + 0.5) / 255
    assert peer.set_parameter("min_confidence", least).successful
    mask = peer.answer(images, to_image(image, peer.header(), "bgr8"), masks)
    expected, _ = hide(sure.label, sure.confidence, ignored, least)
    assert np.array_equal(pixels(mask), expected)
    assert (expected[~ignored] == 255).mean() > 0.3
    peer.spin_until(lambda: drivable_areas, "drivable area")
    assert not pixels(drivable_areas[-1])[expected == 255].any()
    refused = peer.set_parameter("min_confidence", 1.5)
    assert not refused.successful
    assert peer.set_parameter("min_confidence", 0.0).successful
    mask = peer.answer(images, to_image(image, peer.header(), "bgr8"), masks)
    assert np.array_equal(pixels(mask), hide(sure.label, None, ignored, 0.0)[0])


# Without a process


COMMON = PlanningParameters(("road",), ("sidewalk", "pavement", "terrain"), "base_link", 0.5, (10.0, 5.0))
OWN = CameraPlanning("", False, "", (0.0, 0.0, 1.5, 0.0, 0.0, 0.0))
NODE = SimpleNamespace(resolve_topic_name=lambda topic: topic if topic[0] == "/" else f"/car/{topic}")


def test_the_topic_of_camera_info_is_beside_that_of_the_images() -> None:
    assert beside("/front/image_raw") == "/front/camera_info"
    assert beside("/front/image_raw/compressed") == "/front/camera_info"
    assert beside("/image") == "/camera_info"
    planner = Planner(NODE, "cam", "cam/image_rect", OWN, COMMON, Transforms(NODE))
    assert planner._info_topic == "/car/cam/camera_info"


def test_the_default_classes_need_not_be_in_the_map_and_others_must() -> None:
    assert COMMON.classes(CITYSCAPES19).drivable == (0,)
    assert COMMON.classes(CITYSCAPES19).flat == (1, 9)
    assert [CAMVID11.names[i] for i in COMMON.classes(CAMVID11).drivable] == ["Road"]
    assert COMMON.classes(replace(CAMVID11, names=tuple("abcdefghijk"))).drivable == ()
    asked = PlanningParameters(("road", "lane"), (), "base_link", 0.5, (10.0, 5.0))
    with pytest.raises(ValueError, match="parameter 'drivable_classes' names 'lane', and the label map camvid11"):
        asked.classes(CAMVID11)


UP = SimpleNamespace(look_up=lambda frame, header: Mounting.from_transform((0.0, 0.0, 1.5), (0.0, 0.0, 0.0, 1.0)))
"""TF where the frame of the images is that of the camera's body: x into the picture, z up."""
LOW = SimpleNamespace(look_up=lambda frame, header: Mounting.from_pose(0.0, 0.0, -0.1, 0.0, 0.0, 0.0))


def lost(frame: str, header: Header) -> Mounting:
    raise TransformError("there is no TF")


@pytest.mark.parametrize(
    ("change", "transforms", "reason"),
    [
        ({"k": [0.0] * 9}, None, "holds no calibration: K has the focal lengths 0 and 0"),
        ({"k": [float("nan"), *[1.0] * 8]}, None, "holds no calibration"),
        ({"distortion_model": "mei"}, None, "the distortion model 'mei'; known are"),
        ({"height": 180, "width": 240}, None, "of images of 240x180, and these are 120x90"),
        ({"binning_x": 2, "binning_y": 2}, None, r"of images of 60x45 \(120x90, binning 2x2\), and these are 120x90"),
        (
            {"height": 180, "width": 240, "roi": RegionOfInterest(x_offset=9, width=80, height=40)},
            None,
            r"of images of 80x40 \(240x180, region 80x40 at \(9, 0\)\), and these are 120x90",
        ),
        ({}, UP, "sees no ground within the grid: is 'front', the frame of its images, an optical frame"),
        ({}, LOW, "the camera is -0.10 m above the plane z = 0"),
        ({}, SimpleNamespace(look_up=lost), "the parameter 'cam.mounting' is not given"),
    ],
    ids=["no K", "NaN", "model", "size", "binning", "region", "body frame", "below", "no TF"],
)
def test_whatever_keeps_the_free_space_away_is_said_and_stays_the_reason(
    change: dict[str, Any], transforms: Any, reason: str
) -> None:
    level = SimpleNamespace(look_up=lambda frame, header: Mounting.from_pose(0.0, 0.0, 1.5, 0.0, 0.1, 0.0))
    planner = Planner(NODE, "cam", "cam/image", replace(OWN, mounting=None), COMMON, transforms or level)
    info = info_message()
    for name, value in change.items():
        setattr(info, name, value)
    planner._on_info(info)
    reasons = free_space_until(planner, lambda said: "worked out" not in said)
    assert re.search(reason, reasons[-1])
    assert free_space_until(planner, lambda said: True) == reasons[-1:], "it does not change from frame to frame"


def test_a_binned_region_gives_the_grid_of_its_own_lens() -> None:
    planner = Planner(
        NODE,
        "cam",
        "cam/image",
        replace(OWN, mounting=(0.0, 0.0, 1.5, 0.0, 0.2, 0.0)),
        COMMON,
        SimpleNamespace(look_up=lost),
    )
    info = info_message(200, 320)
    info.k = [160.0, 0.0, 160.0, 0.0, 164.0, 80.0, 0.0, 0.0, 1.0]
    info.roi = RegionOfInterest(x_offset=40, y_offset=20, width=2 * WIDTH, height=2 * HEIGHT)
    info.binning_x = info.binning_y = 2
    planner._on_info(info)
    grids: list[OccupancyGrid] = []
    free_space_until(planner, lambda said: "worked out" not in said, grids)
    lens = Lens(WIDTH, HEIGHT, 80.0, 82.0, 60.0, 30.0, "plumb_bob", tuple(info.d))
    road = np.zeros((HEIGHT, WIDTH), np.uint8)
    ground = Ground(lens, Mounting.from_pose(0.0, 0.0, 1.5, 0.0, 0.2, 0.0), COMMON.grid())
    expected = ground.occupancy(ground_kinds(road, road + 255, ()))
    assert np.array_equal(np.array(grids[-1].data, np.int8).reshape(expected.shape), expected)
    assert (expected == 0).any()


def free_space_until(planner: Planner, done: Callable[[str], bool], grids: list | None = None) -> list[str]:
    """The reasons why there is no grid, one a frame, to the first that will do; a grid is none."""
    road, said = np.zeros((HEIGHT, WIDTH), np.uint8), []
    for _ in range(2000):
        try:
            grid = planner.free_space(road, road + 255, CITYSCAPES19, Header(frame_id="front"))
            if grids is not None:
                grids.append(grid)
            return said
        except UnavailableError as error:
            said.append(str(error))
        if done(said[-1]):
            return said
        if planner._making is not None:
            futures.wait([planner._making])
    raise AssertionError(said[-3:])


def test_what_cannot_be_configured_is_told(tmp_path: Any) -> None:
    lacking = CameraPlanning("", False, str(tmp_path / "none.png"), None)
    with pytest.raises(ValueError, match=r"parameter 'cam.ignore_mask': the ignore mask .*none.png cannot be read"):
        Planner(NODE, "cam", "cam/image", lacking, COMMON, Transforms(NODE))
    fine = PlanningParameters(("road",), (), "base_link", 0.01, (1000.0, 1000.0))
    with pytest.raises(ValueError, match="a grid of 100000 x 200000 cells is too large"):
        Planner(NODE, "cam", "cam/image", OWN, fine, Transforms(NODE))


class TfDouble:
    """The part of tf2_ros that is used: no package index has its wheel."""

    class TransformException(Exception):  # noqa: N818
        pass

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Any] = {}
        self.asked: list[tuple] = []
        self.listening = 0
        double = self

        class Buffer:
            def lookup_transform(self, target: str, source: str, time: RclpyTime) -> Any:
                double.asked.append((target, source, time.nanoseconds))
                if (target, source) not in double.known:
                    raise TfDouble.TransformException(f'"{source}" passed to lookupTransform\ndoes not exist.')
                return SimpleNamespace(transform=double.known[target, source])

        class TransformListener:
            def __init__(self, buffer: Buffer, node: Any) -> None:
                double.listening += 1

            def unregister(self) -> None:
                double.listening -= 1

        self.Buffer, self.TransformListener = Buffer, TransformListener


def test_mountings_come_from_tf_at_the_stamp_while_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    tf = TfDouble()
    monkeypatch.setitem(sys.modules, "tf2_ros", tf)
    transforms = Transforms(NODE)
    header = Header(stamp=Time(sec=3, nanosec=4), frame_id="/front_optical")
    transforms.need("a", False)
    assert tf.listening == 0
    transforms.need("a", True)
    transforms.need("b", True)
    transforms.need("a", True)
    assert tf.listening == 1
    with pytest.raises(TransformError, match='"front_optical" passed to lookupTransform does not exist$'):
        transforms.look_up("base_link", header)
    tf.known["base_link", "front_optical"] = SimpleNamespace(
        translation=SimpleNamespace(x=1.0, y=2.0, z=3.0), rotation=SimpleNamespace(x=-0.5, y=0.5, z=-0.5, w=0.5)
    )
    mounting = transforms.look_up("base_link", header)
    assert mounting.is_near(Mounting.from_pose(1.0, 2.0, 3.0, 0.0, 0.0, 0.0))
    assert tf.asked[-1] == ("base_link", "front_optical", 3_000_000_004)
    transforms.need("a", False)
    assert tf.listening == 1
    transforms.need("b", False)
    assert tf.listening == 0


def test_without_tf_it_is_said_that_there_is_none() -> None:
    transforms = Transforms(NODE)
    with pytest.raises(TransformError, match="there is no TF here, as tf2_ros is not installed"):
        transforms.look_up("base_link", Header(frame_id="x"))


def test_grids_hold_signed_bytes() -> None:
    """What the message takes without looking at every cell."""
    assert OccupancyGrid(data=array("b", np.array([-1, 0, 100], np.int8).tobytes())).data.tolist() == [-1, 0, 100]
