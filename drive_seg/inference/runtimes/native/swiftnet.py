"""SwiftNet on an EfficientNet-Lite as steps.

What is widest and read by nobody but the next layer is never whole in memory: of the rows that a block expands, and of
those that the upsampling path adds up, a thread keeps as many as a convolution reads.
"""

from __future__ import annotations

import torch
from torch import nn

from drive_seg.inference.runtimes.native.assembly import Assembly, Ending, UnsupportedError, padded
from drive_seg.inference.runtimes.native.channels import Channels, channels_of
from drive_seg.inference.runtimes.native.steps import Buffer, Step, Type
from drive_seg.networks.efficientnet_lite import ENDS, Border, EfficientNetLite, MBConv
from drive_seg.networks.swiftnet import GRIDS, SpatialPyramidPooling, SwiftNet, Upsampling

STRIDE = 4
"""Of the logits before they are brought to the size of the image."""


def check_supported(net: SwiftNet) -> None:
    """Refuse another encoder than an EfficientNet-Lite of stride 32: UnsupportedError."""
    encoder = net.encoder
    if not isinstance(encoder, EfficientNetLite) or encoder.stages["res5"].stride != 32:
        raise UnsupportedError(
            "of SwiftNets the native kernels run those on an EfficientNet-Lite with an output stride of 32"
        )


def assemble(a: Assembly, net: SwiftNet, size: tuple[int, int]) -> Ending:
    """Add the steps of a SwiftNet for an image of that (height, width)."""
    features = _encoder(a, net, size)
    x = _context(a, net.context, features["res5"])
    x = a.balanced("up4", net.feature_balance, _up(a, "up4", net.up4, x, features["res4"]))
    x = a.balanced("up3", net.feature_balance, _up(a, "up3", net.up3, x, features["res3"]))
    if "up2" in net.feature_balance:
        x = a.balanced("up2", net.feature_balance, _up(a, "up2", net.up2, x, features["res2"]))
        coarse = a.convolution("classifier", net.classifier, x, relu=0, type=Type.FLOAT)[0]
    else:
        coarse = _up(a, "up2", net.up2, x, features["res2"], net.classifier)
    logits, last = a.logits(coarse, size)
    return Ending(logits, [last], [_decision(a, coarse[0].buffer, size)])


def _decision(a: Assembly, coarse: Buffer, size: tuple[int, int]) -> Step:
    width = padded(coarse.size[1]) + a.lanes  # what is read from the last column on lies in memory
    memory = torch.zeros(a.threads, 1, padded(coarse.channels), width)
    return a.decision(coarse, size, Buffer("logits.row", size, a.kept(memory), Type.FLOAT, width, wrap=1))


def _encoder(a: Assembly, net: SwiftNet, size: tuple[int, int]) -> dict[str, Channels]:
    encoder = net.encoder
    ends, features = {last: name for name, last in ENDS.items()}, {}
    conv = encoder.stem[0]
    block = encoder.layers[0][0]
    stem, first = a.image("stem", size, conv.weight, conv.bias, encoder.border.padding[0], relu=6, wrap=3, halo=1)
    x = _after(a, "blocks.0.0", block, channels_of(stem), [first])
    for i, layer in enumerate(encoder.layers):
        for j, block in enumerate(layer):
            if i == j == 0:
                continue
            given, x = x, _block(a, f"blocks.{i}.{j}", block, x)
            if not any(given is feature for feature in features.values()):
                a.release(given[0].buffer)
        if i in ends:
            x = features[ends[i]] = a.balanced(ends[i], net.feature_balance, x)
    return features


def _block(a: Assembly, name: str, block: MBConv, x: Channels) -> Channels:
    conv = block.depthwise[0]
    kernel, before = conv.kernel_size[0], _before(block)
    # Each thread expands the rows above and below its own, too: not where these would be as many again.
    rolls = x[0].buffer.size[0] >= a.threads * kernel * conv.stride[0]
    wide, expanding = a.convolution(
        f"{name}.expand",
        block.expand[0],
        x,
        halo=kernel - 1 - before,
        between=True,
        wrap=kernel if rolls else 0,
        relu=6,
        type=Type.FLOAT,
    )
    return _after(a, name, block, wide, expanding if rolls else [], x if block.residual else None)


def _after(
    a: Assembly, name: str, block: MBConv, wide: Channels, ahead: list[Step], plus: Channels | None = None
) -> Channels:
    """A block from its depth-wise convolution on, carried out as the steps ahead make rows."""
    conv = block.depthwise[0]
    x, depthwise = a.depthwise(f"{name}.depthwise", conv, wide, _before(block), wrap=1)
    x, projecting = a.convolution(name, block.project[0], x, relu=0, plus=plus)
    a.rolling(ahead, [depthwise, *projecting], conv.kernel_size[0], _before(block), conv.stride[0])
    return x


def _before(block: MBConv) -> int:
    """Rows of zeros above the image that the depth-wise convolution reads."""
    return block.border.padding[0] if isinstance(block.border, Border) else block.depthwise[0].padding[0]


def _context(a: Assembly, context: SpatialPyramidPooling, x: Channels) -> Channels:
    reduced = a.convolution("context.reduce", context.reduce[0], x)[0]
    size, parts = reduced[0].buffer.size, list(reduced)
    for grid, level in zip(GRIDS, context.levels, strict=True):
        name = f"context.{grid}"
        means = a.regions(f"{name}.means", reduced, grid)
        means = a.convolution(f"{name}.level", level[1][0], means)[0]
        parts += a.resize(name, means, size)[0]
    return a.convolution("context", context.fuse[0], parts)[0]


def _up(
    a: Assembly, name: str, up: Upsampling, x: Channels, skip: Channels, classifier: nn.Conv2d | None = None
) -> Channels:
    """Upsampling, and the classifier on its result if that is given."""
    brought, resizing = a.resize(f"{name}.resized", x, skip[0].buffer.size, Type.FLOAT, wrap=3)
    total, adding = a.convolution(f"{name}.sum", up.skip[0], skip, halo=1, wrap=3, relu=0, plus=brought)
    if classifier is None:
        x, blending = a.convolution(name, up.blend[0], total)
    else:
        x, blending = a.convolution(f"{name}.blend", up.blend[0], total, wrap=1)
        x, deciding = a.convolution("classifier", classifier, x, relu=0, type=Type.FLOAT)
        blending = [*blending, *deciding]
    a.rolling([resizing, *adding], blending, kernel=3, before=1)
    return x
