"""``drive-seg segment`` and ``synth``: images in, labels out; images with labels from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drive_seg.cli.options import Device, InputSize, Model, Precision, Runtime, screen, size_of, tell


def segment(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="An image, a folder, a video, a bag or synth:...")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder, or a .mp4 file.")],
    model: Model = "swiftnet_road19",
    topic: Annotated[
        str | None,
        typer.Option(help="Image topic of a bag, or a pattern; if left out the first camera, as replay takes them."),
    ] = None,
    labels_only: Annotated[bool, typer.Option("--labels-only", help="Write label PNGs alone.")] = False,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Strength of the mask in overlays.")] = 0.5,
    input_size: InputSize = None,
    device: Device = "auto",
    precision: Precision = "auto",
    runtime: Runtime = "auto",
) -> None:
    """Label images: label PNGs, colour and overlay pictures in a folder, or an overlay video with a legend."""
    from drive_seg.recordings.segment import segment_source
    from drive_seg.segmenter import Segmenter

    segmenter = Segmenter.load(model, device, precision, size_of(input_size), runtime, tell=tell)
    options = {"topic": topic, "labels_only": labels_only, "tell": tell}
    count, where = segment_source(segmenter, source, output, alpha, **options)
    typer.echo(f"{count} image{'' if count == 1 else 's'} labelled, see {where}")


def synth(
    output: Annotated[Path, typer.Argument(help="Folder for images/ and labels/.")],
    frames: Annotated[int, typer.Option(min=1, help="Number of frames.")] = 100,
    seed: Annotated[int, typer.Option(help="Which drive.")] = 0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels.")] = "640x360",
    step: Annotated[int, typer.Option(min=1, help="Take every step-th frame of the 10 Hz drive.")] = 1,
    variety: Annotated[str, typer.Option(help="street, or wide: other roads, weather and cameras too.")] = "street",
) -> None:
    """Render a synthetic street drive: images with exact labels (19 Cityscapes ids)."""
    import cv2
    from rich.progress import track

    from drive_seg.synth import SynthDrive

    height, width = size_of(size)
    drive = SynthDrive(seed=seed, size=(width, height), variety=variety)
    for folder in ("images", "labels"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    for i in track(range(0, frames * step, step), description="rendering", console=screen):
        frame = drive.frame(i)
        for folder, picture in (("images", frame.image), ("labels", frame.label)):
            if not cv2.imwrite(str(output / folder / f"{i:06d}.png"), picture):
                raise OSError(f"{output / folder} cannot be written to")
    typer.echo(f"{frames} frame{'' if frames == 1 else 's'} in {output}")
