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
    size_of,
    tell,
)


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    """An option in a panel of ``--help``."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


PART, TRUTH, LIVE, MANY, REPORT = "Part", "Truth", "Live runs", "Many recordings", "Report"

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="BAG...",
        help="A bag (rosbag2, .mcap, .db3, .bag), a video, a folder of images, or synth:...; or several, folders "
        "of bags, and patterns with * and **.",
    ),
]
Output = Annotated[
    Path, typer.Option("-o", "--output", help="Folder for the report: a new or empty one, or an earlier report's.")
]
Model = Annotated[str | None, typer.Option("--model", "-m", help=MODEL)]
Topics = Annotated[
    list[str] | None,
    _option(PART, "Image topic, or a pattern with * and ?; repeatable. Every camera of the bag if left out."),
]
Start = Annotated[float, _option(PART, "Begin so many seconds after the beginning.", min=0)]
Duration = Annotated[float | None, _option(PART, "End after so many seconds.", min=0)]
Frames = Annotated[int | None, _option(PART, "End after so many images of the first camera.", min=1)]
Fps = Annotated[float | None, _option(PART, "Images a second of a folder (else 10), or instead of a video's.")]
Truth = Annotated[
    Path | None,
    _option(
        TRUTH,
        "Folder of label PNGs (ids, 255 = void), named as the images of a folder, by stamp in ns, by "
        "SECONDS_NANOSECONDS, or by the image's number from 0; with several cameras a folder for each.",
    ),
]
TruthTopic = Annotated[
    str | None,
    _option(
        TRUTH,
        "Label topic of the bag, matched by stamp; {camera} stands for the camera's name. "
        "<camera>/label_truth is found by itself.",
    ),
]
TruthMap = Annotated[
    str | None,
    _option(
        TRUTH,
        "Label map of the truth's ids, as cityscapes19; if left out that on the topic label_map beside the "
        "labels, else the model's own.",
    ),
]
Against = Annotated[
    str | None,
    _option(REPORT, "Compare with another model, or with the folder of an earlier run that was made with --masks."),
]
Require = Annotated[
    list[str] | None,
    _option(
        REPORT,
        "Exit code 1 unless it holds, as miou>=0.65, 'iou.traffic light>=95%', latency_p99_ms<=80; "
        "repeatable. A wrong name lists all names.",
    ),
]
Masks = Annotated[bool, _option(REPORT, "Also write masks.mcap: the masks with the images' stamps.", "--masks")]
Video = Annotated[bool, _option(REPORT, "Also write an overlay video.", "--video")]
Worst = Annotated[int, _option(REPORT, "How many of the worst frames the page shows.", min=0)]
Live = Annotated[
    bool, _option(LIVE, "Play it in real time through the node, and judge what the node published.", "--live")
]
Recorded = Annotated[
    Path | None,
    _option(
        LIVE,
        "Judge an earlier live run: a bag with <camera>/segmentation/label and label_map, /clock and "
        "/diagnostics, recorded while BAG was played with its own stamps.",
    ),
]
Rate = Annotated[float, _option(LIVE, "Speed of the live run, times real time.")]
Jobs = Annotated[
    int, _option(MANY, "Of several bags, how many at a time; 0 is one for each core (two on a GPU).", min=0)
]
Ray = Annotated[
    str | None,
    _option(
        MANY,
        "Judge the bags on a Ray cluster: auto, HOST:PORT, or local for this machine. Bags, model and output "
        "folder must have the same paths on all of its machines.",
        metavar="ADDRESS",
    ),
]


def replay(
    source: Sources,
    output: Output,
    model: Model = None,
    topic: Topics = None,
    start: Start = 0.0,
    duration: Duration = None,
    frames: Frames = None,
    fps: Fps = None,
    truth: Truth = None,
    truth_topic: TruthTopic = None,
    truth_map: TruthMap = None,
    against: Against = None,
    require: Require = None,
    masks: Masks = False,
    video: Video = False,
    worst: Worst = 12,
    live: Live = False,
    recorded: Recorded = None,
    rate: Rate = 1.0,
    jobs: Jobs = 0,
    ray: Ray = None,
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
    sources, against = find_sources(source), against or ""
    if (live or recorded) and len(sources) > 1:
        raise ValueError(f"a live run is of one recording, not of {len(sources)}")
    choice = ModelChoice(model or "", device, precision, runtime, size_of(input_size))
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

    if live or recorded:
        judged = runs.judge_live(work, choice, recorded, rate, against, check)
    elif len(sources) > 1 or ray is not None:
        clear_bags(output)
        judged = runs.judge_many(work, sources, choice, against, check, jobs, ray or "")
    else:
        judged = runs.judge_one(work, choice, against, check)
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
        raise ValueError("--recorded holds masks already: leave --model out, or compare with it by --against")
    if recorded is None and model is None:
        raise ValueError("name the model to judge by --model")
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
