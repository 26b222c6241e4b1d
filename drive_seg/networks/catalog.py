"""All networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from drive_seg.networks.deeplabv3plus import DeepLabV3Plus
from drive_seg.networks.dfn import DFN
from drive_seg.networks.dsnet import DSNet
from drive_seg.networks.enet import ENet
from drive_seg.networks.erfnet import ERFNet
from drive_seg.networks.fcn import FCN
from drive_seg.networks.ifbfnet import IFBFNet
from drive_seg.networks.network import SegmentationNetwork
from drive_seg.networks.pspnet import PSPNet
from drive_seg.networks.swiftnet import SwiftNet

_CATALOG: dict[str, Callable[..., SegmentationNetwork]] = {
    "dfn": DFN,
    "dsnet": DSNet,
    "enet": ENet,
    "erfnet": ERFNet,
    "fcn": FCN,
    "pspnet": PSPNet,
    "deeplabv3plus": DeepLabV3Plus,
    "ifbfnet": IFBFNet,
    "swiftnet": SwiftNet,
}

_FEATURE_BALANCE: dict[str, Any] = {"feature_balance": (), "foreground_classes": None, "feature_modulator": "dual"}
"""FBNet's options, which every network has: stages, width of the block-wise head, row of FBNet's Table 4."""


def names() -> list[str]:
    """The names that :func:`build` knows."""
    return sorted(_CATALOG)


def options(name: str) -> dict[str, Any]:
    """The options of a network and their defaults.

    Raises:
        ValueError: if no network has that name.
    """
    parameters = list(inspect.signature(_find(name)).parameters.values())
    own = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return {**own, **_FEATURE_BALANCE}


def build(name: str, num_classes: int = 19, **chosen: Any) -> SegmentationNetwork:
    """A network with fresh weights.

    ``model(x)`` takes float images [B, 3, H, W] and returns logits [B, num_classes, H, W] in evaluation mode, a
    :class:`~drive_seg.networks.network.SegmentationOutput` in training mode.

    Args:
        name: one of :func:`names`.
        num_classes: C; Cityscapes has 19.
        **chosen: options of that network, see :func:`options`. All have FBNet's: ``feature_balance``, the names of
            the stages it is attached to; ``foreground_classes``, the width of its head (C less the paper's five
            background classes if None); ``feature_modulator``, "dual", "conv" or "none" (FBNet's Table 4).

    Raises:
        ValueError: if no network has that name, or it has no such option or stage; the message lists those it has.
    """
    network = _find(name)
    known = options(name)
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        has = ", ".join(sorted(known))
        raise ValueError(f"network '{name}' has no option {', '.join(map(repr, unknown))}; its options are: {has}")
    balance = {key: chosen.pop(key, default) for key, default in _FEATURE_BALANCE.items()}
    built = network(num_classes, **chosen)
    built.attach_feature_balance(
        balance["feature_balance"], num_classes, balance["foreground_classes"], balance["feature_modulator"]
    )
    return built


def _find(name: str) -> Callable[..., SegmentationNetwork]:
    try:
        return _CATALOG[name]
    except KeyError:
        raise ValueError(f"no network is called '{name}'; there are: {', '.join(names())}") from None
