"""The networks, in plain torch: one paper, one file, with units named as in the paper."""

from drive_seg.networks.catalog import build, names
from drive_seg.networks.layers import SegmentationOutput

__all__ = ["SegmentationOutput", "build", "names"]
