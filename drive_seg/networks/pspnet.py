"""PSPNet: H. Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017."""

from __future__ import annotations

from torch import Tensor, nn

from drive_seg.networks.encoders import build_encoder
from drive_seg.networks.fcn import DROPOUT, FCNHead
from drive_seg.networks.layers import ConvBN, PyramidPooling, initialise, one_of, resize, training_only
from drive_seg.networks.network import Balance, SegmentationNetwork, SegmentationOutput, Stage

WIDTH = 512
HEADS = ("light", "canonical")


class PSPNet(SegmentationNetwork):
    """PSPNet: pyramid pooling over the encoder's features, then a head (Fig. 3).

    PSPNet's own head is one 3x3 from the 4096 channels of the pyramid to 512 ("canonical"): 736.45 G
    multiply-accumulates at 1024x1024 with a deep ResNet-50. FBNet's Table 2 has a PSPNet of 540.78 G, and the head
    that gives exactly that is a 1x1 to 512 followed by two 3x3 ("light"). It is the default, as the rows of that
    table are what FBNet is compared by. The last 1x1 has no bias, for the same reason.

    Args:
        num_classes: C.
        backbone: see :func:`~drive_seg.networks.encoders.build_encoder`.
        stem: "plain" or "deep".
        output_stride: 8, 16 or 32.
        head: "light" or "canonical".
        auxiliary: in training, predict from res4 as well (``aux_logits``; section 4 of the paper, weight 0.4).

    In training the pyramid's global average needs two images or more per batch.

    Stages: "res2" to "res5", and "pyramid", the output of the head's convolutions.

    Raises:
        ValueError: if there is no such encoder or head.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        stem: str = "deep",
        output_stride: int = 8,
        head: str = "light",
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        one_of("head", head, HEADS)
        self.encoder = build_encoder(backbone, stem, output_stride)
        c_in, stride = self.encoder.stages["res5"]
        self.stages = {**self.encoder.stages, "pyramid": Stage(WIDTH, stride)}
        self.pyramid = PyramidPooling(c_in, c_in // 4)
        if head == "light":
            layers = [ConvBN(2 * c_in, WIDTH), ConvBN(WIDTH, WIDTH, 3), ConvBN(WIDTH, WIDTH, 3)]
        else:
            layers = [ConvBN(2 * c_in, WIDTH, 3)]
        self.head = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout2d(DROPOUT), nn.Conv2d(WIDTH, num_classes, 1, bias=False))
        for part in (self.pyramid, self.head, self.classifier):
            initialise(part)
        c_aux = self.stages["res4"].channels
        self.auxiliary = training_only(FCNHead(c_aux, c_aux // 4, num_classes)) if auxiliary else None

    def segment(self, image: Tensor, balance: Balance) -> SegmentationOutput:
        size = image.shape[-2:]
        features = self.encoder(image, balance)
        x = balance("pyramid", self.head(self.pyramid(features["res5"])))
        logits = resize(self.classifier(x), size)
        if not self.training or self.auxiliary is None:
            return SegmentationOutput(logits)
        return SegmentationOutput(logits, aux_logits=resize(self.auxiliary(features["res4"]), size))
