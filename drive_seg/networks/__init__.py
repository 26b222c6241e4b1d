"""The networks, in plain torch: one paper, one file, with units named as in the paper."""

from drive_seg.networks.catalog import build, names
from drive_seg.networks.network import BlockPresence, SegmentationNetwork, SegmentationOutput

__all__ = ["BlockPresence", "SegmentationNetwork", "SegmentationOutput", "build", "names"]
