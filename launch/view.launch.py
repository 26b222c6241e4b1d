"""What the node publishes, on a screen: ``ros2 launch drive_seg view.launch.py cameras:=front,left``.

RViz with our config, and with ``foxglove:=true`` the bridge that Foxglove and Lichtblick connect to. Both come with
topics of these cameras: config/rviz/drive_seg.rviz and config/foxglove/drive_seg.json are for one camera called
camera, and are rewritten here into the launch's log folder. The other launch files include this one; alone it serves
on a machine beside the vehicle.
"""

import json
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.logging import launch_config
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

CONFIG = Path(__file__).absolute().parents[1] / "config"
VIEWERS = {"rviz": "rviz2", "foxglove": "foxglove_bridge"}

ARGUMENTS = (
    (
        "cameras",
        "",
        "Names of the cameras, with commas between them: front,left,right. Empty: those of the parameters file",
    ),
    (
        "image_topic",
        "",
        "Topic of the images, where {camera} stands for the camera's name. "
        "Empty: as in the parameters file, else <camera>/image_raw",
    ),
    ("transport", "", "Of the images: raw or compressed. Empty: as in the parameters file"),
    (
        "params_file",
        str(CONFIG / "segmentation.param.yaml"),
        "Path of the node's parameters file, which names the cameras and their topics",
    ),
    ("namespace", "", "Namespace of the node, whose topics are shown"),
    ("use_sim_time", "", "true: the clock is /clock, as with a replay. Empty: the machine's"),
    ("rviz", "true", "true: RViz, with the images of the first camera, and overlay and free space of all"),
    (
        "fixed_frame",
        "",
        "Frame in which the free space is shown. Empty: vehicle_frame of the parameters file, else base_link",
    ),
    (
        "foxglove",
        "false",
        "true: foxglove_bridge, and a layout file for Foxglove or Lichtblick whose path is printed",
    ),
    ("foxglove_port", "8765", "Port of foxglove_bridge: connect to ws://<this machine>:<port>"),
)


def generate_launch_description() -> LaunchDescription:
    """The arguments, then what they ask for."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in ARGUMENTS
            ),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[Node | LogInfo]:
    """The viewers of a launch of their own."""
    refuse_unknown(context, __file__, (name for name, _, _ in ARGUMENTS))
    return viewers(context)


def refuse_unknown(context: LaunchContext, file: str, known: Iterable[str]) -> None:
    """ValueError for an argument that nobody would read, where ``file`` is what ``ros2 launch`` was called with.

    A launch file that includes this one may have arguments of its own.
    """
    if Path(file).name not in (Path(word).name for word in sys.argv):
        return
    names = sorted(known)
    for name, sign, _ in (word.partition(":=") for word in context.argv):
        if sign and name not in names:
            close = get_close_matches(name, names, 1)
            meant = f"; is {close[0]}:= meant?" if close else ""
            raise ValueError(f"{Path(file).name} has no argument {name}:={meant} (--show-args lists them)")


def viewers(context: LaunchContext) -> list[Node | LogInfo]:
    """RViz, and Foxglove's bridge, each if it is wanted."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    wanted = [name for name in ("rviz", "foxglove") if truth(name, given[name])]
    if not wanted:
        return []
    # That of the replay's images, too, where the clock of a recording is far in the past.
    clock = {"use_sim_time": truth("use_sim_time", given["use_sim_time"] or "false")}
    topics = image_topics(given)
    frame = given["fixed_frame"] or parameters_of(given["params_file"]).get("vehicle_frame") or "base_link"
    actions: list[Node | LogInfo] = []
    for name, package in VIEWERS.items():
        if name in wanted:
            require(package, f"{name}:=true")
    number = port(given["foxglove_port"])
    if "rviz" in wanted:
        path = Path(launch_config.log_dir) / "drive_seg.rviz"
        path.write_text(yaml.safe_dump(rviz_config(topics, given["namespace"], frame), width=10**6))
        # Its window need not be open for the launch to go on.
        actions.append(
            Node(
                package="rviz2",
                executable="rviz2",
                name="rviz_drive_seg",
                arguments=["--display-config", str(path)],
                parameters=[clock],
            )
        )
    if "foxglove" in wanted:
        path = Path(launch_config.log_dir) / "drive_seg_foxglove.json"
        path.write_text(json.dumps(foxglove_layout(topics, given["namespace"], frame), indent=2))
        actions += [
            Node(
                package="foxglove_bridge",
                executable="foxglove_bridge",
                parameters=[{"port": number, **clock}],
                output="screen",
            ),
            LogInfo(msg=f"Foxglove: connect to ws://localhost:{number} and import the layout {path}"),
        ]
    return actions


def require(package: str, argument: str) -> None:
    """FileNotFoundError with a way out, where a viewer is not installed."""
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        debian = package.replace("_", "-")
        raise FileNotFoundError(
            f"{argument} needs the package {package}, which is not installed (apt install ros-$ROS_DISTRO-{debian})"
        ) from None


def image_topics(given: dict[str, str]) -> dict[str, str]:
    """The absolute image topic of each camera by its name, as the node would take them."""
    parameters = parameters_of(given["params_file"])
    cameras = [name.strip() for name in given["cameras"].split(",") if name.strip()]
    cameras = cameras or [str(name) for name in parameters.get("cameras", ["camera"])]
    topics = {}
    for camera in cameras:
        topic = given["image_topic"].replace("{camera}", camera)
        topic = topic or parameters.get(f"{camera}.image_topic") or f"{camera}/image_raw"
        compressed = (given["transport"] or parameters.get(f"{camera}.transport")) == "compressed"
        topics[camera] = absolute(topic, given["namespace"]) + ("/compressed" if compressed else "")
    return topics


def parameters_of(path: str) -> dict[str, Any]:
    """The parameters in a file by their full names, of whatever node; a later section goes before an earlier one."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"params_file: there is no file '{path}'")
    found: dict[str, Any] = {}
    sections = [yaml.safe_load(Path(path).read_text())]
    while sections:
        section = sections.pop(0)
        if isinstance(section, dict):
            found |= full_names(section.get("ros__parameters") or {})
            sections += [inner for name, inner in section.items() if name != "ros__parameters"]
    return found


def full_names(parameters: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Parameters of nested sections as ``section.name``."""
    found: dict[str, Any] = {}
    for name, value in parameters.items():
        full = f"{prefix}{name}"
        found |= full_names(value, f"{full}.") if isinstance(value, dict) else {full: value}
    return found


def absolute(topic: str, namespace: str) -> str:
    """A topic as all the graph knows it."""
    inner = "/".join(part for part in (namespace.strip("/"), topic) if part)
    return topic if topic.startswith("/") else f"/{inner}"


def rviz_config(topics: dict[str, str], namespace: str, fixed_frame: str) -> dict[str, Any]:
    """Our RViz config with a group of displays for each camera.

    Of several cameras the first has all its images, beside the view; the others have their overlays, in a row above it,
    and their free space.
    """
    config = yaml.safe_load((CONFIG / "rviz" / "drive_seg.rviz").read_text())
    manager, window = config["Visualization Manager"], config["Window Geometry"]
    manager["Global Options"]["Fixed Frame"] = fixed_frame
    (pattern,) = (display for display in manager["Displays"] if display["Name"] == "camera")
    manager["Displays"].remove(pattern)
    for number, (camera, topic) in enumerate(topics.items(), 1):
        group = for_camera(pattern, camera, topic, namespace)
        if number > 1:
            shown = (f"{camera} overlay", f"{camera} free space")
            group["Displays"] = [display for display in group["Displays"] if display["Name"] in shown]
        manager["Displays"].append(group)
        window["QMainWindow State"] = renamed_docks(window["QMainWindow State"], number, camera)
    return config


def renamed_docks(state: str, number: int, camera: str) -> str:
    """The window's state (Qt's, in hexadecimal digits) with the places of camera ``number`` given to ``camera``.

    Qt puts an image where the state has its name; names are in UTF-16 behind their length in bytes.
    """

    def digits(name: str) -> str:
        text = name.encode("utf-16-be")
        return (len(text).to_bytes(4, "big") + text).hex()

    if number > 1:
        return state.replace(digits(f"camera {number} overlay"), digits(f"{camera} overlay"))
    for image in ("overlay", "color", "image", "confidence", "drivable"):
        state = state.replace(digits(f"camera {image}"), digits(f"{camera} {image}"))
    return state


def foxglove_layout(topics: dict[str, str], namespace: str, fixed_frame: str) -> dict[str, Any]:
    """Our Foxglove layout with a tab for each camera."""
    layout = json.loads((CONFIG / "foxglove" / "drive_seg.json").read_text())
    panels = layout["configById"]
    tabs = panels["Tab!cameras"]["tabs"]
    (pattern,) = tabs
    of_a_camera = {name: panels.pop(name) for name in list(panels) if "!camera-" in name}
    tabs.clear()
    for camera, topic in topics.items():
        made = for_camera({"tab": pattern, "panels": of_a_camera}, camera, topic, namespace)
        tabs.append(made["tab"])
        panels |= made["panels"]
        panels[f"3D!{camera}-ground"]["followTf"] = fixed_frame
    return layout


def for_camera(part: Any, camera: str, topic: str, namespace: str) -> Any:
    """A part of a config or layout for a camera called camera, made one for ``camera``: names, panels and topics."""
    if isinstance(part, dict):
        return {
            for_camera(key, camera, topic, namespace): for_camera(value, camera, topic, namespace)
            for key, value in part.items()
        }
    if isinstance(part, list):
        return [for_camera(value, camera, topic, namespace) for value in part]
    if not isinstance(part, str):
        return part
    if part == "/camera/image_raw":
        return topic
    if part.startswith("/camera/"):
        return absolute(f"{camera}/{part.removeprefix('/camera/')}", namespace)
    if part.partition("!")[2].startswith("camera-"):
        return part.replace("!camera-", f"!{camera}-", 1)
    first, space, rest = part.partition(" ")
    return f"{camera}{first.removeprefix('camera')}{space}{rest}" if first in ("camera", "camera:") else part


def port(text: str) -> int:
    """The number of a port; ValueError if it is none."""
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ValueError(f"foxglove_port must be 1 to 65535, not '{text}'")
    return int(text)


def truth(name: str, text: str) -> bool:
    """The value of a yes-or-no argument; ValueError if it is neither."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{name} must be true or false, not '{text}'")
    return text.lower() == "true"
