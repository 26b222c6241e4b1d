"""Exported files run as models everywhere, and label as the checkpoint does."""

import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import CheckpointError, Contract, InputSpec
from drive_seg.cli import app
from drive_seg.inference.export import export
from drive_seg.inference.runtimes import registry
from drive_seg.inference.runtimes.conversion import convertible, to_onnx
from drive_seg.labels import CAMVID11, LabelMap
from drive_seg.networks.catalog import options
from drive_seg.segmenter import Segmenter
from drive_seg.synth import SynthDrive

SIZE = (64, 96)
FORMS = {"onnx": ".onnx", "openvino": ".xml"}


@pytest.fixture(scope="module", autouse=True)
def packages():
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(name)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def settled(network):
    """Batch Norms that have seen images, so that activations stay small and errors as they are."""
    norms = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(4, 3, *SIZE))
    for norm in norms:
        norm.running_var.clamp_(min=1)
    return network.eval()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small checkpoint with classes of its own."""
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    classes = LabelMap("abc", ("a", "b", "c"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    spec = InputSpec(SIZE, "bgr", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    checkpoint.save(path, settled(networks.build("erfnet", 3)), Contract("erfnet", {}, classes, spec, licence="MIT"))
    return checkpoint.load(path)


def street(number=0, size=SIZE):
    return SynthDrive(seed=9, size=(size[1], size[0])).frame(number).image


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("footage")
    for number in range(8):
        cv2.imwrite(str(folder / f"{number}.png"), street(4 * number))
    return folder


def pictures(folder):
    return [cv2.imread(str(file)) for file in sorted(folder.iterdir())]


# One with un-pooling, one of plain convolutions, one on a ResNet: conversion takes long, and that folding changes no
# network and that each goes to ONNX is tested where the networks are.
@pytest.mark.parametrize("name", ["dsnet", "erfnet", "ifbfnet"])
def test_networks_are_converted_with_fbnet_at_all_their_stages(name, tmp_path):
    torch.manual_seed(3)
    wish = {"backbone": "resnet50", "width": 64}
    chosen = {key: value for key, value in wish.items() if key in options(name)}
    with torch.device("meta"):
        chosen["feature_balance"] = list(networks.build(name, 11, **chosen).stages)
    path = tmp_path / "m.safetensors"
    checkpoint.save(
        path, settled(networks.build(name, 11, **chosen)), Contract(name, chosen, CAMVID11, InputSpec(SIZE))
    )
    loaded = checkpoint.load(path)
    graph = to_onnx(convertible(loaded), SIZE)
    image = torch.randn(1, 3, *SIZE)
    with torch.inference_mode():
        logits = loaded.build_network()(image)
    for runtime in ("onnxruntime", "openvino"):
        difference = (registry.get(runtime).load(graph)(image) - logits).abs() / logits.std()
        # Where two values nearly tie for the maximum, rounding decides where they are un-pooled to.
        assert (difference > 1e-3).float().mean() < 0.05 and difference.mean() < 1e-2, runtime


@pytest.mark.parametrize("form", FORMS)
def test_the_file_labels_as_the_checkpoint_does(small, tmp_path, form):
    done = export(small, tmp_path / f"m{FORMS[form]}")
    assert (done.size, done.precision, done.seen_in) == (
        SIZE,
        "fp32",
        "frames of the package",
    ) and done.agreement >= 0.999
    theirs, ours = Segmenter.load(done.path, "cpu"), Segmenter.load(small.path, "cpu", runtime="torch")
    assert theirs.runtime == {"onnx": "onnxruntime", "openvino": "openvino"}[form]
    assert theirs.label_map.names == ("a", "b", "c") and theirs.contract.input == ours.contract.input
    assert theirs.contract.licence == "MIT" and theirs.precision == "fp32"
    image = street(30, (128, 192))
    first, second = ours(image, confidence=True), theirs(image, confidence=True)
    assert len(np.unique(first.label)) > 1 and (first.label == second.label).mean() >= 0.9999
    assert np.abs(first.confidence.astype(int) - second.confidence).max() <= 1
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == sorted(
        {"onnx": [".onnx", ".yaml"], "openvino": [".xml", ".bin", ".yaml"]}[form]
    )


def test_openvino_runs_an_onnx_file_too_when_asked_to(small, tmp_path):
    done = export(small, tmp_path / "m.onnx")
    image = street(12)
    labels = [Segmenter.load(done.path, runtime=name)(image).label for name in ("onnxruntime", "openvino")]
    assert Segmenter.load(done.path, runtime="openvino").runtime == "openvino"
    assert (labels[0] == labels[1]).mean() >= 0.9999
    with pytest.raises(ValueError, match=r"runtime 'torch' cannot run m.onnx: take onnxruntime"):
        Segmenter.load(done.path, runtime="torch")


def test_bf16_is_noted_in_the_file_and_may_be_overruled(small, tmp_path):
    try:
        done = export(small, tmp_path / "m.xml", "bf16")
    except ValueError as error:
        pytest.skip(str(error))
    assert Segmenter.load(done.path).precision == "bf16"
    assert Segmenter.load(done.path, precision="fp32").precision == "fp32"
    assert 0.9 < done.agreement < 1, "bf16 rounds, so this random network's ties fall otherwise"
    with pytest.raises(ValueError, match="precision 'fp16' cannot be had: openvino computes in fp32 or bf16 here"):
        Segmenter.load(done.path, precision="fp16")


def test_int8_is_calibrated_on_footage_and_compared_on_what_it_has_not_seen(small, footage, tmp_path):
    pytest.importorskip("nncf")
    done = export(small, tmp_path / "m.xml", "int8", frames=pictures(footage))
    assert (done.frames, done.seen_in) == (2, "frames that it was not calibrated on")
    segmenter = Segmenter.load(done.path)
    assert segmenter.precision == "int8"
    exact = Segmenter.load(small.path, "cpu", runtime="torch")
    images = [street(number) for number in (0, 16)]
    same = np.mean([exact(image).label == segmenter(image).label for image in images])
    assert same == pytest.approx(done.agreement, abs=0.01) and same > 0.9
    with pytest.raises(ValueError, match="precision 'bf16' cannot be had: m.xml computes in int8"):
        Segmenter.load(done.path, precision="bf16")


def test_another_size_is_that_of_the_file(small, tmp_path):
    done = export(small, tmp_path / "m.onnx", size=(48, 128))
    assert Segmenter.load(done.path).network_size(720, 1280) == (48, 128)
    with pytest.raises(ValueError, match="size 128x50 is not of multiples of 8"):
        export(small, tmp_path / "n.onnx", size=(50, 128))


@pytest.mark.parametrize(
    ("name", "precision", "reason"),
    [
        ("m.engine", "fp32", "m.engine: the file to write ends in .onnx or .xml"),
        ("m.onnx", "int8", "precision 'int8' is not available: .onnx is written in fp32"),
        ("nowhere/m.onnx", "fp32", "nowhere: there is no such folder"),
        ("m.xml", "int8", "int8 is calibrated on images .* name some"),
    ],
)
def test_what_will_not_do_is_said_before_anything_is_written(small, tmp_path, name, precision, reason):
    with pytest.raises(ValueError, match=reason):
        export(small, tmp_path / name, precision)
    assert not any(path.is_file() for path in tmp_path.iterdir())


def test_what_lay_there_stays_when_the_export_fails(small, tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"older")
    monkeypatch.setattr("drive_seg.inference.runtimes.conversion.AGREEMENT", 1.1)
    with pytest.raises(ValueError, match="m.onnx by onnxruntime labels .* it is not used"):
        export(small, path)
    assert path.read_bytes() == b"older" and [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def test_a_missing_nncf_is_named_with_its_extra(small, footage, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(ValueError, match="needs nncf, .* extra 'int8' of drive_seg"):
        export(small, tmp_path / "m.xml", "int8", frames=pictures(footage))


def test_an_openvino_file_without_its_weights_is_refused(small, tmp_path):
    done = export(small, tmp_path / "m.xml")
    done.path.with_suffix(".bin").unlink()
    with pytest.raises(CheckpointError, match=r"m.xml .*openvino .* cannot run it"):
        Segmenter.load(done.path)


def test_the_command_writes_prepares_and_scores(small, tmp_path):
    run = CliRunner()
    data = tmp_path / "data"
    for folder in ("images", "labels"):
        (data / folder).mkdir(parents=True)
    label = Segmenter.load(small.path, "cpu", runtime="torch")(street(3)).label
    cv2.imwrite(str(data / "images" / "a.png"), street(3))
    cv2.imwrite(str(data / "labels" / "a.png"), label)
    command = ["export", "--model", str(small.path), "-o", str(tmp_path / "m.onnx"), "--camera", "192x128"]
    figures = tmp_path / "figures.json"
    done = run.invoke(app, [*command, "--dataset", "folder", "--root", str(data), "--json", str(figures)])
    assert done.exit_code == 0, done.exception
    report = json.loads(figures.read_text())
    assert report["size"] == list(SIZE) and report["agreement"] >= 0.999
    assert report["miou_before"] == 1 and report["miou_after"] > 0.99
    assert Segmenter.load(small.path, "cpu").runtime == "torch"
    prepare = ["prepare", "--model", str(small.path), "--runtime", "onnxruntime", "--json", "-"]
    done = run.invoke(app, prepare)
    assert done.exit_code == 0, done.exception
    report = json.loads(done.stdout)
    assert (report["runtime"], report["size"], report["precision"]) == ("onnxruntime", list(SIZE), "fp32")
    assert report["agreement"] >= 0.999 and Segmenter.load(small.path, "cpu").runtime == "onnxruntime"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--runtime", "torch"], "runtime 'torch' executes a model as it is: there is nothing to prepare"),
        (["--runtime", "tensorrt"], "runtime 'tensorrt' executes a model as it is"),
        (["--runtime", "lion"], "runtime 'lion' is not one of auto, torch"),
        (["--runtime", "onnxruntime", "--size", "100x64"], "size 100x64 is not of multiples of 8"),
        (["--size", "96x64", "--camera", "96x64"], "one of them says the size"),
    ],
)
def test_prepare_refuses_with_one_sentence(small, arguments, reason):
    done = CliRunner().invoke(app, ["prepare", "--model", str(small.path), *arguments])
    assert done.exit_code != 0 and reason in str(done.exception)
