"""Outputs for planners: drivable area, free space and camera_info."""
