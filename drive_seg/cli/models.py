"""``drive-seg networks``, ``inspect``, ``export`` and ``prepare``: what there is, what a file says, its other forms."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from drive_seg.cli.options import CHECKPOINT, Calibrate, Camera, Json, Model, Size, print_json, screen, size_of, tell
from drive_seg.inference.runtimes import registry

if TYPE_CHECKING:
    import numpy as np


def networks(
    system: Annotated[
        str | None, typer.Argument(help="A network, or a part of a system's name; all if left out.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT of the image; 640x360, with --paper-rules 1024x1024.")
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
    from drive_seg.networks import catalog, systems
    from drive_seg.networks.table import as_table, options_text

    pixels = size_of(size) or (systems.PAPER_SIZE if paper_rules else (360, 640))
    if min(pixels) < 64:
        raise ValueError(f"size {size} is below 64x64 pixels, the least that every network takes")
    rows = list(systems.measure(systems.find(system), pixels, classes, paper_rules))
    print_json(rows, output)
    if output is None:
        Console().print(as_table(rows, paper_rules))
        if system in catalog.names():
            typer.echo(options_text(system, catalog.options(system)))


def inspect(model: Model, output: Json = None) -> None:
    """Print a model's contract and hash, after checking it: its hash, or that a file does what its contract says.

    Of an ONNX or OpenVINO file also what it takes and gives, in which runtime and precision. Where it has no contract,
    one to fill in is written beside it, and the exit code is 1.
    """
    import yaml

    from drive_seg import checkpoint as files
    from drive_seg.inference.runtimes import choice
    from drive_seg.inference.runtimes.files import onnx_file

    path = files.find_model(model)
    if onnx_file.is_file_with_contract(path):
        if not onnx_file.contract_path(path).exists():
            _inspect_without_contract(path, output)
            raise typer.Exit(1)
        loaded = onnx_file.read(path)
        runtime = choice.for_file(loaded, "cpu", "auto", "auto", 0)
        about = {"runtime": runtime.name, "precision": runtime.precision, **runtime.ports()}
        size = f"bytes: {len(loaded.model) + sum(map(len, loaded.weights.values())):,}"
        size += _listed(about)
    else:
        loaded = files.load(path)
        count = sum(tensor.numel() for tensor in loaded.tensors.values())
        about, size = {"values": count}, f"values: {count:,} in {len(loaded.tensors)} tensors"
    print_json({"sha256": loaded.sha256, **about, **loaded.contract.to_dict()}, output)
    if output is None:
        typer.echo(f"{loaded.path}\nsha256: {loaded.sha256}\n{size}")
        typer.echo(yaml.safe_dump(loaded.contract.to_dict(), sort_keys=False, default_flow_style=None, width=110))


def _inspect_without_contract(path: Path, output: Path | None) -> None:
    """Say what can be seen of a file, and write a contract to fill in beside it, or print it where that cannot be."""
    from drive_seg.files import write_atomically
    from drive_seg.inference.runtimes.files import onnx_file
    from drive_seg.inference.runtimes.files.template import look

    seen, place = look(onnx_file.read_model(path)), onnx_file.contract_path(path)
    about = {"runtime": seen.runtime, "precision": seen.precision}
    about |= {"inputs": [str(port) for port in seen.inputs], "outputs": [str(port) for port in seen.outputs]}
    print_json({**about, "contract": None, "template": seen.template}, output)
    if output is None:
        typer.echo(f"{path}{_listed(about)}")
    try:
        write_atomically(place, seen.template.encode())
        tell(f"{path.name} has no contract: {place} is one to fill in")
    except OSError as error:
        typer.echo(seen.template, err=output is not None)
        tell(f"{path.name} has no contract: the above is one to fill in; {place} cannot be written ({error.strerror})")


def _listed(about: dict[str, Any]) -> str:
    """A line for each entry, after a line's end."""
    told = {key: value if isinstance(value, str) else ", ".join(value) for key, value in about.items()}
    return "".join(f"\n{key}: {value}" for key, value in told.items())


def export(
    model: Annotated[str, typer.Option("--model", "-m", help=CHECKPOINT)],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="An .onnx file for ONNX Runtime, or an .xml file for OpenVINO.")
    ],
    precision: Annotated[str, typer.Option(help="fp32; for OpenVINO also bf16, or int8 with --calibrate.")] = "fp32",
    size: Size = None,
    camera: Camera = None,
    calibrate: Calibrate = None,
    dataset: Annotated[str | None, typer.Option(help="Kind of dataset on which to score before and after.")] = None,
    root: Annotated[Path | None, typer.Option(help="The dataset's folder.")] = None,
    split: Annotated[str | None, typer.Option(help="Which part of it, as val.")] = None,
    figures: Json = None,
) -> None:
    """Write a checkpoint as an ONNX or OpenVINO file with its contract, to take to another machine or program.

    The file is for one size of the network's input and is checked against PyTorch before it takes its place.
    Calibration takes 128 images, a quarter of which it keeps for the comparison.
    """
    from drive_seg.inference.export import export as write

    loaded = _checkpoint(model)
    with screen.status("exporting"):
        done = write(loaded, output, precision, _input_size(loaded, size, camera), _frames(calibrate))
    report: dict[str, Any] = {
        "path": str(done.path),
        "size": list(done.size),
        "precision": done.precision,
        "agreement": done.agreement,
        "frames": done.frames,
        "seen_in": done.seen_in,
    }
    typer.echo(
        f"{done.path}: {done.precision}, {done.size[1]}x{done.size[0]}, labels {100 * done.agreement:.3f} % of the "
        f"pixels of {done.frames} {done.seen_in} as PyTorch does in fp32",
        err=True,
    )
    if dataset is not None:
        report |= _scores(loaded, done, dataset, root, split)
    print_json(report, figures)


def _scores(loaded: Any, done: Any, dataset: str, root: Path | None, split: str | None) -> dict[str, float]:
    """The mIoU of a checkpoint, and of the file that was written of it."""
    from drive_seg.cli.options import open_labelled
    from drive_seg.evaluation.dataset import evaluate
    from drive_seg.segmenter import Segmenter

    data, _ = open_labelled(dataset, root, split, None, loaded.contract.label_map)
    before = Segmenter.load(loaded.path, "cpu", "fp32", done.size, "torch")
    after = Segmenter.load(done.path, "cpu", input_size=done.size)
    scores = {"miou_before": evaluate(before, data).miou(), "miou_after": evaluate(after, data).miou()}
    typer.echo(f"mIoU {100 * scores['miou_before']:.2f} % before, {100 * scores['miou_after']:.2f} % after", err=True)
    return scores


def prepare(
    model: Annotated[str, typer.Option("--model", "-m", help=CHECKPOINT)],
    runtime: Annotated[
        str, typer.Option(help=f"auto, for what runs it fastest, or {registry.preparable_help()}.")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="As of the node; auto is fp32, on CUDA fp16.")] = "auto",
    size: Size = None,
    camera: Camera = None,
    calibrate: Calibrate = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N, of those that the runtime has.")] = "auto",
    figures: Json = None,
) -> None:
    """Convert or compile a checkpoint for a runtime, on this machine and for you: the node then takes it.

    The result is checked against PyTorch and kept in your cache. --size and --camera are for runtimes that are prepared
    for one size of the network's input.
    """
    from drive_seg.inference.runtimes import choice
    from drive_seg.segmenter import network_size

    loaded = _checkpoint(model)
    entry = choice.to_prepare_now(loaded, precision) if runtime == "auto" else registry.get(runtime)
    own = network_size(loaded.contract.input.size, *loaded.contract.input.size)
    chosen = _input_size(loaded, size, camera) or own
    with screen.status(f"preparing {entry.name}"):
        done = entry.prepare(loaded, chosen, precision, device, _frames(calibrate))
    about = {"runtime": entry.name, "precision": done.precision, "agreement": done.agreement, "path": str(done.path)}
    print_json({**about, "size": list(chosen) if entry.per_size else None}, figures)
    of_size = f" at {chosen[1]}x{chosen[0]}" if entry.per_size else ""
    typer.echo(
        f"{loaded.path.name} is prepared for {entry.name} in {done.precision}{of_size}, which labels "
        f"{100 * done.agreement:.3f} % of the pixels as PyTorch does in fp32: {done.path}",
        err=True,
    )


def _checkpoint(model: str) -> Any:
    """The checkpoint of a name or path: CheckpointError if it is another kind of file."""
    from drive_seg import checkpoint
    from drive_seg.inference.runtimes.files import onnx_file

    path = checkpoint.find_model(model)
    if onnx_file.is_file_with_contract(path):
        raise checkpoint.CheckpointError(f"{path}: this is an exported file already; a .safetensors file is needed")
    return checkpoint.load(path)


def _input_size(loaded: Any, size: str | None, camera: str | None) -> tuple[int, int] | None:
    """(height, width) of the network's input by --size or --camera; None if neither is given."""
    from drive_seg.segmenter import network_size

    if size and camera:
        raise ValueError("--size and --camera are given; one of them says the size")
    return network_size(loaded.contract.input.size, *size_of(camera)) if camera else size_of(size)


def _frames(source: str | None) -> Iterable[np.ndarray]:
    """Images uint8 BGR [H, W, 3] of a source; of a bag with several cameras the first one's."""
    if source is None:
        return ()
    from drive_seg.recordings.sources import SourceError, open_source
    from drive_seg.recordings.sources.topics import cameras_of

    cameras = cameras_of(open_source(source).topics)
    if not cameras:
        raise SourceError(f"{source} has no image topic")
    return (record.image() for record in open_source(source, topics=[cameras[0].name]))
