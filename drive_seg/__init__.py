"""drive_seg: per-pixel understanding of the road on a vehicle, in ROS 2.

``Segmenter``, ``Segmentation``, ``LabelMap`` and ``networks`` are here by name. Importing the package loads nothing
heavy: each of them is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drive_seg import networks
    from drive_seg.labels import LabelMap
    from drive_seg.segmenter import Segmentation, Segmenter

__version__ = "0.1.0"
__all__ = ["LabelMap", "Segmentation", "Segmenter", "networks"]

_HOMES = {"LabelMap": "drive_seg.labels", "Segmentation": "drive_seg.segmenter", "Segmenter": "drive_seg.segmenter"}


def __getattr__(name: str) -> Any:
    if name == "networks":
        return import_module("drive_seg.networks")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'drive_seg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
