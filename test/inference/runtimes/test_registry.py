"""One list of runtimes: what users may ask for, and what is said of it, is made from it; listing it imports nothing."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from drive_seg import checkpoint, networks
from drive_seg.bench import ways
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.inference.runtimes import registry
from drive_seg.inference.runtimes.entry import Runs, RuntimeEntry
from drive_seg.inference.runtimes.pytorch import TorchRuntime
from drive_seg.labels import CAMVID11
from drive_seg.segmenter import Segmenter


def test_what_users_may_ask_for():
    assert registry.names() == ("auto", "torch", "native", "inductor", "onnxruntime", "openvino", "tensorrt")
    assert registry.precisions() == ("auto", "fp32", "fp16", "bf16", "int8")
    assert [entry.name for entry in registry.fastest_first()] == ["native", "inductor", "openvino", "onnxruntime"]
    assert [entry.name for entry in registry.for_file(Path("a.XML"))] == ["openvino"]
    assert [entry.name for entry in registry.for_file(Path("a.onnx"), "cuda")] == ["onnxruntime", "tensorrt"]
    with pytest.raises(ValueError, match="runtime 'lion' is not one of auto, torch, native"):
        registry.get("lion")


def test_what_is_said_of_them():
    assert registry.runtime_help() == (
        "auto (the fastest that is installed and prepared), torch, native, inductor, onnxruntime or openvino; for an "
        "ONNX file on a GPU also tensorrt"
    )
    assert registry.precision_help() == (
        "auto (fp16 on CUDA, fp32 on the CPU), fp32, fp16, bf16, or int8 with the runtime native"
    )
    assert registry.preparable_help() == "native, inductor, onnxruntime or openvino"
    rows = registry.table().splitlines()
    assert len({row.count("|") for row in rows}) == 1
    assert [row.split("`")[1] for row in rows[2:]] == list(registry.names()[1:])


def test_the_documentation_has_their_table(checkout):
    assert registry.table() in (checkout / "docs" / "performance.md").read_text(), "copy registry.table() there"


def test_what_one_does_not_execute_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="runtime 'tensorrt' executes no checkpoints"):
        registry.get("tensorrt").open(None, "auto", "auto", 0, (8, 8), print)
    with pytest.raises(ValueError, match="runtime 'native' executes no files"):
        registry.get("native").open_file(None, "cpu", "auto", 0)


def test_each_declares_what_it_needs():
    for entry in registry.RUNTIMES:
        assert entry.checkpoints or entry.files
        assert bool(entry.package) == bool(entry.extra) and entry.about
        assert bool(entry.priority) <= bool(entry.preparation) and set(entry.versions()) <= set(entry.distributions)
        for runs in (entry.checkpoints, entry.files):
            assert runs is None or set(runs.devices) <= {"cpu", "cuda"}
    assert "torch" in registry.versions()


def test_the_benchmark_times_each_in_each_precision():
    timed = [(way.runtime, way.precision) for way in ways.ways("cpu")]
    assert timed == [
        ("torch eager", "fp32"), ("torch", "fp32"), ("torch", "bf16"),
        ("native", "fp32"), ("native", "bf16"), ("native", "int8"),
        ("inductor", "fp32"), ("inductor", "bf16"),
        ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"),
    ]  # fmt: skip
    assert {way.runtime for way in ways.ways("cuda:0")} == {"torch eager", "torch", "inductor"}


class Toy(RuntimeEntry):
    """A runtime as a user would add it."""

    name, about, checkpoints = "toy", "a toy", Runs(("cpu",), ("fp32", "fp64"))

    def open(self, loaded, device, precision, threads, size, tell):
        opened = TorchRuntime(loaded.build_network(), self.choose_device(device), "fp32")
        opened.name = self.name
        return opened


def test_a_new_one_takes_one_entry(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "RUNTIMES", (*registry.RUNTIMES, Toy()))
    assert registry.names()[-1] == "toy" and "openvino or toy; for an ONNX" in registry.runtime_help()
    assert "| `toy` | a toy | fp32, fp64 on cpu |" in registry.table()
    assert ("toy", "fp64") in [(way.runtime, way.precision) for way in ways.ways("cpu")]
    torch.manual_seed(2)
    path = tmp_path / "m.safetensors"
    checkpoint.save(path, networks.build("dsnet", 11), Contract("dsnet", {}, CAMVID11, InputSpec((64, 96))))
    segmenter = Segmenter.load(path, runtime="toy")
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    assert segmenter.runtime == "toy" and segmenter(image).label.shape == (64, 96)
    with pytest.raises(ValueError, match="device 'cuda' cannot be had: toy runs checkpoints on the cpu"):
        Segmenter.load(path, runtime="toy", device="cuda")


def test_listing_them_imports_neither_torch_nor_a_package_of_theirs():
    cli = "drive_seg.cli, " if find_spec("typer") else ""  # not on a vehicle
    code = f"import sys, {cli}drive_seg.inference.runtimes.registry as r; r.table(); "
    code += "print(sorted({'torch', 'onnxruntime', 'openvino', 'cv2', 'lightning'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert answer.stdout.strip() == "[]"
