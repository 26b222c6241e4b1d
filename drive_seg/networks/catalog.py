"""All networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from drive_seg.networks.dsnet import DSNet

_CATALOG: dict[str, Callable[..., nn.Module]] = {"dsnet": DSNet}


def names() -> list[str]:
    """The names that :func:`build` knows."""
    return sorted(_CATALOG)


def options(name: str) -> dict[str, Any]:
    """The options of a network and their defaults.

    Raises:
        ValueError: if no network has that name.
    """
    parameters = list(inspect.signature(_find(name)).parameters.values())
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def build(name: str, num_classes: int, **chosen: Any) -> nn.Module:
    """A network with fresh weights.

    ``model(x)`` takes float images [B, 3, H, W] and returns logits [B, num_classes, H, W] in evaluation mode, a
    :class:`~drive_seg.networks.layers.SegmentationOutput` in training mode.

    Args:
        name: one of :func:`names`.
        num_classes: C.
        **chosen: options of that network, see :func:`options`.

    Raises:
        ValueError: if no network has that name, or it has no such option; the message lists those it has.
    """
    network = _find(name)
    known = options(name)
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        has = ", ".join(sorted(known)) or "none"
        raise ValueError(f"network '{name}' has no option {', '.join(map(repr, unknown))}; its options are: {has}")
    return network(num_classes, **chosen)


def _find(name: str) -> Callable[..., nn.Module]:
    try:
        return _CATALOG[name]
    except KeyError:
        raise ValueError(f"no network is called '{name}'; there are: {', '.join(names())}") from None
