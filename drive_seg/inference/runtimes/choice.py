"""Which runtime executes a model: the one asked for, or the fastest that is installed and prepared.

For a user's file "auto" goes by a trial that is kept, see :func:`for_file`. For a checkpoint it goes by rule and not by
timing, so that a vehicle does the same at every start: on CUDA PyTorch; on the CPU the first of
:func:`.registry.fastest_first` that is installed, prepared for this checkpoint and able to compute in the precision
asked for; else PyTorch. It never takes half precision by itself on a CPU: too many labels change.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from drive_seg.checkpoint import Checkpoint
from drive_seg.inference.runtimes import Runtime, Size, parse_device, preparation, registry
from drive_seg.inference.runtimes.entry import RuntimeEntry, Tell
from drive_seg.inference.runtimes.files import trial
from drive_seg.inference.runtimes.files.network import FileRuntime
from drive_seg.inference.runtimes.files.onnx_file import OnnxFile
from drive_seg.inference.runtimes.pytorch import PyTorch, choose_device
from drive_seg.inference.runtimes.pytorch import trial as try_device


def for_checkpoint(
    loaded: Checkpoint,
    device: str,
    precision: str,
    runtime: str,
    threads: int,
    size: Size,
    tell: Tell,
    prepare_first: str = preparation.WAIT,
) -> Runtime:
    """The runtime for a checkpoint.

    Args:
        size: the network's input for the model's own aspect, for which a runtime that was asked for by name is
            prepared here if it is not yet.
        tell: is told what was chosen where that is not what was to be expected, and how to change it.
        prepare_first: one of ``preparation.WAYS``, for what "auto" would take if it were prepared.

    Raises:
        CheckpointError: if the network cannot be built.
        ValueError: if runtime, device, precision or threads cannot be had.
    """
    check_threads(threads)
    later: RuntimeEntry | None = None
    if runtime == "auto":
        entry, later = _rule(loaded, device, precision, size, tell, preparation.way(prepare_first))
    else:
        entry = registry.get(runtime)
    if entry.checkpoints is None:
        raise ValueError(
            f"runtime '{entry.name}' runs {' and '.join(entry.files.only)} files and no checkpoints: drive-seg export "
            f"--model {loaded.path} makes one"
        )
    if device == "auto" and torch.cuda.is_available() and (reason := try_device("cuda")):
        tell(f"device auto takes the cpu, as the GPU cannot run a layer: {reason}")
    if threads:
        torch.set_num_threads(threads)  # of the whole process: torch knows no other number
    chosen = entry.open(loaded, device, precision, threads, size, tell)
    chosen.unprepared = later.name if later else None
    return chosen


def for_file(file: OnnxFile, device: str, precision: str, runtime: str, threads: int) -> Runtime:
    """The runtime for a user's own file, after it was tried: see :mod:`drive_seg.inference.runtimes.files.trial`.

    On a CPU "auto" is the faster on this machine of those that execute such a file there; on CUDA it is the first.

    Raises:
        CheckpointError: if the runtime is missing or cannot run the file, or the file does not fit its contract.
        ValueError: if runtime, device, precision or threads cannot be had.
    """
    check_threads(threads)
    able = registry.for_file(file.path)
    kind = "cpu" if device == "auto" else parse_device(device)[0]
    if runtime == "auto":
        wanted = registry.for_file(file.path, kind) or able[:1]
        wanted = [entry for entry in wanted if entry.is_installed] or wanted[:1]
    else:
        wanted = [registry.get(runtime)]
    if wanted[0] not in able:
        names = " or ".join(entry.name for entry in able)
        raise ValueError(f"runtime '{runtime}' cannot run {file.path.name}: take {names}")
    chosen = wanted[0]
    if kind == "cpu" and kind in chosen.files.devices and chosen.is_installed:
        chosen = registry.get(trial.choose(file, [entry.name for entry in wanted], precision, threads))
    return FileRuntime(chosen, file, device, precision, threads)


def check_threads(threads: int) -> None:
    """Refuse what is no number of threads: ValueError."""
    if threads < 0:
        raise ValueError(f"threads must be 0, for the runtime's own choice, or more, not {threads}")


def to_prepare(loaded: Checkpoint, device: str, precision: str) -> RuntimeEntry | None:
    """The runtime that "auto" would take if it were prepared, which takes seconds and is then for all sizes."""
    if precision == "int8":  # it is calibrated on images
        return None
    unprepared = _fastest(loaded, device, precision, lambda text: None).unprepared
    unasked = [entry for entry in unprepared if entry.unasked]
    return unasked[0] if unasked and not preparation.earlier_failure(precision) else None


def to_prepare_now(loaded: Checkpoint, precision: str) -> RuntimeEntry:
    """The fastest runtime for a checkpoint on this machine's CPU that can be prepared, whether it is already or not.

    Raises:
        ValueError: if there is none.
    """
    precision = "fp32" if precision == "auto" else precision
    for entry in registry.fastest_first():
        if entry.is_installed and entry.executes(loaded, precision) and entry.can_prepare(precision):
            return entry
    raise ValueError(
        f"no runtime can be prepared for {loaded.path.name} in {precision} on this machine: install g++, or the extras "
        "'export' and 'openvino' of drive_seg"
    )


@dataclass(frozen=True)
class _Found:
    """The fastest that is prepared, and those before it that are worth preparing."""

    entry: RuntimeEntry
    unprepared: list[RuntimeEntry] = field(default_factory=list)


def _rule(
    loaded: Checkpoint, device: str, precision: str, size: Size, tell: Tell, prepare_first: str = preparation.NEVER
) -> tuple[RuntimeEntry, RuntimeEntry | None]:
    """What "auto" takes, and what it would take if the caller prepared it, see :func:`to_prepare`."""
    found = _fastest(loaded, device, precision, tell)
    if prepare_first != preparation.NEVER and (faster := to_prepare(loaded, device, precision)):
        if prepare_first == preparation.LATER:
            return found.entry, faster
        tell(f"preparing {faster.name} for {loaded.path.name}, once on this machine")
        preparation.prepare_and_wait(loaded.path, device, precision, tell)
        return _fastest(loaded, device, precision, tell).entry, None
    if isinstance(found.entry, PyTorch) and found.unprepared:
        first = found.unprepared[0]
        command = first.how_to_prepare(loaded.path, size, "fp32" if precision == "auto" else precision)
        failure = preparation.earlier_failure(precision) if first.unasked else None
        why = f"could not be prepared ({failure})" if failure else "not prepared for this model"
        tell(f"runtime auto takes torch: {first.name} is faster, but {why}: {command}")
    return found.entry, None


def _fastest(loaded: Checkpoint, device: str, precision: str, tell: Tell) -> _Found:
    torch_entry = registry.get("torch")
    if device not in ("auto", "cpu") or choose_device(device) != "cpu":
        return _Found(torch_entry)
    precision, unprepared = "fp32" if precision == "auto" else precision, []
    for entry in registry.fastest_first():
        if not entry.is_installed or not entry.executes(loaded, precision):
            continue
        try:
            # Looked up first: what a runtime can do is known only once it is imported, which takes a while.
            prepared = entry.is_prepared(loaded, precision)
            if prepared and precision in entry.precisions():
                return _Found(entry, unprepared)
        except ValueError as error:
            tell(f"runtime auto does not take {entry.name}: {error}")
            continue
        if not prepared and entry.can_prepare(precision):
            unprepared.append(entry)
    return _Found(torch_entry, unprepared)
