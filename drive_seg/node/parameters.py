"""The node's parameters: what there is, and what was given.

rclpy ignores a parameter that nobody declared, so a file with ``modle:`` would quietly run the default model. Here
every name and type that was given is checked, and everything wrong is told at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from drive_seg.node.specs import Change, Spec, check_device, check_model, check_size, check_topic, one_of

QOS_OVERRIDES = "qos_overrides"
NO_CONFIDENCE = "cannot be true: this model gives class ids, and no probabilities with them"
"""Said of ``publish_confidence``."""


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
        "dsnet_synth19",
        "what to run: a name of the package's models folder, or a path to a .safetensors file, or to an .onnx or "
        ".xml file with <name>.contract.yaml beside it",
        check=check_model,
    ),
    "cameras": Spec(
        ["camera"],
        "names of the cameras; each begins its camera's topics and parameters",
        Change.NEVER,
        check=_check_cameras,
    ),
    "device": Spec("auto", "where the network runs: auto, cpu, cuda or cuda:N", check=check_device),
    "max_image_age_ms": Spec(
        0,
        "budget in ms from an image's stamp to its published mask, on the node's clock; what is older is not "
        "published; 0 is off",
        Change.ANY_TIME,
        (0, 3_600_000),
    ),
    "overlay_alpha": Spec(
        0.5,
        "weight of the class colours in the overlay: 0 image alone, 1 colours alone",
        Change.ANY_TIME,
        (0.0, 1.0),
    ),
    "publish_confidence": Spec(False, "publish the confidence image, 255 x the softmax maximum", Change.ANY_TIME),
    "autostart": Spec(True, "configure and activate at start, without waiting for a lifecycle manager", Change.NEVER),
    "precision": Spec(
        "auto",
        "arithmetic of the network: auto, fp32, fp16 or bf16",
        check=one_of("auto", "fp32", "fp16", "bf16"),
    ),
    "runtime": Spec(
        "auto",
        "who executes the network: auto (the fastest that is installed and prepared), torch, onnxruntime or openvino",
        check=one_of("auto", "torch", "onnxruntime", "openvino"),
    ),
    "threads": Spec(0, "CPU threads of the network; 0 is the runtime's own choice", span=(0, 1024)),
    "input_size": Spec(
        [0, 0],
        "[height, width] whose pixel count the network sees; [0, 0] is the model's own",
        check=check_size,
    ),
    "input_reliability": Spec(
        "best_effort",
        "QoS asked of the cameras: best_effort hears every camera, reliable only reliable ones",
        check=one_of("best_effort", "reliable"),
    ),
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
    }


def all_specs(cameras: Iterable[str]) -> dict[str, Spec]:
    """Every parameter of a node with these cameras, by full name."""
    return {**NODE_SPECS, **{name: spec for camera in cameras for name, spec in camera_specs(camera).items()}}


@dataclass(frozen=True)
class CameraParameters:
    """What one camera needs to subscribe."""

    name: str
    image_topic: str
    compressed: bool


@dataclass(frozen=True)
class NodeParameters:
    """What is read on configuring. ``input_size`` is (height, width), None for the model's own."""

    model: str
    device: str
    precision: str
    runtime: str
    threads: int
    input_size: tuple[int, int] | None
    publish_confidence: bool
    reliable_input: bool
    cameras: tuple[CameraParameters, ...]


@dataclass(frozen=True)
class Tuning:
    """What may change while the node runs. ``max_age_ns`` is None when every age will do."""

    max_age_ns: int | None
    overlay_alpha: float
    publish_confidence: bool


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

    rclpy has no public way to see those that are never declared, which are the point here.
    """
    # An empty list arrives without type and value.
    return {name: [] if p.value is None else p.value for name, p in node._parameter_overrides.items()}


def read(node: Node) -> NodeParameters:
    """The parameters that configuring takes."""

    def value(name: str) -> Any:
        return node.get_parameter(name).value

    size = [int(side) for side in value("input_size")]
    return NodeParameters(
        model=value("model"),
        device=value("device"),
        precision=value("precision"),
        runtime=value("runtime"),
        threads=value("threads"),
        input_size=(size[0], size[1]) if any(size) else None,
        publish_confidence=value("publish_confidence"),
        reliable_input=value("input_reliability") == "reliable",
        cameras=tuple(
            CameraParameters(name, value(f"{name}.image_topic"), compressed=value(f"{name}.transport") == "compressed")
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
    )


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
        if parameter.name == "publish_confidence" and parameter.value is True and not gives_confidence:
            reason = NO_CONFIDENCE
        if reason:
            return SetParametersResult(successful=False, reason=f"parameter '{parameter.name}' {reason}")
    return SetParametersResult(successful=True)


def unused_qos_overrides(node: Node) -> list[str]:
    """Given ``qos_overrides`` that no topic of the node has asked for."""
    given = given_parameters(node)
    return [name for name in given if name.startswith(f"{QOS_OVERRIDES}.") and not node.has_parameter(name)]


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
