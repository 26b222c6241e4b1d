"""ONNX Runtime, OpenVINO and compiled code behind one function: a graph in, something that runs it out."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drive_seg.inference.runtimes import inductor

EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
"""The runtimes for ONNX graphs, each with the extra of drive_seg that brings it."""
HINTS = {"fp32": "f32", "bf16": "bf16"}
"""A precision, as OpenVINO calls it."""
CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData")
"""The operations that OpenVINO computes with all channels of a pixel side by side."""

Session = Callable[[Tensor], Tensor]
"""float32 [1, 3, h, w] -> logits float32 [1, C, h, w], which the next call overwrites."""


def import_runtime(name: str) -> ModuleType:
    """onnxruntime or openvino.

    Raises:
        ValueError: if it cannot be imported; the sentence names the extra that brings it.
    """
    # A vehicle reports to nobody: onnxruntime sends usage figures over the network unless it is told not to.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"runtime '{name}' needs {name}, which cannot be imported ({error}): install it with pip, by itself or as "
            f"the extra '{EXTRAS[name]}' of drive_seg"
        ) from error


@cache
def openvino_core() -> Any:
    """OpenVINO's Core: one for as long as the process lives.

    With the last Core goes the stack that OpenVINO gave the thread for signals, while the thread still has it: the next
    signal that Python handles, a Ctrl-C, then ends the process with a segmentation fault (seen with OpenVINO 2026.4).

    Raises:
        ValueError: if OpenVINO cannot be imported.
    """
    return import_runtime("openvino").Core()


def precisions(name: str, device: str = "cpu") -> tuple[str, ...]:
    """What a runtime can compute a checkpoint in on a device of this machine; only "inductor" knows others than "cpu".

    Raises:
        ValueError: if the runtime cannot be imported.
    """
    if name == inductor.NAME:
        return inductor.precisions(device)
    if name == "openvino":
        able = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("fp32", "bf16") if "BF16" in able else ("fp32",)
    import_runtime(name)
    return ("fp32",)


def thread_count(wish: int) -> int:
    """Threads for a runtime; 0 leaves it to the runtime.

    A runtime takes one thread per core by itself. It knows nothing of OMP_NUM_THREADS and torch.set_num_threads, by
    which a user keeps cores free for others.
    """
    mine = torch.get_num_threads()
    return wish or (mine if mine < (os.cpu_count() or 1) else 0)


def open_session(name: str, graph: bytes, precision: str = "fp32", threads: int = 0, device: str = "cpu") -> Session:
    """Make a graph ready to run.

    Args:
        name: "onnxruntime", "openvino" or "inductor".
        graph: an ONNX file of :func:`.conversion.to_onnx`, or for "inductor" the machine code of
            :func:`.inductor.compile_network` in that precision and for that device.
        precision: one of :func:`precisions`.
        threads: 0 is the runtime's own choice; "inductor" takes as many as torch.
        device: other than "cpu" for "inductor" alone.

    Raises:
        ValueError: if the runtime cannot be imported, or the machine code not be loaded.
    """
    if name == inductor.NAME:
        return inductor.open_compiled(graph, device)
    return _OPENERS[name](import_runtime(name), graph, precision, thread_count(threads))


class OpenvinoModel:
    """An OpenVINO model compiled for the CPU, answering one image at a time as fast as it can.

    Logits that come out of a convolution stay as it writes them, all classes of a pixel side by side. Left to itself
    OpenVINO rewrites them into planes, which took longer than any other step of a DSNet.

    Args:
        openvino: the imported package.
        model: of ``read_model`` or NNCF; left as it is.
        precision: of :data:`HINTS`; always said, as by itself OpenVINO computes in bf16 where the processor has it.
        threads: 0 is OpenVINO's own choice.

    Attributes:
        inputs, outputs: the model's ports as it declares them.

    Raises:
        RuntimeError: if OpenVINO cannot compile it.
    """

    def __init__(self, openvino: ModuleType, model: Any, precision: str, threads: int) -> None:
        config = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        self.inputs, self.outputs = model.inputs, model.outputs
        self._by_pixel = [_ends_in_convolution(port) for port in self.outputs]
        if any(self._by_pixel):
            model = _written_by_pixel(openvino, model.clone(), self._by_pixel)
        self._request = openvino_core().compile_model(model, "CPU", config).create_infer_request()

    def __call__(self, given: dict[int, np.ndarray]) -> list[np.ndarray]:
        """Arrays by the number of the input -> one per output, of the declared shape, which the next call overwrites.

        What a convolution gives, [B, C, h, w], is a view of [B, h, w, C].
        """
        feed = {place: np.ascontiguousarray(values) for place, values in given.items()}
        answer = self._request.infer(feed, share_inputs=True, share_outputs=True)
        values = [answer[place] for place in range(len(self.outputs))]
        return [v.transpose(0, 3, 1, 2) if by_pixel else v for v, by_pixel in zip(values, self._by_pixel, strict=True)]


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


def _open_onnxruntime(onnxruntime: ModuleType, graph: bytes, precision: str, threads: int) -> Session:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # whatever goes wrong comes as an exception, too
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: image.contiguous().numpy()})[0])

    return run


def _open_openvino(openvino: ModuleType, graph: bytes, precision: str, threads: int) -> Session:
    return openvino_session(OpenvinoModel(openvino, openvino_core().read_model(graph), precision, threads))


def openvino_session(model: OpenvinoModel) -> Session:
    """An OpenVINO model of one input and one output as a session."""

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(model({0: image.numpy()})[0])

    return run


_OPENERS = {"onnxruntime": _open_onnxruntime, "openvino": _open_openvino}
