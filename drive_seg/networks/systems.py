"""Every system of the papers, row by row of their tables, with what the papers print of its cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from drive_seg.networks import catalog, counting
from drive_seg.networks.network import SegmentationNetwork

PAPER_CLASSES = 19
PAPER_SIZE = (1024, 1024)
"""(height, width) at which FBNet's Table 2 counts."""


@dataclass(frozen=True)
class System:
    """One row of a paper's table, or one combination of ours.

    Attributes:
        name: unique; what stands behind a "+" is attached to the system before it ("+fbnet_res5": FBNet at res5).
        network, options: what :func:`~drive_seg.networks.catalog.build` makes it from.
        source: where it comes from.
        parameters: the paper's figure in millions, as printed; None if it prints none.
        multiply_accumulates: the paper's figure in G at :data:`PAPER_SIZE`, as printed; None if it prints none.
        note: in what it departs from the source, and why.
    """

    name: str
    network: str
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = "own combination"
    parameters: str | None = None
    multiply_accumulates: str | None = None
    note: str = ""

    def build(self, num_classes: int = PAPER_CLASSES) -> SegmentationNetwork:
        """The network with fresh weights."""
        return catalog.build(self.network, num_classes, **self.options)


def measure(
    systems: Sequence[System], size: tuple[int, int], num_classes: int = PAPER_CLASSES, paper_rules: bool = False
) -> Iterator[dict[str, Any]]:
    """What systems cost at a size (height, width), as plain data, one by one. Nothing is computed for it.

    Yields:
        the fields of the :class:`System`, the paper's figures as ``paper_parameters`` and
        ``paper_multiply_accumulates`` in units; ``parameters`` of inference, and ``training_parameters``, which only
        training has on top; ``multiply_accumulates``, see
        :func:`~drive_seg.networks.counting.multiply_accumulates`, and ``added_multiply_accumulates``, how many of them
        are FBNet's (None without it); ``size`` and ``classes``.
    """
    counts: dict[str, int] = {}

    def count(system: System, network: SegmentationNetwork | None = None) -> int:
        if system.name not in counts:
            network = network or _hollow(system, num_classes)
            counts[system.name] = counting.multiply_accumulates(network, size, paper_rules)
        return counts[system.name]

    for system in systems:
        network = _hollow(system, num_classes)
        host = BY_NAME[system.name.partition("+")[0]]
        added = count(system, network) - count(host) if host is not system else None
        parameters = counting.parameters(network)
        yield {
            "name": system.name,
            "network": system.network,
            "options": dict(system.options),
            "parameters": parameters,
            "training_parameters": sum(p.numel() for p in network.parameters()) - parameters,
            "multiply_accumulates": count(system),
            "added_multiply_accumulates": added,
            "size": list(size),
            "classes": num_classes,
            "paper_parameters": _units(system.parameters, 10**6),
            "paper_multiply_accumulates": _units(system.multiply_accumulates, 10**9),
            "source": system.source,
            "note": system.note,
        }


def _hollow(system: System, num_classes: int) -> SegmentationNetwork:
    """The network without values."""
    with torch.device("meta"):
        return system.build(num_classes)


def _units(printed: str | None, unit: int) -> int | None:
    return None if printed is None else round(float(printed) * unit)


def find(text: str | None = None) -> list[System]:
    """The systems of the network of that name, else those whose names hold the text; all for None.

    Raises:
        ValueError: if there is none; the message lists the networks.
    """
    if text is None:
        return list(SYSTEMS)
    found = [s for s in SYSTEMS if s.network == text] or [s for s in SYSTEMS if text.lower() in s.name]
    if not found:
        raise ValueError(f"no system has '{text}' in its name; the networks are: {', '.join(catalog.names())}")
    return found


def _at(*stages: str) -> dict[str, Any]:
    return {"feature_balance": list(stages)}


_R50, _R101, _WR38 = ({"backbone": name} for name in ("resnet50", "resnet101", "wider_resnet38"))
_RES2_TO_5 = ("res2", "res3", "res4", "res5")

_AUTHORS_NORM = (
    "gamma of Batch Norm counted; without it, as in the authors' code, the count rounds to the printed one. "
    "Table 2 prints hundreds of thousands as K."
)

_DSNET = (
    System("dsnet_0.5", "dsnet", {"size": "0.5"}, "DSNet Table 2", "0.45", note=f"+1.3 %: {_AUTHORS_NORM}"),
    System("dsnet_1.0", "dsnet", {}, "DSNet Tables 2, 5", "0.91"),
    System("dsnet_1.5", "dsnet", {"size": "1.5"}, "DSNet Table 2", "1.36"),
    System("dsnet_2.0", "dsnet", {"size": "2.0"}, "DSNet Table 2", "1.81", note=f"+0.5 %: {_AUTHORS_NORM}"),
    System("dsnet_nosf", "dsnet", {"shuffle": False}, "DSNet Table 5", "0.91"),
    System("dsnet_add", "dsnet", {"unit": "add"}, "DSNet Table 5", "1.15"),
    System(
        "dsnet_dw",
        "dsnet",
        {"unit": "depthwise"},
        "DSNet Table 5",
        "0.89",
        note="-1.7 %: taken by the letter (3x3 of the split unit made depth-wise, 22 more units) it has 0.57 M. Built "
        "is the nearest unit found, an un-split bottleneck.",
    ),
    System(
        "dsnet_mbv2",
        "dsnet",
        {"unit": "mobilenetv2"},
        "DSNet Table 5",
        "1.17",
        note="-2.0 %: the text does not give the expansion; 6, MobileNetV2's own, comes nearest.",
    ),
    System(
        "dsnet_enet",
        "dsnet",
        {"unit": "enet"},
        "DSNet Table 5",
        "0.95",
        note="-18.8 %: no reading of the text gives 0.95 M. Built is ENet's bottleneck (a quarter of the channels) "
        "with the 8, 17 and 17 units of the text; with a third of the channels there would be 1.11 M.",
    ),
    System("dsnet_init", "dsnet", {"init": "conv"}, "DSNet Table 5", "0.91"),
    System("dsnet_psp", "dsnet", {"pyramid_pooling": True}, "DSNet Table 5", "1.22"),
    System("dsnet_skip", "dsnet", {"skips": True}, "DSNet Table 5", "0.91"),
    System("dsnet_dila", "dsnet", {"dilation": "power"}, "DSNet Table 5", "0.91"),
    System("dsnet_1.0+fbnet_stage3", "dsnet", _at("stage3"), "own: DSNet + FBNet"),
)

_PEERS = (
    System(
        "enet",
        "enet",
        {},
        "DSNet Table 1",
        "0.36",
        note="+1.5 %: rounds to the 0.37 M that ENet's own paper prints.",
    ),
    System("enet+fbnet_stage3", "enet", _at("stage3"), "own: ENet + FBNet"),
    System("erfnet", "erfnet", {}, "DSNet Table 1", "2.1"),
    System("erfnet+fbnet_stage3", "erfnet", _at("stage3"), "own: ERFNet + FBNet"),
)

_TWO_STAGES = (
    "Table 3 favours Res5 alone; the + 0.76 G printed here is that of Res4 and Res5, whose heads are counted although "
    "only training runs them."
)
_HOST_OPEN = "Table 5 does not name the host; DeepLabv3+ is that of Fig. 6 and Table 6."

_FBNET = (
    System("fcn_r50", "fcn", _R50, "FBNet Table 1"),
    System("fcn_r50+fbnet_res5", "fcn", _R50 | _at("res5"), "FBNet Table 1"),
    System("fcn_r101", "fcn", _R101, "FBNet Tables 1, 3, 4"),
    System("fcn_r101+fbnet_res2", "fcn", _R101 | _at("res2"), "FBNet Table 3"),
    System("fcn_r101+fbnet_res3", "fcn", _R101 | _at("res3"), "FBNet Table 3"),
    System("fcn_r101+fbnet_res4", "fcn", _R101 | _at("res4"), "FBNet Table 3"),
    System("fcn_r101+fbnet_res5", "fcn", _R101 | _at("res5"), "FBNet Tables 1, 3, 4"),
    System("fcn_r101+fbnet_res2_to_res5", "fcn", _R101 | _at(*_RES2_TO_5), "FBNet Table 3"),
    System(
        "fcn_r101+bwbce_res5",
        "fcn",
        _R101 | _at("res5") | {"feature_modulator": "none"},
        "FBNet Table 4",
        note="BwBCE alone. The row with DFM alone is fcn_r101+fbnet_res5 trained without that loss.",
    ),
    System("fcn_r101+conv_res5", "fcn", _R101 | _at("res5") | {"feature_modulator": "conv"}, "FBNet Table 4"),
    System("pspnet_r50", "pspnet", _R50, "FBNet Table 2", multiply_accumulates="540.78"),
    System(
        "pspnet_r50+fbnet_res4_res5",
        "pspnet",
        _R50 | _at("res4", "res5"),
        "FBNet Table 2",
        multiply_accumulates="541.54",
        note=_TWO_STAGES,
    ),
    System("pspnet_r101", "pspnet", _R101, "own: ResNet-101 with the head of FBNet Table 2"),
    System("pspnet_r101_canonical", "pspnet", _R101 | {"head": "canonical"}, "DSNet Table 1, FBNet Table 5", "65.7"),
    System("deeplabv3plus_r50", "deeplabv3plus", _R50, "FBNet Table 2", multiply_accumulates="760.44"),
    System(
        "deeplabv3plus_r50+fbnet_res4_res5",
        "deeplabv3plus",
        _R50 | _at("res4", "res5"),
        "FBNet Table 2",
        multiply_accumulates="761.20",
        note=_TWO_STAGES,
    ),
    System("deeplabv3plus_r101", "deeplabv3plus", _R101, "FBNet Table 6"),
    System(
        "deeplabv3plus_r101+fbnet_res5",
        "deeplabv3plus",
        _R101 | _at("res5"),
        "FBNet Tables 5, 6",
        note=_HOST_OPEN,
    ),
    System("deeplabv3plus_wr38", "deeplabv3plus", _WR38, "own: host of FBNet Table 5"),
    System(
        "deeplabv3plus_wr38+fbnet_res5",
        "deeplabv3plus",
        _WR38 | _at("res5"),
        "FBNet Table 5",
        note=_HOST_OPEN,
    ),
)


def _ifbfnet(short: str, backbone: Mapping[str, Any]) -> tuple[System, ...]:
    """Table 2 for one backbone: each row adds a part to the one before."""
    parts = {"aspp": False, "skip": False, "balanced_fusion": False, "spatial_stream": False}
    rows = []
    for word, part in (("baseline", None), ("aspp", "aspp"), ("skip", "skip"), ("balanced", "balanced_fusion")):
        if part is not None:
            parts.pop(part)
        rows.append(System(f"ifbfnet_{short}_{word}", "ifbfnet", {**backbone, **parts}, "IFBFNet Table 2"))
    return (*rows, System(f"ifbfnet_{short}", "ifbfnet", backbone, "IFBFNet Table 2"))


_IFBFNET = (
    *_ifbfnet("r50", _R50),
    *_ifbfnet("r101", _R101),
    *(
        System(f"ifbfnet_r101_spatial{n}", "ifbfnet", _R101 | {"spatial_channels": n}, "IFBFNet Table 3")
        for n in (16, 32, 48, 64, 256)
    ),
    System("ifbfnet_r101+fbnet_res5", "ifbfnet", _R101 | _at("res5"), "own: IFBFNet + FBNet"),
)


def _smooth(*on: str) -> dict[str, Any]:
    """Options of a row of DFN's Table 2: what it does not name is off, and so is the Border Network."""
    options = ("refinement", "global_pooling", "channel_attention", "deep_supervision")
    return {**{option: False for option in options if option not in on}, "border_network": False}


_RRB, _GP, _CAB, _DS = "refinement", "global_pooling", "channel_attention", "deep_supervision"

_DFN = (
    System("dfn_res101", "dfn", _smooth(), "DFN Tables 1, 2"),
    System("dfn_rrb", "dfn", _smooth(_RRB), "DFN Table 2"),
    System("dfn_rrb_gp", "dfn", _smooth(_RRB, _GP), "DFN Table 2"),
    System("dfn_rrb_gp_cab", "dfn", _smooth(_RRB, _GP, _CAB), "DFN Table 2"),
    System("dfn_rrb_ds", "dfn", _smooth(_RRB, _DS), "DFN Table 2"),
    System("dfn_rrb_gp_ds", "dfn", _smooth(_RRB, _GP, _DS), "DFN Table 2"),
    System("dfn_sn", "dfn", _smooth(_RRB, _GP, _CAB, _DS), "DFN Tables 2, 3"),
    System("dfn_sn_bn", "dfn", {}, "DFN Tables 3 to 6"),
    System("dfn_sn_bn+fbnet_res5", "dfn", _at("res5"), "own: DFN + FBNet"),
)


def _light(number: int) -> dict[str, Any]:
    return {"backbone": f"efficientnet_lite{number}", "width": 96}


_NO_RESNET18 = "The paper's own models stand on ResNet-18 and MobileNetV2, so that none of its figures is for this one."

_SWIFTNET = (
    *(System(f"swiftnet_lite{n}", "swiftnet", _light(n), "own: SwiftNet's form", note=_NO_RESNET18) for n in (0, 1, 2)),
    System("swiftnet_lite0+fbnet_res5", "swiftnet", _light(0) | _at("res5"), "own: SwiftNet + FBNet"),
)

SYSTEMS: tuple[System, ...] = (*_DSNET, *_PEERS, *_FBNET, *_IFBFNET, *_DFN, *_SWIFTNET)
"""All of them, paper by paper."""

BY_NAME = {system.name: system for system in SYSTEMS}
