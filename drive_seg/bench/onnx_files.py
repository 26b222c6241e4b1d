"""A user's ONNX file as a contender: the bare network, whose contract is not needed to time it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drive_seg.bench.contenders import Contender
from drive_seg.bench.rows import Cell, NotInstalledError, Size
from drive_seg.bench.ways import Opened, Way, require
from drive_seg.runtimes import Runtime

_FLOATS = {"tensor(float)": ("fp32", torch.float32), "tensor(float16)": ("fp16", torch.float16)}


@dataclass(frozen=True)
class OnnxFileContender(Contender):
    """An ONNX file in ONNX Runtime on a random input of its fixed size, or of the cell's.

    Attributes:
        path: of the file.
        fixed_size: the (height, width) that the file fixes; None if it takes any.
        one_by_one: it takes one image at once, so a batch goes through image by image.
        dtype: of its input.
    """

    path: Path = Path()
    fixed_size: Size | None = None
    one_by_one: bool = False
    dtype: torch.dtype = torch.float32

    def takes_part(self, cell: Cell, cells: Sequence[Cell]) -> bool:
        """A file of a fixed size runs beside those of the nearest size."""
        if self.fixed_size is None:
            return True
        own = self.fixed_size[0] * self.fixed_size[1]
        return cell.size == min((c.size for c in cells), key=lambda size: abs(size[0] * size[1] - own))

    def size_at(self, cell: Cell) -> Size:
        return self.fixed_size or cell.size

    def batch_at(self, cell: Cell) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(cell.batch, 3, *self.size_at(cell), generator=generator).to(self.dtype)

    def count_parameters(self) -> int | None:
        """Values of the file's weights; None where the package onnx is not there to read them."""
        try:
            import onnx
        except ImportError:
            return None
        graph = onnx.load(str(self.path), load_external_data=False).graph
        floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        return sum(int(np.prod(list(w.dims))) for w in graph.initializer if w.data_type in floats)

    def open(self, cell: Cell) -> Runtime:
        session = _session(self.path, cell.device)
        name, output = session.get_inputs()[0].name, session.get_outputs()[0].name

        def run(batch: Tensor) -> Tensor:
            parts = batch.split(1) if self.one_by_one else [batch]
            return torch.cat([torch.from_numpy(session.run([output], {name: part.numpy()})[0]) for part in parts])

        opened = Opened(self.runtime, self.precision, "cpu", run)
        opened.dtype = self.dtype
        return opened


def from_onnx(path: Path, device: str) -> OnnxFileContender:
    """The contender of a file.

    Raises:
        NotInstalledError: if onnxruntime is not there.
        ValueError: if there is no such file, onnxruntime cannot run it, or its input is no batch of images.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    inputs = _session(path, "cpu").get_inputs()
    shape, kind = inputs[0].shape, inputs[0].type
    if len(inputs) != 1 or len(shape) != 4 or kind not in _FLOATS or (isinstance(shape[1], int) and shape[1] != 3):
        listed = ", ".join(f"{entry.type} {entry.shape}" for entry in inputs)
        raise ValueError(f"{path}: it takes {listed}; one input of floats [N, 3, height, width] is needed")
    batch, _, height, width = shape
    if isinstance(batch, int) and batch != 1:
        raise ValueError(f"{path}: it takes {batch} images at once; 1 or any number is needed")
    if isinstance(height, int) != isinstance(width, int):
        raise ValueError(f"{path}: it fixes one side of its input and leaves the other open")
    precision, dtype = _FLOATS[kind]
    return OnnxFileContender(
        None,
        path.stem,
        "onnxruntime",
        precision,
        Way("onnxruntime", precision, lambda subject, cell: None),
        asked=True,
        path=path,
        fixed_size=(height, width) if isinstance(height, int) else None,
        one_by_one=isinstance(batch, int),
        dtype=dtype,
    )


def _session(path: Path, device: str) -> Any:
    require("onnxruntime", "onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    providers = ["CPUExecutionProvider"]
    if device.startswith("cuda"):
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise NotInstalledError("this onnxruntime offers no CUDA: the package onnxruntime-gpu does")
        providers.insert(0, "CUDAExecutionProvider")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no other base
        raise ValueError(f"{path}: onnxruntime cannot run it: {' '.join(str(error).split())[:300]}") from error
