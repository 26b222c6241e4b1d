"""``drive-seg networks``, ``inspect`` and ``export``: what there is, what a file says, and other forms of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from drive_seg.cli.options import Json, Model, print_json, size_of, tell


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
    model: Annotated[
        str, typer.Option("--model", "-m", help="A .safetensors file, or the name of a model of the package.")
    ],
    to: Annotated[str, typer.Option(help="onnx, for ONNX Runtime, openvino, or with --prepare native or inductor.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="An .onnx file, or an .xml file for OpenVINO.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32; for OpenVINO and native bf16, int8; for inductor bf16.")
    ] = "fp32",
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT of the network's input, multiples of 8; the model's own if left out."),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="Instead: WIDTHxHEIGHT of the camera's images, as the node would see them.")
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
    device: Annotated[str, typer.Option(help="cpu, or for inductor cuda or cuda:N.")] = "cpu",
    dataset: Annotated[str | None, typer.Option(help="Kind of dataset on which to score before and after.")] = None,
    root: Annotated[Path | None, typer.Option(help="The dataset's folder.")] = None,
    split: Annotated[str | None, typer.Option(help="Which part of it, as val.")] = None,
    figures: Json = None,
) -> None:
    """Convert a checkpoint for ONNX Runtime or OpenVINO: to files with a contract, or for this machine alone.

    --prepare --to native compiles, with g++ and once for all of them, what runs DSNet and SwiftNet fastest on a CPU, in
    any size; --prepare --to inductor compiles one network of any kind for one size.

    The result is for one size of the network's input and is checked against PyTorch before it takes its place.
    Calibration takes 128 images, a quarter of which it keeps for the comparison.
    """
    from drive_seg import checkpoint, export
    from drive_seg.inference.runtimes.files import onnx_file
    from drive_seg.inference.runtimes.prepared import prepare as prepare_for
    from drive_seg.segmenter import Segmenter, network_size

    path = checkpoint.find_model(model)
    if onnx_file.is_file_with_contract(path):
        raise ValueError(f"{path}: a checkpoint (.safetensors) is exported; this is an exported file already")
    loaded = checkpoint.load(path)
    if size and camera:
        raise ValueError("--size and --camera are given; one of them says the size")
    chosen = size_of(size) or (network_size(loaded.contract.input.size, *size_of(camera)) if camera else None)
    if prepare:
        own = to in ("native", "inductor")
        if output or dataset or (calibrate and to != "native") or (precision != "fp32" and not own):
            raise ValueError(
                "--prepare takes neither --output nor --dataset, --calibrate only with --to native, and --precision "
                "only with --to native or inductor"
            )
        size_of_input = chosen or network_size(loaded.contract.input.size, *loaded.contract.input.size)
        runtime = {"onnx": "onnxruntime"}.get(to, to)
        if to == "native":
            if device != "cpu":
                raise ValueError("--to native is for the cpu")
            kernels, share = export.prepare_native(loaded, precision, size_of_input, calibrate)
            print_json({"runtime": to, "precision": precision, "agreement": share, "path": str(kernels)}, figures)
            typer.echo(
                f"{path.name} is prepared for native in {precision}, which labels {100 * share:.3f} % of the pixels as "
                f"PyTorch does in fp32: {kernels}",
                err=True,
            )
            return
        where = prepare_for(runtime, loaded, size_of_input, precision, device)
        print_json({"runtime": runtime, "size": list(size_of_input), "path": str(where)}, figures)
        typer.echo(f"{path.name} is prepared for {runtime} in {size_of_input[1]}x{size_of_input[0]}: {where}", err=True)
        return
    if device != "cpu":
        raise ValueError("--device goes with --prepare --to inductor")
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
        f"{done.path}: {done.precision}, {done.size[1]}x{done.size[0]}, labels {100 * done.agreement:.3f} % of the "
        f"pixels of {done.frames} {done.seen_in} as PyTorch does in fp32",
        err=True,
    )
    if dataset is not None:
        from drive_seg.datasets import open_dataset
        from drive_seg.evaluation import dataset as evaluation

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
    print_json(report, figures)
