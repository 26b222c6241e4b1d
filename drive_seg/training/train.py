"""``drive-seg train``: follow a recipe from start to end, or on from where it was stopped."""

from __future__ import annotations

from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only

from drive_seg.training.callbacks import KeepBest, MovingAverage, Panel, SumOverDevices, ValidateLast
from drive_seg.training.check import refuse_broken
from drive_seg.training.checkpointing import WholeCheckpoints, remove_partial
from drive_seg.training.data import SegmentationData
from drive_seg.training.kernels.library import keep_freed_memory
from drive_seg.training.optimization import whole_epochs
from drive_seg.training.progress import RunProgress
from drive_seg.training.recipe import Recipe
from drive_seg.training.task import SegmentationTask


def train(recipe: Recipe, folder: Path, resume: bool = True, progress: bool = True) -> Path:
    """Train, and return the path of the best checkpoint, ``<folder>/best.safetensors``.

    Beside it stand ``last.ckpt`` (to resume from, written after each epoch), ``panels/`` with pictures of each
    validation, a CSV log of each attempt and TensorBoard events.

    With several devices this function runs in a process for each: started by ``torchrun``, by SLURM, or else by the
    first one, which calls the same command again for the others. Only the first one writes.

    Args:
        recipe: what to do.
        folder: where everything goes; made if missing.
        resume: go on from ``<folder>/last.ckpt`` if it is there.
        progress: show how far it is: a bar on a terminal, else a line every half a minute.

    Raises:
        ValueError: if data, network, losses, precision or ``last.ckpt`` do not fit the recipe, or a teacher
            has changed.
        OSError: if something cannot be written; the older files are then still whole.
    """
    if not torch.cuda.is_available():
        keep_freed_memory()
    lightning.seed_everything(recipe.seed, verbose=False)
    folder.mkdir(parents=True, exist_ok=True)
    if rank_zero_only.rank == 0:
        remove_partial(folder)
    last = folder / "last.ckpt"
    resumes = resume and last.is_file()
    if rank_zero_only.rank == 0 and not resumes:
        refuse_broken(recipe, progress)
    data = SegmentationData(recipe)
    task = SegmentationTask(recipe, data.targets, data.steps_per_epoch, resumes, data.val_ids)
    several = recipe.devices * recipe.nodes > 1
    if several:
        task.freeze_unused()
    keep_best = KeepBest(folder)
    trainer = lightning.Trainer(
        max_epochs=whole_epochs(recipe.schedule, data.steps_per_epoch),
        devices=recipe.devices,
        num_nodes=recipe.nodes,
        # The figures that Batch Norm gathers are the same on all devices already, or averaged before validation.
        strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
        sync_batchnorm=several and torch.cuda.is_available(),
        use_distributed_sampler=False,  # EpochOrder shares the samples out
        precision=_precision(recipe.precision),
        accumulate_grad_batches=recipe.accumulate,
        gradient_clip_val=recipe.optimizer.clip_norm,
        plugins=[WholeCheckpoints()],
        callbacks=[
            ValidateLast(),
            SumOverDevices(),
            keep_best,
            Panel(folder),
            MovingAverage(recipe.ema_decay),
            LearningRateMonitor("epoch"),
            ModelCheckpoint(
                folder,
                filename="last",
                every_n_epochs=1,
                save_on_train_epoch_end=True,  # else it would wait for validations
                save_top_k=1,
                enable_version_counter=False,
            ),
            *([RunProgress(recipe.data.batch_size)] if progress else []),
        ],
        logger=[
            CSVLogger(folder, name="csv"),  # a file of its own per attempt: this logger wipes an older one
            TensorBoardLogger(folder, name="tensorboard", version=""),
        ],
        check_val_every_n_epoch=recipe.validate_every,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if rank_zero_only.rank == 0 and not resume:
        _discard(folder)  # not before all has been read and built, which may fail
    trainer.fit(task, data, ckpt_path=last if resumes else None)
    if not keep_best.has_score:
        raise ValueError(
            f"no validation gave a {recipe.best}: its labels hold nothing of what that is taken over, so there is no "
            f"best checkpoint; {last} holds the training"
        )
    return keep_best.path


def _discard(folder: Path) -> None:
    """Remove what a run that begins anew could be mistaken to go on from, or its outcome for; logs stay."""
    for path in (folder / "last.ckpt", folder / "best.safetensors", *(folder / "panels").glob("*.png")):
        path.unlink(missing_ok=True)


def _precision(name: str) -> str:
    """Lightning's word for it."""
    cuda = torch.cuda.is_available()
    if name == "fp16" and not cuda:
        raise ValueError("precision fp16 needs a CUDA device; bf16 and fp32 run anywhere")
    return {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed", "auto": "16-mixed" if cuda else "bf16-mixed"}[
        name
    ]
