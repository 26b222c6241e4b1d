"""``drive-seg calibrate`` and ``self-check``: what a model's confidence says, of a pixel and of a frame."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

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
    open_labelled,
    print_json,
    screen,
    size_of,
    tell,
)


def calibrate(
    model: Model,
    dataset: Dataset,
    root: Root = None,
    split: Split = None,
    option: DatasetOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The model again with what was found: a .safetensors file; of an ONNX or OpenVINO file its contract, "
            "a .contract.yaml file. Figures alone if left out.",
        ),
    ] = None,
    input_size: InputSize = None,
    device: Device = "auto",
    precision: Precision = "auto",
    runtime: Runtime = "auto",
    figures: Json = None,
) -> None:
    """Fit the temperature by which a model's confidence says how often it is right; no class id changes.

    Take labelled images that the weights have not seen, of the roads that the model is for: the contract also keeps how
    sure the model is of whole frames of them, and the node's self-check warns of frames of which it is far less sure.
    """
    from drive_seg import checkpoint as files
    from drive_seg.evaluation.calibration import calibrate as fit
    from drive_seg.evaluation.dataset import calibration_sentence
    from drive_seg.inference.runtimes.files import onnx_file
    from drive_seg.segmenter import Segmenter

    path = files.find_model(model)
    with_contract = onnx_file.is_file_with_contract(path)
    suffix = ".contract.yaml" if with_contract else ".safetensors"
    if output is not None:
        check_place(output)
        if not output.name.endswith(suffix):
            raise ValueError(f"{output}: the result for {path.name} is a {suffix} file")
    segmenter = Segmenter.load(path, device, precision, size_of(input_size), runtime, tell=tell)
    data, meaning = open_labelled(dataset, root, split, option, segmenter.label_map)
    name = " ".join([dataset, *([split] if split else []), *(text for text in option or [] if "/" not in text)])
    found = fit(segmenter, data, name, meaning)
    print_json(found.to_dict(), figures)
    typer.echo(
        f"temperature {found.confidence.temperature:g}, fitted on {found.confidence.fitted_on}. "
        f"{calibration_sentence(found.reliability)}",
        err=True,
    )
    if output is None:
        return
    if with_contract:
        _write_contract(onnx_file.contract_path(path), output, found.confidence)
    else:
        loaded = files.load(path)
        scores = {**loaded.contract.metrics, "calibration": found.summary()}
        contract = replace(loaded.contract, confidence=found.confidence, metrics=scores)
        files.save_tensors(output, loaded.tensors, contract)
    typer.echo(f"see {output}", err=True)


def _write_contract(source: Path, output: Path, confidence: Any) -> None:
    """A file's contract again with another ``confidence``; remarks in it are lost, but for those at its head."""
    import yaml

    from drive_seg.files import write_atomically

    text = source.read_text(encoding="utf-8")
    head = "".join(takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))
    data = {**yaml.safe_load(text), "confidence": confidence.to_dict()}
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=110)
    write_atomically(output, (head + text).encode())


def self_check(
    model: Model,
    good: Annotated[
        list[str], typer.Option(help="Frames that the model was made for: a folder, video, bag, synth:...")
    ],
    bad: Annotated[list[str] | None, typer.Option(help="Frames whose masks cannot be right; repeatable.")] = None,
    made: Annotated[
        bool, typer.Option(help="Make bad frames of the good ones: dark, upside down, on its side, blurred; and noise.")
    ] = True,
    every: Annotated[int, typer.Option(min=1, help="Take every so many-th frame.")] = 1,
    most: Annotated[int | None, typer.Option(min=1, help="Of each source so many frames at most.")] = None,
    input_size: InputSize = None,
    device: Device = "auto",
    precision: Precision = "auto",
    runtime: Runtime = "auto",
    figures: Json = None,
) -> None:
    """Count which frames the node's self-check doubts, of good ones and of bad ones.

    The check needs to know how sure the model usually is: drive-seg calibrate writes that into its contract.
    """
    from rich.table import Table

    from drive_seg.evaluation.dataset import percent
    from drive_seg.evaluation.self_check import judge, rate
    from drive_seg.segmenter import Segmenter

    segmenter = Segmenter.load(model, device, precision, size_of(input_size), runtime, tell=tell)
    if segmenter.contract.confidence.usual is None:
        tell(f"{model} does not say how sure it usually is: images alone are checked; drive-seg calibrate adds it")
    with screen.status("labelling"):
        found = judge(segmenter, good, bad or (), made, every, most)
    rates = {"good": rate(found, True), "bad": rate(found, False)}
    print_json({"doubted": rates, "sources": [doubts.to_dict() for doubts in found]}, figures)
    if figures is None:
        table = Table("frames of", "kind", "frames", "doubted", "reasons")
        for doubts in found:
            reasons = ", ".join(f"{count} {name}" for name, count in doubts.reasons.items())
            counts = "good" if doubts.good else "bad", str(doubts.frames), str(doubts.doubted)
            table.add_row(escape(doubts.source), *counts, reasons)
        console = Console()
        console.print(table)
        for kind, share in rates.items():
            console.print(f"{'none' if share is None else percent(share) + ' %'} of the {kind} frames are doubted")
