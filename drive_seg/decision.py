"""From logits to what is published: class ids, how sure the network is of them, and both at the camera's size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from drive_seg.runtimes import Size


def decide(logits: Tensor, confidence: bool) -> tuple[Tensor, Tensor | None]:
    """[B, C, h, w] -> ids uint8 [B, h, w], and 255 x softmax maximum uint8 [B, h, w] if asked for."""
    if not confidence:
        # not argmax: on a CPU it takes three times as long where each class is a plane of its own (ONNX, OpenVINO)
        return logits.max(1).indices.to(torch.uint8), None
    largest, ids = logits.float().max(1)
    # softmax maximum = 1 / sum exp(logit - largest)
    total = (logits.float() - largest.unsqueeze(1)).exp().sum(1)
    return ids.to(torch.uint8), (255.0 / total).round().to(torch.uint8)


def to_size(plane: Tensor, size: Size) -> Tensor:
    """[h, w] -> [H, W] by nearest neighbour."""
    if plane.shape == size:
        return plane
    return F.interpolate(plane[None, None], size, mode="nearest-exact")[0, 0]
