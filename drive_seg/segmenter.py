"""Images in, labels out: the one road that node, command line and evaluation share. No ROS, no training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_seg import checkpoint
from drive_seg.checkpoint import CheckpointError, Contract
from drive_seg.labels import LabelMap

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MULTIPLE = 8
"""Sides of the network's input are multiples of this."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Segmentation:
    """The answer for one image of height H and width W.

    Attributes:
        label: uint8 [H, W], ids of the label map.
        confidence: uint8 [H, W], 255 x the softmax probability of that id, rounded; None unless asked for.
    """

    label: np.ndarray
    confidence: np.ndarray | None = None


class Segmenter:
    """A checkpoint, ready to label images.

    ``segmenter(image)`` reads as the road of a frame: upload, resize and normalise, network, class ids at the image's
    own size. On a CPU the same image always gives the same labels.

    Args:
        network: in evaluation mode; logits at its input's size.
        contract: what the network expects and what its ids mean.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
        precision: "auto" (fp16 on CUDA, fp32 on the CPU), "fp32", "fp16" or "bf16".
        input_size: (height, width) whose pixel count the network sees instead of the contract's.
        sha256: the checkpoint's content hash.

    Raises:
        ValueError: if device, precision or input size cannot be had; the sentence says what can.
    """

    def __init__(
        self,
        network: nn.Module,
        contract: Contract,
        device: str = "auto",
        precision: str = "auto",
        input_size: Size | None = None,
        sha256: str = "",
    ) -> None:
        self.contract, self.sha256 = contract, sha256
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.input_size = _checked_size(input_size) if input_size is not None else contract.input.size
        self._dtype = PRECISIONS[self.precision]
        self._network = network.eval().to(self.device, self._dtype, memory_format=torch.channels_last)

    @classmethod
    def load(
        cls, path: str | Path, device: str = "auto", precision: str = "auto", input_size: Size | None = None
    ) -> Segmenter:
        """From a checkpoint file, or the bare name of a model that came with the package.

        Raises:
            CheckpointError: if the file may not be used.
            ValueError: if device, precision or input size cannot be had.
        """
        loaded = checkpoint.load(checkpoint.find_model(path))
        return cls(loaded.build_network(), loaded.contract, device, precision, input_size, loaded.sha256)

    @property
    def label_map(self) -> LabelMap:
        return self.contract.label_map

    def network_size(self, height: int, width: int) -> Size:
        """The (height, width) in which the network sees an image of that size.

        The aspect is kept, the pixel count is about that of the input size, the sides are multiples of 8.
        """
        scale = (self.input_size[0] * self.input_size[1] / (height * width)) ** 0.5
        return _multiple(height * scale), _multiple(width * scale)

    def warm_up(self, sizes: list[Size]) -> None:
        """Label grey images of these (height, width), alone and together, so that the first frame is no slower."""
        images = [np.full((*size, 3), 128, np.uint8) for size in sizes]
        for image in images:
            self(image, confidence=True)
        if len(images) > 1:
            self(images, confidence=True)

    def __call__(
        self,
        images: np.ndarray | list[np.ndarray],
        confidence: bool = False,
        stages: dict[str, float] | None = None,
    ) -> Segmentation | list[Segmentation]:
        """Label one image or several.

        Args:
            images: uint8 BGR [H, W, 3], or a list of them, whose sizes may differ. On a GPU those that the network
                sees in the same size go through it as one batch. On a CPU each goes alone: it is no slower, and the
                labels are then the same to the last pixel in whatever company an image comes.
            confidence: also say how sure the network is of each pixel.
            stages: if given, receives the seconds spent in "preprocess", "network" and "postprocess".

        Returns:
            one :class:`Segmentation` for one image, a list of them for a list.

        Raises:
            ValueError: if an image is not uint8 [H, W, 3] with at least one pixel.
        """
        if isinstance(images, np.ndarray):
            return self._label([images], confidence, stages)[0]
        return self._label(images, confidence, stages)

    @torch.inference_mode()
    def _label(self, images: list[np.ndarray], confidence: bool, stages: dict[str, float] | None) -> list[Segmentation]:
        clock = _StageClock(self.device, stages)
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
                raise ValueError(f"an image must be uint8 [height, width, 3], not {image.dtype} {list(image.shape)}")
        results: list[Segmentation | None] = [None] * len(images)
        for size, members in self._batches(images):
            batch = torch.cat([self._prepare(images[i], size) for i in members])
            clock.lap("preprocess")
            logits = self._network(batch)
            clock.lap("network")
            ids, sureness = _decide(logits, confidence)
            for place, i in enumerate(members):
                results[i] = self._finish(ids[place], None if sureness is None else sureness[place], images[i])
            clock.lap("postprocess")
        return results

    def _batches(self, images: list[np.ndarray]) -> list[tuple[Size, list[int]]]:
        """(network size, places in the list) of the images that go through the network together."""
        sizes = [self.network_size(*image.shape[:2]) for image in images]
        if self.device == "cpu":
            return [(size, [i]) for i, size in enumerate(sizes)]
        return [(size, [i for i, other in enumerate(sizes) if other == size]) for size in dict.fromkeys(sizes)]

    def _prepare(self, image: np.ndarray, size: Size) -> Tensor:
        """Upload, resize, normalise: uint8 BGR [H, W, 3] -> [1, 3, h, w]."""
        image = np.ascontiguousarray(image)
        if not image.flags.writeable:  # torch has no read-only tensors
            image = image.copy()
        pixels = torch.from_numpy(image).to(self.device).permute(2, 0, 1).unsqueeze(0)
        if pixels.shape[-2:] != size:
            # antialiased, so that a thin pole of a large image is not skipped over
            if self.device.startswith("cuda"):
                pixels = pixels.float()
            pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        return self.contract.input.normalise(pixels, self._dtype)

    def _finish(self, ids: Tensor, sureness: Tensor | None, image: np.ndarray) -> Segmentation:
        """Back to the image's own size by nearest neighbour, and to numpy."""
        label = _to_size(ids, image.shape[:2]).cpu().numpy()
        if sureness is None:
            return Segmentation(label)
        return Segmentation(label, _to_size(sureness, image.shape[:2]).cpu().numpy())


def _decide(logits: Tensor, confidence: bool) -> tuple[Tensor, Tensor | None]:
    """[B, C, h, w] -> ids uint8 [B, h, w], and 255 x softmax maximum uint8 [B, h, w] if asked for."""
    if not confidence:
        return logits.argmax(1).to(torch.uint8), None
    largest, ids = logits.float().max(1)
    # softmax maximum = 1 / sum exp(logit - largest)
    total = (logits.float() - largest.unsqueeze(1)).exp().sum(1)
    return ids.to(torch.uint8), (255.0 / total).round().to(torch.uint8)


def _to_size(plane: Tensor, size: Size) -> Tensor:
    if plane.shape == size:
        return plane
    return F.interpolate(plane[None, None], size, mode="nearest-exact")[0, 0]


def _multiple(length: float) -> int:
    return max(MULTIPLE, round(length / MULTIPLE) * MULTIPLE)


def _checked_size(size: Size) -> Size:
    if len(size) != 2 or min(size) < MULTIPLE:
        raise ValueError(f"input size {tuple(size)} is not (height, width) of at least {MULTIPLE} pixels")
    return int(size[0]), int(size[1])


def choose_device(wish: str) -> str:
    """The device for a wish.

    Raises:
        ValueError: if the wish is no device, or that device is not there.
    """
    if wish == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = wish.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise ValueError(f"device '{wish}' is not one of auto, cpu, cuda, cuda:N")
    there = torch.cuda.device_count() if kind == "cuda" else 1
    if int(number or 0) >= there:
        raise ValueError(f"device '{wish}' is not there: this machine offers {there} CUDA devices to torch")
    return wish


def choose_precision(wish: str, device: str) -> str:
    """The precision for a wish on a device.

    Raises:
        ValueError: if the wish is no precision.
    """
    if wish == "auto":
        return "fp16" if device.startswith("cuda") else "fp32"
    if wish not in PRECISIONS:
        raise ValueError(f"precision '{wish}' is not one of auto, {', '.join(PRECISIONS)}")
    return wish


class _StageClock:
    """Adds the time since the last lap to a stage; does nothing when nobody asked."""

    def __init__(self, device: str, stages: dict[str, float] | None) -> None:
        self._device, self._stages = device, stages
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        if self._stages is None:
            return
        if self._device.startswith("cuda"):
            torch.cuda.synchronize(self._device)
        now = perf_counter()
        self._stages[stage] = self._stages.get(stage, 0.0) + now - self._last
        self._last = now


__all__ = ["CheckpointError", "Segmentation", "Segmenter", "choose_device", "choose_precision"]
