"""A user's file tried once in a process of its own: which runtime runs it, which is faster, and which it kills.

A network that nobody has run yet may end the process that runs it, by a fault of the runtime (seen with OpenVINO on
int8 files). So another process does it first. Its outcome is kept in the user's cache for this file, processor,
runtime and wish, and a start with it is as fast as one without a trial.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import drive_seg
from drive_seg.checkpoint import CheckpointError
from drive_seg.files import canonical_json, write_atomically
from drive_seg.inference.runtimes import cache, host, registry
from drive_seg.inference.runtimes.files import onnx_file
from drive_seg.inference.runtimes.files.onnx_file import ModelFile, OnnxFile
from drive_seg.inference.runtimes.files.ports import image_input, random_batch

FASTER = 0.9
"""Another runtime than the first is taken from so much of the first's time on."""
AGREEMENT = 0.999
"""The least share of pixels that it must label as the first does."""
SECONDS, ROUNDS = 1.0, 30
"""A trial times the runtimes in turn, for so long and so many rounds at most."""
PATIENCE_S = 600
"""After so long the process is ended: a file that never answers is as good as one that kills."""
_PROGRAM = "from drive_seg.inference.runtimes.files.trial import main; main()"


@dataclass(frozen=True)
class Outcome:
    """What came of a file in a runtime.

    Attributes:
        runtime: its name.
        ms: median time of a frame; None where it was not timed.
        agreement: share of pixels that it labels as the first runtime does.
        fault: why it cannot run the file; empty if it can.
        died: it ended the process.
    """

    runtime: str
    ms: float | None = None
    agreement: float = 1.0
    fault: str = ""
    died: bool = False


def choose(file: OnnxFile, runtimes: Sequence[str], precision: str, threads: int) -> str:
    """The fastest of some runtimes that runs a file: the first, unless another is clearly faster and labels alike.

    Args:
        file: with its contract.
        runtimes: names, the one to be preferred first.
        precision, threads: as for the runtimes.

    Raises:
        CheckpointError: if none of them runs it.
    """
    found = outcomes(file, runtimes, precision, threads)
    able = [outcome for outcome in found if not outcome.fault]
    if not able:
        raise CheckpointError(found[0].fault)
    best = able[0]
    for other in able[1:]:
        if best.ms and other.ms and other.ms < FASTER * best.ms and other.agreement >= AGREEMENT:
            best = other
    return best.runtime


def outcomes(file: ModelFile, runtimes: Sequence[str], precision: str = "auto", threads: int = 0) -> list[Outcome]:
    """What comes of a file in each runtime, from the cache or a trial; without a contract it is only run.

    That a file runs or kills is kept; what else is wrong with it may be mended meanwhile.
    """
    place = _place(file, runtimes, precision, threads)
    kept = _read(place)
    if kept is None:
        kept = _in_a_process(file, runtimes, precision, threads)
        if place is not None and all(outcome.died or not outcome.fault for outcome in kept):
            if (others := _read(place)) is not None:  # of a process that was earlier: all of them take the same
                return others
            write_atomically(place, canonical_json([asdict(outcome) for outcome in kept]).encode())
    return kept


def _place(file: ModelFile, runtimes: Sequence[str], precision: str, threads: int) -> Path | None:
    """The file of the outcomes in the cache; None where there can be none."""
    key = {
        "runtimes": {name: registry.get(name).versions() for name in runtimes},
        "drive_seg": drive_seg.__version__,
        "wish": [precision, threads, torch.get_num_threads(), os.cpu_count()],
        **host.processor_key(),
    }
    sha256 = file.sha256 if isinstance(file, OnnxFile) else hashlib.sha256(file.digests()).hexdigest()
    try:
        folder = cache.root() / sha256
        cache.make_private(folder)
    except ValueError:
        return None
    return folder / f"trial-{hashlib.sha256(canonical_json(key).encode()).hexdigest()[:16]}.json"


def _read(place: Path | None) -> list[Outcome] | None:
    try:
        return None if place is None else [Outcome(**entry) for entry in json.loads(place.read_bytes())]
    except (OSError, ValueError, TypeError):
        return None


def _in_a_process(file: ModelFile, runtimes: Sequence[str], precision: str, threads: int) -> list[Outcome]:
    given = file.given if isinstance(file, OnnxFile) else None
    work = {
        "file": str(file.path.absolute()),
        "given": str(given.absolute()) if given else "",
        "runtimes": list(runtimes),
        "precision": precision,
        "threads": threads,
        "torch_threads": torch.get_num_threads(),
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", _PROGRAM]
    try:
        done = subprocess.run(
            command, input=json.dumps(work), capture_output=True, text=True, env=environment, timeout=PATIENCE_S
        )
        end = f"ended the process that tried it ({_in_words(done.returncode)})"
        lines = done.stdout
    except subprocess.TimeoutExpired as error:
        end, lines = f"did not answer within {PATIENCE_S} s", (error.stdout or b"").decode(errors="replace")
    found: dict[str, Outcome] = {}
    for line in lines.splitlines():
        if line.startswith("{"):
            outcome = Outcome(**json.loads(line))
            found[outcome.runtime] = outcome
    for name in runtimes:
        outcome = found.get(name, Outcome(name, fault="begun"))
        if outcome.fault == "begun":
            found[name] = Outcome(name, fault=f"{file.path}: {name} {end}: it is not run here", died=True)
            break  # what comes after was not reached
    return [found.get(name, Outcome(name, fault=f"{file.path}: {name} was not tried")) for name in runtimes]


def _in_words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def main() -> None:
    """The other process: work as JSON on standard input, a line of JSON for whatever is known of a runtime."""
    work = json.loads(sys.stdin.read())
    torch.set_num_threads(work["torch_threads"])
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a runtime prints is no outcome

    def tell(**about: Any) -> None:
        print(canonical_json(asdict(Outcome(**about))), file=report)

    frames: dict[str, Any] = {}
    for name in work["runtimes"]:
        tell(runtime=name, fault="begun")
        try:
            frames[name] = _frame_of(work, name)
            frames[name]()
            tell(runtime=name)
        except Exception as error:  # the sentence is all that counts
            frames.pop(name, None)
            tell(runtime=name, fault=str(error))
    if len(frames) < 2:
        return
    labels = {name: frame() for name, frame in frames.items()}
    first = next(iter(labels.values()))
    times: dict[str, list[float]] = {name: [] for name in frames}
    stop = time.perf_counter() + SECONDS
    for number in range(ROUNDS):
        for name, frame in frames.items():
            begun = time.perf_counter()
            frame()
            times[name].append(1e3 * (time.perf_counter() - begun))
        if number >= 2 and time.perf_counter() > stop:
            break
    for name, label in labels.items():
        share = float(np.mean(np.asarray(label) == np.asarray(first)))
        tell(runtime=name, ms=round(median(times[name][1:]), 3), agreement=share)


def _frame_of(work: dict[str, Any], name: str) -> Any:
    """Something that labels a trial image in a runtime, or where there is no contract just runs the network."""
    from drive_seg.inference.path import FramePath
    from drive_seg.inference.runtimes.files.network import FileRuntime, trial_image

    entry, how = registry.get(name), (work["precision"], work["threads"])
    if not work["given"]:
        session = entry.open_file(onnx_file.read_model(work["file"]), "cpu", *how)
        feed = image_input(session.inputs).feed(random_batch(image_input(session.inputs)))
        return lambda: session.run([session.outputs[0].name], feed)[0].copy()
    file = onnx_file.read(work["given"])
    path, size = FramePath(FileRuntime(entry, file, "cpu", *how), file.contract.input), file.contract.input.size
    image = trial_image(size).permute(0, 2, 3, 1).contiguous()
    return torch.inference_mode()(lambda: path([image], size, False)[0].numpy())
