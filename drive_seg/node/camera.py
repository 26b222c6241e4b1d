"""One camera of the node: its subscription, the slot for its newest frame, its outputs and its health."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
from rclpy.lifecycle import LifecycleNode, LifecycleState, ManagedEntity, TransitionCallbackReturn
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from drive_seg.images.messages import decode
from drive_seg.node.awaited import describe_publishers
from drive_seg.node.health.diagnostics import AWAITED_AFTER_S, About, CameraHealth
from drive_seg.node.health.ledger import Fate
from drive_seg.node.health.measures import Throttle
from drive_seg.node.outputs import Outputs, qos_options
from drive_seg.node.parameters import CameraParameters
from drive_seg.node.planning.planner import NEED_INFO, Planner

if TYPE_CHECKING:
    from drive_seg.node.models.model import Model

DEACTIVATED = "the node was deactivated"
PAUSED = "inference is paused"
SKIPPED = "skipped under overload"


class Frame:
    """An image on its way; whoever ends it says how, once."""

    def __init__(self, camera: Camera, message: Image | CompressedImage) -> None:
        self.camera = camera
        # Kept, because configuring anew gives the camera a new one.
        self.health = camera.health
        self.message = message
        self.stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        self.in_flight = True

    def end(self, fate: Fate, reason: str = "") -> None:
        """Enter the frame's end in the ledger; only the first end counts."""
        if self.in_flight:
            self.in_flight = False
            self.health.end(fate, reason)


class Camera(ManagedEntity):
    """A managed entity of the node: has publishers while configured, and a subscription while active.

    Counters start at 0 when the node is configured and go on over deactivate and activate.
    """

    def __init__(self, node: LifecycleNode, name: str, wake: Callable[[], None]) -> None:
        """
        Args:
            wake: called from the executor's thread when a frame waits.
        """
        self.name = name
        self.health = CameraHealth()
        self.outputs: Outputs | None = None
        self._node, self._wake = node, wake
        self._parameters: CameraParameters | None = None
        self._reliable_input = False
        self._model: Model | None = None
        self._planner: Planner | None = None
        self._subscription: Subscription | None = None
        self._slot_lock = threading.Lock()
        self._newest: Frame | None = None
        self._held_back = ""
        self._told_awaited = self._told_broken = False
        self._throttle = Throttle()

    def prepare(self, parameters: CameraParameters, reliable_input: bool, model: Model, planner: Planner) -> None:
        """Hand over what configuring needs; call it before ``on_configure``."""
        self._parameters, self._reliable_input, self._model = parameters, reliable_input, model
        self._planner = planner

    @property
    def topic(self) -> str:
        """The input topic as it is called in the graph, with namespace and remappings."""
        topic, parameters = self._topic_to_subscribe(), self._parameters
        return self._node.resolve_topic_name(topic) if parameters else "n/a"

    def about(self, max_age_ns: int | None) -> About:
        """What the diagnostics say of this camera besides its figures."""
        model = self._model
        if model is None:
            return About(self.name, self.topic)
        told = model.name, model.sha256, model.device, model.precision, max_age_ns
        size = "x".join(map(str, reversed(model.input_size)))
        return About(
            self.name,
            self.topic,
            *told,
            network_input=size,
            runtime=model.runtime,
            graphs=model.describe_graphs(),
            missing=self.outputs.describe_missing(),
            usual=model.usual,
        )

    def use(self, model: Model) -> None:
        """The masks of all frames to come are this model's."""
        self._model = model

    def succeed(self, model: Model) -> None:
        """The same between two frames: say so to everyone who listens, before the first of them."""
        self.use(model)
        self._latch()

    # Transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.health = CameraHealth()
        self.outputs = Outputs(self._node, self.name, self._planner)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._latch()
        self._held_back = ""
        self.health.activate()
        self._told_awaited = self._told_broken = False
        self._subscription = self._subscribe()
        self.look_for_listeners()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
        if self._planner is not None:
            self._planner.listen(frozenset())
        self.health.deactivate()
        if frame := self.take():
            frame.end(Fate.WITHHELD, DEACTIVATED)
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self.outputs is not None:
            self.outputs.destroy()
            self.outputs = None
        if self._planner is not None:
            self._planner.close()
        self._model = self._planner = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.on_deactivate(state)
        return self.on_cleanup(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self.on_shutdown(state)

    def _latch(self) -> None:
        model, header = self._model, Header(stamp=self._node.get_clock().now().to_msg())
        self.outputs.latch(model.label_map, model.name, model.sha256, header)

    def look_for_listeners(self) -> None:
        """Listen to camera_info and TF while somebody wants what is made with them; call it now and then."""
        if self._subscription is not None:
            self._planner.listen(self.outputs.wanted(publish_confidence=False) & NEED_INFO)

    # Frames

    def decode(self, message: Image | CompressedImage) -> np.ndarray:
        """The image of a message, see ``image_messages.decode``; ImageError also if it cannot be this camera's."""
        image = decode(message, self._parameters.sample_bits)
        self._planner.check(image)
        return image

    def hold_back(self, reason: str) -> None:
        """Let every frame from the one that waits on end as withheld, with this reason; "" lets them through."""
        self._held_back = reason
        if reason and (frame := self.take()):
            frame.end(Fate.WITHHELD, reason)

    @property
    def has_frame(self) -> bool:
        return self._newest is not None

    def take(self) -> Frame | None:
        """The newest frame nobody took yet."""
        with self._slot_lock:
            frame, self._newest = self._newest, None
            return frame

    def _on_message(self, message: Image | CompressedImage) -> None:
        self.health.receive()
        frame = Frame(self, message)
        if self._subscription is None:
            frame.end(Fate.WITHHELD, DEACTIVATED)
            return
        self._told_awaited = False
        if self._held_back:
            frame.end(Fate.WITHHELD, self._held_back)
            return
        with self._slot_lock:
            older, self._newest = self._newest, frame
        if older:
            older.end(Fate.DROPPED)
        self._wake()

    # Subscribing

    def _topic_to_subscribe(self) -> str:
        parameters = self._parameters
        if parameters is None or not parameters.compressed or parameters.image_topic.endswith("/compressed"):
            return parameters.image_topic if parameters else ""
        # As in image_transport: whoever remaps the image topic means the compressed topic beside it as well.
        return self._node.resolve_topic_name(parameters.image_topic) + "/compressed"

    def _subscribe(self) -> Subscription:
        kind = CompressedImage if self._parameters.compressed else Image
        topic = self._topic_to_subscribe()
        reliability = ReliabilityPolicy.RELIABLE if self._reliable_input else ReliabilityPolicy.BEST_EFFORT

        def create(**events: Callable) -> Subscription:
            return self._node.create_subscription(
                kind,
                topic,
                self._on_message,
                QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=reliability),
                event_callbacks=SubscriptionEventCallbacks(**events),
                qos_overriding_options=qos_options(self._node, topic),
            )

        events = {"incompatible_qos": self._on_mismatch, "incompatible_type": self._on_mismatch}
        try:
            subscription = create(message_lost=self._on_message_lost, **events)
        except UnsupportedEventTypeError:
            return create(**events)
        if self.health.lost_by_middleware is None:
            self.health.lost_by_middleware = 0
        return subscription

    def _on_message_lost(self, event: object) -> None:
        self.health.lost_by_middleware += event.total_count_change

    def _on_mismatch(self, event: object) -> None:
        """A publisher came up that this subscription can never hear."""
        if self._subscription is not None and self._throttle.lets_through("mismatch"):
            self._node.get_logger().error(f"camera '{self.name}': {self._describe_publishers()}")

    def tell_if_awaited(self) -> None:
        """Say once per silence which topic is awaited, who publishes it and how."""
        quiet = self.health.seconds_without_image()
        if quiet is None or quiet < AWAITED_AFTER_S or self._told_awaited:
            return
        self._told_awaited = True
        self._node.get_logger().warning(
            f"camera '{self.name}': no image for {quiet:.0f} s; {self._describe_publishers()}"
        )

    def tell_if_broken(self, about: About) -> None:
        """Say once when images come but no masks can, and once when that is over."""
        verdict = self.health.verdict(about)
        broken = verdict.level == DiagnosticStatus.ERROR
        sentence = f"camera '{self.name}' is {verdict.state}: {verdict.message}"
        # Two calls, because rclpy's logger does not let the severity of one place in the code change.
        if broken and not self._told_broken and self._throttle.lets_through("broken"):
            self._told_broken = True
            self._node.get_logger().error(sentence)
        elif self._told_broken and not broken:
            self._told_broken = False
            self._node.get_logger().info(sentence)

    def _describe_publishers(self) -> str:
        return describe_publishers(self._node, self.name, self._subscription)
