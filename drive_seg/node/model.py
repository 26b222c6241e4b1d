"""The model a node runs: a Segmenter, warmed up, with the name and hash that the outside is told."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch

from drive_seg.checkpoint import find_model
from drive_seg.labels import LabelMap
from drive_seg.node.parameters import NO_CONFIDENCE, NodeParameters
from drive_seg.segmenter import Segmenter


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

    @classmethod
    def load(cls, wanted: NodeParameters, tell: Callable[[str], None]) -> Model:
        """Load the model and run it once, so that the first camera frame meets a ready network.

        Args:
            wanted: the node's parameters.
            tell: receives sentences for the log, now and from the thread that labels.

        Raises:
            CheckpointError: if there is no such model or it may not be used.
            ValueError: if the device, precision, runtime, input size or confidence is not to be had here.
        """
        path = find_model(wanted.model)
        segmenter = Segmenter.load(
            path, wanted.device, wanted.precision, wanted.input_size, wanted.runtime, wanted.threads, tell
        )
        if wanted.publish_confidence and not segmenter.gives_confidence:
            raise ValueError(f"parameter 'publish_confidence' {NO_CONFIDENCE}")
        size = wanted.input_size or segmenter.contract.input.size
        segmenter.warm_up([size] * len(wanted.cameras))
        return cls(
            path.stem,
            segmenter.sha256,
            segmenter,
            segmenter.label_map,
            segmenter.device,
            segmenter.precision,
            segmenter.runtime,
        )

    def describe(self) -> str:
        """One line for the log."""
        label_map = self.label_map
        return (
            f"model {self.name} ({self.sha256[:12]}) with the {label_map.num_classes} classes of "
            f"{label_map.name} on {self.device} in {self.precision} by {self.runtime}"
        )

    def free(self) -> None:
        """Give the memory back, on the device too."""
        self.segmenter = None
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
