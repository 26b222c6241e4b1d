"""Five classes, two groups of them, and labels with void, groups and all classes."""

import numpy as np
import pytest
import torch

from drive_seg.labels import LabelMap
from drive_seg.training.targets import Targets

SHARE = np.array([0.6, 0.28, 0.09, 0.0099, 0.0001, 0.015, 0.005])
"""Of the classes 0 to 4 and the groups 5 and 6."""

CLASSES = LabelMap("five", ("road", "sky", "car", "person", "pole"), ((0, 0, 0),) * 5)


@pytest.fixture
def targets():
    return Targets(CLASSES, ((0, 1), (2, 3, 4)), SHARE)


@pytest.fixture
def plain():
    """Without groups."""
    return Targets(CLASSES, (), SHARE[:5])


@pytest.fixture(params=["random", "one class", "partly void", "all void", "one image void"])
def batch(request):
    """Logits [2, 5, 6, 7] and labels [2, 6, 7]."""
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(2, 5, 6, 7, generator=generator)
    label = torch.randint(0, 7, (2, 6, 7), generator=generator).to(torch.uint8)
    if request.param == "one class":
        label[:] = 2
    if request.param == "partly void":
        label[0, :2] = 255
    if request.param == "all void":
        label[:] = 255
    if request.param == "one image void":
        label[1] = 255
    return logits, label
