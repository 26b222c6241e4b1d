"""The one shape that all networks have: logits in evaluation mode, a typed result with named extras in training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from drive_seg.networks.fbnet import BACKGROUND_CLASSES, FeatureBalance

Balance = Callable[[str, Tensor], Tensor]
"""(stage's name, its output) -> the same, or what FBNet makes of it where it is attached to that stage."""


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in units of 0..1, as torchvision's weights expect them."""


class Stage(NamedTuple):
    """A named place of a network: the channels of its output, and its stride (input pixels per output pixel)."""

    channels: int
    stride: int


class BlockPresence(NamedTuple):
    """FBNet's P before the sigmoid (eq. 3): logits [B, foreground classes, h, w] of "a pixel of the class is here".

    Each position stands for a block of ``stride`` x ``stride`` pixels of the input.
    """

    logits: Tensor
    stride: int


class SegmentationOutput(NamedTuple):
    """What a network returns in training mode; in evaluation mode it returns ``logits`` alone.

    What a network does not have, or was built without, is None or empty.

    Attributes:
        logits: [B, C, H, W] at the input's size.
        semantic_presence: [B, C] logits of "this class occurs in the image" (DSNet's Semantic Encoding branch).
        block_presence: by stage, FBNet's logits of "this class occurs in the block".
        stage_logits: [B, C, H, W] each, predictions of coarser stages for deep supervision (DFN), coarsest first.
        border_logits: [B, 1, H, W] each, "a border between classes runs here" (DFN's Border Network), lowest stage
            first.
        aux_logits: [B, C, H, W], the prediction of an auxiliary head.
    """

    logits: Tensor
    semantic_presence: Tensor | None = None
    block_presence: Mapping[str, BlockPresence] = {}
    stage_logits: tuple[Tensor, ...] = ()
    border_logits: tuple[Tensor, ...] = ()
    aux_logits: Tensor | None = None


class SegmentationNetwork(nn.Module, ABC):
    """Base of all networks of the catalog.

    A network sets :attr:`stages` and implements :meth:`segment`; FBNet's add-on is attached to any of its stages with
    :meth:`attach_feature_balance`.
    """

    stages: Mapping[str, Stage]
    """Where FBNet can be attached, in the order in which an image passes."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_balance = nn.ModuleDict()

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of the input that training gives the network, per channel in units of 0..1: its encoder's, if any."""
        return getattr(getattr(self, "encoder", None), "mean", IMAGENET_MEAN)

    @property
    def std(self) -> tuple[float, float, float]:
        """As :attr:`mean`."""
        return getattr(getattr(self, "encoder", None), "std", IMAGENET_STD)

    @abstractmethod
    def segment(self, image: Tensor, balance: Balance) -> SegmentationOutput:
        """The network itself: [B, 3, H, W] -> logits [B, C, H, W], and in training mode the extras.

        Implementations pass the output of each of their stages through ``balance(name, x)`` and go on with the result.
        """

    def forward(self, image: Tensor) -> Tensor | SegmentationOutput:
        """[B, 3, H, W] float -> logits [B, C, H, W], in training mode a :class:`SegmentationOutput`."""
        presence: dict[str, BlockPresence] = {}

        def balance(stage: str, x: Tensor) -> Tensor:
            if stage not in self.feature_balance:
                return x
            x, logits = self.feature_balance[stage](x)
            if logits is not None:
                presence[stage] = BlockPresence(logits, self.stages[stage].stride)
            return x

        output = self.segment(image, balance)
        return output._replace(block_presence=presence) if self.training else output.logits

    def attach_feature_balance(
        self, stages: Sequence[str], num_classes: int, foreground_classes: int | None = None, modulator: str = "dual"
    ) -> None:
        """Attach FBNet to some stages.

        Args:
            stages: names out of :attr:`stages`.
            num_classes: C.
            foreground_classes: width of the block-wise head; if None, C less the paper's five background classes.
            modulator: see :class:`~drive_seg.networks.fbnet.FeatureBalance`.

        Raises:
            ValueError: if a stage is unknown or named twice, or no foreground class would be left.
        """
        stages = [stages] if isinstance(stages, str) else list(stages)
        unknown = [stage for stage in stages if stage not in self.stages]
        if unknown or len(set(stages)) < len(stages):
            wrong = f"has no stage {', '.join(map(repr, unknown))}" if unknown else "was given a stage twice"
            raise ValueError(f"feature_balance: the network {wrong}; its stages are: {', '.join(self.stages)}")
        width = num_classes - BACKGROUND_CLASSES if foreground_classes is None else foreground_classes
        if stages and width < 1:
            raise ValueError(
                f"feature_balance: of {num_classes} classes none is left beside {BACKGROUND_CLASSES} of background; "
                "set foreground_classes"
            )
        for stage in stages:
            self.feature_balance[stage] = FeatureBalance(self.stages[stage].channels, width, modulator)
