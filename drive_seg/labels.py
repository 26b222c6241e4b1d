"""Label maps: what each class id of a mask means, and how it is painted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

VOID = 255
"""The id of pixels that carry no label: never a class, never counted, painted black."""

BACKGROUND = frozenset(("road", "sidewalk", "pavement", "building", "vegetation", "tree", "sky", "background"))
"""The background classes of FBNet's footnote 1 as Cityscapes and CamVid call them, and PASCAL VOC's, in lower case."""

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class LabelMap:
    """The classes of a mask: the id of a class is its place in ``names``.

    Attributes:
        name: what this set of classes is called, e.g. ``cityscapes19``.
        names: class names, unique, in the order of their ids 0..C-1.
        colors: one (red, green, blue) triple of 0..255 per class.

    Raises:
        ValueError: if names repeat or are empty, colours do not match names, or there are no or over 255 classes.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[RGB, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= VOID:
            raise ValueError(f"label map '{self.name}' has {len(self.names)} classes; 1 to {VOID} are possible")
        if len(self.colors) != len(self.names):
            raise ValueError(f"label map '{self.name}' has {len(self.names)} names and {len(self.colors)} colours")
        doubled = sorted({name for name in self.names if self.names.count(name) > 1})
        if doubled or not all(self.names):
            raise ValueError(f"label map '{self.name}' has doubled or empty class names: {doubled or 'empty'}")
        if any(len(c) != 3 or not all(0 <= v <= 255 for v in c) for c in self.colors):
            raise ValueError(f"label map '{self.name}' has a colour that is not three values of 0 to 255")

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def palette(self, order: str = "bgr") -> np.ndarray:
        """The look-up table id -> colour, uint8 [256, 3]; void and ids without a class are black.

        Raises:
            ValueError: if ``order`` is neither "bgr" nor "rgb".
        """
        if order not in ("bgr", "rgb"):
            raise ValueError(f"channel order '{order}' is neither 'bgr' nor 'rgb'")
        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = self.colors
        return table if order == "rgb" else np.ascontiguousarray(table[:, ::-1])

    def colorize(self, label: np.ndarray, order: str = "bgr") -> np.ndarray:
        """Paint a label image: uint8 [H, W] ids -> uint8 [H, W, 3] colours."""
        if label.dtype != np.uint8 or label.ndim != 2 or not label.size:
            return np.take(self.palette(order), label, axis=0)
        # The same by OpenCV, in a fifth of the time: a colour and an empty byte are looked up as one number.
        table = cv2.cvtColor(self.palette(order)[None], cv2.COLOR_BGR2BGRA).view(np.int32)[..., 0]
        wide = cv2.LUT(np.ascontiguousarray(label), table).reshape(label.shape)
        return cv2.cvtColor(wide.view(np.uint8).reshape(*label.shape, 4), cv2.COLOR_BGRA2BGR)

    def foreground(self) -> tuple[int, ...]:
        """The ids of what FBNet calls foreground: all but road, sidewalk, building, vegetation, sky, or a "background".

        The five go by the names that Cityscapes and CamVid give them; a map that has none of them is all foreground.
        """
        return tuple(i for i, name in enumerate(self.names) if name.lower() not in BACKGROUND)

    def to_dict(self) -> dict[str, Any]:
        """The map as plain data, as it travels in checkpoints and on the ``label_map`` topic."""
        classes = [
            {"id": i, "name": name, "color": list(color)}
            for i, (name, color) in enumerate(zip(self.names, self.colors, strict=True))
        ]
        return {"name": self.name, "void": VOID, "classes": classes}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LabelMap:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: if the data has not this form, or its ids are not 0..C-1 in order.
        """
        try:
            classes, void, name = data["classes"], data["void"], str(data["name"])
            ids = [int(c["id"]) for c in classes]
            names = tuple(str(c["name"]) for c in classes)
            colors = tuple((int(c["color"][0]), int(c["color"][1]), int(c["color"][2])) for c in classes)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"not a label map: {type(error).__name__}: {error}") from error
        if ids != list(range(len(ids))) or void != VOID:
            raise ValueError(f"label map '{name}' must have the ids 0..{len(ids) - 1} in order and void {VOID}")
        return cls(name, names, colors)


def frequency_weights(frequency: np.ndarray, c: float = 1.02) -> np.ndarray:
    """DSNet eq. 2, the object frequency weight alpha = omega / max(omega) with omega = 1 / ln(f + c).

    Args:
        frequency: float64 [C], each class's share of all valid pixels. A class that never occurs (0) gets weight 1
            and does not take part in the maximum, so that it does not flatten the others.
        c: the constant of ENet's weighting.

    Returns:
        float64 [C] in (0, 1].
    """
    frequency = np.asarray(frequency, np.float64)
    omega = 1.0 / np.log(frequency + c)
    seen = frequency > 0
    if not seen.any():
        return np.ones_like(omega)
    return np.where(seen, omega / omega[seen].max(), 1.0)


def frequency_orders(frequency: np.ndarray) -> np.ndarray:
    """DSNet eq. 3, the order of magnitude gamma = floor(log10(f / min f)) that sorts classes into groups.

    Args:
        frequency: float64 [C], each class's share of all valid pixels; the minimum is taken over classes that occur,
            and a class that does not occur belongs to the rarest group, 0.

    Returns:
        int64 [C], >= 0.
    """
    frequency = np.asarray(frequency, np.float64)
    seen = frequency > 0
    if not seen.any():
        return np.zeros(len(frequency), np.int64)
    smallest = frequency[seen].min()
    # log10 of an exact power of ten may land a hair below the integer; the nudge is far below any real ratio's gap.
    return np.array([math.floor(math.log10(f / smallest) + 1e-12) if f > 0 else 0 for f in frequency], np.int64)


CITYSCAPES19 = LabelMap(
    "cityscapes19",
    (
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ),
    (
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ),
)

CAMVID11 = LabelMap(
    "camvid11",
    (
        "Sky",
        "Building",
        "Pole",
        "Road",
        "Pavement",
        "Tree",
        "SignSymbol",
        "Fence",
        "Car",
        "Pedestrian",
        "Bicyclist",
    ),
    (
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)

CAMVID32 = LabelMap(
    "camvid32",
    (
        "Animal",
        "Archway",
        "Bicyclist",
        "Bridge",
        "Building",
        "Car",
        "CartLuggagePram",
        "Child",
        "Column_Pole",
        "Fence",
        "LaneMkgsDriv",
        "LaneMkgsNonDriv",
        "Misc_Text",
        "MotorcycleScooter",
        "OtherMoving",
        "ParkingBlock",
        "Pedestrian",
        "Road",
        "RoadShoulder",
        "Sidewalk",
        "SignSymbol",
        "Sky",
        "SUVPickupTruck",
        "TrafficCone",
        "TrafficLight",
        "Train",
        "Tree",
        "Truck_Bus",
        "Tunnel",
        "VegetationMisc",
        "Void",
        "Wall",
    ),
    (
        (64, 128, 64),
        (192, 0, 128),
        (0, 128, 192),
        (0, 128, 64),
        (128, 0, 0),
        (64, 0, 128),
        (64, 0, 192),
        (192, 128, 64),
        (192, 192, 128),
        (64, 64, 128),
        (128, 0, 192),
        (192, 0, 64),
        (128, 128, 64),
        (192, 0, 192),
        (128, 64, 64),
        (64, 192, 128),
        (64, 64, 0),
        (128, 64, 128),
        (128, 128, 192),
        (0, 0, 192),
        (192, 128, 128),
        (128, 128, 128),
        (64, 128, 192),
        (0, 0, 64),
        (0, 64, 64),
        (192, 64, 128),
        (128, 128, 0),
        (192, 128, 192),
        (64, 0, 64),
        (192, 192, 0),
        (0, 0, 0),
        (64, 192, 0),
    ),
)

VOC21 = LabelMap(
    "voc21",
    (
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
    (
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
        (128, 0, 128),
        (0, 128, 128),
        (128, 128, 128),
        (64, 0, 0),
        (192, 0, 0),
        (64, 128, 0),
        (192, 128, 0),
        (64, 0, 128),
        (192, 0, 128),
        (64, 128, 128),
        (192, 128, 128),
        (0, 64, 0),
        (128, 64, 0),
        (0, 192, 0),
        (128, 192, 0),
        (0, 64, 128),
    ),
)

_LABEL_MAPS = {label_map.name: label_map for label_map in (CITYSCAPES19, CAMVID11, CAMVID32, VOC21)}


def label_map_names() -> tuple[str, ...]:
    """The label maps of the package."""
    return tuple(sorted(_LABEL_MAPS))


def label_map(name: str) -> LabelMap:
    """The label map of that name.

    Raises:
        ValueError: if there is none; the message lists those there are.
    """
    try:
        return _LABEL_MAPS[name]
    except KeyError:
        raise ValueError(f"no label map is called '{name}'; there are: {', '.join(label_map_names())}") from None
