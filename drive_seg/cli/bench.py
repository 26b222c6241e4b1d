"""``drive-seg bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from drive_seg.cli.options import Json, parts_of, print_json, screen, size_of, whole_number


def bench(
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES",
            help="WIDTHxHEIGHT of networks' inputs; 640x360,1280x720,1920x1080 if left out. The Segmenter "
            "runs at those that a 1280x720 image can fill, the node at the first of them.",
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Images at once; 1,6 if left out, on the CPU 6 at the smallest size alone."),
    ] = None,
    what: Annotated[
        str, typer.Option(help="Which parts: network, segmenter, node; and training, a step of it.")
    ] = "network,segmenter,node",
    contenders: Annotated[
        str | None,
        typer.Option(help="By words, as 'dsnet int8,enet onnxruntime', or all; the usual, without int8, if left out."),
    ] = None,
    onnx: Annotated[
        list[Path] | None, typer.Option(help="Time this .onnx or .xml file in every runtime, too; repeatable.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Checkpoint of the first network, Segmenter and node.")
    ] = "dsnet_synth19",
    node_runtime: Annotated[
        str | None,
        typer.Option(
            help="Runtime of the node, as 'inductor bf16'; several by commas. The fastest exact one that this machine "
            "can prepare if left out; it is prepared in a cache of the run's own."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="For each contender at each size and batch.")] = 1.0,
    output: Json = None,
    plot: Annotated[Path | None, typer.Option(help="Draw speed against size and parameters: a .png or .svg.")] = None,
) -> None:
    """Time networks, Segmenter and node against each other, in turn, in one run of some minutes.

    Each contender's output is checked before it is
    timed. One that fails is a row with the reason; the exit code is 0 only if all that was asked ran. What is not
    installed is listed with the extra that brings it, and counts as a failure only if it was asked for by name.
    """
    from drive_seg.bench.plot import check_name, write_plot
    from drive_seg.bench.report import as_tables
    from drive_seg.bench.run import SIZES, Plan, run

    plan = Plan(
        device=device,
        sizes=SIZES if sizes is None else tuple(size_of(text) for text in parts_of(sizes)),
        batches=None if batch is None else tuple(whole_number("batch", text) for text in parts_of(batch)),
        parts=tuple(parts_of(what)),
        wanted=tuple(parts_of(contenders or "")),
        onnx=tuple(onnx or ()),
        model=model,
        node_runtimes=tuple(parts_of(node_runtime or "")),
        seconds=seconds,
    )
    if plot is not None:
        check_name(plot)
    with screen.status("starting") as status:
        outcome = run(plan, lambda text: status.update(text))
    print_json(outcome, output)
    if str(output) != "-":
        Console().print(as_tables(outcome))
    if plot is not None:
        write_plot(plot, outcome)
    if not outcome["complete"]:
        raise typer.Exit(1)
