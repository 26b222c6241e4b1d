"""``drive-seg``: parse, call, print."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

# Each command imports what it needs: `drive-seg inspect` shall not wait for Lightning to load.
app = typer.Typer(help="Train, check and run the networks of drive_seg.", no_args_is_help=True, add_completion=False)
_screen = Console(stderr=True)

MODEL = (
    "A .safetensors file, an .onnx or OpenVINO .xml file with <name>.contract.yaml beside it, or the name of a model "
    "of the package."
)
Checkpoint = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)]
Json = Annotated[Path | None, typer.Option("--json", help="Write the figures there as JSON; - is standard output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")]
Runtime = Annotated[str, typer.Option(help="auto, torch, onnxruntime or openvino.")]
InputSize = Annotated[
    str | None,
    typer.Option(help="HEIGHTxWIDTH whose pixel count the network sees; the model's own if left out."),
]


@app.command()
def networks(
    system: Annotated[
        str | None, typer.Argument(help="A network, or a part of a system's name; all if left out.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH of the image; 360x640, with --paper-rules 1024x1024.")
    ] = None,
    classes: Annotated[
        int, typer.Option(min=6, help="Number of classes; FBNet takes five of them for background.")
    ] = 19,
    paper_rules: Annotated[bool, typer.Option("--paper-rules", help="Count as Table 2 of FBNet's paper does.")] = False,
    output: Json = None,
) -> None:
    """List the systems of the papers: options, parameters, multiply-accumulates, the paper's figure.

    Parameters are those of inference; what training has on top stands below them. Multiply-accumulates are of one
    image at inference: convolutions and matrix products by torch's own counter, halved. --paper-rules counts what
    modules do as FBNet's paper counts its "FLOPs": convolutions with biases, Batch Norm 2 per element, ReLU 1, pooling
    1 per input element, and FBNet's heads, which inference does not run.
    """
    from drive_seg.network_table import as_table, options_text
    from drive_seg.networks import catalog, systems

    pixels = _size(size) or (systems.PAPER_SIZE if paper_rules else (360, 640))
    if min(pixels) < 64:
        raise ValueError(f"size {size} is below 64 x 64 pixels, the least that every network takes")
    rows = list(systems.measure(systems.find(system), pixels, classes, paper_rules))
    _print_json(rows, output)
    if output is None:
        Console().print(as_table(rows, paper_rules))
        if system in catalog.names():
            typer.echo(options_text(system, catalog.options(system)))


@app.command()
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
        if setting or check or restart:
            raise ValueError("--study takes none of --set, --check and --restart: its files say what is trained")
        _study(recipe, output or Path("runs") / "studies", figures)
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

    best = run(plan, output or Path("runs") / plan.name, resume=not restart, progress=sys.stderr.isatty())
    rank_zero_only(typer.echo)(f"best checkpoint: {best}")  # once, however many processes trained


@app.command()
def evaluate(
    checkpoint: Checkpoint,
    dataset: Annotated[str, typer.Option(help="Kind of dataset: camvid, cityscapes, folder, synth, ...")],
    root: Annotated[Path | None, typer.Option(help="The dataset's folder.")] = None,
    split: Annotated[str | None, typer.Option(help="Which part of it, as val.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Further argument of the dataset, as seeds=[100,110]; repeatable."),
    ] = None,
    scales: Annotated[str, typer.Option(help="Average over the image in these scales, as 0.5,0.75,1.")] = "1",
    flip: Annotated[bool, typer.Option("--flip", help="Average over the image and its mirror image.")] = False,
    window: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH of a sliding window, in pixels of the network's input.")
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
    import yaml

    from drive_seg.segmenter import Segmenter
    from drive_seg.training import evaluation
    from drive_seg.training.datasets import open_dataset
    from drive_seg.training.evaluation_page import write_page
    from drive_seg.training.inference import Inference

    inference = Inference(
        tuple(_number("scale", part) for part in scales.split(",")), flip, _size(window), _number("stride", stride)
    )
    if precision == "auto" and not inference.as_on_the_vehicle:
        precision = "fp32"
    segmenter = Segmenter.load(checkpoint, device, precision, _size(input_size), runtime, tell=_tell)
    arguments: dict[str, Any] = {"root": root, "split": split}
    if dataset in ("folder", "bag"):
        arguments["classes"] = segmenter.label_map
    for pair in option or []:
        key, _, value = pair.partition("=")
        arguments[key] = yaml.safe_load(value)
    data = open_dataset(dataset, **{k: v for k, v in arguments.items() if v is not None})
    scores = evaluation.evaluate(segmenter, data, inference=inference)
    _print_json(evaluation.as_report(scores), output)
    if output is None:
        Console().print(evaluation.as_tables(scores))
    if page is not None:
        title = " ".join([Path(checkpoint).stem, "on", dataset, *([split] if split else [])])
        written = write_page(page, title, scores, segmenter, data, worst)
        typer.echo(f"see {written}", err=True)


@app.command()
def segment(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="An image, a folder, a video, a bag or synth:...")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder, or a .mp4 file.")],
    model: Annotated[str, typer.Option(help=MODEL)] = "dsnet_synth19",
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Strength of the mask in overlays.")] = 0.5,
    input_size: InputSize = None,
    device: Device = "auto",
    precision: Precision = "auto",
    runtime: Runtime = "auto",
) -> None:
    """Label images: label PNGs, colour and overlay pictures in a folder, or an overlay video with a legend."""
    from drive_seg.replay.segment import segment_source
    from drive_seg.segmenter import Segmenter

    segmenter = Segmenter.load(model, device, precision, _size(input_size), runtime, tell=_tell)
    count, where = segment_source(segmenter, source, output, alpha)
    typer.echo(f"{count} images labelled, see {where}")


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A .safetensors file, or a model of the package.")],
    to: Annotated[str, typer.Option(help="onnx, for ONNX Runtime, or openvino.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="An .onnx file, or an .xml file for OpenVINO.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, or for OpenVINO bf16 or int8.")] = "fp32",
    size: Annotated[
        str | None,
        typer.Option(help="HEIGHTxWIDTH of the network's input, multiples of 8; the model's own if left out."),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="Instead: HEIGHTxWIDTH of the camera's images, as the node would see them.")
    ] = None,
    calibrate: Annotated[
        str | None, typer.Option(help="A folder, bag or video: images to calibrate int8 on, and to check on.")
    ] = None,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare", help="Write no file: prepare that runtime for this model, on this machine and for you."
        ),
    ] = False,
    dataset: Annotated[str | None, typer.Option(help="Kind of dataset on which to score before and after.")] = None,
    root: Annotated[Path | None, typer.Option(help="The dataset's folder.")] = None,
    split: Annotated[str | None, typer.Option(help="Which part of it, as val.")] = None,
    figures: Json = None,
) -> None:
    """Convert a checkpoint for ONNX Runtime or OpenVINO: to files with a contract, or for this machine alone.

    The result is for one size of the network's input and is checked against PyTorch before it takes its place.
    Calibration takes 128 images, a quarter of which it keeps for the comparison.
    """
    from drive_seg import checkpoint, export
    from drive_seg.runtimes import onnx_file
    from drive_seg.runtimes.prepared import prepare as prepare_for
    from drive_seg.segmenter import Segmenter, network_size

    path = checkpoint.find_model(model)
    if onnx_file.is_file_with_contract(path):
        raise ValueError(f"{path}: a checkpoint (.safetensors) is exported; this is an exported file already")
    loaded = checkpoint.load(path)
    if size and camera:
        raise ValueError("--size and --camera are given; one of them says the size")
    chosen = _size(size) or (network_size(loaded.contract.input.size, *_size(camera)) if camera else None)
    if prepare:
        if output or calibrate or dataset or precision != "fp32":
            raise ValueError("--prepare takes none of --output, --precision, --calibrate and --dataset")
        size_of_input = chosen or network_size(loaded.contract.input.size, *loaded.contract.input.size)
        runtime = {"onnx": "onnxruntime"}.get(to, to)
        where = prepare_for(runtime, loaded, size_of_input)
        _print_json({"runtime": runtime, "size": list(size_of_input), "path": str(where)}, figures)
        typer.echo(f"{path.name} is prepared for {runtime} in {size_of_input[0]}x{size_of_input[1]}: {where}", err=True)
        return
    if output is None:
        raise ValueError("-o FILE or --prepare is needed: where shall the result go?")
    done = export.export(loaded, output, to, precision, chosen, calibrate)
    report: dict[str, Any] = {
        "path": str(done.path),
        "size": list(done.size),
        "precision": done.precision,
        "agreement": done.agreement,
        "frames": done.frames,
        "seen_in": done.seen_in,
    }
    typer.echo(
        f"{done.path}: {done.precision}, {done.size[0]}x{done.size[1]}, labels {100 * done.agreement:.3f} % of the "
        f"pixels of {done.frames} {done.seen_in} as PyTorch does in fp32",
        err=True,
    )
    if dataset is not None:
        from drive_seg.training import evaluation
        from drive_seg.training.datasets import open_dataset

        given: dict[str, Any] = {
            key: value for key, value in {"root": root, "split": split}.items() if value is not None
        }
        if dataset in ("folder", "bag"):
            given["classes"] = loaded.contract.label_map
        for key, file, runtime in (("miou_before", path, "torch"), ("miou_after", done.path, "auto")):
            segmenter = Segmenter.load(file, "cpu", "fp32" if runtime == "torch" else "auto", done.size, runtime)
            scores = evaluation.evaluate(segmenter, open_dataset(dataset, **given))
            report[key] = scores.miou()
        typer.echo(
            f"mIoU {100 * report['miou_before']:.2f} % before, {100 * report['miou_after']:.2f} % after", err=True
        )
    _print_json(report, figures)


@app.command()
def synth(
    output: Annotated[Path, typer.Argument(help="Folder for images/ and labels/.")],
    frames: Annotated[int, typer.Option(min=1, help="Number of frames.")] = 100,
    seed: Annotated[int, typer.Option(help="Which drive.")] = 0,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH in pixels.")] = "360x640",
    step: Annotated[int, typer.Option(min=1, help="Take every step-th frame of the 10 Hz drive.")] = 1,
) -> None:
    """Render a synthetic street drive: images with exact labels (19 Cityscapes ids)."""
    import cv2
    from rich.progress import track

    from drive_seg.synth import SynthDrive

    height, width = _size(size)
    drive = SynthDrive(seed=seed, size=(width, height))
    for folder in ("images", "labels"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    for i in track(range(0, frames * step, step), description="rendering", console=_screen):
        frame = drive.frame(i)
        for folder, picture in (("images", frame.image), ("labels", frame.label)):
            if not cv2.imwrite(str(output / folder / f"{i:06d}.png"), picture):
                raise OSError(f"{output / folder} cannot be written to")
    typer.echo(f"{frames} frames in {output}")


@app.command()
def bench(
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES",
            help="WIDTHxHEIGHT of networks' inputs, width first; 640x360,1280x720 if left out, and 1920x1080 on CUDA.",
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Images at once; 1,6 if left out, on the CPU 6 at the smallest size alone."),
    ] = None,
    what: Annotated[str, typer.Option(help="Which parts: network, segmenter, node.")] = "network,segmenter,node",
    contenders: Annotated[
        str | None,
        typer.Option(help="By words, as 'dsnet int8,enet onnxruntime', or all; the usual, without int8, if left out."),
    ] = None,
    onnx: Annotated[list[Path] | None, typer.Option(help="Time this ONNX file, too; repeatable.")] = None,
    model: Annotated[str, typer.Option(help="Checkpoint of the first network, Segmenter and node.")] = "dsnet_synth19",
    seconds: Annotated[float, typer.Option(help="For each contender at each size and batch.")] = 2.0,
    output: Json = None,
    plot: Annotated[Path | None, typer.Option(help="Draw speed against size and parameters there, a PNG.")] = None,
) -> None:
    """Time networks, Segmenter and node against each other, in turn, in one run.

    Sizes are WIDTHxHEIGHT here, 640x360, unlike in the other commands. Each contender's output is checked before it is
    timed. One that fails is a row with the reason; the exit code is 0 only if all that was asked ran. What is not
    installed is listed with the extra that brings it, and counts as a failure only if it was asked for by name.
    """
    from drive_seg.bench.plot import check_name, write_plot
    from drive_seg.bench.report import as_tables
    from drive_seg.bench.run import Plan, run, usual_sizes

    plan = Plan(
        device=device,
        sizes=usual_sizes(device) if sizes is None else tuple(_width_by_height(text) for text in _parts(sizes)),
        batches=None if batch is None else tuple(_count("batch", text) for text in _parts(batch)),
        parts=tuple(_parts(what)),
        wanted=tuple(_parts(contenders or "")),
        onnx=tuple(onnx or ()),
        model=model,
        seconds=seconds,
    )
    if plot is not None:
        check_name(plot)
    with _screen.status("starting") as status:
        outcome = run(plan, lambda text: status.update(text))
    _print_json(outcome, output)
    if str(output) != "-":
        Console().print(as_tables(outcome))
    if plot is not None:
        write_plot(plot, outcome)
    if not outcome["complete"]:
        raise typer.Exit(1)


@app.command()
def inspect(checkpoint: Checkpoint, output: Json = None) -> None:
    """Print a model's contract and hash, after checking its hash, or an ONNX or OpenVINO file against its contract."""
    from drive_seg import checkpoint as files
    from drive_seg.runtimes import choice, onnx_file

    path = files.find_model(checkpoint)
    if onnx_file.is_file_with_contract(path):
        loaded = onnx_file.read(path)
        choice.for_file(loaded, "cpu", "auto", "auto", 0)
        about, size = {}, f"bytes: {len(loaded.model) + sum(map(len, loaded.weights.values())):,}"
    else:
        loaded = files.load(path)
        count = sum(tensor.numel() for tensor in loaded.tensors.values())
        about, size = {"values": count}, f"values: {count:,} in {len(loaded.tensors)} tensors"
    _print_json({"sha256": loaded.sha256, **about, **loaded.contract.to_dict()}, output)
    if output is None:
        import yaml

        typer.echo(f"{loaded.path}\nsha256: {loaded.sha256}\n{size}")
        typer.echo(yaml.safe_dump(loaded.contract.to_dict(), sort_keys=False, default_flow_style=None, width=110))


def _tell(sentence: str) -> None:
    _screen.print(sentence, style="yellow", markup=False, highlight=False)


def _study(paths: list[Path], folder: Path, output: Path | None) -> None:
    from drive_seg.training.study import as_table, carry_out, load_study
    from drive_seg.training.train import train as run

    for path in paths:  # a fault in the last one shall not wait for the first to be trained
        load_study(path)
    shown = sys.stderr.isatty()
    reports = [carry_out(p, folder / p.stem, lambda plan, where: run(plan, where, progress=shown)) for p in paths]
    _print_json(reports, output)
    if output is None:
        for report in reports:
            Console().print(as_table(report))


def _check(plan: Any, output: Path | None) -> None:
    from drive_seg.training.check import check_data
    from drive_seg.training.check_print import print_report

    report = check_data(plan, progress=sys.stderr.isatty())
    _print_json(report.to_dict(), output)
    print_report(report, _screen if str(output) == "-" else Console())
    if report.errors:
        raise typer.Exit(1)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise ValueError(f"size '{text}' is not of the form HEIGHTxWIDTH, as 360x640")
    return int(height), int(width)


def _width_by_height(text: str) -> tuple[int, int]:
    """(height, width) of a WIDTHxHEIGHT."""
    width, _, height = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise ValueError(f"size '{text}' is not of the form WIDTHxHEIGHT, as 640x360")
    return int(height), int(width)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _count(what: str, text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"{what} '{text}' is not a whole number")
    return int(text)


def _number(what: str, text: str) -> float:
    """A number, also written as a fraction."""
    try:
        return float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{what} '{text}' is not a number, as 0.75 or 3/4") from None


def _print_json(data: Any, output: Path | None) -> None:
    if output is None:
        return
    text = json.dumps(data, indent=1)
    if str(output) == "-":
        typer.echo(text)
        return
    from drive_seg.files import write_atomically

    write_atomically(output, text.encode())


def main() -> None:
    """Entry point: exit code 0 only on success, one clear sentence on bad input."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        _screen.print(f"drive-seg: {error}", style="red", markup=False, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
