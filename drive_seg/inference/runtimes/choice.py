"""Which runtime executes a model: as asked for, or the fastest that is installed and prepared.

For a user's file "auto" goes by a trial that is kept, see :func:`for_file`. For a checkpoint it goes by rule and not by
timing, so that a vehicle does the same at every start: on CUDA PyTorch; on the CPU the package's own kernels, compiled
code, OpenVINO or ONNX Runtime, PyTorch, the first of them that is installed, prepared for this checkpoint and able to
compute in the precision asked for. The kernels are prepared unasked (``preparation``). It never takes half precision by
itself on a CPU: too many labels change.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

from drive_seg.checkpoint import Checkpoint
from drive_seg.inference.runtimes import NAMES, Runtime, Size, cache, inductor, parse_device, preparation
from drive_seg.inference.runtimes.files import trial
from drive_seg.inference.runtimes.files.onnx_file import OnnxFile, is_onnx, is_openvino
from drive_seg.inference.runtimes.native import runtime as native
from drive_seg.inference.runtimes.onnx_runtime import OnnxRuntime, TensorRtRuntime
from drive_seg.inference.runtimes.openvino_runtime import OpenvinoRuntime
from drive_seg.inference.runtimes.prepared import (
    PreparedRuntime,
    Tell,
    check_precision,
    form_of,
    how_to_prepare,
    prepare,
)
from drive_seg.inference.runtimes.pytorch import TorchRuntime, choose_device
from drive_seg.inference.runtimes.pytorch import trial as try_device
from drive_seg.inference.runtimes.sessions import precisions

FASTEST_FIRST = ("native", "inductor", "openvino", "onnxruntime")
"""On a CPU; PyTorch comes after them."""
_OWN = (native.NAME, inductor.NAME)
"""Those that need no other package than PyTorch."""
FOR_FILES = {r.name: r for r in (OnnxRuntime, OpenvinoRuntime, TensorRtRuntime)}
"""Those that run a user's own file."""


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
    check_wish(runtime, threads)
    if runtime == TensorRtRuntime.name:
        raise ValueError(
            f"runtime 'tensorrt' runs ONNX files and no checkpoints: drive-seg export --model {loaded.path} --to onnx "
            "makes one"
        )
    if device == "auto" and torch.cuda.is_available() and (reason := try_device("cuda")):
        tell(f"device auto takes the cpu, as the GPU cannot run a layer: {reason}")
    unprepared: str | None = None
    if runtime == "auto":
        runtime, unprepared = _rule(loaded, device, precision, size, tell, preparation.way(prepare_first))
    if threads:
        torch.set_num_threads(threads)  # of the whole process: torch knows no other number
    if runtime == "torch":
        chosen = TorchRuntime(loaded.build_network(), device, precision)
        chosen.unprepared = unprepared
        return chosen
    if runtime == inductor.NAME:
        device = choose_device(device)
    elif device != "auto" and parse_device(device)[0] != "cpu":
        raise ValueError(f"device '{device}' cannot be had: {runtime} runs checkpoints on the cpu, torch on CUDA")
    else:
        device = "cpu"
    if runtime == native.NAME:
        return _native(loaded, precision, tell)
    precision = check_precision(runtime, precision, device)
    if size not in cache.prepared_sizes(form_of(runtime, precision, device), loaded.sha256):
        tell(f"preparing {loaded.path.name} for {runtime} in {size[1]}x{size[0]}, once on this machine")
        prepare(runtime, loaded, size, precision, device)
    return PreparedRuntime(runtime, loaded, precision, threads, tell, device)


def for_file(file: OnnxFile, device: str, precision: str, runtime: str, threads: int) -> Runtime:
    """The runtime for a user's own file, after it was tried: see :mod:`drive_seg.inference.runtimes.files.trial`.

    On a CPU "auto" is the faster of ONNX Runtime and OpenVINO for an ONNX file on this machine, and OpenVINO for an
    .xml file; on CUDA it is ONNX Runtime.

    Raises:
        CheckpointError: if the runtime is missing or cannot run the file, or the file does not fit its contract.
        ValueError: if runtime, device, precision or threads cannot be had.
    """
    check_wish(runtime, threads)
    able = [OpenvinoRuntime.name] if is_openvino(file.path) else list(FOR_FILES)
    if runtime not in ("auto", *able):
        raise ValueError(f"runtime '{runtime}' cannot run {file.path.name}: take {' or '.join(able)}")
    on_cpu = device == "auto" or parse_device(device)[0] == "cpu"
    if runtime != "auto":
        chosen = [runtime]
    elif is_onnx(file.path) and not on_cpu:
        chosen = [OnnxRuntime.name]
    else:
        chosen = [name for name in (OnnxRuntime.name, OpenvinoRuntime.name) if name in able]
        chosen = [name for name in chosen if find_spec(name) is not None] or chosen[:1]
    if on_cpu and TensorRtRuntime.name not in chosen and find_spec(chosen[0]) is not None:
        chosen = [trial.choose(file, chosen, precision, threads)]
    return FOR_FILES[chosen[0]](file, device, precision, threads)


def check_wish(runtime: str, threads: int) -> None:
    """Refuse what is no runtime or number of threads: ValueError."""
    if runtime not in NAMES:
        raise ValueError(f"runtime '{runtime}' is not one of {', '.join(NAMES)}")
    if threads < 0:
        raise ValueError(f"threads must be 0, for the runtime's own choice, or more, not {threads}")


def _native(loaded: Checkpoint, precision: str, tell: Tell) -> Runtime:
    precision = "fp32" if precision == "auto" else precision
    native.check_precision(precision)
    factors = native.read_factors(loaded) if precision == "int8" else None
    if precision == "int8" and factors is None:
        command = how_to_prepare(loaded.path, native.NAME, loaded.contract.input.size, precision)
        raise ValueError(f"{loaded.path.name} is not calibrated for int8 on this machine: {command}")
    if not native.is_prepared(loaded, precision):
        tell(f"compiling the kernels of the runtime {native.NAME}, once on this machine")
        native.prepare(loaded, "fp32" if factors else precision)
    library = native.open_library(native.library_file())
    return native.NativeRuntime(loaded.build_network(), library, precision, factors)


def to_prepare(loaded: Checkpoint, device: str, precision: str) -> str | None:
    """The runtime that "auto" would take if it were prepared, which takes seconds and is then for all sizes."""
    if precision == "int8":  # it is calibrated on images
        return None
    _, unprepared = _fastest(loaded, device, precision, lambda text: None)
    return native.NAME if native.NAME in unprepared and not preparation.earlier_failure(precision) else None


def _rule(
    loaded: Checkpoint, device: str, precision: str, size: Size, tell: Tell, prepare_first: str = preparation.NEVER
) -> tuple[str, str | None]:
    """What "auto" takes, and what it would take if the caller prepared it, see :func:`to_prepare`."""
    name, unprepared = _fastest(loaded, device, precision, tell)
    if prepare_first != preparation.NEVER and (faster := to_prepare(loaded, device, precision)):
        if prepare_first == preparation.LATER:
            return name, faster
        tell(f"preparing {faster} for {loaded.path.name}, once on this machine")
        preparation.prepare_and_wait(loaded.path, device, precision, tell)
        return _fastest(loaded, device, precision, tell)[0], None
    if name == "torch" and unprepared:
        command = how_to_prepare(loaded.path, unprepared[0], size, "fp32" if precision == "auto" else precision)
        failure = preparation.earlier_failure(precision) if unprepared[0] == native.NAME else None
        why = f"could not be prepared ({failure})" if failure else "not prepared for this model"
        tell(f"runtime auto takes torch: {unprepared[0]} is faster, but {why}: {command}")
    return name, None


def _fastest(loaded: Checkpoint, device: str, precision: str, tell: Tell) -> tuple[str, list[str]]:
    """The fastest that is prepared, or torch; and those before it that are worth preparing."""
    if device not in ("auto", "cpu") or choose_device(device) != "cpu":
        return "torch", []
    precision, unprepared = "fp32" if precision == "auto" else precision, []
    for name in FASTEST_FIRST:
        if name not in _OWN and find_spec(name) is None:
            continue
        if name == native.NAME and not native.runs(loaded, precision):
            continue
        try:
            # Looked up first: what a runtime can do is known only once it is imported, which takes a while.
            if name == native.NAME:
                prepared = native.is_prepared(loaded, precision)
            else:
                prepared = bool(cache.prepared_sizes(form_of(name, precision), loaded.sha256))
            if prepared and precision in (native.precisions() if name == native.NAME else precisions(name)):
                return name, unprepared
        except ValueError as error:
            tell(f"runtime auto does not take {name}: {error}")
            continue
        if not prepared and _is_worth_preparing(name, precision):
            unprepared.append(name)
    return "torch", unprepared


def _is_worth_preparing(name: str, precision: str) -> bool:
    if name == "onnxruntime":
        return precision == "fp32"
    if name == native.NAME:
        return precision in native.precisions() and inductor.can_compile()
    # The processor decides, for OpenVINO as for the compiler.
    return precision in inductor.precisions("cpu") and (name != inductor.NAME or inductor.can_compile())
