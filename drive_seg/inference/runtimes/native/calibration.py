"""What a byte stands for in each of a network's tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from drive_seg.inference.runtimes.native.library import Library
from drive_seg.inference.runtimes.native.program import Program
from drive_seg.inference.runtimes.native.steps import Type
from drive_seg.networks.fold import Folded

_SMALLEST = 1e-6


@torch.inference_mode()
def calibrate(network: Folded, images: Iterable[Tensor], library: Library) -> dict[str, float]:
    """The factor of each buffer of a program in bytes, by its name.

    Args:
        network: folded, float32 on the CPU.
        images: float32 [1, 3, h, w], normalised, like those that the network will see.
        library: the kernels.

    Returns:
        the mean over the images of a tensor's largest number, over 255.

    Raises:
        ValueError: if there is no image.
    """
    program: Program | None = None
    sums: dict[str, float] = {}
    count = 0
    for image in images:
        size = tuple(image.shape[-2:])
        if program is None or program.size != size:
            program = Program(network, size, Type.FLOAT, library.lanes, torch.get_num_threads(), apart=True)
        program.run(library, image)
        for buffer in program.buffers:
            sums[buffer.name] = sums.get(buffer.name, 0.0) + float(buffer.image.max())
        count += 1
    if not count:
        raise ValueError("there is no image to calibrate on")
    factors = {name: max(total / count / 255, _SMALLEST) for name, total in sums.items()}
    return {**factors, "init.rounded": factors["init"]}
