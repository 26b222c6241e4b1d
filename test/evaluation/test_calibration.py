"""A temperature is found again that was put in, on classes and on groups; what cannot be fitted is refused."""

import json

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.cli import app
from drive_seg.evaluation.calibration import calibrate, minimum
from drive_seg.labels import CAMVID11, CITYSCAPES19
from drive_seg.segmenter import Segmenter

SIZE = (96, 160)


class Noise(torch.nn.Module):
    """Logits that are random for each pixel and image, times a factor."""

    def __init__(self, classes: int, factor: float = 1.0) -> None:
        super().__init__()
        self.classes, self.factor = classes, factor

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        seed = int(x.double().abs().sum() * 1000) % 2**31
        return 2 * torch.randn(len(x), self.classes, *x.shape[-2:], generator=torch.Generator().manual_seed(seed))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * self.plain(x)


class Drawn:
    """Images whose labels are drawn from the probabilities that a network without a factor gives."""

    cache_folder, problems = None, ()

    def __init__(self, label_map, network, count=6, merge=None):
        self.label_map, self._count, self._merge = label_map, count, merge
        self._segmenter = segmenter(network, label_map if merge is None else CITYSCAPES19)

    def __len__(self):
        return self._count

    def read(self, i):
        image = np.random.default_rng(i).integers(0, 256, (*SIZE, 3), np.uint8)
        shares = self._segmenter.logits(image)[0].softmax(0).flatten(1).T
        label = torch.multinomial(shares, 1, generator=torch.Generator().manual_seed(i)).view(SIZE).numpy()
        label = label.astype(np.uint8)
        if self._merge is not None:
            label = self._merge[label]
        label[:8] = 255
        return image, label

    def name_of(self, i):
        return str(i)


def segmenter(network, label_map, confidence=None):
    spec = InputSpec(SIZE, mean=(0, 0, 0), std=(1, 1, 1))
    contract = Contract("", {}, label_map, spec, **({} if confidence is None else {"confidence": confidence}))
    return Segmenter(network, contract, device="cpu")


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(factor: float) -> None:
    found = calibrate(segmenter(Noise(11, factor), CAMVID11), Drawn(CAMVID11, Noise(11)), "noise", progress=False)
    assert found.confidence.temperature == pytest.approx(factor, rel=0.06)
    assert found.confidence.fitted_on == "noise, 6 images" and found.pixels == 6 * 11 * 40
    assert found.nll[0] <= found.nll[1] + 1e-9
    assert found.reliability.error() < 0.06
    if factor != 1.0:
        assert found.to_dict()["reliability"]["before"]["expected_calibration_error"] > 0.12
    assert found.confidence.usual.frames == 6 and 0.45 < found.confidence.usual.sure < 0.6


def test_what_the_contract_says_already_is_not_fitted_upon() -> None:
    before = calibrate(segmenter(Noise(11, 2.0), CAMVID11), Drawn(CAMVID11, Noise(11)), "noise", progress=False)
    again = segmenter(Noise(11, 2.0), CAMVID11, before.confidence)
    assert calibrate(again, Drawn(CAMVID11, Noise(11)), "noise", progress=False).confidence == before.confidence


def test_groups_count_as_the_sum_of_their_classes() -> None:
    from drive_seg.labels.groups import known_meaning

    meaning = known_meaning("camvid11", "cityscapes19")
    merge = np.full(256, 255, np.uint8)
    for i, name in enumerate(CAMVID11.names):
        for member in meaning[name]:
            merge[CITYSCAPES19.names.index(member)] = i
    found = calibrate(
        segmenter(Noise(19, 2.5), CITYSCAPES19), Drawn(CAMVID11, Noise(19), merge=merge), "groups", progress=False
    )
    assert found.confidence.temperature == pytest.approx(2.5, rel=0.06)
    assert found.reliability.error() < 0.06


def test_golden_section_finds_a_minimum() -> None:
    assert minimum(lambda t: (np.log(t) - np.log(1.7)) ** 2) == pytest.approx(1.7, rel=1e-3)


def test_labels_that_bound_no_temperature_are_refused() -> None:
    with pytest.raises(ValueError, match="runs to 0.05.*, as where nearly every pixel is right"):
        minimum(lambda t: t)
    with pytest.raises(ValueError, match="labels have nothing to do with what the model says"):
        minimum(lambda t: -t)


def test_nothing_labelled_is_refused() -> None:
    dataset = Drawn(CAMVID11, Noise(11), count=1)
    dataset.read = lambda i: (np.zeros((*SIZE, 3), np.uint8), np.full(SIZE, 255, np.uint8))
    with pytest.raises(ValueError, match="empty has no labelled pixel"):
        calibrate(segmenter(Noise(11), CAMVID11), dataset, "empty", progress=False)


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "m.safetensors"
    contract = Contract("dsnet", {}, CITYSCAPES19, InputSpec((48, 88)), metrics={"validation": {"miou": 0.25}})
    network = networks.build("dsnet", 19).eval()
    with torch.no_grad():
        spread = network(torch.randn(1, 3, 48, 88)).std()
        network.fullconv.weight.mul_(2 / spread)  # as sure as trained ones are
    checkpoint.save(path, network, contract)
    return path


@pytest.fixture
def labelled(model, tmp_path):
    """A folder of images whose labels are what the model says, but for a third of the pixels."""
    segmenter, rng = Segmenter.load(model, runtime="torch"), np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for i in range(3):
        image = rng.integers(0, 256, (48, 88, 3), np.uint8)
        label = np.where(rng.random((48, 88)) < 1 / 3, rng.integers(0, 19, (48, 88)), segmenter(image).label)
        cv2.imwrite(str(tmp_path / "data" / "images" / f"{i}.png"), image)
        cv2.imwrite(str(tmp_path / "data" / "labels" / f"{i}.png"), label.astype(np.uint8))
    return tmp_path / "data"


def test_the_command_writes_the_same_weights_with_a_temperature(model, labelled, tmp_path) -> None:
    out, figures = tmp_path / "calibrated.safetensors", tmp_path / "figures.json"
    arguments = [
        "calibrate",
        "--model",
        str(model),
        "--dataset",
        "folder",
        "--root",
        str(labelled),
        "--runtime",
        "torch",
    ]
    ran = CliRunner().invoke(app, [*arguments, "-o", str(out), "--json", str(figures)])
    assert ran.exit_code == 0, ran.output
    before, after, report = checkpoint.load(model), checkpoint.load(out), json.loads(figures.read_text())
    assert all(torch.equal(after.tensors[name], tensor) for name, tensor in before.tensors.items())
    confidence = after.contract.confidence
    assert confidence.temperature == report["temperature"] != 1
    assert confidence.fitted_on == "folder, 3 images" and after.sha256 != before.sha256
    assert confidence.usual.frames == 3 and confidence.usual.data == "folder, 3 images"
    assert after.contract.metrics["validation"] == {"miou": 0.25}
    assert after.contract.metrics["calibration"]["nll"] == round(report["nll"], 4)
    image = cv2.imread(str(labelled / "images" / "0.png"))
    plain, sure = Segmenter.load(model, runtime="torch"), Segmenter.load(out, runtime="torch")
    assert np.array_equal(plain(image).label, sure(image).label)
    assert not np.array_equal(plain(image, confidence=True).confidence, sure(image, confidence=True).confidence)


def test_a_result_of_another_kind_is_refused_before_any_work(model, tmp_path) -> None:
    ran = CliRunner().invoke(app, ["calibrate", "-m", str(model), "--dataset", "synth", "-o", str(tmp_path / "m.onnx")])
    assert isinstance(ran.exception, ValueError)
    assert str(ran.exception).endswith("m.onnx: the result for m.safetensors is a .safetensors file")
