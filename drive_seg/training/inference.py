"""How evaluation labels an image: as on the vehicle, or with more effort (several scales, flip, sliding window)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drive_seg.segmenter import MULTIPLE, Segmenter, Size


@dataclass(frozen=True)
class Inference:
    """What is averaged into an image's probabilities.

    Attributes:
        scales: factors of the size in which the network sees the image by itself (its sides are then rounded to
            multiples of 8).
        flip: each scale also mirrored.
        window: (height, width) of windows that slide over the scaled image, in the network's pixels; None shows the
            network the whole image. A smaller image is padded with the mean colour to the right and below.
        stride: step from one window to the next in parts of the window, rounded up to whole pixels. The last window
            of a row or column ends with the image.

    Raises:
        ValueError: if a value makes no sense.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: Size | None = None
    stride: float = 2 / 3

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"scales {list(self.scales)} are not one or more numbers above 0")
        if self.window is not None and (min(self.window) < MULTIPLE or any(side % MULTIPLE for side in self.window)):
            raise ValueError(f"window {tuple(self.window)} is not (height, width) in multiples of {MULTIPLE} pixels")
        if not 0 < self.stride <= 1:
            raise ValueError(f"stride {self.stride} is not above 0 and at most 1")

    @property
    def as_on_the_vehicle(self) -> bool:
        return self == Inference(stride=self.stride)

    def for_size(self, fixed: Size | None) -> Inference:
        """The same for a model whose file fixes the (height, width) of its input: windows of that size.

        Raises:
            ValueError: if a scale is below 1, where the image would not fill the input, or another window is set.
        """
        if fixed is None or (self.scales == (1.0,) and self.window is None):
            return self
        if min(self.scales) < 1 or self.window not in (None, fixed):
            raise ValueError(
                f"the model's file fixes its input to {fixed[1]}x{fixed[0]}: scales are 1 or more then, and windows "
                "of that size"
            )
        return replace(self, window=fixed)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``stride`` only with a window."""
        data: dict[str, Any] = {"scales": list(self.scales), "flip": self.flip}
        if self.window is not None:
            data |= {"window": list(self.window), "stride": self.stride}
        return data


class Labeller:
    """``labeller(image)`` is the label uint8 [H, W] of an image uint8 BGR [H, W, 3].

    With nothing to average it is the Segmenter's own, pixel for pixel. Otherwise the softmax probabilities are averaged
    in float32 over windows where these overlap, brought to the image's size (bilinear), averaged over scales and
    mirror images, and the most probable class is taken.

    Args:
        segmenter: whose network, input size and normalisation are used.
        inference: what to average.

    Raises:
        ValueError: if there is something to average, and the model gives no probabilities, or fixes its input's size
            to one that does not fit.
    """

    def __init__(self, segmenter: Segmenter, inference: Inference) -> None:
        self._segmenter, self._inference = segmenter, inference
        if inference.as_on_the_vehicle:
            return
        if not segmenter.gives_logits:
            raise ValueError("the model gives class ids, or a sigmoid, and no probabilities to average over")
        self._inference = inference.for_size(segmenter.fixed_size)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if self._inference.as_on_the_vehicle:
            return self._segmenter(image).label
        return self.probabilities(image).argmax(0).to(torch.uint8).cpu().numpy()

    @torch.inference_mode()
    def probabilities(self, image: np.ndarray) -> Tensor:
        """The averaged probabilities, float32 [C, H, W], of an image uint8 BGR [H, W, 3]."""
        segmenter, size = self._segmenter, self._segmenter.network_size(*image.shape[:2])

        def prepare(seen: Size) -> Tensor:
            return segmenter.prepare(image, seen)

        return averaged(segmenter._network, prepare, size, image.shape[:2], self._inference, segmenter.multiple)[0]


def averaged(
    network: Callable[[Tensor], Tensor],
    prepare: Callable[[Size], Tensor],
    size: Size,
    wanted: Size,
    inference: Inference,
    multiple: int = MULTIPLE,
) -> Tensor:
    """Probabilities of a batch of images, averaged over scales, mirror images and windows.

    Args:
        network: [B, 3, h, w] -> logits [B, C, h, w].
        prepare: the images as the network sees them in a (height, width), [B, 3, h, w].
        size: (height, width) in which the network sees them at a scale of 1.
        wanted: (H, W) of the result.
        inference: what is averaged.
        multiple: of which the sides of other scales are.

    Returns:
        float32 [B, C, H, W].
    """
    total: Tensor | float = 0.0
    for scale in inference.scales:
        pixels = prepare(size if scale == 1 else _scaled(size, scale, multiple))
        for flipped in (False, True) if inference.flip else (False,):
            seen = _seen(network, pixels.flip(-1), inference).flip(-1) if flipped else _seen(network, pixels, inference)
            total = total + _to_size(seen, wanted)
    return total / (len(inference.scales) * (1 + inference.flip))


def _seen(network: Callable[[Tensor], Tensor], pixels: Tensor, inference: Inference) -> Tensor:
    """Probabilities of prepared images, whole or window by window: [B, 3, h, w] -> float32 [B, C, h, w]."""
    window = inference.window
    if window is None:
        return _softmax(network, pixels)
    height, width = pixels.shape[-2:]
    # 0 is the mean colour in what the network sees
    padded = F.pad(pixels, (0, max(0, window[1] - width), 0, max(0, window[0] - height)))
    total: Tensor | None = None
    times = torch.zeros(padded.shape[-2:], device=pixels.device)
    for top in _starts(padded.shape[-2], window[0], inference.stride):
        for left in _starts(padded.shape[-1], window[1], inference.stride):
            here = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            p = _softmax(network, padded[here])
            total = p.new_zeros((*p.shape[:2], *padded.shape[-2:])) if total is None else total
            total[here] += p
            times[here] += 1
    return (total / times)[..., :height, :width]


def _softmax(network: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    return network(pixels.contiguous(memory_format=torch.channels_last)).float().softmax(1)


def _scaled(size: Size, scale: float, multiple: int) -> Size:
    """The size times the scale, in multiples."""
    height, width = (max(multiple, round(side * scale / multiple) * multiple) for side in size)
    return height, width


def _starts(length: int, window: int, stride: float) -> list[int]:
    """Where windows begin along one side; the last one ends with it."""
    step = math.ceil(window * stride)
    return [*range(0, length - window, step), length - window]


def _to_size(probabilities: Tensor, size: Size) -> Tensor:
    if probabilities.shape[-2:] == size:
        return probabilities
    return F.interpolate(probabilities, size, mode="bilinear", align_corners=False)
