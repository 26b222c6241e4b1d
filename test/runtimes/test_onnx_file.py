"""A user's own network: the contract beside an ONNX file, and what is refused before a frame is labelled."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from drive_seg import checkpoint
from drive_seg.checkpoint import CheckpointError, InputSpec
from drive_seg.labels import CITYSCAPES19
from drive_seg.runtimes import cache, onnx_file
from drive_seg.segmenter import Segmenter
from drive_seg.synth import SynthDrive

CONTRACT = {
    "label_map": [
        {"id": 0, "name": "red", "color": [255, 0, 0]},
        {"id": 1, "name": "green", "color": [0, 255, 0]},
        {"id": 2, "name": "blue", "color": [0, 0, 255]},
    ],
    "channel_order": "rgb",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "input_size": [64, 96],
    "output": "logits",
    "licence": "MIT",
}
"""For networks whose class is the strongest colour: geometry and channel order become visible."""

ANY, FIXED = "float[N,3,H,W] image", "float[1,3,64,96] image"
FULL = "logits = Identity(image)"
EIGHTH = "logits = AveragePool<kernel_shape=[8,8], strides=[8,8]>(image)"
LOGITS, IDS = "float[N,C,h,w] logits", "int64[N,h,w] ids"
ARGMAX = "ids = ArgMax<axis=1, keepdims=0>(image)"
ALWAYS = "k = Constant<value_int={}>() a = ArgMax<axis=1, keepdims=0>(image) z = Sub(a, a) ids = Add(z, k)"


def write(folder, body=FULL, takes=ANY, gives=LOGITS, opset=17, ir=8, **changes):
    """An ONNX file of these operations with its contract; a change to None leaves a key out."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    text = f'<ir_version: {ir}, opset_import: ["" : {opset}]> net ({takes}) => ({gives}) {{ {body} }}'
    path = folder / "net.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    write_contract(path, **changes)
    return path


def write_contract(path, **changes):
    keys = {key: value for key, value in {**CONTRACT, **changes}.items() if value is not None}
    path.with_suffix(".contract.yaml").write_text(yaml.safe_dump(keys))
    return path


def picture(height, width, seed=0):
    """Blocks of 8 pixels, so that a resolution of 1/8 loses nothing of them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width])


def normalised(image):
    rgb = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(CONTRACT[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (rgb - mean) / std


# What a fitting file gives


@pytest.mark.parametrize("takes", [ANY, FIXED])
def test_logits_at_an_eighth_are_brought_to_the_input_before_the_decision(tmp_path, takes):
    segmenter, image = Segmenter.load(write(tmp_path, EIGHTH, takes)), picture(64, 96)
    logits = F.interpolate(F.avg_pool2d(normalised(image), 8), (64, 96), mode="bilinear", align_corners=False)[0]
    result = segmenter(image, confidence=True)
    assert (result.label == logits.argmax(0).numpy()).all()
    blocks = F.avg_pool2d(normalised(image), 8)[0].argmax(0).numpy().repeat(8, 0).repeat(8, 1)
    assert (result.label != blocks).mean() > 0.02, "deciding at 1/8 would give other borders"
    expected = (255 * logits.softmax(0).max(0).values).round().numpy()
    assert np.abs(result.confidence.astype(int) - expected).max() <= 1
    assert (segmenter.device, segmenter.precision, segmenter.gives_confidence) == ("cpu", "fp32", True)


@pytest.mark.parametrize(
    ("body", "gives"),
    [
        (ARGMAX, IDS),
        ("ids = ArgMax<axis=1, keepdims=1>(image)", "int64[N,1,h,w] ids"),
        ("best = ArgMax<axis=1, keepdims=0>(image) ids = Cast<to=2>(best)", "uint8[N,h,w] ids"),
        ("best = ArgMax<axis=1, keepdims=0>(image) ids = Cast<to=6>(best)", "int32[N,h,w] ids"),
        ("best = ArgMax<axis=1, keepdims=0>(image) ids = Cast<to=12>(best)", "uint32[N,h,w] ids"),
    ],
)
def test_ids_of_any_whole_type_become_the_label_and_no_confidence(tmp_path, body, gives):
    segmenter = Segmenter.load(write(tmp_path, body, gives=gives, output="ids"))
    image = picture(128, 192)
    result = segmenter(image, confidence=True)
    seen = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None], (64, 96), mode="bilinear", antialias=True)
    best = normalised(seen[0].permute(1, 2, 0).numpy())[0].argmax(0).numpy()
    assert result.label.dtype == np.uint8 and (result.label == best.repeat(2, 0).repeat(2, 1)).all()
    assert result.confidence is None and not segmenter.gives_confidence


def test_channel_order_mean_std_and_scale_are_the_contract_s(tmp_path):
    image = np.full((64, 96, 3), (40, 50, 120), np.uint8)  # BGR

    def answer(**changes):
        changes = {"mean": [0, 0, 0], "std": [1, 1, 1], **changes}
        label = Segmenter.load(write(tmp_path, **changes))(image).label
        assert (label == label[0, 0]).all()
        return label[0, 0]

    assert answer() == 0
    assert answer(channel_order="bgr") == 2
    assert answer(scale=1, mean=[100, 0, 0]) == 1, "of raw values 20, 50, 40"
    assert answer(mean=[100, 0, 0]) == 1 and answer(mean=[0.2, 0, 0]) == 0
    assert answer(scale=1, std=[9, 8, 2]) == 2


def test_a_network_fed_raw_values_gives_what_its_twin_in_units_gives(tmp_path):
    twin = {key: [255 * value for value in CONTRACT[key]] for key in ("mean", "std")}
    first = Segmenter.load(write(tmp_path))(picture(97, 131), confidence=True)
    second = Segmenter.load(write(tmp_path, scale=1, **twin))(picture(97, 131), confidence=True)
    assert (first.label == second.label).all() and (first.confidence.astype(int) - second.confidence).max() <= 1


def test_a_fixed_size_is_that_of_every_camera(tmp_path):
    path = write(tmp_path, EIGHTH, FIXED)
    segmenter = Segmenter.load(path)
    assert segmenter.network_size(720, 1280) == segmenter.network_size(300, 300) == (64, 96)
    image = np.zeros((300, 640, 3), np.uint8)
    image[:, :320, 0] = image[:, 320:, 2] = 255
    label = segmenter(image).label
    assert label.shape == (300, 640) and (label[:, :300] == 2).all() and (label[:, 340:] == 0).all()
    with pytest.raises(ValueError, match=r"input size \(128, 192\) cannot be had: .* fixes it to \(64, 96\)"):
        Segmenter.load(path, input_size=(128, 192))


def test_any_size_keeps_the_aspect_as_a_checkpoint_does(tmp_path):
    path = write(tmp_path, EIGHTH)
    assert Segmenter.load(path).network_size(720, 1280) == (56, 104)
    assert Segmenter.load(path, input_size=(128, 192)).network_size(480, 720) == (128, 192)
    assert Segmenter.load(path)(picture(72, 128)).label.shape == (72, 128)


def test_a_batch_of_one_takes_images_one_by_one_even_on_a_gpu(tmp_path):
    segmenter = Segmenter.load(write(tmp_path, EIGHTH, FIXED))
    images = [picture(64, 96, 1), picture(50, 90, 2)]
    for image, result in zip(images, segmenter(images), strict=True):
        assert (result.label == segmenter(image).label).all()
    segmenter.device = "cuda"
    assert segmenter._batches(images) == [((64, 96), [0]), ((64, 96), [1])]
    segmenter._network.one_by_one = False
    assert segmenter._batches(images) == [((64, 96), [0, 1])]


def test_half_precision_is_the_file_s_own(tmp_path):
    image = picture(64, 96)
    whole = Segmenter.load(write(tmp_path, EIGHTH))(image).label
    path = write(tmp_path, EIGHTH, "float16[N,3,H,W] image", "float16[N,C,h,w] logits")
    segmenter = Segmenter.load(path, precision="fp16")
    assert segmenter.precision == Segmenter.load(path).precision == "fp16"
    assert (segmenter(image).label == whole).mean() > 0.99
    with pytest.raises(ValueError, match=r"precision 'fp32' cannot be had: net.onnx computes in fp16"):
        Segmenter.load(path, precision="fp32")


def test_of_several_outputs_the_named_one_counts(tmp_path):
    model = {"body": f"{EIGHTH} aux = Neg(image)", "gives": f"float[N,C,a,b] aux, {LOGITS}"}
    image = picture(64, 96)
    label = Segmenter.load(write(tmp_path, **model, output_name="logits"))(image).label
    assert (label == Segmenter.load(write(tmp_path, EIGHTH))(image).label).all()
    assert (Segmenter.load(write(tmp_path, **model, output_name="aux"))(image).label != label).mean() > 0.5
    with pytest.raises(CheckpointError, match=r"it gives 'aux' .*, 'logits' .*: say in output_name which"):
        Segmenter.load(write(tmp_path, **model))
    with pytest.raises(CheckpointError, match="it has no output 'mask', only 'aux'"):
        Segmenter.load(write(tmp_path, **model, output_name="mask"))


def test_threads_are_no_more_than_torch_was_given(tmp_path):
    path, threads = write(tmp_path), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = Segmenter.load(path)._network._session.get_session_options().intra_op_num_threads
        torch.set_num_threads(os.cpu_count())
        default = Segmenter.load(path)._network._session.get_session_options().intra_op_num_threads
    finally:
        torch.set_num_threads(threads)
    assert default == 0 and alone == (1 if os.cpu_count() > 1 else 0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The shipped model by torch's own exporter, weights in a file of their own, its contract from its checkpoint."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    loaded = checkpoint.load(checkpoint.find_model("dsnet_synth19"))
    spec = loaded.contract.input
    path = tmp_path_factory.mktemp("exported") / "dsnet.onnx"
    network = loaded.build_network(unpool="one_hot")
    torch.onnx.export(network, (torch.zeros(1, 3, *spec.size),), str(path), dynamo=True, verbose=False)
    assert path.with_name("dsnet.onnx.data").is_file()
    keys = {"mean": list(spec.mean), "std": list(spec.std), "input_size": list(spec.size)}
    return write_contract(path, label_map="cityscapes19", channel_order=spec.channel_order, **keys)


def test_an_exported_checkpoint_labels_as_the_checkpoint_does(exported):
    ours, theirs = Segmenter.load("dsnet_synth19", device="cpu"), Segmenter.load(exported, device="cpu")
    assert theirs.label_map == CITYSCAPES19 and theirs.network_size(360, 640) == ours.network_size(360, 640)
    image = SynthDrive(seed=5).frame(20).image
    first, second = ours(image, confidence=True), theirs(image, confidence=True)
    assert len(np.unique(first.label)) > 5 and (first.label == second.label).mean() >= 0.9999
    assert np.abs(first.confidence.astype(int) - second.confidence).max() <= 1


# What is hashed


def test_the_hash_covers_network_weights_and_contract_but_not_the_name(exported, tmp_path):
    def place(name, change=lambda data: data, **contract):
        for suffix in (".onnx", ".onnx.data"):
            data = exported.with_name(f"dsnet{suffix}").read_bytes()
            (tmp_path / f"{name}{suffix}").write_bytes(change(data) if suffix == ".onnx.data" else data)
        return onnx_file.read(write_contract(tmp_path / f"{name}.onnx", label_map="cityscapes19", **contract)).sha256

    first = place("a")
    assert len(first) == 64 and place("b") == first
    assert place("c", change=lambda data: data[:-1] + bytes([data[-1] ^ 1])) != first
    assert place("d", scale=1) != first and place("d", output="ids") != first
    (tmp_path / "b.onnx").write_bytes((tmp_path / "b.onnx").read_bytes() + b"\0")
    assert onnx_file.read(tmp_path / "b.onnx").sha256 != first


def test_weights_are_read_from_no_file_that_was_not_hashed(exported, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_bytes(exported.read_bytes())
    (tmp_path / "net.contract.yaml").write_bytes(onnx_file.contract_path(exported).read_bytes())
    (tmp_path / "dsnet.onnx.data").write_bytes(exported.with_name("dsnet.onnx.data").read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot run it: .*dsnet.onnx.data.*net.onnx.data or net.onnx_data$"):
        Segmenter.load(path)


# What is refused


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"label_map": "cityscapes19"}, "of 3 classes, but label map 'cityscapes19' has 19"),
        ({"takes": "float[N,H,W,3] image"}, r"shape \[N, H, W, 3\]; \[N, 3, height, width\] is needed"),
        ({"takes": "float[1,64,96,3] image"}, r"shape \[1, 64, 96, 3\]; \[N, 3, height, width\] is needed"),
        (
            {"takes": "float[3,H,W] image", "gives": "float[C,h,w] logits"},
            r"shape \[3, H, W\]; \[N, 3, height, width\]",
        ),
        ({"takes": "float[N,4,H,W] image"}, r"shape \[N, 4, H, W\]; \[N, 3, height, width\] is needed"),
        ({"takes": "float[2,3,H,W] image"}, "takes 2 images at once; 1 or any number is needed"),
        ({"takes": "float[1,3,64,128] image"}, r"\[1, 3, 64, 128\], but the contract's input_size is \[64, 96\]"),
        ({"takes": "float[N,3,128,W] image"}, r"\[N, 3, 128, W\], but the contract's input_size is \[64, 96\]"),
        (
            {"takes": "uint8[N,3,H,W] image", "gives": "uint8[N,C,h,w] logits"},
            r"is tensor\(uint8\); tensor\(float\) or",
        ),
        (
            {"takes": f"{ANY}, float[1] gain", "body": "logits = Mul(image, gain)"},
            r"it wants 'image' .*, 'gain' \[1\], and there is",
        ),
        ({"body": ARGMAX, "gives": IDS}, r"is int64 \[1, 64, 96\]: these are ids, not logits"),
        ({"output": "ids"}, r"float32 \[1, 3, 64, 96\]; ids are whole numbers \[N, h, w\]"),
        (
            {"body": "logits = ReduceMax<axes=[1], keepdims=0>(image)", "gives": "float[N,h,w] logits"},
            "logits are float",
        ),
        ({"body": "logits = Transpose<perm=[0,2,3,1]>(image)"}, r"\[1, 64, 96, 3\], so of 64 classes"),
        ({"body": "a = Shape(image) ids = Cast<to=7>(a)", "gives": "int64[n] ids", "output": "ids"}, r"\[4\]; ids are"),
        (
            {"body": "a = Neg(image) ids = Cast<to=3>(a)", "gives": "int8[N,C,h,w] ids", "output": "ids"},
            "ids are whole",
        ),
        (
            {"body": ALWAYS.format(7), "gives": IDS, "output": "ids"},
            "it gave the id 7, but label map 'net' has the ids 0..2 and 255 is void",
        ),
        ({"opset": 999}, "onnxruntime .* cannot run it: .*[Oo]pset"),
        ({"ir": 99}, "cannot run it: .*Unsupported model IR version"),
        ({"body": "logits = Convert<domain_of_mine=1>(image)"}, "cannot run it: .*Convert"),
        ({"input_size": [60, 96], "body": EIGHTH}, r"\[60, 96\] .*multiples of 8"),
    ],
)
def test_a_file_that_does_not_fit_its_contract_is_refused_at_load(tmp_path, model, reason):
    with pytest.raises(CheckpointError, match=reason) as refusal:
        Segmenter.load(write(tmp_path, **model))
    assert "net.onnx" in str(refusal.value) or "net.contract.yaml" in str(refusal.value)


def test_an_id_that_is_no_class_costs_its_frame(tmp_path):
    """The id is brightness - 127."""
    body = "m = ReduceMax<axes=[1], keepdims=0>(image) ids = Cast<to=7>(m)"
    path = write(tmp_path, body, gives=IDS, output="ids", mean=[127] * 3, std=[1] * 3, scale=1)
    segmenter = Segmenter.load(path)
    assert (segmenter(np.full((64, 96, 3), 129, np.uint8)).label == 2).all()
    for brightness, strange in ((130, 3), (120, -7)):
        with pytest.raises(CheckpointError, match=f"it gave the id {strange}, but label map 'net' has the ids 0..2"):
            segmenter(np.full((64, 96, 3), brightness, np.uint8))


def test_void_is_let_through(tmp_path):
    segmenter = Segmenter.load(write(tmp_path, ALWAYS.format(255), gives=IDS, output="ids"))
    assert (segmenter(picture(100, 100)).label == 255).all()


def test_a_size_the_network_cannot_take_is_told_with_that_size(tmp_path):
    body = "s = Constant<value_ints=[1,3,6144]>() r = Reshape(image, s) t = Constant<value_ints=[1,3,64,96]>() "
    segmenter = Segmenter.load(write(tmp_path, body + "logits = Reshape(r, t)"))
    with pytest.raises(RuntimeError, match=r"net.onnx fails on an input of 56x104: .*reshape"):
        segmenter(picture(72, 128))


def test_what_is_no_onnx_is_refused(tmp_path):
    path = write(tmp_path)
    for content in (b"nothing of the kind", b""):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"net.onnx .*onnxruntime .* cannot run it: "):
            Segmenter.load(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"licence": None, "std": None}, "std is missing, licence is missing; the keys are label_map, channel_order"),
        ({"stddev": [1, 1, 1]}, "stddev is unknown; the keys are"),
        ({"label_map": "city"}, "no label map is called 'city'; there are: camvid11, camvid32, cityscapes19, voc21"),
        ({"label_map": []}, "neither the name of one nor a list of classes"),
        ({"label_map": [{"id": 0, "name": "a"}]}, "a class has id, name and color, not {'id': 0, 'name': 'a'}"),
        ({"label_map": [{"id": 1, "name": "a", "color": [0, 0, 0]}]}, "must have the ids 0..0 in order"),
        ({"label_map": [{"id": 0, "name": False, "color": [0, 0, 0]}]}, "name of a class is not a text: False"),
        (
            {"label_map": [{"id": 0, "name": "a", "color": [0, 0, 300]}]},
            "a colour that is not three values of 0 to 255",
        ),
        ({"channel_order": "rgba"}, "channel order 'rgba' is neither"),
        ({"mean": 0.5}, "mean is not a list of 3 numbers: 0.5"),
        ({"mean": [0.5, "x", 0]}, "mean is not a number: 'x'"),
        ({"std": [1, 0, 1]}, "std above 0"),
        ({"scale": "1e-3"}, "scale is not a number: '1e-3'"),
        ({"scale": 0}, "scale 0.0 is not above 0"),
        ({"input_size": [64]}, "input_size is not a list of 2 numbers"),
        ({"input_size": [64.0, 96]}, "input_size is not a whole number: 64.0"),
        ({"input_size": [4, 96]}, "at least 8 pixels"),
        ({"output": "mask"}, "output 'mask' is not one of logits, ids"),
        ({"output_name": ""}, "output_name is not a text: ''"),
        ({"licence": ""}, "licence is not a text"),
    ],
)
def test_a_contract_with_a_fault_is_refused_with_the_key(tmp_path, changes, reason):
    (tmp_path / "net.onnx").write_bytes(b"not read so far")
    with pytest.raises(CheckpointError) as refusal:
        Segmenter.load(write_contract(tmp_path / "net.onnx", **changes))
    assert reason in str(refusal.value) and "net.contract.yaml" in str(refusal.value)


def test_the_readme_s_contract_is_one(checkout, tmp_path):
    text = (checkout / "README.md").read_text().partition("```yaml\nlabel_map")[2].partition("```")[0]
    (tmp_path / "net.contract.yaml").write_text(f"label_map{text}")
    contract = onnx_file.read_contract(tmp_path / "net.onnx")
    assert contract.label_map == CITYSCAPES19 and contract.input == InputSpec((512, 1024))
    assert all(f"\n{key}: " in text for key in (*onnx_file.REQUIRED, *onnx_file.OPTIONAL) if key != "label_map")


@pytest.mark.parametrize("text", ["[1, 2]", "", "mean: [1,", "\xff"])
def test_a_contract_that_is_no_yaml_with_keys_is_refused(tmp_path, text):
    (tmp_path / "net.onnx").touch()
    (tmp_path / "net.contract.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="net.contract.yaml: "):
        Segmenter.load(tmp_path / "net.onnx")


def test_a_missing_file_of_the_two_is_told(tmp_path):
    (tmp_path / "net.onnx").touch()
    with pytest.raises(CheckpointError, match=r"there is no net.contract.yaml beside it"):
        Segmenter.load(tmp_path / "net.onnx")
    with pytest.raises(CheckpointError, match=r"other.onnx: there is no such file"):
        Segmenter.load(write_contract(tmp_path / "other.onnx"))


# On the command line


def test_the_commands_take_an_onnx_file(tmp_path, capsys):
    pytest.importorskip("typer")
    from drive_seg import cli

    path = write(tmp_path, ARGMAX, gives=IDS, output="ids", scale=0.5)
    cli.app(["inspect", str(path), "--json", "-"], standalone_mode=False)
    printed = json.loads(capsys.readouterr().out)
    assert printed["network"] == "onnx" and printed["options"] == {"output": "ids"} and printed["licence"] == "MIT"
    assert printed["sha256"] == Segmenter.load(path).sha256 and printed["input"]["scale"] == 0.5
    cli.app(["inspect", str(path)], standalone_mode=False)
    assert printed["sha256"] in capsys.readouterr().out
    cv2.imwrite(str(tmp_path / "shot.png"), picture(60, 90))
    cli.app(
        ["segment", str(tmp_path / "shot.png"), "-o", str(tmp_path / "out"), "--model", str(path)],
        standalone_mode=False,
    )
    label = cv2.imread(str(tmp_path / "out" / "label" / "shot.png"), cv2.IMREAD_UNCHANGED)
    assert (label == Segmenter.load(path)(picture(60, 90)).label).all() and label.shape == (60, 90)
    with pytest.raises(CheckpointError, match="these are ids, not logits"):
        cli.app(["inspect", str(write_contract(path))], standalone_mode=False)


def test_evaluate_scores_an_onnx_file(tmp_path, capsys):
    pytest.importorskip("typer")
    from drive_seg import cli

    path = write(tmp_path, ALWAYS.format(10), gives=IDS, output="ids", label_map="cityscapes19")
    data = ["--dataset", "synth", "--option", "seeds=[3]", "--option", "frames=1", "--option", "size=[128,72]"]
    cli.app(["evaluate", str(path), *data, "--json", "-"], standalone_mode=False)
    report = json.loads(capsys.readouterr().out)
    counts = np.array(report["confusion_matrix"])
    assert counts.sum() == counts[:, 10].sum() == report["images"] * 128 * 72, "everything was taken for sky"


# Without onnxruntime, or without its CUDA


def test_without_onnxruntime_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "net.onnx").touch()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CheckpointError, match="needs onnxruntime.*extra 'onnx'"):
        Segmenter.load(write_contract(tmp_path / "net.onnx"))


def test_a_checkpoint_runs_without_onnxruntime_being_loaded():
    code = "import sys; from drive_seg.segmenter import Segmenter; Segmenter.load('dsnet_synth19', device='cpu'); "
    code += "print(sorted({'onnx', 'onnxruntime', 'onnxscript'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert answer.stdout.strip() == "[]"


def test_devices(tmp_path):
    path = write(tmp_path)
    onnxruntime = pytest.importorskip("onnxruntime")
    assert Segmenter.load(path).device == Segmenter.load(path, device="cpu").device == "cpu"
    with pytest.raises(ValueError, match="not one of auto, cpu, cuda, cuda:N"):
        Segmenter.load(path, device="tpu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ValueError, match="device 'cuda:0' is not there: the installed onnxruntime offers .*CPU"):
            Segmenter.load(path, device="cuda:0")


def test_tensorrt_is_asked_for_with_a_cache_for_its_engines(tmp_path, monkeypatch):
    """There is none here: a session on the CPU stands for it."""
    onnxruntime = pytest.importorskip("onnxruntime")
    path, asked, offered = write(tmp_path), [], ["TensorrtExecutionProvider", "CUDAExecutionProvider"]

    class Session(onnxruntime.InferenceSession):
        def __init__(self, model, options, providers):
            asked.append(providers)
            super().__init__(model, options, providers=["CPUExecutionProvider"])

        def get_providers(self):
            return [provider[0] for provider in asked[-1][:2]]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*offered, "CPUExecutionProvider"])
    segmenter = Segmenter.load(path, runtime="tensorrt", precision="fp16", device="cuda:1")
    assert (segmenter.runtime, segmenter.device, segmenter.precision) == ("tensorrt", "cuda:1", "fp16")
    (name, options), (next_best, _), last = asked[-1]
    assert (name, next_best, last) == (*offered, "CPUExecutionProvider")
    assert options["device_id"] == 1 and options["trt_fp16_enable"] and options["trt_engine_cache_enable"]
    engines = Path(options["trt_engine_cache_path"])
    assert engines.is_dir() and engines.parent == cache.root()
    assert segmenter.sha256 in engines.name and engines.stat().st_mode & 0o077 == 0

    exact = Segmenter.load(path, runtime="tensorrt")
    assert (exact.device, exact.precision) == ("cuda", "fp32") and not asked[-1][0][1]["trt_fp16_enable"]
    monkeypatch.setattr(onnxruntime, "__version__", "99")
    Segmenter.load(path, runtime="tensorrt")
    assert asked[-1][0][1]["trt_engine_cache_path"] != str(engines), "another version builds its own"

    offered.remove("TensorrtExecutionProvider")
    with pytest.raises(ValueError, match="runtime 'tensorrt' is not there: the installed onnxruntime offers no Tens"):
        Segmenter.load(path, runtime="tensorrt")


def test_tensorrt_is_for_onnx_files_on_a_gpu(tmp_path):
    with pytest.raises(ValueError, match="runtime 'tensorrt' cannot be had on the cpu"):
        Segmenter.load(write(tmp_path), runtime="tensorrt", device="cpu")
    with pytest.raises(ValueError, match="'tensorrt' runs ONNX files and no checkpoints: drive-seg export .*onnx"):
        Segmenter.load("dsnet_synth19", runtime="tensorrt")


# The scale of the input


def test_the_default_scale_leaves_a_checkpoint_s_contract_as_it_was():
    assert "scale" not in InputSpec((64, 96)).to_dict() and InputSpec((64, 96), scale=1).to_dict()["scale"] == 1
    contract = onnx_file.Contract("dsnet", {}, CITYSCAPES19, InputSpec((64, 96), scale=1.0))
    assert onnx_file.Contract.from_dict(contract.to_dict()) == contract
