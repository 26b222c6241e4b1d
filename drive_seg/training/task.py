"""One network learning one recipe: the Lightning task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import InputSpec
from drive_seg.inference.decision import decide, to_size
from drive_seg.inference.path import resized
from drive_seg.metrics import ConfusionMatrix
from drive_seg.segmenter import network_size
from drive_seg.training.kernels.dsnet import fuse
from drive_seg.training.kernels.library import ready
from drive_seg.training.losses import WeightedSum
from drive_seg.training.optimization import build_optimizer, learning_rate
from drive_seg.training.pretrained import load_pretrained
from drive_seg.training.recipe import Recipe
from drive_seg.training.record import differences, settings_to_go_on
from drive_seg.training.targets import Targets
from drive_seg.training.teachers import Teachers

_TEACHERS, _SETTINGS = "teachers", "settings"
"""Where a training checkpoint says which teachers the run learns from, and by which settings."""


class SegmentationTask(lightning.LightningModule):
    """Network, losses, optimiser and validation of a recipe.

    Args:
        recipe: what to do.
        targets: the classes and groups of the labels, and their shares, for the losses that weight by them.
        steps_per_epoch: for the learning rate.
        resumes: all weights will come from a training checkpoint, so the files that the recipe starts from are not
            read and may be gone. Teachers are read always.
        val_ids: the ids that validation labels can hold, which are those that are scored; all of them if not given.

    Batches are image uint8 BGR [B, 3, H, W] and label uint8 [B, H, W].

    Raises:
        ValueError: if the network, its losses, a file it starts from or a teacher does not fit.
    """

    def __init__(
        self,
        recipe: Recipe,
        targets: Targets,
        steps_per_epoch: int,
        resumes: bool = False,
        val_ids: Iterable[int] | None = None,
    ) -> None:
        super().__init__()
        self.recipe, self.targets, self.steps_per_epoch = recipe, targets, steps_per_epoch
        self.label_map = label_map = targets.label_map
        network = networks.build(recipe.network.name, label_map.num_classes, **recipe.network.options)
        self.input = InputSpec(recipe.data.input_size, mean=network.mean, std=network.std)
        self.network = network.to(memory_format=torch.channels_last)
        self.losses = WeightedSum(recipe.losses, targets)
        self.teachers = Teachers(recipe.teachers, label_map)
        self.confusion = ConfusionMatrix(label_map.num_classes, targets.groups)
        self.val_ids = frozenset(range(targets.num_targets) if val_ids is None else val_ids)
        self._loss_sums, self._loss_count = torch.zeros(1), 0
        if uses_kernels(recipe.precision):
            fuse(self.network)
        elif recipe.compile:
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

    def freeze_unused(self) -> list[str]:
        """Exclude from training, and return the names of, parameters that no loss of the recipe looks at.

        They would never change anyway; but devices that train together wait for the gradient of every parameter that
        is not excluded. Found by following a tiny batch's loss back through what it was computed from.

        Raises:
            ValueError: if a loss needs what the network does not give.
        """
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
        label = torch.randint(0, self.label_map.num_classes, (2, 64, 64), dtype=torch.uint8)
        training = self.network.training
        self.network.train()
        # forward, not a call: this size will not come again, it is not worth compiling for
        loss, _ = self.losses(self.network.forward(self.input.normalise(image)), label, self.teachers(image))
        used = _leaves(loss)
        self.network.train(training)
        for name, buffer in self.network.named_buffers():
            buffer.copy_(buffers[name])
        unused = [name for name, parameter in self.network.named_parameters() if parameter not in used]
        for name in unused:
            self.network.get_parameter(name).requires_grad_(False)
        return unused

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[_TEACHERS] = self.teachers.origin
        checkpoint[_SETTINGS] = settings_to_go_on(self.recipe)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make sure that a run goes on as it began.

        Raises:
            ValueError: if its settings or teachers are others now, or it is longer already than it shall be.
        """
        if _TEACHERS in checkpoint:  # older files do not say, neither of these nor of settings
            self.teachers.check_same(checkpoint[_TEACHERS])
        settings = settings_to_go_on(self.recipe)
        if changed := differences(checkpoint.get(_SETTINGS, settings), settings):
            raise ValueError(
                f"last.ckpt was trained with other settings ({changed}); go on with the same, begin anew with "
                "--restart, or train on in another folder with warm_start"
            )
        done = checkpoint["epoch"] + 1
        if done > self.trainer.max_epochs:
            raise ValueError(
                f"last.ckpt has {done} epochs behind it, but the recipe asks for {self.trainer.max_epochs}; give "
                "another folder, or begin anew with --restart"
            )

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        # Dropout's random numbers depend on these alone, so that a resumed run draws the same.
        key = (self.recipe.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        image, label = batch
        loss, terms = self.losses(self.network(self.input.normalise(image)), label, self.teachers(image))
        # Added up here and logged at the end of the epoch: to log a value at each step costs more than to compute it.
        found = torch.stack([loss.detach(), *(term.detach() for term in terms.values())])
        if batch_idx == 0:
            self._loss_sums, self._loss_count = torch.zeros_like(found), 0
        self._loss_sums += found
        self._loss_count += 1
        return loss

    def mean_loss(self) -> float:
        """Of the steps of this epoch so far."""
        return float(self._loss_sums[0]) / max(1, self._loss_count)

    def on_train_epoch_end(self) -> None:
        names = ("loss", *(f"loss_{name}" for name in self.losses.terms))
        means = self._loss_sums / max(1, self._loss_count)
        self.log_dict(dict(zip(names, means, strict=True)), sync_dist=self.trainer.world_size > 1)

    def on_validation_epoch_start(self) -> None:
        self.confusion = ConfusionMatrix(self.label_map.num_classes, self.targets.groups)
        if self.trainer.world_size > 1:
            # Where Batch Norm is not synchronised, each device has gathered statistics of its own.
            for buffer in self.network.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.trainer.strategy.reduce(buffer.clone(), reduce_op="mean"))

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """The predicted class ids, uint8 [B, H, W]."""
        image, label = batch
        size = label.shape[-2:]
        # In single precision and by the vehicle's road, so that the score is the one the finished file gets. forward,
        # not a call: validation images come in any size, and compiling for each would take longer than it saves.
        with torch.autocast(image.device.type, enabled=False):
            seen = resized(image, network_size(self.input.size, *size))
            ids, _ = decide(self.network.forward(self.input.normalise(seen)), confidence=False)
        prediction = torch.stack([to_size(one, size) for one in ids])
        self.confusion.update(prediction.cpu().numpy(), label.cpu().numpy())
        return prediction

    def on_validation_epoch_end(self) -> None:
        iou = {f"val_iou_{name}": value for name, value in self.validation_iou().items() if value is not None}
        together = self.trainer.world_size > 1  # the devices have the same figures: their mean is these
        for name, value in {**self.scores(), **iou}.items():
            self.log(name, value, prog_bar=name == self.recipe.best, sync_dist=together)

    def validation_iou(self) -> dict[str, float | None]:
        """IoU of each class and group by name, None for one that is neither in the validation labels nor predicted, or
        that they cannot hold. One that is only predicted has an IoU of 0, as in ``drive-seg evaluate``."""
        iou = [None if np.isnan(v) or i not in self.val_ids else float(v) for i, v in enumerate(self.confusion.iou())]
        return dict(zip(self.targets.names, iou, strict=True))

    def scores(self) -> dict[str, float]:
        """The last validation's figures; NaN where its labels hold nothing that they could be taken over.

        ``val_miou`` is the mean of :meth:`validation_iou`, ``val_f_miou`` the mean over those of the foreground (FBNet,
        section 4.1; a group belongs to it if all of its classes do), ``val_accuracy`` the share of labelled pixels that
        are right.
        """
        foreground = set(self.label_map.foreground())
        names = self.targets.names
        front = {names[i] for i in foreground}
        front |= {
            names[g]
            for g, members in enumerate(self.targets.groups, start=self.label_map.num_classes)
            if foreground.issuperset(members)
        }
        iou = {name: value for name, value in self.validation_iou().items() if value is not None}
        return {
            "val_miou": _mean(list(iou.values())),
            "val_f_miou": _mean([value for name, value in iou.items() if name in front]),
            "val_accuracy": self.confusion.pixel_accuracy(),
        }

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = build_optimizer(self.network, self.recipe.optimizer)
        rate = learning_rate(self.recipe.schedule, self.steps_per_epoch)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def uses_kernels(precision: str) -> bool:
    """Whether a recipe of this precision trains by :mod:`drive_seg.training.kernels` on this machine."""
    return precision in ("auto", "bf16") and not torch.cuda.is_available() and ready()


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _leaves(loss: Tensor) -> set[Tensor]:
    """The tensors that gradients of a loss would be gathered in."""
    found: set[Tensor] = set()
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found
