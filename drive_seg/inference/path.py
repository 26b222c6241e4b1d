"""From a camera's pixels to class ids at its size, on tensors: the same on a CPU, on a GPU and in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from drive_seg.checkpoint import InputSpec
from drive_seg.confidence import Confidence
from drive_seg.inference.decision import SPARSE, decide, to_size
from drive_seg.inference.runtimes import Runtime, Size

ROUNDINGS = 256
"""Two classes that lie closer are a tie: so many roundings of the larger logit. In fp16 another order of the sums
changes 0.1 to 0.2 % of DSNet's labels, where the classes lie up to 190 roundings apart, as maxima then stand elsewhere
and with them what is un-pooled; of SwiftNet's 0.005 %, up to one rounding (dsnet_synth19, swiftnet_road19 on a CPU)."""

Lap = Callable[[str], None]
"""Hears that a stage is over."""


class FramePath:
    """Resize and normalise, network, class ids at the image's own size.

    On a GPU it only launches kernels: it neither waits for the device nor copies from the host, and its shapes depend
    on the shapes of its input alone, as a CUDA graph demands.

    Args:
        runtime: executes the network.
        spec: what the network wants to see.
        confidence: at which temperatures it is taken.
    """

    def __init__(self, runtime: Runtime, spec: InputSpec, confidence: Confidence = Confidence()) -> None:  # noqa: B008
        self._runtime, self._spec, self._confidence = runtime, spec, confidence
        self._constants = spec.constants(runtime.tensor_device)

    def __call__(
        self,
        stacks: Sequence[Tensor],
        size: Size,
        confidence: bool,
        lap: Lap = lambda stage: None,
        of_frames: bool = False,
    ) -> list[Tensor]:
        """Label images as one batch.

        Args:
            stacks: uint8 BGR [B, H, W, 3] on the runtime's ``tensor_device``, one for each size of image.
            size: (height, width) in which the network sees all of them.
            confidence: also give that, if the runtime does.
            lap: hears "preprocess" and "network", each when that is computed, or on a GPU launched. The network of a
                runtime that decides includes it.
            of_frames: also give what whole frames are judged by.

        Returns:
            uint8 [H, W] for each image in the order of the stacks: its ids; then, if asked for, as many
            confidences, 255 x the softmax probability of the id; then, if asked for, as many
            [ceil(h / SPARSE), w], the same at the frames' temperature of some rows of the network's output.
        """
        prepared = [self.prepare(stack, size) for stack in stacks]
        batch = prepared[0] if len(prepared) == 1 else torch.cat(prepared)
        lap("preprocess")
        temperature = self._confidence.temperature
        frame_temperature = self._confidence.frame_temperature if of_frames else None
        sparse = None
        if self._runtime.decides:
            ids, sureness, sparse = self._runtime.decide(batch, confidence, temperature, frame_temperature)
            lap("network")
        else:
            logits = self._runtime(batch)
            lap("network")
            ids, sureness = decide(logits, confidence, temperature)
            if of_frames:
                sparse = decide(logits[:, :, ::SPARSE], True, frame_temperature)[1]
        sizes = [tuple(stack.shape[1:3]) for stack in stacks for _ in range(len(stack))]
        whole = [
            to_size(plane, at)
            for planes in (ids, sureness)
            if planes is not None
            for plane, at in zip(planes, sizes, strict=True)
        ]
        return whole + list(sparse if sparse is not None else ())

    def ties(self, stacks: Sequence[Tensor], size: Size) -> list[Tensor]:
        """Where the order of sums may decide the class, for whoever compares two ways to compute it.

        Args:
            stacks, size: as for the call; only for a runtime that gives logits.

        Returns:
            bool [H, W] for each image: its two largest logits lie within ``ROUNDINGS`` of the runtime's dtype.
        """
        logits = self._runtime(torch.cat([self.prepare(stack, size) for stack in stacks])).float()
        largest, second = logits.topk(2, 1).values.unbind(1)
        rounding = largest.abs().clamp(min=1) * torch.finfo(self._runtime.dtype).eps
        ties = (largest - second <= ROUNDINGS * rounding).to(torch.uint8)
        sizes = [tuple(stack.shape[1:3]) for stack in stacks for _ in range(len(stack))]
        return [to_size(plane, at).bool() for plane, at in zip(ties, sizes, strict=True)]

    def prepare(self, stack: Tensor, size: Size) -> Tensor:
        """Resize and normalise: uint8 BGR [B, H, W, 3] -> [B, 3, h, w] of the runtime's dtype, channels_last."""
        pixels = resized(stack.permute(0, 3, 1, 2), size)
        return self._spec.normalise(pixels, self._runtime.dtype, self._constants)


def resized(pixels: Tensor, size: Size) -> Tensor:
    """uint8 [B, 3, H, W] -> [B, 3, h, w], uint8 on a CPU, else float32; as it is where that is its size."""
    if pixels.shape[-2:] == size:
        return pixels
    if pixels.device.type != "cpu":
        pixels = pixels.float()
    # antialiased, so that a thin pole of a large image is not skipped over
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
