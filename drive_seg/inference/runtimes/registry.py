"""The runtimes. A new one is a file beside this one, with its entry in this list and a test.

The node's parameters, the options of the command line, the JSON schema, the benchmark's contenders, the versions in
reports and the table in the documentation are made from this list.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from drive_seg.inference.runtimes.entry import Runs, RuntimeEntry
from drive_seg.inference.runtimes.inductor import Inductor
from drive_seg.inference.runtimes.native import Native
from drive_seg.inference.runtimes.onnx_runtime import OnnxRuntime
from drive_seg.inference.runtimes.openvino_runtime import OpenVino
from drive_seg.inference.runtimes.pytorch import PyTorch
from drive_seg.inference.runtimes.tensorrt import TensorRt

RUNTIMES: tuple[RuntimeEntry, ...] = (PyTorch(), Native(), Inductor(), OnnxRuntime(), OpenVino(), TensorRt())
"""Of a user's file "auto" takes the first that executes it on the device, or another one that a trial found faster."""


def get(name: str) -> RuntimeEntry:
    """The runtime of a name.

    Raises:
        ValueError: if none is called so.
    """
    for entry in RUNTIMES:
        if entry.name == name:
            return entry
    raise ValueError(f"runtime '{name}' is not one of {', '.join(names())}")


def names() -> tuple[str, ...]:
    """What a user may ask for."""
    return ("auto", *(entry.name for entry in RUNTIMES))


def precisions() -> tuple[str, ...]:
    """What a user may ask for, of any runtime."""
    declared = [runs.precisions for entry in RUNTIMES for runs in (entry.checkpoints, entry.files) if runs]
    return ("auto", *dict.fromkeys(precision for some in declared for precision in some))


def for_checkpoints() -> list[RuntimeEntry]:
    """Those that execute checkpoints."""
    return [entry for entry in RUNTIMES if entry.checkpoints]


def fastest_first() -> list[RuntimeEntry]:
    """Those that "auto" may take for a checkpoint on a CPU; PyTorch comes after them."""
    return sorted((entry for entry in RUNTIMES if entry.priority), key=lambda entry: -entry.priority)


def for_file(path: Path, device: str | None = None) -> list[RuntimeEntry]:
    """Those that execute a file of this suffix, on a kind of device if one is given."""
    able = [entry for entry in RUNTIMES if entry.files and path.suffix.lower() in entry.files.only]
    return [entry for entry in able if device is None or device in entry.files.devices]


def versions() -> dict[str, str]:
    """Of the installed packages of all runtimes."""
    return {name: version for entry in RUNTIMES for name, version in entry.versions().items()}


def runtime_help() -> str:
    """The choices of ``runtime`` in a sentence."""
    checkpoints = [entry.name for entry in for_checkpoints()]
    others = [entry for entry in RUNTIMES if entry.files and not entry.checkpoints]
    text = f"auto (the fastest that is installed and prepared), {_listed(checkpoints)}"
    return text + "".join(f"; for an {_kinds(entry.files.only)} file on a GPU also {entry.name}" for entry in others)


def preparable_help() -> str:
    """The runtimes for which a checkpoint is prepared, in a sentence."""
    return _listed(entry.name for entry in RUNTIMES if entry.preparation)


def precision_help() -> str:
    """The choices of ``precision`` in a sentence."""
    plain = get("torch").checkpoints.precisions
    text = f"auto (fp16 on CUDA, fp32 on the CPU), {', '.join(plain)}"
    for precision in precisions()[1:]:
        if precision not in plain:
            able = [entry.name for entry in for_checkpoints() if precision in entry.checkpoints.precisions]
            text += f", or {precision} with the runtime {_listed(able)}"
    return text


def table() -> str:
    """The runtimes as a table of Markdown."""
    titles = ("runtime", "what it is", "checkpoints", "files", "extra", "preparing a checkpoint")
    rows = [titles, ("---",) * len(titles)]
    for entry in RUNTIMES:
        extra = f"`{entry.extra}`" if entry.extra else ""
        executes = _cell(entry.checkpoints), _cell(entry.files)
        rows.append((f"`{entry.name}`", entry.about, *executes, extra, entry.preparation))
    return "\n".join(f"| {' | '.join(cell or '-' for cell in row)} |" for row in rows)


def _cell(runs: Runs | None) -> str:
    if runs is None:
        return ""
    only = f"{', '.join(f'`{name}`' for name in runs.only)}: " if runs.only else ""
    return f"{only}{', '.join(runs.precisions)} on {' and '.join(runs.devices)}"


def _listed(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _kinds(suffixes: Iterable[str]) -> str:
    return _listed({".onnx": "ONNX", ".xml": "OpenVINO"}.get(suffix, suffix) for suffix in suffixes)
