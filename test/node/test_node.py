"""The node inside the test's process: what it leaves behind, what it says of its topics, what it loads."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from drive_seg.node.awaited import describe_publishers
from drive_seg.node.segmentation_node import FAILURE, SUCCESS, SegmentationNode


@pytest.fixture
def make_node(ros_context: Context, model_file: Path) -> Iterator[Callable[..., SegmentationNode]]:
    made = []

    def make(**given: Any) -> SegmentationNode:
        given = {"model": str(model_file), "device": "cpu", **given}
        overrides = [Parameter(name, value=value) for name, value in given.items()]
        made.append(SegmentationNode(context=ros_context, parameter_overrides=overrides, use_global_arguments=False))
        return made[-1]

    yield make
    for node in made:
        node.trigger_shutdown()
        node.destroy_node()


def test_activating_again_and_again_leaves_nothing_behind(make_node: Callable[..., SegmentationNode]) -> None:
    node = make_node(cameras=["front", "rear"])

    def belongings() -> tuple[int, ...]:
        mine = [thread for thread in threading.enumerate() if thread.name == "drive_seg worker"]
        return tuple(len(list(part)) for part in (node.subscriptions, node.publishers, node.waitables, mine))

    unconfigured = belongings()
    for _ in range(2):
        assert node.trigger_configure() == SUCCESS
        inactive = belongings()
        for _ in range(2):
            assert node.trigger_activate() == SUCCESS
            assert belongings()[0] == inactive[0] + 2
            assert belongings()[3] == 1
            assert node.trigger_deactivate() == SUCCESS
            assert belongings() == inactive
        assert node.trigger_cleanup() == SUCCESS
        assert belongings() == unconfigured


def test_an_unexpected_error_leads_back_to_unconfigured(
    make_node: Callable[..., SegmentationNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node()
    with monkeypatch.context() as patch:
        patch.setattr(node.cameras[0], "on_configure", lambda state: 1 / 0)
        assert node.trigger_configure() not in (SUCCESS, FAILURE)
    assert node._state_machine.current_state[1] == "unconfigured"
    assert node.autostart(), "and from there it can start"


def test_qos_overrides_are_honoured(make_node: Callable[..., SegmentationNode]) -> None:
    override = "qos_overrides./camera/image_raw.subscription.reliability"
    other = "qos_overrides./camera/segmentation/label.publisher.depth"
    node = make_node(**{override: "reliable", other: 3})
    assert node.autostart()
    assert node.cameras[0]._subscription.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    depths = {p.topic_name: p.qos_profile.depth for p in node.publishers}
    assert depths["/camera/segmentation/label"] == 3
    assert depths["/camera/segmentation/color"] == 1


@pytest.fixture
def driver(ros_context: Context) -> Iterator[Node]:
    """A node that both publishes and awaits images."""
    node = rclpy.create_node("driver", context=ros_context, namespace="/cams")
    yield node
    node.destroy_node()


def described(node: Node, reliability: ReliabilityPolicy, publishers: int) -> str:
    """What is said of the awaited topic once the graph shows that many publishers."""
    qos = QoSProfile(depth=1, reliability=reliability)
    subscription = node.create_subscription(Image, "awaited", lambda message: None, qos)
    end = time.monotonic() + 120.0
    while True:
        infos = node.get_publishers_info_by_topic("awaited")
        if len(infos) == publishers and not any("UNKNOWN" in info.node_name for info in infos):
            break
        assert time.monotonic() < end, "publishers do not show up in the graph"
        time.sleep(0.02)
    return describe_publishers(node, "front", subscription)


def test_an_awaited_topic_that_nobody_publishes(driver: Node) -> None:
    driver.create_publisher(Image, "elsewhere", 1)
    assert described(driver, ReliabilityPolicy.BEST_EFFORT, 0) == (
        "awaiting /cams/awaited (sensor_msgs/msg/Image, best effort, volatile, keep last 1), "
        "which nobody publishes; images are published on /cams/elsewhere"
    )


def test_an_awaited_topic_that_is_published_best_effort_while_reliable_is_asked(driver: Node) -> None:
    driver.create_publisher(Image, "awaited", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    text = described(driver, ReliabilityPolicy.RELIABLE, 1)
    assert "published by /cams/driver (sensor_msgs/msg/Image, best effort, volatile" in text
    assert text.endswith("whose QoS does not match: set input_reliability to best_effort")


def test_an_awaited_topic_that_is_published_as_another_type(ros_domain_id: int, driver: Node) -> None:
    # A participant of its own: Fast DDS refuses two types for one topic within one.
    context = Context()
    rclpy.init(context=context, domain_id=ros_domain_id)
    stranger = rclpy.create_node("zipper", context=context)
    try:
        stranger.create_publisher(CompressedImage, "/cams/awaited", 1)
        text = described(driver, ReliabilityPolicy.BEST_EFFORT, 1)
    finally:
        stranger.destroy_node()
        rclpy.shutdown(context=context)
    assert "published by /zipper (sensor_msgs/msg/CompressedImage, reliable, volatile" in text
    assert text.endswith("but as another type: set front.transport to compressed")


def test_an_awaited_topic_with_a_publisher_that_fits(driver: Node) -> None:
    driver.create_publisher(Image, "awaited", 1)
    text = described(driver, ReliabilityPolicy.BEST_EFFORT, 1)
    assert "published by /cams/driver (sensor_msgs/msg/Image, reliable, volatile" in text
    assert "whose type and QoS match: if it sends images, they may be too large for its transport (start" in text


def test_advice_on_large_images_is_for_the_middleware_that_runs(driver: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drive_seg.node.awaited.get_rmw_implementation_identifier", lambda: "rmw_zenoh_cpp")
    driver.create_publisher(Image, "awaited", 1)
    text = described(driver, ReliabilityPolicy.BEST_EFFORT, 1)
    assert text.endswith("they may be too large for its transport (for rmw_zenoh_cpp see docs/distros.md)")


def test_a_camera_that_can_never_be_heard_is_an_error_in_the_log(
    make_node: Callable[..., SegmentationNode], driver: Node, capfd: pytest.CaptureFixture
) -> None:
    node = make_node(input_reliability="reliable")
    assert node.autostart()
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    driver.create_publisher(Image, "/camera/image_raw", best_effort)
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    log, end = "", time.monotonic() + 120.0
    while "whose QoS does not match: set input_reliability to best_effort" not in log:
        assert time.monotonic() < end, log
        executor.spin_once(timeout_sec=0.1)
        log += capfd.readouterr().err
    executor.shutdown()
    assert "[ERROR]" in log
    assert "camera 'camera': awaiting /camera/image_raw (sensor_msgs/msg/Image, reliable, volatile" in log


def test_importing_the_node_brings_nothing_it_does_not_need() -> None:
    code = "import sys, drive_seg.node.segmentation_node; print(*{name.partition('.')[0] for name in sys.modules})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    loaded = set(answer.stdout.split())
    assert "rclpy" in loaded
    unwanted = {"lightning", "matplotlib", "rosbags", "typer", "rich", "tensorboard", "torchmetrics", "torch"}
    assert loaded & unwanted == set()


def test_node_player_and_recorder_need_no_module_of_rclpy_that_moved_or_is_private() -> None:
    """rclpy 10 (Lyrical) has ``rclpy.endpoint_info`` in place of ``rclpy.topic_endpoint_info``."""
    code = """if True:
        import sys, rclpy.event_handler, rclpy.executors, rclpy.lifecycle, rclpy.serialization
        private = [name for name in sys.modules if name.startswith(("rclpy.impl", "rclpy._"))]
        assert "rclpy.impl.implementation_singleton" in private
        sys.modules |= dict.fromkeys(["rclpy.topic_endpoint_info", *private])
        import drive_seg.node.segmentation_node, drive_seg.node.worker
    """
    if find_spec("rosbags"):  # not on a vehicle
        code += "    import drive_seg.recordings.player, drive_seg.recordings.recorder\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
