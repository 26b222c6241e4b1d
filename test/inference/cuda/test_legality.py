"""What a CUDA graph can hold: every network's frame path on ``meta``, where no value exists, and its launches counted.

An operation is a launch, but for views and for memory that is only taken. cuDNN may take more than one for a
convolution and ATen for a reduction: the counts compare ways to write the path, and are no times.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from drive_seg import networks
from drive_seg.checkpoint import InputSpec
from drive_seg.inference.path import FramePath
from drive_seg.inference.runtimes import Runtime
from drive_seg.networks.fold import fold

CLASSES = 19
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero"}
"""Operations whose result, or its shape, the host has to wait for."""
FREE = {
    "empty",
    "empty_strided",
    "empty_like",
    "new_empty",
    "new_empty_strided",
    "detach",
    "lift_fresh",
    "_reshape_alias",
}


class Capture(TorchDispatchMode):
    """Refuses what a capture cannot hold, and counts launches."""

    def __init__(self, computes_nothing):
        super().__init__()
        self.computes_nothing, self.launches = computes_nothing, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        assert name not in WAITING, f"{name} waits for a value"
        found = function(*args, **(kwargs or {}))
        for tensor in tree_flatten((args, kwargs, found))[0]:
            if isinstance(tensor, torch.Tensor):
                assert tensor.device.type == "meta", f"{name} of a tensor of the host"
        in_place = any(entry.alias_info and entry.alias_info.is_write for entry in function._schema.arguments)
        if name not in FREE and (in_place or not self.computes_nothing(found, args)):
            self.launches.append(name)
        return found


class OnMeta(Runtime):
    """A network without values."""

    name, device, tensor_device, precision, dtype = "torch", "meta", "meta", "fp16", torch.float16

    def __init__(self, network):
        self._network = fold(network).to("meta", self.dtype, memory_format=torch.channels_last)

    def __call__(self, batch):
        return self._network(batch)


@pytest.fixture(scope="module")
def launches(computes_nothing):
    """The launches of a path for images of sizes."""

    def found(path, sizes, size, confidence, of_frames):
        stacks = [torch.empty(count, *each, 3, dtype=torch.uint8, device="meta") for each, count in sizes.items()]
        with torch.inference_mode(), Capture(computes_nothing) as capture:
            planes = path(stacks, size, confidence, of_frames=of_frames)
        wanted = [each for each, count in sizes.items() for _ in range(count)]
        assert [tuple(plane.shape) for plane in planes[: len(wanted)]] == wanted
        return capture.launches

    return found


@pytest.fixture(scope="module")
def path_of():
    built = {}

    def path(name):
        if name not in built:
            with torch.device("meta"):
                network = networks.build(name, CLASSES).eval()
            built[name] = FramePath(OnMeta(network), InputSpec((96, 192)))
        return built[name]

    return path


@pytest.mark.parametrize("name", networks.names())
def test_every_network_can_be_captured(name, path_of, launches):
    """In its own size and another, alone and several of two sizes, with all outputs and with none."""
    for sizes in ({(96, 192): 1}, {(90, 160): 1}, {(108, 192): 2, (54, 96): 1}):
        for confidence, of_frames in ((False, False), (True, True)):
            launches(path_of(name), sizes, (96, 192), confidence, of_frames)


def around(path, launches, monkeypatch, **options):
    """The launches of a path whose network is a single operation."""
    monkeypatch.setattr(
        path._runtime, "_network", lambda batch: torch.empty_like(batch[:, :1]).expand(-1, CLASSES, -1, -1)
    )
    return launches(path, {(180, 320): 1}, (96, 176), **options)


@pytest.mark.parametrize("confidence, of_frames, most", [(False, False, 11), (True, False, 22), (True, True, 37)])
def test_what_is_around_the_network_keeps_its_budget(confidence, of_frames, most, path_of, launches, monkeypatch):
    found = around(path_of("dsnet"), launches, monkeypatch, confidence=confidence, of_frames=of_frames)
    assert len(found) <= most, found


@pytest.mark.parametrize("name, most", [("dsnet", 210), ("swiftnet", 141), ("erfnet", 185), ("enet", 221)])
def test_a_network_keeps_its_budget(name, most, path_of, launches):
    found = launches(path_of(name), {(96, 192): 1}, (96, 192), False, False)
    assert len(found) <= most, (len(found), sorted(set(found)))


# The checker itself


@pytest.mark.parametrize(
    "planted, why",
    [
        (lambda x: x[..., : int(x.amax())], "waits for a value|cannot be called on meta"),
        (lambda x: x * torch.tensor(2.0), "of a tensor of the host"),
        (lambda x: x[x > 0], "waits for a value|nonzero"),
        (lambda x: x + torch.arange(x.shape[-1]), "of a tensor of the host"),
        (lambda x: x.to("cpu"), "of a tensor of the host|Cannot copy out of meta"),
        (lambda x: x * 2 if (x > 0).any() else x, "waits for a value"),
    ],
)
def test_what_cannot_be_captured_is_found(planted, why, path_of, launches, monkeypatch):
    path = path_of("dsnet")
    monkeypatch.setattr(path._runtime, "_network", planted)
    with pytest.raises((AssertionError, NotImplementedError, RuntimeError), match=why):
        launches(path, {(96, 192): 1}, (96, 192), False, False)
