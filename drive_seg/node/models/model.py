"""The model a node runs: a Segmenter, warmed up, with the name and hash that the outside is told."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from drive_seg.checkpoint import CheckpointError, Contract, find_model, read_contract
from drive_seg.confidence import Usual
from drive_seg.inference.runtimes import MULTIPLE, Size, preparation
from drive_seg.inference.runtimes.files import onnx_file
from drive_seg.labels import LabelMap
from drive_seg.node.parameters import NodeParameters, confidence_problem
from drive_seg.segmenter import Segmenter, choose_device, network_size


@dataclass
class Model:
    """A loaded model. ``name`` is the file's name without suffix, ``sha256`` its content hash."""

    name: str
    sha256: str
    segmenter: Segmenter | None
    label_map: LabelMap
    device: str
    precision: str
    runtime: str
    input_size: Size
    usual: Usual | None = None

    @classmethod
    def load(
        cls, wanted: NodeParameters, tell: Callable[[str], None], sizes: Sequence[Size] = (), scale: float = 1.0
    ) -> Model:
        """Load the model and run it once, so that the first camera frame meets a ready network.

        Args:
            wanted: the node's parameters.
            tell: receives sentences for the log, now and from the thread that labels.
            sizes: (height, width) of the images of the cameras, where they are known; else it is made ready for its
                own size.
            scale: factor for the sides of the network's input.

        Raises:
            CheckpointError: if there is no such model or it may not be used.
            ValueError: if the device, precision, runtime, input size or confidence is not to be had here.
        """
        path = find_model(wanted.model)
        input_size = wanted.input_size
        if scale != 1.0:
            full = input_size or contract_of(wanted.model).input.size
            scaled = tuple(max(MULTIPLE, round(side * scale)) for side in full)
            # In the aspect of the camera, because that is what a runtime is prepared for.
            input_size = network_size(scaled, *(sizes[0] if sizes else full))
        segmenter = _load(path, wanted, input_size, tell)
        if not segmenter.gives_confidence and (fault := confidence_problem(wanted)):
            raise ValueError(fault)
        wanted.planning.classes(segmenter.label_map)  # raises for classes that this model does not have
        segmenter.warm_up(list(sizes) or [segmenter.input_size] * len(wanted.cameras))
        return cls(
            path.stem,
            segmenter.sha256,
            segmenter,
            segmenter.label_map,
            segmenter.device,
            segmenter.precision,
            segmenter.runtime,
            segmenter.input_size,
            segmenter.contract.confidence.usual,
        )

    def describe(self) -> str:
        """One line for the log."""
        label_map = self.label_map
        return (
            f"model {self.name} ({self.sha256[:12]}) with the {label_map.num_classes} classes of "
            f"{label_map.name} on {self.device} in {self.precision} by {self.runtime}"
        )

    def describe_graphs(self) -> str:
        """How many CUDA graphs it holds, or why none, for the diagnostics."""
        return "n/a" if self.segmenter is None else self.segmenter.describe_graphs()

    def free(self) -> None:
        """Give the memory back, on the device too."""
        self.segmenter = None
        gc.collect()
        self.let_go()

    def let_go(self) -> None:
        """The same while frames pass: without a search for cycles, which would hold all threads up."""
        self.segmenter = None
        if torch.cuda.is_initialized():
            # It may be refused while the worker captures a CUDA graph; the memory is then PyTorch's until it needs it.
            with suppress(RuntimeError):
                torch.cuda.empty_cache()


def _load(path: Path, wanted: NodeParameters, input_size: Size | None, tell: Callable[[str], None]) -> Segmenter:
    """The model on the device, or where that cannot be on the fallback device.

    Raises:
        CheckpointError, ValueError: as :meth:`Model.load`.
    """
    later = preparation.LATER if wanted.prepare else preparation.NEVER

    def on(device: str, precision: str) -> Segmenter:
        options = precision, input_size, wanted.runtime, wanted.threads, tell
        return Segmenter.load(path, device, *options, prepare_first=later)

    try:
        return on(wanted.device, wanted.precision)
    except CheckpointError:
        raise
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        if wanted.fallback_device in ("", wanted.device):
            raise ValueError(f"the model cannot be loaded on device '{wanted.device}': {reason}") from error
        tell(f"fallback_device '{wanted.fallback_device}' takes the model, as '{wanted.device}' cannot: {reason}")
        return on(wanted.fallback_device, wanted.precision)


def contract_of(name: str) -> Contract:
    """The contract of a model that may be loaded later, at once and without its weights.

    Raises:
        CheckpointError: if there is no such model, or its contract cannot be read.
    """
    path = find_model(name)
    return onnx_file.read_contract(path) if onnx_file.is_file_with_contract(path) else read_contract(path)


def problem(name: str, value: str) -> str | None:
    """What can be said at once against a new value of the parameter ``model`` or ``device``; None if nothing can."""
    try:
        if name == "model":
            contract_of(value)
        elif name == "device":
            choose_device(value)
    except (ValueError, OSError) as error:
        return f"cannot be used: {error}"
    return None
