"""The node: ``python -m drive_seg.node.segmentation_node --ros-args -p model:=swiftnet_road19``."""

from __future__ import annotations

import functools
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from std_msgs.msg import Header

from drive_seg.node import parameters
from drive_seg.node.camera import Camera
from drive_seg.node.control import Control
from drive_seg.node.health import watchdog
from drive_seg.node.health.diagnostics import About
from drive_seg.node.parameters import ParameterError
from drive_seg.node.parameters import files as parameter_files
from drive_seg.node.planning.planner import Planner
from drive_seg.node.planning.transforms import Transforms
from drive_seg.node.process import Exit, GivenUpError, StopRequest, leave, run_unless

if TYPE_CHECKING:
    from drive_seg.node.models.change import ModelChange
    from drive_seg.node.models.model import Model
    from drive_seg.node.worker import Worker

NAME = "segmentation_node"
SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)
DIAGNOSTICS_PERIOD_S = 1.0
DEACTIVATE_PATIENCE_S = 10.0
"""How long deactivating waits for the batch in hand to be published."""
SHUTDOWN_PATIENCE_S = 3.0
"""The same at the end of the process, where ``ros2 launch`` kills what takes more than 5 s."""

Transition = Callable[["SegmentationNode", LifecycleState], TransitionCallbackReturn]


def _errors_in_the_log(transition: Transition) -> Transition:
    """Log an unexpected exception of a transition before it becomes ERROR; rclpy would swallow it silently."""

    @functools.wraps(transition)
    def logged(self: SegmentationNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except Exception:
            self.get_logger().error(f"{transition.__name__} failed unexpectedly:\n{traceback.format_exc()}")
            return ERROR

    return logged


class SegmentationNode(LifecycleNode):
    """Camera images in, class masks out.

    Configure loads the model and warms it up, activate subscribes, deactivate unsubscribes and waits for the batch
    in hand to be published, clean-up frees the model. All of it runs in the executor's thread; frames pass
    through the one worker thread.

    While it is active, the service ``~/enable`` pauses inference, and a change of the parameters by which a model is
    loaded brings another one while frames pass (``model_change``); under overload it may do less (``control``).

    A worker that hangs, or whose device is lost, is told in the diagnostics (``watchdog``) and then ends the process.

    Attributes:
        exit: the code with which the process is to end; other than OK, it is to end now.

    Raises:
        ParameterError: on construction, if a given parameter is unknown, ill-typed or out of range.
    """

    def __init__(self, interrupted: Callable[[], bool] = lambda: False, **options: object) -> None:
        """
        Args:
            interrupted: whether the process is to end, so that nobody waits for a model that loads.
            **options: as for ``rclpy.node.Node``.
        """
        super().__init__(NAME, **options)
        self._interrupted = interrupted
        try:
            parameters.declare(self)
        except ParameterError:
            self.destroy_node()
            raise
        self._change: ModelChange | None = None
        self._worker: Worker | None = None
        self._fault: watchdog.Fault | None = None
        self.exit = Exit.OK
        self.cameras = [Camera(self, name, self._wake_worker) for name in self.get_parameter("cameras").value]
        for camera in self.cameras:
            self.add_managed_entity(camera)
        self._control = Control(self, self.cameras)
        self._transforms = Transforms(self)
        self.add_on_set_parameters_callback(self._judge_change)
        self.add_post_set_parameters_callback(self._take_change)
        self._survive_impossible_transitions()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        # On a steady clock: a simulated clock that stands still must not silence the diagnostics.
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._tell_health, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def autostart(self) -> bool:
        """Configure and activate; False if one of them was not successful (the log says why)."""
        return all(transition() == SUCCESS for transition in (self.trigger_configure, self.trigger_activate))

    # Transitions

    @_errors_in_the_log
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        wanted = parameters.read(self)
        self.get_logger().info(f"loading model {wanted.model}")
        try:
            # Brings PyTorch, which an unconfigured node does not need.
            change = run_unless(self._interrupted, lambda: importlib.import_module("drive_seg.node.models.change"))
            if self._change is None:
                sizes, failed = self._control.image_sizes, self._control.scale_failed
                self._change = change.ModelChange(self, self._hand_over, sizes, failed)
            planners = [
                Planner(self, camera.name, camera.image_topic, camera.planning, wanted.planning, self._transforms)
                for camera in wanted.cameras
            ]
            model = self._change.begin(wanted, self._interrupted)
        except GivenUpError:
            self.get_logger().info("the model is no longer waited for: the process ends")
            return FAILURE
        except (ValueError, OSError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            return FAILURE
        for camera, camera_parameters, planner in zip(self.cameras, wanted.cameras, planners, strict=True):
            camera.prepare(camera_parameters, wanted.reliable_input, model, planner)
        result = super().on_configure(state)
        self.get_logger().info(f"configured: {model.describe()}")
        return result

    @_errors_in_the_log
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        from drive_seg.node.worker import Worker

        if self._worker is not None and self._worker.running:
            self.get_logger().error("cannot activate: the batch given up by deactivate has still not come back")
            return FAILURE
        clock, logger = self.get_clock(), self.get_logger()
        tuning = functools.partial(parameters.read_tuning, self)
        self._worker = Worker(self._change.model.segmenter, self.cameras, clock, tuning, logger)
        self._worker.start()
        result = super().on_activate(state)
        self._control.activated(self._worker, self._change)
        for name in parameters.unused_qos_overrides(self):
            logger.warning(f"parameter '{name}' has no effect: the node has no such topic")
        logger.info(f"active: awaiting {', '.join(camera.topic for camera in self.cameras)}")
        return result

    @_errors_in_the_log
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_deactivate(state)
        self._stop_worker(DEACTIVATE_PATIENCE_S)
        self._control.deactivated()
        self._change.settle()
        return result

    @_errors_in_the_log
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_cleanup(state)
        self._free_model()
        return result

    @_errors_in_the_log
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._end_everything(state)
        return SUCCESS

    @_errors_in_the_log
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, from where a new attempt is possible."""
        self._end_everything(state)
        return SUCCESS

    def _end_everything(self, state: LifecycleState) -> None:
        # The worker must be still before the publishers it uses are destroyed.
        for camera in self.cameras:
            camera.on_deactivate(state)
        self._stop_worker(SHUTDOWN_PATIENCE_S)
        super().on_shutdown(state)
        self._free_model()
        self._control.deactivated()

    def _stop_worker(self, patience_s: float) -> None:
        if self._worker is not None and not self._worker.stop(patience_s):
            self.get_logger().error(f"the batch in hand is given up: it takes more than {patience_s:.0f} s")

    def _free_model(self) -> None:
        at_work = self._worker is not None and (self._worker.running or bool(self._worker.lost))
        if not at_work:
            self._worker = None
        if self._change is not None:
            self._change.end(free=not at_work)

    def _survive_impossible_transitions(self) -> None:
        """Refuse a transition that the state does not have; rclpy of Jazzy lets the error end the node."""
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._refuse_impossible(service.callback)

    def _refuse_impossible(self, change_state: Callable) -> Callable:
        def refuse_impossible(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            try:
                return change_state(request, response)
            except RuntimeError as error:  # rclpy's RCLError, which has no public name
                transition = request.transition.label or request.transition.id
                self.get_logger().warning(f"transition {transition} is not possible now: {error}")
                response.success = False
                return response

        return refuse_impossible

    # Callbacks

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """As in rclpy, but what is set to the value that it has is no change, of a read-only parameter neither.

        So ``ros2 param load`` takes what ``ros2 param dump`` wrote.
        """
        changed = [given for given in parameter_list if not parameters.has_value(self, given)]
        return super().set_parameters_atomically(changed) if changed else SetParametersResult(successful=True)

    def _judge_change(self, changed: list[Parameter]) -> object:
        names = [camera.name for camera in self.cameras]
        configured = self._model is not None
        gives_confidence = not configured or self._change.gives_confidence
        judged = parameters.judge_change(changed, names, configured, gives_confidence)
        if judged.successful and configured:
            from drive_seg.node.models.model import problem

            new = [(given.name, given.value) for given in changed if not self._change.runs(given.name, given.value)]
            reasons = ((name, problem(name, value)) for name, value in new)
            judged = next((parameters.refuse(name, reason) for name, reason in reasons if reason), judged)
        return judged

    def _take_change(self, changed: list[Parameter]) -> None:
        if self._change is not None:
            self._change.look()

    def _hand_over(self, model: Model, taken_over: Callable[[], None]) -> None:
        """Let this model label all frames from the next on; not before the worker has done with the batch in hand."""

        def succeed() -> None:
            for camera in self.cameras:
                camera.succeed(model)
            taken_over()

        if self._worker is not None and self._worker.succeed(model.segmenter, succeed):
            return
        for camera in self.cameras:
            camera.use(model)
        taken_over()

    @property
    def _model(self) -> Model | None:
        """The model that runs; None while the node is unconfigured."""
        return self._change.model if self._change is not None else None

    def _wake_worker(self) -> None:
        if self._worker is not None:
            self._worker.wake()

    def _tell_health(self) -> None:
        self._control.look()
        if self._fault is not None and self._fault.leave:
            self.exit = self._fault.leave  # the diagnostics said so the time before, and say the same once more
        else:
            self._fault = self._look_at_worker()
        status = []
        for camera in self.cameras:
            about = self._about(camera)
            camera.look_for_listeners()
            camera.tell_if_awaited()
            camera.tell_if_broken(about)
            status.append(camera.health.status(about))
        header = Header(stamp=self.get_clock().now().to_msg())
        self._diagnostics.publish(DiagnosticArray(header=header, status=status))

    def _look_at_worker(self) -> watchdog.Fault | None:
        if self._worker is None or self._worker.stopped:
            return None
        fault = watchdog.look(self._worker, self.get_parameter("stall_timeout_s").value)
        if fault is not None and fault.leave:
            self.get_logger().fatal(f"{fault.text}: exit code {fault.leave.value}")
        return fault

    def _about(self, camera: Camera) -> About:
        tuning = parameters.read_tuning(self)
        return replace(
            camera.about(tuning.max_age_ns),
            node=self.get_fully_qualified_name(),
            model_change=self._change.state if self._change is not None else "none",
            paused=self._control.paused,
            skipped=self._control.is_skipped(camera.name),
            degraded=self._control.describe_degradation(),
            self_check=tuning.self_check,
            fault=self._fault,
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to end; the process's exit code.

    Args:
        args: command line without the program's name; that of the process when left out.
    """
    stop = StopRequest()
    arguments = sys.argv[1:] if args is None else list(args)
    try:
        _refuse_stray(remove_ros_args(arguments))
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        node = SegmentationNode(lambda: stop.came)
        for warning in parameter_files.unheard(arguments, node.get_fully_qualified_name()):
            node.get_logger().warning(warning)
    except (ParameterError, ParameterException, RuntimeError) as error:
        # All that rclpy itself raises is a RuntimeError; the names of the kinds are not public.
        unknown = type(error).__name__ == "UnknownROSArgsError"
        return _cannot_start(f"ROS does not know the arguments {error}" if unknown else str(error))
    try:
        if node.get_parameter("autostart").value and not node.autostart() and not stop.came:
            node.get_logger().fatal("autostart failed, so the process ends")
            return Exit.FAILED
        stop.spin(node, lambda: node.exit is not Exit.OK)
    finally:
        # The node may be finalised already, and then has no way to shut down.
        with suppress(RuntimeError):
            node.trigger_shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return node.exit


def _cannot_start(reason: str) -> int:
    get_logger(NAME).fatal(f"cannot start: {reason}")
    rclpy.try_shutdown()
    return Exit.FAILED


def _refuse_stray(arguments: Sequence[str]) -> None:
    if arguments:
        raise ParameterError(
            f"'{' '.join(arguments)}' on the command line means nothing here: parameters are given as "
            "--ros-args -p name:=value or --ros-args --params-file FILE"
        )


if __name__ == "__main__":
    leave(main())
