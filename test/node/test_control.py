"""Control of a running node: pause, another model, checks of its outputs, less work under overload."""

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lifecycle_msgs.msg import Transition
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.context import Context
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Float64, String
from std_srvs.srv import SetBool

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.images.messages import decode_label, to_image
from drive_seg.labels import CAMVID11
from drive_seg.node import parameters
from drive_seg.node.models.model import Model
from drive_seg.node.segmentation_node import SegmentationNode
from drive_seg.segmenter import Segmenter

IMAGES, MASKS = "/camera/image_raw", "/camera/segmentation/label"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LOST = ("dropped", "expired", "rejected", "failed", "withheld")
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE


@pytest.fixture(scope="module")
def other_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of other classes, and of another kind."""
    torch.manual_seed(8)
    path = tmp_path_factory.mktemp("models") / "other.safetensors"
    checkpoint.save(path, networks.build("enet", 11), Contract("enet", {}, CAMVID11, InputSpec(size=(48, 64))))
    return path


@pytest.fixture(scope="module")
def broken_file(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its contract can be read, and its weights are not those that the hash is of."""
    path = tmp_path_factory.mktemp("models") / "broken.safetensors"
    data = bytearray(model_file.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def running(start_node: Callable[..., Any]) -> Iterator[Any]:
    process = start_node("-p", "publish_confidence:=true")
    process.wait_for_log("active: awaiting")
    yield process
    assert process.stop() == 0, process.log
    assert "Traceback" not in process.log


@pytest.fixture
def node(running: Any, peer: Any, model_file: Path) -> Any:
    """The node as it was started, whatever the test before has done to it."""
    defaults = {"model": str(model_file), "input_size": [0, 0], "self_check": True, "unsafe_output": "publish"}
    wanted = [Parameter(name, value=value).to_parameter_msg() for name, value in defaults.items()]
    answer = peer.ask(SetParameters, "set_parameters", SetParameters.Request(parameters=wanted))
    assert all(result.successful for result in answer.results)
    assert enable(peer, True).success
    peer.spin_until(lambda: peer.values().items() >= {"model": "tiny", "network_input": "96x64"}.items(), "first model")
    return running


def enable(peer: Any, wanted: bool) -> SetBool.Response:
    return peer.ask(SetBool, "enable", SetBool.Request(data=wanted))


def model_parameter(peer: Any) -> str:
    answer = peer.ask(GetParameters, "get_parameters", GetParameters.Request(names=["model"]))
    return answer.values[0].string_value


def test_pause_and_go_on(peer: Any, node: Any, picture: Callable[..., np.ndarray]) -> None:
    masks, camera = peer.listen(MASKS), peer.publisher(IMAGES)
    peer.answer(camera, to_image(picture(), peer.header(), "bgr8"), masks)
    assert enable(peer, True).message == "inference is enabled already"

    answer = enable(peer, False)
    assert (answer.success, answer.message) == (True, "inference is paused")
    before, image = int(peer.settled()["withheld"]), to_image(picture(1), peer.header(), "bgr8")
    masks.clear()
    status = peer.status_under(
        camera, image, lambda status: int({v.key: v.value for v in status.values}["withheld"]) > before
    )
    assert (status.message, status.level) == ("inference is paused: the service 'enable' was called", b"\x00")
    values = peer.settled()
    assert (values["state"], values["last_reason"]) == ("paused", "withheld: inference is paused")
    assert masks == []

    assert enable(peer, True).success
    peer.answer(camera, to_image(picture(2), peer.header(), "bgr8"), masks)

    assert enable(peer, False).success
    assert peer.change_state(DEACTIVATE)
    answer = enable(peer, False)
    assert (answer.success, answer.message[:55]) == (False, "inference cannot be paused: the node is not active; it ")
    assert peer.change_state(ACTIVATE)
    camera = peer.publisher(IMAGES)
    peer.answer(camera, to_image(picture(3), peer.header(), "bgr8"), masks)
    peer.settled()


def test_another_model_takes_over_between_two_frames(
    peer: Any,
    node: Any,
    picture: Callable[..., np.ndarray],
    segmenter: Segmenter,
    model_file: Path,
    other_file: Path,
) -> None:
    masks, camera = peer.listen(MASKS), peer.publisher(IMAGES)
    maps = peer.listen("/camera/segmentation/label_map", String, LATCHED)
    image, other = picture(1), Segmenter.load(other_file, device="cpu")
    old, new = segmenter(image).label, other(image).label
    assert not np.array_equal(old, new)
    peer.answer(camera, to_image(image, peer.header(), "bgr8"), masks)
    assert len(maps) == 1
    before = peer.settled()

    assert peer.set_parameter("model", str(other_file)).successful
    seen = []
    while len(maps) < 2 or not seen or not np.array_equal(seen[-1], new):
        seen.append(decode_label(peer.answer(camera, to_image(image, peer.header(), "bgr8"), masks)))
    assert all(np.array_equal(mask, old) or np.array_equal(mask, new) for mask in seen)
    switches = sum(not np.array_equal(a, b) for a, b in zip(seen, seen[1:], strict=False))
    assert switches <= 1, "never back"
    assert '"camvid11"' in maps[-1].data
    assert other.sha256 in maps[-1].data
    values = peer.settled()
    assert (values["model"], values["model_hash"], values["network_input"]) == ("other", other.sha256, "64x48")
    assert values["model_change"] == "none"
    assert [values[fate] for fate in LOST] == [before[fate] for fate in LOST]
    assert "took over from" in node.log

    assert peer.set_parameter("input_size", [32, 48]).successful, "so may the size of its input"
    peer.wait_for_values("smaller input", network_input="48x32")
    small = Segmenter.load(other_file, device="cpu", input_size=(32, 48))
    mask = peer.answer(camera, to_image(image, peer.header(), "bgr8"), masks)
    assert np.array_equal(decode_label(mask), small(image).label)


def test_a_steady_stream_goes_on_through_a_change_of_the_model(
    peer: Any, node: Any, picture: Callable[..., np.ndarray], segmenter: Segmenter, other_file: Path
) -> None:
    """Frames come on as before, each ends once, and there is one moment from which on all masks are the new model's."""
    masks, camera = peer.listen(MASKS), peer.publisher(IMAGES)
    maps = peer.listen("/camera/segmentation/label_map", String, LATCHED)
    image, other = picture(1), Segmenter.load(other_file, device="cpu")
    old, new = segmenter(image).label, other(image).label
    before, sent, next_at = peer.settled(), [], time.monotonic()

    def streaming(done: Callable[[], bool]) -> Callable[[], bool]:
        def look() -> bool:
            nonlocal next_at
            if time.monotonic() >= next_at:
                next_at = time.monotonic() + 0.03
                sent.append(peer.send(camera, image).stamp)
            peer.spin_once()
            return done()

        return look

    def are_new(count: int) -> bool:
        return len(masks) >= count and all(np.array_equal(decode_label(mask), new) for mask in masks[-count:])

    peer.spin_until(streaming(lambda: len(masks) >= 5), "masks of the old model")
    change = SetParameters.Request(parameters=[Parameter("model", value=str(other_file)).to_parameter_msg()])
    client = peer.node.create_client(SetParameters, "segmentation_node/set_parameters")
    peer.spin_until(streaming(client.service_is_ready), "service")
    answer = client.call_async(change)
    asked_at = len(masks)
    peer.spin_until(streaming(answer.done), "answer")
    assert answer.result().results[0].successful
    peer.spin_until(streaming(lambda: are_new(10)), "masks of the new model")
    peer.node.destroy_client(client)

    values = peer.settled()
    are = [np.array_equal(decode_label(mask), new) for mask in masks]
    assert asked_at >= 5
    assert not any(are[:asked_at])
    first_new = are.index(True)
    assert all(are[first_new:]), "never back"
    assert all(np.array_equal(decode_label(mask), old) for mask in masks[:first_new])
    stamps = [(mask.header.stamp.sec, mask.header.stamp.nanosec) for mask in masks]
    assert stamps == sorted(set(stamps)), "each once, in order"
    assert set(stamps) <= {(stamp.sec, stamp.nanosec) for stamp in sent}

    gone = {fate: int(values[fate]) - int(before[fate]) for fate in ("received", "published", *LOST)}
    assert gone["received"] == gone["published"] + gone["dropped"] <= len(sent)
    assert gone["failed"] == gone["withheld"] == gone["rejected"] == gone["expired"] == 0
    assert len(masks) <= gone["published"]
    assert (values["model"], values["model_change"]) == ("other", "none")
    peer.spin_until(lambda: len(maps) == 2, "the new label map")
    late = peer.listen("/camera/segmentation/label_map", String, LATCHED)
    peer.spin_until(lambda: late, "the latched label map")
    assert late[0].data == maps[1].data
    assert other.sha256 in late[0].data
    assert '"camvid11"' in late[0].data


def test_a_model_that_cannot_be_had_is_refused_and_the_old_one_goes_on(
    peer: Any,
    node: Any,
    picture: Callable[..., np.ndarray],
    segmenter: Segmenter,
    model_file: Path,
    broken_file: Path,
    tmp_path: Path,
) -> None:
    masks, camera = peer.listen(MASKS), peer.publisher(IMAGES)
    noise = tmp_path / "noise.safetensors"
    noise.write_bytes(b"\x07" * 999)
    for name, value, reason in (
        ("model", "no_such_model", "parameter 'model' cannot be used: no model is called 'no_such_model'; there are: "),
        ("model", str(noise), f"parameter 'model' cannot be used: {noise}: not a whole safetensors file"),
        ("device", "cuda:99", "parameter 'device' cannot be used: device 'cuda:99' is not there"),
        ("threads", 2, "parameter 'threads' can change only while the node is unconfigured"),
    ):
        result = peer.set_parameter(name, value)
        assert not result.successful
        assert result.reason.startswith(reason)

    assert peer.set_parameter("model", str(broken_file)).successful, "its contract reads"
    node.wait_for_log(f"cannot change to {broken_file}: {broken_file}: content hash")
    peer.spin_until(lambda: "refused" in peer.values().get("model_change", ""), "refusal in the diagnostics")
    assert model_parameter(peer) == str(model_file), "what runs"
    image = picture(2)
    mask = peer.answer(camera, to_image(image, peer.header(), "bgr8"), masks)
    assert np.array_equal(decode_label(mask), segmenter(image).label)
    assert peer.settled()["model"] == "tiny"


def test_the_last_of_many_changes_wins(
    peer: Any, node: Any, model_file: Path, other_file: Path, broken_file: Path
) -> None:
    for file in (other_file, model_file, broken_file, other_file, model_file, other_file):
        assert peer.set_parameter("model", str(file)).successful
    peer.wait_for_values("the last", model="other", model_change="none")
    assert model_parameter(peer) == str(other_file)


def test_the_old_model_is_freed(model_file: Path, ros_context: Context) -> None:
    """Without the search for cycles, which would hold up the frames of the new one."""
    given = [Parameter("model", value=str(model_file)), Parameter("device", value="cpu")]
    node = SegmentationNode(context=ros_context, parameter_overrides=given, use_global_arguments=False)
    wanted = parameters.read(node)
    node.destroy_node()
    model = Model.load(wanted, print, sizes=[(64, 96)], scale=0.5)
    assert model.input_size == (32, 48)
    network = weakref.ref(model.segmenter._network)
    gc.disable()
    try:
        model.let_go()
        assert network() is None
    finally:
        gc.enable()


def test_times_of_each_frame_are_told_to_who_listens(peer: Any, node: Any, picture: Callable[..., np.ndarray]) -> None:
    masks, camera = peer.listen(MASKS), peer.publisher(IMAGES)
    debug = "/camera/segmentation/debug/"
    processing = peer.listen(f"{debug}processing_time_ms", Float64)
    latency = peer.listen(f"{debug}pipeline_latency_ms", Float64)
    header = peer.header()
    header.stamp.sec -= 5
    peer.answer(camera, to_image(picture(), header, "bgr8"), masks)
    peer.spin_until(lambda: processing and latency, "both times")
    assert processing[0].data > 0
    assert latency[0].data > 5000 + processing[0].data, "from the stamp, and all of it"
    assert len(processing) == len(latency)


def test_a_mask_that_is_doubted_is_told_voided_or_withheld(
    peer: Any, node: Any, picture: Callable[..., np.ndarray], segmenter: Segmenter
) -> None:
    masks, camera = peer.listen(MASKS), peer.publisher(IMAGES)
    sureness = peer.listen("/camera/segmentation/confidence")
    dark = picture() // 16
    mask = peer.answer(camera, to_image(dark, peer.header(), "bgr8"), masks)
    assert np.array_equal(decode_label(mask), segmenter(dark).label), "published as it is"
    peer.spin_until(lambda: "dark" in peer.values().get("self_check", ""), "the doubt")
    assert peer.status().level == b"\x01"
    values = peer.values()
    assert "the image is dark: 100.0% of it below 32 of 255 (since stamp " in values["self_check"]
    assert int(values["self_check_dark_image"]) >= 1

    assert peer.set_parameter("unsafe_output", "void").successful
    message = to_image(dark, peer.header(), "bgr8")
    mask = peer.answer(camera, message, masks)
    assert (decode_label(mask) == 255).all()
    peer.spin_until(lambda: sureness and sureness[-1].header.stamp == message.header.stamp, "its confidence")
    assert (decode_label(sureness[-1]) == 0).all()

    assert peer.set_parameter("unsafe_output", "withhold").successful
    masks.clear()
    before = int(peer.settled()["withheld"])
    peer.insist(
        camera,
        to_image(dark, peer.header(), "bgr8"),
        lambda: int(peer.values().get("withheld", 0)) > before,
        "withheld frame",
    )
    assert peer.settled()["last_reason"].startswith("withheld: self-check: the image is dark")
    assert masks == []
    light = picture(5)
    mask = peer.answer(camera, to_image(light, peer.header(), "bgr8"), masks)
    assert np.array_equal(decode_label(mask), segmenter(light).label)

    assert peer.set_parameter("self_check", False).successful
    peer.answer(camera, to_image(dark, peer.header(), "bgr8"), masks)
    assert peer.wait_for_values("no self-check", self_check="off")
