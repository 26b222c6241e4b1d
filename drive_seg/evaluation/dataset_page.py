"""The page of an evaluation on a dataset: that of a replay, without what belongs to a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from drive_seg.datasets import Dataset
from drive_seg.evaluation import report as reports
from drive_seg.evaluation.dataset import Scores, in_terms_of, means
from drive_seg.evaluation.page import write
from drive_seg.evaluation.partial import Partial
from drive_seg.evaluation.records import Mode, Picture, new_row, number
from drive_seg.segmenter import Segmenter
from drive_seg.training.inference import Labeller

ON_CARDS = {"mIoU", "foreground mIoU", "boundary F1"}


def write_page(
    folder: Path,
    title: str,
    scores: Scores,
    segmenter: Segmenter,
    dataset: Dataset,
    worst: int,
    meaning: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write ``<folder>/index.html`` and return its path.

    Args:
        folder: made if missing.
        title: heading of the page.
        scores: of this segmenter on this dataset.
        worst: how many images to show; they are labelled again for it.
        meaning: that the scores were taken with.

    Raises:
        OSError: if it cannot be written.
    """
    rows = [new_row(name, "", i, 0, 0.0) for i, name in enumerate(scores.image_names)]
    for row, miou in zip(rows, scores.image_miou, strict=True):
        row["miou"] = number(miou)
    (samples, _), labeller = in_terms_of(segmenter, dataset, meaning), Labeller(segmenter, scores.inference)
    pictures = []
    for i in scores.worst(worst):
        image, label = samples.read(i)
        pictures.append(Picture(dict(rows[i]), image, labeller(image), label))
    partial = Partial(
        scores.targets.label_map,
        tuple(map(int, scores.ids)),
        scores.matrix.counts,
        scores.boundary.counts,
        scores.matrix.counts.sum(0),
        np.zeros(2, np.int64),
        rows,
        pictures,
        different=[],
        versus=None,
        bags=[],
        cameras=[],
        in_source=len(rows),
        groups=scores.targets.groups,
        reliability=scores.reliability,
    )
    name = title.partition(" on ")[0]
    about = reports.About(Mode.DATASET, f"{len(rows)} images", title, reports.model_of(name, segmenter), "", "")
    gammas = dict(zip(scores.names, scores.orders(), strict=True))
    report = dict(reports.as_report(partial, about, stalls=[]))
    report["classes"] = [{**row, "gamma": gammas.get(row["name"], -1)} for row in report["classes"]]
    report["more_means"] = {title: share for title, share in means(scores) if title not in ON_CARDS}
    report["remark"], report["labelling"] = scores.remark(), _labelling(scores)
    path = folder / "index.html"
    write.write_page(path, report, rows, partial.shown_worst(), partial.shown_map())
    return path


def _labelling(scores: Scores) -> str:
    inference = scores.inference
    if inference.as_on_the_vehicle:
        return "as on the vehicle: whole image, one scale"
    parts = [f"scales {', '.join(f'{scale:g}' for scale in inference.scales)}"]
    parts += ["mirrored too"] if inference.flip else []
    if inference.window is not None:
        height, width = inference.window
        parts.append(f"windows of {width}x{height}, stride {inference.stride:.3g} of them")
    return f"probabilities averaged: {'; '.join(parts)}"
