"""OpenVINO on the CPU: graphs of checkpoints, and users' files, an .xml with its .bin or an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from drive_seg.inference.runtimes import host
from drive_seg.inference.runtimes.entry import Runs, thread_count
from drive_seg.inference.runtimes.files.ports import FileError, Port, in_words
from drive_seg.inference.runtimes.prepared import GraphEntry, Session, onnx_graph

if TYPE_CHECKING:
    from torch import Tensor

    from drive_seg.inference.runtimes.files.onnx_file import ModelFile
    from drive_seg.inference.runtimes.files.ports import FileSession

PRECISION_NOTE = ["drive_seg", "precision"]
"""Where ``drive-seg export`` notes in an .xml file what it shall be computed in: fp32, bf16 or int8."""
CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData")
"""The operations that OpenVINO computes with all channels of a pixel side by side."""
_HINTS = {"fp32": "f32", "bf16": "bf16"}
"""A precision, as OpenVINO calls it."""
_TYPES = {"f32": "tensor(float)", "f16": "tensor(float16)", "u8": "tensor(uint8)"}


class OpenVino(GraphEntry):
    """OpenVINO on the CPU.

    Of a file the precision "auto" is what the file notes, else fp32. What was quantised to int8 stays so; the rest of
    such a file is computed in fp32.
    """

    name = "openvino"
    about = "OpenVINO's kernels"
    checkpoints = Runs(("cpu",), ("fp32", "bf16"))
    files = Runs(("cpu",), ("fp32", "bf16", "int8"), (".onnx", ".xml"))
    package, distributions, extra = "openvino", ("openvino",), "openvino"
    converters = ("onnx", "onnxscript")
    priority = 2
    preparation = "some ten seconds for each model and size"
    convert = staticmethod(onnx_graph)

    def precisions(self, device: str = "cpu") -> tuple[str, ...]:
        able = self.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("fp32", "bf16") if "BF16" in able else ("fp32",)

    def can_prepare(self, precision: str) -> bool:
        # The processor decides; OpenVINO itself would have to be imported first.
        return precision == "fp32" or (precision == "bf16" and host.multiplies_bf16())

    def rounds_files_to(self) -> tuple[str, ...]:
        return self.precisions()[1:]

    @staticmethod
    @cache
    def core() -> Any:
        """OpenVINO's Core: one for as long as the process lives.

        With the last Core goes the stack that OpenVINO gave the thread for signals, while the thread still has it: the
        next signal that Python handles, a Ctrl-C, then ends the process with a segmentation fault (seen with OpenVINO
        2026.4).

        Raises:
            ValueError: if OpenVINO cannot be imported.
        """
        return OpenVino().import_package().Core()

    def load(self, graph: bytes, precision: str = "fp32", threads: int = 0, device: str = "cpu") -> Session:
        openvino = self.import_package()
        return as_session(OpenvinoModel(openvino, self.core().read_model(graph), precision, thread_count(threads)))

    def open_file(self, file: ModelFile, device: str, precision: str, threads: int) -> FileSession:
        try:
            openvino = self.import_package()
        except ValueError as error:
            raise FileError(str(error)) from error
        with file.unpacked() as path:
            try:
                # The files are gone afterwards: read whole, and compiled before.
                model = self.core().read_model(path, config={"ENABLE_MMAP": False})
                chosen = self._file_precision(file, model, precision)
                hint = "fp32" if chosen == "int8" else chosen
                return _FileSession(OpenvinoModel(openvino, model, hint, thread_count(threads)), chosen)
            except ValueError:
                raise
            except Exception as error:  # OpenVINO's exceptions have no other base
                reason = " ".join(str(error).split()).replace(f"{path.parent}/", "")[:400]
                raise FileError(f"openvino {openvino.__version__} cannot run it: {reason}") from error

    def _file_precision(self, file: ModelFile, model: Any, wish: str) -> str:
        noted = model.get_rt_info(PRECISION_NOTE).astype(str) if model.has_rt_info(PRECISION_NOTE) else "fp32"
        noted = "int8" if file.quantised else noted
        if noted == "int8" or wish == "int8":
            if wish not in ("auto", noted):
                raise ValueError(f"precision '{wish}' cannot be had: {file.path.name} computes in {noted}")
            return noted
        able, chosen = self.precisions(), noted if wish == "auto" else wish
        if chosen not in able:
            raise ValueError(f"precision '{chosen}' cannot be had: openvino computes in {' or '.join(able)} here")
        return chosen


class OpenvinoModel:
    """An OpenVINO model compiled for the CPU, answering one image at a time as fast as it can.

    Logits that come out of a convolution stay as it writes them, all classes of a pixel side by side. Left to itself
    OpenVINO rewrites them into planes, which took longer than any other step of a DSNet.

    Args:
        openvino: the imported package.
        model: of ``read_model`` or NNCF; left as it is.
        precision: "fp32" or "bf16"; always said, as by itself OpenVINO computes in bf16 where the processor has it.
        threads: 0 is OpenVINO's own choice.

    Attributes:
        inputs, outputs: the model's ports as it declares them.

    Raises:
        RuntimeError: if OpenVINO cannot compile it.
    """

    def __init__(self, openvino: ModuleType, model: Any, precision: str, threads: int) -> None:
        config = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        self.inputs, self.outputs = model.inputs, model.outputs
        self._by_pixel = [_ends_in_convolution(port) for port in self.outputs]
        if any(self._by_pixel):
            model = _written_by_pixel(openvino, model.clone(), self._by_pixel)
        self._request = OpenVino.core().compile_model(model, "CPU", config).create_infer_request()

    def __call__(self, given: dict[int, np.ndarray]) -> list[np.ndarray]:
        """Arrays by the number of the input -> one per output, of the declared shape, which the next call overwrites.

        What a convolution gives, [B, C, h, w], is a view of [B, h, w, C].
        """
        feed = {place: np.ascontiguousarray(values) for place, values in given.items()}
        answer = self._request.infer(feed, share_inputs=True, share_outputs=True)
        values = [answer[place] for place in range(len(self.outputs))]
        return [v.transpose(0, 3, 1, 2) if by_pixel else v for v, by_pixel in zip(values, self._by_pixel, strict=True)]


def as_session(model: OpenvinoModel) -> Session:
    """An OpenVINO model of one input and one output as a session."""
    import torch

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(model({0: image.numpy()})[0])

    return run


class _FileSession:
    """A compiled model of a user's file."""

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


def _ends_in_convolution(port: Any) -> bool:
    """Whether a convolution, with or without a bias, gives a model's output."""
    node = port.get_node().input_value(0).get_node()
    if node.get_type_name() == "Add":
        node = node.input_value(0).get_node()
    rank = port.get_partial_shape().rank
    return node.get_type_name() in CONVOLUTIONS and rank.is_static and rank.get_length() == 4


def _written_by_pixel(openvino: ModuleType, model: Any, by_pixel: list[bool]) -> Any:
    """The model with these outputs [B, C, h, w] given as [B, h, w, C]."""
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(model)
    for place, wanted in enumerate(by_pixel):
        if wanted:
            steps.output(place).model().set_layout(openvino.Layout("NCHW"))
            steps.output(place).tensor().set_layout(openvino.Layout("NHWC"))
    return steps.build()


def _port(port: Any, place: int) -> Port:
    names = sorted(port.get_names())
    shape = tuple(side.get_length() if side.is_static else None for side in port.get_partial_shape())
    kind = port.get_element_type().get_type_name()
    return Port(names[0] if names else f"#{place}", shape, _TYPES.get(kind, kind))
