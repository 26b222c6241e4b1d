"""A user's own file keeps its temperature in its contract; every runtime divides by it, and export hands it on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from drive_seg.checkpoint import Checkpoint, CheckpointError, Contract, InputSpec
from drive_seg.confidence import Confidence, Usual
from drive_seg.inference import export
from drive_seg.inference.runtimes.files import onnx_file
from drive_seg.labels import CAMVID11
from drive_seg.segmenter import Segmenter

onnx = pytest.importorskip("onnx")
SIZE = (32, 48)
CONTRACT = {
    "label_map": [{"id": i, "name": name, "color": [i, i, i]} for i, name in enumerate(("red", "green", "blue"))],
    "channel_order": "rgb",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "input_size": list(SIZE),
    "output": "logits",
    "licence": "none",
}
USUAL = Usual(7, 0.9, 0.5, "some")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A network whose logits are three times its input."""
    shape = [1, 3, *SIZE]
    nodes = [onnx.helper.make_node("Add", ["x", "x"], ["xx"]), onnx.helper.make_node("Add", ["x", "xx"], ["logits"])]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "logits")]
    graph = onnx.helper.make_graph(nodes, "toy", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "toy.onnx")
    return tmp_path / "toy.onnx"


def write(file: Path, **more: object) -> Path:
    onnx_file.contract_path(file).write_text("# made by hand\n" + yaml.safe_dump({**CONTRACT, **more}))
    return file


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(90, 160, (*SIZE, 3), np.uint8)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_runtime_divides_by_it(file: Path, runtime: str) -> None:
    pytest.importorskip(runtime)
    plain = Segmenter.load(write(file), runtime=runtime)
    logits = plain.logits(picture()).float()
    before = plain(picture(), confidence=True)
    ours = Segmenter.load(write(file, confidence={"temperature": 2.5}), runtime=runtime)
    found = ours(picture(), confidence=True)
    assert np.array_equal(found.label, before.label) and ours.sha256 != plain.sha256
    wanted = 255 * (logits / 2.5).softmax(1).amax(1)[0]
    assert (torch.from_numpy(found.confidence) - wanted).abs().max() < 0.51
    assert (before.confidence - 255 * logits.softmax(1).amax(1)[0].numpy()).max() < 0.51


def test_what_cannot_be_is_refused_with_the_file_and_the_key(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"toy.contract.yaml: confidence has no key 'temp'; the keys are"):
        onnx_file.read(write(file, confidence={"temp": 2}))
    with pytest.raises(CheckpointError, match="temperature 0.0 is not from 0.05 to 20"):
        onnx_file.read(write(file, confidence={"temperature": 0.0}))


def test_export_writes_it_into_the_contract(tmp_path: Path) -> None:
    confidence = Confidence(1.7, "some", USUAL)
    contract = Contract("dsnet", {}, CAMVID11, InputSpec(SIZE), licence="free", confidence=confidence)
    text = export._contract(Checkpoint(tmp_path / "m.safetensors", contract, {}, "00"), SIZE)
    (tmp_path / "m.contract.yaml").write_text(text)
    assert onnx_file.read_contract(tmp_path / "m.onnx").confidence == confidence
    plain = export._contract(
        Checkpoint(tmp_path / "m", dataclasses.replace(contract, confidence=Confidence()), {}, ""), SIZE
    )
    assert "confidence" not in yaml.safe_load(plain)


def test_calibrate_writes_the_contract_again(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import cv2

    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    label = np.random.default_rng(1).integers(0, 3, SIZE).astype(np.uint8)
    right = Segmenter.load(write(file), runtime="onnxruntime")(picture()).label
    cv2.imwrite(str(tmp_path / "images" / "0.png"), picture())
    cv2.imwrite(str(tmp_path / "labels" / "0.png"), np.where(np.arange(SIZE[1]) % 3 == 0, label, right))
    output = onnx_file.contract_path(file)
    arguments = ["calibrate", "--model", str(file), "--dataset", "folder", "--root", str(tmp_path), "-o", str(output)]
    command_line = pytest.importorskip("drive_seg.cli", exc_type=ImportError)
    ran = pytest.importorskip("typer.testing").CliRunner().invoke(command_line.app, arguments)
    assert ran.exit_code == 0, ran.output
    assert output.read_text().startswith("# made by hand\n")
    confidence = onnx_file.read(file).contract.confidence
    assert confidence.temperature != 1 and confidence.fitted_on == "folder, 1 image" and confidence.usual.frames == 1
