"""The road from an image to its label."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import CheckpointError, Contract, InputSpec
from drive_seg.confidence import Confidence, Usual
from drive_seg.inference.decision import SPARSE, decide, to_size
from drive_seg.inference.runtimes import Runtime
from drive_seg.inference.runtimes.pytorch import TorchRuntime
from drive_seg.labels import CAMVID11
from drive_seg.segmenter import NotFiniteError, Segmentation, Segmenter, choose_device


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("models") / "m.safetensors"
    checkpoint.save(path, networks.build("dsnet", 11), Contract("dsnet", {}, CAMVID11, InputSpec((96, 128))))
    return path


@pytest.fixture(scope="module")
def segmenter(path):
    return Segmenter.load(path, device="cpu")


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


class Colours(torch.nn.Module):
    """A network whose class is the strongest of its three input channels: geometry and channel order become visible."""

    def forward(self, x):
        return x


def colour_segmenter(size, **spec):
    names = CAMVID11.__class__("rgb", ("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    contract = Contract("dsnet", {}, names, InputSpec(size, mean=(0, 0, 0), std=(1, 1, 1), **spec))
    return Segmenter(Colours(), contract, device="cpu")


def test_label_equals_the_obvious_slow_road(segmenter):
    """At the network's own size nothing is resized: normalise, network, argmax."""
    image = picture(96, 128)
    rgb = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    spec = segmenter.contract.input
    x = (rgb - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1)
    with torch.no_grad():
        logits = segmenter._network(x)
    result = segmenter(image, confidence=True)
    assert (result.label == logits[0].argmax(0).numpy()).mean() > 0.9999
    expected = (255 * F.softmax(logits[0], 0).max(0).values).round().numpy()
    assert np.abs(result.confidence.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(96, 128), (97, 131), (270, 480), (50, 300), (360, 64)])
def test_label_has_the_image_size(segmenter, size):
    result = segmenter(picture(*size), confidence=True)
    assert isinstance(result, Segmentation)
    assert result.label.shape == result.confidence.shape == size
    assert result.label.dtype == result.confidence.dtype == np.uint8
    assert result.label.flags.c_contiguous and result.label.max() < 11


def test_confidence_is_left_out_unless_asked_for(segmenter):
    image = picture(96, 128)
    assert segmenter(image).confidence is None
    assert (segmenter(image).label == segmenter(image, confidence=True).label).all()


@pytest.mark.parametrize("size", [(96, 128), (97, 131)])
def test_label_and_logits_are_those_of_one_run(segmenter, size, monkeypatch):
    image, runs = picture(*size), []
    run = TorchRuntime.__call__
    monkeypatch.setattr(TorchRuntime, "__call__", lambda self, batch: runs.append(1) or run(self, batch))
    label, logits = segmenter.label_and_logits(image)
    assert len(runs) == 1
    assert (label == segmenter(image).label).all() and logits.equal(segmenter.logits(image))


def test_a_temperature_changes_the_confidence_and_no_label(segmenter):
    image = picture(97, 131)
    contract = dataclasses.replace(segmenter.contract, confidence=Confidence(0.1))
    cooler = Segmenter(segmenter._network, contract, device="cpu")
    plain, result = segmenter(image, confidence=True), cooler(image, confidence=True)
    assert (result.label == plain.label).all()
    shares = F.softmax(segmenter.logits(image).float() / 0.1, 1).max(1).values
    expected = to_size((255 * shares).round().to(torch.uint8)[0], (97, 131)).numpy()
    assert np.abs(result.confidence.astype(int) - expected).max() <= 1
    assert result.confidence.mean() > plain.confidence.mean() + 5


class Deciding(Runtime):
    """A runtime that decides and notes how it was asked."""

    name, device, tensor_device, precision, dtype = "toy", "cpu", "cpu", "fp32", torch.float32
    decides = True

    def __init__(self):
        self.asked = []

    def __call__(self, batch):
        return batch

    def decide(self, batch, confidence, temperature=1.0, frame_temperature=None):
        self.asked.append((confidence, temperature, frame_temperature))
        return *decide(batch, confidence, temperature), decide(batch[:, :, ::SPARSE], True, frame_temperature or 1.0)[1]


def test_a_runtime_that_decides_is_given_the_temperature():
    contract = dataclasses.replace(colour_segmenter((96, 128)).contract, confidence=Confidence(0.5))
    runtime, image = Deciding(), picture(96, 128)
    found = Segmenter(runtime, contract)(image, confidence=True, frame_confidence=True)
    wanted = Segmenter(Colours(), contract, device="cpu")(image, confidence=True, frame_confidence=True)
    assert runtime.asked == [(True, 0.5, 1.5)]
    assert (found.confidence == wanted.confidence).all() and (found.label == wanted.label).all()
    assert found.frame_confidence == wanted.frame_confidence


@pytest.mark.parametrize("size", [(96, 128), (270, 480)], ids=str)
def test_the_confidence_of_a_frame_is_taken_of_some_rows_at_its_own_temperature(segmenter, size):
    image = picture(*size)
    rows = decide(segmenter.logits(image)[:, :, ::SPARSE], True, 3 * 0.5)[1][0].numpy()
    contract = dataclasses.replace(segmenter.contract, confidence=Confidence(0.5, usual=Usual.of([rows])))
    ours = Segmenter(segmenter._network, contract)
    alone, both = ours(image, frame_confidence=True), ours(image, confidence=True, frame_confidence=True)
    assert alone.confidence is None and both.confidence.shape == size and (alone.label == both.label).all()
    assert alone.frame_confidence == both.frame_confidence == contract.confidence.of_frame(rows)
    assert alone.frame_confidence.sure == pytest.approx(contract.confidence.usual.sure, abs=1e-4)
    assert ours(image, confidence=True).frame_confidence is None, "unless asked for"
    assert segmenter(image, frame_confidence=True).frame_confidence.sure is None, "the contract does not say"
    several = ours([image, picture(97, 131, seed=1)], confidence=True, frame_confidence=True)
    assert several[0].frame_confidence == both.frame_confidence != several[1].frame_confidence


def test_channel_order_and_geometry():
    """Blue left, red right, green corner: classes come out where the colours are, at a size that must be resized."""
    image = np.zeros((180, 320, 3), np.uint8)
    image[:, :160] = (255, 0, 0)  # BGR blue
    image[:, 160:] = (0, 0, 255)  # red
    image[:60, :80] = (0, 255, 0)
    label = colour_segmenter((90, 160))(image).label
    assert (label[70:, :150] == 2).all() and (label[:, 170:] == 0).all() and (label[:50, :70] == 1).all()
    assert (colour_segmenter((90, 160), channel_order="bgr")(image).label[70:, :150] == 0).all()


@pytest.mark.parametrize("confidence", [False, True])
def test_an_image_without_finite_logits_has_no_label(confidence):
    """The blue class of this network divides by the red of the image."""

    class Fraction(torch.nn.Module):
        def forward(self, x):
            return torch.cat([x[:, :2], x[:, 2:] / x[:, :1]], 1)

    segmenter = colour_segmenter((16, 32))
    own = Segmenter(Fraction(), segmenter.contract, device="cpu")
    image = np.full((16, 32, 3), 90, np.uint8)
    assert (own(image, confidence).label == 2).all()
    image[:4, :, 2] = 0
    with pytest.raises(NotFiniteError, match=r"not finite \(NaN or infinite\) at 25.0% of the pixels"):
        own(image, confidence)
    image[:4, :, 0] = 0  # 0 / 0
    with pytest.raises(NotFiniteError):
        own([np.full((16, 32, 3), 90, np.uint8), image], confidence)


def test_borders_stay_within_half_a_network_pixel():
    image = np.zeros((1080, 1920, 3), np.uint8)
    image[:, :1000] = (255, 0, 0)
    image[:, 1000:] = (0, 0, 255)
    segmenter = colour_segmenter((360, 640))
    height, width = segmenter.network_size(1080, 1920)
    assert (height, width) == (360, 640)
    edge = np.flatnonzero(np.diff(segmenter(image).label[500].astype(int)))
    assert len(edge) == 1 and abs(edge[0] + 1 - 1000) <= 1.5


def test_a_thin_pole_of_a_large_image_is_not_skipped():
    image = np.zeros((720, 1280, 3), np.uint8)
    image[:, 401:402] = (0, 0, 200)  # one pixel wide, seen at a quarter of the size
    image[..., 0] = 20
    assert (colour_segmenter((180, 320))(image).label == 0).any(1).all()


@pytest.mark.parametrize(
    ("camera", "seen"),
    [
        ((96, 128), (96, 128)),
        ((720, 960), (96, 128)),
        ((720, 1280), (80, 144)),
        ((375, 1242), (64, 200)),
        ((8, 800), (8, 1112)),
    ],
)
def test_aspect_is_kept_at_the_checkpoints_pixel_count(segmenter, camera, seen):
    height, width = segmenter.network_size(*camera)
    assert (height, width) == seen
    assert height % 8 == width % 8 == 0


def test_input_size_overrides_the_contract(path):
    segmenter = Segmenter.load(path, device="cpu", input_size=(192, 256))
    assert segmenter.network_size(480, 640) == (192, 256)
    with pytest.raises(ValueError, match="at least 8"):
        Segmenter.load(path, device="cpu", input_size=(4, 256))


def test_a_list_gives_what_its_images_give_alone(segmenter):
    images = [picture(96, 128, 1), picture(50, 300, 2), picture(96, 128, 3), picture(480, 640, 4)]
    together = segmenter(images, confidence=True)
    assert len(together) == 4
    for image, result in zip(images, together, strict=True):
        alone = segmenter(image, confidence=True)
        assert (result.label == alone.label).all() and (result.confidence == alone.confidence).all()
    assert segmenter([]) == []


def test_images_of_one_network_size_form_a_batch_on_a_gpu(segmenter):
    images = [np.zeros((*size, 3), np.uint8) for size in ((96, 128), (50, 300), (192, 256))]
    assert segmenter._batches(images) == [((96, 128), [0]), ((48, 272), [1]), ((96, 128), [2])]
    elsewhere = object.__new__(Segmenter)
    elsewhere.__dict__.update(segmenter.__dict__, device="cuda")
    assert elsewhere._batches(images) == [((96, 128), [0, 2]), ((48, 272), [1])]


def test_deterministic_on_the_cpu(segmenter, path):
    image = picture(270, 480)
    first = segmenter(image, confidence=True)
    for other in (segmenter, Segmenter.load(path, device="cpu")):
        again = other(image, confidence=True)
        assert (again.label == first.label).all() and (again.confidence == first.confidence).all()


def test_non_contiguous_and_read_only_images(segmenter):
    image = picture(96, 256)
    view = image[:, ::2]
    frozen = np.ascontiguousarray(view)
    frozen.flags.writeable = False
    assert (segmenter(view).label == segmenter(frozen).label).all()


def test_stages_are_timed_and_add_up_over_calls(segmenter):
    stages = {}
    segmenter(picture(96, 128), stages=stages)
    assert set(stages) == {"preprocess", "network", "postprocess"} and min(stages.values()) > 0
    first = dict(stages)
    segmenter(picture(96, 128), stages=stages)
    assert all(stages[name] > first[name] for name in stages)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3)),
        np.zeros((0, 10, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(segmenter, image):
    with pytest.raises(ValueError, match="must be uint8"):
        segmenter(image)


def test_bf16_agrees_with_fp32_on_a_smooth_image(path, segmenter):
    image = picture(96, 128)
    assert (Segmenter.load(path, device="cpu", precision="bf16")(image).label == segmenter(image).label).mean() > 0.9


def test_devices_and_precisions_that_are_not_there(path):
    assert choose_device("cpu") == "cpu"
    for wish in ("gpu", "cuda:x", "cpu:1"):
        with pytest.raises(ValueError, match="not one of auto, cpu, cuda, cuda:N"):
            choose_device(wish)
    with pytest.raises(ValueError, match="device 'cuda:99' is not there"):
        choose_device("cuda:99")
    with pytest.raises(ValueError, match="precision 'int4' is not one of"):
        Segmenter.load(path, device="cpu", precision="int4")


def test_a_broken_file_is_a_checkpoint_error(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        Segmenter.load(tmp_path / "x.safetensors")


def test_warm_up_takes_any_sizes(segmenter):
    segmenter.warm_up([(96, 128), (50, 300)])
