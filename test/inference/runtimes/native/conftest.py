"""Networks whose activations are as a trained one's, and the kernels that are to run them."""

import functools

import pytest
import torch
from torch import nn

from drive_seg import networks
from drive_seg.inference.runtimes.native.library import Library
from drive_seg.inference.runtimes.native.program import Program
from drive_seg.inference.runtimes.native.steps import Type
from drive_seg.networks.fold import fold


@functools.cache
def _made(name, classes, chosen):
    """A folded network. Batch Norms have seen images; what FBNet adds has weights that matter."""
    torch.manual_seed(3)
    network = networks.build(name, classes, **dict(chosen)).train()
    for name, part in network.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.2)
        elif "modulator" in name and hasattr(part, "bias"):
            nn.init.normal_(part.weight, 0, 0.1)
            nn.init.normal_(part.bias, 0, 0.5)
    with torch.no_grad():
        network(torch.randn(4, 3, 48, 64))
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_var.clamp_(min=1)  # below, rounding errors grow from norm to norm
    return fold(network.eval())


@pytest.fixture(scope="session")
def make():
    """Options of a network -> the network, folded; the same one for the same options."""

    def make(classes=11, network="dsnet", **chosen):
        if network == "dsnet":
            chosen["semantic_encoding"] = False
        return _made(network, classes, tuple((name, _frozen(value)) for name, value in sorted(chosen.items())))

    yield make
    _made.cache_clear()


def _frozen(value):
    return tuple(value) if isinstance(value, list) else value


@pytest.fixture(scope="session")
def library(kernels_file):
    return Library(kernels_file)


@pytest.fixture
def run(library):
    """Network and image -> logits by a program of its own."""

    def run(network, image, type=Type.FLOAT, threads=1, **how):
        program = Program(network, tuple(image.shape[-2:]), type, library.lanes, threads, **how)
        return program.run(library, image).clone()

    return run


@pytest.fixture(autouse=True)
def same_values():
    torch.manual_seed(5)
