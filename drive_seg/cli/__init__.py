"""``drive-seg``: parse, call, print. A file for each few commands; nothing else imports this package.

Each command imports what it needs when it is called: ``drive-seg inspect`` shall not wait for Lightning to load.
"""

from __future__ import annotations

import sys

import typer

from drive_seg.cli.bench import bench
from drive_seg.cli.calibration import calibrate, self_check
from drive_seg.cli.images import segment, synth
from drive_seg.cli.make_bag import make_bag
from drive_seg.cli.models import export, inspect, networks, prepare
from drive_seg.cli.options import screen
from drive_seg.cli.replay import replay
from drive_seg.cli.training import evaluate, pseudo_label, train

app = typer.Typer(help="Train, check and run the networks of drive_seg.", no_args_is_help=True, add_completion=False)
for command in (
    networks,
    train,
    pseudo_label,
    evaluate,
    calibrate,
    self_check,
    segment,
    export,
    prepare,
    synth,
    bench,
    inspect,
    make_bag,
    replay,
):
    app.command()(command)


def main() -> None:
    """Entry point: exit code 0 only on success, one clear sentence on bad input."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        screen.print(f"drive-seg: {error}", style="red", markup=False, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
