"""Prepare unasked what takes seconds: the runtime that ``auto`` would take for a checkpoint if it were prepared.

A child process does it (:mod:`.prepare_child`): machine code that turns out not to run here ends the child alone, and
frames pass meanwhile. Only a runtime that then serves every size of the input is prepared so; a graph of another one is
for one size, and the one that is needed may not be known yet.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from drive_seg.files import write_atomically
from drive_seg.inference.runtimes import cache
from drive_seg.inference.runtimes.entry import Tell
from drive_seg.inference.runtimes.native import Native

SWITCH = "DRIVE_SEG_PREPARE"
"""Environment variable: "never" forbids all preparation that was not asked for, "wait" has the node wait for it."""
WAIT, LATER, NEVER = "wait", "later", "never"
"""What a Segmenter that is loaded with the runtime ``auto`` does about one that is faster and not prepared: prepare it
first, leave it to the caller, or leave it alone."""
WAYS = (WAIT, LATER, NEVER)
NICE = 5
"""How much the child gives way to the frames that pass meanwhile: on a machine which these keep busy it still gets a
third of what a thread of the node gets."""
UNABLE = 3
"""Exit status of a child that cannot prepare it on this machine."""
_CHILD = f"{__package__}.prepare_child"
_CRASHES = (signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT)


def way(wish: str) -> str:
    """One of :data:`WAYS` for a wish, which the environment may change, but for "never".

    Raises:
        ValueError: if either is none of them.
    """
    given = os.environ.get(SWITCH) or wish
    if not {wish, given} <= set(WAYS):
        raise ValueError(f"{SWITCH} in the environment, and prepare_first, must be {', '.join(WAYS)}, not '{given}'")
    return NEVER if NEVER in (wish, given) else given


class Preparation:
    """A child process that prepares what ``auto`` would take, if that is not prepared.

    Args:
        model: a checkpoint's file, or a name of the package's models folder; with any other file it does nothing.
        device, precision: as for the node.
        nice: how much it gives way to others; with more than 0 it also keeps to one thread.
    """

    def __init__(self, model: str | Path, device: str = "auto", precision: str = "auto", nice: int = 0) -> None:
        command = [sys.executable, "-P", "-m", _CHILD, str(model), "--device", device, "--precision", precision]
        command += ["--parent", str(os.getpid())]
        package = Path(__file__).parents[3]
        environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        if nice:
            environment["OMP_NUM_THREADS"] = "1"
        self._precision = precision
        self._child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C is for the parent, which ends the child
        )
        os.setpriority(os.PRIO_PROCESS, self._child.pid, nice + os.getpriority(os.PRIO_PROCESS, 0))

    def wait(self) -> None:
        """Wait for the end. What has failed by itself is noted, and not tried again by each process that comes.

        Raises:
            ValueError: if it could not be prepared; the sentence says why.
        """
        said = self._child.communicate()[1].strip().splitlines()
        status = self._child.returncode
        if not status:
            return
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
        reason = said[-1] if said and status in (1, UNABLE) else f"the process that prepares it {how}"
        if status == UNABLE or -status in _CRASHES:
            _note(self._precision, reason)
        raise ValueError(reason)

    def end(self) -> None:
        """End it, with the compiler it may have started."""
        if self._child.poll() is None:
            self._child.terminate()


def earlier_failure(precision: str) -> str | None:
    """Why preparing has failed on this machine before; to ask for the runtime by name tries it once more."""
    try:
        return Native().failure_file(precision).read_text(errors="replace").strip() or None
    except (OSError, ValueError):
        return None


def prepare_and_wait(model: str | Path, device: str, precision: str, tell: Tell) -> None:
    """Prepare what ``auto`` would take, unless that is forbidden; ``tell`` receives a sentence if it cannot be."""
    if way(WAIT) == NEVER:
        return
    preparation = Preparation(model, device, precision)
    try:
        preparation.wait()
    except ValueError as error:
        tell(f"no faster runtime could be prepared for {Path(model).name}: {error}")
    finally:
        preparation.end()


def _note(precision: str, reason: str) -> None:
    with suppress(OSError, ValueError):
        file = Native().failure_file(precision)
        cache.make_private(file.parent)
        write_atomically(file, reason.encode())
