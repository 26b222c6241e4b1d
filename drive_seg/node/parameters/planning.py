"""The parameters of what planners get beside the mask: drivable area, free space, camera_info, ignored pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from drive_seg.geometry.ground import GridSpec
from drive_seg.images.masks import class_ids
from drive_seg.labels import LabelMap
from drive_seg.node.parameters.specs import Change, Spec, check_topic

NO_MOUNTING = [0.0] * 6


def _check_range(value: Iterable[float]) -> str | None:
    extents = list(value)
    possible = len(extents) in (2, 3) and all(0 <= extent <= 1000 for extent in extents) and extents[1] > 0
    if possible and extents[0] + sum(extents[2:]) > 0:
        return None
    return f"must be [forward, sideways] or [forward, sideways, backward], in metres of at most 1000, not {extents}"


def _check_mounting(value: Iterable[float]) -> str | None:
    pose = list(value)
    if pose in ([], NO_MOUNTING):
        return None
    if len(pose) != 6:
        return f"must be [x, y, z, roll, pitch, yaw], not {pose}"
    if pose[2] <= 0:
        return f"must have the camera above the ground, z over 0, not {pose[2]}"
    return None if max(map(abs, pose[3:])) <= 6.3 else f"must have its angles in radians, not {pose[3:]}"


def _check_names(value: Iterable[str]) -> str | None:
    return None if all(value) else "holds an empty name"


def _check_drivable(value: Iterable[str]) -> str | None:
    return _check_names(value) if list(value) else "must name at least one class"


def _check_info_topic(value: str) -> str | None:
    return check_topic(value) if value else None


def _check_frame(value: str) -> str | None:
    return None if value.strip("/ ") else "must name a frame"


PLANNING_SPECS: Mapping[str, Spec] = {
    "min_confidence": Spec(
        0.0,
        "pixels whose confidence is lower become void, 255, in all outputs; with a calibrated model that is the "
        "probability that they are right; 0.0 is off",
        Change.ANY_TIME,
        (0.0, 1.0),
    ),
    "drivable_classes": Spec(
        ["road"],
        "classes of the label map that the outputs drivable and free_space take for drivable, in whatever case",
        check=_check_drivable,
    ),
    "drivable_min_area": Spec(
        0.0001,
        "specks of drivable pixels and holes among them that are smaller, as a share of the image, are removed; "
        "0.0 is off",
        Change.ANY_TIME,
        (0.0, 1.0),
    ),
    "flat_classes": Spec(
        ["sidewalk", "pavement", "terrain"],
        "classes that lie on the ground without being drivable: occupied in free_space, but they hide nothing",
        check=_check_names,
    ),
    "vehicle_frame": Spec(
        "base_link",
        "frame of free_space, x forward, y left; its plane z = 0 is taken for the ground",
        check=_check_frame,
    ),
    "grid_cell_m": Spec(0.2, "side of a cell of free_space in metres", span=(0.01, 100.0)),
    "grid_range_m": Spec(
        [30.0, 10.0],
        "extent of free_space from the vehicle frame in metres: [forward, sideways], or [forward, sideways, backward]",
        check=_check_range,
    ),
}


def planning_camera_specs(camera: str) -> dict[str, Spec]:
    """Those of one camera, by their full names ``<camera>.<name>``."""
    return {
        f"{camera}.camera_info_topic": Spec(
            "",
            'topic of its camera_info; "" is camera_info beside the image topic',
            check=_check_info_topic,
        ),
        f"{camera}.rectified": Spec(
            False,
            "its images are rectified (image_rect): the P of camera_info describes them, without distortion",
        ),
        f"{camera}.ignore_mask": Spec(
            "",
            "PNG of the images' size; where it is not black the pixels are ignored: 255 in all outputs",
        ),
        f"{camera}.mounting": Spec(
            NO_MOUNTING,
            "[x, y, z, roll, pitch, yaw] of the camera's body frame (x along the view, y left, z up) in the vehicle "
            "frame, metres and radians, used where TF has no transform; all 0.0 is not given",
            check=_check_mounting,
        ),
    }


@dataclass(frozen=True)
class Classes:
    """Ids of the classes that matter to planners."""

    drivable: tuple[int, ...]
    flat: tuple[int, ...]


@dataclass(frozen=True)
class PlanningParameters:
    """What is the same for all cameras."""

    drivable_classes: tuple[str, ...]
    flat_classes: tuple[str, ...]
    vehicle_frame: str
    cell_m: float
    range_m: tuple[float, ...]

    def classes(self, label_map: LabelMap) -> Classes:
        """Look the classes up; those of a default need not be in the map, and then nothing may be drivable.

        Raises:
            ValueError: if a class that was asked for is not in the map.
        """
        found = []
        for name, asked in (("drivable_classes", self.drivable_classes), ("flat_classes", self.flat_classes)):
            may_lack = asked == tuple(PLANNING_SPECS[name].default)
            try:
                found.append(class_ids(asked, label_map, may_lack))
            except ValueError as error:
                raise ValueError(f"parameter '{name}' {error}") from error
        drivable, flat = found
        return Classes(drivable, tuple(i for i in flat if i not in drivable))

    def grid(self) -> GridSpec:
        """The grid; GroundError if it has too many cells."""
        return GridSpec(self.cell_m, *self.range_m)


@dataclass(frozen=True)
class CameraPlanning:
    """What is of one camera. ``mounting`` is None and the texts are "" where they were not given."""

    info_topic: str
    rectified: bool
    ignore_mask: str
    mounting: tuple[float, ...] | None


def read_planning(value: Callable[[str], Any]) -> PlanningParameters:
    """From the values of the node's parameters, by name."""
    return PlanningParameters(
        drivable_classes=tuple(value("drivable_classes")),
        flat_classes=tuple(value("flat_classes")),
        vehicle_frame=value("vehicle_frame").strip("/ "),
        cell_m=value("grid_cell_m"),
        range_m=tuple(value("grid_range_m")),
    )


def read_camera_planning(value: Callable[[str], Any], camera: str) -> CameraPlanning:
    """Those of one camera from the values of the node's parameters, by name."""
    mounting = tuple(value(f"{camera}.mounting"))
    return CameraPlanning(
        info_topic=value(f"{camera}.camera_info_topic"),
        rectified=value(f"{camera}.rectified"),
        ignore_mask=value(f"{camera}.ignore_mask"),
        mounting=mounting if any(mounting) else None,
    )
