"""The vehicle's node: camera topics in, class masks out.

Importing this package loads nothing; ``drive_seg.node.segmentation_node`` needs rclpy, and PyTorch only once it
is configured.
"""
