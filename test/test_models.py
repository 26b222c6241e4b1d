"""The files in models/: what each says of itself is true."""

import re

import cv2
import numpy as np
import pytest

from drive_seg import checkpoint, networks
from drive_seg.datasets import open_dataset
from drive_seg.evaluation import dataset as evaluation
from drive_seg.labels import CAMVID11, CITYSCAPES19
from drive_seg.metrics import ConfusionMatrix
from drive_seg.networks import systems
from drive_seg.recordings.sources import open_source
from drive_seg.segmenter import Segmenter
from drive_seg.synth import SynthDrive

MODELS = {
    "dsnet_camvid11": CAMVID11,
    "dsnet_synth19": CITYSCAPES19,
    "swiftnet_fbnet_street19": CITYSCAPES19,
    "swiftnet_road19": CITYSCAPES19,
}


@pytest.mark.parametrize("name", MODELS)
def test_shipped_files_are_whole_small_and_described(name, checkout):
    path = checkpoint.find_model(name)
    loaded = checkpoint.load(path)
    assert loaded.contract.label_map == MODELS[name]
    assert loaded.contract.network == name.partition("_")[0] and loaded.contract.licence
    assert not any("running" not in key and not tensor.isfinite().all() for key, tensor in loaded.tensors.items())
    assert path.stat().st_size < 14_000_000
    card = (checkout / "models" / f"{name}.md").read_text()
    # the card shows the figures that travel inside the file
    score = loaded.contract.metrics["validation"]
    assert f"{100 * score['miou']:.1f}" in card and loaded.sha256[:12] in card
    for class_name, iou in score["iou"].items():
        if iou is not None:  # else the labels hold none of it
            assert re.search(rf"\| {re.escape(class_name)} \| {100 * iou:.1f} \|", card), class_name


def test_the_costs_in_the_docs_are_those_of_the_networks(checkout):
    text = (checkout / "docs" / "models.md").read_text()
    printed = re.findall(r"^\| `(\S+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", text, re.MULTILINE)
    costs = {name: tuple(map(float, figures)) for name, *figures in printed}
    assert {systems.BY_NAME[name].network for name in costs} == set(networks.names())
    rows = [systems.BY_NAME[name] for name in costs]
    small, large = systems.measure(rows, (360, 640)), systems.measure(rows, (1024, 1024))
    for row, other in zip(small, large, strict=True):
        counts = row["parameters"] / 1e6, row["multiply_accumulates"] / 1e9, other["multiply_accumulates"] / 1e9
        assert costs[row["name"]] == tuple(round(count, 2) for count in counts), row["name"]


def test_model_scores_on_camvid_val_what_its_file_says(shared_data):
    segmenter = Segmenter.load("dsnet_camvid11", device="cpu")
    dataset = open_dataset("camvid", root=shared_data / "camvid", split="val")
    matrix = evaluation.evaluate(segmenter, dataset, progress=False)
    assert matrix.miou() == pytest.approx(segmenter.contract.metrics["validation"]["miou"], abs=1e-3)


def test_synth_model_knows_drives_it_was_not_trained_on():
    segmenter = Segmenter.load("dsnet_synth19", device="cpu")
    matrix = ConfusionMatrix(19)
    for seed in (1, 3, 9, 12):
        frame = SynthDrive(seed=seed).frame(40)
        matrix.update(segmenter(frame.image).label, frame.label)
    iou = dict(zip(CITYSCAPES19.names, matrix.iou(), strict=True))
    assert iou["road"] > 0.9 and iou["sky"] > 0.85 and iou["car"] > 0.5
    assert matrix.pixel_accuracy() > 0.75


@pytest.mark.parametrize("name", ["dsnet_camvid11", "swiftnet_fbnet_street19", "swiftnet_road19"])
@pytest.mark.parametrize(
    ("clip", "columns"),
    [
        ("kitti_2011_09_26_urban_1242x374", (0.36, 0.43)),  # the free lane between two queues
        ("udacity_solidWhiteRight_960x540", (0.4, 0.6)),
        ("autoware_vision_pilot_highway_1024x512", (0.4, 0.6)),
    ],
)
def test_models_find_the_road_on_real_clips(name, clip, columns, shared_data):
    """A patch where a person sees nothing but road is mostly road; the label has the clip's own size."""
    segmenter = Segmenter.load(name, device="cpu")
    road = [known.lower() for known in segmenter.label_map.names].index("road")
    shares = []
    for record in open_source(shared_data / "clips" / f"{clip}.mp4", frames=3):
        image = record.image()
        label = segmenter(image).label
        height, width = image.shape[:2]
        assert label.shape == (height, width) and clip.endswith(f"{width}x{height}")
        left, right = (int(share * width) for share in columns)
        patch = label[int(0.75 * height) : int(0.95 * height), left:right]
        shares.append((patch == road).mean())
    assert len(shares) == 3 and np.mean(shares) > 0.6


def test_segmenting_a_jpeg_of_a_frame_changes_little(tmp_path):
    """What compressed transport does to the mask: a JPEG of quality 90 keeps nearly every pixel's class."""
    segmenter = Segmenter.load("dsnet_synth19", device="cpu")
    image = SynthDrive(seed=5).frame(10).image
    ok, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert ok
    again = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    assert (segmenter(again).label == segmenter(image).label).mean() > 0.9
