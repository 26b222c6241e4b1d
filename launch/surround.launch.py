"""N cameras, one node: ``ros2 launch drive_seg surround.launch.py cameras:=front,left,right``."""

import os
import runpy
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

CONFIG = Path(__file__).absolute().parents[1] / "config"
# Jazzy reads the first name, Kilted the second.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
TRANSPORTS = ("raw", "compressed")
# Launch files are no package: what they share is in this one.
VIEW = runpy.run_path(str(Path(__file__).absolute().with_name("view.launch.py")))
truth = VIEW["truth"]

ARGUMENTS = (
    (
        "cameras",
        "",
        "Names of the cameras, with commas between them: front,left,right. "
        "Each is the prefix of its topics. Empty: those of the parameters file",
    ),
    (
        "image_topic",
        "",
        "Topic of the images, where {camera} stands for the camera's name: /sensing/{camera}/image_raw. "
        "Empty: as in the parameters file, else <camera>/image_raw",
    ),
    (
        "transport",
        "",
        "raw, or compressed: CompressedImage on <image_topic>/compressed. Empty: as in the parameters file",
    ),
    (
        "model",
        "",
        "Name of a model of the package, or path of a .safetensors or .onnx file. Empty: as in the parameters file",
    ),
    ("device", "", "Where the network runs: auto, cpu, cuda, cuda:N. Empty: as in the parameters file"),
    (
        "fallback_device",
        "",
        "Where the network runs if it cannot be loaded on device: cpu, cuda:N. Empty: as in the parameters file",
    ),
    ("respawn", "false", "true: start the node again when its process ends, as with a GPU that is lost or hangs"),
    (
        "params_file",
        str(CONFIG / "segmentation.param.yaml"),
        "Path of the node's parameters file, where all that has no argument here is set; "
        "the arguments above go before what it says",
    ),
    ("namespace", "", "Namespace of the node and of its relative topics"),
    ("use_sim_time", "", "true: the node's clock is /clock. Empty: as in the parameters file"),
    ("log_level", "info", "Least severe log messages that are shown: debug, info, warn, error, fatal"),
)
# For view.launch.py, whose own default is to show.
VIEW_ARGUMENTS = (
    ("rviz", "false", "true: RViz with our config, for these cameras; closing it stops nothing else"),
    (
        "foxglove",
        "false",
        "true: foxglove_bridge, and a layout file for these cameras whose path is printed",
    ),
    *(argument for argument in VIEW["ARGUMENTS"] if argument[0] in ("fixed_frame", "foxglove_port")),
)
NAMES = tuple(name for name, _, _ in (*ARGUMENTS, *VIEW_ARGUMENTS))


def generate_launch_description() -> LaunchDescription:
    """The arguments, the DDS profile for large images, the node, and what shows its masks."""
    return LaunchDescription([*arguments(), *large_image_profile(), OpaqueFunction(function=start)])


def arguments() -> list[DeclareLaunchArgument]:
    """The arguments that every launch file with a node takes."""
    return [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, default, text in (*ARGUMENTS, *VIEW_ARGUMENTS)
    ]


def start(context: LaunchContext) -> list[Any]:
    """The node and the viewers, all made before the first is started: one that cannot be starts none."""
    VIEW["refuse_unknown"](context, __file__, NAMES)
    return [*segmentation_node(context), *VIEW["viewers"](context)]


def large_image_profile() -> list[SetEnvironmentVariable]:
    """Make Fast DDS take whole images, unless the user has chosen a profile or another middleware."""
    rmw = os.environ.get("RMW_IMPLEMENTATION", "")
    if any(os.environ.get(name) for name in PROFILE_VARIABLES) or (rmw and "fastrtps" not in rmw):
        return []
    profile = str(CONFIG / "fastdds_large_images.xml")
    return [SetEnvironmentVariable(name, profile) for name in PROFILE_VARIABLES]


def segmentation_node(context: LaunchContext) -> list[Node]:
    """The node, with the parameters file and above it what the user gave as arguments, and nothing else."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    if not Path(given["params_file"]).is_file():
        # launch_ros itself would go on without it.
        raise FileNotFoundError(f"params_file: there is no file '{given['params_file']}'")
    for name, allowed in (("log_level", LOG_LEVELS), ("transport", ("", *TRANSPORTS))):
        if given[name].lower() not in allowed:
            raise ValueError(f"{name} must be {', '.join(filter(None, allowed))}, not '{given[name]}'")
    return [
        Node(
            package="drive_seg",
            executable="segmentation_node",
            namespace=given["namespace"],
            parameters=[given["params_file"], node_parameters(given)],
            ros_arguments=["--log-level", given["log_level"]],
            output="screen",
            respawn=truth("respawn", given["respawn"]),
            respawn_delay=1.0,
        )
    ]


def node_parameters(given: dict[str, str]) -> dict[str, object]:
    """The node's parameters that the launch arguments set, by name; an empty argument sets none."""
    # Text stays text: launch would read a camera called 1 or a model called 2024 as a number.
    parameters: dict[str, object] = {
        name: ParameterValue(given[name], value_type=str)
        for name in ("model", "device", "fallback_device")
        if given[name]
    }
    cameras = [name.strip() for name in given["cameras"].split(",") if name.strip()]
    if not cameras and (given["image_topic"] or given["transport"]):
        cameras = ["camera"]
    if cameras:
        parameters["cameras"] = cameras
    for camera in cameras:
        if given["image_topic"]:
            topic = given["image_topic"].replace("{camera}", camera)
            parameters[f"{camera}.image_topic"] = ParameterValue(topic, value_type=str)
        if given["transport"]:
            parameters[f"{camera}.transport"] = ParameterValue(given["transport"], value_type=str)
    if given["use_sim_time"]:
        parameters["use_sim_time"] = truth("use_sim_time", given["use_sim_time"])
    return parameters
