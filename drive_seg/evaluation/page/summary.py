"""What the report page says first: the verdict, the figures with their meaning, and what to worry about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drive_seg.evaluation.page.charts import clock
from drive_seg.evaluation.records import FATES, Mode, number
from drive_seg.labels import LabelMap
from drive_seg.recordings.sources.topics import so_many

NONE = "n/a"
MOST_DETAILS = 12
"""How many lines a warning has at most."""

FATE_MEANING = {
    "published": "a mask went out",
    "dropped": "a newer frame of the same camera came before this one's turn",
    "expired": "older than the latency budget when it was its turn, or when its mask was ready",
    "rejected": "a message that cannot be read as an image",
    "failed": "the network or the runtime raised an error",
    "withheld": "the node was not active, nobody listened, or it was set to hold back suspicious masks",
}


@dataclass(frozen=True)
class Change:
    """A difference to the other run: text with its sign, and ``better``, ``worse`` or ``same``."""

    text: str
    verdict: str


@dataclass(frozen=True)
class Figure:
    """One figure of the summary.

    Attributes:
        name: what it is called.
        value: as text.
        meaning: what it says, for someone who does not know it.
        change: against another run, if there is one.
        details: (name, value) of what belongs to it.
        more: how it is computed, where that takes long to say.
    """

    name: str
    value: str
    meaning: str
    change: Change | None = None
    details: list[tuple[str, str]] = field(default_factory=list)
    more: str = ""


@dataclass(frozen=True)
class Notice:
    """Something to worry about (``bad``) or to know (``note``)."""

    level: str
    text: str
    details: list[str] = field(default_factory=list)


def percent(value: Any, digits: int = 1) -> str:
    """A share of 0..1 as text, ``n/a`` where there is none."""
    share = number(value)
    return NONE if share is None else f"{100 * share:.{digits}f} %"


def milliseconds(value: Any) -> str:
    found = number(value)
    return NONE if found is None else f"{found:,.1f} ms" if found < 100 else f"{found:,.0f} ms"


def count(value: Any) -> str:
    found = number(value)
    return NONE if found is None else f"{found:,.0f}"


def change(difference: Any, lower_is_better: bool = False, digits: int = 1) -> Change | None:
    """A difference of two shares in percentage points; None where there is none."""
    share = number(difference)
    if share is None:
        return None
    points = round(100 * share, digits)
    if points == 0:
        return Change(f"±{0:.{digits}f}", "same")
    better = (points > 0) != lower_is_better
    return Change(f"{'+' if points > 0 else '−'}{abs(points):.{digits}f}", "better" if better else "worse")


def verdict(report: Mapping[str, Any]) -> tuple[str, str]:
    """(``met``, ``missed`` or ``open``; a sentence)."""
    asked = report.get("requirements") or []
    missed = sum(not requirement["met"] for requirement in asked)
    broken = [bag for bag in report.get("bags") or [] if bag["status"] != "ok"]
    tail = f"; {len(broken)} of {len(report['bags'])} bags could not be judged" if broken else ""
    if not asked:
        return "missed" if broken else "open", f"No requirement was set{tail}"
    if missed:
        one = "requirement is" if len(asked) == 1 else "requirements are"
        return "missed", f"{missed} of {len(asked)} {one} not met{tail}"
    met = "The requirement is met" if len(asked) == 1 else f"All {len(asked)} requirements are met"
    return "missed" if broken else "met", f"{met}{tail}"


def in_short(report: Mapping[str, Any]) -> str:
    """The result in one or two sentences for someone who has never read such a report."""
    right, miou = number(report.get("pixel_accuracy")), number(report.get("miou"))
    frames, replayed = report.get("frames") or {}, report.get("mode") != Mode.DATASET
    parts = []
    if miou is not None:
        of_pixels = f"{percent(right)} of the labelled pixels are right; " if right is not None else ""
        parts.append(
            f"{of_pixels}averaged over the classes, prediction and truth overlap by {percent(miou)} (mIoU), "
            f"measured on {so_many(number(frames.get('scored')) or 0, 'frame' if replayed else 'image')} with truth."
        )
    else:
        parts.append("There was no truth to compare with, so this page tells about health and steadiness only.")
    received, published = number(frames.get("received")), number(frames.get("published"))
    if replayed and received and published is not None:
        parts.append(
            f"{count(published)} of {count(received)} received frames got a mask ({percent(published / received)})."
        )
    return " ".join(parts)


def headline(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of the figures that fit in one line."""
    frames, latency = report.get("frames") or {}, report.get("latency_ms") or {}
    found = [
        ("mIoU", percent(report.get("miou"))),
        ("f-mIoU", percent(report.get("f_miou"))),
        ("boundary F1", percent(report.get("boundary_f1"))),
    ]
    if report.get("mode") == Mode.DATASET:
        return found
    return [
        *found,
        ("flicker", percent(report.get("flicker"), 2)),
        ("latency p50 / p95 / p99", _percentiles(latency)),
        ("published / received", f"{count(frames.get('published'))} / {count(frames.get('received'))}"),
    ]


def figures(report: Mapping[str, Any], label_map: LabelMap) -> list[Figure]:
    """The figures that the page begins with."""
    against = report.get("against") or {}
    foreground = [label_map.names[i] for i in label_map.foreground()]
    frames = report.get("frames") or {}
    published, received = number(frames.get("published")), number(frames.get("received"))
    made = [
        Figure(
            "mIoU",
            percent(report.get("miou")),
            "How well the masks fit the truth. For each class: the pixels that prediction and truth share, divided by "
            "those that either of them gives to the class (IoU); then the mean over all classes that occur, over all "
            "frames together. 100 % is perfect; a small class weighs as much as a large one.",
            _against(report, against, "miou"),
            [(name, percent(share)) for name, share in (report.get("more_means") or {}).items()],
        ),
        Figure(
            "f-mIoU",
            percent(report.get("f_miou")),
            f"The same mean over the foreground classes only, those that one may collide with or must heed: "
            f"{', '.join(foreground) or 'none in this label map'}.",
            _against(report, against, "f_miou"),
        ),
        Figure(
            "boundary F1",
            percent(report.get("boundary_f1")),
            "How well outlines fit: the share of predicted outline pixels that lie close to a true one, and of true "
            "ones close to a predicted one (harmonic mean of both, then the mean over the classes). Close means "
            "within 0.75 % of the image's diagonal.",
        ),
    ]
    if report.get("mode") == Mode.DATASET:
        return made
    made += [
        Figure(
            "flicker",
            percent(report.get("flicker"), 2),
            "Restlessness: the share of pixels whose class changes from one frame to the next although nothing moved "
            "there, or what moved there was the same. Lower is better; 0 % is perfectly steady.",
            _against(report, against, "flicker", lower_is_better=True),
            more=str(report.get("flicker_meaning") or ""),
        ),
        _times(
            "latency",
            report.get("latency_ms"),
            report.get("latency_meaning") or "From the image's stamp to the publishing of its mask.",
        ),
    ]
    if any(number(value) is not None for value in (report.get("input_age_ms") or {}).values()):
        meaning = "How old an image was when work on it began: camera driver, transport, and waiting for its turn."
        made.append(_times("input age", report.get("input_age_ms"), meaning))
    made.append(
        Figure(
            "published / received",
            f"{count(published)} / {count(received)}",
            "Frames that got a mask, of those that reached the node. The frames table says what became of the others.",
            details=[("share", percent(published / received))] if received and published is not None else [],
        )
    )
    if against:
        name = against.get("name") or "the other run"
        meaning = f"Share of pixels to which this run and {name} give the same class, over frames that both labelled."
        on = number(against.get("frames"))
        details = [] if on is None else [("frames", count(on))]
        made.append(Figure("agreement", percent(against.get("agreement")), meaning, details=details))
    return made


def notices(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Notice]:
    """What a reader has to know before believing the figures, the worst first."""
    found = [*_bag_notices(report), *_stamp_notices(report), *_frame_notices(report, rows)]
    found += _truth_notices(report, rows)
    found += [Notice("note", report["remark"])] if report.get("remark") else []
    stalls = report.get("stalls") or []
    if stalls:
        longest = sorted(stalls, key=lambda stall: -stall["length_s"])
        said = [
            f"{_where(stall)} at {clock(stall['start_s'], stall['start_s'] >= 120, 1)}: {stall['length_s']:.1f} s"
            for stall in longest
        ]
        found.append(Notice("bad", f"{so_many(len(stalls), 'stall')}: times in which no mask came", _some(said)))
    told = [text.strip() for row in rows for text in str(row.get("warnings") or "").split(";") if text.strip()]
    if told:
        found.append(Notice("bad", "Masks or images that looked suspicious", _some(_counted(told))))
    return sorted(found, key=lambda notice: notice.level != "bad")


def _against(
    report: Mapping[str, Any], against: Mapping[str, Any], key: str, lower_is_better: bool = False
) -> Change | None:
    here, there = number(against.get(f"own_{key}", report.get(key))), number(against.get(key))
    return None if here is None or there is None else change(here - there, lower_is_better, 2 if lower_is_better else 1)


def _percentiles(values: Mapping[str, Any]) -> str:
    found = [number(values.get(key)) for key in ("p50", "p95", "p99")]
    if None in found:
        return NONE
    return f"{' / '.join(f'{value:,.1f}' for value in found)} ms"


def _times(name: str, values: Mapping[str, Any] | None, meaning: str) -> Figure:
    values = values or {}
    details = [(key, milliseconds(values.get(key))) for key in ("p95", "p99", "max")]
    meaning = f"{meaning} p50 / p95 / p99: half, 95 % and 99 % of the frames are at least as fast."
    known = any(number(value) is not None for value in values.values())
    return Figure(f"{name}, median (p50)", milliseconds(values.get("p50")), meaning, details=details if known else [])


def _bag_notices(report: Mapping[str, Any]) -> list[Notice]:
    bags = report.get("bags") or []
    failed = [f"{bag['name']}: {bag['reason']}" for bag in bags if bag["status"] != "ok"]
    partly = [f"{bag['name']}: {bag['reason']}" for bag in bags if bag["status"] == "ok" and bag["reason"]]
    found = []
    if failed:
        text = f"{len(failed)} of {so_many(len(bags), 'bag')} could not be judged and are not in the figures"
        found.append(Notice("bad", text, _some(failed)))
    if partly:
        found.append(Notice("note", f"{so_many(len(partly), 'bag')} with a remark", _some(partly)))
    return found


def _stamp_notices(report: Mapping[str, Any]) -> list[Notice]:
    frames = report.get("frames") or {}
    kinds = {"repeated": "the stamp of an earlier one", "backward": "an earlier stamp than the one before"}
    why = (
        "Stamps must tell images apart. Where as many masks or labels as images have one stamp they are paired in "
        "order; where not, they are neither scored nor timed."
    )
    return [
        Notice("bad", f"{so_many(n, 'image')} with {what}", [why])
        for key, what in kinds.items()
        if (n := number(frames.get(key)))
    ]


def _frame_notices(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Notice]:
    frames = report.get("frames") or {}
    received, in_source = number(frames.get("received")) or 0, number(frames.get("in_source"))
    if not received:
        return [Notice("bad", "No frame was received: is the image topic's name right, and does the bag hold it?")]
    found = []
    if in_source is not None and in_source > received:
        live = report.get("mode") == Mode.LIVE
        lost = f"{count(in_source - received)} of {count(in_source)} frames of the source"
        where = "never reached the node" if live else "were not read"
        why = ["They were lost on the way: in transport, or since the node started late."] if live else []
        found.append(Notice("bad", f"{lost} {where}", why))
    for fate in FATES[1:]:
        if n := number(frames.get(fate)):
            lines = _counted([str(row["reason"]) for row in rows if row["fate"] == fate and row["reason"]])
            lines = [f"{fate} means: {FATE_MEANING[fate]}", *lines]
            found.append(
                Notice("bad", f"{so_many(n, 'frame')} {fate} ({percent(n / received)} of received)", _some(lines))
            )
    return found


def _truth_notices(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Notice]:
    frames = report.get("frames") or {}
    scored, published, bare = (number(frames.get(key)) or 0 for key in ("scored", "published", "without_truth"))
    if not published:
        return []
    found = []
    if odd := [str(row["reason"]) for row in rows if row["fate"] == "published" and row["reason"]]:
        found.append(Notice("bad", f"{so_many(len(odd), 'published frame')} with a remark", _some(_counted(odd))))
    if not scored:
        text = "No truth was found, so there is no mIoU and nothing that depends on it"
        mend = (
            "Give a label topic that is in the bag (its stamps must equal the images'), or a folder of label PNGs "
            "named by stamp or by sequence; that is --truth-topic and --truth of drive-seg replay."
        )
        return [*found, Notice("note", text, [mend])]
    if bare:
        text = f"{so_many(bare, 'published frame')} without truth: not in mIoU, in all other figures"
        found.append(Notice("note", text, [f"{so_many(scored, 'frame')} scored."]))
    return found


def _counted(texts: Sequence[str]) -> list[str]:
    """Each text with the number of its frames, the most frequent first; texts that differ in numbers only are one."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(re.sub(r"\d+([.,]\d+)*", "0", text), []).append(text)
    largest = sorted(groups.values(), key=len, reverse=True)
    return [f"{'such as: ' if len(set(same)) > 1 else ''}{same[0]} ({so_many(len(same), 'frame')})" for same in largest]


def _where(stall: Mapping[str, Any]) -> str:
    return f"{stall['bag']}, {stall['camera']}" if stall.get("bag") else str(stall["camera"])


def _some(lines: list[str]) -> list[str]:
    left = len(lines) - MOST_DETAILS
    return lines if left <= 0 else [*lines[:MOST_DETAILS], f"and {left} more"]
