"""WiderResNet-38 as an encoder: Z. Wu et al., "Wider or Deeper: Revisiting the ResNet Model", 2016.

In the dilated form "A2" of S. Rota Bulo et al., "In-Place Activated BatchNorm", CVPR 2018, which FBNet's best result
(Table 5) and NVIDIA's segmentation networks stand on. Modules bear the names of those published weights. Batch Norms
are plain ones, each followed by a ReLU, as in NVIDIA's. Weights learnt with in-place ABN (leaky ReLU, the scale's
absolute value) fit by name and shape, but compute something slightly different here until they are trained on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from drive_seg.networks.layers import initialise
from drive_seg.networks.network import Balance, Stage

BLOCKS = (3, 3, 6, 3, 1, 1)
"""Residual blocks of mod2 to mod7."""

CHANNELS = ((128, 128), (256, 256), (512, 512), (512, 1024), (512, 1024, 2048), (1024, 2048, 4096))
"""Output channels of the convolutions in a block of mod2 to mod7: two 3x3 ones, or 1x1, 3x3, 1x1."""

STRIDES = (1, 1, 2, 1, 1, 1)
DILATIONS = (1, 1, 1, 2, 4, 4)
DROPOUT = (0.0, 0.0, 0.0, 0.0, 0.3, 0.5)


class IdentityBlock(nn.Module):
    """Pre-activation residual block: Batch Norm and ReLU before each convolution, nothing after the sum.

    Where the shape changes, the shortcut is a 1x1 on the activated input; elsewhere it is the input itself. Dropout
    stands before the last convolution of a bottleneck.

    Args:
        c_in: channels of the input.
        channels: output channels of two 3x3 convolutions, or of a bottleneck's 1x1, 3x3 and 1x1.
        stride: of the first convolution.
        dilation: of the 3x3 convolutions.
        dropout: probability; 0 leaves it out.
    """

    def __init__(self, c_in: int, channels: Sequence[int], stride: int, dilation: int, dropout: float) -> None:
        super().__init__()
        kernels = (3, 3) if len(channels) == 2 else (1, 3, 1)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.relu = nn.ReLU(inplace=True)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        before = c_in
        for i, (kernel, c_out) in enumerate(zip(kernels, channels, strict=True), start=1):
            if i > 1:
                layers[f"bn{i}"] = nn.BatchNorm2d(before)
                layers[f"relu{i}"] = nn.ReLU(inplace=True)
            if dropout and i == len(channels):
                layers["dropout"] = nn.Dropout(dropout)
            spread = dilation if kernel == 3 else 1
            layers[f"conv{i}"] = nn.Conv2d(
                before, c_out, kernel, stride if i == 1 else 1, spread * (kernel // 2), spread, bias=False
            )
            before = c_out
        self.convs = nn.Sequential(layers)
        self.proj_conv = nn.Conv2d(c_in, before, 1, stride, bias=False) if stride != 1 or c_in != before else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.bn1(x))
        shortcut = x if self.proj_conv is None else self.proj_conv(activated)
        return self.convs(activated) + shortcut


class WiderResNet38(nn.Module):
    """An encoder with four stages and an output stride of 8.

    It has six groups of blocks, mod2 to mod7, where a ResNet has four. Their strides are 2, 4, 8, 8, 8, 8. The stages
    bear the names of a ResNet dilated to stride 8, so that every host takes either: "res2" is mod3, the only group at
    stride 4; "res3" is mod4, the first at stride 8; "res4" is mod5, which like a dilated res4 has dilation 2 and 1024
    channels; "res5" is what the encoder ends with: mod7 after its last Batch Norm and ReLU.

    Forward takes [B, 3, H, W] and returns the features of "res2" to "res5" by name: 256, 512, 1024, 4096 channels.
    """

    def __init__(self) -> None:
        super().__init__()
        c_in = 64
        self.mod1 = nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, c_in, 3, padding=1, bias=False)))
        self.pool2 = nn.MaxPool2d(3, 2, padding=1)
        self.pool3 = nn.MaxPool2d(3, 2, padding=1)
        groups = zip(BLOCKS, CHANNELS, STRIDES, DILATIONS, DROPOUT, strict=True)
        for i, (blocks, channels, stride, dilation, dropout) in enumerate(groups, start=2):
            mod = nn.Sequential()
            for j in range(blocks):
                block = IdentityBlock(c_in, channels, stride if j == 0 else 1, dilation, dropout)
                mod.add_module(f"block{j + 1}", block)
                c_in = channels[-1]
            self.add_module(f"mod{i}", mod)
        self.bn_out = nn.BatchNorm2d(c_in)
        self.relu = nn.ReLU(inplace=True)
        self.stages: Mapping[str, Stage] = {
            "res2": Stage(CHANNELS[1][-1], 4),
            "res3": Stage(CHANNELS[2][-1], 8),
            "res4": Stage(CHANNELS[3][-1], 8),
            "res5": Stage(CHANNELS[5][-1], 8),
        }
        initialise(self)

    def forward(self, image: Tensor, balance: Balance = lambda stage, x: x) -> dict[str, Tensor]:
        x = self.mod2(self.pool2(self.mod1(image)))
        res2 = balance("res2", self.mod3(self.pool3(x)))
        res3 = balance("res3", self.mod4(res2))
        res4 = balance("res4", self.mod5(res3))
        res5 = balance("res5", self.relu(self.bn_out(self.mod7(self.mod6(res4)))))
        return {"res2": res2, "res3": res3, "res4": res4, "res5": res5}

    def load_pretrained(self, state: Mapping[str, Tensor]) -> None:
        """Take over a published state dict; the classifier ("classifier." or "fc.") is left out.

        Two spellings are understood besides the plain one: "module." in front of every name (saved from a parallel
        wrapper), and ".0" behind the name of every Batch Norm (NVIDIA's, where each shares a sequence with its ReLU).

        Raises:
            ValueError: if any other tensor is missing, left over or misshapen.
        """
        plain = {_plain(name): tensor for name, tensor in state.items()}
        encoder = {name: tensor for name, tensor in plain.items() if not name.startswith(("classifier.", "fc."))}
        try:
            self.load_state_dict(encoder)
        except RuntimeError as error:
            raise ValueError(
                f"the weights are not those of WiderResNet-38: {str(error).splitlines()[1].strip()}"
            ) from None


def _plain(name: str) -> str:
    """The name of a published tensor -> its name here."""
    parts = name.removeprefix("module.").split(".")
    if len(parts) >= 3 and parts[-3].startswith("bn") and parts[-2] == "0":
        del parts[-2]
    return ".".join(parts)
