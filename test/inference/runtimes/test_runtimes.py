"""Every runtime labels as PyTorch does in fp32, and the cache is trusted only where its key fits."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.inference.runtimes import cache, conversion, entry, host, registry
from drive_seg.inference.runtimes.openvino_runtime import OpenVino, OpenvinoModel
from drive_seg.inference.runtimes.pytorch import trial
from drive_seg.labels import CAMVID11
from drive_seg.segmenter import Segmenter
from drive_seg.synth import SynthDrive

RUNTIMES = ("onnxruntime", "openvino")
SMALL = (64, 96)

each_runtime = pytest.mark.parametrize("runtime", RUNTIMES)


def need(*names):
    for name in names:
        pytest.importorskip(name)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A DSNet with fresh weights, and its graph for its own size."""
    need("onnx", "onnxscript")
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("models") / "m.safetensors"
    checkpoint.save(path, networks.build("dsnet", 11), Contract("dsnet", {}, CAMVID11, InputSpec(SMALL)))
    loaded = checkpoint.load(path)
    return loaded, conversion.to_onnx(conversion.convertible(loaded), SMALL)


@pytest.fixture
def ready(small):
    """The path of the small checkpoint, prepared for both runtimes."""
    need(*RUNTIMES)
    loaded, graph = small
    for runtime in RUNTIMES:
        cache.write(form(runtime), loaded.sha256, SMALL, graph)
    return loaded.path


def form(runtime="onnxruntime"):
    return registry.get(runtime).form()


def picture(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


# OpenVINO's outputs


def test_openvino_leaves_logits_as_its_convolution_writes_them(small):
    pytest.importorskip("openvino")
    _, graph = small
    image = torch.from_numpy(picture(*SMALL)).permute(2, 0, 1)[None].float() / 255
    core = OpenVino.core()
    plain = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    logits = registry.get("openvino").load(graph)(image)
    assert logits.shape == (1, 11, *SMALL) and logits.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(logits.numpy(), plain([image.contiguous().numpy()])[0])


def test_signals_are_handled_after_the_last_model_of_openvino_is_gone(small, tmp_path):
    """The stack that OpenVINO gives the thread for signals must not go with a model."""
    pytest.importorskip("openvino")
    (tmp_path / "graph.onnx").write_bytes(small[1])
    program = (
        "import os, pathlib, signal, sys, threading\n"
        "from drive_seg.inference.runtimes.openvino_runtime import OpenVino\n"
        "models = [OpenVino().load(pathlib.Path(sys.argv[1]).read_bytes()) for _ in range(2)]\n"
        "thread = threading.Thread(target=models.clear)\n"
        "thread.start()\n"
        "thread.join()\n"
        "signal.signal(signal.SIGUSR1, lambda *arguments: print('handled'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "graph.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_openvino_gives_every_output_in_its_declared_shape():
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    random = np.random.default_rng(1)
    weight, bias, image = (random.standard_normal(s, np.float32) for s in ((2, 3), (2,), (1, 3, 4, 5)))
    given = ops.parameter([1, 3, 4, 5], np.float32, name="image")
    conv = ops.convolution(given, weight[:, :, None, None], [1, 1], [0, 0], [0, 0], [1, 1])
    biased = ops.add(conv, bias[None, :, None, None])
    model = openvino.Model([biased, ops.abs(given), ops.reduce_max(given, [1])], [given], "three")
    wanted = np.einsum("oc,bchw->bohw", weight, image) + bias[:, None, None]
    answers = OpenvinoModel(openvino, model, "fp32", 1)({0: image})
    for answer, reference in zip(answers, (wanted, np.abs(image), image.max(1)), strict=True):
        np.testing.assert_allclose(answer, reference, atol=1e-5)
    assert list(model.outputs[0].get_partial_shape()) == [1, 2, 4, 5], "the model is left as it is"


# Parity on the shipped models


@pytest.fixture(scope="module")
def graphs():
    """Graphs of the shipped models, made once."""
    need("onnx", "onnxscript")
    made = {}

    def graph(name):
        if name not in made:
            loaded = checkpoint.load(checkpoint.find_model(name))
            made[name] = loaded, conversion.to_onnx(conversion.convertible(loaded), loaded.contract.input.size)
        return made[name]

    return graph


def shares(graphs, name, runtime, precision, images):
    """Share of equal pixels with PyTorch in fp32, over all images."""
    need(runtime)
    loaded, graph = graphs(name)
    cache.write(form(runtime), loaded.sha256, loaded.contract.input.size, graph)
    if precision not in registry.get(runtime).precisions():
        pytest.skip(f"this processor has no {precision}")
    exact = Segmenter.load(name, "cpu", "fp32", runtime="torch")
    told = []
    other = Segmenter.load(name, "cpu", precision, runtime=runtime, tell=told.append)
    assert (other.runtime, other.precision, other.device) == (runtime, precision, "cpu")
    answers = [(exact(image, confidence=True), other(image, confidence=True)) for image in images]
    assert told == [], "the runtime itself labelled, and PyTorch nothing for it"
    if precision == "fp32":
        # Where two values nearly tie for a maximum, rounding decides where they are un-pooled to.
        assert all((np.abs(a.confidence.astype(int) - b.confidence) > 1).mean() < 1e-3 for a, b in answers)
    assert len(np.unique([a.label for a, _ in answers])) > 5
    return np.mean([a.label == b.label for a, b in answers])


# Half precision keeps 8 bits of a value. Along the borders between classes, and where a network is unsure, two logits
# are closer than that. On this package's models that is more than one pixel in a thousand, in PyTorch's bf16 as well.
each_precision = pytest.mark.parametrize(
    ("runtime", "precision", "least"),
    [("onnxruntime", "fp32", 0.9999), ("openvino", "fp32", 0.9999), ("openvino", "bf16", 0.975)],
)


@each_precision
def test_synthetic_frames_are_labelled_as_pytorch_does(graphs, runtime, precision, least):
    drive = SynthDrive(seed=7, size=(640, 360))
    assert shares(graphs, "dsnet_synth19", runtime, precision, [drive.frame(i).image for i in (0, 31)]) >= least


@each_precision
def test_real_frames_are_labelled_as_pytorch_does(graphs, shared_data, runtime, precision, least):
    files = sorted((shared_data / "camvid" / "val" / "images").glob("*.jpg"))[::40]
    images = [cv2.imread(str(file)) for file in files]
    assert len(images) > 1
    assert shares(graphs, "dsnet_camvid11", runtime, precision, images) >= least


# What is chosen


def test_auto_takes_pytorch_until_something_is_prepared_and_says_how(small, monkeypatch):
    need("openvino")
    monkeypatch.setattr(host, "can_compile", lambda: False)
    loaded, graph = small
    told = []
    assert Segmenter.load(loaded.path, "cpu", tell=told.append).runtime == "torch"
    command = f"drive-seg prepare --model {loaded.path} --runtime openvino --size 96x64"
    assert len(told) == 1 and told[0].endswith(f"not prepared for this model: {command}")
    cache.write(form("onnxruntime"), loaded.sha256, SMALL, graph)
    assert Segmenter.load(loaded.path, "cpu").runtime == "onnxruntime"
    cache.write(form("openvino"), loaded.sha256, SMALL, graph)
    assert Segmenter.load(loaded.path, "cpu").runtime == "openvino"
    assert Segmenter.load(loaded.path, "cpu", "fp16").runtime == "torch", "the others do not have it"
    assert Segmenter.load(loaded.path, "cpu", runtime="torch").runtime == "torch"


def test_a_runtime_asked_for_by_name_is_prepared_once(small, monkeypatch):
    need("onnxruntime")
    loaded, graph = small
    made = []
    monkeypatch.setattr(conversion, "to_onnx", lambda network, size: made.append(size) or graph)
    told = []
    for _ in range(2):
        segmenter = Segmenter.load(loaded.path, runtime="onnxruntime", tell=told.append)
        assert (segmenter.runtime, segmenter.device) == ("onnxruntime", "cpu")
    assert made == [SMALL]
    assert told == ["preparing m.safetensors for onnxruntime in 96x64, once on this machine"]
    assert (cache.root().stat().st_mode & 0o777, cache.root().stat().st_nlink) == (0o700, 3)


def test_a_gpu_that_cannot_run_a_layer_is_left_alone(monkeypatch):
    """Here torch has no CUDA at all; elsewhere it has no kernels for the card, or no memory is left there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    trial.cache_clear()
    told = []
    segmenter = Segmenter.load("dsnet_camvid11", runtime="torch", tell=told.append)
    trial.cache_clear()
    assert (segmenter.device, segmenter.describe_graphs()) == ("cpu", "n/a")
    assert told[0].startswith("device auto takes the cpu, as the GPU cannot run a layer: ")


@each_runtime
def test_another_aspect_goes_through_pytorch_and_is_told_once(ready, runtime):
    told = []
    segmenter = Segmenter.load(ready, "cpu", runtime=runtime, tell=told.append)
    exact = Segmenter.load(ready, "cpu", runtime="torch")
    for seed in (1, 2):
        image = picture(64, 200, seed)
        assert (segmenter(image).label == exact(image).label).all()
    assert len(told) == 1
    assert told[0].startswith(f"{runtime} is not prepared for a network input of 136x48, which torch takes instead: ")
    assert told[0].endswith("--size 136x48")


@each_runtime
def test_threads_are_the_runtimes(ready, runtime):
    before = torch.get_num_threads()
    try:
        one, two = (Segmenter.load(ready, "cpu", runtime=runtime, threads=n) for n in (1, 2))
        assert torch.get_num_threads() == 2
        image = picture(64, 96)
        assert (one(image).label == two(image).label).mean() > 0.999
    finally:
        torch.set_num_threads(before)


@each_runtime
def test_the_same_image_always_gets_the_same_label_alone_or_in_company(ready, runtime):
    segmenter = Segmenter.load(ready, "cpu", runtime=runtime)
    images = [picture(64, 96, seed) for seed in range(3)]
    alone = [segmenter(image).label for image in images]
    for label, result in zip(alone, segmenter(images), strict=True):
        assert (label == result.label).all()


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (
            {"runtime": "lion"},
            "runtime 'lion' is not one of auto, torch, native, inductor, onnxruntime, openvino, tens",
        ),
        ({"threads": -1}, "threads must be 0"),
        (
            {"runtime": "openvino", "device": "cuda"},
            "device 'cuda' cannot be had: openvino runs checkpoints on the cpu",
        ),
        ({"runtime": "onnxruntime", "precision": "bf16"}, "'bf16' cannot be had: onnxruntime computes .* in fp32"),
        ({"runtime": "openvino", "precision": "fp16"}, "precision 'fp16' cannot be had: openvino"),
    ],
)
def test_what_cannot_be_had_is_said(small, wish, reason):
    need(*RUNTIMES)
    with pytest.raises(ValueError, match=reason):
        Segmenter.load(small[0].path, **wish)


@pytest.mark.parametrize(("runtime", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_a_missing_package_is_named_with_its_extra(small, monkeypatch, runtime, extra):
    monkeypatch.setitem(__import__("sys").modules, runtime, None)
    with pytest.raises(ValueError, match=rf"needs {runtime}, which cannot be imported .* extra '{extra}' of drive_seg"):
        Segmenter.load(small[0].path, runtime=runtime)


def test_a_missing_converter_is_named_with_its_extra(small, monkeypatch):
    need("openvino")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ValueError, match="converting a network needs onnx and onnxscript .* extra 'export'"):
        Segmenter.load(small[0].path, runtime="openvino")


def test_a_graph_that_labels_otherwise_is_not_kept(small, monkeypatch):
    need("onnxruntime")
    loaded, _ = small
    other = networks.build("dsnet", 11, unpool="one_hot").eval()
    torch.nn.init.normal_(list(other.parameters())[0])
    wrong = conversion.to_onnx(other, SMALL)
    monkeypatch.setattr(conversion, "to_onnx", lambda network, size: wrong)
    with pytest.raises(ValueError, match=r"m.safetensors by onnxruntime labels \d+\.\d+ % of the pixels as PyTorch"):
        Segmenter.load(loaded.path, runtime="onnxruntime")
    assert cache.prepared_sizes(form("onnxruntime"), loaded.sha256) == []


# The cache


def test_a_graph_comes_back_for_its_key_alone(monkeypatch):
    need("onnxruntime")
    cache.write(form(), "ab", (8, 16), b"graph\nof two lines")
    assert cache.prepared_sizes(form(), "ab") == [(8, 16)]
    assert cache.read(form(), "ab", (8, 16)) == b"graph\nof two lines"
    assert cache.read(form(), "ab", (16, 8)) is cache.read(form(), "ac", (8, 16)) is None
    for what, value in ((torch, "__version__"), (cache.drive_seg, "__version__")):
        with monkeypatch.context() as other:
            other.setattr(what, value, "0.0")
            assert cache.prepared_sizes(form(), "ab") == []
            assert cache.read(form(), "ab", (8, 16)) is None
    monkeypatch.setattr(entry, "version", lambda name: "0.0")
    assert cache.read(form(), "ab", (8, 16)) is None
    cache.write(form(), "ab", (8, 16), b"newer")
    assert cache.read(form(), "ab", (8, 16)) == b"newer"


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"[1]\n" + data])
def test_a_damaged_graph_is_none(damage):
    need("onnxruntime")
    file = cache.write(form(), "ab", (8, 16), b"graph")
    file.write_bytes(damage(file.read_bytes()))
    assert cache.read(form(), "ab", (8, 16)) is None


def test_a_cache_that_others_can_write_is_not_used(small):
    need("openvino")
    loaded, graph = small
    cache.write(form("openvino"), loaded.sha256, SMALL, graph)
    cache.root().chmod(0o777)
    told = []
    assert Segmenter.load(loaded.path, "cpu", tell=told.append).runtime == "torch"
    assert any("runtime auto does not take openvino" in t and "is not used as a cache" in t for t in told)
    for use in (cache.read, cache.prepared_sizes):
        with pytest.raises(ValueError, match="must be a folder that only its owner"):
            use(*(form("openvino"), loaded.sha256, SMALL)[: 3 if use is cache.read else 2])


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
    need("onnxruntime")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"the cache .* cannot be written .*set XDG_CACHE_HOME"):
        cache.write(form(), "ab", (8, 16), b"graph")
