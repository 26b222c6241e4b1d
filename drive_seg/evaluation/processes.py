"""ROS processes of a run: they never outlive their parent, and their output is shown when they fail."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from drive_seg.node.dds import large_image_environment

TAIL_LINES = 30
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class ChildError(RuntimeError):
    """A child failed or took too long; the message shows the end of its output."""


class Child:
    """One child process, its output in a log file.

    Args:
        name: how it is called in messages.
        command: program and arguments.
        env: its whole environment.
        log: file for its standard output and error.
        nice: how much it gives way to the other children.
    """

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path, nice: int = 0) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A Ctrl-C reaches the parent alone, which then ends its children in order.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        if nice:
            os.setpriority(os.PRIO_PROCESS, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0) + nice)

    @property
    def returncode(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def check(self) -> None:
        """Raise ChildError if it has ended."""
        if self.returncode is not None:
            raise ChildError(f"The {self.name} ended by itself with exit status {self.returncode}.\n{self.tail()}")

    def has_ended(self, seconds: float) -> bool:
        """Whether it ends within so many seconds; it may run on."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait(self, seconds: float) -> None:
        """Wait for its end; ChildError if it fails, or takes longer (it is then killed)."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ChildError(f"The {self.name} did not end within {seconds:.0f} s.\n{self.tail()}") from None
        if status != 0:
            raise ChildError(f"The {self.name} failed with exit status {status}.\n{self.tail()}")

    def finish(self, seconds: float = 20.0) -> None:
        """End it with SIGINT and wait; ChildError as ``wait``."""
        if self.returncode is None:
            self._process.send_signal(signal.SIGINT)
        self.wait(seconds)

    def kill(self) -> None:
        """End it at once if it still runs."""
        if self.returncode is None:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        """The last lines of its output."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        shown = "\n".join(f"  {line}" for line in lines[-TAIL_LINES:]) or "  (it printed nothing)"
        return f"The end of {self.log}:\n{shown}"


class Children:
    """The children of one run, as a context manager: on leaving, whatever still runs is killed."""

    def __init__(self, env: Mapping[str, str], logs: Path) -> None:
        self._env = env
        self._logs = logs
        self._children: list[Child] = []

    def start(self, name: str, module: str, *arguments: str, nice: int = 0) -> Child:
        """Start ``python -m module arguments``, see :class:`Child`."""
        command = [sys.executable, "-m", module, *arguments]
        child = Child(name, command, self._env, self._logs / f"{name}.log", nice)
        self._children.append(child)
        return child

    def wait_until(self, happened: Callable[[], bool], what: str, seconds: float, alive: Sequence[Child]) -> None:
        """Wait until ``happened()``, which may itself wait a little, is true.

        Raises:
            ChildError: one of ``alive`` ended meanwhile, or it did not happen in time.
        """
        deadline = time.monotonic() + seconds
        while not happened():
            for child in alive:
                child.check()
            if time.monotonic() > deadline:
                outputs = "\n".join(child.tail() for child in alive)
                raise ChildError(f"Within {seconds:.0f} s {what} did not happen.\n{outputs}")

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()


def ros_environment() -> dict[str, str]:
    """This process's environment with large images let through, and apart from other ROS systems nearby."""
    environment = {**os.environ, **large_image_environment(), "PYTHONUNBUFFERED": "1"}
    environment.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return environment


def ros_arguments(parameters: Mapping[str, object]) -> list[str]:
    """Parameters as a ROS program takes them on its command line."""
    # JSON is YAML, which ROS reads them as, with every text in quotes: a camera may be called "on".
    return [
        "--ros-args",
        *(part for name, value in parameters.items() for part in ("-p", f"{name}:={json.dumps(value)}")),
    ]


def _die_with_parent() -> None:
    # Covers what no handler can: a parent that is killed.
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
