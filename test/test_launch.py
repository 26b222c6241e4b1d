"""The launch files, executed by a small stand-in for ``launch``, which is not on the package index, and by the real one
where that is installed.

The stand-in runs a file's ``generate_launch_description`` and every function and included file in it as launch would,
and records what would be started. Parameters then go into a real node and command lines into the real parsers.
"""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import rclpy
import yaml

from drive_seg import checkpoint, networks
from drive_seg.labels import CITYSCAPES19
from drive_seg.node.dds import PROFILE_VARIABLES
from drive_seg.node.parameters import ParameterError
from drive_seg.node.segmentation_node import SegmentationNode

FILES = ("camera", "surround", "replay", "view")
WITH_A_NODE = ("camera", "surround", "replay")
VIEWERS = {"rviz": "rviz2", "foxglove": "foxglove_bridge"}


@dataclass
class Run:
    """What a launch file did: arguments declared (name -> description) and read, processes with their environment."""

    values: dict[str, str]
    declared: dict[str, str] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[SimpleNamespace] = field(default_factory=list)
    handlers: list[Any] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    @property
    def launch_configurations(self) -> dict[str, str]:
        return self.values

    @property
    def argv(self) -> list[str]:
        return [f"{name}:={value}" for name, value in self.values.items()]

    def value(self, given: Any) -> str:
        return given.perform(self) if hasattr(given, "perform") else given

    def process(self, executable: str) -> SimpleNamespace:
        (found,) = (process for process in self.processes if process.executable == executable)
        return found


class LaunchConfiguration:
    def __init__(self, variable_name: str) -> None:
        self.name = variable_name

    def perform(self, run: Run) -> str:
        run.read.add(self.name)
        return run.values[self.name]


class DeclareLaunchArgument:
    def __init__(self, name: str, *, default_value: str | None = None, description: str | None = None) -> None:
        self.name, self.default, self.description = name, default_value, description

    def execute(self, run: Run) -> None:
        run.declared.setdefault(self.name, self.description)
        if self.default is None:
            run.required.add(self.name)
            assert self.name in run.values, f"the launch argument {self.name} must be given"
        run.values.setdefault(self.name, self.default)


class SetEnvironmentVariable:
    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value

    def execute(self, run: Run) -> None:
        run.environment[self.name] = self.value


class OpaqueFunction:
    def __init__(self, *, function: Callable) -> None:
        self.function = function

    def execute(self, run: Run) -> None:
        execute_all(self.function(run) or [], run)


class IncludeLaunchDescription:
    def __init__(self, source: str, *, launch_arguments: Any = ()) -> None:
        self.source, self.arguments = source, launch_arguments

    def execute(self, run: Run) -> None:
        for name, value in self.arguments:
            run.values[name] = run.value(value)
        execute_all(description(self.source), run)


class Node:
    def __init__(self, *, package: str, executable: str, **options: Any) -> None:
        self.made = SimpleNamespace(package=package, executable=executable, **options)

    def execute(self, run: Run) -> None:
        run.processes.append(SimpleNamespace(**vars(self.made), environment=dict(run.environment)))


class ExecuteProcess(Node):
    def __init__(self, *, cmd: list[str], **options: Any) -> None:
        super().__init__(package="", executable=" ".join(cmd[:3]), arguments=cmd[3:], **options)


class LogInfo:
    def __init__(self, *, msg: str) -> None:
        self.message = msg

    def execute(self, run: Run) -> None:
        run.messages.append(self.message)


class RegisterEventHandler:
    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def execute(self, run: Run) -> None:
        run.handlers.append(self.handler)


def record(kind: str) -> Callable[..., SimpleNamespace]:
    return lambda **options: SimpleNamespace(kind=kind, **options)


STAND_IN = {
    "launch": {"LaunchDescription": list, "LaunchContext": Run},
    "launch.actions": {
        **{c.__name__: c for c in (DeclareLaunchArgument, SetEnvironmentVariable, OpaqueFunction)},
        **{c.__name__: c for c in (IncludeLaunchDescription, ExecuteProcess, RegisterEventHandler, LogInfo)},
        "ExecuteLocal": ExecuteProcess,
        **{name: record(name) for name in ("Shutdown", "TimerAction")},
    },
    "launch.event_handlers": {"OnProcessExit": record("OnProcessExit")},
    "launch.launch_description_sources": {"PythonLaunchDescriptionSource": str},
    "launch.substitutions": {"LaunchConfiguration": LaunchConfiguration},
    "launch_ros": {},
    "launch_ros.actions": {"Node": Node},
    "launch_ros.parameter_descriptions": {"ParameterValue": lambda value, value_type: value_type(value)},
}


def description(path: str) -> list[Any]:
    return runpy.run_path(path)["generate_launch_description"]()


def execute_all(actions: list[Any], run: Run) -> None:
    for action in actions:
        action.execute(run)


@pytest.fixture
def log_folder(tmp_path: Path) -> Path:
    """Where launch keeps what belongs to one launch."""
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


@pytest.fixture
def bag_topics() -> dict[str, dict[str, str] | None]:
    """Which cameras a recording has: name -> topics and their transports; what is not here is no bag."""
    return {}


@pytest.fixture
def launch(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, log_folder: Path, bag_topics: dict[str, dict[str, str] | None]
) -> Callable[..., Run]:
    """Runs the launch file of a name with arguments, in the stand-in."""

    def asked(command: list[str], **_: Any) -> SimpleNamespace:
        assert command[1:4] == ["-P", "-m", "drive_seg.recordings.playable"]
        return SimpleNamespace(returncode=0, stdout=json.dumps(bag_topics.get(command[4])), stderr="")

    monkeypatch.setattr(subprocess, "run", asked)
    for name in (*PROFILE_VARIABLES, "RMW_IMPLEMENTATION"):
        monkeypatch.delenv(name, raising=False)
    for name, contents in STAND_IN.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    logging = ModuleType("launch.logging")
    logging.launch_config = SimpleNamespace(log_dir=str(log_folder))
    monkeypatch.setitem(sys.modules, "launch.logging", logging)

    def run(name: str, **arguments: str) -> Run:
        result = Run(arguments)
        execute_all(description(str(checkout / "launch" / f"{name}.launch.py")), result)
        return result

    return run


def node_of(process: SimpleNamespace, folder: Path) -> SegmentationNode:
    """The real node, with the parameters as launch_ros passes them on: one file after the other."""
    arguments = ["--ros-args"]
    for number, parameters in enumerate(process.parameters):
        path = Path(parameters) if isinstance(parameters, str) else folder / f"{number}.yaml"
        if path.parent == folder:
            path.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
        arguments += ["--params-file", str(path)]
    return SegmentationNode(cli_args=arguments)


@pytest.fixture
def ros(ros_domain_id: int) -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture
def viewers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """RViz and Foxglove's bridge are installed, as far as the ament index can say."""
    index = tmp_path / "ros" / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    for package in VIEWERS.values():
        (index / package).touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "ros"))


def values(node: SegmentationNode, *names: str) -> list[Any]:
    return [node.get_parameter(name).value for name in names]


@pytest.mark.parametrize("name", FILES)
def test_every_argument_is_described_and_used(launch: Callable[..., Run], name: str) -> None:
    run = launch(name, bag="synth:", output="out", rviz="false")
    assert all(text and len(text) > 20 for text in run.declared.values()), run.declared
    # The delay is for the other player alone, and what to score by is read when there is a report.
    assert set(run.declared) - run.read - {"delay", "score"} == set()
    assert run.read - set(run.declared) == set()
    assert run.required == set()


@pytest.mark.parametrize("name", WITH_A_NODE)
def test_each_process_is_an_installed_executable_with_the_dds_profile(
    launch: Callable[..., Run], checkout: Path, name: str
) -> None:
    run = launch(name, bag="synth:", output="out")
    profile = dict.fromkeys(PROFILE_VARIABLES, str(checkout / "config" / "fastdds_large_images.xml"))
    for process in run.processes:
        assert process.package == "drive_seg"
        assert os.access(checkout / "scripts" / process.executable, os.X_OK)
        assert profile.items() <= process.environment.items()
    names = ["segmentation_node", "recorder", "player"] if name == "replay" else ["segmentation_node"]
    assert [process.executable for process in run.processes] == names


def test_a_dds_profile_of_the_users_stays(launch: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROFILE_VARIABLES[1], "/mine.xml")
    assert launch("camera").process("segmentation_node").environment == {}


@pytest.mark.parametrize("name", WITH_A_NODE)
def test_other_middleware_is_left_alone(launch: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_zenoh_cpp")
    for process in launch(name, bag="synth:", output="out").processes:
        assert set(process.environment) <= {"DRIVE_SEG_PREPARE"}


def test_without_arguments_the_parameters_file_alone_speaks(launch: Callable[..., Run], checkout: Path) -> None:
    for name in ("camera", "surround"):
        process = launch(name).process("segmentation_node")
        assert process.parameters == [str(checkout / "config" / "segmentation.param.yaml"), {}]


def test_camera_arguments_reach_the_node(launch: Callable[..., Run], ros: None, tmp_path: Path) -> None:
    run = launch(
        "camera",
        camera="front",
        image_topic="/sensing/front/image",
        transport="compressed",
        model="other",
        device="cuda",
        fallback_device="cpu",
        use_sim_time="true",
    )
    node = node_of(run.process("segmentation_node"), tmp_path)
    try:
        given = values(node, "cameras", "front.image_topic", "front.transport", "model", "device", "fallback_device")
        assert given == [["front"], "/sensing/front/image", "compressed", "other", "cuda", "cpu"]
        assert values(node, "use_sim_time") == [True]
    finally:
        node.destroy_node()


def test_surround_gives_each_camera_its_topic(launch: Callable[..., Run], ros: None, tmp_path: Path) -> None:
    run = launch("surround", cameras="front, left,right", image_topic="/sensing/{camera}/image_raw")
    node = node_of(run.process("segmentation_node"), tmp_path)
    try:
        topics = values(node, "cameras", "front.image_topic", "left.image_topic", "right.image_topic")
        sensing = [f"/sensing/{name}/image_raw" for name in ("front", "left", "right")]
        assert topics == [["front", "left", "right"], *sensing]
        assert values(node, "left.transport", "model", "use_sim_time") == ["raw", "swiftnet_road19", False]
    finally:
        node.destroy_node()


@pytest.mark.parametrize("given", ["", "true", "false"])
def test_a_node_is_started_again_if_asked_for(launch: Callable[..., Run], given: str) -> None:
    process = launch("camera", **({"respawn": given} if given else {})).process("segmentation_node")
    assert process.respawn is (given == "true")


def test_an_image_topic_alone_is_that_of_the_default_camera(launch: Callable[..., Run]) -> None:
    process = launch("camera", image_topic="/usb_cam/image_raw").process("segmentation_node")
    assert process.parameters[1] == {"cameras": ["camera"], "camera.image_topic": "/usb_cam/image_raw"}


def test_what_the_arguments_leave_open_comes_from_the_users_file(
    launch: Callable[..., Run], ros: None, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("/**: {ros__parameters: {cameras: [rear], rear: {transport: compressed}, overlay_alpha: 0.25}}")
    process = launch("camera", params_file=str(mine), device="cpu").process("segmentation_node")
    (tmp_path / "launched").mkdir()
    node = node_of(process, tmp_path / "launched")
    try:
        given = values(node, "cameras", "rear.transport", "overlay_alpha", "device")
        assert given == [["rear"], "compressed", 0.25, "cpu"]
    finally:
        node.destroy_node()


def test_a_parameter_the_node_lacks_would_be_noticed(ros: None, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="'modle' is unknown"):
        node_of(SimpleNamespace(parameters=[{"modle": "x"}]), tmp_path)


def test_a_parameters_file_that_is_not_there_is_named(launch: Callable[..., Run]) -> None:
    with pytest.raises(FileNotFoundError, match="params_file: there is no file '/none.yaml'"):
        launch("surround", params_file="/none.yaml")


def test_a_doubtful_yes_or_no_is_refused(launch: Callable[..., Run]) -> None:
    with pytest.raises(ValueError, match="use_sim_time must be true or false, not 'perhaps'"):
        launch("camera", use_sim_time="perhaps")


def test_replay_plays_records_and_ends(launch: Callable[..., Run]) -> None:
    pytest.importorskip("rosbags", reason="the player needs the extra 'replay'")
    from drive_seg.recordings import player, recorder

    run = launch(
        "replay",
        bag="drive.mcap",
        cameras="front,left",
        log_level="warn",
        rate="0.5",
        start="2",
        duration="7.5",
        loop="true",
        output="masks",
        record="/tf, */segmentation/label",
    )
    assert run.process("segmentation_node").parameters[1] == {"cameras": ["front", "left"], "use_sim_time": True}
    played = player.arguments().parse_args(run.process("player").arguments)
    assert (played.source, played.rate, played.start, played.duration) == ("drive.mcap", 0.5, 2.0, 7.5)
    assert (played.loop, played.clock, played.camera) == (True, True, "front")
    assert played.wait_for == ["/front/image_raw=1"]
    recorded = recorder.arguments().parse_args(run.process("recorder").arguments)
    assert recorded.topics == ["/tf", "*/segmentation/label"]
    assert recorded.output == Path("masks")
    assert {tuple(process.ros_arguments) for process in run.processes} == {("--log-level", "warn")}
    (handler,) = run.handlers
    assert [action.kind for timer in handler.on_exit for action in timer.actions] == ["Shutdown"]


@pytest.mark.parametrize("given", ["", "never"])
def test_the_node_of_a_replay_waits_for_its_runtime_unless_that_is_forbidden(
    launch: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.delenv("DRIVE_SEG_PREPARE")
    if given:
        monkeypatch.setenv("DRIVE_SEG_PREPARE", given)
    environment = launch("replay", bag="drive.mcap").process("segmentation_node").environment
    assert environment["DRIVE_SEG_PREPARE"] == (given or "wait")
    assert "DRIVE_SEG_PREPARE" not in launch("surround").process("segmentation_node").environment


def test_replay_plays_to_the_first_camera_of_the_users_file(launch: Callable[..., Run], tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("/**: {ros__parameters: {cameras: [rear, left]}}")
    command = launch("replay", bag="clip.mp4", params_file=str(mine)).process("player").arguments
    assert command[command.index("--camera") + 1] == "rear"


def test_replay_can_leave_out_the_recorder_and_the_clock(launch: Callable[..., Run]) -> None:
    run = launch("replay", bag="clip.mp4", use_sim_time="false")
    assert [process.executable for process in run.processes] == ["segmentation_node", "player"]
    assert "--clock" not in run.process("player").arguments
    assert run.process("segmentation_node").parameters[1] == {"use_sim_time": False}


def test_replay_can_use_ros2_bag_play(launch: Callable[..., Run]) -> None:
    run = launch("replay", bag="drive", player="rosbag2", duration="3", delay="4.0")
    command = run.process("ros2 bag play").arguments
    assert command[:5] == ["drive", "--clock", "100", "--delay", "4.0"]
    assert command[5:] == [
        *("--rate", "1.0", "--start-offset", "0.0", "--playback-duration", "3", "--disable-keyboard-controls")
    ]
    with pytest.raises(ValueError, match="player must be drive_seg or rosbag2, not 'mplayer'"):
        launch("replay", bag="drive", player="mplayer")


def test_replay_takes_what_to_play_under_either_name(launch: Callable[..., Run]) -> None:
    for given in ({"bag": "a"}, {"source": "a"}, {"bag": "a", "source": "a"}):
        assert launch("replay", **given).process("player").arguments[0] == "a"
    with pytest.raises(ValueError, match=r"bag:=\.\.\. is missing"):
        launch("replay")
    with pytest.raises(ValueError, match="two names, but say 'a' and 'b'"):
        launch("replay", bag="a", source="b")


def test_report_is_made_of_what_was_recorded(
    launch: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("rosbags", reason="the player needs the extra 'replay'")
    from drive_seg.recordings import player, recorder

    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    folder, more = str(tmp_path / "out"), "--require 'miou>=0.6' --topic /sensing/front/image"
    run = launch(
        "replay",
        bag="drive.mcap",
        cameras="front,left",
        image_topic="/sensing/{camera}/image",
        namespace="car",
        report=folder,
        score=more,
        rate="0.5",
        duration="9",
    )
    played = player.arguments().parse_args(run.process("player").arguments)
    assert played.wait_for == ["/sensing/front/image=2"] and played.clock
    recorded = recorder.arguments().parse_args(run.process("recorder").arguments)
    assert recorded.output == tmp_path / "out" / "recorded" and recorded.replay == "/sensing/front/image"
    names = ("label", "label_map", "debug/processing_time_ms")
    masks = [f"{camera}/segmentation/{name}" for camera in ("front", "left") for name in names]
    assert recorded.topics == [*masks, "/clock", "/diagnostics"]

    (handler,) = run.handlers
    run.is_shutdown = False

    def after(name: str, returncode: int = 0) -> Any:
        return handler.on_exit(SimpleNamespace(process_name=f"{name}-3", returncode=returncode), run)

    assert after("player") is None
    (score,) = after("recorder")
    command = [*score.made.executable.split(" ")[1:], *score.made.arguments]
    assert command[:5] == ["-P", "-m", "drive_seg.cli", "replay", "drive.mcap"]
    given = ["--recorded", f"{folder}/recorded", "-o", folder, "--rate", "0.5", "--start", "0.0", "--duration", "9"]
    assert command[5:] == [*given, "--require", "miou>=0.6", "--topic", "/sensing/front/image"]
    assert [action.kind for action in after("score")] == ["Shutdown"]
    for name, status in (("player", 1), ("recorder", 1), ("segmentation_node", 0)):
        assert [action.kind for action in after(name, status)] == ["TimerAction"]
    run.is_shutdown = True
    assert after("segmentation_node") is None


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"output": "out"}, "leave output:=... out"),
        ({"loop": "true"}, "leave loop:=true out"),
        ({}, "holds the recording of an earlier run"),
    ],
)
def test_report_that_cannot_be_made_is_refused(
    launch: Callable[..., Run], tmp_path: Path, more: dict[str, str], sentence: str
) -> None:
    (tmp_path / "recorded").mkdir()
    with pytest.raises(ValueError, match=sentence):
        launch("replay", bag="synth:", report=str(tmp_path), **more)


def test_closing_rviz_does_not_end_a_replay(launch: Callable[..., Run]) -> None:
    (handler,) = launch("replay", bag="synth:").handlers
    assert not handler.target_action(SimpleNamespace(node_package="rviz2"))
    assert handler.target_action(SimpleNamespace(node_package="drive_seg"))
    assert handler.target_action(SimpleNamespace())


@pytest.mark.parametrize("name", WITH_A_NODE)
def test_viewers_come_when_asked_for(launch: Callable[..., Run], viewers: None, log_folder: Path, name: str) -> None:
    arguments = {"bag": "synth:", "camera" if name == "camera" else "cameras": "rear", "namespace": "car"}
    without = launch(name, **arguments)
    run = launch(name, **arguments, rviz="true", foxglove="True", foxglove_port="9000", use_sim_time="true")
    assert [p.package for p in run.processes if p.package != "drive_seg"] == ["rviz2", "foxglove_bridge"]
    assert {p.package for p in without.processes} == {"drive_seg"}
    assert run.process("foxglove_bridge").parameters == [{"port": 9000, "use_sim_time": True}]
    assert run.process("rviz2").parameters == [{"use_sim_time": True}]
    (option, config) = run.process("rviz2").arguments
    assert option == "--display-config"
    assert "/car/rear/segmentation/overlay" in Path(config).read_text()
    (message,) = run.messages
    layout = log_folder / "drive_seg_foxglove.json"
    assert str(layout) in message
    assert "/car/rear/segmentation/overlay" in layout.read_text()


@pytest.mark.parametrize("name", VIEWERS)
def test_a_viewer_that_is_not_installed_is_named(
    launch: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{name}:=true needs the package {VIEWERS[name]}.*apt install"):
        launch("camera", **{name: "true"})


@pytest.mark.parametrize("name", WITH_A_NODE)
@pytest.mark.parametrize(
    "wrong",
    [
        {"rviz": "perhaps"},
        {"foxglove_port": "http", "foxglove": "true"},
        {"log_level": "loud"},
        {"transport": "pigeon"},
        {"params_file": "/none.yaml"},
        {"use_sim_time": "perhaps"},
        {"respawn": "perhaps"},
    ],
    ids=str,
)
def test_what_is_refused_is_refused_before_a_process_is_started(
    launch: Callable[..., Run], viewers: None, monkeypatch: pytest.MonkeyPatch, name: str, wrong: dict[str, str]
) -> None:
    monkeypatch.setattr(Node, "execute", lambda *_: pytest.fail("a process was started"))
    with pytest.raises((ValueError, FileNotFoundError), match=next(iter(wrong))):
        launch(name, bag="synth:", **wrong)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"loop": "maybe"}, "loop must be true or false, not 'maybe'"),
        ({"rate": "0"}, "rate must be a number, above 0, not '0'"),
        ({"start": "-1"}, "start must be a number, 0 or more, not '-1'"),
        ({"duration": "long"}, "duration must be a number, above 0, not 'long'"),
        ({"delay": "nan"}, "delay must be a number, 0 or more, not 'nan'"),
        ({"score": "--require 'miou"}, "No closing quotation"),
        ({"output": "THERE"}, "output: .*there exists already; choose another name or remove it"),
        ({"output": "KILLED"}, "output: .*killed.partial exists already"),
        ({"bag": "none.mcap"}, "none.mcap cannot be played: none.mcap does not exist."),
    ],
    ids=str,
)
def test_replay_checks_everything_before_a_process_is_started(
    launch: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: dict[str, str], sentence: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "killed.partial").mkdir()
    missing = SimpleNamespace(returncode=1, stdout="", stderr="a warning\nnone.mcap does not exist.\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: missing)
    monkeypatch.setattr(Node, "execute", lambda *_: pytest.fail("a process was started"))
    wrong = {key: str(tmp_path / text.lower()) if text.isupper() else text for key, text in wrong.items()}
    with pytest.raises(ValueError, match=sentence):
        launch("replay", **{"bag": "synth:", **wrong})


def test_replay_listens_to_what_the_bag_has(launch: Callable[..., Run], bag_topics: dict) -> None:
    bag_topics["drive"] = {"/rear/image/compressed": "compressed", "/roof/image": "raw"}
    run = launch("replay", bag="drive", record="/tf", output="out")
    given = run.process("segmentation_node").parameters[1]
    assert given["camera.image_topic"] == "/rear/image" and given["camera.transport"] == "compressed"
    command = run.process("player").arguments
    assert command[command.index("--wait-for") + 1] == "/rear/image/compressed=1"
    assert run.messages == [
        "drive has no /camera/image_raw: taking /rear/image/compressed, leaving out /roof/image "
        "(image_topic:=... names another)"
    ]
    named = launch("replay", bag="drive", image_topic="/roof/image")
    assert named.process("segmentation_node").parameters[1]["camera.image_topic"] == "/roof/image"
    assert named.messages == []
    for more in ({"image_topic": "/front/image"}, {"cameras": "front,rear"}):
        with pytest.raises(
            ValueError, match="drive has no images on /front/image.*; it has /rear/image/compressed, /ro"
        ):
            launch("replay", bag="drive", **more)


def test_replay_finds_out_that_the_images_are_compressed(launch: Callable[..., Run], bag_topics: dict) -> None:
    bag_topics["drive"] = {f"/{name}/image_raw/compressed": "compressed" for name in ("front", "left")}
    run = launch("replay", bag="drive", cameras="front,left")
    given = run.process("segmentation_node").parameters[1]
    assert (given["front.transport"], given["left.transport"]) == ("compressed", "compressed")
    assert run.messages == ["drive has /front/image_raw, /left/image_raw compressed: transport:=compressed"]
    with pytest.raises(ValueError, match="drive has no images on /front/image_raw, /left/image_raw; it has"):
        launch("replay", bag="drive", cameras="front,left", transport="raw")
    with pytest.raises(ValueError, match="drive has no images on /camera/image_raw; it has"):
        launch("replay", bag="drive", transport="raw")


@pytest.mark.parametrize("name", FILES)
def test_misspelt_arguments_are_refused_where_the_file_is_launched_itself(
    launch: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    given = {"bag": "synth:", "rviz": "false"} if name == "replay" else {"rviz": "false"}
    launch(name, modle="x", **given)  # included by a file that has this argument
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "drive_seg", f"{name}.launch.py"])
    wrong, meant = ("camras", "cameras") if name in ("view", "surround") else ("modle", "model")
    with pytest.raises(ValueError, match=rf"{name}.launch.py has no argument {wrong}:=; is {meant}:= meant\? \(--show"):
        launch(name, **{wrong: "x"}, **given)
    launch(name, **given)


def test_camera_launch_is_for_one_camera(launch: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="is for one camera; surround.launch.py cameras:=front,left is for several"):
        launch("camera", camera="front,left")
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "drive_seg", "camera.launch.py"])
    with pytest.raises(ValueError, match=r"camera.launch.py has no argument cameras:=; is camera:= meant\?"):
        launch("camera", cameras="front,left")


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_is_none_is_refused(launch: Callable[..., Run], viewers: None, port: str) -> None:
    with pytest.raises(ValueError, match=f"foxglove_port must be 1 to 65535, not '{port}'"):
        launch("camera", foxglove="true", foxglove_port=port)


@pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="needs ROS 2's launch and launch_ros, which pip does not have",
)
@pytest.mark.parametrize("name", WITH_A_NODE)
def test_the_real_launch_runs_the_file(
    checkout: Path, ros_domain_id: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    from launch import LaunchDescription, LaunchService
    from launch.actions import IncludeLaunchDescription, RegisterEventHandler, Shutdown
    from launch.event_handlers import OnProcessIO
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    prefixes = os.environ.get("AMENT_PREFIX_PATH", "")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{sys.prefix}:{prefixes}")
    lines: list[str] = []

    def collect(event: Any) -> Any:
        lines.extend(event.text.decode().splitlines())
        return Shutdown() if any("active: awaiting" in line for line in lines) and name != "replay" else None

    model = tmp_path / "untrained.safetensors"
    contract = checkpoint.Contract("dsnet", {}, CITYSCAPES19, checkpoint.InputSpec((48, 64)))
    checkpoint.save(model, networks.build("dsnet", 19), contract)
    arguments = {
        "model": str(model),
        "bag": "synth:seed=1,frames=3,size=64x48",
        "output": str(tmp_path / "masks"),
        "camera" if name == "camera" else "cameras": "front",
    }
    service = LaunchService()
    source = PythonLaunchDescriptionSource(str(checkout / "launch" / f"{name}.launch.py"))
    service.include_launch_description(
        LaunchDescription(
            [
                RegisterEventHandler(OnProcessIO(on_stdout=collect, on_stderr=collect)),
                IncludeLaunchDescription(source, launch_arguments=arguments.items()),
            ]
        )
    )
    assert service.run() == 0
    assert any("active: awaiting /front/image_raw" in line for line in lines), lines
    if name == "replay":
        assert (tmp_path / "masks" / "metadata.yaml").is_file(), lines
