"""A whole run of ``drive-seg bench``: what is asked, and everything that comes of it as plain data."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drive_seg.bench import machine, roofline
from drive_seg.bench.contenders import Contender, contenders
from drive_seg.bench.frames import IMAGE, bench_frames, bench_segmenter
from drive_seg.bench.networks import bench_networks
from drive_seg.bench.node import bench_node, node_runtimes
from drive_seg.bench.onnx_files import from_file
from drive_seg.bench.rows import Cell, Row, Size, size_text
from drive_seg.bench.subjects import all_subjects
from drive_seg.inference.runtimes.files.onnx_file import is_openvino
from drive_seg.inference.runtimes.pytorch import choose_device

PARTS = ("network", "segmenter", "node", "training")
USUAL_PARTS = PARTS[:3]
SIZES: tuple[Size, ...] = ((360, 640), (720, 1280), (1080, 1920))
"""(height, width), those of DSNet's Table 8."""
BATCHES = (1, 6)
LEAST_SIDE = 64
EAGER_MEANS = (
    "eager is the unfolded network in PyTorch, fp32, NCHW, inference_mode, all threads, in this run: of the same "
    "network where the row has one of the package's, else of the first network"
)


@dataclass(frozen=True)
class Plan:
    """What a run shall measure.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        sizes: (height, width) that the networks see.
        batches: images at once; None for 1 and 6, on the CPU 6 at the smallest size alone.
        parts: some of PARTS.
        wanted: words of the contenders that are asked for; empty for the usual ones.
        onnx: files to time beside them.
        model: checkpoint of the first network, the Segmenter and the node.
        node_runtimes: of the nodes, each with a Segmenter beside it, such as "inductor bf16"; empty for the usual one.
        seconds: for each contender at each size and batch; a node gets twice as much for each of its phases.
    """

    device: str = "cpu"
    sizes: tuple[Size, ...] = SIZES
    batches: tuple[int, ...] | None = None
    parts: tuple[str, ...] = USUAL_PARTS
    wanted: tuple[str, ...] = ()
    onnx: tuple[Path, ...] = ()
    model: str = "dsnet_synth19"
    node_runtimes: tuple[str, ...] = ()
    seconds: float = 1.0

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ValueError(f"what '{', '.join(unknown)}' is not among {', '.join(PARTS)}")
        for size in self.sizes:
            if min(size) < LEAST_SIDE or any(side % 8 for side in size):
                raise ValueError(
                    f"size {size_text(size)} cannot be timed: sides must be multiples of 8, {LEAST_SIDE} or more"
                )
        if not self.sizes:
            raise ValueError("no size was given")
        if self.batches is not None and (not self.batches or min(self.batches) < 1):
            raise ValueError("a batch is 1 image or more")
        if not 0 < self.seconds <= 600:
            raise ValueError(f"seconds must be above 0 and 600 at most, not {self.seconds:g}")
        node_runtimes(self.device, self.node_runtimes)

    def cells(self) -> list[Cell]:
        """Where the networks run."""
        smallest = min(self.sizes, key=lambda size: size[0] * size[1])
        return [
            Cell(size, batch, self.device)
            for size in self.sizes
            for batch in self.batches or BATCHES
            if self.batches or self.device != "cpu" or batch == 1 or size == smallest
        ]

    def image_sizes(self) -> tuple[Size, ...]:
        """Those sizes at which a network can see a 1280x720 image without more pixels than it has, or the first."""
        fitting = tuple(size for size in self.sizes if size[0] * size[1] <= IMAGE[0] * IMAGE[1])
        return fitting or self.sizes[:1]


def run(plan: Plan, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Measure everything of a plan.

    Args:
        plan: what.
        tell: hears what is being done.

    Returns:
        ``rows`` (see :class:`~drive_seg.bench.rows.Row`), ``machine``, ``roofline``, ``eager``, ``seconds`` that it
        took, ``seconds_of`` each part, and ``complete``: whether all that was asked ran.

    Raises:
        CheckpointError: if the model may not be used.
        ValueError: if the device is not there, no contender is called so, or an ONNX file is not there.
    """
    begun = time.monotonic()
    device = choose_device(plan.device)
    known = all_subjects(plan.model)
    chosen = contenders(known, device, plan.wanted)
    files, rows = _open_files(plan.onnx, device)
    about = machine.describe(device)
    tell("measuring the machine's ceilings")
    ceilings = roofline.measure_ceilings(device)
    seconds_of = {}
    for part in (part for part in PARTS if part in plan.parts):
        started = time.monotonic()
        if part == "network":
            rows += bench_networks([*chosen, *files], plan.cells(), plan.seconds, ceilings, tell)
        elif part == "segmenter":
            rows += bench_segmenter(known[0], plan.image_sizes(), device, plan.seconds, tell)
            if device != "cpu":
                rows += bench_frames(known[0], plan.cells(), plan.seconds, tell)
        elif part == "training":
            from drive_seg.bench.training import bench_training  # which pulls in Lightning

            rows += bench_training(device, plan.seconds, tell)
        else:
            for runtime, precision in node_runtimes(device, plan.node_runtimes):
                size = plan.image_sizes()[0]
                rows += bench_node(known[0], size, device, 2 * plan.seconds, tell, runtime, precision)
        seconds_of[part] = time.monotonic() - started
    _compare_nodes(rows)
    return {
        "machine": {**about, "at_the_end": machine.state(device)},
        "roofline": ceilings,
        "eager": EAGER_MEANS,
        "seconds": time.monotonic() - begun,
        "seconds_of": seconds_of,
        "complete": not any(row.counts_as_failure for row in rows),
        "rows": [row.to_dict() for row in rows],
    }


def _open_files(paths: Sequence[Path], device: str) -> tuple[list[Contender], list[Row]]:
    """The contenders of users' files, and rows for those that cannot run at all."""
    files, rows = [], []
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: there is no such file")
        try:
            files += from_file(path, device)
        except (ValueError, ImportError) as error:
            runtime = "openvino" if is_openvino(path) else "onnxruntime"
            rows.append(Row("network", path.stem, runtime, "", "", 0, asked=True))
            rows[-1].fail(error)
    return files, rows


def _compare_nodes(rows: list[Row]) -> None:
    """A node's process runs by itself, so it is compared with the eager network of before, where that was timed."""
    eager = {(row.size, row.batch): row for row in reversed(rows) if row.runtime == "torch eager"}
    for row in rows:
        if row.part == "node":
            row.compare(eager.get((row.size, row.batch)))
