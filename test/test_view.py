"""RViz's config and Foxglove's layout: as shipped, for a camera called camera, and as view.launch.py rewrites them."""

import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import OccupancyGrid
from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64

from drive_seg.node.outputs import PER_FRAME, TIMES, output_qos

LAUNCH_MODULES = (
    "launch",
    "launch.actions",
    "launch.logging",
    "launch.substitutions",
    "launch_ros",
    "launch_ros.actions",
)
# Class names of RViz's own plugins (rviz_common and rviz_default_plugins of Jazzy and Kilted).
RVIZ_CLASSES = {
    *(f"rviz_common/{name}" for name in ("Displays", "Group", "Time", "Views")),
    *(f"rviz_default_plugins/{name}" for name in ("Axes", "Grid", "Image", "Map", "Orbit", "TF")),
    *(f"rviz_default_plugins/{name}" for name in ("FocusCamera", "Interact", "Measure", "MoveCamera")),
}
# Panel types, as they stand before the ! of a panel's id.
PANELS = {"3D", "DiagnosticStatusPanel", "DiagnosticSummary", "Image", "Plot", "Tab"}
TOPICS = {"front": "/sensing/front/image", "left": "/car/left/image_raw", "rear": "/car/rear/image_raw/compressed"}


@pytest.fixture(scope="module")
def view(checkout: Path) -> dict[str, Any]:
    """What view.launch.py defines; launch itself is not on the package index, and does nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in LAUNCH_MODULES:
            patch.setitem(sys.modules, name, MagicMock())
        return runpy.run_path(str(checkout / "launch" / "view.launch.py"))


@pytest.fixture(scope="module")
def shipped_rviz(checkout: Path) -> dict[str, Any]:
    return yaml.safe_load((checkout / "config" / "rviz" / "drive_seg.rviz").read_text())


@pytest.fixture(scope="module")
def shipped_layout(checkout: Path) -> dict[str, Any]:
    return json.loads((checkout / "config" / "foxglove" / "drive_seg.json").read_text())


def types(prefix: str = "/camera", image_topic: str = "/camera/image_raw") -> dict[str, type]:
    """Type by topic of all that a camera's viewers may listen to."""
    compressed = image_topic.endswith("/compressed")
    return {
        image_topic: CompressedImage if compressed else Image,
        "/diagnostics": DiagnosticArray,
        **{f"{prefix}/segmentation/{name}": kind for name, kind in PER_FRAME.items()},
        **{f"{prefix}/segmentation/debug/{name}": Float64 for name in TIMES},
    }


def types_of_all() -> dict[str, type]:
    return {name: kind for camera, topic in TOPICS.items() for name, kind in types(f"/car/{camera}", topic).items()}


def displays(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All displays, those in groups too."""
    waiting = list(config["Visualization Manager"]["Displays"])
    while waiting:
        display = waiting.pop(0)
        yield display
        waiting += display.get("Displays", [])


def classes(part: Any) -> set[str]:
    if isinstance(part, dict):
        own = {part["Class"]} if part.get("Class") else set()
        return own.union(*map(classes, part.values()))
    return set().union(*map(classes, part)) if isinstance(part, list) else set()


def docks(config: dict[str, Any]) -> str:
    """The window's state as text; names in it are in UTF-16, on even or odd bytes."""
    state = bytes.fromhex(config["Window Geometry"]["QMainWindow State"])
    return state.decode("utf-16-be", errors="replace") + state[1:].decode("utf-16-be", errors="replace")


def panels_in(layout: Any, panels: dict[str, Any]) -> list[str]:
    """The panels that are on the screen, those in tabs too."""
    if isinstance(layout, dict):
        return [*panels_in(layout["first"], panels), *panels_in(layout["second"], panels)]
    inner = [name for tab in panels[layout].get("tabs", []) for name in panels_in(tab["layout"], panels)]
    return [layout, *inner]


def listened_to(panel_id: str, panel: dict[str, Any]) -> list[tuple[str, tuple[type, ...]]]:
    """The topics of a Foxglove panel, and the types that it can show."""
    kind = panel_id.partition("!")[0]
    if kind == "Image":
        return [(panel["imageMode"]["imageTopic"], (Image, CompressedImage))]
    if kind == "Plot":
        return [(path["value"].removesuffix(".data"), (Float64,)) for path in panel["paths"]]
    if kind == "3D":
        return [(topic, (OccupancyGrid,)) for topic in panel["topics"]]
    return [(panel["topicToRender"], (DiagnosticArray,))] if kind.startswith("Diagnostic") else []


def check_rviz(config: dict[str, Any], known: dict[str, type]) -> list[dict[str, Any]]:
    """What must hold of every config; returns the displays with a topic."""
    assert classes(config) <= RVIZ_CLASSES
    with_topic = [display for display in displays(config) if "Topic" in display]
    for display in with_topic:
        shown = {"Image": (Image, CompressedImage), "Map": (OccupancyGrid,)}[display["Class"].partition("/")[2]]
        assert known[display["Topic"]["Value"]] in shown
    names = [display["Name"] for display in displays(config)]
    assert len(set(names)) == len(names)
    return with_topic


def check_layout(layout: dict[str, Any], known: dict[str, type]) -> list[str]:
    """What must hold of every layout; returns the topics that are listened to."""
    panels = layout["configById"]
    on_the_screen = panels_in(layout["layout"], panels)
    assert sorted(on_the_screen) == sorted(panels)
    assert {name.partition("!")[0] for name in panels} <= PANELS
    listened = [pair for name, panel in panels.items() for pair in listened_to(name, panel)]
    for topic, shown in listened:
        assert known[topic] in shown
    return [topic for topic, _ in listened]


def test_the_rviz_config_shows_the_outputs_of_a_camera(shipped_rviz: dict[str, Any]) -> None:
    shown = check_rviz(shipped_rviz, types())
    outputs = [display["Topic"]["Value"].removeprefix("/camera/") for display in shown]
    wanted = ["overlay", "color", "confidence", "drivable", "free_space"]
    assert sorted(outputs) == sorted(["image_raw", *(f"segmentation/{name}" for name in wanted)])
    assert shipped_rviz["Visualization Manager"]["Global Options"]["Fixed Frame"] == "base_link"
    for display in shown:
        if display["Class"].endswith("/Image"):
            assert display["Name"] in docks(shipped_rviz)


def test_rviz_hears_the_node_and_every_camera(shipped_rviz: dict[str, Any]) -> None:
    sensor = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
    for display in check_rviz(shipped_rviz, types()):
        asked = {key: value.lower().replace(" ", "_") for key, value in display["Topic"].items() if key != "Depth"}
        profile = QoSProfile(
            depth=display["Topic"]["Depth"],
            reliability=ReliabilityPolicy.get_from_short_key(asked["Reliability Policy"]),
            durability=DurabilityPolicy.get_from_short_key(asked["Durability Policy"]),
        )
        offered = sensor if asked["Value"].endswith("image_raw") else output_qos()
        compatibility, reason = qos_check_compatible(offered, profile)
        assert compatibility != QoSCompatibility.ERROR, (display["Name"], reason)


def test_the_foxglove_layout_shows_the_outputs_of_a_camera(shipped_layout: dict[str, Any]) -> None:
    topics = check_layout(shipped_layout, types())
    seen = {name for name, kind in types().items() if kind not in (CameraInfo, CompressedImage)}
    assert set(topics) == seen


def test_the_times_of_a_paused_recording_are_shown(shipped_layout: dict[str, Any]) -> None:
    # A plot that follows the present stays empty where time stands still or jumps, as it does in a recording.
    plots = [panel for name, panel in shipped_layout["configById"].items() if name.startswith("Plot!")]
    assert plots and not [panel for panel in plots if "followingViewWidth" in panel]


def test_every_camera_has_its_displays_in_rviz(view: dict[str, Any]) -> None:
    config = view["rviz_config"](TOPICS, "car", "vehicle")
    shown = check_rviz(config, types_of_all())
    assert config["Visualization Manager"]["Global Options"]["Fixed Frame"] == "vehicle"
    groups = [d for d in config["Visualization Manager"]["Displays"] if d["Class"] == "rviz_common/Group"]
    assert [group["Name"] for group in groups] == list(TOPICS)
    assert {"/sensing/front/image", "/car/left/segmentation/overlay", "/car/rear/segmentation/free_space"} <= {
        display["Topic"]["Value"] for display in shown
    }
    assert {display["Name"] for display in shown if not display["Name"].startswith("front ")} == {
        f"{camera} {output}" for camera in ("left", "rear") for output in ("overlay", "free space")
    }
    for dock in ("front color", "front image", "left overlay", "rear overlay", "camera 4 overlay"):
        assert dock in docks(config)
    assert "camera overlay" not in docks(config)


def test_every_camera_has_its_tab_in_foxglove(view: dict[str, Any]) -> None:
    layout = view["foxglove_layout"](TOPICS, "car", "vehicle")
    check_layout(layout, types_of_all())
    panels = layout["configById"]
    assert [tab["title"] for tab in panels["Tab!cameras"]["tabs"]] == list(TOPICS)
    assert panels["Image!rear-image"]["imageMode"]["imageTopic"] == "/car/rear/image_raw/compressed"
    assert panels["Plot!left-times"]["paths"][0]["value"] == "/car/left/segmentation/debug/processing_time_ms.data"
    assert panels["3D!front-ground"]["followTf"] == "vehicle"
    assert not [name for name in panels if "camera-" in name]


def test_a_camera_called_camera_has_the_files_as_they_are(
    view: dict[str, Any], shipped_rviz: dict[str, Any], shipped_layout: dict[str, Any]
) -> None:
    topics = {"camera": "/camera/image_raw"}
    assert view["rviz_config"](topics, "", "base_link") == shipped_rviz
    assert view["foxglove_layout"](topics, "", "base_link") == shipped_layout


def test_more_cameras_than_places_are_shown_too(view: dict[str, Any]) -> None:
    topics = {f"c{number}": f"/c{number}/image_raw" for number in range(12)}
    known = {name: kind for camera, topic in topics.items() for name, kind in types(f"/{camera}", topic).items()}
    assert len(check_rviz(view["rviz_config"](topics, "/", "base_link"), known)) == 6 + 11 * 2


def test_cameras_and_topics_come_from_the_arguments_or_the_users_file(view: dict[str, Any], tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "/**: {ros__parameters: {cameras: [front, rear], front: {image_topic: front/raw}}}\n"
        "car: {segmentation_node: {ros__parameters: {rear.image_topic: /rear/raw, rear: {transport: compressed}}}}\n"
    )
    given = {"cameras": "", "image_topic": "", "transport": "", "namespace": "car", "params_file": str(mine)}
    image_topics = view["image_topics"]
    assert image_topics(given) == {"front": "/car/front/raw", "rear": "/rear/raw/compressed"}
    assert image_topics(given | {"cameras": "rear, left"}) == {
        "rear": "/rear/raw/compressed",
        "left": "/car/left/image_raw",
    }
    assert image_topics(given | {"image_topic": "/s/{camera}/i", "transport": "raw"}) == {
        "front": "/s/front/i",
        "rear": "/s/rear/i",
    }
    with pytest.raises(FileNotFoundError, match="there is no file '/none.yaml'"):
        image_topics(given | {"params_file": "/none.yaml"})
