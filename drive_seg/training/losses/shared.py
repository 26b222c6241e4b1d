"""One softmax for all losses of a network's main logits: what each pixel's label gets, and how classes overlap.

Two ways of the same values: PyTorch's, and on bfloat16 on a CPU the kernels', which keep no probabilities in memory but
make them again for the gradient.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from drive_seg.labels import VOID
from drive_seg.training.kernels import library
from drive_seg.training.targets import Targets, log_probabilities

Weigh = Callable[[Tensor, Tensor], Tensor]
"""(errors, hits), both float64 [rows, bins] -> the weight of an error, float64 [rows, bins]."""


class Overlap(NamedTuple):
    """Errors counted into bins, for losses on how well whole classes overlap.

    An error is 1 - p of a pixel of the class and p of another. Each class is a row, and so is each group of classes.

    Attributes:
        bins: how many; bin 0 holds the largest errors.
        weigh: what an error of each row and bin weighs in the loss, given how many there are.
    """

    bins: int
    weigh: Weigh


class Rows:
    """Which rows an id of a label is inside of, and by which rows it is judged.

    Where a label is a group of classes, the pixel says nothing of its members one by one; the group is judged like a
    class of its own, to which the pixels of its members belong too.

    Attributes:
        inside, judged: bool [C + G + 1, C + G]; the last id stands for void.
    """

    def __init__(self, targets: Targets) -> None:
        sets = [{i} for i in range(targets.label_map.num_classes)] + [set(group) for group in targets.groups]
        self.inside = torch.tensor([[there <= row for row in sets] for there in sets] + [[False] * len(sets)])
        self.judged = self.inside | torch.tensor(
            [[not there & row for row in sets] for there in sets] + [[False] * len(sets)]
        )


class _Targets(ctypes.Structure):
    """``Targets`` of kernels.cpp."""

    _fields_ = (
        ("classes", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("first", ctypes.c_void_p),
        ("members", ctypes.c_void_p),
        ("inside", ctypes.c_void_p),
        ("judged", ctypes.c_void_p),
    )


class Shared:
    """What losses ask of logits and labels, computed at most once for each pair of them.

    Args:
        targets: of the run.
    """

    def __init__(self, targets: Targets) -> None:
        self.targets, self.rows = targets, Rows(targets)
        sets = [[i] for i in range(targets.label_map.num_classes)] + [list(group) for group in targets.groups]
        first = np.cumsum([0, *map(len, sets)]).astype(np.int32)
        members = np.array([i for row in sets for i in row], np.int32)
        tables = [part.numpy().astype(np.uint8) for part in (self.rows.inside, self.rows.judged)]
        self._kept = (first, members, *tables)  # the structure below points into these
        pointers = [part.ctypes.data for part in self._kept]
        self._structure = _Targets(targets.label_map.num_classes, targets.num_targets, *pointers)

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        """Itself: nothing in it changes, and pointers cannot be copied."""
        return self

    def __call__(self, logits: Tensor, label: Tensor, overlap: Overlap | None = None) -> tuple[Tensor, Tensor | None]:
        """The log probability of each pixel's label, and the loss of an overlap if one is asked for.

        Args:
            logits: [B, C, H, W], any floating type.
            label: uint8 or int64 [B, H, W], targets; 255 = void.
            overlap: what to count.

        Returns:
            float32 [B, H, W], 0 where the label is void; and the sum of all errors times their weights, a float32
            scalar through which no gradient of the weights passes.
        """
        if logits.is_cpu and logits.dtype == torch.bfloat16 and library.ready():
            label = label.to(torch.uint8).contiguous()
            log_p, value = _Softmax.apply(logits, label, self._structure, overlap)
            return log_p, None if overlap is None else value
        return self._by_torch(logits, label, overlap)

    def _by_torch(self, logits: Tensor, label: Tensor, overlap: Overlap | None) -> tuple[Tensor, Tensor | None]:
        target, void = label.long(), label == VOID
        all_p = log_probabilities(logits, self.targets.groups)
        log_p = all_p.gather(1, target.masked_fill(void, 0).unsqueeze(1)).squeeze(1).masked_fill(void, 0)
        if overlap is None:
            return log_p, None
        p = all_p.exp().movedim(1, -1).flatten(0, 2)  # [N, rows]
        target = target.masked_fill(void, len(self.rows.inside) - 1).flatten()
        inside, judged = (part.to(p.device).index_select(0, target) for part in (self.rows.inside, self.rows.judged))
        with torch.no_grad():  # the weights are not learnt: what is left is a sum over errors
            weight = _weights(torch.where(inside, 1 - p, p), inside, judged, overlap)
        return log_p, (weight * torch.where(inside, 1 - p, p)).sum()


def _weights(error: Tensor, inside: Tensor, judged: Tensor, overlap: Overlap) -> Tensor:
    """Each error's weight, float32 like ``error`` [N, rows]; 0 where its row is not judged."""
    rows, bins = error.shape[1], overlap.bins
    offset = bins * torch.arange(rows, dtype=torch.int32, device=error.device)
    # What is not judged goes behind the last bin of the last row.
    place = ((1 - error) * bins).to(torch.int32).clamp_(0, bins - 1).add_(offset).masked_fill_(~judged, rows * bins)
    count, hits = (
        torch.bincount(part, minlength=rows * bins + 1)[:-1].view(rows, bins).double()
        for part in (place.flatten(), place[inside])
    )
    weight = overlap.weigh(count, hits).flatten()
    return torch.cat((weight, weight.new_zeros(1))).float().index_select(0, place.flatten()).view_as(error)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label: Tensor, targets: _Targets, overlap: Overlap | None
    ) -> tuple[Tensor, Tensor]:
        logits = library.channels_last(logits)
        bins = 0 if overlap is None else overlap.bins
        log_p = torch.empty(label.shape)
        count, hits, errors = torch.empty(3, targets.count, bins, dtype=torch.float64)
        arguments = (logits.data_ptr(), label.data_ptr(), label.numel(), ctypes.addressof(targets), bins)
        library.kernels().drive_seg_softmax(
            *arguments, log_p.data_ptr(), count.data_ptr(), hits.data_ptr(), errors.data_ptr()
        )
        weight = count if overlap is None else overlap.weigh(count, hits)
        ctx.save_for_backward(logits, label, weight)
        ctx.targets, ctx.bins = targets, bins
        return log_p, (weight * errors).sum().float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_log_p: Tensor, by_overlap: Tensor) -> tuple[Tensor | None, ...]:
        logits, label, weight = ctx.saved_tensors
        weight, by_log_p = (weight * by_overlap).float(), by_log_p.contiguous()
        grad = torch.empty_like(logits)
        library.kernels().drive_seg_softmax_gradient(
            logits.data_ptr(),
            label.data_ptr(),
            label.numel(),
            ctypes.addressof(ctx.targets),
            ctx.bins,
            by_log_p.data_ptr(),
            weight.data_ptr(),
            grad.data_ptr(),
        )
        return grad, None, None, None
