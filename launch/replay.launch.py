"""A recording through the node: ``ros2 launch drive_seg replay.launch.py source:=drive.mcap output:=masks``.

Starts a player, the node as surround.launch.py starts it (whose arguments are taken here too) and a recorder, on the
clock of the recording; ends when the first of them does.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

# Time for the node to finish the last frames and for the recorder to hear them.
LAST_FRAMES_S = 3.0

ARGUMENTS = (
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
)


def generate_launch_description() -> LaunchDescription:
    """The arguments, the node, then the player and the recorder, and the end."""
    surround = Path(__file__).absolute().with_name("surround.launch.py")
    first_exit = OnProcessExit(
        on_exit=[TimerAction(period=LAST_FRAMES_S, actions=[Shutdown(reason="the replay is over")])],
        handle_once=True,
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "source",
                description="What to play: rosbag2 (folder, .mcap, .db3), rosbag1 (.bag), video, folder of images, "
                "or synth:seed=0,frames=100",
            ),
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in ARGUMENTS
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="true",
                description="true: the node's clock is /clock, the time of the recording",
            ),
            RegisterEventHandler(first_exit),
            # Sets the DDS profile too, which the player needs for its images.
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(surround))),
            OpaqueFunction(function=player_and_recorder),
        ]
    )


def player_and_recorder(context: LaunchContext) -> list[ExecuteProcess]:
    """What plays and what records, as the arguments say."""

    def given(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    cameras = [name.strip() for name in given("cameras").split(",") if name.strip()] or ["camera"]
    actions = []
    if given("output"):
        topics = [topic.strip() for topic in given("record").split(",") if topic.strip()]
        actions.append(
            Node(
                package="drive_seg",
                executable="recorder",
                namespace=given("namespace"),
                arguments=["--output", given("output"), "--topics", *topics],
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
                    *(given("source"), "--camera", cameras[0], "--wait-for", "1"),
                    *("--rate", given("rate"), "--start", given("start")),
                    *(*duration, *loop, *clock, *transport),
                ],
                output="screen",
            )
        )
    elif given("player") == "rosbag2":
        duration = ["--playback-duration", given("duration")] if given("duration") else []
        actions.append(
            ExecuteProcess(
                cmd=[
                    *("ros2", "bag", "play", given("source"), "--clock", "100", "--delay", given("delay")),
                    *("--rate", given("rate"), "--start-offset", given("start"), *duration, *loop),
                    "--disable-keyboard-controls",
                ],
                output="screen",
            )
        )
    else:
        raise ValueError(f"player must be drive_seg or rosbag2, not '{given('player')}'")
    return actions


def truth(name: str, text: str) -> bool:
    """The value of a yes-or-no argument; ValueError if it is neither."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{name} must be true or false, not '{text}'")
    return text.lower() == "true"
