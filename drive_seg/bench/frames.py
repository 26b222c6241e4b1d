"""The Segmenter end to end: from BGR images in memory to labels, or label and colour, at their size."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch

from drive_seg.bench import checks
from drive_seg.bench.machine import PeakMemory
from drive_seg.bench.rows import Cell, Row, Size, size_text
from drive_seg.bench.subjects import Subject, batch_of, image
from drive_seg.bench.timing import Clock, measure, percentile
from drive_seg.bench.ways import EAGER, Way, ways
from drive_seg.inference.runtimes import Runtime
from drive_seg.inference.runtimes.pytorch import TorchRuntime, choose_precision
from drive_seg.segmenter import Pending, Segmenter

IMAGE = (720, 1280)
OUTPUTS = ("label", "label + colour")
FRAME, STREAM = "frame", "frames, overlapped"
FRAME_WAYS = ((FRAME, "torch, graph", True), (FRAME, "torch, plain", False), (STREAM, "torch, graph", True))
"""Name and runtime of the rows of :func:`bench_frames`, and whether with CUDA graphs."""
STREAMED = 32
"""Batches of which an overlapped one's time is the mean."""
_EAGER_CALL = "eager"


def bench_segmenter(
    subject: Subject,
    sizes: Sequence[Size],
    device: str,
    seconds: float,
    tell: Callable[[str], None] = lambda text: None,
    clock: Clock = time.perf_counter,
) -> list[Row]:
    """Time a Segmenter in each runtime, for label alone and with the colour image; stages are in the details.

    What a Segmenter takes beside its network is the rest of the same calls. Where its runtime decides on classes while
    it computes, it is what the call takes more than the network that gives logits, in turn with it. Where it is a CUDA
    graph, the stage "network" is all of the graph, so what is beside it is the copying alone.

    Args:
        subject: a network with its checkpoint.
        sizes: (height, width) that the network sees; the image is always 1280x720.
        device: "cpu" or "cuda...".
        seconds: for each row.
        tell: hears what is being done.
        clock: gives seconds.
    """
    picture, smallest = image(IMAGE), min(sizes, key=lambda size: size[0] * size[1])
    rows = []
    for size in sizes:
        # What is compiled for each size first takes part at the smallest, as among the networks.
        chosen = [way for way in ways(device) if not way.slow_to_open and (size == smallest or not way.first_only)]
        rows += _bench_size(subject, size, device, chosen, seconds, picture, tell, clock)
    return rows


def _bench_size(
    subject: Subject,
    size: Size,
    device: str,
    chosen: Sequence[Way],
    seconds: float,
    picture: np.ndarray,
    tell: Callable[[str], None],
    clock: Clock,
) -> list[Row]:
    where = f"Segmenter at {size_text(size)}"
    network = subject.build().to(device)
    exact = TorchRuntime(subject.build(), device, "fp32", fold=False)
    reference = Segmenter(exact, subject.checkpoint.contract, input_size=size, graphs=False)
    wanted = reference(picture).label
    seen = reference.network_size(*IMAGE)
    batch = batch_of(1, seen, device)
    calls: dict[str, Callable[[], object]] = {_EAGER_CALL: lambda: _eager(network, batch, device)}
    rows: dict[str, Row] = {}
    kept: dict[str, list[dict[str, float]]] = {}
    alone: dict[str, str] = {}
    for way in chosen:
        tell(f"{where}: opening {way.runtime} {way.precision}")
        opened = [Row("segmenter", output, way.runtime, way.precision, size_text(size), 1) for output in OUTPUTS]
        for row in opened:
            rows[_label(row)] = row
        try:
            memory = PeakMemory(device)
            with torch.no_grad():
                runtime = way.open(subject, Cell(seen, 1, device))
            segmenter = Segmenter(runtime, subject.checkpoint.contract, input_size=size)
            memory.reset()
            agreement = check_label(segmenter(picture).label, wanted, subject.classes, way.precision)
        except Exception as error:  # whatever it is, it costs these rows and none of the others
            for row in opened:
                row.fail(error)
            continue
        for row in opened:
            row.agreement, row.peak_memory_mib, row.parameters = agreement, memory.mib(), subject.parameters
            row.details["image"] = size_text(IMAGE)
            stages = kept[_label(row)] = []
            calls[_label(row)] = _call(segmenter, picture, row.name == OUTPUTS[1], stages)
            if runtime.decides:
                alone[_label(row)] = network_alone = f"{way.runtime} {way.precision} alone"
                calls[network_alone] = _network_alone(runtime, segmenter.prepare(picture, seen))
    tell(f"{where}: timing {len(calls)} in turn")
    outcomes = measure(calls, seconds, clock)
    beside = _beside(outcomes.pop(_EAGER_CALL), subject, size, 1)
    for label in kept:
        row, outcome, network = rows[label], outcomes[label], outcomes.get(alone.get(label, ""))
        if isinstance(network, Exception):
            row.fail(network)
        elif _take(row, outcome, beside):
            row.details |= stage_figures(kept[label][-len(outcome) :], outcome, network)
    return list(rows.values())


def bench_frames(
    subject: Subject,
    cells: Sequence[Cell],
    seconds: float,
    tell: Callable[[str], None] = lambda text: None,
    clock: Clock = time.perf_counter,
) -> list[Row]:
    """Time the frame path of a GPU with a CUDA graph, without one, and with one while successive frames overlap.

    Images and network have the size of the cell. A time is that of a batch, from the images to all their labels; of
    overlapped ones it is the time from one batch to the next. Precision is the usual one, fp16 on CUDA.

    Args:
        subject: a network with its checkpoint.
        cells: sizes, batches and the device.
        seconds: for each row.
        tell: hears what is being done.
        clock: gives seconds.
    """
    return [row for cell in cells for row in _bench_frames_at(subject, cell, seconds, tell, clock)]


def _bench_frames_at(
    subject: Subject, cell: Cell, seconds: float, tell: Callable[[str], None], clock: Clock
) -> list[Row]:
    tell(f"frames at {size_text(cell.size)}, batch {cell.batch}")
    images = [image(cell.size, number) for number in range(cell.batch)]
    contract = subject.checkpoint.contract
    exact = TorchRuntime(subject.build(), cell.device, "fp32", fold=False)
    reference = Segmenter(exact, contract, input_size=cell.size, graphs=False)
    wanted = [reference(picture).label for picture in images]
    network, batch = subject.build().to(cell.device), batch_of(cell.batch, cell.size, cell.device)
    calls: dict[str, Callable[[], object]] = {_EAGER_CALL: lambda: _eager(network, batch, cell.device)}
    rows: dict[str, Row] = {}
    held: dict[str, tuple[Segmenter, bool]] = {}
    precision = choose_precision("auto", cell.device)
    for name, runtime, graphs in FRAME_WAYS:
        row = Row("frames", name, runtime, precision, size_text(cell.size), cell.batch, parameters=subject.parameters)
        rows[_label(row)] = row
        try:
            memory = PeakMemory(cell.device)
            executor = TorchRuntime(subject.build(), cell.device, precision)
            segmenter = Segmenter(executor, contract, input_size=cell.size, graphs=graphs, tell=tell)
            found = segmenter(images)
            _need_graphs(segmenter, graphs)
            memory.reset()
            row.agreement = min(
                check_label(segmentation.label, label, subject.classes, precision)
                for segmentation, label in zip(found, wanted, strict=True)
            )
            row.peak_memory_mib = memory.mib()
        except Exception as error:  # whatever it is, it costs this row and none of the others
            row.fail(error)
            continue
        held[_label(row)] = segmenter, graphs
        calls[_label(row)] = _stream(segmenter, images) if name == STREAM else _frame(segmenter, images)
    outcomes = measure(calls, seconds, clock)
    beside = _beside(outcomes.pop(_EAGER_CALL), subject, cell.size, cell.batch)
    for label, outcome in outcomes.items():
        row = rows[label]
        try:
            _need_graphs(*held[label])
        except ValueError as error:
            outcome = error
        if _take(row, outcome, beside, STREAMED if row.name == STREAM else 1):
            row.details["frames_per_second"] = 1e3 * cell.batch / row.median_ms
    return list(rows.values())


def _need_graphs(segmenter: Segmenter, wanted: bool) -> None:
    """ValueError if frames were to go through a CUDA graph and did not."""
    if wanted and not segmenter.graphs:
        raise ValueError(f"frames went without a CUDA graph: {segmenter.describe_graphs()}")


def _beside(eager: list[float] | Exception, subject: Subject, size: Size, batch: int) -> Row:
    """The eager network that ran in turn with the others; raises what it raised."""
    if isinstance(eager, Exception):
        raise eager
    row = Row("network", subject.name, EAGER, "fp32", size_text(size), batch)
    row.take(eager)
    return row


def _take(row: Row, outcome: list[float] | Exception, beside: Row, batches: int = 1) -> bool:
    """Fill in seconds, each of so many batches, or the failure; False if it is one."""
    if isinstance(outcome, Exception):
        row.fail(outcome)
        return False
    row.take([seconds / batches for seconds in outcome])
    row.compare(beside)
    return True


def _network_alone(runtime: Runtime, batch: torch.Tensor) -> Callable[[], object]:
    @torch.inference_mode()
    def call() -> None:
        runtime(batch)

    return call


def _frame(segmenter: Segmenter, images: list[np.ndarray]) -> Callable[[], object]:
    return lambda: segmenter(images)


def _stream(segmenter: Segmenter, images: list[np.ndarray]) -> Callable[[], object]:
    """Batches one after the other, two on their way at any time."""

    def call() -> None:
        waiting: deque[Pending] = deque()
        for _ in range(STREAMED):
            if len(waiting) == 2:
                waiting.popleft().result()
            waiting.append(segmenter.submit(images))
        for pending in waiting:
            pending.result()

    return call


def check_label(label: np.ndarray, wanted: np.ndarray, classes: int, precision: str = "fp32") -> float:
    """The share of pixels where a label image equals the wanted one.

    Raises:
        WrongOutputError: if it is no uint8 [H, W] of ids below ``classes``, or the share is below that for the
            precision.
    """
    if label.dtype != np.uint8 or label.shape != wanted.shape:
        raise checks.WrongOutputError(f"its label is {label.dtype} {list(label.shape)}, not uint8 {list(wanted.shape)}")
    if label.max() >= classes:
        raise checks.WrongOutputError(f"its label holds the id {label.max()}, and there are {classes} classes")
    share = float((label == wanted).mean())
    if share < checks.AGREEMENT[precision]:
        raise checks.WrongOutputError(f"its label equals eager's on {share:.2%} of the pixels")
    return share


def stage_figures(
    stages: Sequence[dict[str, float]],
    totals: Sequence[float],
    network_alone: Sequence[float] | None = None,
) -> dict[str, object]:
    """Median of each stage in ms, and of what a run takes beside the network.

    Args:
        stages: of each run, seconds by stage.
        totals: seconds of the same runs.
        network_alone: seconds of runs of the network alone, if that is not the stage "network".
    """
    names = list(dict.fromkeys(name for run in stages for name in run))
    if network_alone is None:
        beside = percentile([total - run["network"] for total, run in zip(totals, stages, strict=True)], 50)
    else:
        beside = percentile(totals, 50) - percentile(network_alone, 50)
    return {
        "stages_ms": {name: 1e3 * percentile([run[name] for run in stages], 50) for name in names},
        "beside_the_network_ms": 1e3 * beside,
    }


def _call(
    segmenter: Segmenter, picture: np.ndarray, colour: bool, kept: list[dict[str, float]]
) -> Callable[[], object]:
    def call() -> object:
        stages: dict[str, float] = {}
        label = segmenter(picture, stages=stages).label
        if colour:
            started = time.perf_counter()
            segmenter.label_map.colorize(label)
            stages["colour"] = time.perf_counter() - started
        kept.append(stages)
        return label

    return call


@torch.inference_mode()
def _eager(network: torch.nn.Module, batch: torch.Tensor, device: str) -> None:
    network(batch)
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _label(row: Row) -> str:
    return f"{row.name} {row.runtime} {row.precision}"
