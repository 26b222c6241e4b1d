"""Own arguments and ROS's, told apart."""

import pytest

from drive_seg.recordings.ros_args import split_ros_args


@pytest.mark.parametrize(
    ("given", "own", "ros"),
    [
        (["a", "--remap", "x:=y"], ["a", "--remap", "x:=y"], []),
        (["a", "--ros-args", "-r", "x:=y"], ["a"], ["--ros-args", "-r", "x:=y"]),
        (["--ros-args", "-p", "b:=1", "--", "a"], ["a"], ["--ros-args", "-p", "b:=1", "--"]),
        (["--", "a", "--ros-args"], ["--", "a"], ["--ros-args"]),
        ([], [], []),
    ],
)
def test_split(given, own, ros):
    assert split_ros_args(given) == (own, ros)
