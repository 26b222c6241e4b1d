"""A worker that hangs, ends, or loses its device: what the diagnostics say, and how the process ends."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from drive_seg.images.messages import to_image
from drive_seg.node.health.diagnostics import About, CameraHealth
from drive_seg.node.health.watchdog import Fault, look
from drive_seg.node.process import Exit

FAULTY = """
import threading
from drive_seg.node import segmentation_node
from drive_seg.node.process import leave
from drive_seg.segmenter import DeviceLostError, Segmenter

call = Segmenter.__call__

def faulty(self, images, *others, **options):
    if "frame_confidence" in options:  # it is the worker that calls
        {fault}
    return call(self, images, *others, **options)

Segmenter.__call__ = faulty
leave(segmentation_node.main())
"""
HANGS, LOST = "threading.Event().wait()", "raise DeviceLostError('the GPU cuda:0 is lost to this process')"


def worker(**changes: Any) -> SimpleNamespace:
    values = {"lost": "", "ending": "", "running": True, "batch": 0.0, "failing": 0.0} | changes
    batch, failing = values.pop("batch"), values.pop("failing")
    return SimpleNamespace(**values, batch_seconds=lambda: batch, failing_seconds=lambda: failing)


@pytest.mark.parametrize(
    "changes, severe, leave, text",
    [
        ({"batch": 3.3}, None, None, ""),
        ({"batch": 3.4}, False, None, "no frame is done: the batch in hand has taken 3 s"),
        ({"batch": 7.0}, True, None, "stall_timeout_s, 10 s, the process ends"),
        ({"batch": 10.5}, True, Exit.STALLED, "the batch in hand has taken 10 s"),
        ({"failing": 7.0}, True, None, "the device fails every frame, for 7 s"),
        ({"failing": 11.0}, True, Exit.DEVICE_LOST, "stall_timeout_s, 10 s, the process ends"),
        ({"lost": "the GPU is gone"}, True, Exit.DEVICE_LOST, "the GPU is gone"),
        ({"running": False, "ending": "KeyError: 1"}, True, Exit.STALLED, "the worker thread has ended: KeyError: 1"),
    ],
)
def test_what_is_wrong_with_a_worker(changes: dict, severe: bool | None, leave: Exit | None, text: str) -> None:
    found = look(worker(**changes), 10.0)
    assert (None if found is None else found.severe, found and found.leave) == (severe, leave)
    assert text in (found.text if found else "")


def test_without_a_timeout_a_batch_may_take_for_ever() -> None:
    assert look(worker(batch=1e6, failing=1e6), 0.0) is None
    assert look(worker(running=False), 0.0).leave is Exit.STALLED


@pytest.mark.parametrize("severe, level", [(False, DiagnosticStatus.WARN), (True, DiagnosticStatus.ERROR)])
def test_the_diagnostics_of_an_active_camera_say_so(severe: bool, level: bytes) -> None:
    health, about = CameraHealth(), About("front", fault=Fault("it hangs", severe))
    assert health.verdict(about).state == "inactive"
    health.activate()
    verdict = health.verdict(about)
    assert (verdict.state, verdict.level, verdict.message) == ("stalled", level, "it hangs")


@pytest.mark.parametrize("fault, code", [(HANGS, 3), ("raise SystemExit", 3), (LOST, 4)], ids=["hung", "dead", "lost"])
def test_the_process_says_so_and_ends_with_a_code_of_its_own(
    fault: str, code: int, peer: Any, start_node: Callable[..., Any], picture: Callable[..., np.ndarray]
) -> None:
    node = start_node("-p", "stall_timeout_s:=3.0", program=["-c", FAULTY.format(fault=fault)])
    peer.listen("/camera/segmentation/label")
    camera = peer.publisher("/camera/image_raw")
    message = to_image(picture(), peer.header(), "bgr8")
    peer.insist(camera, message, lambda: node.process.poll() is not None, "end of the process")
    assert node.wait() == code, node.log
    told = [status for array in peer.diagnostics for status in array.status if "stalled" in str(status.values)]
    assert told and told[-1].level == DiagnosticStatus.ERROR and told[-1].message in node.log
    assert node.log.count(f": exit code {code}") == 1 and "Traceback" not in node.log


def test_a_device_that_cannot_be_had_leaves_the_fallback_device(start_node: Callable[..., Any]) -> None:
    given, reason = ("-p", "device:=cuda:7"), "device 'cuda:7' is not there: this machine offers"
    node = start_node(*given, "-p", "fallback_device:=cpu")
    log = node.wait_for_log("active: awaiting")
    assert f"fallback_device 'cpu' takes the model, as 'cuda:7' cannot: {reason}" in log
    assert node.stop() == Exit.OK
    alone = start_node(*given)
    assert alone.wait() == Exit.FAILED
    assert f"cannot configure: the model cannot be loaded on device 'cuda:7': {reason}" in alone.log
