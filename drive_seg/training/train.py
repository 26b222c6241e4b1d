"""``drive-seg train``: follow a recipe from start to end, or on from where it was stopped."""

from __future__ import annotations

from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from drive_seg.training.data import SegmentationData
from drive_seg.training.recipe import Recipe
from drive_seg.training.task import KeepBest, MovingAverage, SegmentationTask


def train(recipe: Recipe, folder: Path, resume: bool = True, progress: bool = True) -> Path:
    """Train, and return the path of the best checkpoint, ``<folder>/best.safetensors``.

    Beside it stand ``last.ckpt`` (to resume from, written after each epoch), a CSV log of each attempt and TensorBoard
    events.

    Args:
        recipe: what to do.
        folder: where everything goes; made if missing.
        resume: go on from ``<folder>/last.ckpt`` if it is there.
        progress: show a progress bar.

    Raises:
        ValueError: if data, network or losses do not fit the recipe.
    """
    lightning.seed_everything(recipe.seed, verbose=False)
    folder.mkdir(parents=True, exist_ok=True)
    data = SegmentationData(recipe)
    last = folder / "last.ckpt"
    resumes = resume and last.is_file()
    task = SegmentationTask(recipe, data.label_map, data.frequency, data.steps_per_epoch, resumes)
    keep_best = KeepBest(folder)
    trainer = lightning.Trainer(
        max_epochs=recipe.schedule.epochs,
        precision="16-mixed" if torch.cuda.is_available() else "bf16-mixed",
        callbacks=[
            keep_best,
            MovingAverage(recipe.ema_decay),
            ModelCheckpoint(folder, filename="last", every_n_epochs=1, save_top_k=1, enable_version_counter=False),
            *([RichProgressBar()] if progress else []),
        ],
        logger=[
            CSVLogger(folder, name="csv"),  # a file of its own per attempt: this logger wipes an older one
            TensorBoardLogger(folder, name="tensorboard", version=""),
        ],
        check_val_every_n_epoch=recipe.validate_every,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
    # weights_only: a training checkpoint is read as plain data, never as a pickle that may run code
    trainer.fit(task, data, ckpt_path=last if resumes else None, weights_only=True)
    return keep_best.path
