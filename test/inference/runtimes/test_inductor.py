"""Compiled code labels as PyTorch does, is chosen first, and is never loaded for another key."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from drive_seg import checkpoint
from drive_seg.inference.runtimes import cache, host, inductor, registry
from drive_seg.inference.runtimes.conversion import ConversionError, convertible
from drive_seg.inference.runtimes.native import Native
from drive_seg.networks.fold import fold
from drive_seg.segmenter import Segmenter
from drive_seg.synth import SynthDrive

MODEL = "dsnet_camvid11"
PRECISIONS = inductor.precisions()

needs_compiler = pytest.mark.skipif(not host.can_compile(), reason="there is no C++ compiler")
each_precision = pytest.mark.parametrize("precision", PRECISIONS)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def packages():
    """The shipped model and its code by precision, compiled once."""
    loaded = checkpoint.load(checkpoint.find_model(MODEL))
    made = {}

    def package(precision):
        if precision not in made:
            network = convertible(loaded)
            made[precision] = inductor.compile_network(network, loaded.contract.input.size, precision)
        cache.write(form(precision), loaded.sha256, loaded.contract.input.size, made[precision])
        return loaded

    return package


def form(precision):
    return registry.get("inductor").form(precision)


def street(number=20):
    return SynthDrive(seed=7, size=(640, 480)).frame(number).image


def agreement(precision, images):
    told = []
    exact = Segmenter.load(MODEL, "cpu", "fp32", runtime="torch")
    other = Segmenter.load(MODEL, "cpu", precision, runtime="inductor", tell=told.append)
    assert (other.runtime, other.precision, other.device) == ("inductor", precision, "cpu")
    answers = [(exact(image, confidence=True), other(image, confidence=True)) for image in images]
    assert told == [], "the code itself labelled, and PyTorch nothing for it"
    if precision == "fp32":
        # Where two values nearly tie for a maximum, rounding decides where they are un-pooled to.
        assert all((np.abs(a.confidence.astype(int) - b.confidence) > 1).mean() < 1e-3 for a, b in answers)
    return np.mean([a.label == b.label for a, b in answers])


# Half precision: see test_runtimes.py.
@needs_compiler
@each_precision
def test_real_frames_are_labelled_as_pytorch_does(packages, shared_data, precision):
    packages(precision)
    files = sorted((shared_data / "camvid" / "val" / "images").glob("*.jpg"))[::40]
    assert agreement(precision, [cv2.imread(str(file)) for file in files]) >= {"fp32": 0.9999, "bf16": 0.99}[precision]


@needs_compiler
@each_precision
def test_synthetic_frames_are_labelled_as_pytorch_does(packages, precision):
    packages(precision)
    assert agreement(precision, [street(), street(3)]) >= {"fp32": 0.9999, "bf16": 0.97}[precision]


@needs_compiler
def test_auto_takes_it_first_and_never_half_precision_by_itself(packages):
    loaded, size = packages("fp32"), (360, 480)
    cache.write(registry.get("onnxruntime").form(), loaded.sha256, size, b"not opened")
    assert Segmenter.load(MODEL, "cpu").runtime == "inductor"
    assert Segmenter.load(MODEL, "cpu", runtime="torch").runtime == "torch"
    (cache.root() / loaded.sha256 / "inductor-fp32-cpu-360x480.graph").rename(
        cache.root() / loaded.sha256 / "inductor-bf16-cpu-360x480.graph"
    )
    assert cache.prepared_sizes(form("bf16"), loaded.sha256) == [], "its key says fp32"


@needs_compiler
def test_any_number_of_threads_gives_the_same(packages):
    packages("fp32")
    before = torch.get_num_threads()
    try:
        labels = [Segmenter.load(MODEL, "cpu", runtime="inductor", threads=n)(street()).label for n in (1, 3)]
        assert torch.get_num_threads() == 3 and (labels[0] == labels[1]).mean() > 0.9999
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_running_takes_no_compiler(packages):
    packages("fp32")
    script = (
        "import sys; from drive_seg.segmenter import Segmenter; import numpy as np;"
        f"s = Segmenter.load('{MODEL}', 'cpu'); s(np.zeros((360, 480, 3), np.uint8)); print(s.runtime);"
        "print('torch._inductor.codecache' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "CXX": "/bin/false"}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["inductor", "False"], done.stderr


@needs_compiler
def test_what_is_no_package_is_a_sentence():
    with pytest.raises(ValueError, match=r"PyTorch .* cannot load its machine code"):
        inductor.open_compiled(b"no package")


# The key


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_code_comes_back_for_its_key_alone(monkeypatch, precision):
    kept, size = form(precision), (8, 16)
    file = cache.write(kept, "ab", size, b"code")
    assert cache.read(kept, "ab", size) == b"code" and cache.prepared_sizes(kept, "ab") == [size]
    key = json.loads(file.read_bytes().split(b"\n")[0])
    assert {"checkpoint", "size", "precision", "torch", "torch_build", "processor", "processor_flags"} < set(key)
    for name, value in key.items():
        other = {**key, name: [9, 9] if name == "size" else f"{value}x"}
        file.write_bytes(cache.canonical_json(other).encode() + b"\ncode")
        assert cache.read(kept, "ab", size) is None, name
        assert name == "graph" or cache.prepared_sizes(kept, "ab") == []


def test_code_of_another_key_is_never_opened(monkeypatch, tmp_path):
    loaded = checkpoint.load(checkpoint.find_model(MODEL))
    cache.write(form("fp32"), loaded.sha256, (360, 480), b"code")
    monkeypatch.setattr(host, "_processor", lambda: {"model name": "another", "flags": "sse2"})
    monkeypatch.setattr(inductor, "open_compiled", lambda *_: pytest.fail("it was opened"))
    assert Segmenter.load(MODEL, "cpu").runtime == "torch"
    assert inductor.precisions() == ("fp32",) or host.platform.machine() not in ("x86_64", "AMD64")


def test_a_gpus_key_names_gpu_driver_and_cuda(monkeypatch):
    for name, value in (("get_device_name", "G"), ("get_device_capability", (9, 0))):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    key = inductor.key("fp16", "cuda:1")
    assert (key["gpu"], key["gpu_capability"], key["precision"]) == ("G", [9, 0], "fp16")
    assert {"driver", "cuda"} < set(key)


# What cannot be had


def test_a_missing_compiler_is_a_sentence(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConversionError, match="needs a C\\+\\+ compiler, and 'no-such-compiler' is not found: install"):
        inductor.compile_network(fold(torch.nn.Conv2d(3, 2, 1)), (8, 8))
    told = []
    assert Segmenter.load(MODEL, "cpu", tell=told.append).runtime == "torch"
    assert not any("--runtime inductor" in sentence for sentence in told)


def test_auto_says_how_to_prepare_it(monkeypatch):
    monkeypatch.setattr(host, "can_compile", lambda: True)
    monkeypatch.setattr(Native, "executes", lambda self, loaded, precision: False)
    told = []
    assert Segmenter.load(MODEL, "cpu", tell=told.append).runtime == "torch"
    assert len(told) == 1 and told[0].endswith(f"{MODEL}.safetensors --runtime inductor --size 480x360")


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"precision": "fp16"}, "precision 'fp16' cannot be had: inductor computes a checkpoint in fp32"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not there"),
    ],
)
def test_what_cannot_be_had_is_said(wish, reason):
    with pytest.raises(ValueError, match=reason):
        Segmenter.load(MODEL, **{"device": "cpu", **wish}, runtime="inductor")
