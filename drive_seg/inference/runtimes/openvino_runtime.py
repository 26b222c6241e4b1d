"""A user's own file executed by OpenVINO: an .xml with its .bin, or an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from drive_seg.checkpoint import CheckpointError
from drive_seg.inference.runtimes import parse_device
from drive_seg.inference.runtimes.files.onnx_file import ModelFile, OnnxFile
from drive_seg.inference.runtimes.files.ports import FileSession, Port, in_words
from drive_seg.inference.runtimes.onnx_runtime import OnnxRuntime
from drive_seg.inference.runtimes.sessions import OpenvinoModel, import_runtime, openvino_core, precisions, thread_count

PRECISION_NOTE = ["drive_seg", "precision"]
"""Where ``drive-seg export`` notes in an .xml file what it shall be computed in: fp32, bf16 or int8."""
_TYPES = {"f32": "tensor(float)", "f16": "tensor(float16)", "u8": "tensor(uint8)"}


class OpenvinoRuntime(OnnxRuntime):
    """A file that was run and does what its contract says, on the CPU.

    Args:
        file: what :func:`drive_seg.inference.runtimes.files.onnx_file.read` gives.
        device: "auto" or "cpu".
        precision: "auto" (what the file notes, else fp32), "fp32" or "bf16". What was quantised to int8 stays so; the
            rest of such a file is computed in fp32.
        threads: 0 is OpenVINO's own choice.

    Raises:
        CheckpointError: if OpenVINO is missing or cannot run the file, or the file does not fit its contract.
        ValueError: if device or precision cannot be had.
    """

    name = "openvino"

    def __init__(self, file: OnnxFile, device: str = "auto", precision: str = "auto", threads: int = 0) -> None:
        if device != "auto" and parse_device(device)[0] != "cpu":
            raise ValueError(f"device '{device}' cannot be had: openvino runs on the cpu here")
        super().__init__(file, "cpu", precision, threads)

    def _open(self, file: ModelFile, precision: str, threads: int) -> FileSession:
        try:
            return open_file(file, precision, threads)
        except CheckpointError as error:
            raise self._misfit(error) from error


class _Session:
    """A compiled model."""

    def __init__(self, model: OpenvinoModel, precision: str) -> None:
        self._model, self.precision = model, precision
        self.inputs = [_port(port, i) for i, port in enumerate(model.inputs)]
        self.outputs = [_port(port, i) for i, port in enumerate(model.outputs)]

    def run(self, wanted: Sequence[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
        places = {port.name: i for i, port in enumerate(self.inputs)}
        try:
            answer = self._model({places[name]: value for name, value in given.items()})
        except RuntimeError as error:
            raise RuntimeError(in_words(error)) from error
        names = [port.name for port in self.outputs]
        return [answer[names.index(name)] for name in wanted]


def open_file(file: ModelFile, precision: str = "auto", threads: int = 0) -> FileSession:
    """A file in OpenVINO, on the CPU.

    Args:
        file: of either form.
        precision, threads: see :class:`OpenvinoRuntime`.

    Raises:
        CheckpointError: if OpenVINO is missing or cannot run the file.
        ValueError: if the precision cannot be had.
    """
    try:
        openvino = import_runtime("openvino")
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    with file.unpacked() as path:
        try:
            # The files are gone afterwards: read whole, and compiled before.
            model = openvino_core().read_model(path, config={"ENABLE_MMAP": False})
            chosen = _choose_precision(file, model, precision)
            hint = "fp32" if chosen == "int8" else chosen
            return _Session(OpenvinoModel(openvino, model, hint, thread_count(threads)), chosen)
        except ValueError:
            raise
        except Exception as error:  # OpenVINO's exceptions have no other base
            reason = " ".join(str(error).split()).replace(f"{path.parent}/", "")[:400]
            raise CheckpointError(f"openvino {openvino.__version__} cannot run it: {reason}") from error


def _choose_precision(file: ModelFile, model: Any, wish: str) -> str:
    noted = model.get_rt_info(PRECISION_NOTE).astype(str) if model.has_rt_info(PRECISION_NOTE) else "fp32"
    noted = "int8" if file.quantised else noted
    if noted == "int8" or wish == "int8":
        if wish not in ("auto", noted):
            raise ValueError(f"precision '{wish}' cannot be had: {file.path.name} computes in {noted}")
        return noted
    able, chosen = precisions("openvino"), noted if wish == "auto" else wish
    if chosen not in able:
        raise ValueError(f"precision '{chosen}' cannot be had: openvino computes in {' or '.join(able)} here")
    return chosen


def _port(port: Any, place: int) -> Port:
    names = sorted(port.get_names())
    shape = tuple(side.get_length() if side.is_static else None for side in port.get_partial_shape())
    kind = port.get_element_type().get_type_name()
    return Port(names[0] if names else f"#{place}", shape, _TYPES.get(kind, kind))
