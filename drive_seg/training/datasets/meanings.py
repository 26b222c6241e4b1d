"""What the classes of one label map are in another, where the names do not say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drive_seg.labels import VOC21

_CAMVID11 = {
    "Sky": ["sky"],
    "Building": ["building", "wall"],
    "Pole": ["pole"],
    "Road": ["road"],
    "Pavement": ["sidewalk"],
    "Tree": ["vegetation", "terrain"],
    "SignSymbol": ["traffic sign", "traffic light"],
    "Fence": ["fence"],
    "Car": ["car", "truck", "bus", "train"],
    "Pedestrian": ["person"],
    "Bicyclist": ["rider", "bicycle", "motorcycle"],
}

_CAMVID32 = {
    "Animal": [],
    "Archway": ["building"],
    "Bicyclist": ["rider", "bicycle"],
    "Bridge": [],
    "Building": ["building"],
    "Car": ["car"],
    "CartLuggagePram": [],
    "Child": ["person"],
    "Column_Pole": ["pole"],
    "Fence": ["fence"],
    "LaneMkgsDriv": ["road"],
    "LaneMkgsNonDriv": ["road"],
    "Misc_Text": [],
    "MotorcycleScooter": ["rider", "motorcycle"],
    "OtherMoving": [],
    "ParkingBlock": ["sidewalk"],
    "Pedestrian": ["person"],
    "Road": ["road"],
    "RoadShoulder": ["road"],
    "Sidewalk": ["sidewalk"],
    "SignSymbol": ["traffic sign"],
    "Sky": ["sky"],
    "SUVPickupTruck": ["car"],
    "TrafficCone": [],
    "TrafficLight": ["traffic light"],
    "Train": ["train"],
    "Tree": ["vegetation"],
    "Truck_Bus": ["truck", "bus"],
    "Tunnel": [],
    "VegetationMisc": ["vegetation", "terrain"],
    "Void": [],
    "Wall": ["wall"],
}

# Which class SegNet's authors made of each of the 32, as measured on frames that both have.
_CAMVID32_IN_11 = {
    "Animal": [],
    "Archway": [],
    "Bicyclist": ["Bicyclist"],
    "Bridge": [],
    "Building": ["Building"],
    "Car": ["Car"],
    "CartLuggagePram": [],
    "Child": [],
    "Column_Pole": ["Pole"],
    "Fence": ["Fence"],
    "LaneMkgsDriv": ["Road"],
    "LaneMkgsNonDriv": ["Road"],
    "Misc_Text": ["SignSymbol"],
    "MotorcycleScooter": ["Bicyclist"],
    "OtherMoving": [],
    "ParkingBlock": ["Pavement"],
    "Pedestrian": ["Pedestrian"],
    "Road": ["Road"],
    "RoadShoulder": ["Road"],
    "Sidewalk": ["Pavement"],
    "SignSymbol": ["SignSymbol"],
    "Sky": ["Sky"],
    "SUVPickupTruck": ["Car"],
    "TrafficCone": [],
    "TrafficLight": ["SignSymbol"],
    "Train": [],
    "Tree": ["Tree"],
    "Truck_Bus": ["Car"],
    "Tunnel": [],
    "VegetationMisc": ["Tree"],
    "Void": [],
    "Wall": ["Building"],
}

_CITYSCAPES_IN_CAMVID11 = {fine: [coarse] for coarse, members in _CAMVID11.items() for fine in members}

_VOC_IN_CITYSCAPES: dict[str, list[str]] = {
    **{name: [] for name in VOC21.names},
    "bicycle": ["bicycle"],
    "bus": ["bus"],
    "car": ["car"],
    "motorbike": ["motorcycle"],
    "person": ["person", "rider"],
    "train": ["train"],
}

_KNOWN: dict[tuple[str, str], Mapping[str, Sequence[str]]] = {
    ("camvid11", "cityscapes19"): _CAMVID11,
    ("camvid32", "cityscapes19"): _CAMVID32,
    ("camvid32", "camvid11"): _CAMVID32_IN_11,
    ("cityscapes19", "camvid11"): _CITYSCAPES_IN_CAMVID11,
    ("voc21", "cityscapes19"): _VOC_IN_CITYSCAPES,
}


def known_meaning(source: str, target: str) -> Mapping[str, Sequence[str]]:
    """Class of the label map ``source`` -> classes of ``target`` that it may be; empty where nothing is known."""
    return _KNOWN.get((source, target), {})
