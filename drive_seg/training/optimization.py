"""A recipe's optimiser and the course of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from drive_seg.training.recipe import Optimizer, Schedule


def poly_rate(step: int, steps: float, power: float) -> float:
    """(1 - step / steps)^power, 0 after the last step."""
    return max(0.0, 1 - step / steps) ** power


def learning_rate(schedule: Schedule, steps_per_epoch: int) -> Callable[[int], float]:
    """The share of the base learning rate at each optimiser step, counted from 0."""
    steps = schedule.iterations or schedule.epochs * steps_per_epoch
    warmup = schedule.warmup_iterations or schedule.warmup_epochs * steps_per_epoch

    def rate(step: int) -> float:
        rise = min(1.0, (step + 1) / (warmup + 1)) if warmup else 1.0
        if step >= steps:
            return 0.0
        if schedule.kind == "poly":
            return rise * poly_rate(step, steps, schedule.power)
        if schedule.kind == "step":
            return rise * schedule.factor ** (step // (schedule.every * steps_per_epoch))
        return rise

    return rate


def whole_epochs(schedule: Schedule, steps_per_epoch: int) -> int:
    """How many epochs a run has: as given, or as hold the given iterations."""
    return schedule.epochs or math.ceil(schedule.iterations / steps_per_epoch)


def build_optimizer(network: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """The optimiser over :func:`parameter_groups`.

    Raises:
        ValueError: see there.
    """
    groups = parameter_groups(network, settings)
    # One call for all tensors. On a GPU torch does that by itself; Lightning refuses to clip before a fused step under
    # autocast, in bf16 too.
    on_cpu = all(p.is_cpu for group in groups for p in group["params"])
    fused = True if on_cpu and settings.clip_norm is None else None
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=fused)
    if settings.name == "adam":
        return torch.optim.Adam(groups, lr=settings.lr, fused=fused)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=fused)


def parameter_groups(network: nn.Module, settings: Optimizer) -> list[dict[str, Any]]:
    """Parameters by learning rate and weight decay: kernels decay; Batch Norm, biases and other vectors do not.

    Args:
        network: whose ``encoder``, if it has one, is what is not new.
        settings: with ``new_layers`` other than 1, new layers have groups of their own.

    Returns:
        The groups that have any parameters: old kernels, old vectors, new kernels, new vectors.

    Raises:
        ValueError: if ``new_parts`` names something that the network has not, or new layers are asked for but nothing
            says which they are.
    """
    new = _new_names(network, settings) if settings.new_layers != 1 else set()
    groups = [
        {
            "params": [
                p for name, p in network.named_parameters() if (name in new) == is_new and (p.ndim > 1) == kernel
            ],
            "weight_decay": settings.weight_decay if kernel else 0.0,
            "lr": settings.lr * (settings.new_layers if is_new else 1.0),
        }
        for is_new in (False, True)
        for kernel in (True, False)
    ]
    return [group for group in groups if group["params"]]


def _new_names(network: nn.Module, settings: Optimizer) -> set[str]:
    names = [name for name, _ in network.named_parameters()]
    if not settings.new_parts:
        old = [name for name in names if name.startswith("encoder.")]
        if not old:
            raise ValueError(
                f"optimizer.new_layers: {type(network).__name__} has no encoder; say which layers are new (new_parts)"
            )
        return set(names) - set(old)
    new: set[str] = set()
    for part in settings.new_parts:
        found = {name for name in names if name == part or name.startswith(f"{part}.")}
        if not found:
            have = ", ".join(sorted({name.split(".")[0] for name in names}))
            raise ValueError(f"optimizer.new_parts: the network has no '{part}'; its parts are: {have}")
        new |= found
    return new
