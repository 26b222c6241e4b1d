"""Training checkpoints that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from drive_seg.files import written_aside


class WholeCheckpoints(CheckpointIO):
    """Writes beside the old file, syncs and renames: a crash, a full disk or a kill leaves the old one as it was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a file.

        Raises:
            OSError: if it cannot be written.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            try:
                torch.save(checkpoint, aside)
            except RuntimeError as error:  # this is what PyTorch's writer makes of a full disk
                raise OSError(f"{path} cannot be written: {error}") from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a file onto the CPU; always as plain data, never as a pickle that may run code.

        Raises:
            ValueError: if it is no whole checkpoint.
        """
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:  # a broken pickle can raise anything
            raise ValueError(f"{path}: not a whole training checkpoint; remove it to begin anew ({error})") from error

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove what runs that were killed while writing have left in a folder."""
    for partial in folder.glob(".*.partial.*"):
        partial.unlink(missing_ok=True)
