"""From counts to the report: plain data, as in report.json."""

from __future__ import annotations

import platform
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from drive_seg.evaluation import flicker
from drive_seg.evaluation.partial import Partial, Versus
from drive_seg.evaluation.records import FATES, LOST, FrameRow, Mode, Report, number
from drive_seg.inference.runtimes import registry
from drive_seg.inference.runtimes.entry import installed
from drive_seg.metrics import ConfusionMatrix, mean

PACKAGES = ("numpy", "opencv-python-headless", "opencv-python", "rosbags")
STALL_S = 0.5
STALL_PERIODS = 3.0


@dataclass(frozen=True)
class About:
    """What a report says beside its figures.

    Attributes:
        mode: how frames were labelled.
        source: what was replayed, as the user named it.
        title: of the page.
        model: name, sha256, device, precision, runtime of the model.
        command: what was called.
        latency_meaning: from when to when the latency counts.
        against: the name of the model or run that it is compared with.
    """

    mode: Mode
    source: str
    title: str
    model: dict[str, Any]
    command: str
    latency_meaning: str
    against: str = ""
    versions: dict[str, str] = field(default_factory=lambda: installed_versions())


def as_report(partial: Partial, about: About, stalls: list[dict[str, Any]] | None = None) -> Report:
    """The report without requirements.

    Where truths hold groups of classes, these follow the classes in ``classes`` and in ``confusion``, whose columns are
    the same as its rows, and void: a prediction that is one of the true group's classes counts as the group.

    Args:
        partial: what was counted.
        about: what else it says.
        stalls: the times in which nothing came; None takes gaps between the published frames' stamps.
    """
    matrix, boundary, ids = partial.matrix(), partial.boundary_score(), list(partial.truth_ids)
    scored = bool(partial.confusion.any())
    return Report(
        miou=number(mean(matrix.iou()[ids])),
        f_miou=number(_f_miou(matrix, partial)),
        pixel_accuracy=number(matrix.pixel_accuracy()),
        boundary_f1=number(mean(boundary.f1()[ids])),
        flicker=_share(*partial.flicker),
        label_map=partial.label_map.name,
        mode=about.mode,
        source=about.source,
        title=about.title,
        model=dict(about.model),
        cameras=list(partial.cameras),
        command=about.command,
        versions=dict(about.versions),
        classes=_classes(partial),
        confusion=_folded(partial).tolist() if scored else None,
        frames=_frames(partial),
        latency_ms=percentiles([row["latency_ms"] for row in partial.rows]),
        latency_meaning=about.latency_meaning,
        input_age_ms=percentiles([row["input_age_ms"] for row in partial.rows]),
        stalls=find_stalls(partial.rows) if stalls is None else stalls,
        flicker_meaning=flicker.MEANING,
        reliability=partial.reliability and partial.reliability.to_dict(),
        bags=[dict(bag) for bag in partial.bags],
        against=_against(partial, about.against) if partial.versus is not None else None,
        requirements=[],
    )


def percentiles(values: Sequence[float | None]) -> dict[str, float | None]:
    """p50, p95, p99 and max of the values there are; each is one that occurred: at most 1 in 100 lies above p99."""
    known = np.array([value for value in values if value is not None], np.float64)
    if not known.size:
        return dict.fromkeys(("p50", "p95", "p99", "max"))
    found = np.percentile(known, (50, 95, 99, 100), method="inverted_cdf")
    return dict(zip(("p50", "p95", "p99", "max"), map(float, found), strict=True))


def find_stalls(rows: Sequence[FrameRow]) -> list[dict[str, Any]]:
    """Gaps between published frames of a camera: longer than 0.5 s and than three times their usual distance.

    Returns:
        bag, camera, start_s (on the scale of ``time_s``) and length_s of each, in the order of the rows.
    """
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row["fate"] == "published":
            times[row["bag"], row["camera"]].append(row["time_s"])
    found = []
    for (bag, camera), published in times.items():
        steps = np.diff(published)
        usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
        for start, step in zip(published, steps, strict=False):
            if step > max(STALL_S, STALL_PERIODS * usual):
                found.append({"bag": bag, "camera": camera, "start_s": float(start), "length_s": float(step)})
    return found


def installed_versions() -> dict[str, str]:
    """Of what can change the figures; packages that are not installed are left out."""
    from drive_seg import __version__

    about = {"drive_seg": __version__, "python": platform.python_version()}
    return {**about, **installed(PACKAGES), **registry.versions()}


def _frames(partial: Partial) -> dict[str, int]:
    fates = Counter(row["fate"] for row in partial.rows)
    scored = sum(row["miou"] is not None for row in partial.rows)
    return {
        "in_source": max(partial.in_source, len(partial.rows)),
        "received": len(partial.rows) - fates[LOST],
        **{fate: fates[fate] for fate in FATES},
        **(partial.ledger or {}),
        "scored": scored,
        "without_truth": fates["published"] - scored,
        "repeated": partial.repeated,
        "backward": partial.backward,
    }


def _classes(partial: Partial) -> list[dict[str, Any]]:
    matrix, boundary = partial.matrix(), partial.boundary_score()
    shown = partial.shown_map()
    known = np.isin(np.arange(shown.num_classes), partial.truth_ids)
    scored = bool(partial.confusion.any())
    columns = {
        "iou": np.where(known, matrix.iou(), np.nan),
        "precision": np.where(known, matrix.precision(), np.nan),
        "recall": np.where(known, matrix.class_accuracy(), np.nan),
        "boundary_f1": np.where(known, boundary.f1(), np.nan),
        "share": matrix.frequency() if scored else np.full(len(known), np.nan),
        "predicted_share": _shares(partial.predicted, partial.groups),
    }
    return [
        {"name": name, "color": list(color), **{key: number(column[i]) for key, column in columns.items()}}
        for i, (name, color) in enumerate(zip(shown.names, shown.colors, strict=True))
    ]


def _against(partial: Partial, name: str) -> dict[str, Any]:
    """Both models' figures on the frames that both have; ``own_`` are those of the model that the report is about."""
    versus, ids = partial.versus, list(partial.truth_ids)
    own, other = partial.matrix_of(versus.own), partial.matrix_of(versus.other)
    agreement = np.append(_agreement(versus), [np.nan] * len(partial.groups))
    classes = []
    for i, title in enumerate(partial.shown_map().names):
        here, there = ((number(each.iou()[i]) if i in ids else None) for each in (own, other))
        difference = here - there if here is not None and there is not None else None
        classes.append(
            {
                "name": title,
                "iou": here,
                "other_iou": there,
                "difference": difference,
                "agreement": number(agreement[i]),
            }
        )
    return {
        "name": name,
        "frames": versus.frames,
        "miou": number(mean(other.iou()[ids])),
        "f_miou": number(_f_miou(other, partial)),
        "flicker": _share(*versus.flicker),
        "own_miou": number(mean(own.iou()[ids])),
        "own_f_miou": number(_f_miou(own, partial)),
        "agreement": _share(int(np.trace(versus.both)), int(versus.both.sum())),
        "classes": classes,
    }


def _agreement(versus: Versus) -> np.ndarray:
    """IoU of both masks per class, float64 [C]; nan for a class in neither."""
    hit = np.diagonal(versus.both).astype(np.float64)
    union = versus.both.sum(0) + versus.both.sum(1) - hit
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)[:-1]


def _f_miou(matrix: ConfusionMatrix, partial: Partial) -> float:
    ids = [i for i in partial.shown_map().foreground() if i in partial.truth_ids]
    return mean(matrix.iou()[ids])


def _folded(partial: Partial) -> np.ndarray:
    """The confusion matrix, int64 [C + G, C + G + 1], with what is right of a group in a column of its own."""
    count, groups = partial.label_map.num_classes, partial.groups
    table = np.insert(partial.confusion, [count] * len(groups), 0, axis=1)
    for g, members in enumerate(map(list, groups), start=count):
        table[g, g] = table[g, members].sum()
        table[g, members] = 0
    return table


def _shares(counts: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Of classes and groups among all pixels, the last entry (void) included in these; nan without pixels."""
    total = counts.sum()
    sums = np.append(counts[:-1], [counts[list(members)].sum() for members in groups])
    return sums / total if total else np.full(len(sums), np.nan)


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def model_of(name: str, segmenter: Any) -> dict[str, Any]:
    """What a report says of a segmenter."""
    return {
        "name": name,
        "sha256": segmenter.sha256,
        "device": segmenter.device,
        "precision": segmenter.precision,
        "runtime": segmenter.runtime,
        "input_size": list(segmenter.input_size),
    }
