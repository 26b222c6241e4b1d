"""Requirements on a report's figures, such as ``miou>=0.65``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drive_seg.labels import LabelMap
from drive_seg.replay.evaluation.records import FATES

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
FORM = re.compile(r"\s*(?P<name>[^<>=]+?)\s*(?P<sign>>=|<=|==|>|<)\s*(?P<number>[-+0-9.eE]+)\s*(?P<percent>%?)\s*")
SHARES = ("miou", "f_miou", "pixel_accuracy", "boundary_f1", "flicker")
TIMES = ("p50", "p95", "p99", "max")
COUNTS = ("in_source", "received", *FATES, "scored", "without_truth")
BY_CLASS = ("iou", "precision", "recall", "boundary_f1")
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
    "failed_bags",
    "agreement",
    "miou_gain",
)
"""What may be required, beside ``iou.CLASS``, ``precision.CLASS``, ``recall.CLASS`` and ``boundary_f1.CLASS``.

Shares are 0..1 (or written with %), those of frames are of the received ones; ``miou_gain`` is the mIoU less the
other's, on the frames that both have.
"""


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
        label_map: the model's classes; case does not matter, and "_" may stand for a space.

    Raises:
        ValueError: one is not of that form, or names no figure.
    """
    return [_parse_one(text, label_map) for text in texts]


def figure(report: dict[str, Any], name: str) -> float | None:
    """The figure of that name (see ``NAMES``); None where the report has none."""
    kind, _, title = name.partition(".")
    frames, against = report["frames"], report["against"] or {}
    if title:
        return next(each[kind] for each in report["classes"] if each["name"] == title)
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
    if name == "failed_bags":
        return sum(bag["status"] != "ok" for bag in report["bags"])
    if name == "agreement":
        return against.get("agreement")
    return _difference(against.get("own_miou"), against.get("miou"))


def sentences(judged: Sequence[dict[str, Any]]) -> list[str]:
    """One sentence for each requirement that is not met."""
    return [
        f"{each['text']} is not met: "
        + ("the report has no such figure." if each["value"] is None else f"it is {each['value']:.4g}.")
        for each in judged
        if not each["met"]
    ]


def _parse_one(text: str, label_map: LabelMap) -> Requirement:
    match = FORM.fullmatch(text)
    try:
        limit = float(match["number"]) / (100.0 if match["percent"] else 1.0)
    except (TypeError, ValueError):
        raise ValueError(f"requirement '{text}' is not of the form NAME>=NUMBER, as miou>=0.65") from None
    return Requirement(text, _known_name(match["name"], label_map), match["sign"], limit)


def _known_name(name: str, label_map: LabelMap) -> str:
    kind, _, title = name.partition(".")
    if kind in BY_CLASS and title:
        wanted = title.casefold().replace("_", " ")
        found = [each for each in label_map.names if each.casefold().replace("_", " ") == wanted]
        if not found:
            raise ValueError(f"'{name}' names no class of the model: {', '.join(label_map.names)}")
        return f"{kind}.{found[0]}"
    if name not in NAMES:
        by_class = ", ".join(f"{each}.CLASS" for each in BY_CLASS)
        raise ValueError(f"no figure is called '{name}'; there are: {', '.join(NAMES)}, {by_class}")
    return name


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
