"""A user's own file executed by OpenVINO: an .xml with its .bin, or an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from drive_seg.checkpoint import CheckpointError
from drive_seg.runtimes import parse_device
from drive_seg.runtimes.onnx_file import OnnxFile
from drive_seg.runtimes.onnx_runtime import OnnxRuntime
from drive_seg.runtimes.sessions import OpenvinoModel, import_runtime, openvino_core, precisions, thread_count

PRECISION_NOTE = ["drive_seg", "precision"]
"""Where ``drive-seg export`` notes in an .xml file what it shall be computed in: fp32, bf16 or int8."""
_TYPES = {"f32": "tensor(float)", "f16": "tensor(float16)"}


class OpenvinoRuntime(OnnxRuntime):
    """A file that was run once and does what its contract says, on the CPU.

    Args:
        file: what :func:`drive_seg.runtimes.onnx_file.read` gives.
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
        self._wish = precision
        super().__init__(file, "cpu", "auto", threads)
        self.precision = self._computed_in

    def _open(self, file: OnnxFile, threads: int) -> Any:
        try:
            openvino = import_runtime(self.name)
        except ValueError as error:
            raise CheckpointError(f"{file.path}: {error}") from error
        with file.unpacked() as path:
            try:
                # Read whole: the files are gone afterwards.
                model = openvino_core().read_model(path, config={"ENABLE_MMAP": False})
            except Exception as error:  # OpenVINO's exceptions have no other base
                reason = " ".join(str(error).split()).replace(f"{path.parent}/", "")[:400]
                raise self._misfit(f"openvino {openvino.__version__} cannot run it: {reason}") from error
        self._computed_in = self._choose_precision(model)
        hint = "fp32" if self._computed_in == "int8" else self._computed_in
        try:
            return _Session(OpenvinoModel(openvino, model, hint, thread_count(threads)))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:400]
            raise self._misfit(f"openvino {openvino.__version__} cannot run it: {reason}") from error

    def _choose_precision(self, model: Any) -> str:
        noted = model.get_rt_info(PRECISION_NOTE).astype(str) if model.has_rt_info(PRECISION_NOTE) else "fp32"
        if noted == "int8" or self._wish == "int8":
            if self._wish not in ("auto", noted):
                raise ValueError(f"precision '{self._wish}' cannot be had: {self._path.name} computes in {noted}")
            return noted
        able = precisions(self.name)
        chosen = noted if self._wish == "auto" else self._wish
        if chosen not in able:
            raise ValueError(f"precision '{chosen}' cannot be had: openvino computes in {' or '.join(able)} here")
        return chosen


@dataclass(frozen=True)
class _Port:
    """An input or output as onnxruntime describes it."""

    name: str
    shape: list[int | str | None]
    type: str


class _Session:
    """A compiled model that is asked as an onnxruntime session is asked."""

    def __init__(self, model: OpenvinoModel) -> None:
        self._model = model

    def get_inputs(self) -> list[_Port]:
        return [_port(port, i) for i, port in enumerate(self._model.inputs)]

    def get_outputs(self) -> list[_Port]:
        return [_port(port, i) for i, port in enumerate(self._model.outputs)]

    def run(self, wanted: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Arrays that the next run overwrites."""
        places = {port.name: i for i, port in enumerate(self.get_inputs())}
        answer = self._model({places[name]: value for name, value in given.items()})
        names = [port.name for port in self.get_outputs()]
        return [answer[names.index(name)] for name in wanted]


def _port(port: Any, place: int) -> _Port:
    names = sorted(port.get_names())
    shape = [side.get_length() if side.is_static else None for side in port.get_partial_shape()]
    kind = port.get_element_type().get_type_name()
    return _Port(names[0] if names else f"#{place}", shape, _TYPES.get(kind, kind))
