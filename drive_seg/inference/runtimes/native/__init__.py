"""DSNet and SwiftNet on a processor by kernels of this package: convolutions that read channels wherever they lie.

``program`` is a folded network as steps: ``dsnet`` and ``swiftnet`` list them layer by layer, ``assembly`` lays out
their weights and memory, ``channels`` says what each reads. ``kernels.cpp`` carries them out, ``library`` compiles
that, ``calibration`` finds what a byte stands for. ``runtime`` opens a network. Other networks are for the other
runtimes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from drive_seg.inference.runtimes import Runtime, Size, host
from drive_seg.inference.runtimes.entry import Prepared, Runs, RuntimeEntry, Tell

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from drive_seg.checkpoint import Checkpoint

NETWORKS = ("dsnet", "swiftnet")
"""Of the catalog, those that the kernels are for, if not with every option."""


class Native(RuntimeEntry):
    """The package's kernels: the fastest on a CPU, for any size of the input; int8 is calibrated on images."""

    name = "native"
    about = "this package's kernels for DSNet and SwiftNet"
    checkpoints = Runs(("cpu",), ("fp32", "bf16", "int8"), NETWORKS)
    priority = 4
    preparation = "g++ and ten seconds, once for all models and sizes"
    unasked = True

    def networks(self, precision: str) -> tuple[str, ...]:
        return ("dsnet",) if precision == "int8" else NETWORKS

    def executes(self, loaded: Checkpoint, precision: str) -> bool:
        from drive_seg.inference.runtimes.native import runtime

        return runtime.executes(loaded, precision)

    def precisions(self, device: str = "cpu") -> tuple[str, ...]:
        if not host.processor_can("avx512f"):
            return ("fp32",)
        able = {"bf16": "avx512_bf16", "int8": "avx512_vnni"}
        return ("fp32", *(name for name, flag in able.items() if host.processor_can(flag)))

    def is_prepared(self, loaded: Checkpoint, precision: str) -> bool:
        from drive_seg.inference.runtimes.native import runtime

        return runtime.is_prepared(loaded, precision)

    def can_prepare(self, precision: str) -> bool:
        return precision in self.precisions() and host.can_compile()

    def prepare(
        self,
        loaded: Checkpoint,
        size: Size,
        precision: str = "auto",
        device: str = "auto",
        frames: Iterable[np.ndarray] = (),
    ) -> Prepared:
        from drive_seg.inference.runtimes import conversion
        from drive_seg.inference.runtimes.native import runtime

        self.choose_device(device)
        precision = self.choose_precision(precision)
        images = conversion.inputs(loaded.contract.input, size, frames) if frames or precision != "int8" else []
        return Prepared(*runtime.prepare(loaded, precision, images), precision)

    def open(self, loaded: Checkpoint, device: str, precision: str, threads: int, size: Size, tell: Tell) -> Runtime:
        from drive_seg.inference.runtimes.native import runtime

        self.choose_device(device)
        precision = self.choose_precision(precision)
        factors = runtime.read_factors(loaded) if precision == "int8" else None
        if precision == "int8" and factors is None:
            command = self.how_to_prepare(loaded.path, size, precision)
            raise ValueError(f"{loaded.path.name} is not calibrated for int8 on this machine: {command}")
        if not runtime.is_prepared(loaded, precision):
            tell(f"compiling the kernels of the runtime {self.name}, once on this machine")
            self.prepare(loaded, size, "fp32" if factors else precision)
        library = runtime.open_library(runtime.library_file())
        return runtime.NativeRuntime(loaded.build_network(), library, precision, factors)

    def open_network(
        self, network: nn.Module, device: str, precision: str, images: Callable[[], Iterable[Tensor]]
    ) -> Runtime:
        from drive_seg.inference.runtimes.native import runtime

        return runtime.open_network(network, self.choose_precision(precision), images)

    def failure_file(self, precision: str) -> Path:
        """Where it is noted that preparing has failed on this machine."""
        from drive_seg.inference.runtimes.native import runtime

        return runtime.library_file().with_suffix(f".{'fp32' if precision == 'auto' else precision}.failed")
