"""Procedural street drives with exact per-pixel labels (19 Cityscapes classes); NumPy and OpenCV only."""

from drive_seg.synth.camera import EgoPose, SynthCamera
from drive_seg.synth.drive import SynthDrive, SynthFrame

__all__ = ["EgoPose", "SynthCamera", "SynthDrive", "SynthFrame"]
