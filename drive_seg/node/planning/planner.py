"""What a camera has for planners beside its masks: camera_info, drivable area, free space; and its ignored pixels."""

from __future__ import annotations

import copy
from array import array
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion
from nav_msgs.msg import MapMetaData, OccupancyGrid
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from drive_seg.geometry.ground import Ground, GroundError, Mounting, check_height, ground_kinds
from drive_seg.geometry.lens import Lens, LensError, binning, image_size, offset
from drive_seg.images.encodings import ImageError
from drive_seg.images.masks import drivable_mask, read_ignore_mask
from drive_seg.labels import LabelMap
from drive_seg.node.parameters.planning import CameraPlanning, Classes, PlanningParameters
from drive_seg.node.planning.transforms import TransformError, Transforms

if TYPE_CHECKING:
    # Since rclpy 10 it is in rclpy.endpoint_info.
    from rclpy.topic_endpoint_info import TopicEndpointInfo

NEED_INFO = frozenset(("camera_info", "free_space"))
"""The outputs that cannot be made without the camera's camera_info."""

LOOKS_UP = 0.7
"""A camera whose view rises by more, z of a unit vector, has another frame than its optical one: x of a body frame."""


class UnavailableError(Exception):
    """An output cannot be made of this frame; the message says why."""


class Planner:
    """What planners get of one camera. The worker's thread asks for outputs, all else is for the executor's.

    Raises:
        ValueError: on construction, if the ignore mask or the grid cannot be had.
    """

    def __init__(
        self,
        node: LifecycleNode,
        camera: str,
        image_topic: str,
        own: CameraPlanning,
        common: PlanningParameters,
        transforms: Transforms,
    ) -> None:
        """
        Args:
            image_topic: of the raw images, before remapping.
            own, common: the parameters of this camera, and of all.
        """
        self._node, self._camera, self._own, self._common = node, camera, own, common
        self._info_topic = own.info_topic or beside(node.resolve_topic_name(image_topic))
        self._told_topic = node.resolve_topic_name(self._info_topic)
        self._transforms = transforms
        self._grid = common.grid()
        self.ignored: np.ndarray | None = None
        if own.ignore_mask:
            try:
                self.ignored = read_ignore_mask(own.ignore_mask)
            except ValueError as error:
                raise ValueError(f"parameter '{camera}.ignore_mask': {error}") from error
        self._subscription: Subscription | None = None
        self._latched: Subscription | None = None
        self._info: CameraInfo | None = None
        self._classes_of: tuple[LabelMap, Classes] | None = None
        self._ground: Ground | None = None
        self._making: Future[Ground] | None = None
        self._maker = ThreadPoolExecutor(1, "drive_seg ground")

    # For the executor

    def listen(self, wanted: frozenset[str]) -> None:
        """Listen to what these outputs need, and to nothing else; call it now and then: publishers come and go."""
        if wanted & NEED_INFO:
            if self._subscription is None:
                self._subscription = self._subscribe(ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
            publishers = self._node.get_publishers_info_by_topic(self._subscription.topic_name)
            self._listen_to_latched(any(map(_is_latched, publishers)))
        elif self._subscription is not None:
            self._listen_to_latched(False)
            self._node.destroy_subscription(self._subscription)
            # What is kept would be old when somebody asks again.
            self._subscription = self._info = None
        self._transforms.need(self._camera, "free_space" in wanted)

    def close(self) -> None:
        """Listen to nothing, and work on nothing any more."""
        self.listen(frozenset())
        self._maker.shutdown(wait=False, cancel_futures=True)

    def _listen_to_latched(self, wanted: bool) -> None:
        """Hear also what was published before, by a second subscription, which hears none but latched publishers.

        It is there only while one of them is: to a camera driver that latches nothing it is a subscriber with
        incompatible QoS, and each of these has the driver warn its user.
        """
        if wanted and self._latched is None:
            self._latched = self._subscribe(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
        elif not wanted and self._latched is not None:
            self._node.destroy_subscription(self._latched)
            self._latched = None

    def _subscribe(self, reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> Subscription:
        return self._node.create_subscription(
            CameraInfo,
            self._info_topic,
            self._on_info,
            QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=reliability, durability=durability),
            # A publisher that the one for latched ones cannot hear is heard by the other, and need not be warned of.
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=durability == DurabilityPolicy.VOLATILE),
        )

    def _on_info(self, info: CameraInfo) -> None:
        self._info = info

    # For the worker

    def check(self, image: np.ndarray) -> None:
        """ImageError if an image is not of the size of the ignore mask."""
        if self.ignored is not None and self.ignored.shape != image.shape[:2]:
            (high, wide), (height, width) = self.ignored.shape, image.shape[:2]
            raise ImageError(f"the image is {width}x{height}, and the ignore mask of the camera {wide}x{high}")

    def camera_info(self, header: Header, size: tuple[int, int]) -> CameraInfo:
        """The camera's latest camera_info with the header of an image.

        The masks are in the camera's resolution, so nothing else changes.

        Args:
            size: (height, width) of the image.

        Raises:
            UnavailableError: if there is none yet, or it is of images of another size.
        """
        info = copy.copy(self._info_for(size))
        info.header = header
        return info

    def drivable(self, label: np.ndarray, label_map: LabelMap, min_area: float) -> np.ndarray:
        """uint8 [H, W], 255 = drivable, 0 = not; UnavailableError if no class of the label map is drivable."""
        classes = self._classes(label_map)
        if not classes.drivable:
            names = ", ".join(label_map.names)
            raise UnavailableError(
                f"the label map {label_map.name} has no class '{self._common.drivable_classes[0]}': set the parameter "
                f"'drivable_classes' to some of {names}"
            )
        return drivable_mask(label, classes.drivable, min_area)

    def free_space(self, label: np.ndarray, drivable: np.ndarray, label_map: LabelMap, header: Header) -> OccupancyGrid:
        """The grid in the vehicle frame, with the stamp of the image.

        Args:
            label: uint8 [H, W], class ids.
            drivable: uint8 [H, W], see :meth:`drivable`.
            header: of the image; its frame_id is the camera's optical frame.

        Raises:
            UnavailableError: while the camera's calibration or its place in the vehicle frame is not known, or if by
                these it sees nothing of the grid.
        """
        mounting, source = self._mounting(header)
        ground = self._ground_of(self._lens(label.shape), mounting)
        if not ground.is_seen or mounting.rotation[2][2] > LOOKS_UP:
            raise UnavailableError(f"the camera sees no ground within the grid: {source}")
        cells = ground.occupancy(ground_kinds(label, drivable, self._classes(label_map).flat))
        x, y = self._grid.origin
        return OccupancyGrid(
            header=Header(stamp=header.stamp, frame_id=self._common.vehicle_frame),
            info=MapMetaData(
                map_load_time=header.stamp,
                resolution=self._grid.cell,
                width=self._grid.columns,
                height=self._grid.rows,
                origin=Pose(position=Point(x=x, y=y, z=0.0), orientation=Quaternion(x=0.0, y=0.0, z=0.0, w=1.0)),
            ),
            data=array("b", cells.tobytes()),
        )

    def _classes(self, label_map: LabelMap) -> Classes:
        known = self._classes_of
        if known is None or known[0] is not label_map:
            known = self._classes_of = label_map, self._common.classes(label_map)
        return known[1]

    def _info_for(self, size: tuple[int, int]) -> CameraInfo:
        info = self._info
        if info is None:
            raise UnavailableError(f"no camera_info on {self._told_topic} yet")
        (height, width), (down, across) = image_size(info), binning(info)
        # Where a side is no multiple of the binning, drivers differ in what becomes of the rest.
        if not (height <= size[0] <= height + (down > 1) and width <= size[1] <= width + (across > 1)):
            roi = info.roi
            region = f", region {roi.width}x{roi.height} at ({roi.x_offset}, {roi.y_offset})"
            part = region * any((roi.width, roi.height, roi.x_offset, roi.y_offset))
            part += f", binning {across}x{down}" * (across > 1 or down > 1)
            raise UnavailableError(
                f"the camera_info on {self._told_topic} is of images of {width}x{height}"
                f"{f' ({info.width}x{info.height}{part})' * bool(part)}, and these are {size[1]}x{size[0]}"
            )
        return info

    def _lens(self, size: tuple[int, int]) -> Lens:
        info = self._info_for(size)
        full, rectified = (info.height, info.width), self._own.rectified
        try:
            whole = Lens.from_calibration(full, info.k, info.d, info.distortion_model, info.p, rectified)
        except LensError as error:
            raise UnavailableError(str(error)) from error
        return whole.window(offset(info), binning(info), size)

    def _mounting(self, header: Header) -> tuple[Mounting, str]:
        """The mounting, and what to look at if it is wrong."""
        try:
            mounting = self._transforms.look_up(self._common.vehicle_frame, header)
            return mounting, (
                f"is '{header.frame_id}', the frame of its images, an optical frame (z into the picture, x to the "
                f"right, y down), and '{self._common.vehicle_frame}' a frame on the ground, z up?"
            )
        except TransformError as error:
            if self._own.mounting is not None:
                source = f"look at the parameters '{self._camera}.mounting' and 'grid_range_m'"
                return Mounting.from_pose(*self._own.mounting), source
            raise UnavailableError(
                f"it is not known where the frame '{header.frame_id}' is in '{self._common.vehicle_frame}': {error}, "
                f"and the parameter '{self._camera}.mounting' is not given"
            ) from error
        except GroundError as error:
            raise UnavailableError(str(error)) from error

    def _ground_of(self, lens: Lens, mounting: Mounting) -> Ground:
        """The tables for this lens and mounting; they are made in a thread of their own, so that no mask waits."""
        if self._making is not None and self._making.done():
            making, self._making = self._making, None
            self._ground = making.result()
        ground = self._ground
        if ground is not None and ground.lens == lens and ground.mounting.is_near(mounting):
            return ground
        try:
            check_height(mounting)
        except GroundError as error:
            raise UnavailableError(str(error)) from error
        if self._making is None:
            self._making = self._maker.submit(Ground, lens, mounting, self._grid)
        raise UnavailableError("the view of the ground is being worked out")


def _is_latched(publisher: TopicEndpointInfo) -> bool:
    """Whether it sends late subscribers what it has sent before, which takes a reliable publisher."""
    qos = publisher.qos_profile
    return qos.durability == DurabilityPolicy.TRANSIENT_LOCAL and qos.reliability == ReliabilityPolicy.RELIABLE


def beside(image_topic: str) -> str:
    """The camera_info topic of an image topic, as image_transport has it: in the same namespace."""
    return image_topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"
