"""The one file that travels from the lab to the vehicle: weights and the whole contract in one ``.safetensors``."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from drive_seg import networks
from drive_seg.confidence import Confidence
from drive_seg.files import canonical_json, share_file, written_aside
from drive_seg.labels import LabelMap
from drive_seg.networks.layers import strip_training_only, training_only_branches

FORMAT = "drive_seg/1"
TO_UNIT = 1 / 255
"""The scale that brings pixels to 0..1."""
_PYTORCH = (".pth", ".pt", ".pt2", ".ckpt", ".pkl", ".bin")
_CONTRACT, _HASH = "drive_seg.contract", "drive_seg.sha256"


class CheckpointError(ValueError):
    """A checkpoint that may not be used; the message is one sentence that says why."""


@dataclass(frozen=True)
class InputSpec:
    """What the network wants to see.

    Attributes:
        size: (height, width) in pixels of the images it was trained on.
        channel_order: "rgb" or "bgr".
        mean, std: per channel in that order, of values multiplied by ``scale``.
        scale: what a pixel's value 0..255 is multiplied by first; 1 for a network that is fed raw values.
    """

    size: tuple[int, int]
    channel_order: str = "rgb"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    scale: float = TO_UNIT

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 8:
            raise ValueError(f"input size {self.size} is not (height, width) of at least 8 pixels")
        if self.channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel order '{self.channel_order}' is neither 'rgb' nor 'bgr'")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std must be three values each, std above 0")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale {self.scale} is not above 0")

    def to_dict(self) -> dict[str, Any]:
        data = asdict(self)
        if self.scale == TO_UNIT:
            del data["scale"]  # as in the files, and under the hashes, of before there was another scale
        return data

    def constants(self, device: str | torch.device) -> tuple[Tensor, Tensor]:
        """What :meth:`normalise` adds and multiplies by: two float32 [1, 3, 1, 1] on a device."""
        std = torch.tensor(self.std, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        mean = torch.tensor(self.mean, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        # one multiply-add per value: x * 1/(std / scale) - mean/std
        return -mean / std, 1 / (1 / self.scale * std)

    def normalise(
        self, images: Tensor, dtype: torch.dtype = torch.float32, constants: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Camera pixels to network input, the same in training and on the vehicle.

        Args:
            images: uint8 or float BGR [B, 3, H, W], values 0..255.
            dtype: of the result; uint8 leaves the values as they are, for a network that normalises by itself.
            constants: of :meth:`constants` on the images' device; made here if left out, which copies from the host.

        Returns:
            [B, 3, H, W] in this input's channel order, (value * scale - mean) / std, channels_last.
        """
        if self.channel_order == "rgb":
            images = images.flip(1)
        if dtype == torch.uint8:
            return images.to(dtype).contiguous(memory_format=torch.channels_last)
        summand, factor = self.constants(images.device) if constants is None else constants
        x = torch.addcmul(summand, images.float(), factor)
        return x.to(dtype).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Contract:
    """Everything one must know to use the weights.

    Attributes:
        network, options: what ``networks.build`` makes. Branches that only training uses are not in the file.
        label_map: ids, names, colours.
        input: size, channel order, mean, std, scale.
        training: the recipe it was trained with, as plain data.
        metrics: scores by name, each with what it was measured on.
        licence: under which terms the weights may be used.
        confidence: its temperature, and how sure the model usually is.
    """

    network: str
    options: dict[str, Any]
    label_map: LabelMap
    input: InputSpec
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    confidence: Confidence = Confidence()

    def to_dict(self) -> dict[str, Any]:
        confidence = self.confidence.to_dict()
        return {
            "format": FORMAT,
            "network": self.network,
            "options": self.options,
            "label_map": self.label_map.to_dict(),
            "input": self.input.to_dict(),
            "training": self.training,
            "metrics": self.metrics,
            "licence": self.licence,
            **({"confidence": confidence} if confidence else {}),  # older files, and their hashes, stay as they are
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Contract:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: if the data has not this form.
        """
        try:
            if data["format"] != FORMAT:
                raise ValueError(f"format '{data['format']}' is not '{FORMAT}'")
            spec = data["input"]
            return cls(
                network=str(data["network"]),
                options=dict(data["options"]),
                label_map=LabelMap.from_dict(data["label_map"]),
                input=InputSpec(
                    size=(int(spec["size"][0]), int(spec["size"][1])),
                    channel_order=spec["channel_order"],
                    mean=tuple(map(float, spec["mean"])),
                    std=tuple(map(float, spec["std"])),
                    scale=float(spec.get("scale", TO_UNIT)),
                ),
                training=dict(data["training"]),
                metrics=dict(data["metrics"]),
                licence=str(data["licence"]),
                confidence=Confidence.from_dict(data.get("confidence", {})),
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"the contract lacks or garbles {error}") from error


def content_hash(tensors: dict[str, Tensor], contract: Contract) -> str:
    """SHA-256 (hex) over sorted tensor names, dtypes, shapes and bytes, then the contract's canonical JSON."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    digest.update(canonical_json(contract.to_dict()).encode())
    return digest.hexdigest()


def save(path: str | Path, network: nn.Module, contract: Contract) -> str:
    """Write a checkpoint for inference and return its content hash.

    Branches that only training uses are left out.

    Raises:
        OSError: if the file cannot be written; an older file of that name is then still whole.
    """
    left_out = tuple(f"{name}." for name, _, _ in training_only_branches(network))
    tensors = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(left_out)}
    return save_tensors(path, tensors, contract)


def save_tensors(path: str | Path, tensors: dict[str, Tensor], contract: Contract) -> str:
    """Write a checkpoint of tensors as they are and return its content hash.

    Raises:
        OSError: if the file cannot be written; an older file of that name is then still whole.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = content_hash(tensors, contract)
    metadata = {_CONTRACT: canonical_json(contract.to_dict()), _HASH: digest}
    with written_aside(path) as aside:
        save_file(tensors, str(aside), metadata=metadata)
        aside.chmod(0o644)  # safetensors lets only its writer read; on a vehicle other users run the node
    return digest


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose hash was right: its contract, its tensors by name, its hash."""

    path: Path
    contract: Contract
    tensors: dict[str, Tensor]
    sha256: str

    def build_network(self, **options: Any) -> nn.Module:
        """The network with its weights, in evaluation mode.

        Args:
            **options: override the contract's where the weights allow it (``unpool="one_hot"`` for DSNet).

        Raises:
            CheckpointError: if the network or an option is unknown, or tensors are missing, left over or misshapen.
        """
        try:
            # On "meta" nothing is initialised, which would take longer than reading the file.
            with torch.device("meta"):
                network = networks.build(
                    self.contract.network,
                    self.contract.label_map.num_classes,
                    **{**self.contract.options, **options},
                )
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{self.path}: {error}") from error
        strip_training_only(network)
        wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        given = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        if wanted != given:
            raise CheckpointError(f"{self.path}: {_first_difference(wanted, given, self.contract)}")
        network.load_state_dict(self.tensors, assign=True)
        return network.eval()


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint and check that it is whole and what its contract says.

    Raises:
        CheckpointError: if the file is missing, not a safetensors file, cut off, without a contract, its hash is
            wrong, or a weight is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies: the file may change after its hash was checked, and where a tensor lies in it may not suit the
            # kernels, which then sum in another order.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {_what_it_is(path) or f'not a whole safetensors file ({error})'}") from error
    contract = _contract_in(metadata, path)
    digest = content_hash(tensors, contract)
    if digest != metadata[_HASH]:
        raise CheckpointError(
            f"{path}: content hash {digest[:12]}... is not the recorded {metadata[_HASH][:12]}..., "
            "so weights or contract were changed after it was written"
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{path}: tensor '{name}' holds values that are not finite: its training diverged")
    return Checkpoint(path, contract, tensors, digest)


def read_contract(path: str | Path) -> Contract:
    """The contract of a checkpoint, at once and without a look at its weights.

    Raises:
        CheckpointError: if the file is missing, not a whole safetensors file, or without a contract.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            return _contract_in(file.metadata() or {}, path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {_what_it_is(path) or f'not a whole safetensors file ({error})'}") from error


def _what_it_is(path: Path) -> str:
    """What a file of another framework is and how its network gets here; empty for any other file."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError:
        return ""
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return ""
    if head[4:] == b"TFL3" or suffix == ".tflite":
        what, how = "a TensorFlow Lite file", "convert it to ONNX, as tf2onnx does"
    elif head[:4] == b"\x89HDF" or suffix in (".h5", ".keras", ".pb"):
        what, how = "a TensorFlow or Keras file", "convert it to ONNX, as tf2onnx does"
    elif suffix in (".engine", ".plan", ".trt"):
        what, how = "a TensorRT engine", "take the ONNX file that it was built from; runtime tensorrt builds its own"
    elif head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] <= b"\x05") or suffix in _PYTORCH:
        what, how = "a PyTorch file, which may run any code when it is read", "write the network with torch.onnx.export"
    else:
        return ""
    return f"{what}; the models taken are .safetensors, .onnx and .xml: {how}, with a contract beside it"


def _contract_in(metadata: dict[str, str], path: Path) -> Contract:
    if _CONTRACT not in metadata or _HASH not in metadata:
        raise CheckpointError(f"{path}: holds no drive_seg contract, so nothing is known about its classes and input")
    try:
        return Contract.from_dict(json.loads(metadata[_CONTRACT]))
    except ValueError as error:
        raise CheckpointError(f"{path}: its contract cannot be read: {error}") from error


def find_model(name: str | Path) -> Path:
    """The file of a model: a path as it is, a bare name as ``models/<name>.safetensors`` of the package.

    Raises:
        CheckpointError: if there is no such file; the message says where was looked.
    """
    path = Path(name)
    if path.suffix or len(path.parts) > 1:
        if not path.is_file():
            raise CheckpointError(f"{path}: there is no such file (from {Path.cwd()})")
        return path
    try:
        folder = share_file("models")
    except FileNotFoundError as error:
        raise CheckpointError(f"no model is called '{name}': {error}") from error
    shipped = {file.stem: file for file in sorted(folder.glob("*.safetensors"))}
    if path.name not in shipped:
        raise CheckpointError(f"no model is called '{name}'; there are: {', '.join(shipped) or 'none'} (in {folder})")
    return shipped[path.name]


def _first_difference(wanted: dict[str, tuple], given: dict[str, tuple], contract: Contract) -> str:
    missing, extra = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing:
        return f"{len(missing)} tensors of network '{contract.network}' are missing, the first is '{missing[0]}'"
    if extra:
        return f"{len(extra)} tensors are not of network '{contract.network}', the first is '{extra[0]}'"
    name = next(name for name in sorted(wanted) if wanted[name] != given[name])
    classes = f"{contract.label_map.num_classes} classes of label map '{contract.label_map.name}'"
    return f"tensor '{name}' has shape {given[name]}, but the network with the {classes} needs {wanted[name]}"
