"""A user's own network: an ONNX file, or OpenVINO's .xml with its .bin, and the contract beside it.

Only files are read here; :mod:`.onnx_runtime` and :mod:`.openvino_runtime` run them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from drive_seg.checkpoint import CheckpointError, Contract
from drive_seg.files import canonical_json
from drive_seg.inference.runtimes.files.contract import contract_path, is_contract, model_path, read_contract

__all__ = ["ModelFile", "OnnxFile", "contract_path", "is_contract", "read", "read_contract", "read_model"]

SUFFIX, OPENVINO_SUFFIX = ".onnx", ".xml"
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger")
"""Operations of an ONNX file whose arithmetic is in int8."""


@dataclass(frozen=True)
class ModelFile:
    """An ONNX or OpenVINO file as it lies on the disk.

    Attributes:
        path: of the file.
        model: the bytes of the file.
        weights: the bytes of the files that hold its weights, by name; empty where they are in the file itself.
    """

    path: Path
    model: bytes
    weights: dict[str, bytes]

    @property
    def quantised(self) -> bool:
        """Whether it computes in int8."""
        if is_openvino(self.path):
            return b'type="FakeQuantize"' in self.model
        # An operation's name is the field 4 of its node: a byte for that, one for the length.
        return any(bytes([0x22, len(name)]) + name.encode() in self.model for name in _QUANTISED)

    @contextmanager
    def unpacked(self) -> Iterator[Path]:
        """The model's path in a folder that holds what was read and nothing else.

        A model may name any file for its weights, so it is read from nowhere else. Keep the folder until the model is
        compiled: weights may be read as late as that.
        """
        with TemporaryDirectory(prefix="drive_seg_") as folder:
            for name, data in {self.path.name: self.model, **self.weights}.items():
                (Path(folder) / name).write_bytes(data)
            yield Path(folder) / self.path.name

    def digests(self) -> bytes:
        """The SHA-256 of the model, then those of the weights in the order of their names."""
        return b"".join(hashlib.sha256(part).digest() for part in (self.model, *self.weights.values()))


@dataclass(frozen=True)
class OnnxFile(ModelFile):
    """A file with its contract; whether they fit shows when it is run.

    Attributes:
        contract: ``network`` is "onnx"; ``options`` are those of :func:`.contract.contract_of`.
        given: the path that was asked for: that of the file, or of the contract.
        sha256: over the model, the weights in the order of their names, and the contract's canonical JSON.
    """

    contract: Contract
    given: Path
    sha256: str

    @property
    def contract_file(self) -> Path:
        return contract_path(self.given)


def is_onnx(path: Path) -> bool:
    return path.suffix.lower() == SUFFIX


def is_openvino(path: Path) -> bool:
    return path.suffix.lower() == OPENVINO_SUFFIX


def is_file_with_contract(path: Path) -> bool:
    """Whether a model is not a checkpoint, by its name: its file, or its contract, which then names the file."""
    return is_onnx(path) or is_openvino(path) or is_contract(path)


def read_model(path: str | Path) -> ModelFile:
    """Read an ONNX or OpenVINO file with its weights, and no contract.

    Raises:
        CheckpointError: if it is missing, cannot be read or is neither.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    if not (is_onnx(path) or is_openvino(path)):
        raise CheckpointError(f"{path}: neither an .onnx nor an .xml file")
    # Exporters call the file of weights m.onnx.data or m.onnx_data, and m.bin for m.xml. What is hashed is what will
    # run: the runtime is given these bytes and no other file.
    own = re.compile(
        re.escape(path.stem) + r"\.bin" if is_openvino(path) else re.escape(path.name) + r"[._]data(_\d+)?"
    )
    try:
        weights = {file.name: file.read_bytes() for file in sorted(path.parent.iterdir()) if own.fullmatch(file.name)}
        return ModelFile(path, path.read_bytes(), weights)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def read(path: str | Path) -> OnnxFile:
    """Read an ONNX or OpenVINO file and its contract.

    Args:
        path: of the file, whose contract lies beside it; or of a contract, whose ``file`` it is.

    Raises:
        CheckpointError: if one of the files is missing or cannot be read, or a key of the contract is unknown, missing
            or wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    contract = read_contract(path)
    file = read_model(model_path(path))
    digest = hashlib.sha256(file.digests() + canonical_json(contract.to_dict()).encode()).hexdigest()
    return OnnxFile(file.path, file.model, file.weights, contract, path, digest)
