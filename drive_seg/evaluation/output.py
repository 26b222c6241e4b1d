"""The folder of a report: what may be replaced there, and the writing of it."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from drive_seg.evaluation.partial import Partial
from drive_seg.evaluation.records import COLUMNS, FrameRow
from drive_seg.files import write_atomically

REPORT, PAGE, FRAMES, MASKS = "report.json", "report.html", "frames.csv", "masks.mcap"
OPTIONAL = (MASKS, "overlay*.mp4", "overlay*.avi")
RECORDED, LOGS, BAGS = "recorded", "logs", "by_bag"
"""Folders beside the report: what a live run published, what its processes printed, masks and videos of many bags."""
RUN, RUN_LOGS = (RECORDED, f"{RECORDED}.partial"), {"node.log", "recorder.log", "player.log"}
DIGITS = 6


def distinct_names(titles: Iterable[str]) -> dict[str, str]:
    """A file name for each title, such as a camera's name: without slashes and the like, and no two alike."""
    names: dict[str, str] = {}
    for title in titles:
        plain = re.sub(r"[^\w.-]+", "_", title).lstrip(".") or "_"
        tries = (plain, *(f"{plain}_{number}" for number in range(2, 2 + len(names))))
        names[title] = next(name for name in tries if name not in names.values())
    return names


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not meant for a report: it must be new, empty, or hold an earlier report.

    Raises:
        ValueError: it holds something else, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; the report needs a folder")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    may_stay = names <= {RECORDED} or names <= {BAGS} or is_rest_of_run(folder)
    if not may_stay and not is_report(folder):
        raise ValueError(f"{folder} holds other files than an earlier report; name a new or empty folder")


def clear_bags(folder: Path) -> None:
    """Remove what an earlier report of many recordings left of their masks and videos."""
    shutil.rmtree(folder / BAGS, ignore_errors=True)


def is_rest_of_run(folder: Path) -> bool:
    """Whether a folder holds what a live run leaves that did not come to its report, and nothing else."""
    if not (folder / LOGS).is_dir() or {path.name for path in folder.iterdir()} - {*RUN, LOGS}:
        return False
    return {path.name for path in (folder / LOGS).iterdir()} <= RUN_LOGS


def is_report(folder: Path) -> bool:
    """Whether a folder holds a replay report."""
    try:
        data = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and {"miou", "mode", "bags"} <= data.keys()


def write_report(folder: Path, report: dict[str, Any], partial: Partial, kept: Iterable[Path] = ()) -> None:
    """Write frames.csv, report.html and, last, report.json.

    What an earlier report left of masks and videos is removed unless it is named in ``kept``.

    Raises:
        OSError: if it cannot be written.
    """
    from drive_seg.evaluation.page.write import write_page

    folder.mkdir(parents=True, exist_ok=True)
    stays = {path.name for path in kept if path.parent == folder}
    for pattern in OPTIONAL:
        for path in folder.glob(pattern):
            if path.name not in stays:
                path.unlink()
    write_atomically(folder / FRAMES, as_csv(partial.rows).encode())
    write_page(folder / PAGE, report, partial.rows, partial.shown_worst(), partial.shown_map(), partial.different)
    write_atomically(folder / REPORT, json.dumps(report, indent=1, allow_nan=False).encode())


def as_csv(rows: Sequence[FrameRow]) -> str:
    """The rows as CSV; floating-point figures are rounded to 6 digits after the point, nothing stands for None.

    Of a deterministic replay all but ``latency_ms`` is the same every time.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: round(value, DIGITS) if isinstance(value, float) else value for key, value in row.items()}
        )
    return text.getvalue()
