"""Trained networks that another one learns from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drive_seg import checkpoint
from drive_seg.labels import LabelMap


class Teachers:
    """An ensemble of finished checkpoints, which nothing here changes.

    It is no module on purpose: as a plain attribute of the task its weights are no part of the task's state, are not
    synchronised between devices, not averaged, and never trained.

    Args:
        models: paths of .safetensors files, or names of models of the package.
        label_map: the classes of the run.

    Attributes:
        origin: ``{"name", "sha256"}`` of each, to be recorded; the name is its recipe's, or the file's.

    Raises:
        ValueError: if a file cannot be used, or its classes are not those of the run in the same order.
    """

    def __init__(self, models: Sequence[str], label_map: LabelMap) -> None:
        self.origin: list[dict[str, Any]] = []
        self._members = []
        self._device = torch.device("cpu")
        for model in models:
            loaded = checkpoint.load(checkpoint.find_model(model))
            own = loaded.contract.label_map
            if own.names != label_map.names:
                raise ValueError(
                    f"teacher {loaded.path} has the classes {', '.join(own.names)}, "
                    f"but the run has {', '.join(label_map.names)}"
                )
            network = loaded.build_network().requires_grad_(False).to(memory_format=torch.channels_last)
            self._members.append((network, loaded.contract.input))
            name = loaded.contract.training.get("name", loaded.path.stem)
            self.origin.append({"name": name, "sha256": loaded.sha256})

    def check_same(self, before: Sequence[dict[str, Any]]) -> None:
        """Make sure that a run goes on with the teachers that it began with, in whatever order.

        Args:
            before: their ``origin``.

        Raises:
            ValueError: if there are others now, or the content of one has changed.
        """
        then, now = (Counter(teacher["sha256"] for teacher in some) for some in (before, self.origin))
        if then != now:
            raise ValueError(
                f"last.ckpt was trained with {_described(before)}, but the recipe has {_described(self.origin)}; "
                "go on with the same files, or begin anew with --restart"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Teachers:
        """Itself: the moving average copies the task, and need not copy what never changes."""
        return self

    @torch.no_grad()
    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        """The logits of each, [B, C, H, W], for images uint8 BGR [B, 3, H, W], on their device."""
        if image.device != self._device:
            for network, _ in self._members:
                network.to(image.device)
            self._device = image.device
        return tuple(network(spec.normalise(image)) for network, spec in self._members)


def _described(origin: Sequence[dict[str, Any]]) -> str:
    teachers = [f"{teacher['name']} ({teacher['sha256'][:12]})" for teacher in origin]
    return f"teacher{'s' * (len(teachers) > 1)} {', '.join(teachers)}" if teachers else "no teacher"
