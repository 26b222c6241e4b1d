"""A user's file as a runtime: run by whatever session, and held to its contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drive_seg.checkpoint import CheckpointError
from drive_seg.inference.decision import SPARSE
from drive_seg.inference.runtimes import MULTIPLE, Runtime, Size
from drive_seg.inference.runtimes.entry import RuntimeEntry
from drive_seg.inference.runtimes.files.contract import elsewhere
from drive_seg.inference.runtimes.files.onnx_file import OnnxFile
from drive_seg.inference.runtimes.files.outputs import Outputs
from drive_seg.inference.runtimes.files.ports import FileError, Port, image_input
from drive_seg.inference.runtimes.pytorch import indexed


class FileRuntime(Runtime):
    """A file that was run and does what its contract says.

    Logits and probabilities at a lower resolution than the input (1/8, 1/4) are brought to it bilinearly, as the
    package's own networks do it inside. Images go through on the CPU one by one, as they do with PyTorch. On a GPU that
    torch has, too, images are resized and normalised there, and logits decided on: the network reads and writes the
    GPU's memory.

    Args:
        entry: executes it.
        file: what :func:`.onnx_file.read` gives.
        device: "auto", "cpu", "cuda" or "cuda:N", of those that the entry runs files on.
        precision: "auto" for the file's own, or one that the entry can compute it in.
        threads: 0 is the runtime's own choice.

    Raises:
        CheckpointError: if the runtime is missing or cannot run the file, or the file does not fit its contract.
        ValueError: if device or precision is not available.
    """

    tensor_device = "cpu"

    def __init__(
        self, entry: RuntimeEntry, file: OnnxFile, device: str = "auto", precision: str = "auto", threads: int = 0
    ) -> None:
        self.name, self.device = entry.name, entry.choose_file_device(device)
        if self.device != "cpu" and torch.cuda.is_available():
            self.tensor_device = indexed(self.device)
        self._file, options = file, file.contract.options
        try:
            self._session = entry.open_file(file, self.device, precision, threads)
        except FileError as error:
            raise self._misfit(error) from error
        self.precision = self._session.precision
        try:
            self._input = image_input(self._session.inputs)
            self._wanted = _chosen_outputs(self._session.outputs, options)
            self._check_sizes(options.get("multiple", MULTIPLE))
        except ValueError as error:
            raise self._misfit(error) from error
        self.dtype, self.one_by_one = self._input.dtype, self._input.one_by_one
        spec = file.contract.input
        if self.dtype == torch.uint8 and (spec.mean, spec.std, spec.scale) != ((0,) * 3, (1,) * 3, 1):
            raise self._misfit(f"its input {self._input.port} takes pixels: say range: raw, and no mean, std and scale")
        self._outputs = Outputs(options, file.contract.label_map)
        self._try()
        self.gives_logits, self.decides = self._outputs.gives_logits, not self._outputs.plain
        # Plain logits are decided on elsewhere, where 255 says that they are not finite.
        self.may_void = self.decides
        self.gives_confidence = self._outputs.kind != "ids" or len(self._wanted) == 2

    def __call__(self, batch: Tensor) -> Tensor:
        size = tuple(batch.shape[-2:])
        if self._outputs.plain and batch.device.type != "cpu":
            with self._in_words(size):
                given = self._input.arranged(batch)
                return self._outputs.logits(self._session.run_on_device(self._wanted, given)[0], size)
        return self._outputs.logits(self._run(batch)[0], size)

    def decide(
        self, batch: Tensor, confidence: bool, temperature: float = 1.0, frame_temperature: float | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        values = self._run(batch)
        sureness = values[1] if len(values) > 1 else None
        size = tuple(batch.shape[-2:])
        try:
            ids, sure = self._outputs.decide(values[0], sureness, size, confidence, temperature)
            if frame_temperature is None:
                return ids, sure, None
            of_frames = self._outputs.decide(values[0], sureness, size, True, frame_temperature)[1]
        except ValueError as error:
            raise self._misfit(error) from error
        return ids, sure, None if of_frames is None else of_frames[:, ::SPARSE]

    def ports(self) -> dict[str, list[str]]:
        """What the file takes and gives, as text."""
        return {"inputs": list(map(str, self._session.inputs)), "outputs": list(map(str, self._session.outputs))}

    def _check_sizes(self, multiple: int) -> None:
        """Set the size that the file fixes, or the multiple that sizes keep; ValueError if the contract has another."""
        port, wanted = self._input.port, self._file.contract.input.size
        if self._input.size(wanted) != wanted:
            raise ValueError(f"its input is {port}, but the contract's input_size is {list(wanted)}")
        self.multiple = multiple
        if any(self._input.sides):
            self.fixed_size = wanted
        elif any(side % multiple for side in wanted):
            raise ValueError(
                f"its input {port} takes any size, and input_size {list(wanted)} is not of multiples of {multiple}"
            )

    def _try(self) -> None:
        """Run it on a picture of black, white, grey and colours: what a file declares may lack numbers, or be wrong.

        Where it takes any size, also on one whose sides are odd multiples: cameras have many.
        """
        own = self._file.contract.input.size
        try:
            self._look(own)
        except (ValueError, RuntimeError) as error:
            raise self._misfit(error) from error
        if self.fixed_size is not None or self.device != "cpu":
            return
        odd = _odd_size(own, self.multiple)
        try:
            self._look(odd)
        except (ValueError, RuntimeError) as error:
            raise self._misfit(
                f"it takes an input of {own[1]}x{own[0]} but not of {odd[1]}x{odd[0]}: {self._way_out()} ({error})"
            ) from error

    def _look(self, size: Size) -> None:
        """Run it in a size; ValueError or RuntimeError if it fails, or what comes is not what the contract says."""
        values = self._run(self._file.contract.input.normalise(trial_image(size), self.dtype))
        try:
            self._outputs.check(values[0], values[1] if len(values) > 1 else None)
        except ValueError as error:
            raise ValueError(f"its output '{self._wanted[0]}' is {error}") from error

    def _way_out(self) -> str:
        """What to do about a network that does not take any size."""
        for multiple in (16, 32, 64):
            size = tuple(max(multiple, side // multiple * multiple) for side in self._file.contract.input.size)
            if multiple > self.multiple and self._takes(size) and self._takes(_odd_size(size, multiple)):
                return f"its sides must be multiples of {multiple}, so say multiple: {multiple} in the contract"
        return "export it with a fixed size, or say in the contract which multiple its sides must be"

    def _takes(self, size: Size) -> bool:
        try:
            self._look(size)
        except (ValueError, RuntimeError):
            return False
        return True

    def _run(self, batch: Tensor) -> list[np.ndarray]:
        with self._in_words(batch.shape[-2:]):
            return self._session.run(self._wanted, self._input.feed(batch.cpu()))

    @contextmanager
    def _in_words(self, size: Sequence[int]) -> Iterator[None]:
        """Say of which file and input an error is."""
        try:
            yield
        except RuntimeError as error:
            text = f"{size[-1]}x{size[-2]}"
            raise RuntimeError(f"{self._file.path.name} fails on an input of {text}: {error}") from error

    def _misfit(self, reason: object) -> CheckpointError:
        contract = self._file.contract_file
        return CheckpointError(
            f"{self._file.path} (contract {contract.name}): {reason}{elsewhere(contract, self._file.path)}"
        )


def trial_image(size: Size) -> Tensor:
    """uint8 BGR [1, 3, H, W]: a quarter each of black, white, grey, and blocks of random colours."""
    height, width = size
    blocks = np.random.default_rng(0).integers(0, 256, (3, -(-height // 8), -(-width // 8)), np.uint8)
    image = torch.from_numpy(blocks.repeat(8, 1).repeat(8, 2)[None, :, :height, :width].copy())
    top, left = height // 2, width // 2
    image[..., :top, :left], image[..., :top, left:], image[..., top:, :left] = 0, 255, 128
    return image


def _odd_size(size: Size, multiple: int) -> Size:
    """Near a size another one whose sides are odd multiples."""
    odd = tuple((side // multiple | 1) * multiple for side in size)
    return odd if odd != tuple(size) else (odd[0], odd[1] + 2 * multiple)


def _chosen_outputs(there: Sequence[Port], options: dict[str, Any]) -> list[str]:
    """The outputs that the contract names, or the only one; ValueError if there are none."""
    listed, wanted = ", ".join(map(str, there)), options.get("output_name")
    others = [port.name for port in there if port.name != options.get("confidence_name")]
    if wanted is None and len(others) != 1:
        raise ValueError(f"it gives {listed}: say in output_name which one to use")
    chosen = [wanted or others[0], *([options["confidence_name"]] if "confidence_name" in options else [])]
    for name in chosen:
        if name not in [port.name for port in there]:
            raise ValueError(f"it has no output '{name}', only {listed}")
    return chosen
