"""One node process, one camera: what comes out for what goes in."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from drive_seg.images.messages import decode_label, to_image
from drive_seg.images.overlay import blend
from drive_seg.inference.output_checks import Doubt
from drive_seg.labels import CITYSCAPES19
from drive_seg.node.outputs import TIMES
from drive_seg.segmenter import Segmenter

PREFIX = "/camera/segmentation"
IMAGES = ("label", "color", "overlay", "confidence")
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
Picture = Callable[..., np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def node(start_node: Callable[..., Any]) -> Iterator[Any]:
    process = start_node("-p", "publish_confidence:=true", "-p", "overlay_alpha:=0.25")
    process.wait_for_log("active: awaiting /camera/image_raw")
    yield process
    assert process.stop() == 0, process.log
    assert "Traceback" not in process.log


def pixels(message: Image, channels: int) -> np.ndarray:
    """The pixels of a tightly packed message."""
    assert message.step == message.width * channels
    shape = (message.height, message.width, channels)[: 2 if channels == 1 else 3]
    return np.frombuffer(message.data, np.uint8).reshape(shape)


def difference(before: dict[str, str], after: dict[str, str], key: str) -> int:
    return int(after[key]) - int(before[key])


def value(status: DiagnosticStatus, key: str) -> str:
    return next(pair.value for pair in status.values if pair.key == key)


def test_every_output_is_that_of_the_segmenter_with_the_cameras_own_header(
    peer: Any, segmenter: Segmenter, picture: Picture
) -> None:
    heard = {name: peer.listen(f"{PREFIX}/{name}") for name in IMAGES}
    png = peer.listen(f"{PREFIX}/label/compressed", CompressedImage)
    camera = peer.publisher("camera/image_raw")
    image = picture(1, 90, 120)
    header = Header(stamp=Time(sec=2_147_483_647, nanosec=999_999_999), frame_id="caméra/optique ☃")

    peer.answer(camera, to_image(image, header, "bgr8"), heard["label"])
    peer.spin_until(lambda: all(heard.values()) and png, "all outputs")

    expected = segmenter(image, confidence=True)
    color = CITYSCAPES19.colorize(expected.label)
    assert len(np.unique(expected.label)) > 3, "the picture must tell right from wrong"
    assert np.array_equal(pixels(heard["label"][0], 1), expected.label)
    assert np.array_equal(pixels(heard["confidence"][0], 1), expected.confidence)
    assert np.array_equal(pixels(heard["color"][0], 3), color)
    assert np.array_equal(pixels(heard["overlay"][0], 3), blend(image, color, 0.25))
    assert np.array_equal(decode_label(png[0]), expected.label)
    assert png[0].format == "mono8; png compressed "
    encodings = {name: heard[name][0].encoding for name in IMAGES}
    assert encodings == {"label": "mono8", "color": "bgr8", "overlay": "bgr8", "confidence": "mono8"}
    assert [message[0].header for message in (*heard.values(), png)] == [header] * 5


def test_size_and_encoding_may_change_from_frame_to_frame(peer: Any, segmenter: Segmenter, picture: Picture) -> None:
    masks = peer.listen(f"{PREFIX}/label")
    camera = peer.publisher("camera/image_raw")
    wide, tall = picture(2, 50, 150), picture(3, 131, 77)
    grey = cv2.cvtColor(tall, cv2.COLOR_BGR2GRAY)
    frames = (
        (to_image(wide, peer.header(), "bgr8"), wide),
        (to_image(tall[:, :, ::-1], peer.header(), "rgb8"), tall),
        (to_image(grey, peer.header(), "mono8"), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)),
    )
    for message, bgr in frames:
        mask = peer.answer(camera, message, masks)
        assert np.array_equal(pixels(mask, 1), segmenter(bgr).label)


def test_topics_types_and_qos(peer: Any) -> None:
    image, png = ["sensor_msgs/msg/Image"], ["sensor_msgs/msg/CompressedImage"]
    expected = {f"{PREFIX}/{name}": image for name in IMAGES}
    expected |= {f"{PREFIX}/label/compressed": png, f"{PREFIX}/label_map": ["std_msgs/msg/String"]}
    expected |= {f"{PREFIX}/debug/{name}": ["std_msgs/msg/Float64"] for name in TIMES}
    expected |= {
        f"{PREFIX}/drivable": image,
        f"{PREFIX}/camera_info": ["sensor_msgs/msg/CameraInfo"],
        f"{PREFIX}/free_space": ["nav_msgs/msg/OccupancyGrid"],
    }

    def ours() -> dict[str, list[str]]:
        """Without label_info, which is there only where vision_msgs is installed."""
        types = peer.node.get_topic_names_and_types()
        return {name: kinds for name, kinds in types if name.startswith(PREFIX) and "label_info" not in name}

    def discovered() -> bool:
        infos = [info for topic in expected for info in peer.node.get_publishers_info_by_topic(topic)]
        infos += peer.node.get_subscriptions_info_by_topic("/camera/image_raw")
        names = [info.node_name for info in infos]
        return len(names) > len(expected) and set(names) == {"segmentation_node"}

    peer.spin_until(discovered, "the node's topics")
    assert ours() == expected
    for topic in expected:
        (info,) = peer.node.get_publishers_info_by_topic(topic)
        assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        latched = topic.endswith("label_map")
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        assert info.qos_profile.durability == durability
    (listener,) = peer.node.get_subscriptions_info_by_topic("/camera/image_raw")
    assert listener.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    assert listener.qos_profile.durability == DurabilityPolicy.VOLATILE


def test_a_best_effort_listener_hears_the_masks_too(peer: Any, picture: Picture) -> None:
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    masks = peer.listen(f"{PREFIX}/label", qos=best_effort)
    camera = peer.publisher("camera/image_raw")
    mask = peer.answer(camera, to_image(picture(), peer.header(), "bgr8"), masks)
    assert mask.encoding == "mono8"


def test_who_comes_late_still_learns_what_the_ids_mean(peer: Any, segmenter: Segmenter) -> None:
    maps = peer.listen(f"{PREFIX}/label_map", String, LATCHED)
    peer.spin_until(lambda: maps, "label map")
    told = json.loads(maps[0].data)
    expected = {**CITYSCAPES19.to_dict(), "model": "tiny", "model_hash": segmenter.sha256}
    assert told == expected


def test_a_bad_image_is_rejected_with_its_reason_and_the_next_good_one_is_served(
    peer: Any, node: Any, picture: Picture
) -> None:
    masks = peer.listen(f"{PREFIX}/label")
    camera = peer.publisher("camera/image_raw")
    before = peer.settled()
    bad = to_image(picture(), peer.header(), "bgr8")
    bad.encoding = "foo8"
    status = peer.status_under(camera, bad, lambda status: value(status, "state") == "rejecting")
    assert status.level == b"\x02"
    assert "foo8" in status.message
    assert value(status, "last_reason") == status.message
    assert status.message.startswith("rejected: encoding 'foo8' is not supported")
    assert int(value(status, "rejected")) > int(before["rejected"])
    node.wait_for_log("camera 'camera': image rejected: encoding 'foo8'")

    good = to_image(picture(), peer.header(), "bgr8")
    status = peer.status_under(camera, good, lambda status: value(status, "state") == "active")
    assert status.level == b"\x01", "the rejection is not forgotten at once"
    assert "rejected" in status.message
    assert any(mask.header == good.header for mask in masks)
    node.wait_for_log("camera 'camera' is active")


def test_a_frame_nobody_would_hear_of_is_withheld(peer: Any, picture: Picture) -> None:
    peer.spin_until(lambda: not any(peer.node.count_subscribers(f"{PREFIX}/{name}") for name in IMAGES), "silence")
    camera = peer.publisher("camera/image_raw")
    before = peer.settled()
    image = to_image(picture(), peer.header(), "bgr8")
    peer.insist(camera, image, lambda: int(peer.values()["received"]) > int(before["received"]), "frame received")
    after = peer.settled()
    assert difference(before, after, "withheld") == difference(before, after, "received") >= 1
    assert difference(before, after, "published") == 0
    assert after["last_reason"] == "withheld: nobody listens"


def test_only_what_is_listened_to_is_published(peer: Any, picture: Picture) -> None:
    """The confidence alone is enough to keep the network at work."""
    confidence = peer.listen(f"{PREFIX}/confidence")
    camera = peer.publisher("camera/image_raw")
    before = peer.settled()
    peer.answer(camera, to_image(picture(), peer.header(), "bgr8"), confidence)
    after = peer.settled()
    assert difference(before, after, "published") == difference(before, after, "received") >= 1


def test_diagnostics_have_all_keys_and_figures(peer: Any, picture: Picture, segmenter: Segmenter) -> None:
    masks = peer.listen(f"{PREFIX}/label")
    camera = peer.publisher("camera/image_raw")
    for seed in range(3):
        peer.answer(camera, to_image(picture(seed), peer.header(), "bgr8"), masks)
    values = peer.settled()
    assert list(values) == [
        *("state", "received", "published", "dropped", "expired", "rejected", "failed", "withheld"),
        *("in_flight", "lost_by_middleware", "last_reason"),
        *("processing_ms_p50", "processing_ms_p99", "latency_ms_p50", "latency_ms_p99", "fps"),
        *("stage_decode_ms", "stage_preprocess_ms", "stage_network_ms", "stage_postprocess_ms"),
        *("stage_publish_ms", "topic", "model", "model_hash", "device", "precision"),
        *("runtime", "graphs", "network_input", "missing_outputs", "model_change", "degraded", "self_check"),
        *(f"self_check_{doubt.value}" for doubt in Doubt),
        *("sure_share_p50", "sure_share_doubted_below"),
    ]
    assert values["topic"] == "/camera/image_raw"
    assert (values["model"], values["device"], values["precision"]) == ("tiny", "cpu", "fp32")
    assert values["model_hash"] == segmenter.sha256
    assert float(values["fps"]) > 0
    assert 0 < float(values["processing_ms_p50"]) <= float(values["processing_ms_p99"])
    assert 0 < float(values["stage_network_ms"]) <= float(values["processing_ms_p99"])
    assert peer.status().name == "drive_seg: /segmentation_node: camera"
    assert peer.status().hardware_id == "tiny/cpu"


def test_parameters_change_at_run_time_only_where_they_may(peer: Any, picture: Picture) -> None:
    overlays = peer.listen(f"{PREFIX}/overlay")
    camera = peer.publisher("camera/image_raw")
    image = picture(5)
    assert peer.set_parameter("overlay_alpha", 0.0).successful
    overlay = peer.answer(camera, to_image(image, peer.header(), "bgr8"), overlays)
    assert np.array_equal(pixels(overlay, 3), image)

    refusals = {
        ("overlay_alpha", 1.5): "out of range",
        ("overlay_alpha", "much"): "type",
        ("max_image_age_ms", -1): "out of range",
        ("model", "other"): "no model is called 'other'",
        ("vehicle_frame", "map"): "can change only while the node is unconfigured",
        ("camera.transport", "compressed"): "can change only while the node is unconfigured",
        ("autostart", False): "read-only",
    }
    for (name, value), reason in refusals.items():
        result = peer.set_parameter(name, value)
        assert not result.successful
        assert reason in result.reason
    assert peer.set_parameter("overlay_alpha", 0.25).successful
