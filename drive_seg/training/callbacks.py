"""What happens around the training steps: averaged weights, the best checkpoint, pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from drive_seg import checkpoint
from drive_seg.checkpoint import Contract
from drive_seg.confidence import Confidence, Usual
from drive_seg.files import write_atomically
from drive_seg.inference.decision import SPARSE, decide
from drive_seg.inference.path import resized
from drive_seg.labels import VOID
from drive_seg.segmenter import network_size
from drive_seg.training.data import Samples
from drive_seg.training.recipe import Source
from drive_seg.training.record import portable, without_folders
from drive_seg.training.targets import Targets
from drive_seg.training.task import SegmentationTask

USUAL_FRAMES = 32
"""So many validation frames say how sure a network usually is."""


class MovingAverage(WeightAveraging):
    """Exponential moving average of weights and buffers, used for validation and for what is kept.

    The decay rises as (1 + n) / (10 + n) up to its final value, so that the average is not held back by the fresh
    weights it started from.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=averaging(decay))


def averaging(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor | int], None]:
    """What moves all averages of a type towards the current values, given how many there were before, in one call."""

    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        if not averaged[0].is_floating_point():
            torch._foreach_copy_(averaged, current)
            return
        keep = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, 1 - keep)

    return average


class ValidateLast(Callback):
    """Has the last epoch validated, whatever the interval: where the learning rate ends, weights are mostly best."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, task: SegmentationTask) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


class SumOverDevices(Callback):
    """Adds up what the devices have counted in validation. It must stand before all that look at the scores."""

    def on_validation_epoch_end(self, trainer: lightning.Trainer, task: SegmentationTask) -> None:
        if trainer.world_size > 1:
            counts = torch.from_numpy(task.confusion.counts).to(task.device)
            task.confusion.counts = trainer.strategy.reduce(counts, reduce_op="sum").cpu().numpy()


class KeepBest(Callback):
    """Writes the checkpoint with the best validation score as ``<folder>/best.safetensors``, ready for the vehicle.

    It must stand before :class:`MovingAverage` among the callbacks: at the end of validation it then still sees the
    averaged weights, which are the ones that were scored.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "best.safetensors"
        self.score = -1.0

    def on_validation_epoch_end(self, trainer: lightning.Trainer, task: SegmentationTask) -> None:
        score = task.scores()[task.recipe.best]
        if trainer.sanity_checking or not score > self.score:
            return
        self.score = score
        if trainer.is_global_zero:
            contract, usual = _contract(task, trainer.current_epoch + 1), None
            if not task.recipe.data.val_is_trained_on:  # it is surer of those than it will be of any other frame
                usual = _usual(task, trainer.val_dataloaders.dataset.samples, contract.metrics["validation"]["data"])
            checkpoint.save(self.path, task.network, replace(contract, confidence=Confidence(usual=usual)))

    @property
    def has_score(self) -> bool:
        return self.score > -1

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.score = state["score"]


def _contract(task: SegmentationTask, epochs: int) -> Contract:
    recipe, scores = task.recipe, task.scores()
    validation = {
        "miou": _rounded(scores["val_miou"]),
        "f_miou": _rounded(scores["val_f_miou"]),
        "pixel_accuracy": _rounded(scores["val_accuracy"]),
        "iou": {name: _rounded(value) for name, value in task.validation_iou().items()},
        "epochs": epochs,
        "data": ", ".join(_plain(source) for source in recipe.data.val),
    }
    return Contract(
        network=recipe.network.name,
        options=recipe.network.options,
        label_map=task.label_map,
        input=task.input,
        training={**without_folders(recipe), "teachers": task.teachers.origin},
        metrics={"validation": validation},
        licence=recipe.licence,
    )


@torch.inference_mode()
def _usual(task: SegmentationTask, samples: Samples, data: str) -> Usual | None:
    """How sure the network is of some validation frames, spread evenly over them."""
    planes = []
    for i in np.unique(np.linspace(0, len(samples) - 1, USUAL_FRAMES, dtype=int)):
        image = torch.from_numpy(samples.read(int(i))[0]).permute(2, 0, 1)[None].to(task.device)
        seen = resized(image, network_size(task.input.size, *image.shape[-2:]))
        with torch.autocast(image.device.type, enabled=False):
            logits = task.network.forward(task.input.normalise(seen))
        planes.append(decide(logits[:, :, ::SPARSE], True, Confidence().frame_temperature)[1][0].cpu().numpy())
    return Usual.of(planes, data)


def _rounded(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(value, 4)


def _plain(source: Source) -> str:
    return " ".join([source.dataset, *(f"{key}={value}" for key, value in portable(source).items())])


class Panel(Callback):
    """Paints the first validation images as strips (image, truth, prediction), one below the other.

    Each validation writes ``<folder>/panels/<epoch>.png`` and a picture for TensorBoard. With several devices the
    images are the first ones of the first device.

    Args:
        folder: the run's.
        count: how many images.
        width: of one image in pixels.
    """

    def __init__(self, folder: Path, count: int = 4, width: int = 320) -> None:
        self.folder, self.count, self.width = folder / "panels", count, width
        self._strips: list[np.ndarray] = []

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        task: SegmentationTask,
        outputs: Tensor,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.is_global_zero or len(self._strips) >= self.count:
            return
        image, label = (part[0].cpu().numpy() for part in batch)
        self._strips.append(strip(image.transpose(1, 2, 0), label, outputs[0].cpu().numpy(), task.targets, self.width))

    def on_validation_epoch_end(self, trainer: lightning.Trainer, task: SegmentationTask) -> None:
        if not self._strips:
            return
        picture, self._strips = np.concatenate(self._strips), []
        whole, data = cv2.imencode(".png", picture)
        if not whole:
            raise OSError(f"{self.folder}: the panel could not be encoded")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / f"{trainer.current_epoch + 1:04d}.png", data.tobytes())
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                rgb = np.ascontiguousarray(picture[..., ::-1])
                logger.experiment.add_image("predictions", rgb, trainer.global_step, dataformats="HWC")


def strip(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, targets: Targets, width: int) -> np.ndarray:
    """Image, truth and prediction side by side.

    Args:
        image: uint8 BGR [H, W, 3].
        label: uint8 [H, W], targets; a group has the colour of its first class, void is black.
        prediction: uint8 [H, W], class ids.
        targets: of the run.
        width: of each of the three in pixels.

    Returns:
        uint8 BGR [h, 3 * width, 3], of the image's proportions.
    """
    first = np.full(256, VOID, np.uint8)
    first[: targets.label_map.num_classes] = np.arange(targets.label_map.num_classes)
    for g, members in enumerate(targets.groups, start=targets.label_map.num_classes):
        first[g] = members[0]
    size = (width, max(1, round(width * label.shape[0] / label.shape[1])))
    painted = [targets.label_map.colorize(ids) for ids in (first[label], prediction)]
    pictures = [cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)]
    pictures += [cv2.resize(one, size, interpolation=cv2.INTER_NEAREST) for one in painted]
    return np.concatenate(pictures, axis=1)
