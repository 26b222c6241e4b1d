"""The runtime "native": networks by kernels of this package, the fastest on a CPU, for any size of the input.

The kernels are compiled once on a machine, with a C++ compiler, and then serve every DSNet, and every SwiftNet on an
EfficientNet-Lite. They lie in the user's
cache as ``native/<key>.so``, a name that says the processor and the kernels' source, so that code of another processor
or version is never loaded. For int8 there is, beside that, what a byte stands for in each tensor of a checkpoint:
``<hash of the checkpoint>/native-int8.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import drive_seg
from drive_seg.checkpoint import Checkpoint
from drive_seg.files import canonical_json, write_atomically
from drive_seg.inference.runtimes import Runtime, Size, cache, host
from drive_seg.inference.runtimes.conversion import ConversionError, check
from drive_seg.inference.runtimes.native import library as kernels
from drive_seg.inference.runtimes.native.calibration import calibrate
from drive_seg.inference.runtimes.native.library import Library
from drive_seg.inference.runtimes.native.program import Program, check_supported
from drive_seg.inference.runtimes.native.steps import Type
from drive_seg.networks import catalog
from drive_seg.networks.encoders import LITE
from drive_seg.networks.fold import Folded, fold

NAME = "native"
TYPES = {"fp32": Type.FLOAT, "bf16": Type.BFLOAT, "int8": Type.BYTE}
_HASH_BYTES = 32
SIZES_KEPT = 8
"""For so many sizes of the input the memory is kept."""


class NativeRuntime(Runtime):
    """A network by the kernels.

    Args:
        network: a DSNet or SwiftNet, folded or not.
        library: the kernels.
        precision: "fp32", "bf16" or "int8".
        factors: for "int8", of :func:`~drive_seg.inference.runtimes.native.calibration.calibrate`.

    Raises:
        ValueError: if these kernels cannot run the network in that precision.
    """

    name = NAME
    device = tensor_device = "cpu"
    dtype = torch.float32
    one_by_one = decides = True

    def __init__(
        self, network: torch.nn.Module, library: Library, precision: str, factors: dict[str, float] | None = None
    ) -> None:
        self.precision = precision
        self._network = network if isinstance(network, Folded) else fold(network)
        self._library, self._type, self._factors = library, TYPES[precision], factors
        check_supported(self._network, self._type)
        if not {"fp32": True, "bf16": library.bfloats, "int8": library.bytes}[precision]:
            raise ValueError(f"precision '{precision}' cannot be had: the kernels' compiler does not know it")
        self._programs: OrderedDict[tuple[Size, int], Program] = OrderedDict()

    def __call__(self, batch: Tensor) -> Tensor:
        program = self._program(batch)
        if len(batch) == 1:
            return program.run(self._library, batch)
        logits = torch.empty(len(batch), *program.shape)
        for image, into in zip(batch.split(1), logits, strict=True):
            program.run(self._library, image, into)
        height, width = program.size
        return logits.permute(0, 3, 1, 2)[..., :height, :width]

    def decide(
        self, batch: Tensor, confidence: bool, temperature: float = 1.0, frame_temperature: float | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        program, asked = self._program(batch), (confidence, temperature, frame_temperature)
        decided = [program.decide(self._library, image, *asked) for image in batch.split(1)]
        if len(decided) == 1:
            return decided[0]
        return tuple(None if planes[0] is None else torch.cat(planes) for planes in zip(*decided, strict=True))

    def _program(self, batch: Tensor) -> Program:
        """The one for this size and as many threads as PyTorch has at present."""
        place = (tuple(batch.shape[-2:]), torch.get_num_threads())
        program = self._programs.pop(place, None)
        if program is None:
            program = Program(self._network, place[0], self._type, self._library.lanes, place[1], self._factors)
            if len(self._programs) == SIZES_KEPT:
                self._programs.popitem(last=False)
        self._programs[place] = program
        return program


def executes(loaded: Checkpoint, precision: str = "fp32") -> bool:
    """Whether the kernels are for a checkpoint's network in a precision, see :func:`check_supported`.

    This is known from its options, without building it.
    """
    network = loaded.contract.network
    options = {**catalog.options(network), **loaded.contract.options}
    if network == "swiftnet":
        return options["backbone"] in LITE and options["output_stride"] == 32 and precision != "int8"
    balanced = options["feature_balance"] and options["feature_modulator"] == "conv"
    return (
        network == "dsnet"
        and options["unit"] == "dsnet"
        and not options["pyramid_pooling"]
        and not (precision == "int8" and balanced)
    )


def is_prepared(loaded: Checkpoint, precision: str) -> bool:
    """Whether the kernels are there, and for int8 what bytes stand for.

    Raises:
        ValueError: if others can write to the cache.
    """
    return _is_whole(library_file()) and (precision != "int8" or read_factors(loaded) is not None)


def prepare(loaded: Checkpoint, precision: str, images: Sequence[Tensor]) -> tuple[Path, float]:
    """Compile the kernels if they are not there, and check that they label as PyTorch does.

    Args:
        loaded: a DSNet or SwiftNet.
        precision: "fp32", "bf16" or "int8".
        images: float32 [1, 3, h, w], normalised, to check on; for int8 four or more, three of four of which are
            calibrated on.

    Returns:
        the kernels' file, and the share of pixels, 0..1, labelled as PyTorch does in fp32.

    Raises:
        ValueError: if the network is another, the kernels cannot be compiled or label otherwise, int8 has no images,
            or the cache cannot be written.
    """
    network = fold(loaded.build_network())
    check_supported(network, TYPES[precision])
    if precision == "int8" and len(images) < 4:
        raise ValueError(f"there are {len(images)} images to calibrate int8 on; it takes 4 or more")
    file, candidate = library_file(), _candidate()
    library, factors = open_library(candidate or file), None
    if precision == "int8":
        factors = calibrate(network, [image for i, image in enumerate(images) if i % 4], library)
        images = images[::4]
    runtime = NativeRuntime(network, library, precision, factors)
    try:
        share = check(f"{loaded.path.name} by {NAME}", network, runtime, images, precision)
        if candidate is not None:
            candidate.replace(file)
    except ConversionError:
        if precision == "fp32":  # then it is not the rounding, and they are wrong for every model
            file.unlink(missing_ok=True)
        raise
    finally:
        if candidate is not None:
            candidate.unlink(missing_ok=True)
    if factors is not None:
        _write(_factors_file(loaded), canonical_json({**_factors_key(loaded), "factors": factors}).encode())
    return file, share


def open_network(network: torch.nn.Module, precision: str, images: Callable[[], Iterable[Tensor]]) -> NativeRuntime:
    """A network by kernels that are compiled for this process, whatever the cache holds.

    Args:
        images: gives what int8 is calibrated on.

    Raises:
        ValueError: if they cannot be compiled, or do not run the network in that precision.
    """
    folded, library = fold(network), _own_library()
    factors = calibrate(folded, images(), library) if precision == "int8" else None
    return NativeRuntime(folded, library, precision, factors)


@lru_cache(maxsize=1)
def _own_library() -> Library:
    with TemporaryDirectory(prefix="drive_seg_") as folder:
        path = Path(folder) / "kernels.so"
        path.write_bytes(kernels.compile_library())
        return Library(path)


def _candidate() -> Path | None:
    """The kernels, compiled, beside where they will be kept; None if they are kept already.

    They are kept only once they were seen to run here: what dies of an unknown instruction does not come back.

    Raises:
        ValueError: if they cannot be compiled, or the cache not be written.
    """
    file = library_file()
    if _is_whole(file):
        return None
    cache.make_private(file.parent)  # what can be refused is, before it is compiled
    candidate = file.with_name(f"{file.name}.{os.getpid()}")
    _write(candidate, _sealed(kernels.compile_library()))
    return candidate


def _sealed(code: bytes) -> bytes:
    """Code with its hash behind it: to load half of a library ends the process."""
    return code + hashlib.sha256(code).digest()


def compile_other(source: Path) -> Path:
    """The file of another source's kernels, such as those of training, compiled if it is not there.

    Raises:
        ValueError: if it cannot be compiled, or the cache not be written.
    """
    file = library_file(source)
    if not _is_whole(file):
        _write(file, _sealed(kernels.compile_library(source)))
    return file


def _is_whole(file: Path) -> bool:
    if not file.is_file():
        return False
    cache.check_private(file.parent)
    content = file.read_bytes()
    return hashlib.sha256(content[:-_HASH_BYTES]).digest() == content[-_HASH_BYTES:]


@lru_cache(maxsize=1)
def open_library(file: Path) -> Library:
    """The kernels, loaded.

    Raises:
        ValueError: if they cannot be loaded, or others can write to the cache.
    """
    cache.check_private(file.parent)
    return Library(file)


def library_file(source: Path | None = None) -> Path:
    """Where the kernels for this processor lie, or would."""
    key = canonical_json({**host.processor_key(), "source": kernels.source_sha256(source)})
    return cache.root() / NAME / f"{hashlib.sha256(key.encode()).hexdigest()}.so"


def read_factors(loaded: Checkpoint) -> dict[str, float] | None:
    """What the bytes of a checkpoint's int8 stand for, or None if it was not calibrated for this version.

    Raises:
        ValueError: if others can write to the cache.
    """
    file = _factors_file(loaded)
    if not file.is_file():
        return None
    cache.check_private(file.parent)
    try:
        found = json.loads(file.read_bytes())
        factors = found.pop("factors")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return factors if found == _factors_key(loaded) else None


def _factors_file(loaded: Checkpoint) -> Path:
    return cache.root() / loaded.sha256 / f"{NAME}-int8.json"


def _factors_key(loaded: Checkpoint) -> dict[str, str]:
    return {
        "checkpoint": loaded.sha256,
        "drive_seg": drive_seg.__version__,
        "networks": cache.networks_sha256(),
        "program": kernels.package_sha256(),
    }


def _write(file: Path, content: bytes) -> None:
    cache.make_private(file.parent)
    try:
        write_atomically(file, content)
    except OSError as error:
        raise cache.unwritable(error) from error
