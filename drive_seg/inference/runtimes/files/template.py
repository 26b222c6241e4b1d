"""A contract to fill in, from what can be seen of a file that has none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from drive_seg.checkpoint import CheckpointError, InputSpec
from drive_seg.inference.runtimes import registry
from drive_seg.inference.runtimes.files import trial
from drive_seg.inference.runtimes.files.contract import OPTIONAL
from drive_seg.inference.runtimes.files.network import trial_image
from drive_seg.inference.runtimes.files.onnx_file import ModelFile
from drive_seg.inference.runtimes.files.outputs import kind_of
from drive_seg.inference.runtimes.files.ports import FileSession, ImageInput, Port, image_input
from drive_seg.labels import label_map_names

SIZE = (256, 512)
"""Of the trial image where the file takes any."""


@dataclass(frozen=True)
class Seen:
    """What can be seen of a file without a contract.

    Attributes:
        runtime, precision: by which, and in what, it was run.
        inputs, outputs: its ports.
        template: the text of a contract to fill in.
    """

    runtime: str
    precision: str
    inputs: list[Port]
    outputs: list[Port]
    template: str


def look(file: ModelFile) -> Seen:
    """Run a file on a trial image, after it was run in a process that may die.

    Raises:
        CheckpointError: if no runtime that is installed runs it, or it takes no image.
    """
    able = registry.for_file(file.path, "cpu")
    names = [entry.name for entry in able if entry.is_installed]
    if not names:
        listed = " or ".join(entry.package for entry in able)
        raise CheckpointError(f"{file.path}: {listed} is needed to run it, and not installed")
    found = trial.outcomes(file, names)
    able = [outcome.runtime for outcome in found if not outcome.fault]
    if not able:
        raise CheckpointError(found[0].fault)
    session = registry.get(able[0]).open_file(file, "cpu", "auto", 0)
    try:
        entry = image_input(session.inputs)
    except ValueError as error:
        raise CheckpointError(f"{file.path}: {error}") from error
    values = _run(session, entry)
    text = _template(file, session, entry, values)
    return Seen(able[0], session.precision, session.inputs, session.outputs, text)


def _run(session: FileSession, entry: ImageInput) -> list[np.ndarray]:
    """The outputs for a trial image, normalised as most networks want it."""
    image = trial_image(entry.size(SIZE))
    batch = InputSpec(entry.size(SIZE)).normalise(image, entry.dtype)
    return session.run([port.name for port in session.outputs], entry.feed(batch))


def _template(file: ModelFile, session: FileSession, entry: ImageInput, values: list[np.ndarray]) -> str:
    guesses = [_guess(value) for value in values]
    kind, classes = guesses[0] if len(guesses) == 1 else ("", 0)
    outputs = [f"#   {port}: {_told(*guess)}" for port, guess in zip(session.outputs, guesses, strict=True)]
    fixed = list(entry.sides) if all(entry.sides) else ""
    raw = entry.dtype == torch.uint8
    normalisation = [
        "mean:                # as [0.485, 0.456, 0.406]: it is fed (pixel * scale - mean) / std",
        "std:                 # as [0.229, 0.224, 0.225]; 'range: raw' for both where it takes pixel values",
    ]
    lines = [
        f"# Contract of {file.path.name}: fill in what is empty, check the rest, then inspect it again.",
        f"# It takes {entry.port} and gives, as seen on a trial image,",
        *outputs,
        f"label_map:           # {', '.join(label_map_names())}, or {classes or 'the'} classes with ids from 0:",
        "#  - {id: 0, name: road, color: [128, 64, 128]}",
        "channel_order:       # rgb or bgr",
        *(["range: raw           # its input is uint8"] if raw else normalisation),
        f"input_size: {fixed}".ljust(21)
        + "# [height, width]"
        + ("" if fixed else "; it takes any: that of its training"),
        f"output: {kind}".ljust(20) + " # logits, probabilities, sigmoid or ids",
        *(["output_name:         # one of those above"] if len(guesses) > 1 else []),
        "licence:             # the terms of the weights",
        f"# Where needed also {', '.join(OPTIONAL[:-1])}: see docs/own-networks.md.",
    ]
    return "\n".join(lines) + "\n"


def _guess(values: np.ndarray) -> tuple[str, int]:
    """The kind of an output, and of how many classes; ("", 0) where it is no picture."""
    if values.ndim not in (2, 3, 4) or not values.size:
        return "", 0
    if not np.issubdtype(values.dtype, np.floating):
        return "ids", 0
    planes = torch.from_numpy(values).float()
    if planes.ndim < 4:
        planes = planes.reshape(1, 1, *planes.shape[-2:]) if planes.shape[0] == 1 or planes.ndim == 2 else planes[None]
    if planes.shape[3] < planes.shape[1]:
        planes = planes.movedim(-1, 1)
    if planes.shape[1] == 1 and bool((planes == planes.round()).all()):
        return "ids", 0
    kind = kind_of(planes)
    return "logits" if kind == "log-probabilities" else kind, planes.shape[1]


def _told(kind: str, classes: int) -> str:
    if not kind:
        return "nothing of a picture's form"
    return (
        kind if not classes else f"{kind} of {classes} class{'es' if classes > 1 else ', or of two with a threshold'}"
    )
