"""The demo's figures: gathered into plain data, shown as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from drive_seg.evaluation.records import FATES
from drive_seg.files import write_atomically

COUNTS = ("received", *FATES, "in_flight", "lost_by_middleware")
LATENCIES = ("latency", "processing")
STAGES = ("decode", "preprocess", "network", "postprocess", "publish")


def summarise(figures: dict[str, str], report: Mapping[str, Any], masks: int) -> dict[str, Any]:
    """All figures of a run; None where one is not known.

    Args:
        figures: the node's last diagnostics of the camera.
        report: on what was recorded, as report.json.
        masks: how many the recorder got.
    """
    score = None
    if report["miou"] is not None:
        classes = [{key: row[key] for key in ("name", "iou", "share")} for row in report["classes"]]
        means = {key: report[key] for key in ("miou", "pixel_accuracy")}
        score = {"frames": report["frames"]["scored"], **means, "classes": classes}
    return {
        "images_recorded": report["frames"]["in_source"],
        "masks_recorded": masks,
        "node": {key: _count(figures.get(key)) for key in COUNTS},
        **{key: figures.get(key, "n/a") for key in ("last_reason", "model", "device", "runtime")},
        "latency_ms": {
            **{name: {p: _figure(figures.get(f"{name}_ms_{p}")) for p in ("p50", "p99")} for name in LATENCIES},
            "stamp_to_recorder": {p: report["latency_ms"][p] for p in ("p50", "p99")},
        },
        "stages_ms": {stage: _figure(figures.get(f"stage_{stage}_ms")) for stage in STAGES},
        "score": score,
    }


def write(path: Path, summary: dict[str, Any]) -> None:
    """Keep the figures as JSON."""
    write_atomically(path, json.dumps(summary, indent=1).encode())


def show(console: Console, summary: dict[str, Any]) -> None:
    """Print the figures as tables."""
    console.print(_frames(summary), _latencies(summary))
    if summary["score"] is not None:
        _show_score(console, summary["score"])


def _frames(summary: dict[str, Any]) -> Table:
    table = Table(title="Frames", title_justify="left")
    table.add_column("")
    table.add_column("frames", justify="right")
    table.add_row("sent, as the recorder got them", str(summary["images_recorded"]))
    if missed := summary["images_recorded"] - (summary["node"]["received"] or 0):
        table.add_row("replaced by a newer one before the node took it", str(missed))
    for key in COUNTS:
        value = summary["node"][key]
        if value or key in ("received", "published", "dropped"):
            table.add_row(f"node: {key.replace('_', ' ')}", "n/a" if value is None else str(value))
    table.add_row("masks, as the recorder got them", str(summary["masks_recorded"]))
    return table


def _latencies(summary: dict[str, Any]) -> Table:
    title = f"Latency in ms, the network by {summary['runtime']} on {summary['device']}"
    table = Table(title=title, title_justify="left")
    for name in ("", "p50", "p99"):
        table.add_column(name, justify="right" if name else "left")
    latency = summary["latency_ms"]
    titles = {
        "stamp to published mask, last 10 s": latency["latency"],
        "node's own processing, last 10 s": latency["processing"],
        "stamp to recorder, all frames": latency["stamp_to_recorder"],
    }
    for title, values in titles.items():
        table.add_row(title, *("n/a" if values[p] is None else f"{values[p]:.1f}" for p in ("p50", "p99")))
    return table


def _show_score(console: Console, score: dict[str, Any]) -> None:
    table = Table(title=f"Score over {score['frames']} frames", title_justify="left")
    table.add_column("class")
    table.add_column("IoU %", justify="right")
    table.add_column("share of pixels %", justify="right")
    for row in score["classes"]:
        iou = "absent" if row["iou"] is None else f"{100 * row['iou']:.1f}"
        table.add_row(row["name"], iou, f"{100 * (row['share'] or 0):.2f}")
    table.add_section()
    table.add_row("mIoU", f"{100 * score['miou']:.1f}", "")
    table.add_row("pixel accuracy", f"{100 * score['pixel_accuracy']:.1f}", "")
    console.print(table)


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _figure(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:  # "n/a"
        return None
