"""A user's ONNX file executed by ONNX Runtime: by its own kernels, or on an NVIDIA GPU by those of TensorRT."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drive_seg.checkpoint import CheckpointError
from drive_seg.labels import VOID
from drive_seg.networks.layers import resize
from drive_seg.runtimes import MULTIPLE, Runtime, cache, parse_device
from drive_seg.runtimes.onnx_file import OnnxFile, contract_path
from drive_seg.runtimes.pytorch import PRECISIONS
from drive_seg.runtimes.sessions import import_runtime, thread_count

_TENSORRT = "TensorrtExecutionProvider"
_DRIVER = Path("/proc/driver/nvidia")
_FLOATS = {"tensor(float)": "fp32", "tensor(float16)": "fp16"}


class OnnxRuntime(Runtime):
    """An ONNX file that was run once and does what its contract says.

    Logits at a lower resolution than the input (1/8, 1/4) are brought to it bilinearly, as the package's own networks
    do it inside. Images go through on the CPU one by one, as they do with PyTorch.

    Args:
        file: what :func:`drive_seg.runtimes.onnx_file.read` gives.
        device: "auto" and "cpu" are the CPU. "cuda" and "cuda:N" need an onnxruntime that offers CUDA; the authors have
            never run it. Images are then normalised on the CPU, and each result comes back to it.
        precision: "auto", or what the file computes in by the type of its input: "fp32" or "fp16".
        threads: 0 is onnxruntime's own choice.

    Raises:
        CheckpointError: if onnxruntime is missing or cannot run the file, or the file does not fit its contract.
        ValueError: if device or precision cannot be had.
    """

    name = "onnxruntime"
    tensor_device = "cpu"

    def __init__(self, file: OnnxFile, device: str = "auto", precision: str = "auto", threads: int = 0) -> None:
        self._path, self._contract = file.path, file.contract
        self._classes = file.contract.label_map
        self.gives_ids = file.contract.options["output"] == "ids"
        self.device = "cpu" if device == "auto" else device
        self._session = self._open(file, threads)
        self._input = self._only_input()
        self._output = self._chosen_output()
        self.one_by_one, self.fixed_size = self._check_input()
        self.precision = _FLOATS[self._input.type]
        self.dtype = PRECISIONS[self.precision]
        if precision not in ("auto", self.precision):
            raise ValueError(f"precision '{precision}' cannot be had: {file.path.name} computes in {self.precision}")
        self._check_output()

    def __call__(self, batch: Tensor) -> Tensor:
        values = self._run(batch)
        if self.gives_ids:
            return torch.from_numpy(self._checked_ids(values))
        logits = torch.from_numpy(values).float()
        return logits if logits.shape[-2:] == batch.shape[-2:] else resize(logits, batch.shape[-2:])

    def _open(self, file: OnnxFile, threads: int) -> Any:
        """A session of what was read and hashed."""
        onnxruntime = _import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # whatever goes wrong comes as an exception, too
        options.intra_op_num_threads = thread_count(threads)
        providers = self._providers(file, onnxruntime)
        with file.unpacked() as model:
            try:
                session = onnxruntime.InferenceSession(model, options, providers=providers)
            except Exception as error:  # onnxruntime's exceptions have no other base
                reason, folder = _in_words(error), str(model.parent)
                if folder in reason.replace(f"{model} ", ""):  # of another file than the model itself
                    reason += f"; weights in a file of their own are read from {model.name}.data or {model.name}_data"
                raise self._misfit(
                    f"onnxruntime {onnxruntime.__version__} cannot run it: {reason.replace(f'{folder}/', '')}"
                ) from error
        if self.device != "cpu" and session.get_providers()[0] != providers[0][0]:
            raise ValueError(f"device '{self.device}' is not there: onnxruntime could not start {providers[0][0]}")
        return session

    def _providers(self, file: OnnxFile, onnxruntime: ModuleType) -> list[Any]:
        return _providers(self.device, onnxruntime.get_available_providers())

    def _only_input(self) -> Any:
        there = self._session.get_inputs()
        if len(there) != 1:
            raise self._misfit(f"it wants {_listed(there)}, and there is nothing but the image to give")
        return there[0]

    def _chosen_output(self) -> Any:
        """The output that the contract names, or the only one."""
        there, name = self._session.get_outputs(), self._contract.options.get("output_name")
        if name is None and len(there) != 1:
            raise self._misfit(f"it gives {_listed(there)}: say in output_name which one to use")
        for output in there:
            if name in (None, output.name):
                return output
        raise self._misfit(f"it has no output '{name}', only {_listed(there)}")

    def _check_input(self) -> tuple[bool, tuple[int, int] | None]:
        """Whether images must go one by one, and the size that the file fixes."""
        name, shape, wanted = f"its input '{self._input.name}'", self._input.shape, self._contract.input.size
        if self._input.type not in _FLOATS:
            raise self._misfit(f"{name} is {self._input.type}; {' or '.join(_FLOATS)} is needed")
        if len(shape) != 4 or (_fixed(shape[1]) and shape[1] != 3) or shape[3] == 3:
            raise self._misfit(f"{name} has shape {_shape(shape)}; [N, 3, height, width] is needed")
        batch, _, *size = shape
        if _fixed(batch) and batch != 1:
            raise self._misfit(f"{name} takes {batch} images at once; 1 or any number is needed")
        if any(_fixed(given) and given != side for given, side in zip(size, wanted, strict=True)):
            raise self._misfit(f"{name} has shape {_shape(shape)}, but the contract's input_size is {list(wanted)}")
        if any(map(_fixed, size)):
            return _fixed(batch), wanted
        if any(side % MULTIPLE for side in wanted):
            raise self._misfit(
                f"{name} takes any size, and input_size {list(wanted)} is not of multiples of {MULTIPLE}"
            )
        return _fixed(batch), None

    def _check_output(self) -> None:
        """Run it on a grey image: the shapes that a file declares may lack numbers, or be wrong."""
        grey = torch.full((1, 3, *self._contract.input.size), 128, dtype=torch.uint8)
        try:
            values = self._run(self._contract.input.normalise(grey, self.dtype))
        except RuntimeError as error:
            raise CheckpointError(str(error)) from error
        name = f"its output '{self._output.name}' is {values.dtype} {list(values.shape)}"
        whole, single = np.issubdtype(values.dtype, np.integer), values.shape[:1] == (1,) and values.size > 0
        if self.gives_ids:
            if not whole or not single or values.ndim not in (3, 4) or (values.ndim == 4 and values.shape[1] != 1):
                raise self._misfit(f"{name}; ids are whole numbers [N, h, w] or [N, 1, h, w]")
            self._checked_ids(values)
        elif whole:
            raise self._misfit(f"{name}: these are ids, not logits")
        elif not np.issubdtype(values.dtype, np.floating) or values.ndim != 4 or not single:
            raise self._misfit(f"{name}; logits are floating-point numbers [N, classes, h, w]")
        elif values.shape[1] != self._classes.num_classes:
            raise self._misfit(
                f"{name}, so of {values.shape[1]} classes, but label map '{self._classes.name}' has "
                f"{self._classes.num_classes}"
            )

    def _run(self, batch: Tensor) -> np.ndarray:
        try:
            return self._session.run([self._output.name], {self._input.name: batch.contiguous().numpy()})[0]
        except Exception as error:  # onnxruntime's exceptions have no other base
            size = "x".join(map(str, batch.shape[-2:]))
            raise RuntimeError(f"{self._path.name} fails on an input of {size}: {_in_words(error)}") from error

    def _checked_ids(self, values: np.ndarray) -> np.ndarray:
        """uint8 [B, h, w] of whole numbers [B, h, w] or [B, 1, h, w].

        Raises:
            CheckpointError: if one of them is neither an id of the label map nor void.
        """
        strange = values[((values < 0) | (values >= self._classes.num_classes)) & (values != VOID)]
        if strange.size:
            raise self._misfit(
                f"it gave the id {strange[0]}, but label map '{self._classes.name}' has the ids "
                f"0..{self._classes.num_classes - 1} and {VOID} is void"
            )
        return values.reshape(len(values), *values.shape[-2:]).astype(np.uint8)

    def _misfit(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self._path} (contract {contract_path(self._path).name}): {reason}")


class TensorRtRuntime(OnnxRuntime):
    """The same by ONNX Runtime's TensorRT provider, which builds an engine for the GPU; the authors have never run it.

    Engines are kept in the user's cache, apart for each file, driver, GPU and onnxruntime; to build one may take
    minutes, before the node is ready. What TensorRT cannot do goes through CUDA.

    Args:
        file, threads: as for :class:`OnnxRuntime`.
        device: "auto" and "cuda" are the first GPU, "cuda:N" another one.
        precision: "auto", what the file computes in, or "fp16", to which TensorRT may then round a file in fp32.

    Raises:
        CheckpointError: as for :class:`OnnxRuntime`.
        ValueError: if device or precision cannot be had, or the cache cannot be used.
    """

    name = "tensorrt"

    def __init__(self, file: OnnxFile, device: str = "auto", precision: str = "auto", threads: int = 0) -> None:
        device = "cuda" if device == "auto" else device
        if parse_device(device)[0] == "cpu":
            raise ValueError("runtime 'tensorrt' cannot be had on the cpu: it runs on NVIDIA GPUs")
        self._half = precision == "fp16"
        super().__init__(file, device, "auto" if self._half else precision, threads)
        if self._half:
            self.precision = "fp16"

    def _providers(self, file: OnnxFile, onnxruntime: ModuleType) -> list[Any]:
        cuda = _providers(self.device, onnxruntime.get_available_providers())
        if _TENSORRT not in onnxruntime.get_available_providers():
            raise ValueError("runtime 'tensorrt' is not there: the installed onnxruntime offers no TensorRT")
        options = {
            "device_id": parse_device(self.device)[1],
            "trt_fp16_enable": self._half,
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(_engines(file.sha256, onnxruntime.__version__)),
        }
        return [(_TENSORRT, options), *cuda]


def _engines(sha256: str, version: str) -> Path:
    """The folder for the engines of a file on this machine.

    Raises:
        ValueError: if others can write to it, or it cannot be made.
    """
    gpus = [_DRIVER / "version", *sorted(_DRIVER.glob("gpus/*/information"))]
    about = "\n".join([version, *(path.read_text() for path in gpus if path.is_file())])
    # One name, not two: the cache's folders are one below the other.
    folder = cache.root() / f"{sha256}-tensorrt-{hashlib.sha256(about.encode()).hexdigest()}"
    cache.make_private(folder)
    return folder


def _import_onnxruntime() -> ModuleType:
    try:
        return import_runtime("onnxruntime")
    except ValueError as error:
        raise CheckpointError(
            f"an ONNX file needs onnxruntime, which cannot be imported ({error.__cause__}): install it with pip, by "
            "itself or as the extra 'onnx' of drive_seg"
        ) from error


def _providers(device: str, offered: list[str]) -> list[Any]:
    kind, number = parse_device(device)
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in offered:
        raise ValueError(
            f"device '{device}' is not there: the installed onnxruntime offers {', '.join(offered)}; the package "
            "onnxruntime-gpu brings CUDA"
        )
    return [("CUDAExecutionProvider", {"device_id": number}), "CPUExecutionProvider"]


def _fixed(side: int | str | None) -> bool:
    return isinstance(side, int)


def _listed(entries: list[Any]) -> str:
    return ", ".join(f"'{entry.name}' {_shape(entry.shape)}" for entry in entries)


def _shape(shape: list[Any]) -> str:
    return f"[{', '.join('?' if side is None else str(side) for side in shape)}]"


def _in_words(error: Exception) -> str:
    """An exception of onnxruntime in one line, without its code and the place in its sources."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return re.sub(r"\S*/onnxruntime\S*:\d+ .*?\) (?=\w)", "", text)[:400]
