"""Fold a network for inference: the same function with fewer operations."""

from drive_seg.networks.fold.network import Folded, fold

__all__ = ["Folded", "fold"]
