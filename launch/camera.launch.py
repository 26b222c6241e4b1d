"""One camera: ``ros2 launch drive_seg camera.launch.py image_topic:=/my_camera/image_raw``.

surround.launch.py with one name: its other arguments (model, device, params_file, rviz, ...) are taken here too.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration


def generate_launch_description() -> LaunchDescription:
    """The camera's name, and the node as surround.launch.py starts it."""
    surround = Path(__file__).absolute().with_name("surround.launch.py")
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "camera",
                default_value="",
                description="Name of the camera, the prefix of its topics. Empty: as in the parameters file",
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(surround)),
                launch_arguments={"cameras": LaunchConfiguration("camera")}.items(),
            ),
        ]
    )
