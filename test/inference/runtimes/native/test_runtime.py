"""The native runtime labels as PyTorch does, is taken when it is prepared, and says what it cannot do."""

import json
from types import SimpleNamespace

import cv2
import pytest
import torch

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.inference.decision import decide
from drive_seg.inference.runtimes import cache, choice, entry, host
from drive_seg.inference.runtimes.native import Native
from drive_seg.inference.runtimes.native import library as kernels
from drive_seg.inference.runtimes.native import runtime as native
from drive_seg.inference.runtimes.native.calibration import calibrate
from drive_seg.inference.runtimes.native.library import Library
from drive_seg.inference.runtimes.native.runtime import NativeRuntime
from drive_seg.labels import CAMVID11
from drive_seg.networks.fold import fold
from drive_seg.segmenter import Segmenter
from drive_seg.synth import SynthDrive

MODEL = "dsnet_synth19"
SMALL = (64, 96)


def need(precision):
    if precision not in Native().precisions():
        pytest.skip(f"this processor has no {precision}")


@pytest.fixture(scope="module")
def trained():
    return checkpoint.load(checkpoint.find_model(MODEL))


@pytest.fixture(scope="module")
def frames():
    drive = SynthDrive(seed=7, size=(640, 360))
    return [drive.frame(i).image for i in range(2, 44, 7)]


@pytest.fixture(scope="module")
def inputs(trained, frames):
    """The frames as the network wants them."""
    return [trained.contract.input.normalise(torch.from_numpy(f).permute(2, 0, 1)[None]) for f in frames]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Network and options -> a checkpoint with fresh weights."""
    folder = tmp_path_factory.mktemp("models")

    def saved(name="dsnet", **options):
        torch.manual_seed(2)
        path = folder / f"{name}{len(options)}.safetensors"
        network = networks.build(name, 11, **options)
        checkpoint.save(path, network, Contract(name, options, CAMVID11, InputSpec(SMALL)))
        return checkpoint.load(path)

    return saved


@pytest.fixture
def ready(kernels_file):
    """The kernels lie in this test's cache."""
    native._write(native.library_file(), native._sealed(kernels_file.read_bytes()))


@pytest.fixture(scope="module")
def factors(trained, inputs, kernels_file):
    """What bytes stand for, of four frames."""
    return calibrate(fold(trained.build_network()), inputs[2:], Library(kernels_file))


@pytest.fixture
def threads():
    """Sets torch's number, and sets it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def segmenter(model=MODEL, **how):
    """With what it told."""
    told = []
    return Segmenter.load(model, how.pop("device", "cpu"), tell=told.append, **how), told


# --- Labels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("bf16", 0.99), ("int8", 0.98)])
@torch.inference_mode()
def test_a_trained_model_labels_as_in_pytorch(trained, inputs, factors, kernels_file, precision, least):
    """On frames that int8 was not calibrated on."""
    need(precision)
    network = fold(trained.build_network())
    runtime = NativeRuntime(network, Library(kernels_file), precision, factors if precision == "int8" else None)
    same = [(runtime(image).argmax(1) == network(image).argmax(1)).float().mean() for image in inputs[:2]]
    assert sum(same) / len(same) >= least
    assert len(network(inputs[0]).argmax(1).unique()) > 5


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("bf16", 0.998), ("int8", 0.99)])
def test_real_frames_are_labelled_as_in_pytorch(shared_data, kernels_file, precision, least):
    """Every fifth of CamVid's val images; int8 is calibrated on train."""
    need(precision)
    loaded = checkpoint.load(checkpoint.find_model("dsnet_camvid11"))
    exact = Segmenter(loaded.build_network(), loaded.contract, "cpu", "fp32")

    def some(split, step):
        return [cv2.imread(str(file)) for file in sorted((shared_data / "camvid" / split / "images").iterdir())[::step]]

    library, factors = Library(kernels_file), None
    if precision == "int8":
        images = [exact.prepare(image, image.shape[:2]) for image in some("train", 30)]
        factors = calibrate(fold(loaded.build_network()), images, library)
    own = Segmenter(NativeRuntime(loaded.build_network(), library, precision, factors), loaded.contract)
    same = [(own(image).label == exact(image).label).mean() for image in some("val", 5)]
    assert len(same) == 21 and sum(same) / len(same) >= least


def test_a_segmenter_labels_and_is_as_sure_as_pytorch(ready, frames):
    exact, _ = segmenter(runtime="torch")
    own, told = segmenter(runtime="native")
    assert (own.runtime, own.precision, own.device, told) == ("native", "fp32", "cpu", [])
    one, other = (s(frames[0], confidence=True) for s in (exact, own))
    assert (one.label == other.label).mean() > 0.9999
    assert (abs(one.confidence.astype(int) - other.confidence) > 1).mean() < 1e-3
    assert own(frames[0]).confidence is None and (own(frames[0]).label == other.label).all()


def test_a_runtime_that_only_gives_logits_says_so(ready):
    exact, _ = segmenter(runtime="torch")
    assert not exact._network.decides
    with pytest.raises(TypeError, match="torch gives logits, and does not decide"):
        exact._network.decide(torch.zeros(1, 3, 8, 8), False)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_whatever_ran_before_the_logits_are_the_same_to_the_bit(
    trained, factors, kernels_file, threads, monkeypatch, precision
):
    need(precision)
    monkeypatch.setattr(native, "SIZES_KEPT", 2)
    library, used = Library(kernels_file), set()
    carry_out = library.run
    monkeypatch.setattr(library, "run", lambda steps, number: used.add(number) or carry_out(steps, number))
    runtime = NativeRuntime(trained.build_network(), library, precision, factors)
    torch.manual_seed(4)
    images = [torch.randn(1, 3, *size) for size in ((41, 67), (64, 32), (8, 8))]
    threads(1)
    first = [runtime(image).clone() for image in images]
    for count in (1, 2, 3):
        threads(count)
        for i in (0, 1, 2, 0):
            assert runtime(images[i]).equal(first[i])
    assert used == {1, 2, 3}, "torch's number of threads is the kernels'"
    assert len(runtime._programs) == 2, "memory is kept for so many sizes"


def test_a_batch_is_labelled_image_by_image(trained, kernels_file):
    runtime = NativeRuntime(trained.build_network(), Library(kernels_file), "fp32")
    torch.manual_seed(4)
    batch = torch.randn(3, 3, 41, 67)
    logits = runtime(batch.contiguous(memory_format=torch.channels_last))
    assert logits.shape == (3, 19, 41, 67) and logits.dtype == torch.float32
    for image, alone in zip(batch, logits, strict=True):
        assert runtime(image[None])[0].equal(alone)
    ids, sureness, rows = runtime.decide(batch, True, 1.0, 3.0)
    wanted, known = decide(logits, True)
    assert ids.equal(wanted) and (sureness.short() - known.short()).abs().max() <= 1
    assert runtime.decide(batch, False)[0].equal(ids) and runtime.decide(batch, False)[1] is None
    for image, planes in zip(batch, zip(ids, sureness, rows, strict=True), strict=True):
        for alone, plane in zip(runtime.decide(image[None], True, 1.0, 3.0), planes, strict=True):
            assert alone[0].equal(plane)
    assert runtime.one_by_one and not runtime.capturable and runtime.fixed_size is None


# --- Which is taken -----------------------------------------------------------------------------------------------


def rule(loaded, precision, told):
    """The name of what "auto" takes, with nothing that it would take later."""
    found, later = choice._rule(loaded, "cpu", precision, SMALL, told.append)
    assert later is None
    return found.name


@pytest.fixture
def can_compile(monkeypatch):
    """There is a compiler, and no other runtime, whatever is installed here."""
    monkeypatch.setattr(host, "can_compile", lambda: True)
    monkeypatch.setattr(entry, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("precision", "ending"),
    [("auto", ""), ("bf16", " --precision bf16"), ("int8", " --precision int8 --calibrate IMAGES")],
)
def test_auto_takes_pytorch_until_it_is_prepared_and_says_how(saved, can_compile, monkeypatch, precision, ending):
    monkeypatch.setattr(Native, "precisions", lambda self, device="cpu": ("fp32", "bf16", "int8"))
    loaded, told = saved(), []
    assert rule(loaded, precision, told) == "torch"
    command = f"drive-seg prepare --model {loaded.path} --runtime native{ending}"
    assert told == [f"runtime auto takes torch: native is faster, but not prepared for this model: {command}"]


def test_auto_takes_it_once_the_kernels_are_there(ready, saved):
    """They serve every DSNet, and every SwiftNet on an EfficientNet-Lite, in every size."""
    light = saved("swiftnet", width=32, feature_balance=["res5"])
    for loaded in (saved(), saved(size="0.5", skips=True), light):
        own, told = segmenter(loaded.path)
        assert (own.runtime, own.precision, told) == ("native", "fp32", [])
    assert segmenter(loaded.path, runtime="torch")[0].runtime == "torch"
    assert segmenter(loaded.path, precision="fp16")[0].runtime == "torch", "native does not have it"


def test_int8_is_not_offered_where_it_cannot_be_had(ready, saved, can_compile, monkeypatch):
    monkeypatch.setattr(Native, "precisions", lambda self, device="cpu": ("fp32", "bf16", "int8"))
    for loaded in (
        saved("swiftnet", width=32, backbone="efficientnet_lite0", feature_balance=["res5"]),
        saved(feature_balance=["stage2"], feature_modulator="conv", skips=True),
    ):
        told = []
        assert [native.executes(loaded, p) for p in ("fp32", "bf16", "int8")] == [True, True, False]
        assert rule(loaded, "fp32", told) == "native"
        assert rule(loaded, "int8", told) == "torch"
        assert "native" not in "".join(told)
        with pytest.raises(ValueError, match="int8 is not available for"):
            Native().prepare(loaded, SMALL, "int8")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("enet", {}),
        ("dsnet", {"unit": "enet"}),
        ("dsnet", {"pyramid_pooling": True}),
        ("swiftnet", {"width": 32, "output_stride": 16, "backbone": "efficientnet_lite1", "stem": "deep"}),
    ],
    ids=["enet", "unit", "pyramid", "dilated encoder"],
)
def test_auto_takes_it_for_no_other_network(ready, saved, can_compile, name, options):
    loaded = saved(name, **options)
    assert not native.executes(loaded, "fp32")
    other, told = segmenter(loaded.path)
    assert other.runtime == "torch" and not any("native" in sentence for sentence in told)
    with pytest.raises(ValueError, match=r"native kernels run (DSNets of the paper's own|those on an Eff)"):
        segmenter(loaded.path, runtime="native")


@pytest.mark.parametrize("bytes_left", [0, 1000, -1])
def test_a_cut_file_is_as_good_as_none(ready, saved, kernels_file, monkeypatch, bytes_left):
    """To load it would end the process."""
    monkeypatch.setattr(kernels, "compile_library", kernels_file.read_bytes)
    file = native.library_file()
    file.write_bytes(file.read_bytes()[:bytes_left])
    assert Segmenter.load(saved().path, "cpu", tell=lambda text: None).runtime == "torch"
    assert Segmenter.load(saved().path, "cpu", runtime="native", tell=lambda text: None).runtime == "native"


def test_by_name_it_is_compiled_once_and_told(saved, kernels_file, monkeypatch):
    made = []
    monkeypatch.setattr(kernels, "compile_library", lambda: made.append(1) or kernels_file.read_bytes())
    tellings = []
    for model in (saved(), saved(), saved(size="0.5")):
        own, told = segmenter(model.path, runtime="native")
        assert own.runtime == "native"
        tellings.append(told)
    assert made == [1]
    assert tellings == [["compiling the kernels of the runtime native, once on this machine"], [], []]
    assert native.library_file().stat().st_size > 10_000
    assert {p.stat().st_mode & 0o777 for p in (cache.root(), native.library_file().parent)} == {0o700}


def test_a_missing_compiler_is_a_sentence(saved, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"need a C\+\+ compiler, and 'no-such-compiler' is not found"):
        segmenter(saved().path, runtime="native")
    other, told = segmenter(saved().path)
    assert other.runtime == "torch" and not any("native" in sentence for sentence in told)


def test_running_takes_no_compiler(ready, saved, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert segmenter(saved().path)[0].runtime == "native"


# --- int8 ---------------------------------------------------------------------------------------------------------


def test_int8_is_not_had_before_it_is_calibrated(ready, saved, monkeypatch):
    need("int8")
    loaded = saved()
    assert native.is_prepared(loaded, "fp32") and not native.is_prepared(loaded, "int8")
    command = f"drive-seg prepare --model {loaded.path} --runtime native --precision int8 --calibrate IMAGES"
    with pytest.raises(ValueError, match=r"is not calibrated for int8 on this machine: drive-seg") as caught:
        segmenter(loaded.path, runtime="native", precision="int8")
    assert str(caught.value).endswith(command)


def test_int8_takes_four_images(ready, trained, inputs):
    need("int8")
    for images in ([], inputs[:3]):
        with pytest.raises(ValueError, match=f"there are {len(images)} images to calibrate int8 on; it takes 4"):
            native.prepare(trained, "int8", images)
    assert native.read_factors(trained) is None


def test_int8_is_calibrated_on_three_of_four_images_and_then_there(ready, trained, inputs, frames, monkeypatch):
    need("int8")
    used = []
    monkeypatch.setattr(
        native, "calibrate", lambda network, images, library: used.extend(images) or calibrate(network, images, library)
    )
    file, share = native.prepare(trained, "int8", inputs)
    assert [any(image is other for other in used) for image in inputs] == [False, True, True, True, False, True]
    assert file == native.library_file() and 0.98 <= share < 1
    assert native.is_prepared(trained, "int8")
    own, told = segmenter(runtime="native", precision="int8")
    assert (own.runtime, own.precision, told) == ("native", "int8", [])
    exact = segmenter(runtime="torch")[0](frames[0]).label
    assert 0.98 <= (own(frames[0]).label == exact).mean() < 1
    assert segmenter(precision="int8")[0].runtime == "native", "auto takes what is prepared"
    assert segmenter()[0].precision == "fp32", "and int8 never by itself"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-1],
        lambda text: "",
        lambda text: "[1]",
        lambda text: "5",
        lambda text: json.dumps({"factors": json.loads(text)["factors"]}),
        *(
            lambda text, name=name: json.dumps({**json.loads(text), name: "another"})
            for name in ("checkpoint", "drive_seg", "networks")
        ),
    ],
    ids=["cut", "empty", "list", "number", "no key", "checkpoint", "version", "networks"],
)
def test_a_damaged_file_of_factors_or_another_versions_is_none(ready, saved, damage):
    loaded = saved()
    native._write(
        native._factors_file(loaded), json.dumps({**native._factors_key(loaded), "factors": {"init": 0.5}}).encode()
    )
    assert native.read_factors(loaded) == {"init": 0.5} and native.is_prepared(loaded, "int8")
    file = native._factors_file(loaded)
    file.write_text(damage(file.read_text()))
    assert native.read_factors(loaded) is None and not native.is_prepared(loaded, "int8")


# --- The kernels' file --------------------------------------------------------------------------------------------


def test_another_source_or_processor_means_another_file(ready, monkeypatch, tmp_path):
    file = native.library_file()
    assert file == native.library_file() and file.parent == cache.root() / "native"
    changed = tmp_path / "kernels.cpp"
    changed.write_bytes(kernels.SOURCE.read_bytes().replace(b"LANES = 16", b"LANES = 32"))
    others = [(kernels, "SOURCE", changed), (kernels, "FLAGS", ("-O2",))]
    others.append((host, "_processor", lambda: {"model name": "another", "flags": "avx2"}))
    for where, name, value in others:
        with monkeypatch.context() as other:
            other.setattr(where, name, value)
            assert native.library_file() != file and not native.library_file().exists()


@pytest.mark.parametrize("folder", ["root", "native"])
def test_a_cache_that_others_can_write_is_not_used(ready, saved, folder):
    (cache.root() if folder == "root" else native.library_file().parent).chmod(0o777)
    other, told = segmenter(saved().path)
    assert other.runtime == "torch"
    assert any("runtime auto does not take native: " in t and "is not used as a cache" in t for t in told)
    for use in (
        lambda: native.is_prepared(saved(), "fp32"),
        lambda: native.open_library(native.library_file()),
        lambda: segmenter(saved().path, runtime="native"),
    ):
        with pytest.raises(ValueError, match="must be a folder that only its owner"):
            use()


def test_a_cache_that_cannot_be_written_is_a_sentence(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "compile_library", lambda: b"library")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"the cache .* cannot be written .*set XDG_CACHE_HOME"):
        segmenter(saved().path, runtime="native")


def test_kernels_that_label_otherwise_are_a_sentence(ready, saved, monkeypatch):
    monkeypatch.setattr(NativeRuntime, "__call__", lambda self, batch: torch.randn(1, 11, *batch.shape[-2:]))
    with pytest.raises(ValueError, match=r"by native labels \d+\.\d+ % of the pixels as PyTorch does, .* is not used$"):
        Native().prepare(saved(), SMALL)


# --- What cannot be had -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"device": "cuda"}, "device 'cuda' cannot be had: native runs checkpoints on the cpu, torch on CUDA"),
        ({"device": "cuda:1"}, "device 'cuda:1' cannot be had: native"),
        (
            {"precision": "fp16"},
            "precision 'fp16' cannot be had: native computes a checkpoint in fp32.* on this",
        ),
        ({"threads": -1}, "threads must be 0"),
    ],
)
def test_what_cannot_be_had_is_said(ready, saved, wish, reason):
    with pytest.raises(ValueError, match=reason):
        segmenter(saved().path, runtime="native", **wish)


@pytest.mark.parametrize(
    ("flags", "able"),
    [
        ("avx2 fma", ("fp32",)),
        ("avx512f", ("fp32",)),
        ("avx512f avx512_vnni", ("fp32", "int8")),
        ("avx512f avx512_vnni avx512_bf16", ("fp32", "bf16", "int8")),
        ("avx_vnni", ("fp32",)),
    ],
)
def test_the_processor_decides_on_precisions(monkeypatch, flags, able):
    monkeypatch.setattr(host, "_processor", lambda: {"flags": flags})
    assert Native().precisions() == able and Native().choose_precision(able[-1]) == able[-1]
    with pytest.raises(
        ValueError, match=f"'fp64' cannot be had: native computes a checkpoint in {' or '.join(able)} on"
    ):
        Native().choose_precision("fp64")


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_compiler_that_does_not_know_the_processor_is_a_sentence(precision):
    library = SimpleNamespace(lanes=8, bfloats=False, bytes=False)
    with pytest.raises(ValueError, match=f"precision '{precision}' cannot be had"):
        NativeRuntime(networks.build("dsnet", 11), library, precision, {})


def test_preparing_refuses_before_it_compiles(saved, monkeypatch):
    monkeypatch.setattr(kernels, "compile_library", lambda: pytest.fail("it was compiled"))
    with pytest.raises(ValueError, match="the native kernels run DSNets"):
        Native().prepare(saved("enet"), SMALL)
    with pytest.raises(ValueError, match="'fp16' cannot be had"):
        Native().prepare(saved(), SMALL, "fp16")
    with pytest.raises(ValueError, match="device 'cuda"):
        Native().prepare(saved(), SMALL, device="cuda")


def test_a_users_own_file_is_for_other_runtimes(tmp_path):
    for name, runtime in (("net.onnx", "onnxruntime"), ("net.xml", "openvino")):
        file = SimpleNamespace(path=tmp_path / name)
        with pytest.raises(ValueError, match=f"runtime 'native' cannot run {name}: take {runtime}"):
            choice.for_file(file, "cpu", "auto", "native", 0)
