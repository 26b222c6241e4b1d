"""ONNX Runtime: graphs of checkpoints, and users' ONNX files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from drive_seg.inference.runtimes import parse_device
from drive_seg.inference.runtimes.entry import Runs, thread_count
from drive_seg.inference.runtimes.files.ports import FileError, Port, in_words
from drive_seg.inference.runtimes.prepared import GraphEntry, Session, onnx_graph

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from drive_seg.inference.runtimes.files.onnx_file import ModelFile
    from drive_seg.inference.runtimes.files.ports import FileSession


class OnnxRuntime(GraphEntry):
    """ONNX Runtime's CPU kernels; for files also its CUDA kernels, which the authors have never run."""

    name = "onnxruntime"
    about = "ONNX Runtime's kernels"
    checkpoints = Runs(("cpu",), ("fp32",))
    files = Runs(("cpu", "cuda"), ("fp32", "fp16", "int8"), (".onnx",))
    package, distributions, extra = "onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "onnx"
    converters = ("onnx", "onnxscript")
    priority = 1
    preparation = "some ten seconds for each model and size"
    convert = staticmethod(onnx_graph)

    def precisions(self, device: str = "cpu") -> tuple[str, ...]:
        self.import_package()
        return super().precisions(device)

    def can_prepare(self, precision: str) -> bool:
        return precision == "fp32"

    def load(self, graph: bytes, precision: str = "fp32", threads: int = 0, device: str = "cpu") -> Session:
        import torch

        onnxruntime = self.import_package()
        options = _options(onnxruntime, threads)
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def run(image: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: image.contiguous().numpy()})[0])

        return run

    def open_file(self, file: ModelFile, device: str, precision: str, threads: int) -> FileSession:
        return self.open_with(file, precision, threads, lambda onnxruntime: providers(device, onnxruntime))

    def open_with(
        self, file: ModelFile, precision: str, threads: int, offer: Callable[[ModuleType], list[Any]]
    ) -> _FileSession:
        """A file ready to run by what ``offer`` gives for the imported package: providers, the first of them wanted.

        Raises:
            FileError, ValueError: as :meth:`open_file`.
        """
        try:
            onnxruntime = self.import_package()
        except ValueError as error:
            raise FileError(str(error)) from error
        options, offered = _options(onnxruntime, threads), offer(onnxruntime)
        with file.unpacked() as model:
            try:
                session = onnxruntime.InferenceSession(model, options, providers=offered)
            except Exception as error:  # onnxruntime's exceptions have no other base
                reason, folder = in_words(error), str(model.parent)
                if folder in reason.replace(f"{model} ", ""):  # of another file than the model itself
                    reason += f"; weights in a file of their own are read from {model.name}.data or {model.name}_data"
                raise FileError(
                    f"onnxruntime {onnxruntime.__version__} cannot run it: {reason.replace(f'{folder}/', '')}"
                ) from error
        if offered[0] != "CPUExecutionProvider" and session.get_providers()[0] != offered[0][0]:
            raise ValueError(f"device 'cuda' is not there: onnxruntime could not start {offered[0][0]}")
        half = any(port.type == "tensor(float16)" for port in session.get_inputs())
        found = "int8" if file.quantised else "fp16" if half else "fp32"
        if precision not in ("auto", found):
            raise ValueError(f"precision '{precision}' cannot be had: {file.path.name} computes in {found}")
        return _FileSession(session, found)


class _FileSession:
    """An onnxruntime session."""

    def __init__(self, session: Any, precision: str) -> None:
        self.session, self.precision = session, precision
        self._shapes: dict[tuple[int, ...], list[tuple[tuple[int, ...], torch.dtype]]] = {}
        self.inputs = [Port(entry.name, tuple(entry.shape), entry.type) for entry in session.get_inputs()]
        self.outputs = [Port(entry.name, tuple(entry.shape), entry.type) for entry in session.get_outputs()]

    def run(self, wanted: Sequence[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return self.session.run(list(wanted), given)
        except Exception as error:  # onnxruntime's exceptions have no other base
            raise RuntimeError(in_words(error)) from error

    def run_on_device(self, wanted: Sequence[str], given: Tensor) -> list[Tensor]:
        """The wanted outputs for the one input, from the memory of a device to new memory there, on no other way.

        Raises:
            RuntimeError: if it fails.
        """
        import torch

        shape = tuple(given.shape)
        if shape not in self._shapes:  # once by the host, to learn what comes out
            found = [
                torch.from_numpy(values) for values in self.run(wanted, {self.inputs[0].name: given.cpu().numpy()})
            ]
            self._shapes[shape] = [(tuple(values.shape), values.dtype) for values in found]
        made = [torch.empty(shape, dtype=dtype, device=given.device) for shape, dtype in self._shapes[shape]]
        binding = self.session.io_binding()
        binding.bind_input(self.inputs[0].name, *_place(given))
        for name, values in zip(wanted, made, strict=True):
            binding.bind_output(name, *_place(values))
        if given.is_cuda:  # onnxruntime computes on a stream of its own, and waits for it
            torch.cuda.current_stream(given.device).synchronize()
        try:
            self.session.run_with_iobinding(binding)
        except Exception as error:
            raise RuntimeError(in_words(error)) from error
        return made


def _place(values: Tensor) -> tuple[str, int, type, tuple[int, ...], int]:
    """Device, its number, element type, shape and address, as onnxruntime binds them."""
    import torch

    kind = torch.empty(0, dtype=values.dtype).numpy().dtype.type
    return values.device.type, values.device.index or 0, kind, tuple(values.shape), values.data_ptr()


def providers(device: str, onnxruntime: ModuleType) -> list[Any]:
    """What a session on a device is made with.

    Raises:
        ValueError: if onnxruntime does not have the device.
    """
    kind, number = parse_device(device)
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    offered = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in offered:
        raise ValueError(
            f"device '{device}' is not there: the installed onnxruntime offers {', '.join(offered)}; the package "
            "onnxruntime-gpu brings CUDA"
        )
    return [("CUDAExecutionProvider", {"device_id": number}), "CPUExecutionProvider"]


def _options(onnxruntime: ModuleType, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # whatever goes wrong comes as an exception, too
    options.intra_op_num_threads = thread_count(threads)
    return options
