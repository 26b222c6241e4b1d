"""Structural re-parameterisation: the same network with fewer operations, for inference.

Batch Norms go into the convolutions before them, and DSNet's splits, shuffles and concatenations into the order of the
channels of its weights. Logits stay equal up to rounding. What cannot be folded stays as it is: a Batch Norm behind a
sum or before a ReLU (WiderResNet's pre-activation).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from drive_seg.networks import dsnet, enet, erfnet, resnet
from drive_seg.networks.fbnet import FeatureBalance
from drive_seg.networks.fold.balance import FoldedBalance
from drive_seg.networks.fold.dsnet import fold_dsnet
from drive_seg.networks.fold.norms import ConvBesidePool, fold_bottleneck, fold_sequence, fold_stem
from drive_seg.networks.fold.unpooling import max_pool_places, max_unpool_places
from drive_seg.networks.layers import max_pool_one_hot, max_unpool_one_hot, strip_training_only


def fold(network: nn.Module) -> nn.Module:
    """The same network for inference alone, with everything folded that can be.

    Args:
        network: any module; those of the catalog are known by their units, in others the sequences of convolution and
            Batch Norm are folded. It is left as it is.

    Returns:
        a module of its own in evaluation mode: [B, 3, H, W] -> what ``network`` gives in evaluation mode, up to
        rounding. Fold before casting to half precision: the fold itself is computed in float64. To train it is a
        ``RuntimeError``.
    """
    return Folded(_folded(strip_training_only(copy.deepcopy(network)).eval()).requires_grad_(False))


class Folded(nn.Module):
    """A network without what only training needs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def train(self, mode: bool = True) -> Folded:
        """Nothing changes for ``mode=False``.

        Raises:
            RuntimeError: if it is to be trained.
        """
        if mode:
            raise RuntimeError("a folded network is for inference alone: train the network that it was made from")
        return super().train(False)


def _folded(module: nn.Module) -> nn.Module:
    """The module with its parts folded, or what takes its place."""
    for name, part in list(module.named_children()):
        setattr(module, name, _folded(part))
    if getattr(module, "pool", None) is max_pool_one_hot:
        module.pool = max_pool_places
    if getattr(module, "unpool", None) is max_unpool_one_hot:
        module.unpool = max_unpool_places
    if type(module) in _RULES:
        return _RULES[type(module)](module)
    if type(module).forward is nn.Sequential.forward:
        return fold_sequence(module)
    return module


_RULES: dict[type, Callable[[nn.Module], nn.Module]] = {
    resnet.Bottleneck: fold_bottleneck,
    resnet.ResNet: fold_stem,
    dsnet.InitUnit: ConvBesidePool,
    enet.InitialBlock: ConvBesidePool,
    erfnet.Downsampler: ConvBesidePool,
    FeatureBalance: FoldedBalance,
    dsnet.DSNet: fold_dsnet,
}
