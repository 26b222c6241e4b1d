"""Several cameras in one process: fairness, the ledger under overload, transports, names in the graph."""

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage

from drive_seg.images.messages import decode, decode_label, to_compressed_png, to_image
from drive_seg.segmenter import Segmenter

CAMERAS = ("front", "left", "rear")
IDLE = "idle"


@pytest.fixture(scope="module", autouse=True)
def node(start_node: Callable[..., Any]) -> Iterator[Any]:
    """A node in a namespace, with a remapped, a compressed, an ordinary and a silent camera."""
    process = start_node(
        *(
            "-r",
            "__ns:=/car",
            "-p",
            f"cameras:=[{', '.join((*CAMERAS, IDLE))}]",
            "-p",
            "input_size:=[256, 384]",
        ),
        *("-r", "front/image_raw:=/zed/image"),
        *("-p", "left.transport:=compressed", "-p", "left.image_topic:=/left_camera/image"),
    )
    process.wait_for_log("awaiting /zed/image, /left_camera/image/compressed, /car/rear/image_raw, /car/idle/")
    yield process
    assert process.stop() == 0, process.log
    assert "Traceback" not in process.log


@pytest.fixture
def expected(model_file: Any) -> Segmenter:
    return Segmenter.load(model_file, device="cpu", input_size=(256, 384))


def test_namespace_remapping_and_transports(peer: Any, expected: Segmenter, picture: Callable[..., np.ndarray]) -> None:
    image = picture(4)
    masks = {name: peer.listen(f"/car/{name}/segmentation/label") for name in CAMERAS}
    jpeg = CompressedImage(header=peer.header("left"), format="bgr8; jpeg compressed bgr8")
    jpeg.data.frombytes(cv2.imencode(".jpg", image)[1].tobytes())
    messages = {
        "front": ("/zed/image", to_image(image, peer.header("front"), "bgr8")),
        "left": ("/left_camera/image/compressed", jpeg),
        "rear": ("/car/rear/image_raw", to_image(image, peer.header("rear"), "bgr8")),
    }
    for name, (topic, message) in messages.items():
        mask = peer.answer(peer.publisher(topic, type(message)), message, masks[name])
        assert mask.header == message.header
        assert np.array_equal(decode_label(mask), expected(decode(message)).label)


def test_a_png_camera_is_seen_exactly(peer: Any, expected: Segmenter, picture: Callable[..., np.ndarray]) -> None:
    image = picture(6)
    masks = peer.listen("/car/left/segmentation/label")
    camera = peer.publisher("/left_camera/image/compressed", CompressedImage)
    mask = peer.answer(camera, to_compressed_png(image, peer.header(), "bgr8"), masks)
    assert np.array_equal(decode_label(mask), expected(image).label)


def test_under_overload_the_ledger_adds_up_and_no_camera_starves(peer: Any, picture: Callable[..., np.ndarray]) -> None:
    masks = {name: peer.listen(f"/car/{name}/segmentation/label") for name in ("front", "rear")}
    topics = {"front": "/zed/image", "rear": "/car/rear/image_raw"}
    cameras = {name: peer.publisher(topic) for name, topic in topics.items()}
    before = {name: peer.settled(name) for name in cameras}
    image, frames = picture(), 0

    def gained(name: str, key: str) -> int:
        return int(peer.values(name)[key]) - int(before[name][key])

    while not all(gained(name, "dropped") >= 10 and len(masks[name]) >= 3 for name in cameras):
        assert frames < 5000, "no overload"
        frames += 1
        for camera in cameras.values():
            peer.send(camera, image)
        peer.spin_once()

    for name in cameras:
        peer.settled(name)
        assert gained(name, "received") + gained(name, "lost_by_middleware") <= frames
        assert 3 <= len(masks[name]) <= gained(name, "published")
        assert gained(name, "rejected") == gained(name, "failed") == gained(name, "withheld") == 0
        stamps = [(mask.header.stamp.sec, mask.header.stamp.nanosec) for mask in masks[name]]
        assert stamps == sorted(set(stamps)), "an old frame must never follow a newer one"
    counts = [gained(name, "published") for name in cameras]
    assert min(counts) * 3 >= max(counts), f"one camera starves: {counts}"


def test_after_a_silence_the_state_is_stale(peer: Any, picture: Callable[..., np.ndarray]) -> None:
    masks = peer.listen("/car/front/segmentation/label")
    peer.answer(peer.publisher("/zed/image"), to_image(picture(), peer.header(), "bgr8"), masks)
    peer.wait_for_values("stale", "front", state="stale")
    assert peer.status("front").level == b"\x03"
    assert "no image on /zed/image for" in peer.status("front").message


def test_the_log_says_once_what_is_awaited(peer: Any, node: Any) -> None:
    awaited = f"camera '{IDLE}': no image for"
    log = node.wait_for_log(awaited)
    told = next(line for line in log.splitlines() if awaited in line)
    assert "awaiting /car/idle/image_raw (sensor_msgs/msg/Image, best effort, volatile, keep last 1)" in told
    assert "nobody publishes" in told
    peer.forget_diagnostics()
    peer.spin_until(lambda: len(peer.diagnostics) >= 3, "two seconds of diagnostics")
    assert node.log.count(awaited) == 1
    assert peer.values(IDLE)["state"] == "waiting"
    assert peer.status(IDLE).level == b"\x01"
    assert peer.values(IDLE)["fps"] == peer.values(IDLE)["latency_ms_p50"] == "n/a"
