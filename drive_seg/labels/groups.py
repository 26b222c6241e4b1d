"""What the classes of one label map are in another: a class, one of several (a group), or void.

An id t < C is a class of a label map with C classes; C + g says "one of the classes of group g"; 255 is void.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from drive_seg.labels.base import VOID, LabelMap
from drive_seg.labels.maps import VOC21

_NOT, _FAR_FEWER = "not ", 4
"""How the name of a group begins that has all classes but a few, and how many times as many that are."""

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


@dataclass(frozen=True)
class GroupedMap(LabelMap):
    """A label map whose last entries are groups of the classes before them, as a report shows them.

    Attributes:
        groups: the class ids of each.
    """

    groups: tuple[tuple[int, ...], ...] = ()

    def foreground(self) -> tuple[int, ...]:
        """As of any label map; a group is foreground if all of its classes are."""
        count = self.num_classes - len(self.groups)
        classes = tuple(i for i in super().foreground() if i < count)
        return *classes, *(count + g for g, members in enumerate(self.groups) if set(classes).issuperset(members))


def with_groups(label_map: LabelMap, groups: Sequence[tuple[int, ...]]) -> LabelMap:
    """The label map and, after its classes, the groups; each has the colour of its first class."""
    if not groups:
        return label_map
    return GroupedMap(
        label_map.name,
        (*label_map.names, *group_names(label_map, groups)),
        (*label_map.colors, *(label_map.colors[members[0]] for members in groups)),
        tuple(groups),
    )


def group_names(label_map: LabelMap, groups: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """A name for each group: its classes joined by "/", or "not " and those that it lacks where they are far fewer."""
    names = []
    for members in groups:
        lacking = [i for i in range(label_map.num_classes) if i not in members]
        short = 0 < _FAR_FEWER * len(lacking) < len(members)
        names.append(_NOT * short + "/".join(label_map.names[i] for i in (lacking if short else members)))
    return tuple(names)


def named_classes(label_map: LabelMap, name: str) -> tuple[int, ...]:
    """The ids of the classes that a name means: one, or several as :func:`group_names` writes them.

    Raises:
        ValueError: if a part of the name is no class.
    """
    if name in label_map.names:
        return (label_map.names.index(name),)
    parts = name.removeprefix(_NOT).split("/")
    unknown = [part for part in parts if part not in label_map.names]
    if unknown:
        raise ValueError(f"label map '{label_map.name}' has no class {', '.join(map(repr, unknown))}")
    ids = {label_map.names.index(part) for part in parts}
    return tuple(sorted(set(range(label_map.num_classes)) - ids if name.startswith(_NOT) else ids))


def fold(prediction: np.ndarray, label: np.ndarray, num_classes: int, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Count a predicted class as the labelled group where it is one of the group's.

    Args:
        prediction: uint8 of any shape, class ids.
        label: uint8 of the same shape, classes and groups.
        num_classes: C.
        groups: the class ids of each.

    Returns:
        uint8, the prediction with those pixels set to the group's id.
    """
    folded = prediction.copy()
    for g, members in enumerate(groups, start=num_classes):
        folded[(label == g) & np.isin(prediction, members)] = g
    return folded


def translation(
    source: LabelMap, target: LabelMap, meaning: Mapping[str, Sequence[str]], groups: list[tuple[int, ...]]
) -> np.ndarray:
    """The table that turns ids of one label map into classes and groups of another.

    Args:
        source: the classes of the labels.
        target: the network's classes.
        meaning: class of the source -> classes of the target that it may be; none means void. A class that is not
            named keeps its name. Names of groups are taken, too, as "car/truck" and "not road".
        groups: the groups so far; new ones are appended.

    Returns:
        uint8 [256], ids of the source -> class, group or void.

    Raises:
        ValueError: if a name is no class, or a class of the source has no counterpart.
    """
    if unknown := sorted(set(meaning) - set(source.names)):
        raise ValueError(f"label map '{source.name}' has no class {', '.join(map(repr, unknown))}")
    known = {name: {i for one in classes for i in named_classes(target, one)} for name, classes in meaning.items()}
    table = np.full(256, VOID, np.uint8)
    for i, name in enumerate(source.names):
        try:
            classes = tuple(sorted(known[name] if name in known else named_classes(target, name)))
        except ValueError:
            raise ValueError(
                f"class '{name}' of label map '{source.name}' is not in '{target.name}'; say what it is under 'meaning'"
            ) from None
        if len(classes) == 1:
            table[i] = classes[0]
        elif classes:
            if classes not in groups:
                groups.append(classes)
            table[i] = target.num_classes + groups.index(classes)
    return table


def single_meanings(names: Sequence[str], target: LabelMap, meaning: Mapping[str, Sequence[str]]) -> list[int]:
    """The id of ``target``, or void, that each class of a network becomes; several may become one.

    Args:
        names: the network's classes.
        target: the label map of what comes out.
        meaning: as for :func:`translation`.

    Raises:
        ValueError: as of :func:`translation`, or if a class may be one of several.
    """
    source = LabelMap("of the network", tuple(names), ((0, 0, 0),) * len(names))
    groups: list[tuple[int, ...]] = []
    table = translation(source, target, meaning, groups)[: len(names)]
    for name, becomes in zip(names, table, strict=True):
        if target.num_classes <= becomes != VOID:
            choice = " or ".join(target.names[i] for i in groups[becomes - target.num_classes])
            raise ValueError(f"class '{name}' of the network may be {choice}: say which one under 'meaning'")
    return table.tolist()
