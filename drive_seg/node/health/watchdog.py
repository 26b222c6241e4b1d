"""Whether the worker still works: what hangs or is lost for good is told, and then ends the process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drive_seg.node.process import Exit

if TYPE_CHECKING:
    from drive_seg.node.worker import Worker

WARN, ERROR = 1 / 3, 2 / 3
"""Shares of the timeout after which the diagnostics say so."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with the worker.

    Attributes:
        text: the sentence for the diagnostics.
        severe: it is an ERROR, and not a WARN.
        leave: the code with which the process is to end now; None to wait and see.
    """

    text: str
    severe: bool = True
    leave: Exit | None = None


def look(worker: Worker, timeout_s: float) -> Fault | None:
    """Judge a worker that was started and not stopped.

    Args:
        timeout_s: how long a batch may take, and a device may fail every frame; 0 is for ever.
    """
    if worker.lost:
        return Fault(worker.lost, leave=Exit.DEVICE_LOST)
    if not worker.running:
        return Fault(f"the worker thread has ended: {worker.ending}", leave=Exit.STALLED)
    for seconds, what, leave in (
        (worker.batch_seconds(), "no frame is done: the batch in hand has taken", Exit.STALLED),
        (worker.failing_seconds(), "the device fails every frame, for", Exit.DEVICE_LOST),
    ):
        if timeout_s and seconds > WARN * timeout_s:
            text = f"{what} {seconds:.0f} s; after stall_timeout_s, {timeout_s:.0f} s, the process ends"
            return Fault(text, seconds > ERROR * timeout_s, leave if seconds > timeout_s else None)
    return None
