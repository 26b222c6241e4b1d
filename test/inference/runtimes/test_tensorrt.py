"""TensorRT is asked for with a cache for its engines; a session on the CPU stands for it, as there is no GPU here."""

from pathlib import Path

import pytest
import yaml

from drive_seg.inference.runtimes import cache
from drive_seg.inference.runtimes.files.ports import Port, image_input
from drive_seg.inference.runtimes.tensorrt import profiles
from drive_seg.segmenter import Segmenter

PROVIDERS = ["TensorrtExecutionProvider", "CUDAExecutionProvider"]


@pytest.fixture
def file(tmp_path):
    """An ONNX file of two classes, with its contract."""
    onnx = pytest.importorskip("onnx")
    body = "<float[2,3,1,1] w = {1,0,0, 0,1,0}> { logits = Conv(image, w) }"
    text = f'<ir_version: 8, opset_import: ["" : 17]> net (float[N,3,H,W] image) => (float[N,2,H,W] logits) {body}'
    path = tmp_path / "net.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    classes = [{"id": i, "name": name, "color": [i, i, i]} for i, name in enumerate("ab")]
    contract = {"label_map": classes, "channel_order": "rgb", "mean": [0.5] * 3, "std": [0.5] * 3}
    contract |= {"input_size": [64, 96], "output": "logits", "licence": "MIT"}
    path.with_suffix(".contract.yaml").write_text(yaml.safe_dump(contract))
    return path


@pytest.fixture
def offered(monkeypatch):
    """The providers of the stand-in, and those that sessions were asked for."""
    onnxruntime = pytest.importorskip("onnxruntime")
    able, asked = list(PROVIDERS), []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, model, options, providers):
            asked.append(providers)
            super().__init__(model, options, providers=["CPUExecutionProvider"])

        def get_providers(self):
            return [provider[0] for provider in asked[-1][:2]]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*able, "CPUExecutionProvider"])
    return able, asked


def test_it_is_asked_for_with_a_cache_for_its_engines(file, offered, monkeypatch):
    import onnxruntime

    able, asked = offered
    segmenter = Segmenter.load(file, runtime="tensorrt", precision="fp16", device="cuda:1")
    assert (segmenter.runtime, segmenter.device, segmenter.precision) == ("tensorrt", "cuda:1", "fp16")
    (name, options), (next_best, _), last = asked[-1]
    assert (name, next_best, last) == (*PROVIDERS, "CPUExecutionProvider")
    assert options["device_id"] == 1 and options["trt_fp16_enable"] and options["trt_engine_cache_enable"]
    engines = Path(options["trt_engine_cache_path"])
    assert engines.is_dir() and engines.parent == cache.root() and engines.stat().st_mode & 0o077 == 0
    assert segmenter.sha256 in engines.name
    shapes = [options[f"trt_profile_{name}_shapes"] for name in ("min", "opt", "max")]
    assert shapes == ["image:1x3x32x48", "image:1x3x64x96", "image:6x3x96x144"]

    exact = Segmenter.load(file, runtime="tensorrt")
    assert (exact.device, exact.precision) == ("cuda", "fp32") and not asked[-1][0][1]["trt_fp16_enable"]
    assert asked[-1][0][1]["trt_engine_cache_path"] == str(engines)
    monkeypatch.setattr(onnxruntime, "__version__", "99")
    Segmenter.load(file, runtime="tensorrt")
    assert asked[-1][0][1]["trt_engine_cache_path"] != str(engines), "another version builds its own"

    able.remove(PROVIDERS[0])
    with pytest.raises(ValueError, match="runtime 'tensorrt' is not there: the installed onnxruntime offers no Tens"):
        Segmenter.load(file, runtime="tensorrt")


@pytest.mark.parametrize(
    "shape, kind, wanted",
    [
        ((1, 3, 64, 96), "tensor(float)", []),
        ((1, 3, None, None), "tensor(float)", ["1x3x32x48", "1x3x64x96", "1x3x96x144"]),
        ((None, 3, 64, 96), "tensor(float16)", ["1x3x64x96", "1x3x64x96", "6x3x64x96"]),
        (("N", "h", "w", 3), "tensor(uint8)", ["1x32x48x3", "1x64x96x3", "6x96x144x3"]),
    ],
)
def test_tensorrt_hears_which_shapes_may_come(shape, kind, wanted):
    """Left to itself it builds another engine for each, which takes minutes, when the first such frame comes."""
    found = profiles(image_input([Port("x", shape, kind)]), (64, 96))
    assert found == {f"trt_profile_{n}_shapes": f"x:{w}" for n, w in zip(("min", "opt", "max"), wanted, strict=False)}


def test_auto_takes_onnx_runtime_on_cuda(file, offered):
    assert Segmenter.load(file, device="cuda").runtime == "onnxruntime"


def test_it_is_for_onnx_files_on_a_gpu(file):
    with pytest.raises(ValueError, match="device 'cpu' cannot be had: tensorrt runs files on cuda"):
        Segmenter.load(file, runtime="tensorrt", device="cpu")
    with pytest.raises(ValueError, match="'tensorrt' runs .onnx files and no checkpoints: drive-seg export --model"):
        Segmenter.load("dsnet_synth19", runtime="tensorrt")
