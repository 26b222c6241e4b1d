"""How the node's process ends: in order, on a signal."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node


class StopRequest:
    """SIGINT and SIGTERM, kept until the node can end in order.

    rclpy's own handlers would make the context invalid at once, so that the masks in hand could no longer be
    published. Nor does a signal raise KeyboardInterrupt: libraries turn it into errors of their own while the model
    loads. Who does not want to wait for a model that loads sends a second signal.
    """

    def __init__(self) -> None:
        self.came = False
        self._spinning = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._on_signal)
            signal.signal(signal.SIGTERM, self._on_signal)

    def spin(self, node: Node) -> None:
        """Run the node until a signal comes or somebody shuts its context down."""
        self._spinning = True
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        with suppress(ExternalShutdownException):
            while not self.came and node.context.ok():
                # Bounded, because Python runs its signal handlers only when the wait has returned.
                executor.spin_once(timeout_sec=0.2)
        executor.shutdown()

    def _on_signal(self, number: int, frame: object) -> None:
        if self.came and not self._spinning:
            os._exit(128 + number)
        self.came = True
