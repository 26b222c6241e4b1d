"""A network in another form, and the check that the form labels as the network does."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from drive_seg.checkpoint import Checkpoint, InputSpec
from drive_seg.inference.path import resized
from drive_seg.inference.runtimes import Size
from drive_seg.networks import catalog
from drive_seg.networks.fold import fold

INPUT, OUTPUT = "image", "logits"
"""Names of the graph's input and output."""
AGREEMENT, AGREEMENT_HALF = 0.999, 0.97
"""Share of the pixels that a float32 form, and one in half precision, must label as the network does."""
MOST_FRAMES = 128
"""So many frames at most are used to check or calibrate."""


class ConversionError(ValueError):
    """A network that cannot be converted here; the message is one sentence that says why."""


def convertible(loaded: Checkpoint) -> nn.Module:
    """A checkpoint's network in the form in which it is converted: folded, of operations that every exporter takes."""
    options = {"unpool": "one_hot"} if "unpool" in catalog.options(loaded.contract.network) else {}
    return fold(loaded.build_network(**options))


def to_onnx(network: nn.Module, size: Size) -> bytes:
    """The ONNX file of a network, for one image of one size.

    Args:
        network: in evaluation mode, float32 on the CPU: [1, 3, h, w] -> logits [1, C, h, w].
        size: (height, width).

    Returns:
        a file with everything in it: input "image" float32 [1, 3, h, w], output "logits" float32 [1, C, h, w].

    Raises:
        ConversionError: if a package that this takes is missing, or the network cannot be converted.
    """
    try:
        import onnx  # noqa: F401 - said here and not from within the exporter
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConversionError(
            f"converting a network needs onnx and onnxscript ({error}): install them with pip, by themselves or as the "
            "extra 'export' of drive_seg"
        ) from error
    file = io.BytesIO()
    with quiet(), torch.inference_mode(False), torch.no_grad():
        try:
            program = torch.onnx.export(
                network,
                (torch.zeros(1, 3, *size),),
                dynamo=True,
                verbose=False,
                external_data=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
            program.save(file)
        except Exception as error:  # the exporter's exceptions have no other base
            raise ConversionError(f"the network cannot be converted: {' '.join(str(error).split())[:400]}") from error
    return file.getvalue()


def inputs(spec: InputSpec, size: Size, frames: Iterable[np.ndarray] = ()) -> list[Tensor]:
    """Images as a network wants them: float32 [1, 3, h, w] each.

    Args:
        spec: what it wants to see.
        size: (height, width) in which it sees them.
        frames: uint8 BGR [H, W, 3]; at most ``MOST_FRAMES`` are used, spread evenly. Those of the package if there are
            none: two of its synthetic drive, street scenes with all that has an edge.

    Raises:
        ValueError: if there is no image.
    """
    step, kept = 1, []
    for number, frame in enumerate(frames or _stored_frames()):
        if number % step == 0:
            pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
            kept.append(spec.normalise(resized(pixels, size)))
        if len(kept) == 2 * MOST_FRAMES:
            step, kept = 2 * step, kept[::2]
    if not kept:
        raise ValueError("there is no image to check or calibrate on")
    chosen = np.linspace(0, len(kept) - 1, min(MOST_FRAMES, len(kept))).round().astype(int)
    return [kept[i] for i in chosen]


def _stored_frames() -> list[np.ndarray]:
    return [cv2.imread(str(file)) for file in sorted(Path(__file__).parent.glob("frames/*.jpg"))]


@torch.inference_mode()
def agreement(network: nn.Module, other: Callable[[Tensor], Tensor], inputs: Iterable[Tensor]) -> float:
    """Share of pixels, 0..1, that another form of a network labels as the network does, over these inputs."""
    same = total = 0
    for image in inputs:
        ids = network(image).argmax(1)
        same += int((other(image).argmax(1) == ids).sum())
        total += ids.numel()
    return same / total


def check(
    name: str, network: nn.Module, other: Callable[[Tensor], Tensor], inputs: Iterable[Tensor], precision: str = "fp32"
) -> float:
    """The :func:`agreement` of another form, which must be at least :data:`AGREEMENT` or :data:`AGREEMENT_HALF`.

    Raises:
        ConversionError: if it is less.
    """
    share = agreement(network, other, inputs)
    needed = AGREEMENT if precision == "fp32" else AGREEMENT_HALF
    if share < needed:
        raise ConversionError(
            f"{name} labels {100 * share:.2f} % of the pixels as PyTorch does, which is less than "
            f"{100 * needed:.1f} %: it is not used"
        )
    return share


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' remarks on packages that are not there and on its own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal.exporter", "onnxscript")]
    loggers += [logging.getLogger("onnx_ir"), logging.getLogger("torch.onnx._internal.exporter._registration")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
