"""A user's own network: the contract beside an ONNX file, and what is refused before a frame is labelled."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from drive_seg import checkpoint
from drive_seg.checkpoint import CheckpointError, InputSpec
from drive_seg.inference.runtimes.files import onnx_file, trial
from drive_seg.inference.runtimes.files.contract import OPTIONAL, REQUIRED
from drive_seg.inference.runtimes.openvino_runtime import OpenVino
from drive_seg.labels import CITYSCAPES19
from drive_seg.segmenter import NotFiniteError, Segmenter
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
STRANGE_AT_200 = (
    "k = Constant<value_float=200.0>() d = Sub(image, k) a = Abs(d) m = ReduceMax<axes=[1], keepdims=0>(a) "
    "half = Constant<value_float=0.5>() same = Less(m, half) one = Cast<to=7>(same) five = Constant<value_int=5>() "
    "more = Mul(one, five) two = Constant<value_int=2>() ids = Add(more, two)"
)
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


# Kinds of outputs

BIG = "four = Constant<value_float=4.0>() big = Mul(image, four) "
SOFTMAX, SIGMOID = BIG + "logits = Softmax<axis=1>(big)", BIG + "logits = Sigmoid(big)"
LOG_SOFTMAX = BIG + "logits = LogSoftmax<axis=1>(big)"
RED = "at = Constant<value_ints=[0]>() to = Constant<value_ints=[1]>() axis = Constant<value_ints=[1]>() "
RED += "red = Slice(image, at, to, axis) "
TWO = [{"id": i, "name": name, "color": [i, i, i]} for i, name in enumerate(("other", "road"))]


def shares(image):
    """Probabilities float32 [3, H, W] of the networks above."""
    return (4 * normalised(image))[0].softmax(0)


def is_near(found, wanted):
    """Whether confidences are 255 x these probabilities, rounded."""
    return np.abs(found.astype(float) - 255 * np.asarray(wanted)).max() < 0.51


@pytest.mark.parametrize(
    ("body", "output"),
    [(BIG + "logits = Identity(big)", "logits"), (SOFTMAX, "probabilities"), (LOG_SOFTMAX, "logits")],
)
def test_softmax_inside_or_outside_makes_no_difference(tmp_path, body, output):
    segmenter, image = Segmenter.load(write(tmp_path, body, output=output)), picture(64, 96)
    result = segmenter(image, confidence=True)
    assert (result.label == shares(image).argmax(0).numpy()).all() and segmenter.gives_confidence
    assert is_near(result.confidence, shares(image).max(0).values) and result.confidence.max() > 250
    assert (segmenter(image).label == result.label).all()


def test_probabilities_of_an_eighth_are_brought_to_the_input(tmp_path):
    small = "small = AveragePool<kernel_shape=[8,8], strides=[8,8]>(image) logits = Softmax<axis=1>(small)"
    image = picture(64, 96)
    result = Segmenter.load(write(tmp_path, small, output="probabilities"))(image, confidence=True)
    seen = F.interpolate(F.avg_pool2d(normalised(image), 8).softmax(1), (64, 96), mode="bilinear")[0]
    assert (result.label == seen.argmax(0).numpy()).all() and is_near(result.confidence, seen.max(0).values)


@pytest.mark.parametrize(
    ("body", "output", "reason"),
    [
        (SOFTMAX, "logits", "sum to 1 over the classes: a softmax is inside .*; it must say output: probabilities"),
        (SOFTMAX, "sigmoid", "says output: sigmoid; it must say output: probabilities"),
        (SIGMOID, "logits", "a sigmoid is inside the network.*; it must say output: sigmoid"),
        (SIGMOID, "probabilities", "it must say output: sigmoid"),
        (LOG_SOFTMAX, "probabilities", "which are log-probabilities, .*; it must say output: logits"),
        (FULL, "probabilities", r"which are -2\.118 to 2\.64: logits.*; it must say output: logits"),
        (FULL, "sigmoid", "it must say output: logits"),
    ],
)
def test_an_output_of_another_kind_is_refused_with_its_kind(tmp_path, body, output, reason):
    with pytest.raises(CheckpointError, match=reason):
        Segmenter.load(write(tmp_path, body, output=output))


@pytest.mark.parametrize("threshold", [None, 0.9])
def test_sigmoids_of_several_classes(tmp_path, threshold):
    segmenter, image = Segmenter.load(write(tmp_path, SIGMOID, output="sigmoid", threshold=threshold)), picture(64, 96)
    values, best = (4 * normalised(image))[0].sigmoid().max(0)
    result = segmenter(image, confidence=True)
    assert (result.label == np.where(values < (threshold or 0), 255, best)).all()
    assert is_near(result.confidence, values)


@pytest.mark.parametrize("threshold", [None, 0.8])
@pytest.mark.parametrize(
    ("body", "output", "gives"),
    [
        (RED + "logits = Sigmoid(red)", "sigmoid", LOGITS),
        (RED + "logits = Identity(red)", "logits", LOGITS),
        (RED + "p = Sigmoid(red) logits = Transpose<perm=[0,2,3,1]>(p)", "sigmoid", LOGITS),
        (RED + "p = Sigmoid(red) logits = Squeeze(p, axis)", "sigmoid", "float[N,h,w] logits"),
        (RED + "logits = Squeeze(red)", "logits", "float[h,w] logits"),
    ],
)
def test_one_channel_and_a_threshold_are_two_classes(tmp_path, body, output, gives, threshold):
    segmenter = Segmenter.load(write(tmp_path, body, gives=gives, output=output, label_map=TWO, threshold=threshold))
    image = picture(64, 96)
    chance = normalised(image)[0, 0].sigmoid().numpy()
    result = segmenter(image, confidence=True)
    assert (result.label == (chance >= (threshold or 0.5))).all()
    assert is_near(result.confidence, np.where(result.label, chance, 1 - chance))


def test_ids_may_come_with_their_confidence(tmp_path):
    body = ARGMAX + BIG + "p = Softmax<axis=1>(big) sure = ReduceMax<axes=[1], keepdims=1>(p)"
    keys = {"gives": f"{IDS}, float[N,1,h,w] sure", "output": "ids", "confidence_name": "sure"}
    segmenter, image = Segmenter.load(write(tmp_path, body, **keys)), picture(64, 96)
    result = segmenter(image, confidence=True)
    assert segmenter.gives_confidence and (result.label == shares(image).argmax(0).numpy()).all()
    assert is_near(result.confidence, shares(image).max(0).values)
    wrong = body.replace("sure = ReduceMax<axes=[1], keepdims=1>(p)", "sure = ReduceMax<axes=[1], keepdims=1>(big)")
    with pytest.raises(
        CheckpointError, match=r"a label whose confidence is float32 .* of -\d\.\d+ to 10\.\d+; .* lie in 0..1"
    ):
        Segmenter.load(write(tmp_path, wrong, **keys))
    with pytest.raises(CheckpointError, match="it has no output 'certain', only 'ids'"):
        Segmenter.load(write(tmp_path, body, **{**keys, "confidence_name": "certain", "output_name": "ids"}))


def test_uint8_pixels_side_by_side_and_logits_side_by_side(tmp_path):
    """As TensorFlow exports: [N, height, width, 3] of pixels in, [N, height, width, classes] out."""
    body = "p = Cast<to=1>(image) k = Constant<value_float=64.0>() logits = Div(p, k)"
    takes, gives = "uint8[1,64,96,3] image", "float[1,64,96,3] logits"
    raw = {"range": "raw", "mean": None, "std": None, "channel_order": "rgb"}
    image = picture(128, 192)
    result = Segmenter.load(write(tmp_path, body, takes, gives, **raw))(image, confidence=True)
    seen = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None], (64, 96), mode="bilinear", antialias=True)[0]
    chances = (seen.flip(0).float() / 64).softmax(0)
    large = chances.argmax(0).numpy().repeat(2, 0).repeat(2, 1)
    assert (result.label == large).all()
    assert is_near(result.confidence[::2, ::2], chances.max(0).values)


def test_classes_are_ignored_and_merged(tmp_path):
    """Red and green become one class, whose probability is the sum of theirs; blue is no class."""
    merged = {
        "label_map": [{"id": 0, "name": "warm", "color": [9, 9, 9]}],
        "classes": ["red", "green"],
        "meaning": {"red": "warm", "green": "warm"},
        "ignore": [2],
    }
    image, chances = picture(64, 96), shares(picture(64, 96))
    best = chances.argmax(0)
    wanted = np.where(best == 2, 255, 0)
    sure = np.where(best == 2, chances[2], chances[:2].sum(0))
    for body, output in ((BIG + "logits = Identity(big)", "logits"), (SOFTMAX, "probabilities")):
        segmenter = Segmenter.load(write(tmp_path, body, output=output, **merged))
        result = segmenter(image, confidence=True)
        assert (result.label == wanted).all() and (segmenter(image).label == wanted).all()
        assert is_near(result.confidence, sure)
        assert segmenter.label_map.names == ("warm",)
    ids = Segmenter.load(write(tmp_path, ARGMAX, gives=IDS, output="ids", **merged))
    assert (ids(image).label == wanted).all()


@pytest.mark.parametrize("ignored", [0, 19])
def test_twenty_channels_for_nineteen_classes(tmp_path, ignored):
    """The strongest channel is the brightness / 13."""
    steps = [13.0 * i for i in range(20)]
    body = f"m = ReduceMax<axes=[1], keepdims=1>(image) k = Constant<value_floats={steps}>() "
    body += "s = Constant<value_ints=[1,20,1,1]>() t = Reshape(k, s) d = Sub(m, t) a = Abs(d) logits = Neg(a)"
    keys = {"label_map": "cityscapes19", "ignore": [ignored], "range": "raw", "mean": None, "std": None}
    segmenter = Segmenter.load(write(tmp_path, body, **keys))
    assert segmenter.label_map == CITYSCAPES19
    for channel in (0, 5, 19):
        label = segmenter(np.full((64, 96, 3), 13 * channel, np.uint8)).label
        assert (label == (255 if channel == ignored else channel - (ignored == 0))).all()


def test_averaging_is_over_the_classes_of_the_label_map(tmp_path):
    pytest.importorskip("torchmetrics")
    from drive_seg.training.inference import Inference, Labeller

    keys = {"label_map": TWO, "classes": ["r", "g", "b"], "meaning": {"r": "road", "g": "road", "b": "other"}}
    segmenter, image = Segmenter.load(write(tmp_path, SOFTMAX, output="probabilities", **keys)), picture(64, 96)
    averaged = Labeller(segmenter, Inference(flip=True, window=(64, 96)))(image)
    assert (averaged == (shares(image)[2] < 0.5).numpy()).all()
    sigmoids = Segmenter.load(write(tmp_path, SIGMOID, output="sigmoid"))
    with pytest.raises(ValueError, match="class ids, or a sigmoid, and no probabilities to average over"):
        Labeller(sigmoids, Inference(flip=True))
    with pytest.raises(ValueError, match="class ids or a sigmoid, and no logits"):
        sigmoids.logits(image)


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize(
    ("body", "output"),
    [(FULL, "logits"), (SOFTMAX, "probabilities"), (SIGMOID, "sigmoid")],
)
def test_values_that_are_not_finite_cost_their_frame(tmp_path, body, output, confidence):
    """0 / 0 where a pixel is of the grey value 200, which no trial image has."""
    spoilt = STRANGE_AT_200.partition("one = Cast")[0].replace("image", "raw") + "ok = Not(same) f = Cast<to=1>(ok) "
    spoilt += "ax = Constant<value_ints=[1]>() g = Unsqueeze(f, ax) h = Mul(raw, g) image = Div(h, g) "
    keys = {"range": "raw", "mean": None, "std": None, "output": output}
    segmenter = Segmenter.load(write(tmp_path, spoilt + body, "float[N,3,H,W] raw", **keys))
    image = np.full((64, 96, 3), 129, np.uint8)
    segmenter(image, confidence)
    image[:16, :48] = 200
    with pytest.raises(NotFiniteError, match=r"not finite \(NaN or infinite\) at 12.5% of the pixels"):
        segmenter(image, confidence)


def test_values_that_are_not_finite_are_refused_at_load(tmp_path):
    with pytest.raises(CheckpointError, match=r"not finite \(NaN or infinite\) at .*% of the pixels"):
        Segmenter.load(write(tmp_path, "logits = Log(image)"))


# The input


@pytest.mark.parametrize(
    ("changes", "correction"),
    [
        ({"scale": 1}, "black and white become -2.118 and 1136 .* Likely is no scale"),
        ({"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}, "-2.118 and -1.786 .* Likely is scale: 1"),
        ({"std": [0.229 / 255] * 3}, "Likely is std 255 times as large$"),
        ({"std": [58.4] * 3}, "Likely is std 255 times as small$"),
        ({"mean": [0, 0, 0], "std": [1, 1, 1], "scale": 1}, "0 and 255 .* Likely is range: raw, if .* or no scale"),
        ({"mean": [123.0, 116.0, 103.0], "std": [1, 1, 1]}, "Likely is scale: 1 and range: raw"),
        ({"range": "raw"}, "range is raw, but black and white become -2.118 and 1136; .*: leave out range"),
        ({"mean": [5.0] * 3, "std": [0.01] * 3}, "Likely is another mean, std or scale"),
    ],
)
def test_a_normalisation_that_no_network_is_fed_is_refused_with_the_likely_correction(tmp_path, changes, correction):
    (tmp_path / "net.onnx").touch()
    with pytest.raises(CheckpointError, match=correction):
        Segmenter.load(write_contract(tmp_path / "net.onnx", **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mean": [0.5] * 3, "std": [0.5] * 3},
        {"mean": [0, 0, 0], "std": [1, 1, 1]},
        {"mean": [127.5] * 3, "std": [127.5] * 3, "scale": 1},
        {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4], "scale": 1},
        {"mean": [104.0, 117.0, 124.0], "std": [1, 1, 1], "scale": 1, "range": "raw"},
        {"mean": None, "std": None, "range": "raw"},
    ],
)
def test_what_networks_are_fed_is_taken(tmp_path, changes):
    spec = onnx_file.read_contract(write_contract(tmp_path / "net.onnx", **changes)).input
    assert spec.scale == 1 or spec.std[0] <= 1


def test_channel_order_mean_std_and_scale_are_the_contract_s(tmp_path):
    image = np.full((64, 96, 3), (40, 50, 120), np.uint8)  # BGR

    def answer(**changes):
        changes = {"mean": [0, 0, 0], "std": [0.5, 0.5, 0.5], **changes}
        label = Segmenter.load(write(tmp_path, **changes))(image).label
        assert (label == label[0, 0]).all()
        return label[0, 0]

    assert answer() == 0
    assert answer(channel_order="bgr") == 2
    assert answer(scale=1, mean=[100, 0, 0], std=[1, 1, 1], range="raw") == 1, "of raw values 20, 50, 40"
    assert answer(mean=[4, 0, 0]) == 1 and answer(mean=[0.2, 0, 0]) == 0
    assert answer(scale=1, std=[9, 8, 2], range="raw") == 2


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
    with pytest.raises(
        CheckpointError, match=r"it gives 'aux' tensor\(float\) .*, 'logits' .*: say in output_name which"
    ):
        Segmenter.load(write(tmp_path, **model))
    with pytest.raises(CheckpointError, match="it has no output 'mask', only 'aux'"):
        Segmenter.load(write(tmp_path, **model, output_name="mask"))


def test_threads_are_no_more_than_torch_was_given(tmp_path):
    path, threads = write(tmp_path), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = Segmenter.load(path)._network._session.session.get_session_options().intra_op_num_threads
        torch.set_num_threads(os.cpu_count())
        default = Segmenter.load(path)._network._session.session.get_session_options().intra_op_num_threads
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


def test_openvino_runs_an_export_whose_weights_lie_beside_it(exported):
    pytest.importorskip("openvino")
    ours, theirs = Segmenter.load(exported), Segmenter.load(exported, runtime="openvino")
    image = SynthDrive(seed=5).frame(20).image
    assert theirs.runtime == "openvino" and (ours(image).label == theirs(image).label).mean() >= 0.9999


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
    assert place("d", scale=0.004) != first and place("d", output="ids") != first
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
        ({"ignore": [3, 4]}, "of 3 classes, but the network by its contract has 5"),
        (
            {"label_map": [{"id": i, "name": n, "color": [i] * 3} for i, n in enumerate("ab")]},
            r"of 3 classes, but label map 'net' has 2: if the last is no class, say ignore: \[2\]",
        ),
        (
            {"body": "logits = Transpose<perm=[0,2,3,1]>(image)", "label_map": "cityscapes19"},
            r"\[1, 64, 96, 3\], so of 3 classes, but label map 'cityscapes19' has 19",
        ),
        (
            {"takes": "float[3,H,W] image", "gives": "float[C,h,w] logits"},
            r"\[3, H, W\] is neither \[N, 3, height, width\] nor \[N, height, width, 3\]",
        ),
        ({"takes": "float[N,4,H,W] image"}, r"\[N, 4, H, W\] is neither"),
        ({"takes": "float[2,3,H,W] image"}, "takes 2 images at once; 1 or any number is needed"),
        ({"takes": "float[1,3,64,128] image"}, r"\[1, 3, 64, 128\], but the contract's input_size is \[64, 96\]"),
        ({"takes": "float[N,3,128,W] image"}, r"\[N, 3, 128, W\], but the contract's input_size is \[64, 96\]"),
        (
            {"takes": "int8[N,3,H,W] image", "gives": "int8[N,C,h,w] logits"},
            r"tensor\(int8\) .* is none of tensor\(float\), tensor\(float16\), tensor\(uint8\)",
        ),
        (
            {"takes": "uint8[N,3,H,W] image", "gives": "uint8[N,C,h,w] logits"},
            "takes pixels: say range: raw, and no mean, std and scale",
        ),
        (
            {"takes": f"{ANY}, float[1] gain", "body": "logits = Mul(image, gain)"},
            r"it wants 'image' .*, 'gain' tensor\(float\) \[1\], and there is",
        ),
        ({"body": ARGMAX, "gives": IDS}, r"is int64 \[1, 64, 96\]: these are ids, not logits: output: ids"),
        ({"output": "ids"}, r"float32 \[1, 3, 64, 96\]; ids are whole numbers \[N, h, w\]"),
        (
            {"body": "logits = ReduceMax<axes=[1], keepdims=0>(image)", "gives": "float[N,h,w] logits"},
            r"\[1, 64, 96\], so of 1 classes, but label map 'net' has 3",
        ),
        (
            {"body": "a = Shape(image) logits = Cast<to=1>(a)", "gives": "float[n] logits"},
            r"\[4\]; logits are floating-point numbers \[N, classes, h, w\] or \[N, h, w, classes\]",
        ),
        ({"body": "a = Shape(image) ids = Cast<to=7>(a)", "gives": "int64[n] ids", "output": "ids"}, r"\[4\]; ids are"),
        (
            {"body": "a = Neg(image) ids = Cast<to=3>(a)", "gives": "int8[N,C,h,w] ids", "output": "ids"},
            "ids are whole",
        ),
        (
            {"body": "ids = ReduceMax<axes=[1], keepdims=0>(image)", "gives": "float[N,h,w] ids", "output": "ids"},
            "it gave -1.8.*, which is no id: ids are whole numbers",
        ),
        (
            {"body": ALWAYS.format(7), "gives": IDS, "output": "ids"},
            "it gave the id 7, but label map 'net' has the ids 0..2 and 255 is void",
        ),
        (
            {"body": ALWAYS.format(7), "gives": IDS, "output": "ids", "ignore": [3]},
            "it gave the id 7, but the network by its contract has the ids 0..3 and 255 is void",
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
    """The id is 2, and 7 where a pixel is of the grey value 200, which no trial image has."""
    path = write(tmp_path, STRANGE_AT_200, gives=IDS, output="ids", range="raw", mean=None, std=None)
    segmenter = Segmenter.load(path)
    assert (segmenter(np.full((64, 96, 3), 129, np.uint8)).label == 2).all()
    with pytest.raises(CheckpointError, match="it gave the id 7, but label map 'net' has the ids 0..2"):
        segmenter(np.full((64, 96, 3), 200, np.uint8))


def test_void_is_let_through(tmp_path):
    segmenter = Segmenter.load(write(tmp_path, ALWAYS.format(255), gives=IDS, output="ids"))
    assert (segmenter(picture(100, 100)).label == 255).all()


def test_a_network_of_one_size_that_does_not_say_so_is_refused(tmp_path):
    body = "s = Constant<value_ints=[1,3,6144]>() r = Reshape(image, s) t = Constant<value_ints=[1,3,64,96]>() "
    with pytest.raises(CheckpointError, match=r"of 96x64 but not of 104x72: export it with a fixed size.*reshape"):
        Segmenter.load(write(tmp_path, body + "logits = Reshape(r, t)"))


def test_the_multiple_of_a_network_is_found_and_kept(tmp_path):
    """What was taken apart to 1/32 and brought back must fit what it was."""
    body = "small = AveragePool<kernel_shape=[32,32], strides=[32,32]>(image) "
    body += "s = Constant<value_floats=[1.0,1.0,32.0,32.0]>() "
    body += 'back = Resize<mode="nearest">(small, , s) logits = Add(image, back)'
    with pytest.raises(CheckpointError, match=r"96x64 but not of 104x72: its sides must .* say multiple: 32"):
        Segmenter.load(write(tmp_path, body))
    segmenter = Segmenter.load(write(tmp_path, body, multiple=32))
    assert segmenter.network_size(720, 1280) == (64, 96) and segmenter.network_size(100, 400) == (32, 160)
    assert segmenter(picture(100, 400)).label.shape == (100, 400)
    with pytest.raises(CheckpointError, match=r"input_size \[64, 100\] is not of multiples of 32"):
        Segmenter.load(write(tmp_path, body, multiple=32, input_size=[64, 100]))


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
        ({"output": "mask"}, "output 'mask' is not one of logits, probabilities, sigmoid, ids"),
        ({"output": None, "licence": None}, "output is missing, licence is missing"),
        ({"range": "0..255"}, "range '0..255' is not one of normalised, raw"),
        ({"multiple": 0}, "multiple 0 is not 1 to 256"),
        ({"threshold": 1.5}, "threshold 1.5 is not between 0 and 1"),
        ({"threshold": 0.5, "output": "ids"}, "threshold goes with output sigmoid, or logits of one channel"),
        ({"confidence_name": "c"}, "confidence_name goes with output ids"),
        ({"ignore": 19}, "ignore is not a list of different ids of the network: 19"),
        ({"ignore": [9]}, "ignore [9] and 3 classes make the ids 0..3"),
        ({"meaning": ["a"]}, "meaning is not of the form {class of the network: class of label_map}"),
        ({"meaning": {"Sky": "sky"}}, "meaning names 'Sky', which is no class of the network: say in classes what"),
        ({"meaning": {"red": ["green", "blue"]}}, "meaning of 'red' is not one class of the label map"),
        ({"meaning": {0: "red"}, "ignore": [2]}, "class 'id 1' of label map 'of the network' is not in 'net'"),
        ({"classes": ["a"], "meaning": {"a": "rot"}}, "label map 'net' has no class 'rot'"),
        ({"classes": 3}, "classes is neither the name of a label map nor a list of names: 3"),
        (
            {"classes": "camvid11", "label_map": "cityscapes19"},
            "class 'Building' of the network may be building or wall: say which one under 'meaning'",
        ),
        ({"output_name": ""}, "output_name is not a text: ''"),
        ({"licence": ""}, "licence is not a text"),
    ],
)
def test_a_contract_with_a_fault_is_refused_with_the_key(tmp_path, changes, reason):
    (tmp_path / "net.onnx").write_bytes(b"not read so far")
    with pytest.raises(CheckpointError) as refusal:
        Segmenter.load(write_contract(tmp_path / "net.onnx", **changes))
    assert reason in str(refusal.value) and "net.contract.yaml" in str(refusal.value)


def test_the_guide_s_contracts_are_some(checkout, tmp_path):
    guide = (checkout / "docs/own-networks.md").read_text()
    first, second = (f"label_map{part.partition('```')[0]}" for part in guide.split("```yaml\nlabel_map")[1:])
    (tmp_path / "net.contract.yaml").write_text(first)
    contract = onnx_file.read_contract(tmp_path / "net.onnx")
    assert contract.label_map == CITYSCAPES19 and contract.input == InputSpec((512, 1024))
    assert all(f"\n{key}: " in first for key in REQUIRED if key != "label_map")
    assert all(f"\n| `{key}: " in guide for key in OPTIONAL)
    (tmp_path / "road.contract.yaml").write_text(second)
    road = onnx_file.read_contract(tmp_path / "road.xml")
    assert road.label_map.names == ("background", "road", "curb") and road.options["becomes"] == [0, 1, 2, 1]
    assert (road.input.mean, road.input.std, road.input.scale) == ((0, 0, 0), (1, 1, 1), 1)


def test_the_guide_s_road_network_is_drivable(checkout, tmp_path):
    """A stand-in for it as OpenVINO has it: probabilities of four classes by how near the brightness is to 60 x id."""
    openvino = pytest.importorskip("openvino")
    body = "m = ReduceMax<axes=[1], keepdims=1>(image) k = Constant<value_floats=[0.0,60.0,120.0,180.0]>() "
    body += "s = Constant<value_ints=[1,4,1,1]>() t = Reshape(k, s) d = Sub(m, t) a = Abs(d) n = Neg(a) "
    body += "w = Constant<value_float=20.0>() l = Div(n, w) road = Softmax<axis=1>(l)"
    path = write(tmp_path, body, "float[1,3,512,896] image", "float[1,4,512,896] road")
    network = path.with_suffix(".xml")
    openvino.save_model(OpenVino.core().read_model(path), network, compress_to_fp16=False)
    contract = (checkout / "docs/own-networks.md").read_text().split("```yaml\nlabel_map")[2].partition("```")[0]
    network.with_suffix(".contract.yaml").write_text(f"label_map{contract}")
    segmenter = Segmenter.load(network)
    assert (segmenter.runtime, segmenter.network_size(720, 1280)) == ("openvino", (512, 896))
    chances = np.exp(-np.abs(180 - 60 * np.arange(4)) / 20)
    chances /= chances.sum()
    result = segmenter(np.full((72, 128, 3), 180, np.uint8), confidence=True)
    assert (result.label == 1).all(), "lane marking, which is road"
    assert is_near(result.confidence, chances[1] + chances[3])
    assert (segmenter(np.full((72, 128, 3), 120, np.uint8)).label == 2).all()
    wrong = f"label_map{contract}".replace("output: probabilities", "output: logits")
    network.with_suffix(".contract.yaml").write_text(wrong)
    with pytest.raises(CheckpointError, match="a softmax is inside the network. .*it must say output: probabilities"):
        Segmenter.load(network)


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

    path = write(tmp_path, ARGMAX, gives=IDS, output="ids", scale=0.005)
    cli.app(["inspect", "--model", str(path), "--json", "-"], standalone_mode=False)
    printed = json.loads(capsys.readouterr().out)
    assert printed["network"] == "onnx" and printed["options"] == {"output": "ids"} and printed["licence"] == "MIT"
    assert printed["sha256"] == Segmenter.load(path).sha256 and printed["input"]["scale"] == 0.005
    cli.app(["inspect", "--model", str(path)], standalone_mode=False)
    assert printed["sha256"] in capsys.readouterr().out
    cv2.imwrite(str(tmp_path / "shot.png"), picture(60, 90))
    cli.app(
        ["segment", str(tmp_path / "shot.png"), "-o", str(tmp_path / "out"), "--model", str(path)],
        standalone_mode=False,
    )
    label = cv2.imread(str(tmp_path / "out" / "label" / "shot.png"), cv2.IMREAD_UNCHANGED)
    assert (label == Segmenter.load(path)(picture(60, 90)).label).all() and label.shape == (60, 90)
    with pytest.raises(CheckpointError, match="these are ids, not logits"):
        cli.app(["inspect", "--model", str(write_contract(path))], standalone_mode=False)


def test_inspect_shows_what_a_file_takes_and_gives_and_in_what(tmp_path, capsys):
    pytest.importorskip("typer")
    from drive_seg import cli

    quantised = (
        "s = Constant<value_float=0.05>() z = Constant<value_int=0>() zero = Cast<to=3>(z) "
        "q = QuantizeLinear(image, s, zero) logits = DequantizeLinear(q, s, zero)"
    )
    cli.app(["inspect", "--model", str(write(tmp_path, quantised)), "--json", "-"], standalone_mode=False)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["runtime"], printed["precision"]) == ("onnxruntime", "int8")
    assert printed["inputs"] == ["'image' tensor(float) [N, 3, H, W]"]
    assert printed["outputs"][0].startswith("'logits' tensor(float) [N, ")


@pytest.mark.parametrize(
    ("model", "seen", "kind"),
    [
        (
            {"body": SOFTMAX, "takes": FIXED},
            ": probabilities of 3 classes",
            "probabilities",
        ),
        ({"body": LOG_SOFTMAX, "takes": FIXED}, "logits of 3 classes", "logits"),
        (
            {"body": RED + "logits = Sigmoid(red)", "takes": FIXED},
            "sigmoid of 1 class, or of two with a thr",
            "sigmoid",
        ),
        ({"body": ARGMAX, "gives": IDS, "takes": FIXED}, "'ids' tensor(int64) [", "ids"),
        (
            {"body": "p = Cast<to=1>(image) logits = Neg(p)", "takes": "uint8[1,64,96,3] image"},
            "'image' tensor(uint8) [1, 64, 96, 3] and gives",
            "logits",
        ),
    ],
)
def test_inspect_writes_a_contract_to_fill_in(tmp_path, monkeypatch, capsys, model, seen, kind):
    pytest.importorskip("typer")
    from drive_seg import cli

    monkeypatch.setattr(trial, "outcomes", lambda file, names, *wish: [trial.Outcome(n) for n in names])
    path = write(tmp_path, **model)
    place = path.with_suffix(".contract.yaml")
    place.unlink()
    assert cli.app(["inspect", "--model", str(path)], standalone_mode=False) == 1
    assert "runtime: onnxruntime" in capsys.readouterr().out
    text = place.read_text()
    assert seen in text and f"\noutput: {kind}" in text and "\ninput_size: [64, 96]" in text
    with pytest.raises(CheckpointError, match="label_map, channel_order, .*licence are empty: fill in what"):
        Segmenter.load(path)
    filled = dict(yaml.safe_load(text), label_map=TWO if "or of two" in seen else CONTRACT["label_map"], licence="MIT")
    rest = {"mean": CONTRACT["mean"], "std": CONTRACT["std"]} if "range" not in filled else {}
    place.write_text(yaml.safe_dump({**filled, "channel_order": "rgb", **rest}))
    assert Segmenter.load(path)(picture(64, 96)).label.shape == (64, 96)


def test_evaluate_scores_an_onnx_file(tmp_path, capsys):
    pytest.importorskip("typer")
    from drive_seg import cli

    path = write(tmp_path, ALWAYS.format(10), gives=IDS, output="ids", label_map="cityscapes19")
    data = ["--dataset", "synth", "--option", "seeds=[3]", "--option", "frames=1", "--option", "size=[128,72]"]
    cli.app(["evaluate", "--model", str(path), *data, "--json", "-"], standalone_mode=False)
    report = json.loads(capsys.readouterr().out)
    counts = np.array(report["confusion_matrix"])
    assert counts.sum() == counts[:, 10].sum() == report["images"] * 128 * 72, "everything was taken for sky"


# Without onnxruntime, or without its CUDA


def test_without_onnxruntime_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "net.onnx").touch()
    write_contract(tmp_path / "net.onnx")
    for name in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CheckpointError, match="needs onnxruntime.*extra 'onnx'"):
        Segmenter.load(tmp_path / "net.onnx")


def test_auto_does_without_onnxruntime_where_openvino_is(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    path = write(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert Segmenter.load(path).runtime == "openvino"


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


@pytest.mark.parametrize("takes", [ANY, "float16[N,3,H,W] image"])
def test_a_network_reads_and_writes_the_memory_of_its_device(takes, tmp_path, monkeypatch):
    """Bound to the memory of the CPU, which stands for the GPU's: the same values, on no other way."""
    gives = LOGITS.replace("float", "float16") if "16" in takes else LOGITS
    runtime = Segmenter.load(write(tmp_path, EIGHTH, takes, gives))._network
    session, made = runtime._session, []
    for seed in range(3):
        batch = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(seed)).to(runtime.dtype)
        (wanted,) = session.session.run(["logits"], {"image": batch.numpy()})
        with monkeypatch.context() as patch:
            if seed:
                patch.setattr(session, "run", lambda *given: pytest.fail("the host has no part in it"))
            made += session.run_on_device(["logits"], batch)
        assert made[-1].dtype == runtime.dtype and np.array_equal(made[-1].numpy(), wanted)
        scores = runtime._outputs.logits(made[-1], (64, 96))
        assert torch.equal(scores, runtime._outputs.logits(wanted, (64, 96)))
    assert len({values.data_ptr() for values in made}) == 3, "none is overwritten"
    with pytest.raises(RuntimeError, match="Invalid|invalid|INVALID|Got invalid dimensions"):
        session.run_on_device(["logits"], torch.zeros(1, 4, 64, 96, dtype=runtime.dtype))


def test_a_contract_elsewhere_names_its_file(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    path = write(tmp_path / "models")
    own = tmp_path / "own.contract.yaml"
    own.write_text(f"file: models/net.onnx\n{yaml.safe_dump({**CONTRACT, 'channel_order': 'bgr'})}")
    image = picture(64, 96)
    segmenter = Segmenter.load(own)
    assert segmenter.contract.input.channel_order == "bgr" and segmenter.label_map.name == "own"
    assert (segmenter(image[..., ::-1].copy()).label == Segmenter.load(path)(image).label).all()
    with pytest.raises(CheckpointError, match="says in 'file' which .onnx or .xml it is for"):
        Segmenter.load(path.with_suffix(".contract.yaml"))
    own.write_text(f"file: ${{NETWORKS}}/net.onnx\n{yaml.safe_dump(CONTRACT)}")
    monkeypatch.setenv("NETWORKS", str(path.parent))
    assert Segmenter.load(own).contract.input.channel_order == "rgb"
    monkeypatch.delenv("NETWORKS")
    with pytest.raises(CheckpointError, match="own.contract.yaml: file: .* needs the environment variable NETWORKS"):
        Segmenter.load(own)
    own.write_text(f"file: none.onnx\n{yaml.safe_dump(CONTRACT)}")
    with pytest.raises(CheckpointError, match="none.onnx: there is no such file"):
        Segmenter.load(own)


# The scale of the input


def test_the_default_scale_leaves_a_checkpoint_s_contract_as_it_was():
    assert "scale" not in InputSpec((64, 96)).to_dict() and InputSpec((64, 96), scale=1).to_dict()["scale"] == 1
    contract = checkpoint.Contract("dsnet", {}, CITYSCAPES19, InputSpec((64, 96), scale=1.0))
    assert checkpoint.Contract.from_dict(contract.to_dict()) == contract
