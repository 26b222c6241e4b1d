"""A user's own network: an ONNX file, and beside it ``<name>.contract.yaml`` with what the file does not say.

OpenVINO's form, an .xml file with a .bin file, is taken just so. Only files are read here;
:mod:`drive_seg.runtimes.onnx_runtime` and :mod:`drive_seg.runtimes.openvino_runtime` run them.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from drive_seg.checkpoint import CheckpointError, Contract, InputSpec, canonical_json
from drive_seg.confidence import Confidence
from drive_seg.labels import VOID, LabelMap, label_map
from drive_seg.networks.layers import one_of

SUFFIX, OPENVINO_SUFFIX = ".onnx", ".xml"
REQUIRED = ("label_map", "channel_order", "mean", "std", "input_size", "output", "licence")
OPTIONAL = ("scale", "output_name", "confidence")
OUTPUTS = ("logits", "ids")


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX or OpenVINO file with its contract, as they lie on the disk; whether they fit shows when it is run.

    Attributes:
        path: of the file.
        contract: ``network`` is "onnx"; ``options`` holds ``output`` and, where given, ``output_name``.
        model: the bytes of the file.
        weights: the bytes of the files that hold its weights, by name; empty where they are in the file itself.
        sha256: over the model, the weights in the order of their names, and the contract's canonical JSON.
    """

    path: Path
    contract: Contract
    model: bytes
    weights: dict[str, bytes]
    sha256: str

    @contextmanager
    def unpacked(self) -> Iterator[Path]:
        """The model's path in a folder that holds what was hashed and nothing else.

        A model may name any file for its weights, so it is read from nowhere else.
        """
        with TemporaryDirectory(prefix="drive_seg_") as folder:
            for name, data in {self.path.name: self.model, **self.weights}.items():
                (Path(folder) / name).write_bytes(data)
            yield Path(folder) / self.path.name


def is_onnx(path: Path) -> bool:
    return path.suffix.lower() == SUFFIX


def is_openvino(path: Path) -> bool:
    return path.suffix.lower() == OPENVINO_SUFFIX


def is_file_with_contract(path: Path) -> bool:
    """Whether a model is not a checkpoint, by its name."""
    return is_onnx(path) or is_openvino(path)


def read(path: str | Path) -> OnnxFile:
    """Read an ONNX or OpenVINO file and its contract.

    Raises:
        CheckpointError: if one of the files is missing or cannot be read, or a key of the contract is unknown, missing
            or wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    contract = read_contract(path)
    # Exporters call the file of weights m.onnx.data or m.onnx_data, and m.bin for m.xml. What is hashed is what will
    # run: the runtime is given these bytes and no other file.
    own = re.compile(
        re.escape(path.stem) + r"\.bin" if is_openvino(path) else re.escape(path.name) + r"[._]data(_\d+)?"
    )
    try:
        weights = {file.name: file.read_bytes() for file in sorted(path.parent.iterdir()) if own.fullmatch(file.name)}
        model = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    digest = hashlib.sha256(hashlib.sha256(model).digest())
    for data in weights.values():
        digest.update(hashlib.sha256(data).digest())
    digest.update(canonical_json(contract.to_dict()).encode())
    return OnnxFile(path, contract, model, weights, digest.hexdigest())


def contract_path(path: Path) -> Path:
    """Where the contract of such a file lies: ``pidnet.onnx`` -> ``pidnet.contract.yaml``."""
    return path.with_suffix(".contract.yaml")


def read_contract(path: Path) -> Contract:
    """The contract of the file at ``path``.

    Raises:
        CheckpointError: if it is missing or no YAML, or a key is unknown, missing or wrong.
    """
    file = contract_path(path)
    if not file.is_file():
        raise CheckpointError(
            f"{path}: there is no {file.name} beside it, so nothing is known about its classes and input"
        )
    try:
        return _contract(yaml.safe_load(file.read_text(encoding="utf-8")), path.stem)
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise CheckpointError(f"{file}: {' '.join(str(error).split())}") from error


def _contract(data: Any, name: str) -> Contract:
    keys = f"the keys are {', '.join(REQUIRED)}, and where needed {', '.join(OPTIONAL)}"
    if not isinstance(data, dict):
        raise ValueError(f"holds no keys with values; {keys}")
    missing = [key for key in REQUIRED if key not in data]
    unknown = [str(key) for key in data if key not in (*REQUIRED, *OPTIONAL)]
    if missing or unknown:
        faults = [f"{key} is missing" for key in missing] + [f"{key} is unknown" for key in unknown]
        raise ValueError(f"{', '.join(faults)}; {keys}")
    options = {key: _text(key, data[key]) for key in ("output", "output_name") if key in data}
    one_of("output", options["output"], OUTPUTS)
    height, width = _numbers("input_size", data["input_size"], 2, whole=True)
    return Contract(
        network="onnx",
        options=options,
        label_map=_labels(data["label_map"], name),
        input=InputSpec(
            size=(height, width),
            channel_order=_text("channel_order", data["channel_order"]),
            mean=tuple(map(float, _numbers("mean", data["mean"], 3))),
            std=tuple(map(float, _numbers("std", data["std"], 3))),
            **({"scale": float(_number("scale", data["scale"]))} if "scale" in data else {}),
        ),
        licence=_text("licence", data["licence"]),
        confidence=Confidence.from_dict(data.get("confidence", {})),
    )


def _labels(given: Any, name: str) -> LabelMap:
    """The label map of that name, or of these classes; it is then called like the file."""
    if isinstance(given, str):
        return label_map(given)
    if not isinstance(given, list) or not given:
        raise ValueError("label_map is neither the name of one nor a list of classes with id, name and color")
    for entry in given:
        if not isinstance(entry, dict) or set(entry) != {"id", "name", "color"}:
            raise ValueError(f"label_map: a class has id, name and color, not {entry!r}")
        _number("id of a class", entry["id"], whole=True)
        _text("name of a class", entry["name"])
        _numbers("color of a class", entry["color"], 3, whole=True)
    return LabelMap.from_dict({"name": name, "void": VOID, "classes": given})


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} is not a text: {value!r}")
    return value


def _number(key: str, value: Any, whole: bool = False) -> float:
    kind = int if whole else (int, float)
    if not isinstance(value, kind) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{key} is not a {'whole ' if whole else ''}number: {value!r}")
    return value


def _numbers(key: str, value: Any, count: int, whole: bool = False) -> list:
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{key} is not a list of {count} numbers: {value!r}")
    return [_number(key, entry, whole) for entry in value]
