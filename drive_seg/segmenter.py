"""Images in, labels out: the one road that node, command line and evaluation share. No ROS, no training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_seg import checkpoint
from drive_seg.checkpoint import CheckpointError, Contract
from drive_seg.decision import decide, to_size
from drive_seg.labels import LabelMap
from drive_seg.runtimes import MULTIPLE, Runtime, Size, choice, onnx_file
from drive_seg.runtimes.pytorch import TorchRuntime, choose_device, choose_precision

log = logging.getLogger("drive_seg")


@dataclass(frozen=True)
class Segmentation:
    """The answer for one image of height H and width W.

    Attributes:
        label: uint8 [H, W], ids of the label map.
        confidence: uint8 [H, W], 255 x the softmax probability of that id, rounded; None unless asked for, and from
            a network that gives ids.
    """

    label: np.ndarray
    confidence: np.ndarray | None = None


class Segmenter:
    """A checkpoint, or an ONNX or OpenVINO file with its contract, ready to label images.

    ``segmenter(image)`` reads as the road of a frame: upload, resize and normalise, network, class ids at the image's
    own size. On a CPU the same image always gives the same labels.

    Args:
        network: a module that gives logits at its input's size, or a runtime that executes one already: device and
            precision are then the runtime's.
        contract: what the network expects and what its ids mean.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
        precision: "auto" (fp16 on CUDA, fp32 on the CPU), "fp32", "fp16" or "bf16".
        input_size: (height, width) whose pixel count the network sees instead of the contract's.
        sha256: the model's content hash.

    Attributes:
        runtime: who executes it: "torch", "inductor", "onnxruntime" or "openvino".

    Raises:
        ValueError: if device, precision or input size cannot be had; the sentence says what can.
    """

    def __init__(
        self,
        network: nn.Module | Runtime,
        contract: Contract,
        device: str = "auto",
        precision: str = "auto",
        input_size: Size | None = None,
        sha256: str = "",
    ) -> None:
        self.contract, self.sha256 = contract, sha256
        self._network = network if isinstance(network, Runtime) else TorchRuntime(network, device, precision)
        self.runtime = self._network.name
        self.device, self.precision = self._network.device, self._network.precision
        self.input_size = _checked_size(input_size) if input_size is not None else contract.input.size
        fixed = self._network.fixed_size
        if fixed not in (None, self.input_size):
            raise ValueError(f"input size {self.input_size} cannot be had: the model's file fixes it to {fixed}")

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        precision: str = "auto",
        input_size: Size | None = None,
        runtime: str = "auto",
        threads: int = 0,
        tell: Callable[[str], None] = log.info,
    ) -> Segmenter:
        """From a checkpoint, an ONNX or OpenVINO file with its contract, or the name of a model of the package.

        Args:
            path, device, precision, input_size: see the class; a file that is no checkpoint brings its precision.
            runtime: "auto" (the fastest that is installed and, for a checkpoint, prepared), "torch", "inductor",
                "onnxruntime" or "openvino". One that was asked for by name is prepared here if it is not yet, which
                takes a while.
            threads: how many the network may use on the CPU; 0 is the runtime's own choice.
            tell: receives sentences for the log: what is being prepared, what is not prepared and how to change that.

        Raises:
            CheckpointError: if the file may not be used.
            ValueError: if device, precision, input size, runtime or threads cannot be had.
        """
        path = checkpoint.find_model(path)
        if onnx_file.is_file_with_contract(path):
            file = onnx_file.read(path)
            executor = choice.for_file(file, device, precision, runtime, threads)
            return cls(executor, file.contract, input_size=input_size, sha256=file.sha256)
        loaded = checkpoint.load(path)
        size = _checked_size(input_size or loaded.contract.input.size)
        executor = choice.for_checkpoint(loaded, device, precision, runtime, threads, network_size(size, *size), tell)
        return cls(executor, loaded.contract, input_size=size, sha256=loaded.sha256)

    @property
    def label_map(self) -> LabelMap:
        return self.contract.label_map

    @property
    def gives_confidence(self) -> bool:
        """Whether it can say how sure it is; not so for an ONNX file that gives ids."""
        return not self._network.gives_ids

    @property
    def fixed_size(self) -> Size | None:
        """The one (height, width) of the network's input that the model's file allows; None if it takes any."""
        return self._network.fixed_size

    def network_size(self, height: int, width: int) -> Size:
        """The (height, width) in which the network sees an image of that size.

        The aspect is kept, the pixel count is about that of the input size, the sides are multiples of 8. Where the
        model's file fixes the size, it is that one.
        """
        if self._network.fixed_size is not None:
            return self._network.fixed_size
        return network_size(self.input_size, height, width)

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
            confidence: also say how sure the network is of each pixel, if it ``gives_confidence``.
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
        clock = _StageClock(self._network.tensor_device, stages)
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
                raise ValueError(f"an image must be uint8 [height, width, 3], not {image.dtype} {list(image.shape)}")
        results: list[Segmentation | None] = [None] * len(images)
        for size, members in self._batches(images):
            batch = torch.cat([self._prepare(images[i], size) for i in members])
            clock.lap("preprocess")
            output = self._network(batch)
            clock.lap("network")
            ids, sureness = decide(output, confidence) if self.gives_confidence else (output, None)
            for place, i in enumerate(members):
                results[i] = self._finish(ids[place], None if sureness is None else sureness[place], images[i])
            clock.lap("postprocess")
        return results

    def _batches(self, images: list[np.ndarray]) -> list[tuple[Size, list[int]]]:
        """(network size, places in the list) of the images that go through the network together."""
        sizes = [self.network_size(*image.shape[:2]) for image in images]
        if self.device == "cpu" or self._network.one_by_one:
            return [(size, [i]) for i, size in enumerate(sizes)]
        return [(size, [i for i, other in enumerate(sizes) if other == size]) for size in dict.fromkeys(sizes)]

    def _prepare(self, image: np.ndarray, size: Size) -> Tensor:
        """Upload, resize, normalise: uint8 BGR [H, W, 3] -> [1, 3, h, w]."""
        image = np.ascontiguousarray(image)
        if not image.flags.writeable:  # torch has no read-only tensors
            image = image.copy()
        pixels = torch.from_numpy(image).to(self._network.tensor_device).permute(2, 0, 1).unsqueeze(0)
        if pixels.shape[-2:] != size:
            # antialiased, so that a thin pole of a large image is not skipped over
            if pixels.is_cuda:
                pixels = pixels.float()
            pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        return self.contract.input.normalise(pixels, self._network.dtype)

    def _finish(self, ids: Tensor, sureness: Tensor | None, image: np.ndarray) -> Segmentation:
        """Back to the image's own size by nearest neighbour, and to numpy."""
        label = to_size(ids, image.shape[:2]).cpu().numpy()
        if sureness is None:
            return Segmentation(label)
        return Segmentation(label, to_size(sureness, image.shape[:2]).cpu().numpy())


def network_size(input_size: Size, height: int, width: int) -> Size:
    """(height, width) of about the pixel count of the input size, of an image's aspect, in multiples of 8."""
    scale = (input_size[0] * input_size[1] / (height * width)) ** 0.5
    return _multiple(height * scale), _multiple(width * scale)


def _multiple(length: float) -> int:
    return max(MULTIPLE, round(length / MULTIPLE) * MULTIPLE)


def _checked_size(size: Size) -> Size:
    if len(size) != 2 or min(size) < MULTIPLE:
        raise ValueError(f"input size {tuple(size)} is not (height, width) of at least {MULTIPLE} pixels")
    return int(size[0]), int(size[1])


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
