"""What the node accepts as parameters, says of them, and refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient

from drive_seg.inference.runtimes import registry
from drive_seg.node import parameters
from drive_seg.node.parameters import NODE_SPECS, ParameterError, all_specs, camera_specs
from drive_seg.node.parameters import files as parameter_files
from drive_seg.node.parameters.specs import Change
from drive_seg.node.segmentation_node import SegmentationNode

MakeNode = Callable[..., SegmentationNode]


@pytest.fixture
def make_node(ros_context: Context) -> MakeNode:
    """Makes an unconfigured node that was given these parameters."""

    def make(**given: Any) -> SegmentationNode:
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in given.items()]
        return SegmentationNode(context=ros_context, parameter_overrides=overrides, use_global_arguments=False)

    return make


def test_what_was_given_is_found_without_rclpys_private_name(ros_context: Context) -> None:
    arguments = ["--ros-args", "-p", "modle:=x", "-p", "cameras:=[front]", "-p", "degrade_order:=[]"]
    node = Node("given", context=ros_context, cli_args=arguments, use_global_arguments=False)
    without = SimpleNamespace(handle=node.handle)
    given = {"modle": "x", "cameras": ["front"], "degrade_order": []}
    assert parameters.given_parameters(without) == parameters.given_parameters(node) == given
    node.destroy_node()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"modle": "x"}, "parameter 'modle' is unknown: did you mean 'model'?"),
        ({"use_simtime": True}, "parameter 'use_simtime' is unknown: did you mean 'use_sim_time'?"),
        (
            {"camera__transprt": "raw"},
            "parameter 'camera.transprt' is unknown: did you mean 'camera.transport'?",
        ),
        (
            {"cameras": ["front"], "left__transport": "raw"},
            "parameter 'left.transport' is unknown: the parameter 'cameras' does not name 'left', only front",
        ),
        ({"xyz": 1}, "parameter 'xyz' is unknown: there are: model, cameras,"),
        ({"overlay_alpha": 1}, "parameter 'overlay_alpha' must be a double, not the integer 1: write 1.0"),
        (
            {"max_image_age_ms": 5.0},
            "parameter 'max_image_age_ms' must be an integer, not the double 5.0: write 5",
        ),
        ({"publish_confidence": 1}, "parameter 'publish_confidence' must be a bool, not the integer 1"),
        ({"device": 0}, "parameter 'device' must be a string, not the integer 0"),
        (
            {"cameras": "front"},
            "parameter 'cameras' must be a list of strings, not the string 'front': write [front]",
        ),
        (
            {"cameras": [1, 2]},
            "parameter 'cameras' must be a list of strings, not the list of integers [1, 2]",
        ),
        ({"model": None}, "parameter 'model' must be a string, not the empty list []"),
        ({"cameras": None}, "parameter 'cameras' must name at least one camera"),
        ({"cameras": ["a", "b", "a"]}, "parameter 'cameras' names a more than once"),
        (
            {"cameras": ["front/left"]},
            "parameter 'cameras' holds 'front/left', which cannot be part of a topic",
        ),
        ({"cameras": ["2nd"]}, "parameter 'cameras' holds '2nd', which cannot be part of a topic"),
        ({"cameras": ["model"]}, "parameter 'cameras' holds 'model', which is the name of a parameter"),
        ({"camera__image_topic": "a b"}, "parameter 'camera.image_topic' is no topic name"),
        ({"camera__image_topic": "a//b"}, "parameter 'camera.image_topic' is no topic name"),
        (
            {"camera__transport": "theora"},
            "parameter 'camera.transport' must be raw or compressed, not 'theora'",
        ),
        ({"device": "gpu"}, "parameter 'device' must be auto, cpu, cuda or cuda:N, not 'gpu'"),
        ({"precision": "int4"}, "parameter 'precision' must be auto or fp32 or fp16 or bf16 or int8, not 'int4'"),
        (
            {"input_reliability": "best"},
            "parameter 'input_reliability' must be best_effort or reliable, not 'best'",
        ),
        ({"input_size": [640]}, "parameter 'input_size' must be [height, width] of 8..16384 pixels each"),
        ({"overlay_alpha": 1.5}, "parameter 'overlay_alpha' must lie in 0.0..1.0, not 1.5"),
        ({"overlay_alpha": float("nan")}, "parameter 'overlay_alpha' must lie in 0.0..1.0, not nan"),
        ({"max_image_age_ms": -1}, "parameter 'max_image_age_ms' must lie in 0..3600000, not -1"),
    ],
)
def test_what_cannot_be_used_is_named(make_node: MakeNode, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ParameterError) as caught:
        make_node(**given)
    assert sentence in str(caught.value)


def test_everything_wrong_is_told_at_once(make_node: MakeNode) -> None:
    with pytest.raises(ParameterError) as caught:
        make_node(modle="x", device=3, input_size=[1, 2, 3])
    assert [name in str(caught.value) for name in ("'modle'", "'device'", "'input_size'")] == [True] * 3


def test_what_is_given_is_read(make_node: MakeNode) -> None:
    node = make_node(
        cameras=["front", "left_2"],
        front__image_topic="/sensing/front",
        left_2__transport="compressed",
        input_size=[256, 512],
        input_reliability="reliable",
        max_image_age_ms=150,
        use_sim_time=True,
        start_type_description_service=False,
    )
    read = parameters.read(node)
    assert [(camera.name, camera.image_topic, camera.compressed) for camera in read.cameras] == [
        ("front", "/sensing/front", False),
        ("left_2", "left_2/image_raw", True),
    ]
    assert (read.model, read.input_size, read.reliable_input) == ("swiftnet_road19", (256, 512), True)
    assert parameters.read_tuning(node) == parameters.Tuning(150_000_000, 0.5, False)


def test_an_empty_input_size_is_the_models_own(make_node: MakeNode) -> None:
    assert parameters.read(make_node(input_size=None)).input_size is None
    assert parameters.read(make_node(input_size=[0, 0])).input_size is None


def test_every_parameter_is_described_with_its_limits(make_node: MakeNode) -> None:
    node = make_node()
    for name, spec in all_specs(["camera"]).items():
        descriptor = node.describe_parameter(name)
        assert descriptor.description == spec.description
        assert descriptor.read_only == (spec.change is Change.NEVER)
        assert descriptor.additional_constraints == spec.change.value
    (alpha,) = node.describe_parameter("overlay_alpha").floating_point_range
    assert (alpha.from_value, alpha.to_value) == (0.0, 1.0)
    (age,) = node.describe_parameter("max_image_age_ms").integer_range
    assert (age.from_value, age.to_value) == (0, 3_600_000)


def test_changes_are_judged_with_a_reason(make_node: MakeNode) -> None:
    node = make_node()

    def reason(name: str, value: Any) -> str:
        (result,) = node.set_parameters([Parameter(name, value=value)])
        return "" if result.successful else result.reason

    assert reason("device", "cuda:1") == "", "free to change while unconfigured"
    assert reason("device", "tpu") == "parameter 'device' must be auto, cpu, cuda or cuda:N, not 'tpu'"
    assert "out of range" in reason("overlay_alpha", 2.0)
    assert "read-only" in reason("cameras", ["other"])
    refused = parameters.judge_change([Parameter("threads", value=2)], ["camera"], configured=True)
    assert refused.reason.startswith("parameter 'threads' can change only while the node is unconfigured")
    allowed = parameters.judge_change([Parameter("overlay_alpha", value=0.1)], ["camera"], configured=True)
    assert allowed.successful


def written(value: Any) -> str:
    """As a parameters file has it."""
    return json.dumps(value) if not isinstance(value, str) or not value else value


def test_a_node_takes_its_own_parameters_back(make_node: MakeNode, ros_context: Context, tmp_path: Path) -> None:
    """As ``ros2 param dump`` writes them and ``ros2 param load`` sets them: some may not change, and do not."""
    node = make_node(cameras=["front"], front__mounting=[1.0, 0.0, 1.5, 0.0, 0.1, 0.0])
    nothing = Parameter("flat_classes", Parameter.Type.STRING_ARRAY, [])
    assert node.set_parameters_atomically([nothing]).successful
    client = AsyncParameterClient(node, node.get_fully_qualified_name())
    executor = SingleThreadedExecutor(context=ros_context)

    def answer(asked: Any) -> Any:
        executor.spin_until_future_complete(asked, 60.0)
        return asked.result()

    executor.add_node(node)
    names = answer(client.list_parameters()).result.names
    assert {"cameras", "autostart", "use_sim_time", "start_type_description_service", "front.mounting"} < set(names)
    values = [parameter_value_to_python(value) for value in answer(client.get_parameters(names)).values]
    tree: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        *above, last = name.split(".")
        section = tree
        for part in above:
            section = section.setdefault(part, {})
        section[last] = value
    file = tmp_path / "dump.yaml"
    file.write_text(yaml.dump({"/segmentation_node": {"ros__parameters": tree}}))
    results = answer(client.load_parameter_file(str(file))).results
    assert len(results) == len(names)
    assert [result.reason for result in results if not result.successful] == []
    refused = node.set_parameters_atomically([Parameter("autostart", value=False)])
    assert (refused.successful, refused.reason) == (False, "Trying to set a read-only parameter: autostart.")
    executor.shutdown()


@pytest.mark.parametrize(
    ("namespace", "name", "is_heard"),
    [
        ("/", "/**", True),
        ("/", "segmentation_node", True),
        ("/", "/*", True),
        ("/", "/*/segmentation_node", False),
        ("/", "segmentation", False),
        ("/", "/car/segmentation_node", False),
        ("/car/front", "/**/segmentation_node", True),
        ("/car/front", "/car/*/segmentation_node", True),
        ("/car/front", "car/front/segmentation_node", True),
        ("/car/front", "/car/**", True),
        ("/car/front", "segmentation_node", False),
        ("/car/front", "/*", False),
    ],
)
def test_a_parameter_file_for_another_node_is_told(
    ros_context: Context, tmp_path: Path, namespace: str, name: str, is_heard: bool
) -> None:
    """What counts is what rcl hears."""
    file = tmp_path / "given.yaml"
    for content in ({name: {"ros__parameters": {"foo": 1}}}, nested(name, {"ros__parameters": {"foo": 1}})):
        file.write_text(yaml.dump(content))
        arguments = ["--ros-args", "--params-file", str(file)]
        how = {"context": ros_context, "namespace": namespace, "cli_args": arguments, "use_global_arguments": False}
        node = Node("segmentation_node", **how)
        assert (parameters.given_parameters(node) == {"foo": 1}) == is_heard
        told = parameter_files.unheard(arguments, node.get_fully_qualified_name())
        node.destroy_node()
        assert len(told) == (not is_heard)
        if told:
            here = namespace.rstrip("/") + "/segmentation_node"
            assert told[0].startswith(f"the parameter file {file} has nothing for this node, {here}, but for /")


def nested(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """The file with a level for each namespace."""
    for part in reversed(name.strip("/").split("/")):
        content = {part: content}
    return content


def test_the_shipped_file_holds_every_default(checkout: Path, make_node: MakeNode) -> None:
    text = (checkout / "config" / "segmentation.param.yaml").read_text()
    given = yaml.safe_load(text)["/**"]["ros__parameters"]
    assert given == {name: spec.default for name, spec in NODE_SPECS.items()}
    for name, spec in camera_specs("camera").items():
        assert f"#   {name.partition('.')[2]}: {written(spec.default)}\n" in text
    make_node(**given)


def test_the_runtimes_of_the_node_are_those_of_the_package():
    """The node's parameters are known before PyTorch is imported."""
    assert NODE_SPECS["runtime"].check.choices == registry.names()
