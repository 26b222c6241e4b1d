"""How the node's process ends: in order, on a signal, and soon: ``ros2 launch`` kills what takes more than 5 s."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_first
from contextlib import suppress
from enum import IntEnum
from typing import NoReturn, TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

T = TypeVar("T")
POLL_S = 0.05
"""How often it is looked whether work in a thread is to be given up."""


class Exit(IntEnum):
    """How the node's process ends. Respawned after the last two it may do better, on another device if need be."""

    OK = 0
    FAILED = 1
    """It could not start."""
    STALLED = 3
    """A batch of frames hung, or the worker thread ended."""
    DEVICE_LOST = 4
    """The device fails whatever is asked of it."""


class GivenUpError(Exception):
    """Work was given up because the process is to end."""


def run_unless(interrupted: Callable[[], bool], work: Callable[[], T]) -> T:
    """Do work in a thread of its own that ends with it; its result, or its exception.

    Raises:
        GivenUpError: if the work is given up; its thread goes on until it is done or the process has ended.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="drive_seg first model", daemon=True).start()
    while not wait_for_first([outcome], POLL_S).done:
        if interrupted():
            raise GivenUpError
    return outcome.result()


def leave(code: int) -> NoReturn:
    """End the process without the interpreter's own shutdown: with PyTorch that takes a second of computing.

    Everything of the node must have ended before.
    """
    # What is left of the node in cycles keeps its DDS participant, whose shared memory would stay in the system.
    gc.collect()
    rclpy.get_default_context().destroy()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class StopRequest:
    """SIGINT and SIGTERM, kept until the node can end in order.

    rclpy's own handlers would make the context invalid at once, so that the masks in hand could no longer be
    published. Nor does a signal raise KeyboardInterrupt: libraries turn it into errors of their own while the model
    loads. That is why a model loads in another thread, see :func:`run_unless`.
    """

    def __init__(self) -> None:
        self.came = False
        self._spinning = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._on_signal)
            signal.signal(signal.SIGTERM, self._on_signal)

    def spin(self, node: Node, done: Callable[[], bool] = lambda: False) -> None:
        """Run the node until it is done, a signal comes or somebody shuts its context down."""
        self._spinning = True
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        with suppress(ExternalShutdownException):
            while not (self.came or done()) and node.context.ok():
                # Bounded, because Python runs its signal handlers only when the wait has returned.
                executor.spin_once(timeout_sec=0.2)
        executor.shutdown()

    def _on_signal(self, number: int, frame: object) -> None:
        if self.came and not self._spinning:
            os._exit(128 + number)
        self.came = True
