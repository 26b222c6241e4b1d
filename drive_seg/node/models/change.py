"""Another model while frames pass: loaded and warmed up in a thread beside the one that runs, then handed over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from rclpy.exceptions import InvalidHandle
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter

from drive_seg.inference.cuda.device import keep_for_ever
from drive_seg.inference.runtimes import Size
from drive_seg.inference.runtimes.preparation import NICE, Preparation
from drive_seg.node import parameters
from drive_seg.node.models.model import Model
from drive_seg.node.parameters import NodeParameters
from drive_seg.node.process import run_unless

NOTHING = "none"
HandOver = Callable[[Model, Callable[[], None]], None]
"""Lets a model label all frames from the next on; calls back, from any thread, once it does."""


@dataclass(frozen=True)
class Wanted:
    """What shall run: the parameters, and the factor for the sides of the network's input."""

    parameters: NodeParameters
    scale: float = 1.0

    @property
    def key(self) -> tuple:
        """Equal for two that run the same."""
        return *self.parameters.loading, self.scale

    def describe(self) -> str:
        return self.parameters.model + (f" with network input x{self.scale:g}" if self.scale != 1.0 else "")


class _Load:
    """A model being loaded in a thread of its own."""

    def __init__(self, wanted: Wanted, load: Callable[[], Model], done: Callable[[], None]) -> None:
        self.wanted = wanted
        self.model: Model | None = None
        self.error: Exception | None = None
        self.over = False
        self._load, self._done = load, done
        self._lock = threading.Lock()
        self._abandoned = False
        # A daemon: a load cannot be interrupted, and must not keep the process from ending.
        threading.Thread(target=self._run, name="drive_seg model load", daemon=True).start()

    def abandon(self) -> None:
        """Nobody waits for it any more: the model is let go as soon as it is there."""
        with self._lock:
            self._abandoned = True
            model, self.model = self.model, None
        if model:
            model.let_go()

    def _run(self) -> None:
        model = error = None
        try:
            model = self._load()
        except Exception as caught:  # out of memory, a lost device: whatever it is, the old model goes on
            error = caught
        with self._lock:
            if not self._abandoned:
                self.model, self.error, self.over = model, error, True
                self._done()
                return
        if model:
            model.let_go()


class _Preparing:
    """A faster runtime being prepared by a child process, awaited by a thread of its own."""

    def __init__(self, runtime: str, wanted: NodeParameters, done: Callable[[], None]) -> None:
        self.runtime = runtime
        self.failure = ""
        self.over = False
        self._done = done
        self._preparation = Preparation(wanted.model, wanted.device, wanted.precision, NICE)
        threading.Thread(target=self._run, name="drive_seg preparation", daemon=True).start()

    def end(self) -> None:
        self._preparation.end()

    def _run(self) -> None:
        try:
            self._preparation.wait()
        except ValueError as error:
            self.failure = str(error)
        self.over = True
        self._done()


class ModelChange:
    """Keeps the model that runs the one that the parameters and the degradation ask for.

    The node tells it when something may have changed (:meth:`look`); it loads one model at a time, and the last that
    was asked for wins. A model that cannot be had is told in the log and in :attr:`state`, and the parameters go back
    to those of the model that runs. Everything but the loading happens in the executor's thread.

    A runtime that is faster and takes seconds to prepare is prepared meanwhile, and then the model changes to it.

    Attributes:
        model: the model that runs; None while the node is unconfigured.
        state: for the diagnostics: "none", "preparing ...", "loading ..." or "refused ...".
    """

    def __init__(
        self,
        node: LifecycleNode,
        hand_over: HandOver,
        sizes: Callable[[], Sequence[Size]],
        scale_failed: Callable[[float], None],
    ) -> None:
        """
        Args:
            sizes: says the (height, width) of the images that come, for which a model is made ready.
            scale_failed: called when the model cannot be had with this factor for its input; the one that runs goes
                on with its own.
        """
        self._node, self._hand_over, self._sizes, self._scale_failed = node, hand_over, sizes, scale_failed
        self.model: Model | None = None
        self.state = NOTHING
        self._running: Wanted | None = None
        self._scale = 1.0
        self._load: _Load | None = None
        self._preparing: _Preparing | None = None
        self._is_prepared = False
        self._prepared_for: set[tuple] = set()
        self._arriving: tuple[Model, Wanted] | None = None
        self._arrived = threading.Event()
        self._guard = node.create_guard_condition(self.look)

    @property
    def busy(self) -> bool:
        """Another model is on its way, or a faster runtime."""
        return any(coming is not None for coming in (self._load, self._arriving, self._preparing))

    @property
    def scale(self) -> float:
        """The factor for the sides of the network's input with which the model runs."""
        return self._running.scale if self.model is not None else 1.0

    @property
    def gives_confidence(self) -> bool:
        """Whether the model that runs, and the one that comes, can say how sure they are."""
        coming = [self._arriving[0]] if self._arriving else []
        return all(model.segmenter.gives_confidence for model in ([self.model] if self.model else []) + coming)

    def runs(self, name: str, value: object) -> bool:
        """Whether a parameter is set to what runs; that can always be gone back to, even if its file is gone."""
        return self._running is not None and getattr(self._running.parameters, name, None) == value

    def begin(self, wanted: NodeParameters, interrupted: Callable[[], bool]) -> Model:
        """Load the first model and wait for it; raises as :meth:`Model.load` does, and GivenUpError.

        In a thread of its own that ends: a thread that has computed keeps its helpers for the next time, and beside
        idle ones the worker's go to sleep after each step of the network, which then takes half as long again.
        """
        tell = self._node.get_logger().info
        self.model = run_unless(interrupted, lambda: Model.load(wanted, tell))
        self._running, self._scale, self.state = Wanted(wanted), 1.0, NOTHING
        self._prepare()
        return self.model

    def end(self, free: bool = True) -> None:
        """Free the model, and let go of one that is being loaded: its thread ends by itself.

        Args:
            free: give its memory back, too; not of a device that hangs or is lost, where that would hang or abort.
        """
        if self._preparing is not None:
            self._preparing.end()
            self._preparing = None
        if self._load is not None:
            load, self._load = self._load, None
            load.abandon()
        if self._arriving is not None:
            (model, _), self._arriving = self._arriving, None
            model.let_go()
        if self.model is not None:
            model, self.model = self.model, None
            if free:
                model.free()
            else:
                keep_for_ever(model)
        self.state = NOTHING

    def shrink(self, scale: float) -> None:
        """Ask for the sides of the network's input to be this factor of what the parameters say."""
        self._scale = scale
        self.look()

    def settle(self) -> None:
        """The worker was stopped: a model that was handed over to it and not taken is taken now."""
        if self._arriving is not None and not self._arrived.is_set():
            model, wanted = self._arriving
            self._arriving = None
            self._take(model, wanted)
        self.look()

    def look(self) -> None:
        """Take the next step, if there is one: begin a load, hand its model over, or refuse it."""
        if self.model is None:
            return
        if self._arriving is not None:
            if not self._arrived.is_set():
                return
            (model, wanted), self._arriving = self._arriving, None
            self._finish(model, wanted)
        self._look_at_preparation()
        if self._load is not None and not self._load.over:
            return
        wanted = Wanted(parameters.read(self._node), self._scale)
        if self._load is not None:
            load, self._load = self._load, None
            if load.wanted.key == wanted.key:
                self._conclude(load)
                return
            load.abandon()
        if wanted.key != self._running.key or self._is_prepared:
            self._begin_load(wanted)
        elif self.state.startswith("loading"):
            self.state = NOTHING

    def _prepare(self) -> None:
        """Begin to prepare what ``auto`` would rather take, if anything."""
        faster, wanted = self.model.segmenter.unprepared, self._running.parameters
        if faster is None or self._preparing is not None or self._running.key in self._prepared_for:
            return
        self._prepared_for.add(self._running.key)
        self._preparing = _Preparing(faster, wanted, self._wake)
        self.state = f"preparing {faster} for {wanted.model}, {self.model.runtime} labels meanwhile"
        self._node.get_logger().info(f"{self.state}; this is done once on a machine")

    def _look_at_preparation(self) -> None:
        preparing = self._preparing
        if preparing is None or not preparing.over:
            return
        self._preparing, self.state = None, NOTHING
        if preparing.failure:
            self._node.get_logger().warning(
                f"{self.model.runtime} goes on, as {preparing.runtime} cannot be prepared: {preparing.failure}"
            )
        else:
            self._is_prepared = True

    def _begin_load(self, wanted: Wanted) -> None:
        self._is_prepared = False
        tell, asked = self._node.get_logger().info, wanted.parameters
        self.state = f"loading {wanted.describe()}"
        tell(f"{self.state} beside {self._running.describe()}, which goes on")
        if wanted.scale != 1.0 and self._same_model(wanted):
            # What auto chose once, so that a runtime which is not prepared for the smaller input is prepared for it.
            asked = replace(asked, runtime=self.model.runtime)
        sizes = self._sizes()
        self._load = _Load(wanted, lambda: Model.load(asked, tell, sizes, wanted.scale), self._wake)

    def _conclude(self, load: _Load) -> None:
        error = load.error
        if error is None and not load.model.segmenter.gives_confidence:
            reason = parameters.confidence_problem(parameters.read_tuning(self._node))
            error = ValueError(reason) if reason else None
        if error is not None:
            load.abandon()
            self._refuse(load.wanted, error)
            return
        self._arrived.clear()
        self._arriving = load.model, load.wanted
        self._hand_over(load.model, self._note_arrival)

    def _note_arrival(self) -> None:
        self._arrived.set()
        self._wake()

    def _take(self, model: Model, wanted: Wanted) -> None:
        self._hand_over(model, lambda: None)
        self._finish(model, wanted)

    def _finish(self, model: Model, wanted: Wanted) -> None:
        before, self.model = self.model, model
        told = f"{model.describe()} took over from {self._running.describe()} by {before.runtime}"
        self._running, self.state = wanted, NOTHING
        before.let_go()
        self._node.get_logger().info(told)
        self._prepare()

    def _refuse(self, wanted: Wanted, error: Exception) -> None:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        self.state = f"refused {wanted.describe()}: {reason}"
        self._node.get_logger().error(
            f"cannot change to {wanted.describe()}: {reason}; {self._running.describe()} goes on"
        )
        if self._same_model(wanted):
            self._scale = self._running.scale
            self._scale_failed(wanted.scale)
        else:
            self._put_back()

    def _same_model(self, wanted: Wanted) -> bool:
        return wanted.parameters.loading == self._running.parameters.loading

    def _put_back(self) -> None:
        """Set the parameters to what runs, so that asking for one never gives a wrong answer."""
        running = self._running.parameters
        values = {name: getattr(running, name) for name in ("model", "device", "precision", "runtime", "threads")}
        values["input_size"] = list(running.input_size or (0, 0))
        now = {name: self._node.get_parameter(name).value for name in values}
        now["input_size"] = list(now["input_size"]) or [0, 0]
        self._node.set_parameters(
            [Parameter(name, value=value) for name, value in values.items() if value != now[name]]
        )

    def _wake(self) -> None:
        # At the end of the process the node may be gone before a load is over.
        with suppress(InvalidHandle):
            self._guard.trigger()
