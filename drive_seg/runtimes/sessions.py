"""ONNX Runtime, OpenVINO and compiled code behind one function: a graph in, something that runs it out."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drive_seg.runtimes import compiled

EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
"""The runtimes for ONNX graphs, each with the extra of drive_seg that brings it."""
HINTS = {"fp32": "f32", "bf16": "bf16"}
"""A precision, as OpenVINO calls it."""

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


def precisions(name: str, device: str = "cpu") -> tuple[str, ...]:
    """What a runtime can compute a checkpoint in on a device of this machine; only "inductor" knows others than "cpu".

    Raises:
        ValueError: if the runtime cannot be imported.
    """
    if name == compiled.NAME:
        return compiled.precisions(device)
    if name == "openvino":
        able = import_runtime(name).Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
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
        graph: an ONNX file of :func:`drive_seg.runtimes.conversion.to_onnx`, or for "inductor" the machine code of
            :func:`drive_seg.runtimes.compiled.compile_network` in that precision and for that device.
        precision: one of :func:`precisions`.
        threads: 0 is the runtime's own choice; "inductor" takes as many as torch.
        device: other than "cpu" for "inductor" alone.

    Raises:
        ValueError: if the runtime cannot be imported, or the machine code not be loaded.
    """
    if name == compiled.NAME:
        return compiled.open_compiled(graph, device)
    return _OPENERS[name](import_runtime(name), graph, precision, thread_count(threads))


def compile_openvino(openvino: ModuleType, model: Any, precision: str, threads: int) -> Any:
    """An OpenVINO model on the CPU, answering one image at a time as fast as it can.

    The precision is always said: by itself OpenVINO computes in bf16 where the processor has it.
    """
    config = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    return openvino.Core().compile_model(model, "CPU", config)


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
    model = openvino.Core().read_model(graph)
    return openvino_session(compile_openvino(openvino, model, precision, threads))


def openvino_session(compiled: Any) -> Session:
    """A compiled OpenVINO model of one input and one output as a session."""
    request = compiled.create_infer_request()

    def run(image: Tensor) -> Tensor:
        pixels = np.ascontiguousarray(image.numpy())
        return torch.from_numpy(request.infer([pixels], share_inputs=True, share_outputs=True)[0])

    return run


_OPENERS = {"onnxruntime": _open_onnxruntime, "openvino": _open_openvino}
