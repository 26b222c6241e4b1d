"""A recording through the node: ``ros2 launch drive_seg replay.launch.py bag:=drive.mcap output:=masks``.

Starts a player, the node as surround.launch.py starts it (whose arguments are taken here too) and a recorder, on the
clock of the recording; ends when the first of them does. RViz, which may be there too, does not count.

With ``report:=DIR`` what the node published is judged when the recording is over, as by ``drive-seg replay``, whose
options go into ``score:="--truth labels --require miou>=0.6"``.
"""

import json
import os
import runpy
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteLocal,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

# Time for the node to finish the last frames and for the recorder to hear them.
LAST_FRAMES_S = 3.0

# Their windows may be closed, or fail to open, without an end to the replay.
VIEWERS = ("rviz2", "foxglove_bridge")
PREPARE = "DRIVE_SEG_PREPARE"
PLAYERS = ("drive_seg", "rosbag2")

ARGUMENTS = (
    (
        "bag",
        "",
        "What to play: rosbag2 (folder, .mcap, .db3), rosbag1 (.bag), video, folder of images, or "
        "synth:seed=0,frames=100. Must be given",
    ),
    ("source", "", "An older name of the argument bag"),
    ("player", "drive_seg", "drive_seg: our player; rosbag2: ros2 bag play, for bags alone"),
    ("rate", "1.0", "Speed, times real time"),
    ("start", "0.0", "Seconds into the recording at which to begin"),
    ("duration", "", "Seconds of the recording to play. Empty: to its end"),
    ("loop", "false", "true: play again and again"),
    ("delay", "15.0", "Seconds that ros2 bag play gives the node to load; our player waits for the node by itself"),
    ("output", "", "Folder of the bag that is recorded; it must not exist. Empty: record nothing"),
    (
        "record",
        "*/segmentation/label,*/segmentation/label_map",
        "Topics to record, with commas between them; * and ? stand for other characters",
    ),
    (
        "report",
        "",
        "Folder for a report on what the node published; the recording goes there too, as recorded. Empty: no report",
    ),
    ("score", "", "More options of drive-seg replay for the report: --truth, --against, --require, --topic, ..."),
)
# What a report needs of each camera.
JUDGED = ("label", "label_map", "debug/processing_time_ms")

SURROUND = runpy.run_path(str(Path(__file__).absolute().with_name("surround.launch.py")))
VIEW = SURROUND["VIEW"]
truth = SURROUND["truth"]


def generate_launch_description() -> LaunchDescription:
    """The arguments, the DDS profile that the player's images need too, and all that is started."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in ARGUMENTS
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="true",
                description="true: the node's clock is /clock, the time of the recording",
            ),
            *SURROUND["arguments"](),
            *SURROUND["large_image_profile"](),
            # One runtime labels all frames: the node waits for it to be prepared.
            SetEnvironmentVariable(PREPARE, os.environ.get(PREPARE, "wait")),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[Any]:
    """The end, the node, the recorder and the player, all made before the first is started."""
    VIEW["refuse_unknown"](context, __file__, (*SURROUND["NAMES"], *(name for name, _, _ in ARGUMENTS)))
    check_arguments(context)
    told = take_topic_of_bag(context)
    played = player_and_recorder(context)
    return [*told, *end_of_the_replay(context), *SURROUND["start"](context), *played]


def check_arguments(context: LaunchContext) -> None:
    """ValueError if it is not clear what to play, or by what, or where it is to be recorded."""

    def given(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    what_to_play(given("bag"), given("source"))
    player = given("player")
    if player not in PLAYERS:
        raise ValueError(f"player must be {' or '.join(PLAYERS)}, not '{player}'")
    for name, least in (("rate", "above 0"), ("start", "0 or more"), ("duration", "above 0"), ("delay", "0 or more")):
        if given(name) and not is_number(given(name), least):
            raise ValueError(f"{name} must be a number, {least}, not '{given(name)}'")
    loops = truth("loop", given("loop"))
    shlex.split(given("score"))
    if given("output") and not given("report"):
        refuse_existing("output", Path(given("output")))
    if not given("report"):
        return
    if given("output"):
        raise ValueError("report:=... records into its own folder: leave output:=... out")
    if loops:
        raise ValueError("a report is of one round: leave loop:=true out")
    recorded = Path(given("report")) / "recorded"
    if recorded.exists() or recorded.with_name("recorded.partial").exists():
        raise ValueError(f"report: {given('report')} holds the recording of an earlier run; name another folder")


def is_number(text: str, least: str) -> bool:
    """Whether a text is a finite number that is 0 or more, or above 0."""
    try:
        value = float(text)
    except ValueError:
        return False
    return 0 <= value < float("inf") and (value > 0 or least != "above 0")


def refuse_existing(name: str, folder: Path) -> None:
    """ValueError for a bag that is there already, or what a killed recording left of it."""
    for path in (folder, folder.with_name(f"{folder.name}.partial")):
        if path.exists():
            raise ValueError(f"{name}: {path} exists already; choose another name or remove it")


def take_topic_of_bag(context: LaunchContext) -> list[LogInfo]:
    """Let the node listen to what a bag has, where its topic is not named, and say so.

    ValueError if the recording cannot be played, or has no images on the topics that are named.
    """
    given = {name: LaunchConfiguration(name).perform(context) for name in (*SURROUND["NAMES"], "start", "duration")}
    bag = what_to_play(*(LaunchConfiguration(name).perform(context) for name in ("bag", "source")))
    transports = played_cameras(bag, given["start"], given["duration"])
    if transports is None:  # the player publishes a video under the node's name of it
        return []
    played = {VIEW["absolute"](topic, given["namespace"]): kind for topic, kind in transports.items()}
    wanted = VIEW["image_topics"](given)
    missing = [topic for topic in wanted.values() if topic not in played]
    if not missing:
        return []
    parameters = VIEW["parameters_of"](given["params_file"])
    is_named = given["image_topic"] or any(parameters.get(f"{camera}.image_topic") for camera in wanted)
    transport = given["transport"] or next(filter(None, (parameters.get(f"{c}.transport") for c in wanted)), "")
    if not transport and all(f"{topic}/compressed" in played for topic in missing) and len(missing) == len(wanted):
        context.launch_configurations["transport"] = "compressed"
        return [LogInfo(msg=f"{bag} has {', '.join(missing)} compressed: transport:=compressed")]
    choices = [
        topic
        for topic, kind in played.items()
        if kind == (transport or kind) and (kind == "raw" or topic.endswith("/compressed"))
    ]
    if is_named or len(wanted) > 1 or not choices:
        raise ValueError(f"{bag} has no images on {', '.join(missing)}; it has {', '.join(played)} (see image_topic:=)")
    chosen = choices[0]
    context.launch_configurations["image_topic"] = chosen.removesuffix("/compressed")
    context.launch_configurations["transport"] = played[chosen]
    left = ", ".join(topic for topic in played if topic != chosen)
    others = f", leaving out {left} (image_topic:=... names another)" if left else ""
    return [LogInfo(msg=f"{bag} has no {missing[0]}: taking {chosen}{others}")]


def played_cameras(bag: str, start: str, duration: str) -> dict[str, str] | None:
    """Image topics of a bag and their transports; None for other sources. ValueError if it cannot be played."""
    if bag.startswith("synth:"):
        return None
    part = ["--start", start, *(["--duration", duration] if duration else [])]
    asked = subprocess.run(
        [python(), "-P", "-m", "drive_seg.recordings.playable", bag, *part], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        lines = asked.stderr.strip().splitlines() or [f"it ended with status {asked.returncode}"]
        raise ValueError(f"{bag} cannot be played: {lines[-1]}")
    return json.loads(asked.stdout)


def python() -> str:
    """The Python that this package is installed in, which need not be that of ``ros2 launch``."""
    try:
        found = Path(get_package_prefix("drive_seg")) / "bin" / "python3"
    except (PackageNotFoundError, OSError):  # OSError: AMENT_PREFIX_PATH is not set
        return "python3"
    return str(found) if found.is_file() else "python3"


def end_of_the_replay(context: LaunchContext) -> list[RegisterEventHandler]:
    """What follows on the end of a process: the end of all, or the report."""
    end = [TimerAction(period=LAST_FRAMES_S, actions=[Shutdown(reason="the replay is over")])]
    if not LaunchConfiguration("report").perform(context):
        first_exit = OnProcessExit(target_action=is_part_of_the_replay, on_exit=end, handle_once=True)
        return [RegisterEventHandler(first_exit)]
    return [RegisterEventHandler(OnProcessExit(target_action=is_part_of_the_replay, on_exit=next_step(end)))]


def next_step(end: list[TimerAction]) -> Callable[[Any, LaunchContext], list | None]:
    """After the player the recorder ends by itself, after it the report is made; any other end ends all."""

    def follow(event: Any, context: LaunchContext) -> list | None:
        name = event.process_name.rpartition("-")[0]
        if context.is_shutdown or (name == "player" and event.returncode == 0):
            return None
        if name == "recorder" and event.returncode == 0:
            return [scoring(context)]
        return [Shutdown(reason="the report is made")] if name == "score" else end

    return follow


def scoring(context: LaunchContext) -> ExecuteProcess:
    """The process that makes the report."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    part = ["--duration", given["duration"]] if given["duration"] else []
    return ExecuteProcess(
        cmd=[
            *(python(), "-P", "-m", "drive_seg.cli", "replay"),
            *(what_to_play(given["bag"], given["source"]), "--recorded", str(Path(given["report"]) / "recorded")),
            *("-o", given["report"], "--rate", given["rate"], "--start", given["start"], *part),
            *shlex.split(given["score"]),
        ],
        name="score",
        output="screen",
    )


def is_part_of_the_replay(process: ExecuteLocal) -> bool:
    """Whether the replay is over when this process ends."""
    return getattr(process, "node_package", None) not in VIEWERS


def player_and_recorder(context: LaunchContext) -> list[ExecuteProcess]:
    """What plays and what records, as the arguments say."""

    def given(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    bag = what_to_play(given("bag"), given("source"))
    log_level = ["--log-level", given("log_level")]
    # Named by the argument or by the parameters file; what is no bag is played as the first one's images.
    names = ("cameras", "image_topic", "transport", "params_file", "namespace")
    images = VIEW["image_topics"]({name: given(name) for name in names})
    camera, image = next(iter(images.items()))
    actions = []
    topics = [topic.strip() for topic in given("record").split(",") if topic.strip()]
    recording = ["--output", given("output"), "--topics", *topics]
    if given("report"):
        judged = [f"{name}/segmentation/{topic}" for name in images for topic in JUDGED]
        recorded = str(Path(given("report")) / "recorded")
        # It listens to the image once it hears all others, which the player waits for, and ends after the last frame.
        recording = ["--output", recorded, "--topics", *judged, "/clock", "/diagnostics", "--replay", image]
    if given("output") or given("report"):
        actions.append(
            Node(
                package="drive_seg",
                executable="recorder",
                namespace=given("namespace"),
                arguments=recording,
                ros_arguments=log_level,
                output="screen",
            )
        )
    loop = ["--loop"] if truth("loop", given("loop")) else []
    if given("player") == "drive_seg":
        duration = ["--duration", given("duration")] if given("duration") else []
        clock = ["--clock"] if truth("use_sim_time", given("use_sim_time")) else []
        transport = ["--compressed"] if given("transport") == "compressed" else []
        actions.append(
            Node(
                package="drive_seg",
                executable="player",
                namespace=given("namespace"),
                arguments=[
                    *(bag, "--camera", camera, "--wait-for", f"{image}={2 if given('report') else 1}"),
                    *("--rate", given("rate"), "--start", given("start")),
                    *(*duration, *loop, *clock, *transport),
                ],
                ros_arguments=log_level,
                output="screen",
            )
        )
    else:
        duration = ["--playback-duration", given("duration")] if given("duration") else []
        actions.append(
            ExecuteProcess(
                cmd=[
                    *("ros2", "bag", "play", bag, "--clock", "100", "--delay", given("delay")),
                    *("--rate", given("rate"), "--start-offset", given("start"), *duration, *loop),
                    "--disable-keyboard-controls",
                ],
                name="player",
                output="screen",
            )
        )
    return actions


def what_to_play(bag: str, source: str) -> str:
    """The one that is given; ValueError if none is, or two that differ."""
    if not (bag or source):
        raise ValueError("bag:=... is missing: what to play, a rosbag, a video, a folder of images, or synth:")
    if bag and source and bag != source:
        raise ValueError(f"bag and source are one argument under two names, but say '{bag}' and '{source}'")
    return bag or source
