"""What a runtime declares about itself; what a command, a parameter or a table says of runtimes is derived from it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from drive_seg.checkpoint import Checkpoint
    from drive_seg.inference.runtimes import Runtime, Size
    from drive_seg.inference.runtimes.files.onnx_file import ModelFile
    from drive_seg.inference.runtimes.files.ports import FileSession

Tell = Callable[[str], None]
"""Takes a sentence for the log."""


@dataclass(frozen=True)
class Runs:
    """What a runtime can do with checkpoints, or with users' files, on some machine.

    Attributes:
        devices: kinds, "cpu" and "cuda"; of files the first is what "auto" means.
        precisions: "fp32", "fp16", "bf16", "int8".
        only: networks of the catalog, all if empty; of files their suffixes.
    """

    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """What preparing a checkpoint has made.

    Attributes:
        path: of the file in the cache.
        agreement: share of pixels, 0..1, labelled as PyTorch does in fp32.
        precision: what it is for.
    """

    path: Path
    agreement: float
    precision: str


class RuntimeEntry:
    """A runtime of the registry. A file declares a subclass, and overrides what its runtime can do.

    Attributes:
        name: the value of ``runtime``.
        about: what it is, for tables.
        checkpoints, files: what it executes; None if it executes none.
        package: that it imports beside PyTorch; empty if none.
        distributions: by which pip knows that package, for the versions in reports.
        extra: of drive_seg that installs it.
        converters: packages that preparing a checkpoint imports, of the extra "export".
        priority: of "auto" for a checkpoint on a CPU, the highest first; 0 for never.
        preparation: what preparing takes, for tables; empty if there is nothing to prepare.
        per_size: a preparation is for one size of the input.
        slow: preparing takes about a minute for each network and size.
        unasked: preparing takes seconds and is then for all sizes, so that "auto" does it by itself.
    """

    name: str
    about: str
    checkpoints: Runs | None = None
    files: Runs | None = None
    package: str = ""
    distributions: tuple[str, ...] = ()
    extra: str = ""
    converters: tuple[str, ...] = ()
    priority: int = 0
    preparation: str = ""
    per_size: bool = False
    slow: bool = False
    unasked: bool = False

    # --- The package ---

    @property
    def is_installed(self) -> bool:
        return not self.package or find_spec(self.package) is not None

    def versions(self) -> dict[str, str]:
        """Of its installed distributions."""
        return installed(self.distributions)

    def import_package(self) -> ModuleType:
        """Its package.

        Raises:
            ValueError: if it cannot be imported; the sentence names the extra that installs it.
        """
        # A vehicle reports to nobody: onnxruntime sends usage figures over the network unless it is told not to.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        try:
            return importlib.import_module(self.package)
        except ImportError as error:
            raise ValueError(
                f"runtime '{self.name}' needs {self.package}, which cannot be imported ({error}): install it with pip, "
                f"by itself or as the extra '{self.extra}' of drive_seg"
            ) from error

    # --- Checkpoints ---

    def networks(self, precision: str) -> tuple[str, ...]:
        """Of the catalog, those that it executes in a precision; all if empty."""
        return self.checkpoints.only

    def executes(self, loaded: Checkpoint, precision: str) -> bool:
        """Whether it is for a checkpoint's network."""
        only = self.networks(precision)
        return not only or loaded.contract.network in only

    def precisions(self, device: str = "cpu") -> tuple[str, ...]:
        """What it computes a checkpoint in on a device of this machine.

        Raises:
            ValueError: if its package cannot be imported.
        """
        return self.checkpoints.precisions

    def choose_device(self, wish: str) -> str:
        """The device on which it executes a checkpoint for a wish.

        Raises:
            ValueError: if it is not available.
        """
        from drive_seg.inference.runtimes import parse_device
        from drive_seg.inference.runtimes.pytorch import choose_device

        if "cuda" in self.checkpoints.devices:
            return choose_device(wish)
        if wish != "auto" and parse_device(wish)[0] != "cpu":
            raise ValueError(f"device '{wish}' cannot be had: {self.name} runs checkpoints on the cpu, torch on CUDA")
        return "cpu"

    def choose_precision(self, wish: str, device: str = "cpu") -> str:
        """The precision in which it computes a checkpoint for a wish.

        Raises:
            ValueError: if it is not available, or the package cannot be imported.
        """
        able, auto = self.precisions(device), "fp32" if device == "cpu" else "fp16"
        chosen = auto if wish == "auto" else wish
        if chosen not in able:
            raise ValueError(
                f"precision '{wish}' cannot be had: {self.name} computes a checkpoint in {' or '.join(able)} on this "
                f"{'processor' if device == 'cpu' else 'GPU'}"
            )
        return chosen

    def is_prepared(self, loaded: Checkpoint, precision: str) -> bool:
        """Whether it is ready to execute a checkpoint on the CPU, in some size; looked up without importing it.

        Raises:
            ValueError: if others can write to the cache.
        """
        return True

    def can_prepare(self, precision: str) -> bool:
        """Whether preparing a checkpoint for the CPU is worth a try on this machine."""
        return False

    def prepare(
        self, loaded: Checkpoint, size: Size, precision: str, device: str, frames: Iterable[np.ndarray] = ()
    ) -> Prepared:
        """Convert or compile a checkpoint, check it against PyTorch, and keep it in the cache.

        Args:
            size: (height, width) of the network's input.
            frames: uint8 BGR [H, W, 3], to check on and to calibrate int8 on; those of the package if there are none.

        Raises:
            ValueError: if what this needs is missing or not available, the result does not label as PyTorch does, or
                the cache cannot be written.
        """
        raise ValueError(f"runtime '{self.name}' executes a model as it is: there is nothing to prepare")

    def how_to_prepare(self, path: Path, size: Size, precision: str = "fp32", device: str = "cpu") -> str:
        """The command that prepares a checkpoint."""
        words = [f"drive-seg prepare --model {path} --runtime {self.name}"]
        words += [f"--size {size[1]}x{size[0]}"] if self.per_size else []
        words += [f"--precision {precision}"] if precision != "fp32" else []
        words += ["--calibrate IMAGES"] if precision == "int8" else []
        words += [f"--device {device}"] if device != "cpu" else []
        return " ".join(words)

    def open(self, loaded: Checkpoint, device: str, precision: str, threads: int, size: Size, tell: Tell) -> Runtime:
        """A checkpoint ready to run; what is not prepared is prepared first.

        Args:
            device, precision: as a user gives them, "auto" too.
            threads: 0 is the runtime's own choice.
            size: (height, width) of the input for which it is prepared, if it has to be.
            tell: is told what is being prepared, and what is not prepared.

        Raises:
            ValueError: if device or precision is not available, or preparing fails.
        """
        raise ValueError(f"runtime '{self.name}' executes no checkpoints")

    def open_network(
        self, network: nn.Module, device: str, precision: str, images: Callable[[], Iterable[Tensor]]
    ) -> Runtime:
        """A network ready to run without checkpoint and cache; not of one that is prepared for each size.

        Args:
            images: gives what int8 is calibrated on, float32 [1, 3, h, w].

        Raises:
            ValueError: as :meth:`open`.
        """
        raise ValueError(
            f"runtime '{self.name}' is prepared for each size: it executes no network without a checkpoint"
        )

    # --- Users' files ---

    def rounds_files_to(self) -> tuple[str, ...]:
        """Precisions other than the file's own in which it can compute a file on this machine."""
        return ()

    def choose_file_device(self, wish: str) -> str:
        """The device on which it executes a file for a wish.

        Raises:
            ValueError: if it is not available.
        """
        from drive_seg.inference.runtimes import parse_device

        able = self.files.devices
        if wish != "auto" and parse_device(wish)[0] not in able:
            raise ValueError(f"device '{wish}' cannot be had: {self.name} runs files on {' or '.join(able)}")
        return able[0] if wish == "auto" else wish

    def open_file(self, file: ModelFile, device: str, precision: str, threads: int) -> FileSession:
        """A user's file ready to run.

        Args:
            device: "cpu" or "cuda:N", as :meth:`choose_file_device` gives it.
            precision: "auto" for the file's own.
            threads: 0 is the runtime's own choice.

        Raises:
            FileError: if the package is missing or cannot run the file.
            ValueError: if the precision or device is not available.
        """
        raise ValueError(f"runtime '{self.name}' executes no files")


def installed(distributions: Iterable[str]) -> dict[str, str]:
    """Versions of those of some distributions that are installed."""
    found = {}
    for name in distributions:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def thread_count(wish: int) -> int:
    """Threads for a runtime; 0 leaves it to the runtime.

    A runtime takes one thread per core by itself. It knows nothing of OMP_NUM_THREADS and torch.set_num_threads, by
    which a user keeps cores free for others.
    """
    import torch

    mine = torch.get_num_threads()
    return wish or (mine if mine < (os.cpu_count() or 1) else 0)
