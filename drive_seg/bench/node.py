"""The node end to end over DDS: a node process, and a camera that publishes images and receives masks.

Both are processes of their own (:mod:`drive_seg.bench.camera_process`), with the package's Fast DDS profile. First at
10 Hz, then at three times what the node has just shown to manage: the newest frame wins, so the latency stays bounded
and the node's counters account for every frame.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from drive_seg.bench.rows import NotInstalledError, Row, Size, size_text
from drive_seg.bench.timing import percentile
from drive_seg.dds_profile import large_image_environment
from drive_seg.replay.processes import Child, Children

CAMERA = "camera"
ENDS = ("published", "dropped", "expired", "rejected", "failed", "withheld")
RATE_HZ, OVERLOAD = 10.0, 3.0
MARGIN_S = 120.0


def bench_node(
    model: Path,
    size: Size,
    device: str,
    seconds: float,
    tell: Callable[[str], None] = lambda text: None,
    parameters: Mapping[str, str] | None = None,
) -> list[Row]:
    """Two rows, one for each rate; median_ms is from an image's stamp to its received label mask.

    Args:
        model: checkpoint.
        size: (height, width) that the network sees.
        device: of the node.
        seconds: of each rate.
        tell: hears what is being done.
        parameters: further parameters of the node.
    """
    rows = [Row("node", f"node {name}", "", "", size_text(size), 1) for name in ("10 Hz", "3 x overload")]
    tell(f"node: {seconds:g} s at each of two rates")
    try:
        phases = _run(model, size, device, seconds, parameters or {})
        for row, phase in zip(rows, phases, strict=True):
            fill_in(row, phase)
    except Exception as error:  # a child's words, ROS that is not there: no reason to lose the other parts
        for row in rows:
            row.fail(error)
    return rows


def fill_in(row: Row, phase: dict[str, Any]) -> None:
    """Take over what the camera process measured at one rate, if its figures and the node's add up.

    Raises:
        ValueError: if they do not, or no mask came.
    """
    latencies, node = phase["latencies_s"], phase["node"]
    row.runtime, row.precision = phase["runtime"], phase["precision"]
    row.details = {
        "image": phase["image"],
        "asked_hz": phase["asked_hz"],
        "sent_hz": phase["sent_hz"],
        "sent": phase["sent"],
        "masks": len(latencies),
        "node": node,
    }
    if not latencies:
        raise ValueError(f"of {phase['sent']} images none came back as a mask")
    check_counters(phase["sent"], len(latencies), node)
    row.take(latencies)
    row.details |= {"p99_ms": 1e3 * percentile(latencies, 99), "max_ms": 1e3 * max(latencies)}


def check_counters(sent: int, masks: int, node: Mapping[str, int]) -> None:
    """The node's counters must account for each frame, and agree with what was sent and received here.

    Raises:
        ValueError: if they do not; the message says where.
    """
    ended = sum(node[end] for end in ENDS)
    figures = ", ".join(f"{node[end]} {end}" for end in ENDS if node[end])
    if node["received"] != ended + node["in_flight"] or node["in_flight"]:
        raise ValueError(f"of {node['received']} received frames only {ended} ended ({figures})")
    if node["received"] > sent:
        raise ValueError(f"the node counts {node['received']} frames, but {sent} were sent")
    if node["published"] != masks:
        raise ValueError(f"the node published {node['published']} masks, but {masks} came")
    if node["failed"] or node["rejected"] or node["expired"]:
        raise ValueError(f"frames were lost to faults: {figures}")


def _run(model: Path, size: Size, device: str, seconds: float, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
    for needed in ("rclpy", "sensor_msgs", "diagnostic_msgs"):
        if importlib.util.find_spec(needed) is None:
            raise NotInstalledError(f"ROS 2 is not there ({needed} is missing): the extra 'ros' brings it as wheels")
    given = {
        "model": str(model),
        "cameras": f"[{CAMERA}]",
        "device": device,
        "input_size": f"[{size[0]}, {size[1]}]",
        **parameters,
    }
    arguments = [part for name, value in given.items() for part in ("-p", f"{name}:={value}")]
    with tempfile.TemporaryDirectory(prefix="drive_seg_bench_") as folder:
        outcome = Path(folder) / "outcome.json"
        with Children(_environment(), Path(folder)) as children:
            node = children.start("node", "drive_seg.node.segmentation_node", "--ros-args", *arguments)
            words = ["--camera", CAMERA, "--seconds", str(seconds), "--rate", str(RATE_HZ)]
            words += ["--overload", str(OVERLOAD), "-o", str(outcome)]
            camera = children.start("camera", "drive_seg.bench.camera_process", *words)
            limit = 2 * seconds + MARGIN_S
            children.wait_until(lambda: _has_ended(camera), "the camera's last frame", limit, [node])
            camera.wait(1.0)
            node.finish()
        return json.loads(outcome.read_text())


def _has_ended(child: Child) -> bool:
    if child.returncode is None:
        time.sleep(0.1)
    return child.returncode is not None


def _environment() -> dict[str, str]:
    """This process's environment with large images let through, and apart from other ROS systems nearby."""
    environment = {**os.environ, **large_image_environment(), "PYTHONUNBUFFERED": "1"}
    environment.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return environment
