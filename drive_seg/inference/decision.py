"""From logits to what is published: class ids, how sure the network is of them, and both at the camera's size."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drive_seg.inference.runtimes import Size
from drive_seg.labels import VOID

SPARSE = 8
"""Whole frames are judged by each so many-th row of the network's output."""
_BLOCK = 1 << 15
"""Pixels that are decided at once on a CPU: with what is computed of them, they stay in its caches."""


def decide(logits: Tensor, confidence: bool, temperature: float = 1.0) -> tuple[Tensor, Tensor | None]:
    """The class of each pixel, and how sure the network is of it.

    Args:
        logits: [B, C, h, w] of any floating-point type, up to 256 classes, in any memory order.
        confidence: whether that is asked for; the ids are the same either way.
        temperature: what logits are divided by for the confidence (Guo et al., ICML 2017, eq. 9).

    Returns:
        ids uint8 [B, h, w], the first of equals, compared in float32; 255, which is no class, where a value is not a
        number (NaN) or the largest is infinite. And 255 x softmax maximum uint8 [B, h, w], or None: 0 there.
    """
    if logits.device.type != "cpu":
        return _decide_at_once(logits, confidence, temperature)
    if not confidence and logits.stride(1) == 1 and logits.dtype != torch.float64:
        # all classes of a pixel lie side by side, as PyTorch's own reduction takes them best
        return _best(logits), None
    batch, _, height, width = logits.shape
    ids = torch.empty(batch, height, width, dtype=torch.uint8)
    sureness = torch.empty_like(ids) if confidence else None
    rows = max(1, _BLOCK // width)
    for image in range(batch):
        for top in range(0, height, rows):
            part = image, slice(top, top + rows)
            planes = _planes(logits[image, :, top : top + rows])
            largest = _decide_block(planes, ids[part].view(-1))
            if sureness is not None:
                _confidence(planes, largest, sureness[part].view(-1), temperature)
    return ids, sureness


def to_size(plane: Tensor, size: Size) -> Tensor:
    """[h, w] -> [H, W] by nearest neighbour."""
    if plane.shape == size:
        return plane
    if plane.device.type == "cpu":
        # columns first: rows are then copied as they are. Half the time of PyTorch's own
        wide = plane.numpy().take(_nearest(plane.shape[1], size[1]), axis=1)
        return torch.from_numpy(wide.take(_nearest(plane.shape[0], size[0]), axis=0))
    return F.interpolate(plane[None, None], size, mode="nearest-exact")[0, 0]


def _decide_at_once(logits: Tensor, confidence: bool, temperature: float = 1.0) -> tuple[Tensor, Tensor | None]:
    """By whole reductions, whose shapes no value decides: what a CUDA graph can hold."""
    if not confidence:
        return _best(logits), None
    logits = logits.float()
    largest, ids = logits.max(1)
    # softmax maximum = 1 / sum exp((logit - largest) / temperature)
    total = (logits - largest.unsqueeze(1)).mul(1 / temperature).exp().sum(1)
    ids = ids.masked_fill(~largest.isfinite(), VOID)
    return ids.to(torch.uint8), (255.0 / total).nan_to_num(0.0).round().to(torch.uint8)


def _best(logits: Tensor) -> Tensor:
    """Ids of [B, C, h, w] by one reduction."""
    largest, ids = logits.max(1)
    return ids.masked_fill_(~largest.isfinite(), VOID).to(torch.uint8)


def _planes(part: Tensor) -> Tensor:
    """[C, h, w] in any memory order -> float32 [C, h * w], each class a plane of its own."""
    if part.stride(0) != 1:
        return part.reshape(len(part), -1).float()
    pixels = part.permute(1, 2, 0).reshape(-1, len(part)).float()
    return torch.from_numpy(cv2.transpose(pixels.numpy()))  # torch's own takes three times as long


def _decide_block(planes: Tensor, ids: Tensor) -> Tensor:
    """Write the ids uint8 [N] of float32 [C, N], and give the largest value of each pixel, float32 [N].

    Class by class over vectors of pixels: torch.max takes the pixels one by one. NumPy does these steps on one core
    about as fast as PyTorch on two, which first have to be woken for each.
    """
    values, chosen = planes.numpy(), ids.numpy()
    largest = values[0].copy()
    larger = np.empty(chosen.shape, bool)
    candidate = larger.view(np.uint8)
    chosen.fill(0)
    with np.errstate(invalid="ignore"):
        for number in range(1, len(values)):
            np.greater(values[number], largest, out=larger)
            np.maximum(largest, values[number], out=largest)
            # numbers only rise, so the highest that was larger than all before it is the one
            np.multiply(candidate, np.uint8(number), out=candidate)
            np.maximum(chosen, candidate, out=chosen)
    finite = np.isfinite(largest)  # NumPy's maximum hands on what is not a number
    if not finite.all():
        chosen[~finite] = VOID
    return torch.from_numpy(largest)


def _confidence(planes: Tensor, largest: Tensor, sureness: Tensor, temperature: float) -> None:
    """Write 255 x softmax maximum uint8 [N] = 255 / sum exp((logit - largest) / temperature) of float32 [C, N]."""
    values, top, factor = planes.numpy(), largest.numpy(), np.float32(1 / temperature)
    total, term = np.zeros_like(top), np.empty_like(top)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        for plane in values:
            np.subtract(plane, top, out=term)
            if factor != 1:
                np.multiply(term, factor, out=term)
            np.exp(term, out=term)
            np.add(total, term, out=total)
        np.divide(np.float32(255.0), total, out=total)
    total[np.isnan(total)] = 0.0
    sureness.numpy()[:] = np.rint(total, out=total)


@lru_cache(maxsize=64)
def _nearest(length: int, wanted: int) -> np.ndarray:
    """Where along a side of that length each of the wanted pixels is taken from, as PyTorch places them."""
    places = torch.arange(length, dtype=torch.float32).view(1, 1, length)
    return F.interpolate(places, wanted, mode="nearest-exact").view(-1).numpy().astype(np.intp)
