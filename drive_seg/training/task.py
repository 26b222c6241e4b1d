"""One network learning one recipe: the Lightning task and its callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.labels import LabelMap
from drive_seg.metrics import ConfusionMatrix
from drive_seg.training.losses import WeightedSum
from drive_seg.training.pretrained import load_pretrained
from drive_seg.training.recipe import Recipe


class SegmentationTask(lightning.LightningModule):
    """Network, losses, optimiser and validation of a recipe.

    Args:
        recipe: what to do.
        label_map: the classes.
        frequency: float64 [C], class shares of the training labels, for the losses that weight by them.
        steps_per_epoch: for the learning rate.
        resumes: all weights will come from a training checkpoint, so the files that the recipe starts from are not
            read and may be gone.

    Batches are image uint8 BGR [B, 3, H, W] and label uint8 [B, H, W].

    Raises:
        ValueError: if the network, its losses or a file it starts from does not fit.
    """

    def __init__(
        self,
        recipe: Recipe,
        label_map: LabelMap,
        frequency: np.ndarray,
        steps_per_epoch: int,
        resumes: bool = False,
    ) -> None:
        super().__init__()
        self.recipe, self.label_map, self.steps_per_epoch = recipe, label_map, steps_per_epoch
        self.input = InputSpec(size=recipe.data.input_size)
        network = networks.build(recipe.network.name, label_map.num_classes, **recipe.network.options)
        self.network = network.to(memory_format=torch.channels_last)
        self.losses = WeightedSum(recipe.losses, frequency)
        self.confusion = ConfusionMatrix(label_map.num_classes)
        if recipe.compile:
            self.network.compile()
        if not resumes:
            self._start()

    def _start(self) -> None:
        recipe = self.recipe
        if recipe.network.pretrained is not None:
            load_pretrained(self.network, recipe.network.pretrained)
        if recipe.warm_start is not None:
            self._take_over(checkpoint.load(checkpoint.find_model(recipe.warm_start)).tensors)

    def _take_over(self, tensors: dict[str, Tensor]) -> None:
        """Start from another checkpoint's weights where names and shapes fit (the last layer may differ)."""
        own = self.network.state_dict()
        fitting = {name: tensor for name, tensor in tensors.items() if name in own and own[name].shape == tensor.shape}
        if not fitting:
            raise ValueError(f"no tensor of {self.recipe.warm_start} fits network '{self.recipe.network.name}'")
        self.network.load_state_dict(fitting, strict=False)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        image, label = batch
        loss, terms = self.losses(self.network(self.input.normalise(image)), label)
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True)
        self.log_dict({f"loss_{name}": term for name, term in terms.items()}, on_step=False, on_epoch=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.confusion = ConfusionMatrix(self.label_map.num_classes)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        image, label = batch
        # In single precision, so that the score is the one the finished file gets. forward, not a call: validation
        # images come in any size, and compiling for each would take longer than it saves.
        with torch.autocast(image.device.type, enabled=False):
            prediction = self.network.forward(self.input.normalise(image)).argmax(1).to(torch.uint8)
        self.confusion.update(prediction.cpu().numpy(), label.cpu().numpy())

    def on_validation_epoch_end(self) -> None:
        iou = np.nan_to_num(self.confusion.iou())
        self.log("val_miou", self.confusion.miou(), prog_bar=True)
        self.log("val_accuracy", self.confusion.pixel_accuracy())
        self.log_dict({f"val_iou_{name}": float(v) for name, v in zip(self.label_map.names, iou, strict=True)})

    def configure_optimizers(self) -> dict[str, Any]:
        settings, schedule = self.recipe.optimizer, self.recipe.schedule
        groups = decay_groups(self.network, settings.weight_decay)
        if settings.name == "adamw":
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        else:
            optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=0.9)
        steps = self.steps_per_epoch * schedule.epochs
        warmup = self.steps_per_epoch * schedule.warmup_epochs
        poly = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: poly_rate(step, steps, warmup, schedule.power))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": poly, "interval": "step"}}


def poly_rate(step: int, steps: float, warmup: float, power: float) -> float:
    """The share of the base learning rate at a step: linear warm-up, then (1 - step / steps)^power."""
    rise = min(1.0, (step + 1) / (warmup + 1)) if warmup else 1.0
    return rise * max(0.0, 1 - step / steps) ** power


def decay_groups(network: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters in two groups: kernels with weight decay; Batch Norm, biases and other vectors without."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


class MovingAverage(WeightAveraging):
    """Exponential moving average of weights and buffers, used for validation and for what is kept.

    The decay rises as (1 + n) / (10 + n) up to its final value, so that the average is not held back by the fresh
    weights it started from.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            if not averaged.is_floating_point():
                return current
            keep = min(decay, (1 + int(count)) / (10 + int(count)))
            return averaged.lerp(current.to(averaged.dtype), 1 - keep)

        super().__init__(avg_fn=average)


class KeepBest(Callback):
    """Writes the checkpoint with the best validation mIoU as ``<folder>/best.safetensors``, ready for the vehicle.

    It must stand before :class:`MovingAverage` among the callbacks: at the end of validation it then still sees the
    averaged weights, which are the ones that were scored.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "best.safetensors"
        self.miou = -1.0

    def on_validation_epoch_end(self, trainer: lightning.Trainer, task: SegmentationTask) -> None:
        miou = task.confusion.miou()
        if trainer.sanity_checking or not miou > self.miou:
            return
        self.miou = miou
        checkpoint.save(self.path, task.network, self._contract(task, trainer.current_epoch + 1))

    def _contract(self, task: SegmentationTask, epochs: int) -> Contract:
        recipe, iou = task.recipe, np.round(task.confusion.iou(), 4)
        score = {
            "miou": round(self.miou, 4),
            "pixel_accuracy": round(task.confusion.pixel_accuracy(), 4),
            "iou": {n: (None if np.isnan(v) else float(v)) for n, v in zip(task.label_map.names, iou, strict=True)},
            "epochs": epochs,
            "data": f"{recipe.data.dataset} {_plain(recipe.data.val)}",
        }
        return Contract(
            network=recipe.network.name,
            options=recipe.network.options,
            label_map=task.label_map,
            input=task.input,
            training=_without_folders(recipe),
            metrics={"validation": score},
            licence=recipe.licence,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"miou": self.miou}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.miou = state["miou"]


def _without_folders(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data without folders, which say nothing outside the machine that trained."""
    plain = recipe.model_dump(mode="json")
    for split in ("train", "val"):
        plain["data"][split].pop("root", None)
    if recipe.network.pretrained is not None:
        plain["network"]["pretrained"] = recipe.network.pretrained.name
    return plain


def _plain(arguments: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in arguments.items() if key != "root")
