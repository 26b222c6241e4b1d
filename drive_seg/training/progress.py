"""How far a run is: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, track

T = TypeVar("T")

LINE_EVERY_S = 30.0


def console() -> Console:
    """Standard error; its ``is_terminal`` decides between bars and lines."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def bar(items: Iterable[T], total: int, description: str, shown: bool = True) -> Iterator[T]:
    """The items, under a bar that vanishes, or nothing where there is no terminal."""
    screen = console()
    disable = not (shown and screen.is_terminal)
    yield from track(items, total=total, description=description, console=screen, transient=True, disable=disable)


class RunProgress(Callback):
    """Steps of the whole run, the loss, images per second and the time left, on the first device.

    The speed is that of the steps since the run was started, their validations included, so that the time left is, too.

    Args:
        images: of one optimiser step, all devices together.
        screen: where to.
        clock: gives seconds.
    """

    def __init__(self, images: int, screen: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._images, self._screen, self._clock = images, screen or console(), clock
        self._bar: Progress | None = None
        self._began = self._told = 0.0
        self._first = 0

    def on_train_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        # The first step compiles, and is no measure of the others: the clock begins with its end.
        self._first = -1
        if self._screen.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
            )
            self._bar = Progress(*columns, console=self._screen)
            self._bar.start()
            self._bar.add_task("training", total=_steps(trainer), completed=trainer.global_step, state="")

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        task: lightning.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if not trainer.is_global_zero:
            return
        now = self._clock()
        if self._first < 0:
            self._began = self._told = now
            self._first = trainer.global_step
        elif self._bar is not None or now - self._told >= LINE_EVERY_S:
            self._told = now
            self._tell(trainer, task, now)

    def on_validation_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        best = trainer.callback_metrics.get(task.recipe.best)
        if trainer.is_global_zero and best is not None and not trainer.sanity_checking:
            self._screen.print(f"epoch {trainer.current_epoch + 1}: {task.recipe.best} {float(best):.4f}")

    def teardown(self, trainer: lightning.Trainer, task: lightning.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _tell(self, trainer: lightning.Trainer, task: lightning.LightningModule, now: float) -> None:
        done = trainer.global_step - self._first
        state = f"loss {task.mean_loss():.3f}"
        if done > 0 and now > self._began:
            each = (now - self._began) / done
            left = duration(each * max(0, _steps(trainer) - trainer.global_step))
            state += f", {self._images / each:.1f} images/s, {left} left"
        epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        if self._bar is None:
            self._screen.print(f"{epoch}, step {trainer.global_step} of {_steps(trainer)}: {state}")
        else:
            self._bar.update(self._bar.task_ids[0], completed=trainer.global_step, description=epoch, state=state)


def _steps(trainer: lightning.Trainer) -> int:
    return int(trainer.estimated_stepping_batches)


def duration(seconds: float) -> str:
    """45 -> "45 s", 200 -> "3 min", 10000 -> "2 h 47 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
