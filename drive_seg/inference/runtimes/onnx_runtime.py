"""A user's own file executed by ONNX Runtime: by its own kernels, or on an NVIDIA GPU by those of TensorRT."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drive_seg.checkpoint import CheckpointError
from drive_seg.inference.decision import SPARSE
from drive_seg.inference.runtimes import MULTIPLE, Runtime, Size, cache, parse_device
from drive_seg.inference.runtimes.files.contract import elsewhere
from drive_seg.inference.runtimes.files.onnx_file import ModelFile, OnnxFile
from drive_seg.inference.runtimes.files.outputs import Outputs
from drive_seg.inference.runtimes.files.ports import FileSession, ImageInput, Port, image_input, in_words
from drive_seg.inference.runtimes.pytorch import indexed
from drive_seg.inference.runtimes.sessions import import_runtime, thread_count

_TENSORRT = "TensorrtExecutionProvider"
MOST_IMAGES = 6
"""At once through an engine of TensorRT: as many as a vehicle has cameras."""
_DRIVER = Path("/proc/driver/nvidia")


class OnnxRuntime(Runtime):
    """A file that was run and does what its contract says.

    Logits and probabilities at a lower resolution than the input (1/8, 1/4) are brought to it bilinearly, as the
    package's own networks do it inside. Images go through on the CPU one by one, as they do with PyTorch.

    Args:
        file: what :func:`drive_seg.inference.runtimes.files.onnx_file.read` gives.
        device: "auto" and "cpu" are the CPU. "cuda" and "cuda:N" need an onnxruntime that offers CUDA; the authors have
            never run it. Where torch has CUDA, too, images are resized and normalised there, and logits decided on: the
            network reads and writes the GPU's memory.
        precision: "auto", or what the file computes in: "fp32", "fp16" by the type of its input, "int8".
        threads: 0 is onnxruntime's own choice.

    Raises:
        CheckpointError: if onnxruntime is missing or cannot run the file, or the file does not fit its contract.
        ValueError: if device or precision cannot be had.
    """

    name = "onnxruntime"
    tensor_device = "cpu"
    may_void = True

    def __init__(self, file: OnnxFile, device: str = "auto", precision: str = "auto", threads: int = 0) -> None:
        self._file, options = file, file.contract.options
        self.device = "cpu" if device == "auto" else device
        if self.device != "cpu" and torch.cuda.is_available():
            self.tensor_device = indexed(self.device)
        self._session = self._open(file, precision, threads)
        self.precision = self._session.precision
        try:
            self._input = image_input(self._session.inputs)
            self._wanted = _chosen_outputs(self._session.outputs, options)
            self._check_sizes(options.get("multiple", MULTIPLE))
        except ValueError as error:
            raise self._misfit(error) from error
        self.dtype, self.one_by_one = self._input.dtype, self._input.one_by_one
        spec = file.contract.input
        if self.dtype == torch.uint8 and (spec.mean, spec.std, spec.scale) != ((0,) * 3, (1,) * 3, 1):
            raise self._misfit(f"its input {self._input.port} takes pixels: say range: raw, and no mean, std and scale")
        self._outputs = Outputs(options, file.contract.label_map)
        self._try()
        self.gives_logits, self.decides = self._outputs.gives_logits, not self._outputs.plain
        # Plain logits are decided on elsewhere, where 255 says that they are not finite.
        self.may_void = self.decides
        self.gives_confidence = self._outputs.kind != "ids" or len(self._wanted) == 2

    def __call__(self, batch: Tensor) -> Tensor:
        size = tuple(batch.shape[-2:])
        if self._outputs.plain and batch.device.type != "cpu":
            with self._in_words(size):
                given = self._input.arranged(batch)
                return self._outputs.logits(self._session.run_on_device(self._wanted, given)[0], size)
        return self._outputs.logits(self._run(batch)[0], size)

    def decide(
        self, batch: Tensor, confidence: bool, temperature: float = 1.0, frame_temperature: float | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        values = self._run(batch)
        sureness = values[1] if len(values) > 1 else None
        size = tuple(batch.shape[-2:])
        try:
            ids, sure = self._outputs.decide(values[0], sureness, size, confidence, temperature)
            if frame_temperature is None:
                return ids, sure, None
            of_frames = self._outputs.decide(values[0], sureness, size, True, frame_temperature)[1]
        except ValueError as error:
            raise self._misfit(error) from error
        return ids, sure, None if of_frames is None else of_frames[:, ::SPARSE]

    def ports(self) -> dict[str, list[str]]:
        """What the file takes and gives, as text."""
        return {"inputs": list(map(str, self._session.inputs)), "outputs": list(map(str, self._session.outputs))}

    def _open(self, file: ModelFile, precision: str, threads: int) -> FileSession:
        """A session of what was read and hashed."""
        try:
            return open_file(file, precision, threads, lambda ort: providers(self.device, ort))
        except CheckpointError as error:
            raise self._misfit(error) from error

    def _check_sizes(self, multiple: int) -> None:
        """Set the size that the file fixes, or the multiple that sizes keep; ValueError if the contract has another."""
        port, wanted = self._input.port, self._file.contract.input.size
        if self._input.size(wanted) != wanted:
            raise ValueError(f"its input is {port}, but the contract's input_size is {list(wanted)}")
        self.multiple = multiple
        if any(self._input.sides):
            self.fixed_size = wanted
        elif any(side % multiple for side in wanted):
            raise ValueError(
                f"its input {port} takes any size, and input_size {list(wanted)} is not of multiples of {multiple}"
            )

    def _try(self) -> None:
        """Run it on a picture of black, white, grey and colours: what a file declares may lack numbers, or be wrong.

        Where it takes any size, also on one whose sides are odd multiples: cameras have many.
        """
        own = self._file.contract.input.size
        try:
            self._look(own)
        except (ValueError, RuntimeError) as error:
            raise self._misfit(error) from error
        if self.fixed_size is not None or self.device != "cpu":
            return
        odd = _odd_size(own, self.multiple)
        try:
            self._look(odd)
        except (ValueError, RuntimeError) as error:
            raise self._misfit(
                f"it takes an input of {own[1]}x{own[0]} but not of {odd[1]}x{odd[0]}: {self._way_out()} ({error})"
            ) from error

    def _look(self, size: Size) -> None:
        """Run it in a size; ValueError or RuntimeError if it fails, or what comes is not what the contract says."""
        values = self._run(self._file.contract.input.normalise(trial_image(size), self.dtype))
        try:
            self._outputs.check(values[0], values[1] if len(values) > 1 else None)
        except ValueError as error:
            raise ValueError(f"its output '{self._wanted[0]}' is {error}") from error

    def _way_out(self) -> str:
        """What to do about a network that does not take any size."""
        for multiple in (16, 32, 64):
            size = tuple(max(multiple, side // multiple * multiple) for side in self._file.contract.input.size)
            if multiple > self.multiple and self._takes(size) and self._takes(_odd_size(size, multiple)):
                return f"its sides must be multiples of {multiple}, so say multiple: {multiple} in the contract"
        return "export it with a fixed size, or say in the contract which multiple its sides must be"

    def _takes(self, size: Size) -> bool:
        try:
            self._look(size)
        except (ValueError, RuntimeError):
            return False
        return True

    def _run(self, batch: Tensor) -> list[np.ndarray]:
        with self._in_words(batch.shape[-2:]):
            return self._session.run(self._wanted, self._input.feed(batch.cpu()))

    @contextmanager
    def _in_words(self, size: Sequence[int]) -> Iterator[None]:
        """Say of which file and input an error is."""
        try:
            yield
        except RuntimeError as error:
            text = "x".join(map(str, reversed(size)))
            raise RuntimeError(f"{self._file.path.name} fails on an input of {text}: {error}") from error

    def _misfit(self, reason: object) -> CheckpointError:
        contract = self._file.contract_file
        return CheckpointError(
            f"{self._file.path} (contract {contract.name}): {reason}{elsewhere(contract, self._file.path)}"
        )


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

    def _open(self, file: OnnxFile, precision: str, threads: int) -> FileSession:
        def chosen(onnxruntime: ModuleType) -> list[Any]:
            cuda = providers(self.device, onnxruntime)
            if _TENSORRT not in onnxruntime.get_available_providers():
                raise ValueError("runtime 'tensorrt' is not there: the installed onnxruntime offers no TensorRT")
            options = {
                "device_id": parse_device(self.device)[1],
                "trt_fp16_enable": self._half,
                "trt_engine_cache_enable": True,
                "trt_engine_cache_path": str(_engines(file.sha256, onnxruntime.__version__)),
                **profiles(image_input(open_file(file).inputs), file.contract.input.size),
            }
            return [(_TENSORRT, options), *cuda]

        try:
            return open_file(file, precision, threads, chosen)
        except CheckpointError as error:
            raise self._misfit(error) from error


class _Session:
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
    kind = torch.empty(0, dtype=values.dtype).numpy().dtype.type
    return values.device.type, values.device.index or 0, kind, tuple(values.shape), values.data_ptr()


def profiles(entry: ImageInput, own: Size) -> dict[str, str]:
    """TensorRT's options for the shapes that may come: an engine for all of them, and none built in mid-drive.

    Args:
        entry: the file's input.
        own: (height, width) of the contract, for which the engine is made to be fastest; others may have half to one
            and a half of its sides.

    Returns:
        nothing for an input whose sides are all fixed.
    """
    if entry.one_by_one and all(entry.sides):
        return {}
    smallest, largest = (tuple(max(1, int(side * factor)) for side in own) for factor in (0.5, 1.5))
    most = 1 if entry.one_by_one else MOST_IMAGES

    def shape(count: int, size: Size) -> str:
        height, width = entry.size(size)
        sides = (count, height, width, 3) if entry.by_pixel else (count, 3, height, width)
        return f"{entry.port.name}:{'x'.join(map(str, sides))}"

    shapes = {"min": shape(1, smallest), "opt": shape(1, own), "max": shape(most, largest)}
    return {f"trt_profile_{name}_shapes": text for name, text in shapes.items()}


def open_file(
    file: ModelFile,
    precision: str = "auto",
    threads: int = 0,
    chosen: Callable[[ModuleType], list[Any]] = lambda onnxruntime: ["CPUExecutionProvider"],
) -> FileSession:
    """A file in ONNX Runtime.

    Args:
        file: of the form ONNX.
        precision: "auto", or what the file computes in.
        threads: 0 is onnxruntime's own choice.
        chosen: gives the providers.

    Raises:
        CheckpointError: if onnxruntime is missing or cannot run the file.
        ValueError: if the precision or a provider cannot be had.
    """
    try:
        onnxruntime = import_runtime("onnxruntime")
    except ValueError as error:
        raise CheckpointError(
            f"an ONNX file needs onnxruntime, which cannot be imported ({error.__cause__}): install it with pip, by "
            "itself or as the extra 'onnx' of drive_seg"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # whatever goes wrong comes as an exception, too
    options.intra_op_num_threads = thread_count(threads)
    offered = chosen(onnxruntime)
    with file.unpacked() as model:
        try:
            session = onnxruntime.InferenceSession(model, options, providers=offered)
        except Exception as error:  # onnxruntime's exceptions have no other base
            reason, folder = in_words(error), str(model.parent)
            if folder in reason.replace(f"{model} ", ""):  # of another file than the model itself
                reason += f"; weights in a file of their own are read from {model.name}.data or {model.name}_data"
            raise CheckpointError(
                f"onnxruntime {onnxruntime.__version__} cannot run it: {reason.replace(f'{folder}/', '')}"
            ) from error
    if offered[0] != "CPUExecutionProvider" and session.get_providers()[0] != offered[0][0]:
        raise ValueError(f"device 'cuda' is not there: onnxruntime could not start {offered[0][0]}")
    half = any(port.type == "tensor(float16)" for port in session.get_inputs())
    found = "int8" if file.quantised else "fp16" if half else "fp32"
    if precision not in ("auto", found):
        raise ValueError(f"precision '{precision}' cannot be had: {file.path.name} computes in {found}")
    return _Session(session, found)


def trial_image(size: Size) -> Tensor:
    """uint8 BGR [1, 3, H, W]: a quarter each of black, white, grey, and blocks of random colours."""
    height, width = size
    blocks = np.random.default_rng(0).integers(0, 256, (3, -(-height // 8), -(-width // 8)), np.uint8)
    image = torch.from_numpy(blocks.repeat(8, 1).repeat(8, 2)[None, :, :height, :width].copy())
    top, left = height // 2, width // 2
    image[..., :top, :left], image[..., :top, left:], image[..., top:, :left] = 0, 255, 128
    return image


def _odd_size(size: Size, multiple: int) -> Size:
    """Near a size another one whose sides are odd multiples."""
    odd = tuple((side // multiple | 1) * multiple for side in size)
    return odd if odd != tuple(size) else (odd[0], odd[1] + 2 * multiple)


def _chosen_outputs(there: Sequence[Port], options: dict[str, Any]) -> list[str]:
    """The outputs that the contract names, or the only one; ValueError if there are none."""
    listed, wanted = ", ".join(map(str, there)), options.get("output_name")
    others = [port.name for port in there if port.name != options.get("confidence_name")]
    if wanted is None and len(others) != 1:
        raise ValueError(f"it gives {listed}: say in output_name which one to use")
    chosen = [wanted or others[0], *([options["confidence_name"]] if "confidence_name" in options else [])]
    for name in chosen:
        if name not in [port.name for port in there]:
            raise ValueError(f"it has no output '{name}', only {listed}")
    return chosen


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
