"""A user's ONNX file in the real node."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

from drive_seg.images.messages import to_image
from drive_seg.segmenter import Segmenter

MASKS, IMAGES = "/camera/segmentation/label", "/camera/image_raw"
EIGHTH = "(float[N,C,h,w] logits) { logits = AveragePool<kernel_shape=[8,8], strides=[8,8]>(image) }"
STRANGE_AT_200 = (
    "(int64[N,h,w] ids) { k = Constant<value_float=200.0>() d = Sub(image, k) a = Abs(d) "
    "m = ReduceMax<axes=[1], keepdims=0>(a) half = Constant<value_float=0.5>() same = Less(m, half) "
    "one = Cast<to=7>(same) five = Constant<value_int=5>() more = Mul(one, five) two = Constant<value_int=2>() "
    "ids = Add(more, two) }"
)
"""The id 2, and 7 where a pixel is of the grey value 200, which no trial image has."""
SPOILT_AT_200 = (
    "(float[N,C,h,w] logits) { k = Constant<value_float=200.0>() d = Sub(image, k) a = Abs(d) "
    "m = ReduceMax<axes=[1], keepdims=1>(a) half = Constant<value_float=0.5>() same = Less(m, half) ok = Not(same) "
    "f = Cast<to=1>(ok) h = Mul(image, f) logits = Div(h, f) }"
)
"""The image, and 0 / 0 in the same places."""
RAW = {"range": "raw", "scale": 1, "mean": [0, 0, 0], "std": [1, 1, 1]}


@pytest.fixture(autouse=True)
def no_leftovers(start_node: Any) -> Iterator[None]:
    yield
    start_node.kill_leftovers()


@pytest.fixture
def onnx_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes an ONNX file of these outputs and operations, and its contract."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    def write(body: str, **changes: Any) -> Path:
        path = tmp_path / "own.onnx"
        text = f'<ir_version: 8, opset_import: ["" : 17]> own (float[N,3,H,W] image) => {body}'
        path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
        contract = {
            "label_map": [{"id": i, "name": name, "color": [i, i, i]} for i, name in enumerate("abc")],
            "channel_order": "rgb",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "input_size": [64, 96],
            "output": "logits",
            "licence": "MIT",
            **changes,
        }
        path.with_suffix(".contract.yaml").write_text(yaml.safe_dump(contract))
        return path

    return write


def test_the_node_s_mask_is_the_segmenter_s(
    peer: Any, start_node: Callable[..., Any], onnx_model: Callable[..., Path], picture: Callable[..., np.ndarray]
) -> None:
    path = onnx_model(EIGHTH)
    segmenter = Segmenter.load(path, device="cpu")
    node = start_node("-p", "publish_confidence:=true", "-p", "runtime:=onnxruntime", model=str(path))
    node.wait_for_log("active: awaiting")
    assert f"model own ({segmenter.sha256[:12]}) with the 3 classes of own on cpu in fp32" in node.log
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    meanings = peer.listen("/camera/segmentation/label_map", String, latched)
    masks, confidences = peer.listen(MASKS), peer.listen("/camera/segmentation/confidence")
    camera = peer.publisher(IMAGES)
    for seed, size in enumerate(((64, 96), (130, 222))):
        image = picture(seed, *size)
        mask = peer.answer(camera, to_image(image, peer.header(), "bgr8"), masks)
        expected = segmenter(image, confidence=True)
        assert (mask.height, mask.width, mask.encoding) == (*size, "mono8")
        assert bytes(mask.data) == expected.label.tobytes()
        peer.spin_until(lambda: confidences and confidences[-1].header == mask.header, "confidence")  # noqa: B023
        assert bytes(confidences[-1].data) == expected.confidence.tobytes()
    peer.spin_until(lambda: meanings, "label map")
    told = json.loads(meanings[0].data)
    assert told["model_hash"] == segmenter.sha256 and [c["name"] for c in told["classes"]] == ["a", "b", "c"]


def test_ids_come_without_confidence_and_a_strange_one_costs_its_frame(
    peer: Any, start_node: Callable[..., Any], onnx_model: Callable[..., Path]
) -> None:
    path = onnx_model(STRANGE_AT_200, output="ids", **RAW)
    refused = start_node("-p", "publish_confidence:=true", model=str(path))
    assert refused.wait() == 1
    assert "parameter 'publish_confidence' cannot be true: this model gives class ids" in refused.log

    start_node(model=str(path))
    masks, camera = peer.listen(MASKS), peer.publisher(IMAGES)

    def evenly(brightness: int) -> Any:
        return to_image(np.full((80, 120, 3), brightness, np.uint8), peer.header(), "bgr8")

    answer = peer.answer(camera, evenly(129), masks)
    assert set(answer.data) == {2} and (answer.height, answer.width) == (80, 120)
    result = peer.set_parameter("publish_confidence", True)
    assert not result.successful and "cannot be true: this model gives class ids" in result.reason
    status = peer.status_under(camera, evenly(200), lambda status: "failed" in status.message)
    assert "it gave the id 7, but label map 'own' has the ids 0..2" in status.message
    assert set(peer.answer(camera, evenly(128), masks).data) == {2}
    assert int(peer.settled()["failed"]) >= 1


def test_a_frame_without_finite_logits_fails_and_is_counted(
    peer: Any, start_node: Callable[..., Any], onnx_model: Callable[..., Path]
) -> None:
    start_node("-p", "runtime:=onnxruntime", model=str(onnx_model(SPOILT_AT_200, **RAW)))
    masks, camera = peer.listen(MASKS), peer.publisher(IMAGES)

    def image(value: tuple[int, int, int]) -> Any:
        return to_image(np.full((80, 120, 3), value, np.uint8), peer.header(), "rgb8")

    assert set(peer.answer(camera, image((10, 90, 20)), masks).data) == {1}
    status = peer.status_under(camera, image((200, 200, 200)), lambda status: "failed" in status.message)
    assert "not finite (NaN or infinite) at 100.0% of the pixels" in status.message
    assert set(peer.answer(camera, image((10, 20, 90)), masks).data) == {2}
    assert int(peer.settled()["failed"]) >= 1
