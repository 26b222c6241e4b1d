"""Lines where there is no terminal, a bar where there is one."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from drive_seg.training.progress import RunProgress, bar, duration


class Run:
    """A trainer of 3 epochs of 100 steps, its task, and a clock."""

    def __init__(self, terminal=False):
        self.now, self.out = 0.0, io.StringIO()
        self.trainer = SimpleNamespace(
            is_global_zero=True, global_step=0, current_epoch=0, max_epochs=3, estimated_stepping_batches=300,
            callback_metrics={}, sanity_checking=False,
        )  # fmt: skip
        self.task = SimpleNamespace(mean_loss=lambda: 0.5, recipe=SimpleNamespace(best="val_miou"))
        screen = Console(file=self.out, force_terminal=terminal, width=120, highlight=False)
        self.progress = RunProgress(4, screen, lambda: self.now)
        self.progress.on_train_start(self.trainer, self.task)

    def step(self, seconds):
        self.now += seconds
        self.trainer.global_step += 1
        self.progress.on_train_batch_end(self.trainer, self.task, None, None, 0)

    @property
    def lines(self):
        return self.out.getvalue().splitlines()


def test_a_line_every_half_minute_with_speed_and_time_left():
    run = Run()
    run.step(60)  # the first step compiles: no measure of the others
    assert run.lines == []
    for _ in range(60):
        run.step(1.0)
    assert run.lines == [
        "epoch 1 of 3, step 31 of 300: loss 0.500, 4.0 images/s, 4 min left",
        "epoch 1 of 3, step 61 of 300: loss 0.500, 4.0 images/s, 4 min left",
    ]


def test_a_resumed_run_counts_its_own_steps_for_the_speed():
    run = Run()
    run.trainer.global_step = 200
    for _ in range(32):
        run.step(1.0)
    assert run.lines == ["epoch 1 of 3, step 231 of 300: loss 0.500, 4.0 images/s, 69 s left"]


def test_a_validation_is_a_line():
    run = Run()
    run.trainer.callback_metrics["val_miou"] = 0.61234
    run.progress.on_validation_end(run.trainer, run.task)
    assert run.lines == ["epoch 1: val_miou 0.6123"]


def test_a_terminal_gets_a_bar_that_ends_with_the_run():
    run = Run(terminal=True)
    run.step(1.0)
    run.step(1.0)
    run.progress.teardown(run.trainer, run.task, "fit")
    assert "2/300" in run.out.getvalue() and "4.0 images/s" in run.out.getvalue()


def test_other_devices_are_silent():
    run = Run()
    run.trainer.is_global_zero = False
    for _ in range(3):
        run.step(40.0)
    assert run.lines == []


def test_nothing_is_printed_while_reading_without_a_terminal(capsys):
    assert list(bar(range(3), 3, "reading")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (200, "3 min"), (10_000, "2 h 47 min"), (3600, "1 h 00 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
