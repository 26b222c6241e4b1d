"""Telling a tool's own arguments from ROS's."""

from __future__ import annotations

from collections.abc import Sequence


def split_ros_args(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the tool's own, ROS's including ``--ros-args``): what stands between each ``--ros-args`` and ``--``, or the end.

    ``rclpy.utilities.remove_ros_args`` will not do: it also takes ``a:=b`` for ROS's own wherever it stands.
    """
    own: list[str] = []
    ros: list[str] = []
    in_ros = False
    for argument in arguments:
        if argument == "--ros-args":
            in_ros = True
            ros.append(argument)
        elif in_ros and argument == "--":
            in_ros = False
            ros.append(argument)
        else:
            (ros if in_ros else own).append(argument)
    return own, ros
