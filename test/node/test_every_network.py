"""Every network of the catalog through Segmenter and the node, on frames of a real clip; nobody trained them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from sensor_msgs.msg import Image
from torch import nn

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.images.messages import decode_label, to_image
from drive_seg.labels import CITYSCAPES19
from drive_seg.networks.catalog import options
from drive_seg.recordings.sources import open_source
from drive_seg.segmenter import Segmenter

SPEC = InputSpec(size=(64, 208))
LABEL = "/camera/segmentation/label"


@pytest.fixture(scope="module")
def running(start_node: Callable[..., Any]) -> Iterator[Any]:
    """One node for all networks, which are loaded into it one after the other."""
    process = start_node()
    process.wait_for_log("active: awaiting")
    yield process
    assert process.stop() == 0, process.log
    assert "Traceback" not in process.log


@pytest.fixture(scope="module")
def frames(shared_data: Path) -> list[np.ndarray]:
    """uint8 BGR [93, 310, 3] each, a quarter of the clip's size: DDS may lose larger ones under load."""
    clip = shared_data / "clips" / "kitti_2011_09_26_urban_1242x374.mp4"
    images = [record.image() for record in open_source(clip, frames=3)]
    return [cv2.resize(image, (310, 93), interpolation=cv2.INTER_AREA) for image in images]


def settle(network: nn.Module, frames: list[np.ndarray]) -> None:
    """Let the Batch Norms see the frames: at random weights alone one class would win everywhere."""
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = None  # the plain average of what was seen
    images = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float()
    small = nn.functional.interpolate(images, SPEC.size, mode="area")
    with torch.no_grad():
        network.train()(SPEC.normalise(small))


@pytest.fixture
def untrained(tmp_path: Path, frames: list[np.ndarray]) -> Callable[[str], Path]:
    """Writes a checkpoint of a network."""

    def write(name: str) -> Path:
        torch.manual_seed(5)
        small = {"backbone": "resnet50", "width": 64}
        chosen: dict[str, Any] = {key: value for key, value in small.items() if key in options(name)}
        network = networks.build(name, CITYSCAPES19.num_classes, **chosen)
        settle(network, frames)
        checkpoint.save(tmp_path / f"{name}.safetensors", network, Contract(name, chosen, CITYSCAPES19, SPEC))
        return tmp_path / f"{name}.safetensors"

    return write


@pytest.mark.parametrize("name", networks.names())
def test_the_node_publishes_what_segmenter_says(
    name: str, untrained: Callable, frames: list[np.ndarray], running: Any, peer: Any
) -> None:
    path = untrained(name)
    segmenter = Segmenter.load(path, device="cpu")
    assert peer.set_parameter("model", str(path)).successful
    peer.wait_for_values("model", model=name, model_hash=segmenter.sha256)
    masks = peer.listen(LABEL)
    publisher = peer.publisher("/camera/image_raw", Image)
    for frame in frames[:2]:
        expected = segmenter(frame).label
        assert expected.shape == frame.shape[:2] and len(np.unique(expected)) > 1
        mask = peer.answer(publisher, to_image(frame, peer.header(), "bgr8"), masks)
        assert np.array_equal(decode_label(mask), expected)
