"""One camera: ``ros2 launch drive_seg camera.launch.py image_topic:=/my_camera/image_raw``.

surround.launch.py with one name: its other arguments (model, device, params_file, rviz, ...) are taken here too.
"""

import runpy
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

SURROUND = Path(__file__).absolute().with_name("surround.launch.py")


def generate_launch_description() -> LaunchDescription:
    """The camera's name, and the node as surround.launch.py starts it."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "camera",
                default_value="",
                description="Name of the camera, the prefix of its topics. Empty: as in the parameters file",
            ),
            OpaqueFunction(function=check_arguments),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(SURROUND)),
                launch_arguments={"cameras": LaunchConfiguration("camera")}.items(),
            ),
        ]
    )


def check_arguments(context: LaunchContext) -> None:
    """ValueError for several cameras, and for arguments that nobody would read."""
    if "," in LaunchConfiguration("camera").perform(context):
        raise ValueError("camera.launch.py is for one camera; surround.launch.py cameras:=front,left is for several")
    surround = runpy.run_path(str(SURROUND))
    known = {"camera", *surround["NAMES"]} - {"cameras"}
    surround["VIEW"]["refuse_unknown"](context, __file__, known)
