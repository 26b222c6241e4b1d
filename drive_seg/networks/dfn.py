"""DFN: C. Yu et al., "Learning a Discriminative Feature Network for Semantic Segmentation", CVPR 2018.

Where the paper is open, this file does what the authors' own code does, unless said otherwise:

* A Refinement Residual Block is 1x1, then 3x3 - Batch Norm - ReLU - 3x3 with a shortcut around the 3x3s, then ReLU
  (Fig. 2b). None of its convolutions has a bias, and nothing stands between the 1x1 and the first 3x3.
* Each stage of the Smooth Network is RRB - Channel Attention Block - RRB, from res5 down to res2. Features of a higher
  stage are brought to the size of the lower one bilinearly. The authors align the corners; here pixel centres keep
  their places as everywhere in this package, so that sizes that are no multiples of 32 need no special care.
* The text asks for the score map of each stage without saying how 512 channels become C classes. A head is an RRB to
  9 * C channels without its last ReLU, and a 1x1.
* The text supervises "the outputs" of the Border Network, the list of contributions names its deep supervision, and
  Fig. 7 shows its refinement stage by stage: there are four outputs, one after each stage, all at the size of res2.
* The Border Network is 21 channels wide: the classes of PASCAL VOC, and the authors' width for Cityscapes as well.
* The authors build an RRB behind the first sum of the Border Network, where there is nothing to add yet, and never run
  it. It is left out, as a parameter without a gradient stops distributed training.
* The stem is the plain one, as the paper has ResNet-101 with ImageNet weights; the authors' code has the deep one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from drive_seg.networks.encoders import build_encoder
from drive_seg.networks.layers import ConvBN, resize, training_only
from drive_seg.networks.network import Balance, SegmentationNetwork, SegmentationOutput, Stage

ENCODER_STAGES = ("res2", "res3", "res4", "res5")


class RefinementResidualBlock(nn.Module):
    """RRB (Fig. 2b): 1x1 to the common width, then a residual block. [B, c_in, H, W] -> [B, c_out, H, W].

    ``activate=False`` leaves the last ReLU out, as the heads need it.
    """

    def __init__(self, c_in: int, c_out: int, activate: bool = True) -> None:
        super().__init__()
        self.unify = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.refine = nn.Sequential(ConvBN(c_out, c_out, 3), nn.Conv2d(c_out, c_out, 3, padding=1, bias=False))
        self.relu = nn.ReLU(inplace=True) if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.unify(x)
        return self.relu(x + self.refine(x))


class ChannelAttentionBlock(nn.Module):
    """CAB (Fig. 2c and 3): features of both stages weigh the channels of the lower one (alpha of eq. 3).

    alpha = sigmoid(1x1(ReLU(1x1(global average of low beside high)))), result = alpha * low + high.

    Args of forward: ``low`` [B, C, H, W]; ``high`` of the same shape, or [B, C, 1, 1] where it is the global average.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        # The average of the concatenation is the concatenation of the averages, and these are small.
        average = torch.cat([x.mean(dim=(2, 3), keepdim=True) for x in (low, high)], dim=1)
        return self.attention(average) * low + high


class Sum(nn.Module):
    """What stands in for a CAB in the rows of Table 2 without one: low + high."""

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        return low + high


class Head(nn.Sequential):
    """Features to logits: RRB to 9 * c_out channels without the last ReLU, 1x1."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(RefinementResidualBlock(c_in, 9 * c_out, activate=False), nn.Conv2d(9 * c_out, c_out, 1))


class GlobalPooling(nn.Module):
    """The top of the V (section 3.1): global average, 1x1, Batch Norm, ReLU. [B, c_in, H, W] -> [B, c_out, 1, 1]."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.reduce = ConvBN(c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(x.mean(dim=(2, 3), keepdim=True))


class SmoothNetwork(nn.Module):
    """Section 3.1: the strongest consistency, that of the top, goes down stage by stage.

    Args:
        stages: the encoder's.
        width: channels of all of its features.
        global_pooling: start from the global average above res5.
        channel_attention: fuse with CABs; with plain sums otherwise.

    Forward takes the encoder's features by name and returns "smooth5" to "smooth2", [B, width, h, w] each, of the sizes
    of "res5" to "res2".
    """

    def __init__(self, stages: Mapping[str, Stage], width: int, global_pooling: bool, channel_attention: bool) -> None:
        super().__init__()
        self.stages = {f"smooth{stage[-1]}": Stage(width, stages[stage].stride) for stage in reversed(ENCODER_STAGES)}
        self.global_pooling = GlobalPooling(stages["res5"].channels, width) if global_pooling else None
        self.before = nn.ModuleDict({s: RefinementResidualBlock(stages[s].channels, width) for s in ENCODER_STAGES})
        # Without the global average nothing stands above res5 with which it could be fused.
        fused = ENCODER_STAGES if global_pooling else ENCODER_STAGES[:-1]
        self.fusion = nn.ModuleDict({s: ChannelAttentionBlock(width) if channel_attention else Sum() for s in fused})
        self.after = nn.ModuleDict({s: RefinementResidualBlock(width, width) for s in ENCODER_STAGES})

    def forward(self, features: Mapping[str, Tensor], balance: Balance) -> dict[str, Tensor]:
        high = None if self.global_pooling is None else self.global_pooling(features["res5"])
        smooth = {}
        for stage, name in zip(reversed(ENCODER_STAGES), self.stages, strict=True):
            x = self.before[stage](features[stage])
            if high is not None:
                # Bilinear upsampling of a single position is its repetition, which the fusion does by itself.
                high = high if stage == "res5" else resize(high, x.shape[-2:])
                x = self.fusion[stage](x, high)
            high = smooth[name] = balance(name, self.after[stage](x))
        return smooth


class BorderNetwork(nn.Module):
    """Section 3.2: edges of the lowest stage, from which each higher stage takes those that mean nothing.

    Forward takes the encoder's features by name and returns four logits [B, 1, h, w] of the size of "res2", lowest
    stage first.
    """

    def __init__(self, stages: Mapping[str, Stage], width: int) -> None:
        super().__init__()
        self.before = nn.ModuleDict({s: RefinementResidualBlock(stages[s].channels, width) for s in ENCODER_STAGES})
        self.after = nn.ModuleDict({s: RefinementResidualBlock(width, width) for s in ENCODER_STAGES[1:]})
        self.heads = nn.ModuleDict({s: Head(width, 1) for s in ENCODER_STAGES})

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        x = self.before["res2"](features["res2"])
        borders = [self.heads["res2"](x)]
        for stage in ENCODER_STAGES[1:]:
            x = self.after[stage](x + resize(self.before[stage](features[stage]), x.shape[-2:]))
            borders.append(self.heads[stage](x))
        return borders


class DFN(SegmentationNetwork):
    """Discriminative Feature Network (Fig. 2a): Smooth Network and Border Network on one encoder.

    Rows of Table 2: "Res-101" is ``refinement`` and all of the below off; each later word turns on the option of its
    name. Table 3: "SN" has ``border_network`` off, "SN+BN" on.

    Args:
        num_classes: C.
        backbone: see :func:`~drive_seg.networks.encoders.build_encoder`, as ``stem`` and ``output_stride``.
        refinement: the FCN4 structure with RRBs; without it a 1x1 on res5 is upsampled directly (section 4.2.1).
        global_pooling: GP, the global average above res5.
        channel_attention: CAB in place of sums.
        deep_supervision: DS, ``stage_logits`` of smooth5, smooth4 and smooth3 (those of smooth2 are ``logits``); the
            global average is not supervised. In training only.
        border_network: ``border_logits``. In training only: it shapes the encoder's features and is gone then.
        width: channels of the Smooth Network.
        border_width: channels of the Border Network.

    In training mode the global average is normalised over the batch alone, which takes two images or more.

    Raises:
        ValueError: if an option of the Smooth Network is on without ``refinement``, or a value is out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet101",
        stem: str = "plain",
        output_stride: int = 32,
        refinement: bool = True,
        global_pooling: bool = True,
        channel_attention: bool = True,
        deep_supervision: bool = True,
        border_network: bool = True,
        width: int = 512,
        border_width: int = 21,
    ) -> None:
        super().__init__()
        _check(refinement, global_pooling, channel_attention, deep_supervision, width, border_width)
        self.encoder = build_encoder(backbone, stem, output_stride)
        encoded = self.encoder.stages
        self.stages = dict(encoded)
        if refinement:
            self.smooth_network = SmoothNetwork(encoded, width, global_pooling, channel_attention)
            self.stages |= self.smooth_network.stages
            self.head: nn.Module = Head(width, num_classes)
        else:
            self.smooth_network = None
            self.head = nn.Conv2d(encoded["res5"].channels, num_classes, 1)
        coarse = [name for name in self.stages if name.startswith("smooth") and name != "smooth2"]
        self.stage_heads = (
            training_only(nn.ModuleDict({name: Head(width, num_classes) for name in coarse}))
            if deep_supervision
            else None
        )
        self.border_network = training_only(BorderNetwork(encoded, border_width)) if border_network else None
        for name, part in self.named_children():
            if name != "encoder":
                _initialise(part)

    def segment(self, image: Tensor, balance: Balance) -> SegmentationOutput:
        size = image.shape[-2:]
        features = self.encoder(image, balance)
        smooth = {} if self.smooth_network is None else self.smooth_network(features, balance)
        output = SegmentationOutput(resize(self.head(smooth.get("smooth2", features["res5"])), size))
        if self.training and self.stage_heads is not None:
            stage_logits = tuple(resize(head(smooth[name]), size) for name, head in self.stage_heads.items())
            output = output._replace(stage_logits=stage_logits)
        if self.training and self.border_network is not None:
            borders = tuple(resize(border, size) for border in self.border_network(features))
            output = output._replace(border_logits=borders)
        return output


def _initialise(module: nn.Module) -> None:
    """He initialisation by fan-in of all convolutions, zero biases.

    By fan-out, the 1x1 that narrows 2048 channels to 21 would multiply the variance by 195, and an RRB has no Batch
    Norm behind it that could take that back.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _check(
    refinement: bool,
    global_pooling: bool,
    channel_attention: bool,
    deep_supervision: bool,
    width: int,
    border_width: int,
) -> None:
    wanted = {
        "global_pooling": global_pooling,
        "channel_attention": channel_attention,
        "deep_supervision": deep_supervision,
    }
    lost = [name for name, on in wanted.items() if on and not refinement]
    if lost:
        raise ValueError(f"without refinement there are no stages for {', '.join(lost)}: turn these off as well")
    for name, value in (("width", width), ("border_width", border_width)):
        if value < 1:
            raise ValueError(f"{name} {value} is not 1 or more")
