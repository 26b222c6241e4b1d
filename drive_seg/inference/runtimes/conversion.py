"""A network as an ONNX graph, and the check that the graph labels as the network does."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from drive_seg.checkpoint import Checkpoint, InputSpec
from drive_seg.inference.runtimes import Size
from drive_seg.networks import catalog
from drive_seg.networks.fold import fold

INPUT, OUTPUT = "image", "logits"
"""Names of the graph's input and output."""
AGREEMENT, AGREEMENT_HALF = 0.999, 0.97
"""Share of the pixels that a float32 form, and one in half precision, must label as the network does."""
SYNTHETIC_FRAMES = (3, 20)
"""Which frames of the synthetic drive a graph is checked on where no others are given."""


class ConversionError(RuntimeError):
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


def synthetic_inputs(spec: InputSpec, size: Size) -> Iterator[Tensor]:
    """Frames of the synthetic drive as a network wants them: float32 [1, 3, h, w] each."""
    from drive_seg.synth import SynthDrive

    drive = SynthDrive(seed=5, size=(size[1], size[0]))
    for number in SYNTHETIC_FRAMES:
        image = torch.from_numpy(drive.frame(number).image)
        yield spec.normalise(image.permute(2, 0, 1)[None])


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
