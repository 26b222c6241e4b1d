"""Plays a source on a node, in real time: what ``player`` does once its command line is read."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rosgraph_msgs.msg import Clock

from drive_seg.images.messages import ImageError
from drive_seg.recordings import outlets
from drive_seg.recordings.outlets import JpegOutlet, Outlet
from drive_seg.recordings.playback import Ahead, Due, Stamps, rounds
from drive_seg.recordings.sources import Record, Source
from drive_seg.recordings.sources.topics import cameras_of, ros2_name, so_many

LATE_S = 0.1
CLOCK_STEP_S = 0.02
SETTLE_S = 0.2
ACKNOWLEDGE_S = 5.0
DRAIN_S = 0.3


class PlayerError(RuntimeError):
    """Playing cannot begin; the message is one sentence."""


class Player:
    """Plays a source on a node: waits for subscribers, keeps time, publishes, and knows how late it was.

    Args:
        node: it must be spun elsewhere, for the events that tell of subscribers.
        source: what to play.
        options: the parsed command line, see ``player.arguments``.
        stop: set it (a signal does) to end playing after the frame in hand.
    """

    def __init__(self, node: Node, source: Source, options: argparse.Namespace, stop: threading.Event) -> None:
        self.sent = 0
        self.refused = 0
        self.late = 0
        self.worst_s = 0.0
        self._node = node
        self._source = source
        self._options = options
        self._stop = stop
        self._changed = threading.Condition()
        self._clock = None
        if options.clock:
            self._clock = node.create_publisher(Clock, "/clock", QoSProfile(depth=10))
        self._outlets = self._make_outlets()
        # --clock makes the recording's time everybody's time; stamps that were "now" would then be years off.
        self._stamps = Stamps(self._now_ns if options.stamps == "now" else None)

    def play(self) -> None:
        """Play to the end, or until ``stop`` is set. SourceError and PlayerError say what went wrong."""
        records = self._preloaded() if self._options.preload else self._source
        # Reading begins before the subscribers have come, so that the first frames are there when they have.
        with Ahead(rounds(records, self._options.loop)) as ahead:
            self._wait_for_subscribers()
            with self._progress() as advance:
                self._play(ahead, advance)
        self._drain()

    def summary(self) -> str:
        """What was sent and how late, for the end."""
        text = f"{so_many(self.sent, 'message')} sent"
        if self.refused:
            text += f", {self.refused} could not be sent"
        if self._source.skipped:
            text += f", {self._source.skipped} could not be read"
        if self._source.repeated:
            text += f", {so_many(self._source.repeated, 'image')} with the stamp of an earlier one"
        if self._source.backward:
            text += f", {self._source.backward} with an earlier stamp than the one before"
        if self.late:
            text += (
                f". Real time was not kept: {self.late} went out more than {LATE_S * 1000:.0f} ms late, the worst "
                f"by {self.worst_s:.2f} s (a lower --rate, or --preload, may help)"
            )
        return text + "."

    def _make_outlets(self) -> dict[str, Outlet]:
        topics, missing = outlets.installed(self._source.topics)
        for type_name in missing:
            self._node.get_logger().warning(f"{type_name} is not installed: its topics are not played.")
        if not topics:
            raise PlayerError(f"No topic of {self._source.spec} can be published, as no message type is installed.")
        names = self._published_names([topic.name for topic in topics])
        made: dict[str, Outlet] = {}
        for topic in topics:
            arguments = (self._node, replace(topic, name=names[topic.name]), self._options.reliability, self._changed)
            try:
                if self._options.compressed and outlets.is_picture(topic):
                    made[topic.name] = JpegOutlet(*arguments, self._options.quality)
                else:
                    made[topic.name] = Outlet(*arguments)
            except InvalidTopicNameException as error:
                reason = " ".join(str(error).split()).rstrip(".^ ")
                raise PlayerError(f"ROS 2 does not allow the name '{names[topic.name]}': {reason}.") from None
        return made

    def _published_names(self, recorded: list[str]) -> dict[str, str]:
        """Name in the recording -> name to publish: as remapped, else as ROS 2 allows it."""
        rules = (rule.partition(":=") for rule in self._options.remap)
        remapped = {old.strip("/"): new for old, _, new in rules}
        names = {name: remapped.get(name.strip("/")) or ros2_name(name) for name in recorded}
        changed = {old: new for old, new in names.items() if new != old and old.strip("/") not in remapped}
        for old, new in changed.items():
            text = f"ROS 2 does not allow the name {old}: it is played as {new} (--remap {old}:=NAME names another)."
            self._node.get_logger().warning(text)
        for new in set(names.values()):
            if len(same := [old for old, name in names.items() if name == new]) > 1:
                raise PlayerError(f"{' and '.join(same)} would all be played as {new}: --remap one of them.")
        return names

    def _preloaded(self) -> list[Record]:
        records = []
        for record in self._source:
            records.append(record)
            if self._stop.is_set():
                break
        return records

    def _play(self, ahead: Ahead, advance: Iterator[None]) -> None:
        begin: float | None = None
        first_ns = 0
        current = 0
        for due in ahead:
            if begin is None:
                begin, first_ns = time.monotonic(), due.time_ns
            if due.round != current:
                current = due.round
                self._node.get_logger().info(f"Round {current + 1}; stamps go on, {due.shift_ns / 1e9:.3f} s later.")
            if not self._wait_until(begin, first_ns, due.time_ns):
                return
            self._send(due)
            self._note_lateness(time.monotonic() - begin - (due.time_ns - first_ns) / 1e9 / self._options.rate)
            next(advance)

    def _send(self, due: Due) -> None:
        outlet = self._outlets.get(due.record.topic)
        if outlet is None:
            return
        try:
            outlet.publish(due.record, self._stamps.of(due))
            self.sent += 1
        except ImageError as error:
            self.refused += 1
            self._node.get_logger().warning(f"A frame of {due.record.topic} was not sent: {error}.", once=True)

    def _wait_until(self, begin: float, first_ns: int, time_ns: int) -> bool:
        """Wait for the moment of a record and tell the time meanwhile; False if playing was stopped."""
        rate = self._options.rate
        moment = begin + (time_ns - first_ns) / 1e9 / rate
        while not self._stop.is_set():
            left = moment - time.monotonic()
            if self._clock is not None:
                self._tell(min(time_ns, time_ns - round(left * rate * 1e9)))
            if left <= 0:
                return True
            self._stop.wait(left if self._clock is None else min(left, CLOCK_STEP_S))
        return False

    def _tell(self, time_ns: int) -> None:
        self._clock.publish(Clock(clock=outlets.time(time_ns)))

    def _note_lateness(self, seconds: float) -> None:
        self.worst_s = max(self.worst_s, seconds)
        self.late += seconds > LATE_S

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

    def _wait_for_subscribers(self) -> None:
        wanted = self._awaited()
        if not wanted:
            return
        seconds = self._options.wait_timeout

        def come() -> bool:
            return self._stop.is_set() or all(outlet.matched >= count for outlet, count in wanted.items())

        deadline = None if math.isinf(seconds) else time.monotonic() + seconds
        with self._changed:
            # In steps, since a signal sets the event without notifying the condition.
            while not come():
                if deadline is not None and time.monotonic() > deadline:
                    found = ", ".join(f"{o.name} has {o.matched} of {count}" for o, count in wanted.items())
                    raise PlayerError(f"Not all subscribers came within {seconds:g} s: {found}.")
                self._changed.wait(0.1)
        # We know the subscriber, it may not yet know us: what is sent before that is lost to it.
        self._stop.wait(SETTLE_S)

    def _awaited(self) -> dict[Outlet, int]:
        wanted: dict[Outlet, int] = {}
        for text in self._options.wait_for:
            name, _, number = text.rpartition("=")
            if not number.isdigit():
                raise PlayerError(f"--wait-for takes a number or TOPIC=NUMBER, not '{text}'.")
            fitting = [
                outlet
                for recorded, outlet in self._outlets.items()
                if not name or name in (recorded, outlet.topic.name, outlet.name)
            ]
            if not fitting:
                names = ", ".join(outlet.name for outlet in self._outlets.values())
                raise PlayerError(f"--wait-for names '{name}', which is not played; played are {names}.")
            cameras = cameras_of([outlet.topic for outlet in fitting])
            first = next((outlet for outlet in fitting if outlet.topic in cameras), fitting[0])
            wanted[first] = int(number)
        return wanted

    def _drain(self) -> None:
        """Stay until reliable subscribers have everything; best effort knows no answer, so a moment must do."""
        if self._stop.is_set():
            return
        behind = [o.name for o in self._outlets.values() if not o.wait_until_acknowledged(ACKNOWLEDGE_S)]
        if behind:
            self._node.get_logger().warning(f"Subscribers of {', '.join(behind)} did not take everything in time.")
        if self._options.reliability == "best_effort":
            self._stop.wait(DRAIN_S)

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Iterator[None]]:
        """Gives an iterator to advance once for each record; a bar shows it where there is a terminal."""
        total = None if self._options.loop else self._source.expected
        columns = (TextColumn("playing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("playing", total=total)

            def advance() -> Iterator[None]:
                while True:
                    bar.advance(task)
                    yield

            yield advance()
