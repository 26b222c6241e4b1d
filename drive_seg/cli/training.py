"""``drive-seg train``, ``pseudo-label`` and ``evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from drive_seg.cli.options import (
    Dataset,
    DatasetOption,
    Device,
    InputSize,
    Json,
    Model,
    Precision,
    Root,
    Runtime,
    Split,
    check_place,
    number,
    open_labelled,
    print_json,
    screen,
    size_of,
    tell,
)


def train(
    recipe: Annotated[list[Path], typer.Argument(help="A recipe file, see config/train/; with --study, studies.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder; runs/<recipe> if left out.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting, as schedule.epochs=10; repeatable.")
    ] = None,
    restart: Annotated[bool, typer.Option(help="Begin anew instead of resuming from the folder's last.ckpt.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Do not train: read all data, print class shares and all that is wrong.")
    ] = False,
    study: Annotated[
        bool, typer.Option("--study", help="The files are studies, see config/study/: train and compare their rows.")
    ] = False,
    figures: Annotated[
        Path | None,
        typer.Option("--json", help="With --check or --study: write the outcome as JSON; - is standard output."),
    ] = None,
) -> None:
    """Train a network by a recipe; run it again to go on where it stopped.

    Several GPUs: --set devices=4, and --set nodes=2 on each of two machines under torchrun or SLURM.
    """
    if study:
        if check or restart:
            raise ValueError("--study takes neither --check nor --restart")
        _study(recipe, output or Path("runs") / "studies", setting or [], figures)
        return
    from drive_seg.training.recipe import load_recipe

    if len(recipe) > 1:
        raise ValueError(f"{len(recipe)} recipes were given; one is trained at a time")
    plan = load_recipe(recipe[0], setting)
    if check:
        _check(plan, figures)
        return
    if figures is not None:
        raise ValueError("--json goes with --check or --study; a training run logs to its folder")
    from lightning.pytorch.utilities import rank_zero_only

    from drive_seg.training.train import train as run

    best = run(plan, output or Path("runs") / plan.name, resume=not restart)
    rank_zero_only(typer.echo)(f"best checkpoint: {best}")  # once, however many processes trained


def pseudo_label(
    teachers: Annotated[Path, typer.Argument(help="Who labels: a file as config/teachers/mit_road.yaml.")],
    sources: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Images, folders, videos, bags or synth:...")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="A new folder for the dataset.")],
    width: Annotated[
        int | None, typer.Option(min=16, help="Of the stored images in pixels, where they are wider.")
    ] = None,
    step: Annotated[int, typer.Option(min=1, help="Take every step-th frame of a video, bag or drive.")] = 1,
    void_below: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the height below which is the vehicle's own bonnet: void.")
    ] = 1.0,
    device: Device = "auto",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a setting, as teachers.0.min_confidence=0.8; repeatable."),
    ] = None,
    figures: Json = None,
) -> None:
    """Label images by finished models where they are sure: a dataset for training, with overlays to look at first."""
    from rich.table import Table

    from drive_seg.inference.runtimes.pytorch import choose_device
    from drive_seg.training import pseudo_labels
    from drive_seg.training.recipe import load_settings

    plan = load_settings(pseudo_labels.Plan, teachers, setting)
    device = choose_device(device)
    done = pseudo_labels.pseudo_label(
        plan, sources, output, width, step, void_below, device, tell, progress=sys.stdout.isatty()
    )
    print_json({"images": done.images, "shares": done.shares}, figures)
    if figures is None:
        table = Table("class or group", "% of pixels")
        for name, share in done.shares.items():
            table.add_row(name, f"{100 * share:.1f}")
        Console().print(table)
    typer.echo(f"{done.images} images labelled, see {done.folder / 'overlay'}", err=True)


def evaluate(
    model: Model,
    dataset: Dataset,
    root: Root = None,
    split: Split = None,
    option: DatasetOption = None,
    scales: Annotated[str, typer.Option(help="Average over the image in these scales, as 0.5,0.75,1.")] = "1",
    flip: Annotated[bool, typer.Option("--flip", help="Average over the image and its mirror image.")] = False,
    window: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT of a sliding window, in pixels of the network's input.")
    ] = None,
    stride: Annotated[str, typer.Option(help="Step of the window in parts of it.")] = "2/3",
    page: Annotated[Path | None, typer.Option(help="Folder for a page with figures and pictures.")] = None,
    worst: Annotated[int, typer.Option(min=0, help="How many of the worst images the page shows.")] = 12,
    input_size: InputSize = None,
    device: Device = "auto",
    precision: Precision = "auto",
    runtime: Runtime = "auto",
    output: Json = None,
) -> None:
    """Score a model on a labelled dataset: IoU, accuracy and boundaries by class and group.

    Labels as on the vehicle, unless scales, flip or a window ask for more: these average probabilities, in fp32 if
    the precision is left at auto. The labels of a folder or bag have the model's classes, unless --option classes=
    names others.
    """
    from drive_seg.evaluation import dataset as evaluation
    from drive_seg.evaluation.dataset_page import write_page
    from drive_seg.segmenter import Segmenter
    from drive_seg.training.inference import Inference

    if output is not None and str(output) != "-":
        check_place(output)
    if page is not None and page.exists() and not page.is_dir():
        raise ValueError(f"{page} is a file; --page names a folder")
    inference = Inference(
        tuple(number("scale", part) for part in scales.split(",")), flip, size_of(window), number("stride", stride)
    )
    if precision == "auto" and not inference.as_on_the_vehicle:
        precision = "fp32"
    segmenter = Segmenter.load(model, device, precision, size_of(input_size), runtime, tell=tell)
    data, meaning = open_labelled(dataset, root, split, option, segmenter.label_map)
    scores = evaluation.evaluate(segmenter, data, inference=inference, meaning=meaning)
    print_json(evaluation.as_report(scores), output)
    if output is None:
        Console().print(evaluation.as_tables(scores))
    if page is not None:
        title = " ".join([Path(model).stem, "on", dataset, *([split] if split else [])])
        written = write_page(page, title, scores, segmenter, data, worst, meaning)
        typer.echo(f"see {written}", err=True)


def _study(paths: list[Path], folder: Path, settings: list[str], output: Path | None) -> None:
    from drive_seg.training.study import as_table, carry_out, load_study
    from drive_seg.training.train import train as run

    for path in paths:  # a fault in the last one shall not wait for the first to be trained
        load_study(path, settings)
    reports = [carry_out(p, folder / p.stem, run, settings) for p in paths]
    print_json(reports, output)
    if output is None:
        for report in reports:
            Console().print(as_table(report))


def _check(plan: Any, output: Path | None) -> None:
    from drive_seg.training.check import check_data
    from drive_seg.training.check_report import print_report

    report = check_data(plan)
    print_json(report.to_dict(), output)
    print_report(report, screen if str(output) == "-" else Console())
    if report.errors:
        raise typer.Exit(1)
