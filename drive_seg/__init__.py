"""drive_seg: per-pixel understanding of the road on a vehicle, in ROS 2.

Importing this package loads nothing heavy: each room (``segmenter``, ``node``, ``training``, ...) is imported where
it is used.
"""

__version__ = "0.1.0"
