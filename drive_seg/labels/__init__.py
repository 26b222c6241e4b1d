"""Label maps: class ids, names and colours, and what the classes of one map are in another (:mod:`.groups`)."""

from drive_seg.labels.base import BACKGROUND, RGB, VOID, LabelMap
from drive_seg.labels.frequency import frequency_orders, frequency_weights
from drive_seg.labels.maps import CAMVID11, CAMVID32, CITYSCAPES19, VOC21, label_map, label_map_names

__all__ = [
    "BACKGROUND",
    "CAMVID11",
    "CAMVID32",
    "CITYSCAPES19",
    "RGB",
    "VOC21",
    "VOID",
    "LabelMap",
    "frequency_orders",
    "frequency_weights",
    "label_map",
    "label_map_names",
]
