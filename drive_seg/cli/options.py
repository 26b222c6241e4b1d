"""What the commands share: kinds of options, parsing of their texts, printing of figures."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from drive_seg.inference.runtimes import registry

screen = Console(stderr=True)

MODEL = (
    "A .safetensors file, an .onnx or OpenVINO .xml file with <name>.contract.yaml beside it, or the name of a model "
    "of the package."
)
CHECKPOINT = "A .safetensors file, or the name of a model of the package."
Model = Annotated[str, typer.Option("--model", "-m", help=MODEL)]
Json = Annotated[Path | None, typer.Option("--json", help="Write the figures there as JSON; - is standard output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[str, typer.Option(help=f"{registry.precision_help()}.")]
Runtime = Annotated[str, typer.Option(help=f"{registry.runtime_help()}.")]
Size = Annotated[
    str | None,
    typer.Option(help="WIDTHxHEIGHT of the network's input, multiples of 8; the model's own if left out."),
]
Camera = Annotated[
    str | None, typer.Option(help="Instead: WIDTHxHEIGHT of the camera's images, as the node would see them.")
]
Calibrate = Annotated[
    str | None, typer.Option(help="A folder, bag or video: images to calibrate int8 on, and to check on.")
]
InputSize = Annotated[
    str | None,
    typer.Option(help="WIDTHxHEIGHT whose pixel count the network sees; the model's own if left out."),
]
Dataset = Annotated[str, typer.Option(help="Kind of dataset: camvid, cityscapes, folder, synth, ...")]
Root = Annotated[Path | None, typer.Option(help="The dataset's folder.")]
Split = Annotated[str | None, typer.Option(help="Which part of it, as val.")]
DatasetOption = Annotated[
    list[str] | None,
    typer.Option("--option", help="Further argument of the dataset, as seeds=[100,110]; repeatable."),
]


def tell(sentence: str) -> None:
    """Warn on standard error."""
    screen.print(sentence, style="yellow", markup=False, highlight=False)


def size_of(text: str | None) -> tuple[int, int] | None:
    """(height, width) of a WIDTHxHEIGHT."""
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise ValueError(f"size '{text}' is not of the form WIDTHxHEIGHT, as 640x360")
    return int(height), int(width)


def parts_of(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def whole_number(what: str, text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"{what} '{text}' is not a whole number")
    return int(text)


def number(what: str, text: str) -> float:
    """A number, also written as a fraction."""
    try:
        return float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{what} '{text}' is not a number, as 0.75 or 3/4") from None


def check_place(output: Path) -> None:
    """Refuse a file that could not be written, before the work that is to go into it.

    Raises:
        ValueError: if its folder is missing, or it is one itself.
    """
    if not output.parent.is_dir():
        raise ValueError(f"there is no folder {output.parent} for {output.name}")
    if output.is_dir():
        raise ValueError(f"{output} is a folder")


def open_labelled(
    dataset: str, root: Path | None, split: str | None, option: list[str] | None, label_map: Any
) -> tuple[Any, Any]:
    """The dataset that options name, and the meaning of its classes where they say it.

    Args:
        label_map: whose classes the labels of a folder or bag have, unless ``option`` names others.
    """
    from drive_seg.datasets import open_dataset
    from drive_seg.training.recipe import parse_setting

    arguments: dict[str, Any] = {"root": root, "split": split}
    if dataset in ("folder", "bag"):
        arguments["classes"] = label_map
    arguments.update(parse_setting(text) for text in option or [])
    meaning = arguments.pop("meaning", None)
    return open_dataset(dataset, **{k: v for k, v in arguments.items() if v is not None}), meaning


def print_json(data: Any, output: Path | None) -> None:
    if output is None:
        return
    text = json.dumps(data, indent=1)
    if str(output) == "-":
        typer.echo(text)
        return
    from drive_seg.files import write_atomically

    write_atomically(output, text.encode())
