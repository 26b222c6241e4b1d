"""The label maps of the package, by name."""

from __future__ import annotations

from drive_seg.labels.base import LabelMap

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
