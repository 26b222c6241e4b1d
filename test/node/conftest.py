"""What the node's tests share: a small checkpoint, the node as a process, and a peer that talks to it over DDS."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.images.messages import to_image
from drive_seg.labels import CITYSCAPES19
from drive_seg.segmenter import Segmenter

NODE = "segmentation_node"
DEADLINE_S = 120.0


def wait_until(done: Callable[[], Any], what: str, pause: Callable[[], None] = lambda: time.sleep(0.02)) -> None:
    """Return once ``done`` is true; fail after the deadline."""
    end = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < end, f"no {what} within {DEADLINE_S:.0f} s"
        pause()


def values_of(status: DiagnosticStatus | None) -> dict[str, str]:
    return {value.key: value.value for value in status.values} if status else {}


class NodeProcess:
    """``python -m drive_seg.node.segmentation_node``, or a program around it, its log in a file."""

    def __init__(
        self, folder: Path, domain: int, *arguments: str, program: Sequence[str] = ("-m", f"drive_seg.node.{NODE}")
    ) -> None:
        self.log_file = folder / "node.log"
        with open(self.log_file, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-u", *program, "--ros-args", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1"},
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def wait_for_log(self, text: str) -> str:
        """The log, once it holds the text; fails if the process ends without."""

        def said() -> bool:
            assert text in self.log or self.process.poll() is None, self.log
            return text in self.log

        wait_until(said, f"'{text}' in the log")
        return self.log

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(DEADLINE_S)

    def stop(self, number: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()


class Peer:
    """The other side of the DDS: publishes images, listens to masks and diagnostics, drives the lifecycle."""

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("peer", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self.diagnostics: list[DiagnosticArray] = []
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 1)

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def spin_until(self, done: Callable[[], Any], what: str) -> None:
        wait_until(done, what, pause=lambda: self._executor.spin_once(timeout_sec=0.05))

    def spin_once(self) -> None:
        self._executor.spin_once(timeout_sec=0.005)

    def listen(self, topic: str, kind: type = Image, qos: QoSProfile | int = 10) -> list:
        """The messages of a topic, as they come; returns once its publisher has been found."""
        messages: list = []
        subscription = self.node.create_subscription(kind, topic, messages.append, qos)
        self.spin_until(lambda: subscription.get_publisher_count() > 0, f"publisher of {topic}")
        return messages

    def deaf(self) -> None:
        """Stop listening to everything but the diagnostics."""
        for subscription in list(self.node.subscriptions):
            if subscription.msg_type is not DiagnosticArray:
                self.node.destroy_subscription(subscription)

    def publisher(self, topic: str, kind: type = Image) -> Publisher:
        """A publisher that the node already listens to."""
        publisher = self.node.create_publisher(kind, topic, 1)
        self.spin_until(lambda: publisher.get_subscription_count() > 0, f"listener on {topic}")
        return publisher

    def header(self, frame_id: str = "front_optical") -> Header:
        return Header(stamp=self.node.get_clock().now().to_msg(), frame_id=frame_id)

    def send(self, publisher: Publisher, image: np.ndarray, header: Header | None = None) -> Header:
        header = header or self.header()
        publisher.publish(to_image(image, header, "bgr8"))
        return header

    def insist(
        self, publisher: Publisher, message: Image | CompressedImage, done: Callable[[], Any], what: str
    ) -> None:
        """Publish until it has worked: a best-effort image may be lost on the way."""
        sent_at = float("-inf")

        def send_again() -> None:
            nonlocal sent_at
            if time.monotonic() - sent_at > 1.0:
                sent_at = time.monotonic()
                publisher.publish(message)
            self._executor.spin_once(timeout_sec=0.05)

        wait_until(done, what, pause=send_again)

    def answer(self, publisher: Publisher, message: Image | CompressedImage, masks: list) -> Any:
        """Publish the image and wait among the masks for the one with its stamp."""

        def came() -> list:
            return [mask for mask in masks if mask.header.stamp == message.header.stamp]

        self.insist(publisher, message, came, "mask")
        return came()[0]

    # Diagnostics

    def status(self, camera: str = "camera") -> DiagnosticStatus | None:
        """The latest status of a camera."""
        for array in reversed(self.diagnostics):
            for status in array.status:
                if status.name.startswith("drive_seg: ") and status.name.endswith(f"/{NODE}: {camera}"):
                    return status
        return None

    def values(self, camera: str = "camera") -> dict[str, str]:
        return values_of(self.status(camera))

    def status_under(
        self, publisher: Publisher, message: Image, done: Callable[[DiagnosticStatus], bool]
    ) -> DiagnosticStatus:
        """The first status to be so while the image is published again and again."""
        self.forget_diagnostics()
        found: list[DiagnosticStatus] = []

        def seen() -> bool:
            if (status := self.status()) and done(status):
                found.append(status)
            return bool(found)

        self.insist(publisher, message, seen, "such status")
        return found[0]

    def wait_for_values(self, what: str, camera: str = "camera", **wanted: str) -> dict[str, str]:
        """The values of the first status from now on that has the wanted ones among them."""
        self.forget_diagnostics()
        self.spin_until(lambda: self.values(camera).items() >= wanted.items(), f"{what} ({wanted})")
        return self.values(camera)

    def forget_diagnostics(self) -> None:
        """Also what has come and was not looked at yet."""
        for _ in range(20):  # more than can wait: each listener's queue is short, and there are few
            self._executor.spin_once(timeout_sec=0)
        self.diagnostics.clear()

    def settled(self, camera: str = "camera") -> dict[str, str]:
        """The values once nothing is in flight; checks that the ledger adds up."""
        values = self.wait_for_values("settled ledger", camera, in_flight="0")
        fates = ("published", "dropped", "expired", "rejected", "failed", "withheld")
        assert int(values["received"]) == sum(int(values[fate]) for fate in fates), values
        return values

    # Lifecycle and parameters

    def ask(self, kind: type, service: str, *requests: Any) -> Any:
        """The answer to the last of the requests, asked one after the other of one service.

        A request is sent again when no answer comes: the first one of a client can be lost, because the service may
        know the way to this client later than the client the way to the service.
        """
        client = self.node.create_client(kind, f"{NODE}/{service}")
        self.spin_until(client.service_is_ready, f"service {service}")
        for request in requests:
            sent: list[Any] = []
            last = float("-inf")

            def answered(sent: list[Any] = sent) -> list[Any]:
                return [future for future in sent if future.done()]

            while not answered():
                if time.monotonic() - last > 5.0:
                    assert len(sent) * 5.0 < DEADLINE_S, f"no answer of {service}"
                    last = time.monotonic()
                    sent.append(client.call_async(request))
                self._executor.spin_once(timeout_sec=0.05)
        self.node.destroy_client(client)
        return answered()[0].result()

    def change_state(self, transition: int) -> bool:
        # A transition that does not exist changes nothing, so it may be repeated until the way is open.
        knock = ChangeState.Request(transition=Transition(label="knock"))
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.ask(ChangeState, "change_state", knock, request).success

    def state(self) -> str:
        return self.ask(GetState, "get_state", GetState.Request()).current_state.label

    def set_parameter(self, name: str, value: Any) -> Any:
        """The SetParametersResult."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.ask(SetParameters, "set_parameters", request).results[0]


class NodeStarter:
    """Starts the node with the small model and these ROS arguments."""

    def __init__(self, domain: int, model_file: Path, factory: pytest.TempPathFactory) -> None:
        self._domain, self._model_file, self._factory = domain, model_file, factory
        self._started: list[NodeProcess] = []

    def __call__(self, *arguments: str, model: str | None = None, **options: Any) -> NodeProcess:
        given = ("-p", f"model:={model or self._model_file}", "-p", "device:=cpu", *arguments)
        self._started.append(NodeProcess(self._factory.mktemp("node"), self._domain, *given, **options))
        return self._started[-1]

    def kill_leftovers(self) -> None:
        for node in self._started:
            if node.process.poll() is None:
                node.process.kill()
                node.wait()


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DSNet nobody trained, for small images, but as sure as trained ones are."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    contract = Contract("dsnet", {}, CITYSCAPES19, InputSpec(size=(64, 96)))
    network = networks.build("dsnet", CITYSCAPES19.num_classes).eval()
    with torch.no_grad():
        network.fullconv.weight.mul_(4 / network(torch.randn(1, 3, 64, 96)).std())
    checkpoint.save(path, network, contract)
    return path


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as the node is given: sums in another order can turn a near tie between two classes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def segmenter(model_file: Path) -> Segmenter:
    """The Segmenter that the node's masks are compared with."""
    return Segmenter.load(model_file, device="cpu")


@pytest.fixture(scope="session")
def picture() -> Callable[..., np.ndarray]:
    """Makes images with structure: uint8 [height, width, 3], another one per seed."""

    def make(seed: int = 0, height: int = 64, width: int = 96) -> np.ndarray:
        coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        return np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width])

    return make


@pytest.fixture(scope="module")
def start_node(module_domain: int, model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeStarter]:
    starter = NodeStarter(module_domain, model_file, tmp_path_factory)
    yield starter
    starter.kill_leftovers()


@pytest.fixture(scope="module")
def module_peer(module_domain: int) -> Iterator[Peer]:
    peer = Peer(module_domain)
    yield peer
    peer.close()


@pytest.fixture
def peer(module_peer: Peer) -> Iterator[Peer]:
    """The peer, with nothing left of the test before."""
    yield module_peer
    module_peer.deaf()
    for publisher in list(module_peer.node.publishers):
        if publisher.msg_type in (Image, CompressedImage, String):
            module_peer.node.destroy_publisher(publisher)


@pytest.fixture
def ros_context(ros_domain_id: int) -> Iterator[Context]:
    """A context for nodes inside the test's own process."""
    context = Context()
    rclpy.init(context=context, domain_id=ros_domain_id)
    yield context
    rclpy.try_shutdown(context=context)
