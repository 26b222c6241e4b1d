"""``drive-seg export``: a checkpoint as an ONNX or OpenVINO file with its contract, which runs wherever these run."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml
from torch import Tensor

from drive_seg.checkpoint import Checkpoint
from drive_seg.files import written_aside
from drive_seg.inference.runtimes import MULTIPLE, Size, registry
from drive_seg.inference.runtimes.conversion import OUTPUT, agreement, check, convertible, inputs, to_onnx
from drive_seg.inference.runtimes.files.onnx_file import contract_path, is_onnx
from drive_seg.inference.runtimes.openvino_runtime import (
    CONVOLUTIONS,
    PRECISION_NOTE,
    OpenVino,
    OpenvinoModel,
    as_session,
)
from drive_seg.inference.runtimes.prepared import GraphEntry
from drive_seg.labels import LabelMap, label_map

FORMS = {".onnx": ("onnxruntime", ("fp32",)), ".xml": ("openvino", ("fp32", "bf16", "int8"))}
"""What can be written, by suffix: the runtime that checks it, and the precisions."""
LEFT_IN_FLOAT = ["Equal", "ReduceMax", "CumSum", "Subtract", "Multiply", "Add", "Concat", "MaxPool", "Interpolate"]
"""Operations between the convolutions, as those that say where a maximum stood. Rounding their inputs to int8 costs
operations, too, and makes ties of values that differ."""
FIRST_IN_FLOAT, LAST_IN_FLOAT = 5, 1
"""So many convolutions at the two ends stay in float, too: on CamVid a third of the labels that int8 changes is saved
thereby. In a DSNet these are the convolutions beside its first pooling, and the classifier."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: of the file that is given as a model.
        size: (height, width) of its input.
        precision: what it is computed in.
        agreement: share of pixels, 0..1, labelled as PyTorch does in fp32.
        frames: the number of frames behind that share.
        seen_in: "frames that it was not calibrated on", "frames of the source" or "frames of the package".
    """

    path: Path
    size: Size
    precision: str
    agreement: float
    frames: int
    seen_in: str


def export(
    loaded: Checkpoint,
    path: Path,
    precision: str = "fp32",
    size: Size | None = None,
    frames: Iterable[np.ndarray] = (),
) -> Exported:
    """Write a checkpoint as a file for one size of the network's input, with ``<name>.contract.yaml`` beside it.

    Everything is written aside, checked, and then takes its place; what lay there before stays if anything fails.

    Args:
        loaded: the checkpoint.
        path: ends in .onnx, or in .xml for OpenVINO, whose weights go into a .bin file beside it.
        precision: "fp32", or for OpenVINO "bf16", which the file notes, or "int8", which quantises it.
        size: (height, width) of the network's input; the checkpoint's own if None.
        frames: uint8 BGR [H, W, 3], to check on, and to calibrate int8 on. Those of the package if there are none,
            which do not do for int8.

    Raises:
        ValueError: if the precision, size, path or frames will not do, a package is missing, the network cannot
            be converted, or the file in fp32 labels less than 99.9 % of the pixels as PyTorch does.
        OSError: if it cannot be written.
    """
    size = size or tuple(max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE) for side in loaded.contract.input.size)
    quantised = precision == "int8"
    runtime = _checked(path, precision, size, bool(frames))
    network = convertible(loaded)
    images = inputs(loaded.contract.input, size, frames)
    seen_in = "frames of the source" if frames else "frames of the package"
    calibration: list[Tensor] = []
    if quantised:
        if len(images) < 4:
            raise ValueError(f"there are {len(images)} images to calibrate int8 on; it takes 4 or more")
        calibration = [image for i, image in enumerate(images) if i % 4]
        images, seen_in = images[::4], "frames that it was not calibrated on"
    graph = to_onnx(network, size)
    share = check(f"{path.name} by {runtime.name}", network, runtime.load(graph), images)
    if is_onnx(path):
        _place({path: graph}, loaded, size)
        return Exported(path, size, precision, share, len(images), seen_in)
    openvino = runtime.import_package()
    model = OpenVino.core().read_model(graph)
    if quantised:
        model = _quantised(model, calibration)
    if precision != "fp32":
        compiled = OpenvinoModel(openvino, model, "fp32" if quantised else precision, 0)
        share = agreement(network, as_session(compiled), images)
    model.set_rt_info(precision, PRECISION_NOTE)
    _place(_openvino_files(openvino, model, path), loaded, size)
    return Exported(path, size, precision, share, len(images), seen_in)


def _checked(path: Path, precision: str, size: Size, has_frames: bool) -> GraphEntry:
    """The runtime that checks such a file; ValueError if something will not do."""
    form = path.suffix.lower()
    if form not in FORMS:
        raise ValueError(f"{path}: the file to write ends in {' or '.join(FORMS)}")
    name, able = FORMS[form]
    runtime = registry.get(name)
    if precision not in able:
        raise ValueError(f"precision '{precision}' is not available: {form} is written in {' or '.join(able)}")
    if any(side < MULTIPLE or side % MULTIPLE for side in size):
        raise ValueError(f"size {size[1]}x{size[0]} is not of multiples of {MULTIPLE}")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: there is no such folder")
    if precision == "int8":
        if not has_frames:
            raise ValueError(
                "precision int8 is calibrated on images like those of the vehicle: name some to calibrate on"
            )
        _import_nncf()
    elif precision not in runtime.precisions():
        raise ValueError(f"precision '{precision}' cannot be had: this machine's processor cannot check it")
    return runtime


def _quantised(model: Any, calibration: list[Tensor]) -> Any:
    """An OpenVINO model with int8 weights and activations, by NNCF's post-training quantisation."""
    nncf = _import_nncf()
    layers = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() in CONVOLUTIONS]
    ends = layers[:FIRST_IN_FLOAT] + layers[-LAST_IN_FLOAT:]
    dataset = nncf.Dataset([image.contiguous().numpy() for image in calibration])
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars would spoil --json -
        return nncf.quantize(
            model,
            dataset,
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(types=LEFT_IN_FLOAT, names=ends, validate=False),
        )


def _import_nncf() -> ModuleType:
    # NNCF sends usage figures over the network unless it finds no way to. This package never goes there.
    os.environ["NNCF_CI"] = "1"
    sys.modules.setdefault("openvino_telemetry", None)
    try:
        import nncf
    except ImportError as error:
        raise ValueError(
            f"precision int8 needs nncf, which cannot be imported ({error}): install it with pip, by itself or as the "
            "extra 'int8' of drive_seg"
        ) from error
    nncf.set_log_level(logging.ERROR)
    return nncf


def _openvino_files(openvino: ModuleType, model: Any, path: Path) -> dict[Path, bytes]:
    """The .xml file and its .bin file; the .xml file first."""
    with tempfile.TemporaryDirectory(prefix="drive_seg_") as folder:
        written = Path(folder) / "model.xml"
        openvino.save_model(model, written, compress_to_fp16=False)
        return {path: written.read_bytes(), path.with_suffix(".bin"): written.with_suffix(".bin").read_bytes()}


def _place(files: dict[Path, bytes], loaded: Checkpoint, size: Size) -> None:
    """Write files and the contract; the first takes its place last, so that it never stands there without the rest."""
    first = next(iter(files))
    everything = {**files, contract_path(first): _contract(loaded, size).encode()}
    with contextlib.ExitStack() as places:
        for file, data in everything.items():
            places.enter_context(written_aside(file)).write_bytes(data)


def _contract(loaded: Checkpoint, size: Size) -> str:
    """The text of ``<name>.contract.yaml``."""
    contract = loaded.contract
    spec, classes = contract.input, contract.label_map
    entries = [
        {"id": i, "name": name, "color": list(color)}
        for i, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True))
    ]
    data = {
        "label_map": classes.name if _is_known(classes) else entries,
        "channel_order": spec.channel_order,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "scale": spec.scale,
        "input_size": list(size),
        "output": "logits",
        "output_name": OUTPUT,
        "licence": contract.licence or "not stated",
        **({"confidence": confidence} if (confidence := contract.confidence.to_dict()) else {}),
    }
    head = f"# {loaded.path.name}, content hash {loaded.sha256}\n"
    return head + yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=110)


def _is_known(classes: LabelMap) -> bool:
    """Whether the package has a label map of that name with these classes."""
    try:
        return label_map(classes.name) == classes
    except ValueError:
        return False
