"""ResNet-50 and -101 as encoders: K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

With dilation in place of the last strides (F. Yu et al., "Dilated Residual Networks", CVPR 2017), and on wish with the
deep stem of three 3x3 convolutions. Modules bear torchvision's names, so its ImageNet weights fit the plain stem.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from drive_seg.networks.layers import initialise, one_of
from drive_seg.networks.network import Balance, Stage

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Bottlenecks of res2 to res5 by depth (Table 1 of the ResNet paper)."""

STEMS = ("plain", "deep")
OUTPUT_STRIDES = (8, 16, 32)


class Bottleneck(nn.Module):
    """1x1 reduces, 3x3, 1x1 expands fourfold, plus the shortcut. The stride is the 3x3's, as in torchvision."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        c_out = width * self.expansion
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)) if project else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Module):
    """An encoder with four stages.

    Args:
        depth: 50 or 101.
        stem: "plain" (7x7 convolution, 64 channels) or "deep" (3x3 convolutions to 64, 64, 128 channels).
        output_stride: 8, 16 or 32. Below 32 the last stages keep their resolution and dilate. Where a stride is taken
            out, the first 3x3 convolution still sees the old spacing; only those after it dilate. So the network
            computes what the strided one does, at more places: weights learnt at stride 32 fit.

    Forward takes [B, 3, H, W] and returns the features of "res2" to "res5" by name: 256, 512, 1024, 2048 channels.

    Raises:
        ValueError: for another depth, stem or output stride.
    """

    def __init__(self, depth: int, stem: str = "plain", output_stride: int = 32) -> None:
        super().__init__()
        one_of("depth", depth, BLOCKS)
        one_of("stem", stem, STEMS)
        one_of("output_stride", output_stride, OUTPUT_STRIDES)
        if stem == "plain":
            c_in = 64
            self.conv1: nn.Module = nn.Conv2d(3, c_in, 7, 2, padding=3, bias=False)
        else:
            c_in = 128
            self.conv1 = nn.Sequential(
                nn.Conv2d(3, 64, 3, 2, padding=1, bias=False),
                nn.BatchNorm2d(64),
                nn.ReLU(inplace=True),
                nn.Conv2d(64, 64, 3, padding=1, bias=False),
                nn.BatchNorm2d(64),
                nn.ReLU(inplace=True),
                nn.Conv2d(64, c_in, 3, padding=1, bias=False),
            )
        self.bn1 = nn.BatchNorm2d(c_in)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.stages: Mapping[str, Stage] = {}
        stride, dilation = 4, 1
        for i, blocks in enumerate(BLOCKS[depth]):
            width, step, before = 64 * 2**i, 1, dilation
            if i > 0 and stride < output_stride:
                step, stride = 2, stride * 2
            elif i > 0:
                dilation *= 2
            layer = [Bottleneck(c_in, width, step, before, project=True)]
            c_in = width * Bottleneck.expansion
            layer += [Bottleneck(c_in, width, 1, dilation, project=False) for _ in range(blocks - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*layer))
            self.stages[f"res{i + 2}"] = Stage(c_in, stride)
        initialise(self)

    def forward(self, image: Tensor, balance: Balance = lambda stage, x: x) -> dict[str, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        features = {}
        for stage, layer in zip(self.stages, (self.layer1, self.layer2, self.layer3, self.layer4), strict=True):
            x = features[stage] = balance(stage, layer(x))
        return features

    def load_pretrained(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state dict of torchvision's naming; its classifier ``fc`` is left out.

        Raises:
            ValueError: if any other tensor is missing, left over or misshapen.
        """
        encoder = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
        try:
            self.load_state_dict(encoder)
        except RuntimeError as error:
            raise ValueError(
                f"the weights are not those of this ResNet: {str(error).splitlines()[1].strip()}"
            ) from None
