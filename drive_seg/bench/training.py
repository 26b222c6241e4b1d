"""Whole training steps, from images in memory to updated weights, in the ways that they can run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from drive_seg import networks
from drive_seg.bench.machine import PeakMemory
from drive_seg.bench.rows import Row, size_text
from drive_seg.bench.timing import measure
from drive_seg.checkpoint import InputSpec
from drive_seg.inference.runtimes import host
from drive_seg.training.callbacks import averaging
from drive_seg.training.data import SegmentationData
from drive_seg.training.kernels.dsnet import fuse
from drive_seg.training.kernels.library import keep_freed_memory, ready
from drive_seg.training.losses import WeightedSum
from drive_seg.training.optimization import build_optimizer
from drive_seg.training.recipe import Recipe

PARTS = ("data", "forward", "losses", "backward", "optimiser")
CROP, BATCH = (288, 384), 4
RECIPE = {
    "name": "bench",
    "network": {"name": "dsnet"},
    "data": {
        "train": {"dataset": "synth", "seeds": [0, 2], "frames": 4, "repeat": 4},
        "val": {"dataset": "synth", "seeds": [0, 1], "frames": 1},
        "crop": CROP,
        "input_size": (360, 640),
        "batch_size": BATCH,
    },
    "augmentation": {"scale": (0.6, 1.8), "aspect": 0.1, "photometric": 0.6},
    "losses": {"ohem": 0.5, "weighted_cross_entropy": 0.2, "lovasz": 0.5, "sel": 0.05},
    "optimizer": {"lr": 2e-3, "weight_decay": 1e-2},
    "schedule": {"epochs": 1},
}
"""``config/train/dsnet_camvid11_release.yaml`` on frames that need no data set."""


@dataclass(frozen=True)
class Way:
    """How a step runs: "eager", "compiled" or "kernels", in a precision, by so many threads of the CPU."""

    runtime: str
    precision: str
    threads: int

    @property
    def label(self) -> str:
        return f"{self.runtime} {self.precision} {self.threads}"


def ways(device: str) -> list[Way]:
    """All that a device can, eager fp32 first."""
    cuda = device.startswith("cuda")
    half = "fp16" if cuda else "bf16"
    kinds = [("eager", "fp32"), ("compiled", "fp32")]
    if cuda or host.multiplies_bf16():
        kinds += [("eager", half), ("compiled", half)]
    if not cuda and ready():
        kinds.append(("kernels", half))
    most = torch.get_num_threads()
    counts = (most,) if cuda else sorted({1, most})
    return [Way(runtime, precision, threads) for threads in counts for runtime, precision in kinds]


class Step:
    """A training step of a network and optimiser of its own; a call makes one and adds up where its time went.

    Args:
        way: how.
        data: of :data:`RECIPE`, set up.
        recipe: that recipe.
        device: "cpu", "cuda" or "cuda:N".
    """

    def __init__(self, way: Way, data: SegmentationData, recipe: Recipe, device: str) -> None:
        self.way, self.device = way, torch.device(device)
        torch.manual_seed(0)
        network = networks.build(recipe.network.name, data.targets.label_map.num_classes).train()
        self.network = network.to(self.device, memory_format=torch.channels_last)
        if way.runtime == "kernels":
            fuse(self.network)
        self.average = AveragedModel(self.network, multi_avg_fn=averaging(recipe.ema_decay), use_buffers=True)
        if way.runtime == "compiled":
            self.network.compile()
        self.losses = WeightedSum(recipe.losses, data.targets).to(self.device)
        self.optimiser = build_optimizer(self.network, recipe.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=way.precision == "fp16")
        self.input = InputSpec(recipe.data.input_size, mean=network.mean, std=network.std)
        self.batches = _endless(data)
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def __call__(self) -> None:
        torch.set_num_threads(self.way.threads)
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        times = [self._now()]
        image, label = (part.to(self.device, non_blocking=True) for part in next(self.batches))
        times.append(self._now())
        half = self.way.precision != "fp32"
        with torch.autocast(self.device.type, kinds[self.way.precision] if half else None, enabled=half):
            output = self.network(self.input.normalise(image))
            times.append(self._now())
            loss, _ = self.losses(output, label)
        times.append(self._now())
        self.scaler.scale(loss).backward()
        times.append(self._now())
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad()
        self.average.update_parameters(self.network)
        times.append(self._now())
        for part, begun, done in zip(PARTS, times[:-1], times[1:], strict=True):
            self.seconds[part] += done - begun

    def shares(self) -> dict[str, float]:
        """Of the time since :meth:`forget`, by part; they add up to 1."""
        total = sum(self.seconds.values())
        return {part: seconds / total for part, seconds in self.seconds.items()}

    def forget(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _endless(data: SegmentationData) -> Iterator[tuple[Tensor, Tensor]]:
    loader, epoch = data.train_dataloader(), 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def bench_training(device: str, seconds: float, tell: Callable[[str], None]) -> list[Row]:
    """Time a step in each way, in turn.

    Args:
        device: where.
        seconds: for each way.
        tell: hears what is being done.

    Returns:
        a row for each way; ``ratio_to_eager`` is that to eager fp32 with as many threads. Compilation is not timed.
    """
    if not device.startswith("cuda"):
        keep_freed_memory()  # as training does
    recipe = Recipe.model_validate(RECIPE)
    tell("training: drawing images")
    data = SegmentationData(recipe)
    data.setup("fit")
    threads = torch.get_num_threads()
    steps: dict[str, Step] = {}
    rows = {way.label: _row(way, device) for way in ways(device)}
    try:
        for way in ways(device):
            tell(f"training: preparing {way.label}")
            try:
                steps[way.label] = _prepared(way, data, recipe, device, rows[way.label])
            except Exception as error:  # whatever it is, it costs this way and none of the others
                rows[way.label].fail(error)
        tell(f"training: timing {len(steps)} ways in turn")
        for label, outcome in measure(steps, seconds).items():
            if isinstance(outcome, Exception):
                rows[label].fail(outcome)
            else:
                rows[label].take(outcome)
                _fill_in(rows[label], steps[label])
    finally:
        torch.set_num_threads(threads)
    eager = {row.details["threads"]: row for row in rows.values() if (row.runtime, row.precision) == ("eager", "fp32")}
    for row in rows.values():
        row.compare(eager[row.details["threads"]])
    return list(rows.values())


def _row(way: Way, device: str) -> Row:
    details: dict[str, Any] = {"threads": way.threads}
    return Row("training", "dsnet", way.runtime, way.precision, size_text(CROP), BATCH, details=details)


def _prepared(way: Way, data: SegmentationData, recipe: Recipe, device: str, row: Row) -> Step:
    memory = PeakMemory(device)
    step = Step(way, data, recipe, device)
    step()  # compiles
    memory.reset()
    step()
    row.peak_memory_mib = memory.mib()
    row.parameters = _count(step.network)
    step.forget()
    return step


def _fill_in(row: Row, step: Step) -> None:
    row.details["images_per_second"] = BATCH / (row.median_ms / 1e3)
    row.details["shares"] = step.shares()


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
