"""TensorRT, as a provider of ONNX Runtime: users' ONNX files on an NVIDIA GPU. The authors have never run it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from drive_seg.inference.runtimes import cache, parse_device
from drive_seg.inference.runtimes.entry import Runs, RuntimeEntry
from drive_seg.inference.runtimes.files.ports import image_input
from drive_seg.inference.runtimes.onnx_runtime import OnnxRuntime, providers

if TYPE_CHECKING:
    from drive_seg.inference.runtimes import Size
    from drive_seg.inference.runtimes.files.onnx_file import OnnxFile
    from drive_seg.inference.runtimes.files.ports import FileSession, ImageInput

_PROVIDER = "TensorrtExecutionProvider"
_DRIVER = Path("/proc/driver/nvidia")
MOST_IMAGES = 6
"""At once through an engine: as many as a vehicle has cameras."""


class TensorRt(RuntimeEntry):
    """TensorRT on an NVIDIA GPU; an engine is built when a file is opened, which may take minutes.

    Engines are kept in the user's cache, apart for each file, driver, GPU and onnxruntime. What TensorRT cannot do goes
    through CUDA.
    """

    name = "tensorrt"
    about = "TensorRT's engines, through ONNX Runtime"
    files = Runs(("cuda",), ("fp32", "fp16", "int8"), (".onnx",))
    package, distributions, extra = "onnxruntime", ("onnxruntime-gpu", "tensorrt"), "onnx"

    def rounds_files_to(self) -> tuple[str, ...]:
        return ("fp16",)

    def open_file(self, file: OnnxFile, device: str, precision: str, threads: int) -> FileSession:
        half, onnx_runtime, own = precision == "fp16", OnnxRuntime(), file.contract.input.size

        def offer(onnxruntime: ModuleType) -> list[Any]:
            cuda = providers(device, onnxruntime)
            if _PROVIDER not in onnxruntime.get_available_providers():
                raise ValueError("runtime 'tensorrt' is not there: the installed onnxruntime offers no TensorRT")
            options = {
                "device_id": parse_device(device)[1],
                "trt_fp16_enable": half,
                "trt_engine_cache_enable": True,
                "trt_engine_cache_path": str(_engines(file.sha256, onnxruntime.__version__)),
                **profiles(image_input(onnx_runtime.open_file(file, "cpu", "auto", threads).inputs), own),
            }
            return [(_PROVIDER, options), *cuda]

        session = onnx_runtime.open_with(file, "auto" if half else precision, threads, offer)
        session.precision = "fp16" if half else session.precision
        return session


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
