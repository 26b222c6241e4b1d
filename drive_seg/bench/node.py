"""The node end to end over DDS: a node process, and one with its cameras, its listeners and a Segmenter beside it.

Both are processes of their own (:mod:`drive_seg.bench.camera_process` says what they do), with the package's Fast DDS
profile. A runtime that has to be prepared is prepared in a cache of the benchmark's own, so the user's is neither used
nor touched.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drive_seg.bench.frames import IMAGE
from drive_seg.bench.rows import NotInstalledError, Row, Size, size_text
from drive_seg.bench.subjects import Subject
from drive_seg.bench.timing import percentile
from drive_seg.bench.ways import calibration_frames, check_ready, graph_of
from drive_seg.evaluation.processes import Child, Children, ros_arguments, ros_environment
from drive_seg.evaluation.records import FATES
from drive_seg.inference.runtimes import cache, registry
from drive_seg.inference.runtimes.entry import RuntimeEntry
from drive_seg.inference.runtimes.prepared import GraphEntry
from drive_seg.segmenter import network_size

CAMERAS = ("camera", *(f"camera_{number}" for number in range(2, 7)))
OVERLOAD = 3.0
MARGIN_S = 180.0
USUAL_HZ = 30.0
ROWS = {
    "Segmenter": 1,
    "node, 1 camera": 1,
    f"node, {len(CAMERAS)} cameras": len(CAMERAS),
    "node": 1,
    "node, overload": 1,
}
"""Names and images at once; the rates come to the names when they are known."""


def node_runtimes(device: str, wanted: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """(runtime, precision) of the nodes that are timed.

    Args:
        device: "cpu" or "cuda...".
        wanted: such as "inductor bf16"; the precision is "auto" if left out. If empty: the fastest exact one of what is
            installed, by the rule of the node's ``runtime: auto``, as if it were prepared.

    Raises:
        ValueError: if one is no runtime and precision.
    """
    if wanted:
        return [_runtime_and_precision(words) for words in wanted]
    if device != "cpu":
        return [("torch", "auto")]
    return [(next((entry.name for entry in registry.fastest_first() if _can_prepare(entry)), "torch"), "fp32")]


def bench_node(
    subject: Subject,
    size: Size,
    device: str,
    seconds: float,
    tell: Callable[[str], None] = lambda text: None,
    runtime: str = "torch",
    precision: str = "auto",
) -> list[Row]:
    """Five rows; median_ms is from an image's stamp to its received label mask, with six cameras to the last of six.

    Args:
        subject: a network with its checkpoint.
        size: (height, width) that the network sees.
        device: of the node.
        seconds: of each phase.
        tell: hears what is being done.
        runtime, precision: of the node, and of the Segmenter beside it.
    """
    rows = [Row("node", name, runtime, precision, size_text(size), images) for name, images in ROWS.items()]
    try:
        with tempfile.TemporaryDirectory(prefix="drive_seg_bench_") as folder:
            tell(f"node: preparing {runtime} {precision}")
            _check_ros()
            _prepare(subject, size, runtime, precision, device, Path(folder))
            tell(f"node: {runtime} {precision}, {len(CAMERAS)} cameras")
            outcome = _run(subject.checkpoint.path, size, device, seconds, runtime, precision, Path(folder))
        fill_in(rows, outcome)
    except Exception as error:  # a child's words, ROS that is not there: no reason to lose the other parts
        for row in rows:
            row.fail(error)
    return rows


def fill_in(rows: list[Row], outcome: Mapping[str, Any]) -> None:
    """Take over what the camera process measured, if its figures and the node's add up.

    Args:
        rows: those of ROWS.
        outcome: ``runtime``, ``precision``, ``agreement`` with eager, and the phases. Each has ``sent``, ``masks``,
            ``node`` (its counters), ``lost_by_middleware_so_far`` and ``stages_ms``; ``turns`` has ``cameras`` and, in
            seconds, ``segmenter_s``, ``one_s``, ``processing_s``, ``all_s``; ``steady`` and ``overload`` have
            ``latencies_s``, ``asked_hz``, ``sent_hz`` and ``manages_hz``.

    Raises:
        ValueError: if they do not add up, or no mask came.
    """
    segmenter, one, every, steady, overload = rows
    turns = outcome["turns"]
    for row in rows:
        row.runtime, row.precision, row.agreement = outcome["runtime"], outcome["precision"], outcome["agreement"]
        row.details["image"] = f"{size_text(IMAGE)} bgr8"
    for row, phase in ((one, turns), (every, turns), (steady, outcome["steady"]), (overload, outcome["overload"])):
        _account(row, phase)
    for row, seconds in ((segmenter, turns["segmenter_s"]), (one, turns["one_s"]), (every, turns["all_s"])):
        row.take(seconds)
        row.details["p99_ms"] = 1e3 * percentile(seconds, 99)
    one.details["processing_ms"] = 1e3 * percentile(turns["processing_s"], 50)
    one.details["over_segmenter_ms"] = one.median_ms - segmenter.median_ms
    one.details["processing_over_segmenter_ms"] = one.details["processing_ms"] - segmenter.median_ms
    every.details["per_camera_ms"] = every.median_ms / turns["cameras"]
    every.details["over_segmenter_ms"] = every.details["per_camera_ms"] - segmenter.median_ms
    every.details["per_camera_of_one"] = every.details["per_camera_ms"] / one.median_ms
    for row, phase in ((steady, outcome["steady"]), (overload, outcome["overload"])):
        latencies = phase["latencies_s"]
        row.take(latencies)
        row.details |= {key: phase[key] for key in ("asked_hz", "sent_hz", "manages_hz")}
        row.details |= {"p99_ms": 1e3 * percentile(latencies, 99), "max_ms": 1e3 * max(latencies)}
        row.details["p99_of_p50"] = row.details["p99_ms"] / row.median_ms
    steady.name = f"node, {steady.details['asked_hz']:.3g} Hz"
    steady.details["usual_rate"] = steady.details["asked_hz"] >= USUAL_HZ
    overload.details["times_what_it_manages"] = overload.details["sent_hz"] / overload.details["manages_hz"]
    overload.name = f"node, {overload.details['times_what_it_manages']:.1f} x overload"


def check_counters(sent: int, masks: int, node: Mapping[str, int]) -> None:
    """The node's counters must account for each frame, and agree with what was sent and received here.

    Raises:
        ValueError: if they do not; the message says where.
    """
    ended = sum(node[end] for end in FATES)
    figures = ", ".join(f"{node[end]} {end}" for end in FATES if node[end])
    if node["received"] != ended + node["in_flight"] or node["in_flight"]:
        raise ValueError(f"of {node['received']} received frames only {ended} ended ({figures})")
    if node["received"] > sent:
        raise ValueError(f"the node counts {node['received']} frames, but {sent} were sent")
    if node["published"] != masks:
        raise ValueError(f"the node published {node['published']} masks, but {masks} came")
    if node["failed"] or node["rejected"] or node["expired"]:
        raise ValueError(f"frames were lost to faults: {figures}")


def _account(row: Row, phase: Mapping[str, Any]) -> None:
    if not phase["masks"]:
        raise ValueError(f"of {phase['sent']} images none came back as a mask")
    check_counters(phase["sent"], phase["masks"], phase["node"])
    row.details |= {key: phase[key] for key in ("sent", "masks", "node", "stages_ms", "lost_by_middleware_so_far")}


def _runtime_and_precision(words: str) -> tuple[str, str]:
    runtime, _, precision = " ".join(words.split()).partition(" ")
    able, precisions = [entry.name for entry in registry.for_checkpoints()], registry.precisions()[1:]
    if runtime not in able or precision not in ("", *precisions):
        raise ValueError(
            f"node runtime '{words}' is not one of {', '.join(able)}, with or without a precision behind it: "
            f"{', '.join(precisions)}"
        )
    return runtime, precision or "auto"


def _can_prepare(entry: RuntimeEntry) -> bool:
    try:
        check_ready(entry, "fp32", "cpu")
    except (NotInstalledError, ValueError):
        return False
    return True


def _check_ros() -> None:
    for needed in ("rclpy", "sensor_msgs", "diagnostic_msgs"):
        if importlib.util.find_spec(needed) is None:
            raise NotInstalledError(f"ROS 2 is not there ({needed} is missing): the extra 'ros' brings it as wheels")


def _prepare(subject: Subject, size: Size, runtime: str, precision: str, device: str, folder: Path) -> None:
    """Put what the runtime needs into a cache in the folder, where the node finds it."""
    entry = registry.get(runtime)
    if not entry.preparation:
        return
    precision = {"auto": "fp16" if device.startswith("cuda") else "fp32"}.get(precision, precision)
    check_ready(entry, precision, device)
    if not isinstance(entry, GraphEntry):
        with _cache_in(folder):
            frames = calibration_frames() if precision == "int8" else ()
            entry.prepare(subject.checkpoint, size, precision, device, frames)
        return
    for seen in {network_size(size, *size), network_size(size, *IMAGE)}:
        graph = graph_of(subject, seen, entry, precision, device)
        with _cache_in(folder):
            cache.write(entry.form(precision, device), subject.checkpoint.sha256, seen, graph)


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    try:
        yield
    finally:
        del os.environ["XDG_CACHE_HOME"]
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def _run(
    model: Path, size: Size, device: str, seconds: float, runtime: str, precision: str, folder: Path
) -> dict[str, Any]:
    parameters = {
        "model": str(model),
        "cameras": CAMERAS,
        "device": device,
        "runtime": runtime,
        "precision": precision,
        "input_size": size,
    }
    outcome = folder / "outcome.json"
    words = ["--cameras", ",".join(CAMERAS), "--model", str(model), "--device", device, "--runtime", runtime]
    words += ["--precision", precision, "--input-size", str(size[0]), str(size[1])]
    words += ["--seconds", str(seconds), "--overload", str(OVERLOAD), "-o", str(outcome)]
    with Children({**ros_environment(), "XDG_CACHE_HOME": str(folder)}, folder) as children:
        node = children.start("node", "drive_seg.node.segmentation_node", *ros_arguments(parameters))
        camera = children.start("camera", "drive_seg.bench.camera_process", *words)
        children.wait_until(lambda: _has_ended(camera), "the camera's last frame", 12 * seconds + MARGIN_S, [node])
        camera.wait(1.0)
        node.finish()
    return json.loads(outcome.read_text())


def _has_ended(child: Child) -> bool:
    if child.returncode is None:
        time.sleep(0.1)
    return child.returncode is not None
