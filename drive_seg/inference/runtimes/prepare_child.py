"""The process of its own that prepares what ``auto`` would take, see :mod:`.preparation`."""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from drive_seg import checkpoint
from drive_seg.inference.runtimes import cache, choice
from drive_seg.inference.runtimes.files import onnx_file
from drive_seg.inference.runtimes.preparation import UNABLE

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def main(args: Sequence[str] | None = None) -> int:
    """The child: prepare, or say in one line on standard error why that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m drive_seg.inference.runtimes.prepare_child", description=__doc__)
    parser.add_argument("model", help="a checkpoint's file, or a model of the package")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--parent", type=int, help="process with which this one ends")
    options = parser.parse_args(args)
    signal.signal(signal.SIGTERM, _end_with_the_compiler)
    if options.parent is not None and not _ends_with(options.parent):
        return 1
    try:
        path = checkpoint.find_model(options.model)
        if onnx_file.is_file_with_contract(path):
            return 0
        loaded = checkpoint.load(path)
        with _alone():  # the nodes of a vehicle start together
            entry = choice.to_prepare(loaded, options.device, options.precision)
            if entry is not None:
                entry.prepare(loaded, loaded.contract.input.size, options.precision, "cpu")
    except checkpoint.CheckpointError as error:
        return _refuse(error, 1)
    except (ValueError, OSError) as error:
        return _refuse(error, UNABLE)
    return 0


def _refuse(error: Exception, status: int) -> int:
    print(" ".join(str(error).split()), file=sys.stderr)
    return status


@contextmanager
def _alone() -> Iterator[None]:
    """While no other process of this user prepares anything."""
    cache.make_private(cache.root())
    with open(cache.root() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _end_with_the_compiler(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    sys.exit(128 + number)  # which removes the temporary folder


def _ends_with(parent: int) -> bool:
    """Let this process be ended when its parent dies; False if it has died already."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    return os.getppid() == parent


if __name__ == "__main__":
    sys.exit(main())
