"""One file is the whole contract: what is written comes back, what does not fit is refused in one sentence."""

import dataclasses
import json
import re
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import CheckpointError, Contract, InputSpec
from drive_seg.labels import CAMVID11, CITYSCAPES19


@pytest.fixture(scope="module")
def contract():
    return Contract(
        "dsnet", {}, CAMVID11, InputSpec((48, 64)), {"recipe": "none"}, {"validation": {"miou": 0.5}}, "free"
    )


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(5)
    return networks.build("dsnet", 11)


@pytest.fixture
def path(tmp_path, network, contract):
    checkpoint.save(tmp_path / "m.safetensors", network, contract)
    return tmp_path / "m.safetensors"


def rewrite(path, change_tensors=None, change_metadata=None):
    """The file again with something altered by another hand (the recorded hash stays)."""
    with safe_open(str(path), framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change_tensors:
        change_tensors(tensors)
    if change_metadata:
        change_metadata(metadata)
    save_file(tensors, str(path), metadata=metadata)


def reseal(path, contract):
    """The file's tensors under another contract, with the right hash for it."""
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata = {
        "drive_seg.contract": checkpoint.canonical_json(contract.to_dict()),
        "drive_seg.sha256": checkpoint.content_hash(tensors, contract),
    }
    save_file(tensors, str(path), metadata=metadata)


def test_round_trip(path, network, contract):
    loaded = checkpoint.load(path)
    assert loaded.contract == contract
    rebuilt, image = loaded.build_network(), torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        assert torch.equal(rebuilt(image), network.eval()(image))
    network.train()


def test_other_users_may_read_a_checkpoint(path):
    assert path.stat().st_mode & 0o777 == 0o644


def test_training_only_branches_do_not_travel(path):
    assert not any("semantic_encoding" in name for name in checkpoint.load(path).tensors)


def test_a_network_option_can_be_overridden(path, network):
    rebuilt, image = checkpoint.load(path).build_network(unpool="one_hot"), torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        assert torch.equal(rebuilt(image), network.eval()(image))
    network.train()


def test_the_hash_is_sha256_over_names_dtypes_shapes_bytes_and_contract(path):
    import hashlib

    loaded = checkpoint.load(path)
    digest = hashlib.sha256()
    for name, tensor in sorted(loaded.tensors.items()):
        digest.update(
            name.encode() + b"\0" + str(tensor.dtype).encode() + b"\0" + str(tuple(tensor.shape)).encode() + b"\0"
        )
        digest.update(tensor.numpy().tobytes())
    digest.update(json.dumps(loaded.contract.to_dict(), sort_keys=True, separators=(",", ":")).encode())
    assert digest.hexdigest() == loaded.sha256


def test_saving_twice_gives_the_same_hash(tmp_path, network, contract):
    first = checkpoint.save(tmp_path / "a.safetensors", network, contract)
    assert checkpoint.save(tmp_path / "b.safetensors", network, contract) == first


def test_a_changed_weight_is_noticed(path):
    def nudge(tensors):
        tensors["init.conv.weight"][0, 0, 0, 0] += 1e-3

    rewrite(path, change_tensors=nudge)
    with pytest.raises(CheckpointError, match="content hash .* is not the recorded"):
        checkpoint.load(path)


def test_a_changed_label_name_is_noticed(path):
    def rename(metadata):
        metadata["drive_seg.contract"] = metadata["drive_seg.contract"].replace("Pavement", "Sidewalk")

    rewrite(path, change_metadata=rename)
    with pytest.raises(CheckpointError, match="changed after it was written"):
        checkpoint.load(path)


def test_a_file_that_is_no_safetensors(tmp_path):
    for name, content in (("text", b"weights, honestly"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="not a whole safetensors file"):
            checkpoint.load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("pickle", b"\x80\x02}q\x00.", "a PyTorch file, .*: write the network with torch.onnx.export"),
        ("net.pth", b"PK\x03\x04archive/data.pkl", "a PyTorch file, which may run any code"),
        ("net.tflite", b"\x1c\x00\x00\x00TFL3\x14\x00", "a TensorFlow Lite file; .*: convert it to ONNX"),
        ("net.h5", b"\x89HDF\r\n\x1a\n", "a TensorFlow or Keras file"),
        ("net.engine", b"ftrt0000", "a TensorRT engine"),
    ],
)
def test_a_file_of_another_framework_is_named_with_the_way_here(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    for read in (checkpoint.load, checkpoint.read_contract):
        with pytest.raises(CheckpointError, match=rf"{name}: {what}"):
            read(tmp_path / name)


def test_weights_that_are_not_finite_are_refused(tmp_path, network, contract):
    with torch.no_grad():
        weight = network.init.conv.weight
        before = weight[0, 0, 0, 0].item()
        weight[0, 0, 0, 0] = float("nan")
        checkpoint.save(tmp_path / "nan.safetensors", network, contract)
        weight[0, 0, 0, 0] = before
    with pytest.raises(CheckpointError, match="tensor 'init.conv.weight' holds values that are not finite"):
        checkpoint.load(tmp_path / "nan.safetensors")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_a_truncated_file(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoint.load(path)


def test_a_safetensors_file_without_contract(tmp_path):
    save_file({"x": torch.zeros(1)}, str(tmp_path / "x.safetensors"))
    with pytest.raises(CheckpointError, match="holds no drive_seg contract"):
        checkpoint.load(tmp_path / "x.safetensors")


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        checkpoint.load(tmp_path / "nowhere.safetensors")


def test_an_unknown_network(path, contract):
    reseal(path, dataclasses.replace(contract, network="dsnet9000"))
    with pytest.raises(CheckpointError, match="no network is called 'dsnet9000'; there are: .*dsnet"):
        checkpoint.load(path).build_network()


def test_an_unknown_option(path, contract):
    reseal(path, dataclasses.replace(contract, options={"turbo": True}))
    with pytest.raises(CheckpointError, match="no option 'turbo'"):
        checkpoint.load(path).build_network()


def test_a_label_map_of_another_size(path, contract):
    reseal(path, dataclasses.replace(contract, options={"semantic_encoding": False}, label_map=CITYSCAPES19))
    with pytest.raises(CheckpointError, match=re.escape("(16, 11, 2, 2)") + ".*19 classes of label map 'cityscapes19'"):
        checkpoint.load(path).build_network()


def test_missing_extra_and_misshapen_tensors(path, contract):
    quiet = dataclasses.replace(contract, options={"semantic_encoding": False})
    for change, complaint in (
        (
            lambda t: t.pop("up4.left.0.weight"),
            "1 tensors of network 'dsnet' are missing, the first is 'up4.left.0.weight'",
        ),
        (lambda t: t.update(zusatz=torch.zeros(1)), "not of network 'dsnet', the first is 'zusatz'"),
        (lambda t: t.update({"init.bn.bias": torch.zeros(15)}), r"'init.bn.bias' has shape \(15,\)"),
    ):
        broken = path.with_name("broken.safetensors")
        shutil.copy(path, broken)
        rewrite(broken, change_tensors=change)
        reseal(broken, quiet)
        with pytest.raises(CheckpointError, match=complaint):
            checkpoint.load(broken).build_network()


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", "drive_seg/99"), ("label_map", {}), ("input", {"size": [1, 1]}), ("options", 3), ("licence", None)],
)
def test_a_garbled_contract(path, key, value):
    def garble(metadata):
        data = json.loads(metadata["drive_seg.contract"])
        data[key] = value
        if value is None:
            del data[key]
        metadata["drive_seg.contract"] = json.dumps(data)

    rewrite(path, change_metadata=garble)
    with pytest.raises(CheckpointError, match="its contract cannot be read"):
        checkpoint.load(path)


def test_a_failed_write_leaves_the_old_file_whole(path, network, contract, monkeypatch):
    before = path.read_bytes()

    def full_disk(*_args, **_kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, network, contract)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_names_of_models(path, monkeypatch):
    assert checkpoint.find_model(path) == path
    assert checkpoint.find_model("dsnet_synth19").name == "dsnet_synth19.safetensors"
    with pytest.raises(CheckpointError, match="no model is called 'dsnet_nowhere'"):
        checkpoint.find_model("dsnet_nowhere")
    with pytest.raises(CheckpointError, match="there is no such file"):
        checkpoint.find_model("somewhere/else.safetensors")


def test_normalisation_swaps_channels_and_scales():
    bgr = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    spec = InputSpec((8, 8), "rgb", (0.1, 0.2, 0.3), (0.5, 0.25, 0.2))
    expected = [(30 / 255 - 0.1) / 0.5, (20 / 255 - 0.2) / 0.25, (10 / 255 - 0.3) / 0.2]
    torch.testing.assert_close(spec.normalise(bgr).flatten(), torch.tensor(expected))
    straight = dataclasses.replace(spec, channel_order="bgr")
    assert straight.normalise(bgr).flatten()[0] == pytest.approx((10 / 255 - 0.1) / 0.5)


@pytest.mark.parametrize(
    "arguments", [{"size": (4, 64)}, {"size": (64, 64), "channel_order": "grb"}, {"size": (64, 64), "std": (1, 1, 0)}]
)
def test_impossible_inputs_are_refused(arguments):
    with pytest.raises(ValueError, match="input size|channel order|std"):
        InputSpec(**arguments)
