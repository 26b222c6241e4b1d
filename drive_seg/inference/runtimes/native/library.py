"""kernels.cpp as machine code of the processor that it is compiled on."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from drive_seg.inference.runtimes import host
from drive_seg.inference.runtimes.native.steps import Step

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-std=c++17", "-O3", "-fopenmp", "-fPIC", "-shared")
TIMEOUT_S = 600


class CompilationError(ValueError):
    """The kernels cannot be had here; the message is one sentence that says why."""


def flags() -> tuple[str, ...]:
    """What the compiler is told, for the processor that this runs on."""
    arm = platform.machine() in ("aarch64", "arm64")
    return (*FLAGS, "-mcpu=native" if arm else "-march=native")


def source_sha256(source: Path | None = None) -> str:
    """Of the kernels' source and the flags."""
    return hashlib.sha256((source or SOURCE).read_bytes() + " ".join(flags()).encode()).hexdigest()


@cache
def package_sha256() -> str:
    """Of all files of this package, which decide what a program's buffers are called."""
    digest = hashlib.sha256()
    for file in sorted(SOURCE.parent.glob("*.*")):
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def compile_library(source: Path | None = None) -> bytes:
    """The shared library of a source file. Takes some ten seconds.

    Raises:
        CompilationError: if there is no C++ compiler, or it refuses.
    """
    if not host.can_compile():
        raise CompilationError(host.missing_compiler("the kernels need"))
    with tempfile.TemporaryDirectory(prefix="drive_seg_") as folder:
        made = Path(folder) / "kernels.so"
        command = [*host.compiler(), *flags(), str(source or SOURCE), "-o", str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompilationError(f"the kernels cannot be compiled: {error}") from error
        if done.returncode:
            said = " ".join(done.stderr.split())[-400:] or f"it ends with {done.returncode}"
            raise CompilationError(f"the kernels cannot be compiled by {host.compiler()[0]}: {said}")
        return made.read_bytes()


class Library:
    """The kernels, ready to run.

    Args:
        path: of the shared library. It is machine code: open none but your own.

    Attributes:
        lanes: numbers in a vector.
        bfloats, bytes: whether they multiply bfloat16, and bytes.

    Raises:
        CompilationError: if it cannot be loaded, or is of another version.
    """

    def __init__(self, path: Path) -> None:
        try:
            kernels = ctypes.CDLL(str(path))
            kernels.drive_seg_step_bytes.restype = ctypes.c_int64
            fits = kernels.drive_seg_step_bytes() == ctypes.sizeof(Step)
            self.lanes = int(kernels.drive_seg_lanes())
            self.bfloats = bool(kernels.drive_seg_multiplies_bfloats())
            self.bytes = bool(kernels.drive_seg_multiplies_bytes())
        except (OSError, AttributeError) as error:
            raise CompilationError(f"{path} cannot be loaded: {error}") from error
        if not fits:
            raise CompilationError(f"{path} is of another version")
        self._run = kernels.drive_seg_run
        self._run.restype = None
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]

    def run(self, steps: ctypes.Array, threads: int) -> None:
        """Carry steps out, by so many threads."""
        self._run(ctypes.addressof(steps), len(steps), threads)
