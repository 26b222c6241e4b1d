"""A network as machine code: PyTorch's compiler ("inductor") ahead of time, for one size of the network's input.

On a CPU the weights are packed for oneDNN, everything between the convolutions becomes loops of C++ over pixels with
their channels side by side, and the number of threads stays open. Compiling takes a C++ compiler and up to a minute;
running takes PyTorch alone. The code is for one processor or GPU and one build of PyTorch: :func:`key` names them.

CUDA is written from the documentation: nobody has run it for this package yet.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drive_seg.inference.runtimes import Size
from drive_seg.inference.runtimes.conversion import ConversionError, quiet
from drive_seg.inference.runtimes.native.library import can_compile, compiler
from drive_seg.networks.channels_last import ForCompiler
from drive_seg.networks.fold import Folded

NAME = "inductor"
_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_CPUINFO = Path("/proc/cpuinfo")
_DRIVER = Path("/proc/driver/nvidia/version")


def precisions(device: str = "cpu") -> tuple[str, ...]:
    """What it computes in on a device: in bf16 on processors that multiply it, not on those that would emulate it."""
    if device != "cpu":
        return ("fp32", "fp16", "bf16")
    if platform.machine() in ("x86_64", "AMD64"):
        able = processor_can("avx512_bf16") or processor_can("amx_bf16")
    else:
        able = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return ("fp32", "bf16") if able else ("fp32",)


def key(precision: str, device: str = "cpu") -> dict[str, Any]:
    """All that the machine code depends on beside the checkpoint, its network and the input's size."""
    # GPU code comes with a part for the processor.
    build = {"precision": precision, "torch_build": torch.version.git_version, **processor_key()}
    build["capability"] = torch.backends.cpu.get_cpu_capability()
    if device != "cpu":
        build["gpu"] = torch.cuda.get_device_name(device)
        build["gpu_capability"] = list(torch.cuda.get_device_capability(device))
        build["cuda"] = torch.version.cuda
        build["driver"] = _DRIVER.read_text().splitlines()[0] if _DRIVER.is_file() else None
    return build


def processor_key() -> dict[str, str]:
    """All that machine code for this processor depends on."""
    about = _processor()
    flags = about.get("flags", about.get("Features", ""))
    return {
        "machine": platform.machine(),
        "processor": about.get("model name", about.get("CPU part", platform.processor())),
        "processor_flags": hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest(),
    }


def processor_can(flag: str) -> bool:
    """Whether Linux names an instruction set, as "avx512_vnni", among the processor's."""
    return flag in _processor().get("flags", "").split()


def compile_network(network: Folded, size: Size, precision: str = "fp32", device: str = "cpu") -> bytes:
    """The package (.pt2) of a network, for one image of one size.

    Args:
        network: folded, float32 on the CPU, un-pooling by "one_hot": [1, 3, h, w] -> logits [1, C, h, w].
        size: (height, width).
        precision: one of :func:`precisions`.
        device: "cpu", "cuda" or "cuda:N".

    Raises:
        ConversionError: if there is no C++ compiler, or the network cannot be compiled.
    """
    if not can_compile():
        raise ConversionError(
            f"compiling a network needs a C++ compiler, and '{compiler()[0]}' is not found: install g++ (Debian, "
            "Ubuntu: apt install g++), or name another one in the environment variable CXX"
        )
    try:
        from torch import _inductor as inductor
        from torch._inductor.utils import fresh_cache
    except ImportError as error:
        raise ConversionError(f"this PyTorch {torch.__version__} cannot compile ahead of time ({error})") from error
    module = ForCompiler(network, _TYPES[precision]).to(device)
    image = torch.zeros(1, 3, *size, device=device).to(memory_format=torch.channels_last)
    # How many threads run is decided when it runs; with one given here the code would be for one alone.
    options = {"freezing": True, "cpp.dynamic_threads": True, "cpp.threads": max(2, os.cpu_count() or 1)}
    with tempfile.TemporaryDirectory(prefix="drive_seg_") as folder, quiet():
        path = Path(folder) / "network.pt2"
        try:
            # The compiler's own cache is a folder of a known name below /tmp, which others may have made.
            with fresh_cache(), inductor.config.patch(options), torch.inference_mode(False), torch.no_grad():
                program = torch.export.export(module, (image,))
                inductor.aoti_compile_and_package(program, package_path=str(path))
        except Exception as error:  # the compiler's exceptions have no other base
            raise ConversionError(f"the network cannot be compiled: {' '.join(str(error).split())[:400]}") from error
        return path.read_bytes()


def open_compiled(package: bytes, device: str = "cpu") -> Callable[[Tensor], Tensor]:
    """Make a package of :func:`compile_network` ready to run. It is machine code: open none but your own.

    Returns:
        float32 [1, 3, h, w] -> logits float32 [1, C, h, w], both on the device.

    Raises:
        ValueError: if it cannot be loaded.
    """
    number = torch.device(device).index
    with tempfile.TemporaryDirectory(prefix="drive_seg_") as folder:
        path = Path(folder) / "network.pt2"
        path.write_bytes(package)
        try:
            # Not by torch._inductor.aoti_load_package, which does just this, but first imports the whole compiler:
            # seconds of a vehicle's start.
            runner = torch._C._aoti.AOTIModelPackageLoader(
                str(path), "model", False, 1, -1 if number is None else number
            )
        except (RuntimeError, AttributeError, TypeError) as error:
            reason = " ".join(str(error).split())[:400]
            raise ValueError(f"PyTorch {torch.__version__} cannot load its machine code: {reason}") from error

    def run(image: Tensor) -> Tensor:
        return runner.boxed_run([image.contiguous(memory_format=torch.channels_last)])[0]

    return run


@cache
def _processor() -> dict[str, str]:
    """What Linux says of the first processor; empty elsewhere."""
    try:
        lines = _CPUINFO.read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
