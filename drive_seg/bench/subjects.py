"""The networks that are timed, and the picture they are timed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from drive_seg import checkpoint, networks
from drive_seg.bench.rows import Size
from drive_seg.checkpoint import Checkpoint, CheckpointError, InputSpec
from drive_seg.inference.runtimes.files.onnx_file import is_file_with_contract
from drive_seg.networks import counting
from drive_seg.networks.systems import BY_NAME

CLASSES = 19
VARIANTS = {"dsnet+fbnet": "dsnet_1.0+fbnet_stage3"}
LIGHT = {"enet": "enet", "erfnet": "erfnet"}
HEAVY = {
    "fcn_r50": "fcn_r50",
    "pspnet_r50": "pspnet_r50",
    "deeplabv3plus_r50": "deeplabv3plus_r50",
    "ifbfnet_r101": "ifbfnet_r101",
    "dfn_r101": "dfn_sn_bn",
}
"""Names here -> systems of the papers; variants differ little from the first network, heavy ones take a second and more
for an image on a CPU."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to be timed, in whatever runtime.

    Attributes:
        name: how it is called.
        network: its name in the catalog.
        build: makes it with its weights, in evaluation mode; each call a module of its own, with equal weights.
        classes: C of its logits.
        trained: whether its weights were trained.
        heavy: takes long on a CPU.
        variant: what it costs at one size says what it costs at the others.
        checkpoint: the file it comes from; None for fresh weights.
    """

    name: str
    network: str
    build: Callable[..., nn.Module]
    classes: int = CLASSES
    trained: bool = False
    heavy: bool = False
    variant: bool = False
    checkpoint: Checkpoint | None = None

    @cached_property
    def parameters(self) -> int:
        with torch.device("meta"):
            return counting.parameters(self.build())


def from_checkpoint(model: str) -> Subject:
    """The network of a checkpoint, by its path or name.

    Raises:
        CheckpointError: if it may not be used, or is an ONNX or OpenVINO file.
    """
    path = checkpoint.find_model(model)
    if is_file_with_contract(path):
        raise CheckpointError(f"{path}: the benchmark's own model is a checkpoint; time a file with --onnx")
    loaded = checkpoint.load(path)
    name, classes = loaded.contract.network, loaded.contract.label_map.num_classes
    return Subject(name, name, loaded.build_network, classes, trained=True, checkpoint=loaded)


def from_system(name: str, system: str, heavy: bool = False, variant: bool = False) -> Subject:
    """A system of the papers with fresh weights, the same ones each time."""
    found = BY_NAME[system]

    def build(**options: object) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return networks.build(found.network, CLASSES, **{**found.options, **options}).eval()

    return Subject(name, found.network, build, heavy=heavy, variant=variant)


def all_subjects(model: str) -> list[Subject]:
    """The checkpoint's network, then the others of the papers.

    Raises:
        CheckpointError: if the checkpoint may not be used.
    """
    own = from_checkpoint(model)
    variants = [from_system(name, system, variant=True) for name, system in VARIANTS.items()]
    light = [from_system(name, system) for name, system in LIGHT.items() if name != own.name]
    heavy = [from_system(name, system, heavy=True) for name, system in HEAVY.items() if name != own.name]
    return [own, *variants, *light, *heavy]


@cache
def picture() -> np.ndarray:
    """uint8 BGR [360, 640, 3]: a frame of the package's synthetic drive."""
    from drive_seg.synth import SynthDrive

    return SynthDrive(seed=5, size=(640, 360)).frame(20).image


def image(size: Size, number: int = 0) -> np.ndarray:
    """The picture as uint8 BGR [H, W, 3] of a size (height, width); each number shows it shifted further."""
    scaled = cv2.resize(picture(), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(np.roll(scaled, 16 * number, axis=1))


def batch_of(count: int, size: Size, device: str = "cpu") -> Tensor:
    """Different images as a network wants them: float32 [count, 3, H, W], contiguous (NCHW)."""
    images = np.stack([image(size, number) for number in range(count)])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return InputSpec(size).normalise(pixels).contiguous().to(device)
