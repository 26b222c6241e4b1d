"""PyTorch's compiler ("inductor"): a network as machine code, ahead of time, for one size of its input.

On a CPU the weights are packed for oneDNN, everything between the convolutions becomes loops of C++ over pixels with
their channels side by side, and the number of threads stays open. Compiling takes a C++ compiler and up to a minute;
running takes PyTorch alone. The code is for one processor or GPU and one build of PyTorch: :func:`key` names them.

CUDA is written from the documentation: nobody has run it for this package yet.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drive_seg.inference.runtimes import Size, host
from drive_seg.inference.runtimes.entry import Runs
from drive_seg.inference.runtimes.prepared import GraphEntry, Session

if TYPE_CHECKING:
    from torch import Tensor

    from drive_seg.networks.fold import Folded

_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_DRIVER = Path("/proc/driver/nvidia/version")


class Inductor(GraphEntry):
    """PyTorch's compiler; in bf16 on processors that multiply it, not on those that would emulate it."""

    name = "inductor"
    about = "machine code of PyTorch's compiler"
    checkpoints = Runs(("cpu", "cuda"), tuple(_TYPES))
    priority = 3
    preparation = "g++ and a minute for each model and size"
    slow = True

    @staticmethod
    def convert(network: Folded, size: Size, precision: str, device: str) -> bytes:
        return compile_network(network, size, precision, device)

    def precisions(self, device: str = "cpu") -> tuple[str, ...]:
        return precisions(device)

    def variant(self, precision: str, device: str) -> tuple[str, ...]:
        return precision, device

    def depends_on(self, precision: str, device: str) -> dict[str, Any]:
        return key(precision, device)

    def can_prepare(self, precision: str) -> bool:
        return precision in self.precisions() and host.can_compile()

    def load(self, graph: bytes, precision: str = "fp32", threads: int = 0, device: str = "cpu") -> Session:
        return open_compiled(graph, device)


def precisions(device: str = "cpu") -> tuple[str, ...]:
    """What it computes in on a device of this machine."""
    if device != "cpu":
        return tuple(_TYPES)
    return ("fp32", "bf16") if host.multiplies_bf16() else ("fp32",)


def key(precision: str, device: str = "cpu") -> dict[str, Any]:
    """All that the machine code depends on beside the checkpoint, its network and the input's size."""
    import torch

    # GPU code comes with a part for the processor.
    build = {"precision": precision, "torch_build": torch.version.git_version, **host.processor_key()}
    build["capability"] = torch.backends.cpu.get_cpu_capability()
    if device != "cpu":
        build["gpu"] = torch.cuda.get_device_name(device)
        build["gpu_capability"] = list(torch.cuda.get_device_capability(device))
        build["cuda"] = torch.version.cuda
        build["driver"] = _DRIVER.read_text().splitlines()[0] if _DRIVER.is_file() else None
    return build


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
    import torch

    from drive_seg.inference.runtimes.conversion import ConversionError, quiet
    from drive_seg.networks.channels_last import ForCompiler

    if not host.can_compile():
        raise ConversionError(host.missing_compiler("compiling a network needs"))
    try:
        from torch import _inductor as inductor
        from torch._inductor.utils import fresh_cache
    except ImportError as error:
        raise ConversionError(f"this PyTorch {torch.__version__} cannot compile ahead of time ({error})") from error
    module = ForCompiler(network, getattr(torch, _TYPES[precision])).to(device)
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
    import torch

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
