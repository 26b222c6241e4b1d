"""Images in, labels out: the one road that node, command line and evaluation share. No ROS, no training."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from drive_seg import checkpoint
from drive_seg.checkpoint import CheckpointError, Contract
from drive_seg.confidence import FrameConfidence
from drive_seg.inference.cuda.device import CudaDevice, DeviceLostError, is_lost, keep_for_ever
from drive_seg.inference.cuda.graph import Combination, pad
from drive_seg.inference.cuda.graphs import FrameGraphs
from drive_seg.inference.decision import decide, to_size
from drive_seg.inference.path import FramePath
from drive_seg.inference.runtimes import MULTIPLE, NotFiniteError, Runtime, Size, choice, preparation
from drive_seg.inference.runtimes.files import onnx_file
from drive_seg.inference.runtimes.pytorch import TorchRuntime, choose_device, choose_precision
from drive_seg.labels import VOID, LabelMap

log = logging.getLogger("drive_seg")
GRAPHS_SWITCH = "DRIVE_SEG_CUDA_GRAPHS"
"""Environment variable; 0 switches CUDA graphs off."""


@dataclass(frozen=True)
class Segmentation:
    """The answer for one image of height H and width W.

    Attributes:
        label: uint8 [H, W], ids of the label map.
        confidence: uint8 [H, W], 255 x the softmax probability of that id at the contract's temperature, rounded; None
            unless asked for, and from a network that gives ids.
        frame_confidence: how sure it is of the whole frame; None unless asked for, and from a network that gives ids.
    """

    label: np.ndarray
    confidence: np.ndarray | None = None
    frame_confidence: FrameConfidence | None = None


class Pending:
    """Images on their way, see :meth:`Segmenter.submit`.

    Args:
        count: how many images.
        batches: places in the list of images, and what waits for their planes: labels, then confidences if any.
        alone: one image was given, and no list.
        answer: makes the answer of an image of its planes.
        watching: a context that knows what to do with an error.
    """

    def __init__(
        self,
        count: int,
        batches: list[tuple[list[int], Callable[[], list[np.ndarray]]]],
        alone: bool = False,
        answer: Callable[..., Segmentation] = Segmentation,
        watching: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self._count, self._batches, self._alone, self._answer = count, batches, alone, answer
        self._watching = watching

    def result(self) -> Segmentation | list[Segmentation]:
        """Wait for the answer, as of :meth:`Segmenter.__call__`, with its errors; the same one each time."""
        answers: list[Segmentation | None] = [None] * self._count
        for places, wait in self._batches:
            with self._watching():
                planes = wait()
            for at, place in enumerate(places):
                answers[place] = self._answer(*planes[at :: len(places)])
        return answers[0] if self._alone else answers


class Segmenter:
    """A checkpoint, or an ONNX or OpenVINO file with its contract, ready to label images.

    ``segmenter(image)`` reads as the road of a frame: upload, resize and normalise, network, class ids at the image's
    own size. On a CPU the same image always gives the same labels. On a GPU the whole road is a CUDA graph where it
    can be, see :mod:`drive_seg.inference.cuda.graph`; ``submit`` lets successive frames overlap there.

    Args:
        network: a module that gives logits at its input's size, or a runtime that executes one already: device and
            precision are then the runtime's.
        contract: what the network expects and what its ids mean.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
        precision: "auto" (fp16 on CUDA, fp32 on the CPU), "fp32", "fp16", "bf16", or "int8" with the runtime "native".
        input_size: (height, width) whose pixel count the network sees instead of the contract's.
        sha256: the model's content hash.
        graphs: use CUDA graphs where the runtime can be captured; the environment variable DRIVE_SEG_CUDA_GRAPHS=0
            switches them off, too.
        tell: receives a sentence for the log, from any thread, if some or all images go without one, and why.
        background: capture graphs in a thread of its own, while images take the plain path; if not, the first image of
            a size waits for it.

    Attributes:
        runtime: who executes it, by its name in :mod:`drive_seg.inference.runtimes.registry`.

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
        graphs: bool = True,
        tell: Callable[[str], None] = log.warning,
        background: bool = False,
    ) -> None:
        self.contract, self.sha256 = contract, sha256
        self._network = network if isinstance(network, Runtime) else TorchRuntime(network, device, precision)
        self.runtime = self._network.name
        self.device, self.precision = self._network.device, self._network.precision
        self.input_size = _checked_size(input_size) if input_size is not None else contract.input.size
        fixed = self._network.fixed_size
        if fixed not in (None, self.input_size):
            raise ValueError(f"input size {self.input_size} cannot be had: the model's file fixes it to {fixed}")
        self._path = FramePath(self._network, contract.input, contract.confidence)
        self._graphs: FrameGraphs | None = None
        if graphs and self._network.capturable and os.environ.get(GRAPHS_SWITCH) != "0":
            self._graphs = FrameGraphs(self._path, CudaDevice.of(self._network.tensor_device), tell, background)
            if self._graphs.off:
                tell(f"CUDA graphs are off, frames take the plain path on the GPU: {self._graphs.off}")

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
        graphs: bool = True,
        prepare_first: str = preparation.WAIT,
    ) -> Segmenter:
        """From a checkpoint, an ONNX or OpenVINO file with its contract, or the name of a model of the package.

        Args:
            path, device, precision, input_size: see the class; a file that is no checkpoint brings its precision.
            runtime: "auto" (the fastest that is installed and, for a checkpoint, prepared), or a name of
                :mod:`drive_seg.inference.runtimes.registry`. One that was asked for by name is prepared here if it is
                not yet, which takes a while.
            threads: how many the network may use on the CPU; 0 is the runtime's own choice.
            tell: receives sentences for the log: what is being prepared, what is not prepared and how to change that.
            graphs: see the class; they are captured in the background unless ``prepare_first`` is "wait".
            prepare_first: what the runtime "auto" does where one that is faster could be prepared in seconds: "wait"
                for it, once on a machine; leave it for "later", see ``unprepared``; or "never". The environment
                variable DRIVE_SEG_PREPARE=never forbids it.

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
        own = network_size(size, *size)
        executor = choice.for_checkpoint(loaded, device, precision, runtime, threads, own, tell, prepare_first)
        background = prepare_first != preparation.WAIT
        return cls(
            executor,
            loaded.contract,
            input_size=size,
            sha256=loaded.sha256,
            graphs=graphs,
            tell=tell,
            background=background,
        )

    @property
    def label_map(self) -> LabelMap:
        return self.contract.label_map

    @property
    def gives_confidence(self) -> bool:
        """Whether it can say how sure it is; not so for a file that gives ids alone."""
        return self._network.gives_confidence

    @property
    def gives_logits(self) -> bool:
        """Whether the network gives logits; not so for a file that gives ids or sigmoids."""
        return self._network.gives_logits

    @property
    def multiple(self) -> int:
        """The sides of the network's input are multiples of this, unless fixed."""
        return self._network.multiple

    @property
    def unprepared(self) -> str | None:
        """The runtime that "auto" would take if it were prepared, where that was left for later."""
        return self._network.unprepared

    @property
    def fixed_size(self) -> Size | None:
        """The one (height, width) of the network's input that the model's file allows; None if it takes any."""
        return self._network.fixed_size

    def network_size(self, height: int, width: int) -> Size:
        """The (height, width) in which the network sees an image of that size.

        The aspect is kept, the pixel count is about that of the input size, the sides are multiples of 8, or of what a
        file's contract says. Where the model's file fixes the size, it is that one.
        """
        if self._network.fixed_size is not None:
            return self._network.fixed_size
        return network_size(self.input_size, height, width, self._network.multiple)

    @property
    def graphs(self) -> int:
        """How many CUDA graphs it holds at present; 0 where it uses none."""
        return 0 if self._graphs is None else len(self._graphs)

    def describe_graphs(self) -> str:
        """How many CUDA graphs it holds and what goes without, or why there are none; "n/a" on a CPU."""
        if self._graphs is not None:
            return self._graphs.describe()
        return "n/a" if self.device == "cpu" else "off: switched off, or this runtime cannot be captured"

    def warm_up(self, sizes: list[Size]) -> None:
        """Label grey images of these (height, width), alone and together, so that the first frame is no slower.

        With CUDA graphs these, and some of them together, are captured, with and without confidence.
        """
        images = [np.full((*size, 3), 128, np.uint8) for size in sizes]
        self.expect(sizes, (False, True), wait=True)
        for image in images:
            self(image, confidence=True)
        if len(images) > 1:
            self(images, confidence=True)

    def expect(self, sizes: Sequence[Size], confidence: Sequence[bool] = (False,), wait: bool = False) -> None:
        """Capture CUDA graphs for images that are about to come; does nothing where there are none.

        Args:
            sizes: (height, width) of the images, of each camera one: they may come alone and together.
            confidence: whether that will be asked for.
            wait: return when they are captured, and not at once.
        """
        if self._graphs is None:
            return
        wanted = []
        for together in (sizes[:count] for count in range(1, len(sizes) + 1)):
            grey = [np.broadcast_to(np.uint8(128), (*size, 3)) for size in sorted(together)]
            for size, places in self._batches(grey):
                padded, _ = pad([grey[place].shape[:2] for place in places])
                wanted += [
                    Combination(padded, size, wish and self.gives_confidence, self.gives_confidence)
                    for wish in confidence
                ]
        self._graphs.expect(wanted, wait)

    def __call__(
        self,
        images: np.ndarray | list[np.ndarray],
        confidence: bool = False,
        stages: dict[str, float] | None = None,
        frame_confidence: bool = False,
    ) -> Segmentation | list[Segmentation]:
        """Label one image or several.

        Args:
            images: uint8 BGR [H, W, 3], or a list of them, whose sizes may differ. On a GPU those that the network
                sees in the same size go through it as one batch. On a CPU each goes alone: it is no slower, and the
                labels are then the same to the last pixel in whatever company an image comes.
            confidence: also say how sure the network is of each pixel, if it ``gives_confidence``.
            stages: if given, receives the seconds spent in "preprocess", "network" and "postprocess". In a CUDA graph
                these are the upload, the graph (which also resizes and decides) and the download.
            frame_confidence: also say how sure it is of each whole frame, which costs next to nothing.

        Returns:
            one :class:`Segmentation` for one image, a list of them for a list; arrays that no later frame overwrites.

        Raises:
            ValueError: if an image is not uint8 [H, W, 3] with at least one pixel.
            NotFiniteError: if the network gave NaN or an infinite value.
            DeviceLostError: if the GPU fails whatever is asked of it; only a new process gets it back.
        """
        return self._submit(images, confidence, stages, frame_confidence).result()

    def submit(self, images: np.ndarray | list[np.ndarray], confidence: bool = False) -> Pending:
        """Send images on their way; ``result()`` of what comes back is what a call gives.

        With CUDA graphs it returns while the GPU is at work, so that the next frame is uploaded meanwhile. Two batches
        may be on their way: one more waits here for the oldest, whose result then lies ready. Everywhere else the work
        is done when this returns. The images are copied: they may be written to at once.

        Args:
            images, confidence: see the call.

        Raises:
            ValueError: if an image is not uint8 [H, W, 3] with at least one pixel.
        """
        return self._submit(images, confidence, None)

    @torch.inference_mode()
    def _submit(
        self,
        images: np.ndarray | list[np.ndarray],
        confidence: bool,
        stages: dict[str, float] | None,
        frame_confidence: bool = False,
    ) -> Pending:
        alone = isinstance(images, np.ndarray)
        images = [images] if alone else images
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
                raise ValueError(f"an image must be uint8 [height, width, 3], not {image.dtype} {list(image.shape)}")
        confidence = confidence and self.gives_confidence
        of_frames = frame_confidence and self.gives_confidence
        batches = []
        for size, places in self._batches(images):
            # equal sizes side by side: they are resized together, and in whatever order they came it is the same graph
            places = sorted(places, key=lambda place: images[place].shape)
            those = [images[place] for place in places]
            with self._watching():
                batches.append((places, self._start(those, size, confidence, stages, of_frames)))

        def answer(label: np.ndarray, *planes: np.ndarray) -> Segmentation:
            plane, rows = planes[0] if confidence else None, planes[confidence:]
            frame = self.contract.confidence.of_frame(rows[0]) if of_frames and rows else None
            return Segmentation(label, plane, frame)

        return Pending(len(images), batches, alone, answer, self._watching)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Tell a GPU that is lost from a frame that failed."""
        try:
            yield
        except Exception as error:
            device = self._network.tensor_device
            if isinstance(error, DeviceLostError) or device == "cpu" or not is_lost(device):
                raise
            keep_for_ever(self)
            raise DeviceLostError(f"the GPU {device} is lost to this process: {error}") from error

    def _batches(self, images: list[np.ndarray]) -> list[tuple[Size, list[int]]]:
        """(network size, places in the list) of the images that go through the network together."""
        sizes = [self.network_size(*image.shape[:2]) for image in images]
        if self.device == "cpu" or self._network.one_by_one:
            return [(size, [i]) for i, size in enumerate(sizes)]
        return [(size, [i for i, other in enumerate(sizes) if other == size]) for size in dict.fromkeys(sizes)]

    def _start(
        self,
        images: list[np.ndarray],
        size: Size,
        confidence: bool,
        stages: dict[str, float] | None,
        of_frames: bool = False,
    ) -> Callable[[], list[np.ndarray]]:
        """One batch: what waits for its planes, labels, then confidences, then what frames are judged by."""
        if self._graphs is not None:
            # always with what frames are judged by, some kB: else each graph would be needed twice
            flight = self._graphs.submit(images, size, confidence, stages, of_frames=self.gives_confidence)
            if flight is not None:
                return lambda: self._checked(flight.land(), len(images))
        planes = self._checked(self._plain(images, size, confidence, stages, of_frames), len(images))
        return lambda: planes

    def _checked(self, planes: list[np.ndarray], count: int) -> list[np.ndarray]:
        """The planes, the first ``count`` of them labels, if the network gave numbers."""
        if not self._network.may_void:
            for label in planes[:count]:
                if label.max() == VOID:
                    raise NotFiniteError(float((label == VOID).mean()))
        return planes

    def _plain(
        self,
        images: list[np.ndarray],
        size: Size,
        confidence: bool,
        stages: dict[str, float] | None,
        of_frames: bool,
    ) -> list[np.ndarray]:
        """The same without a graph, on any device."""
        clock = _StageClock(self._network.tensor_device, stages)
        stacks = [self._upload(list(same)) for _, same in groupby(images, key=lambda image: image.shape)]
        planes = [plane.cpu().numpy() for plane in self._path(stacks, size, confidence, clock.lap, of_frames)]
        clock.lap("postprocess")
        return planes

    @torch.inference_mode()
    def logits(self, image: np.ndarray) -> Tensor:
        """What the network gives for an image uint8 BGR [H, W, 3]: logits [1, C, h, w] in the size that it sees.

        Raises:
            ValueError: if it ``gives_logits`` not.
        """
        if not self.gives_logits:
            raise ValueError("the model gives class ids or a sigmoid, and no logits")
        return self._network(self.prepare(image, self.network_size(*image.shape[:2])))

    @torch.inference_mode()
    def label_and_logits(self, image: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """The label of a call, uint8 [H, W], and :meth:`logits`, by one run of the network.

        Raises:
            ValueError: as :meth:`logits`.
            NotFiniteError: as a call.
        """
        logits = self.logits(image)
        if self._network.may_void:  # ids that are not simply those of the largest logits
            return self(image).label, logits
        ids = decide(logits, confidence=False)[0]
        return self._checked([to_size(ids[0], image.shape[:2]).cpu().numpy()], 1)[0], logits

    def prepare(self, image: np.ndarray, size: Size) -> Tensor:
        """An image as the network sees it, on its device: uint8 BGR [H, W, 3] -> [1, 3, h, w] for a size (h, w)."""
        return self._path.prepare(self._upload([image]), size)

    def _upload(self, images: Sequence[np.ndarray]) -> Tensor:
        """Images of one size -> uint8 [B, H, W, 3] on the device."""
        pixels = [_tensor(image).to(self._network.tensor_device) for image in images]
        return pixels[0].unsqueeze(0) if len(pixels) == 1 else torch.stack(pixels)


def _tensor(image: np.ndarray) -> Tensor:
    image = np.ascontiguousarray(image)
    return torch.from_numpy(image if image.flags.writeable else image.copy())  # torch has no read-only tensors


def network_size(input_size: Size, height: int, width: int, multiple: int = MULTIPLE) -> Size:
    """(height, width) of about the pixel count of the input size, of an image's aspect, in multiples."""
    scale = (input_size[0] * input_size[1] / (height * width)) ** 0.5
    return tuple(max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))


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
            # not of the whole device, which is an error while another thread captures a graph for another model
            torch.cuda.current_stream(self._device).synchronize()
        now = perf_counter()
        self._stages[stage] = self._stages.get(stage, 0.0) + now - self._last
        self._last = now


__all__ = [
    "CheckpointError",
    "DeviceLostError",
    "NotFiniteError",
    "Segmentation",
    "Segmenter",
    "choose_device",
    "choose_precision",
]
