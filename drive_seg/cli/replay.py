"""``drive-seg replay``: is this model good enough on this recording?"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from drive_seg.cli.options import (
    MODEL,
    Device,
    InputSize,
    Json,
    Precision,
    Runtime,
    print_json,
    screen,
    size_or_none,
    tell,
)


def replay(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="BAG...",
            help="A bag (rosbag2, .mcap, .db3, .bag), a video, a folder of images, or synth:...; or several, folders "
            "of bags, and patterns with * and **.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the report: a new or empty one, or an earlier report's.")
    ],
    model: Annotated[str | None, typer.Option("--checkpoint", help=MODEL)] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(help="Image topic, or a pattern with * and ?; repeatable. Every camera of the bag if left out."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Folder of label PNGs (ids, 255 = void), named as the images of a folder, by stamp in ns, by "
            "SECONDS_NANOSECONDS, or by the image's number from 0; with several cameras a folder for each."
        ),
    ] = None,
    truth_topic: Annotated[
        str | None,
        typer.Option(
            help="Label topic of the bag, matched by stamp; {camera} stands for the camera's name. "
            "<camera>/label_truth is found by itself."
        ),
    ] = None,
    truth_map: Annotated[
        str | None,
        typer.Option(
            help="Label map of the truth's ids, as cityscapes19; if left out that on the topic label_map beside the "
            "labels, else the model's own."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Compare with another model, or with the folder of an earlier run that was made with --masks."
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit code 1 unless it holds, as miou>=0.65, 'iou.traffic light>=95%', latency_p99_ms<=80; "
            "repeatable. A wrong name lists all names."
        ),
    ] = None,
    start: Annotated[float, typer.Option(min=0, help="Begin so many seconds after the beginning.")] = 0.0,
    duration: Annotated[float | None, typer.Option(min=0, help="End after so many seconds.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="End after so many images of the first camera.")] = None,
    fps: Annotated[
        float | None, typer.Option(help="Images a second of a folder (else 10), or instead of a video's.")
    ] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="Also write masks.mcap: the masks with the images' stamps.")
    ] = False,
    video: Annotated[bool, typer.Option("--video", help="Also write an overlay video.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Play it in real time through the node, and judge what the node published.")
    ] = False,
    recorded: Annotated[
        Path | None,
        typer.Option(
            help="Judge an earlier live run: a bag with <camera>/segmentation/label and label_map, /clock and "
            "/diagnostics, recorded while BAG was played with its own stamps."
        ),
    ] = None,
    rate: Annotated[float, typer.Option(help="Speed of the live run, times real time.")] = 1.0,
    jobs: Annotated[
        int, typer.Option(min=0, help="Of several bags, how many at a time; 0 is one for each core (two on a GPU).")
    ] = 0,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Judge the bags on a Ray cluster: auto, HOST:PORT, or local for this machine. Bags, model and output "
            "folder must have the same paths on all of its machines.",
        ),
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="How many of the worst frames the page shows.")] = 12,
    input_size: InputSize = None,
    device: Device = "auto",
    precision: Precision = "auto",
    runtime: Runtime = "auto",
    figures: Json = None,
) -> None:
    """Label every frame of a recording exactly once and report: report.html, report.json, frames.csv.

    Without a clock: no frame is dropped, and the figures are the same every time, but for the model's time per frame.
    With --live the recording is played through the real node, so that drops and latency are judged too. Several
    recordings make one report; one that cannot be read is left out, and the exit code is then 1.
    """
    from drive_seg.cli import replay_runs as runs
    from drive_seg.evaluation import requirements
    from drive_seg.evaluation.bags import find_sources
    from drive_seg.evaluation.deterministic import ModelChoice, Work
    from drive_seg.evaluation.output import PAGE, check_folder, clear_bags, write_report
    from drive_seg.evaluation.report import About, as_report
    from drive_seg.evaluation.rivals import is_run, name_of
    from drive_seg.evaluation.truths import TruthChoice
    from drive_seg.recordings.reading import Slice

    _check_together(model, live, recorded, rate, jobs, ray)
    check_folder(output)
    sources = find_sources(source)
    if (live or recorded) and len(sources) > 1:
        raise ValueError(f"a live run is of one recording, not of {len(sources)}")
    path = model or ""
    choice = ModelChoice(path, device, precision, runtime, size_or_none(input_size))
    work = Work(
        sources[0],
        topics=tuple(topic) if topic else None,
        part=Slice(start, duration, frames, fps),
        truth=TruthChoice(truth_topic, truth, truth_map),
        against=against if against and is_run(against) else "",
        model_name=choice.name,
        worst=worst,
        output=output,
        masks=masks,
        video=video,
    )
    required: list[requirements.Requirement] = []

    def check(label_map: Any) -> None:
        required[:] = requirements.parse(require or [], label_map)

    is_many = len(sources) > 1 or ray is not None
    if live or recorded:
        judged = runs.judge_live(work, choice, recorded, rate, against or "", check)
    elif is_many:
        clear_bags(output)
        judged = runs.judge_many(work, sources, choice, against or "", check, jobs, ray or "")
    else:
        judged = runs.judge_one(work, choice, against or "", check)
    about = About(
        judged.mode,
        ", ".join(source),
        judged.title,
        judged.model,
        shlex.join(["drive-seg", *sys.argv[1:]]),
        judged.latency_meaning,
        name_of(against, choice.name) if against else "",
    )
    report: dict[str, Any] = dict(as_report(judged.partial, about, judged.stalls))
    report["requirements"] = [requirement.judge(report) for requirement in required]
    write_report(output, report, judged.partial, judged.written)
    print_json(report, figures)
    _tell_result(report, judged.partial.rows, output / PAGE, requirements.sentences(required, report))


def _check_together(
    model: str | None, live: bool, recorded: Path | None, rate: float, jobs: int, ray: str | None
) -> None:
    """Refuse options that do not go together: ValueError."""
    if recorded is not None and model is not None:
        raise ValueError("--recorded holds masks already: leave --checkpoint out, or compare with it by --against")
    if recorded is None and model is None:
        raise ValueError("name the model to judge by --checkpoint")
    if recorded is not None and live:
        raise ValueError("--live plays a recording now, --recorded judges an earlier run: choose one")
    if (live or recorded is not None) and (jobs or ray is not None):
        raise ValueError("--jobs and --ray are for many bags, which cannot be judged live")
    if not (0 < rate < float("inf")):
        raise ValueError(f"the rate must lie above 0, not {rate:g}")
    if rate != 1.0 and not (live or recorded is not None):
        raise ValueError("--rate is for live runs: without a clock there is no speed")


def _tell_result(report: dict[str, Any], rows: list[Any], page: Path, missed: list[str]) -> None:
    from drive_seg.recordings.sources.topics import so_many

    frames = report["frames"]
    for bag in report["bags"]:
        if bag["reason"] and bag["status"] == "ok":
            tell(f"{bag['name']}: {bag['reason']}.")
    odd = [row for row in rows if row["reason"]]
    if odd:
        first = f"the first is frame {odd[0]['index']}: {odd[0]['reason']}"
        tell(f"{so_many(len(odd), 'frame')} with a remark in frames.csv, {first}.")
    score = f"mIoU {100 * report['miou']:.1f} % on {frames['scored']} of them, " if report["miou"] is not None else ""
    received = so_many(frames["received"], "frame")
    typer.echo(f"{received}, {frames['published']} with a mask, {score}see {page}", err=True)
    for sentence in missed:
        screen.print(f"drive-seg: {sentence}", style="red", markup=False, highlight=False)
    broken = [bag["name"] for bag in report["bags"] if bag["status"] != "ok"]
    if broken:
        whole = so_many(len(report["bags"]), "recording")
        sentence = f"{len(broken)} of {whole} could not be judged: {', '.join(broken)}"
        screen.print(f"drive-seg: {sentence}", style="red", markup=False, highlight=False)
    if bare := not frames["published"] and len(broken) < len(report["bags"]):
        screen.print("drive-seg: no frame got a mask", style="red", markup=False, highlight=False)
    if missed or broken or bare:
        raise typer.Exit(1)
