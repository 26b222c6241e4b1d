"""The report of a replay or of a dataset as one HTML page that holds all it shows: no network, script or other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from drive_seg.evaluation.page import charts
from drive_seg.evaluation.page import summary as page_summary
from drive_seg.evaluation.page import tables as page_tables
from drive_seg.evaluation.page.pictures import Strip, class_name, difference_strip, error_strip
from drive_seg.evaluation.records import Mode, Picture, number
from drive_seg.files import write_atomically
from drive_seg.labels import LabelMap

MOST_STRIPS = 20
"""How many worst and how many most different frames are shown at most; each is about 200 kB of the page."""


def write_page(
    path: Path,
    report: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    pictures: Sequence[Picture],
    label_map: LabelMap,
    different: Sequence[Picture] = (),
) -> None:
    """Write the page: the new one as a whole, or the old one stays.

    Args:
        path: of the page; its folder is made if missing.
        report: what report.json holds.
        rows: what frames.csv holds, a :class:`FrameRow` for each frame in order.
        pictures: the frames with the lowest mIoU, the worst first.
        label_map: of all masks in the pictures.
        different: the frames that differ most from the other run, the most different first.

    Raises:
        OSError: if it cannot be written.
    """
    page = _template().render(**_content(report, rows, pictures, label_map, different))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a file name that is no UTF-8 reaches Python as lone surrogates, which no HTML file can hold
    write_atomically(path, page.encode("utf-8", "replace"))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _content(
    report: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    pictures: Sequence[Picture],
    label_map: LabelMap,
    different: Sequence[Picture],
) -> dict[str, Any]:
    is_replay = report.get("mode") != Mode.DATASET
    drawn, not_drawn = charts.timelines(rows, report.get("stalls") or []) if is_replay else ([], 0)
    bags, more_bags = page_tables.bag_rows(report)
    worst = [error_strip(picture, label_map) for picture in pictures[:MOST_STRIPS]]
    differing = [difference_strip(picture, label_map) for picture in different[:MOST_STRIPS]]
    state, verdict = page_summary.verdict(report)
    reliability = report.get("reliability")
    return {
        "title": report.get("title") or "Replay report",
        "is_replay": is_replay,
        "state": state,
        "verdict": verdict,
        "in_short": page_summary.in_short(report),
        "headline": page_summary.headline(report),
        "requirements": [_requirement(each) for each in report.get("requirements") or []],
        "figures": page_summary.figures(report, label_map),
        "notices": page_summary.notices(report, rows),
        "against": report.get("against"),
        "columns": page_tables.class_columns(report),
        "classes": page_tables.class_rows(report),
        "matrix": page_tables.matrix(report.get("confusion"), label_map),
        "reliability": reliability,
        "how_to_read": charts.HOW_TO_READ,
        "diagram": charts.reliability_diagram(reliability) if reliability else "",
        "timelines": drawn,
        "not_drawn": not_drawn,
        "worst": worst,
        "judged": not pictures or any(picture.truth is not None for picture in pictures),
        "different": differing,
        "legend": _legend([*worst, *differing], label_map),
        "ledger": page_tables.ledger(report.get("frames") or {}),
        "cameras": page_tables.camera_rows(rows),
        "bags": bags,
        "more_bags": more_bags,
        "origin": page_tables.origin(report),
        "command": report.get("command") or "",
        "versions": report.get("versions") or {},
        "percent": page_summary.percent,
    }


def _requirement(requirement: Mapping[str, Any]) -> dict[str, Any]:
    value = number(requirement["value"])
    measured = page_summary.NONE if value is None else f"{value:.4g}"
    return {"text": requirement["text"], "value": measured, "met": bool(requirement["met"])}


def _legend(strips: Sequence[Strip], label_map: LabelMap) -> list[tuple[str, str]]:
    """(name, CSS colour) of the ids that the pictures hold."""
    palette = label_map.palette("rgb").tolist()
    ids = sorted(frozenset().union(*(strip.ids for strip in strips)))
    return [(class_name(i, label_map), "rgb({},{},{})".format(*palette[i])) for i in ids]
