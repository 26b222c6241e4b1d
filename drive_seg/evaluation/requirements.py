"""Requirements on a report's figures, such as ``miou>=0.65``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drive_seg.evaluation.records import FATES
from drive_seg.labels import LabelMap
from drive_seg.labels.groups import group_names

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
FORM = re.compile(
    r"\s*(?P<name>.*[^<>=\s])\s*(?P<sign>>=|<=|==|>|<)\s*(?P<number>[-+0-9.eE]+)\s*(?P<percent>%?)\s*", re.DOTALL
)
SHARES = ("miou", "f_miou", "pixel_accuracy", "boundary_f1", "flicker")
TIMES = ("p50", "p95", "p99", "max")
COUNTS = ("in_source", "received", *FATES, "scored", "without_truth", "repeated", "backward")
BY_CLASS = ("iou", "precision", "recall", "boundary_f1", "share", "predicted_share")
BY_CLASS_AGAINST = {"agreement": "agreement", "iou_gain": "difference"}
"""Figures of a class in the comparison with another model or run -> how report.json calls them there."""
NAMES = (
    *SHARES,
    *(f"latency_{each}_ms" for each in TIMES),
    *(f"input_age_{each}_ms" for each in TIMES),
    *COUNTS,
    "published_share",
    "dropped_share",
    "scored_share",
    "stalls",
    "longest_stall_s",
    "cameras",
    "bags",
    "failed_bags",
    "agreement",
    "miou_gain",
    "expected_calibration_error",
)
"""What may be required, beside ``KIND.CLASS`` of ``BY_CLASS`` and ``BY_CLASS_AGAINST``.

Shares are 0..1 (or written with %), those of frames are of the received ones; ``miou_gain`` is the mIoU less the
other's, on the frames that both have, and ``iou_gain.CLASS`` the same of a class. ``cameras`` and ``bags`` are how many
there are.
"""
PATHS = {
    **{f"latency_ms.{each}": f"latency_{each}_ms" for each in TIMES},
    **{f"input_age_ms.{each}": f"input_age_{each}_ms" for each in TIMES},
    **{f"frames.{each}": each for each in COUNTS},
    "against.agreement": "agreement",
    "reliability.expected_calibration_error": "expected_calibration_error",
}
"""Where report.json has the same figure, which is as good a name."""


@dataclass(frozen=True)
class Requirement:
    """One requirement: ``text`` as the user wrote it, the figure's name, how to compare, and with what."""

    text: str
    name: str
    sign: str
    limit: float

    def judge(self, report: dict[str, Any]) -> dict[str, Any]:
        """Its line in the report; a figure that is not there is never met."""
        value = figure(report, self.name)
        met = value is not None and COMPARISONS[self.sign](value, self.limit)
        return {"text": self.text, "value": value, "met": met}


def parse(texts: Sequence[str], label_map: LabelMap) -> list[Requirement]:
    """Read requirements.

    Args:
        texts: such as ``miou>=0.65``, ``iou.road>=95%``, ``latency_p99_ms<=80``.
        label_map: the model's classes. Case does not matter, and "_" may stand for a space, as long as one class alone
            fits; a group of classes that truths may hold is named by its classes: ``iou.car/truck/bus/train``.

    Raises:
        ValueError: one is not of that form, or names no figure, or more than one class.
    """
    return [_parse_one(text, label_map) for text in texts]


def figure(report: dict[str, Any], name: str) -> float | None:
    """The figure of that name, as :func:`parse` writes it; None where the report has none."""
    kind, _, title = name.partition(".")
    frames, against = report["frames"], report["against"] or {}
    if title:
        key = BY_CLASS_AGAINST.get(kind, kind)
        classes = report["classes"] if kind in BY_CLASS else against.get("classes", ())
        return next((each[key] for each in classes if each["name"] == title), None)
    if name in SHARES:
        return report[name]
    if name in COUNTS:
        return frames[name]
    for prefix in ("latency", "input_age"):
        if name.startswith(prefix + "_"):
            return report[f"{prefix}_ms"][name.removeprefix(prefix + "_").removesuffix("_ms")]
    if name.endswith("_share"):
        return frames[name.removesuffix("_share")] / frames["received"] if frames["received"] else None
    if name == "stalls":
        return len(report["stalls"])
    if name == "longest_stall_s":
        return max((stall["length_s"] for stall in report["stalls"]), default=0.0)
    if name in ("cameras", "bags"):
        return len(report[name])
    if name == "failed_bags":
        return sum(bag["status"] != "ok" for bag in report["bags"])
    if name == "expected_calibration_error":
        return (report["reliability"] or {}).get(name)
    if name == "agreement":
        return against.get("agreement")
    return _difference(against.get("own_miou"), against.get("miou"))


def sentences(required: Sequence[Requirement], report: dict[str, Any]) -> list[str]:
    """One sentence for each requirement that the report does not meet."""
    judged = [(requirement, requirement.judge(report)) for requirement in required]
    return [
        f"{requirement.text} is not met: "
        + (_why_none(requirement.name, report) if found["value"] is None else f"it is {found['value']:.4g}.")
        for requirement, found in judged
        if not found["met"]
    ]


def _why_none(name: str, report: dict[str, Any]) -> str:
    kind, _, title = name.partition(".")
    names = [each["name"] for each in report["classes"]]
    groups = [each for each in names if "/" in each and set(each.split("/")) < set(names)]
    coarse = [group for group in groups if title in group.split("/")]
    if title and title not in names:
        return "no truth holds such a group" + (f"; there are: {', '.join(groups)}." if groups else ".")
    if coarse and kind != "agreement":  # which is with other masks, not with the truth
        return f"the truth tells it only within {' and '.join(coarse)}."
    return "the report has no such figure."


def _parse_one(text: str, label_map: LabelMap) -> Requirement:
    match = FORM.fullmatch(text)
    try:
        limit = float(match["number"]) / (100.0 if match["percent"] else 1.0)
    except (TypeError, ValueError):
        raise ValueError(f"requirement '{text}' is not of the form NAME>=NUMBER, as miou>=0.65") from None
    return Requirement(text, _known_name(match["name"], label_map), match["sign"], limit)


def _known_name(name: str, label_map: LabelMap) -> str:
    """The figure's name as ``figure`` knows it."""
    kind, _, title = name.partition(".")
    kind, plain = _plain(kind), _plain(name)
    if kind in (*BY_CLASS, *BY_CLASS_AGAINST) and title.strip():
        return f"{kind}.{_class_or_group(name, title, label_map)}"
    plain = PATHS.get(plain, plain)
    if plain not in NAMES:
        by_class = ", ".join(f"{each}.CLASS" for each in (*BY_CLASS, *BY_CLASS_AGAINST))
        raise ValueError(f"no figure is called '{name}'; there are: {', '.join(NAMES)}, {by_class}")
    return plain


def _class_or_group(name: str, title: str, label_map: LabelMap) -> str:
    if found := _fitting(title, label_map):
        return label_map.names[_one_of(found, name, label_map)]
    members = [_fitting(part, label_map) for part in title.split("/")]
    if len(members) < 2 or not all(members):
        raise ValueError(f"'{name}' names no class of the model: {', '.join(label_map.names)}")
    ids = sorted({_one_of(found, name, label_map) for found in members})
    return group_names(label_map, [ids])[0]


def _fitting(title: str, label_map: LabelMap) -> list[int]:
    """Ids of the classes of that name, exactly; or else of those that differ in case, "_" and spaces alone."""
    exact = [i for i, each in enumerate(label_map.names) if each == title.strip()]
    return exact or [i for i, each in enumerate(label_map.names) if _plain(each) == _plain(title)]


def _one_of(found: Sequence[int], name: str, label_map: LabelMap) -> int:
    if len(found) > 1:
        several = ", ".join(f"'{label_map.names[i]}'" for i in found)
        raise ValueError(f"'{name}' may be any of the classes {several}: write it exactly so")
    return found[0]


def _plain(name: str) -> str:
    return "_".join(name.casefold().replace("_", " ").split())


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
