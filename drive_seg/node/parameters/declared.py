"""The node's parameters: what there is, and what was given.

rclpy ignores a parameter that nobody declared, so a file with ``modle:`` would quietly run the default model. Here
every name and type that was given is checked, and everything wrong is told at once.
"""

from __future__ import annotations

import difflib
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from drive_seg.images.encodings import SAMPLE_BITS
from drive_seg.inference.runtimes import registry
from drive_seg.node.parameters.planning import (
    PLANNING_SPECS,
    CameraPlanning,
    PlanningParameters,
    planning_camera_specs,
    read_camera_planning,
    read_planning,
)
from drive_seg.node.parameters.specs import (
    Change,
    Spec,
    check_device,
    check_fallback_device,
    check_model,
    check_order,
    check_size,
    check_topic,
    one_of,
)

QOS_OVERRIDES = "qos_overrides"
DEGRADABLE = ("cameras", "input_size")
"""What can be given up under overload, in the order of the default."""
NO_CONFIDENCE = "cannot be {}: this model gives class ids, and no probabilities with them"
"""Said of the parameters that need a confidence, with the value that they cannot have."""


class ParameterError(ValueError):
    """Parameters that were given and cannot be used; the message names each of them."""


def _check_cameras(value: Iterable[str]) -> str | None:
    names = list(value)
    if not names:
        return "must name at least one camera"
    for name in names:
        if not re.fullmatch(r"[A-Za-z](_?[A-Za-z0-9])*", name):
            return (
                f"holds '{name}', which cannot be part of a topic: use letters, digits and single "
                "underscores, a letter first"
            )
        if name in NODE_SPECS or name == QOS_OVERRIDES:
            return f"holds '{name}', which is the name of a parameter: call the camera something else"
    doubled = sorted({name for name in names if names.count(name) > 1})
    return f"names {', '.join(doubled)} more than once" if doubled else None


NODE_SPECS: Mapping[str, Spec] = {
    "model": Spec(
        "swiftnet_road19",
        "what to run: a name of the package's models folder, or a path to a .safetensors file, or to an .onnx or "
        ".xml file with <name>.contract.yaml beside it",
        Change.RELOADS,
        check=check_model,
    ),
    "cameras": Spec(
        ["camera"],
        "names of the cameras; each begins its camera's topics and parameters",
        Change.NEVER,
        check=_check_cameras,
    ),
    "device": Spec(
        "auto",
        "where the network runs: auto (CUDA where there is one; the CPU for ONNX), cpu, cuda or cuda:N",
        Change.RELOADS,
        check=check_device,
    ),
    "fallback_device": Spec(
        "",
        "device on which the model is loaded where it cannot be loaded on device: cpu, cuda:N; empty: on none",
        check=check_fallback_device,
    ),
    "max_image_age_ms": Spec(
        0,
        "budget in ms from an image's stamp to its published mask, on the node's clock; what is older is not "
        "published; 0 is off",
        Change.ANY_TIME,
        (0, 3_600_000),
    ),
    "stall_timeout_s": Spec(
        60.0,
        "s that a batch of frames may take, or a GPU fail every frame, before the process ends with the exit code 3 or "
        "4; the diagnostics say so before; 0 is for ever",
        Change.ANY_TIME,
        (0.0, 86_400.0),
    ),
    "overlay_alpha": Spec(
        0.5,
        "weight of the class colours in the overlay: 0 image alone, 1 colours alone",
        Change.ANY_TIME,
        (0.0, 1.0),
    ),
    "publish_confidence": Spec(False, "publish the confidence image, 255 x the softmax maximum", Change.ANY_TIME),
    "self_check": Spec(
        True,
        "look for frozen, dark, saturated or blank images, for masks of one class, of void or without confidence, for "
        "sudden changes and for frames that the model was not made for; what is found is a WARN in the diagnostics",
        Change.ANY_TIME,
    ),
    "unsafe_output": Spec(
        "publish",
        "what becomes of a mask that the self-check doubts: publish it, publish void (255 everywhere, confidence 0) "
        "in its place, or withhold it",
        Change.ANY_TIME,
        check=one_of("publish", "void", "withhold"),
    ),
    "degrade": Spec(
        False,
        "under a lasting overload reduce the work step by step, and restore it when there is room",
        Change.ANY_TIME,
    ),
    "degrade_order": Spec(
        list(DEGRADABLE),
        "what is reduced, in this order: cameras (the one of lowest priority is skipped, then the next; one stays), "
        "input_size (the sides of the network's input x0.75, then x0.5)",
        Change.ANY_TIME,
        check=check_order(*DEGRADABLE),
    ),
    "autostart": Spec(True, "configure and activate at start, without waiting for a lifecycle manager", Change.NEVER),
    "precision": Spec(
        "auto",
        f"arithmetic of the network: {registry.precision_help()}",
        Change.RELOADS,
        check=one_of(*registry.precisions()),
    ),
    "runtime": Spec(
        "auto",
        f"what runs the network: {registry.runtime_help()}",
        Change.RELOADS,
        check=one_of(*registry.names()),
    ),
    "prepare": Spec(
        "auto",
        "auto: the fastest kernels are prepared in the background, in seconds and once per machine, and take over "
        "between two frames; never: only a runtime that is named is prepared",
        check=one_of("auto", "never"),
    ),
    "threads": Spec(0, "CPU threads of the network; 0 is the runtime's own choice", span=(0, 1024)),
    "input_size": Spec(
        [0, 0],
        "[height, width] whose pixel count the network sees, the camera's aspect kept; [0, 0] is the model's own",
        Change.RELOADS,
        check=check_size,
    ),
    "input_reliability": Spec(
        "best_effort",
        "QoS asked of the cameras: best_effort receives from every camera, reliable only from reliable ones",
        check=one_of("best_effort", "reliable"),
    ),
    **PLANNING_SPECS,
}


def camera_specs(camera: str) -> dict[str, Spec]:
    """The parameters of one camera, by their full names ``<camera>.<name>``."""
    return {
        f"{camera}.image_topic": Spec(f"{camera}/image_raw", f"topic of the images of {camera}", check=check_topic),
        f"{camera}.transport": Spec(
            "raw",
            "raw: Image on <image_topic>; compressed: CompressedImage on <image_topic>/compressed",
            check=one_of("raw", "compressed"),
        ),
        f"{camera}.sample_bits": Spec(
            16,
            f"bits that {camera}'s sensor fills of a 16-bit sample, from the lowest on: 10, 12 or 14 of many sensors",
            span=SAMPLE_BITS,
        ),
        f"{camera}.priority": Spec(
            0,
            f"the higher, the later {camera} is skipped under overload; among equals the first in cameras stays",
            Change.ANY_TIME,
            (-1000, 1000),
        ),
        **planning_camera_specs(camera),
    }


def all_specs(cameras: Iterable[str]) -> dict[str, Spec]:
    """Every parameter of a node with these cameras, by full name."""
    return {**NODE_SPECS, **{name: spec for camera in cameras for name, spec in camera_specs(camera).items()}}


@dataclass(frozen=True)
class CameraParameters:
    """What one camera needs to subscribe, and for planners."""

    name: str
    image_topic: str
    compressed: bool
    sample_bits: int
    planning: CameraPlanning


@dataclass(frozen=True)
class NodeParameters:
    """What is read on configuring. ``input_size`` is (height, width), None for the model's own."""

    model: str
    device: str
    fallback_device: str
    precision: str
    runtime: str
    prepare: bool
    threads: int
    input_size: tuple[int, int] | None
    publish_confidence: bool
    min_confidence: float
    reliable_input: bool
    planning: PlanningParameters
    cameras: tuple[CameraParameters, ...]

    @property
    def loading(self) -> tuple:
        """What the loaded model depends on: two that are equal here run the same."""
        return self.model, self.device, self.precision, self.runtime, self.threads, self.input_size


@dataclass(frozen=True)
class Tuning:
    """What may change while the node runs. ``max_age_ns`` is None when every age will do."""

    max_age_ns: int | None
    overlay_alpha: float
    publish_confidence: bool
    self_check: bool = True
    unsafe_output: str = "publish"
    min_confidence: float = 0.0
    drivable_min_area: float = PLANNING_SPECS["drivable_min_area"].default


@dataclass(frozen=True)
class Degrading:
    """What may be given up under overload. ``ranked``: the cameras, the most important first."""

    wanted: bool
    order: tuple[str, ...]
    ranked: tuple[str, ...]


def declare(node: Node) -> None:
    """Declare every parameter on the node, with what was given on the command line and in files.

    Raises:
        ParameterError: if something given is unknown, ill-typed or out of range; the message names all of it.
    """
    given = given_parameters(node)
    cameras = given.get("cameras", NODE_SPECS["cameras"].default)
    cameras_fault = NODE_SPECS["cameras"].problem(cameras)
    specs = all_specs([] if cameras_fault else cameras)
    problems = [f"parameter 'cameras' {cameras_fault}"] if cameras_fault else []
    for name, value in sorted(given.items()):
        if name in specs:
            fault = specs[name].problem(value) if name != "cameras" else None
            problems += [f"parameter '{name}' {fault}"] if fault else []
        elif not _is_built_in(node, name) and not (cameras_fault and "." in name):
            problems.append(_unknown(name, specs, cameras))
    if problems:
        raise ParameterError("; ".join(problems))
    for name, spec in specs.items():
        # rclpy would refuse the untyped empty list, which stands for the default.
        node.declare_parameter(name, spec.default, spec.descriptor(), ignore_override=given.get(name) == [])


def given_parameters(node: Node) -> dict[str, Any]:
    """Values that were given to the node by name, whether or not it has such parameters.

    rclpy has no public way to see those that are never declared, which are the point here. Where its private name is
    gone, those of the command line and of files are read where rclpy itself reads them; those given to the constructor
    are then declared, but not checked.
    """
    overrides = getattr(node, "_parameter_overrides", None)
    if overrides is None:
        with node.handle:
            overrides = node.handle.get_parameters(Parameter)
    # An empty list arrives without type and value.
    return {name: [] if p.value is None else p.value for name, p in overrides.items()}


def has_value(node: Node, given: Parameter) -> bool:
    """Whether a parameter has just this value now."""
    if not node.has_parameter(given.name):
        return False
    now = node.get_parameter(given.name)
    if isinstance(now.value, (list, array)):
        same_kind = now.type_ == given.type_ or not given.value  # an empty list is of whatever type
        return same_kind and list(now.value) == list(given.value or [])
    return (now.type_, now.value) == (given.type_, given.value)


def read(node: Node) -> NodeParameters:
    """The parameters that configuring takes."""

    def value(name: str) -> Any:
        return node.get_parameter(name).value

    size = [int(side) for side in value("input_size")]
    return NodeParameters(
        model=value("model"),
        device=value("device"),
        fallback_device=value("fallback_device"),
        precision=value("precision"),
        runtime=value("runtime"),
        prepare=value("prepare") == "auto",
        threads=value("threads"),
        input_size=(size[0], size[1]) if any(size) else None,
        publish_confidence=value("publish_confidence"),
        min_confidence=value("min_confidence"),
        reliable_input=value("input_reliability") == "reliable",
        planning=read_planning(value),
        cameras=tuple(
            CameraParameters(
                name,
                value(f"{name}.image_topic"),
                compressed=value(f"{name}.transport") == "compressed",
                sample_bits=value(f"{name}.sample_bits"),
                planning=read_camera_planning(value, name),
            )
            for name in value("cameras")
        ),
    )


def read_tuning(node: Node) -> Tuning:
    """The parameters that may change while the node runs; any thread may ask."""
    age_ms = node.get_parameter("max_image_age_ms").value
    return Tuning(
        max_age_ns=age_ms * 1_000_000 if age_ms else None,
        overlay_alpha=node.get_parameter("overlay_alpha").value,
        publish_confidence=node.get_parameter("publish_confidence").value,
        self_check=node.get_parameter("self_check").value,
        unsafe_output=node.get_parameter("unsafe_output").value,
        min_confidence=node.get_parameter("min_confidence").value,
        drivable_min_area=node.get_parameter("drivable_min_area").value,
    )


def read_degrading(node: Node) -> Degrading:
    """The parameters of the degradation under overload."""
    cameras = node.get_parameter("cameras").value
    priorities = [node.get_parameter(f"{camera}.priority").value for camera in cameras]
    return Degrading(
        wanted=node.get_parameter("degrade").value,
        order=tuple(node.get_parameter("degrade_order").value),
        ranked=tuple(rank(cameras, priorities)),
    )


def rank(cameras: Sequence[str], priorities: Sequence[int]) -> list[str]:
    """The cameras, the most important first; among equals those that come first."""
    return [camera for _, camera in sorted(zip(priorities, cameras, strict=True), key=lambda pair: -pair[0])]


def judge_change(
    changed: Iterable[Parameter], cameras: Iterable[str], configured: bool, gives_confidence: bool = True
) -> SetParametersResult:
    """Whether parameters may be set now, for the node's set-parameters callback.

    Args:
        gives_confidence: the loaded model, if there is one, can say how sure it is.
    """
    specs = all_specs(cameras)
    for parameter in changed:
        spec = specs.get(parameter.name)
        if spec is None:
            continue
        reason = spec.problem(parameter.value)
        if spec.change is Change.UNCONFIGURED and configured:
            reason = "can change only while the node is unconfigured: deactivate and clean up first"
        if parameter.name in ("publish_confidence", "min_confidence") and parameter.value and not gives_confidence:
            reason = reason or NO_CONFIDENCE.format(_as_written(parameter.value))
        if reason:
            return refuse(parameter.name, reason)
    return SetParametersResult(successful=True)


def confidence_problem(wanted: NodeParameters | Tuning) -> str | None:
    """What is wrong with the parameters for a model that cannot say how sure it is; None if nothing is."""
    if wanted.publish_confidence:
        return f"parameter 'publish_confidence' {NO_CONFIDENCE.format('true')}"
    if wanted.min_confidence > 0:
        return f"parameter 'min_confidence' {NO_CONFIDENCE.format(wanted.min_confidence)}"
    return None


def refuse(name: str, reason: str) -> SetParametersResult:
    """The answer to whoever wants to set a parameter to what it cannot be."""
    return SetParametersResult(successful=False, reason=f"parameter '{name}' {reason}")


def unused_qos_overrides(node: Node) -> list[str]:
    """Given ``qos_overrides`` that no topic of the node has asked for."""
    given = given_parameters(node)
    return [name for name in given if name.startswith(f"{QOS_OVERRIDES}.") and not node.has_parameter(name)]


def _as_written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_built_in(node: Node, name: str) -> bool:
    return node.has_parameter(name) or name.startswith(f"{QOS_OVERRIDES}.")


def _unknown(name: str, specs: Mapping[str, Spec], cameras: Iterable[str]) -> str:
    camera, dot, rest = name.partition(".")
    close = difflib.get_close_matches(name, [*specs, "use_sim_time"], n=1)
    if dot and camera not in cameras and f"camera.{rest}" in camera_specs("camera"):
        hint = f"the parameter 'cameras' does not name '{camera}', only {', '.join(cameras)}"
    elif close:
        hint = f"did you mean '{close[0]}'?"
    else:
        hint = f"there are: {', '.join(specs)}"
    return f"parameter '{name}' is unknown: {hint}"
