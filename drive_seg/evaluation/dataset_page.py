"""One HTML page about an evaluation, complete in itself: figures, confusion matrix, pictures of the worst images."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import cv2
import numpy as np

from drive_seg.datasets import Dataset
from drive_seg.evaluation.dataset import (
    CLASS_COLUMNS,
    Scores,
    TargetSet,
    calibration_sentence,
    class_rows,
    means,
    percent,
)
from drive_seg.evaluation.page.reliability_diagram import HOW_TO_READ, as_svg
from drive_seg.files import write_atomically
from drive_seg.labels import VOID
from drive_seg.segmenter import Segmenter
from drive_seg.training.inference import Labeller
from drive_seg.training.targets import Targets

MAX_WIDTH = 640
"""Pictures are shrunk to this width in pixels."""

_RED = (40, 40, 230)  # BGR

_PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em; color: #1c1c1c; background: #fff }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse } td, th { padding: .2em .6em; text-align: right; font-weight: normal }
th { color: #555; border-bottom: 1px solid #999 } td:first-child, th:first-child { text-align: left }
.figures tr:nth-child(even) td { background: #f4f4f4 }
.matrix { font-size: 11px } .matrix td { min-width: 2.2em; padding: .25em .3em; border: 1px solid #e4e4e4 }
.matrix th.column { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; border: 0 }
.strip { display: grid; grid-template-columns: repeat(4, 1fr); gap: 4px; margin: .3em 0 1.6em }
.strip img { width: 100%; display: block } .strip figure { margin: 0 } figcaption { color: #555; font-size: 12px }
.legend span { display: inline-block; margin-right: 1.2em; white-space: nowrap }
.legend i { display: inline-block; width: 1em; height: 1em; margin-right: .35em; vertical-align: -2px }
</style></head><body>
<h1>$title</h1>
<p>$about</p>
<h2>Over all classes</h2><table class="figures"><tr><th></th><th>%</th></tr>$means</table>
<h2>By class</h2><table class="figures"><tr>$columns</tr>$classes</table>
<p>Boundary F1: boundary pixels count as met within $tolerance of the image's diagonal. Gamma is OWFL's frequency group,
the order of magnitude of a class's share of the labelled pixels of this set; 0 is the rarest.</p>
<h2>Confusion matrix</h2><p>Rows are true classes, columns predicted ones, in % of the row's pixels.</p>
<table class="matrix">$matrix</table>
$reliability
<h2>Worst images</h2><p>By the mean IoU of the image alone. Errors are red on the darkened image, void pixels
black.</p><p class="legend">$legend</p>
$strips
</body></html>
""")


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
    samples, labeller = TargetSet(segmenter, dataset, meaning), Labeller(segmenter, scores.inference)
    strips = [_strip(scores, i, *samples.read(i), labeller) for i in scores.worst(worst)]
    about = f"{len(scores.image_names)} images. {_inference(scores)}. {scores.remark()}"
    page = _PAGE.substitute(
        title=escape(title),
        about=escape(about),
        means=_rows((name, percent(value)) for name, value in means(scores)),
        columns="".join(f"<th>{name}</th>" for name in CLASS_COLUMNS),
        classes=_rows(class_rows(scores)),
        tolerance=f"{100 * scores.boundary.tolerance:g} %",
        matrix=_matrix(scores),
        reliability=_reliability(scores),
        legend=_legend(scores),
        strips="\n".join(strips) or "<p>None.</p>",
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    write_atomically(path, page.encode())
    return path


def pictures(targets: Targets, image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
    """Image, truth, prediction and errors of one sample, each uint8 BGR [H, W, 3].

    Args:
        targets: what the ids mean.
        image: uint8 BGR [H, W, 3].
        label: uint8 [H, W], targets. A group is painted in the colour of its first class.
        prediction: uint8 [H, W], classes.
    """
    palette = _palette(targets)
    errors = np.repeat(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None] // 3, 3, axis=2)
    errors[(targets.fold(prediction, label) != label) & (label != VOID)] = _RED
    errors[label == VOID] = 0
    return {"image": image, "truth": palette[label], "prediction": palette[prediction], "errors": errors}


def _palette(targets: Targets) -> np.ndarray:
    """Colour of each class and group, uint8 BGR [256, 3]."""
    palette = targets.label_map.palette()
    for g, members in enumerate(targets.groups, start=targets.label_map.num_classes):
        palette[g] = palette[members[0]]
    return palette


def _strip(scores: Scores, i: int, image: np.ndarray, label: np.ndarray, labeller: Labeller) -> str:
    shown = pictures(scores.targets, image, label, labeller(image))
    figures = (
        f'<figure><img alt="{name}" src="{_embedded(picture, ".jpg" if name == "image" else ".png")}">'
        f"<figcaption>{name}</figcaption></figure>"
        for name, picture in shown.items()
    )
    heading = f"<div>{escape(scores.image_names[i])}: mIoU {percent(scores.image_miou[i])} %</div>"
    return f'{heading}<div class="strip">{"".join(figures)}</div>'


def _embedded(picture: np.ndarray, suffix: str) -> str:
    """A picture as a data URI. Painted masks are shrunk without mixing their colours."""
    height, width = picture.shape[:2]
    if width > MAX_WIDTH:
        size = (MAX_WIDTH, max(1, round(height * MAX_WIDTH / width)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if suffix == ".jpg" else cv2.INTER_NEAREST)
    _, data = cv2.imencode(suffix, picture)
    kind = "jpeg" if suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in rows)


def _matrix(scores: Scores) -> str:
    counts = scores.matrix.counts[scores.ids]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    columns = (*scores.targets.label_map.names, "void")
    header = "".join(f'<th class="column">{escape(name)}</th>' for name in columns)
    lines = [f"<tr><th></th>{header}</tr>"]
    for i, name, row, pixels in zip(scores.ids, scores.names, shares, counts, strict=True):
        right = (*scores.matrix.members[i], False)
        cells = "".join(map(_cell, row, pixels, right))
        lines.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    return "\n".join(lines)


def _cell(share: float, pixels: int, right: bool) -> str:
    """Green where the prediction is right, red where it is not, the stronger the more pixels."""
    color = "34,139,60" if right else "214,39,40"
    text = f"{100 * share:.0f}" if share >= 0.005 else ""
    # the root shows rare confusions too
    return f'<td title="{pixels} pixels" style="background:rgba({color},{share**0.5:.2f})">{text}</td>'


def _reliability(scores: Scores) -> str:
    sentence = calibration_sentence(scores.reliability)
    if not sentence:
        return ""
    return f"<h2>Confidence</h2><p>{escape(sentence)} {HOW_TO_READ}</p>{as_svg(scores.reliability.to_dict())}"


def _legend(scores: Scores) -> str:
    palette = _palette(scores.targets)[:, ::-1].tolist()
    colors = zip(scores.targets.label_map.names, palette, strict=False)
    return "".join(f'<span><i style="background:rgb({r},{g},{b})"></i>{escape(n)}</span>' for n, (r, g, b) in colors)


def _inference(scores: Scores) -> str:
    inference = scores.inference
    if inference.as_on_the_vehicle:
        return "Labelled as on the vehicle: whole image, one scale"
    parts = [f"scales {', '.join(f'{scale:g}' for scale in inference.scales)}"]
    parts += ["mirrored too"] if inference.flip else []
    if inference.window is not None:
        height, width = inference.window
        parts.append(f"windows of {width}x{height}, stride {inference.stride:.3g} of them")
    return f"Probabilities averaged: {'; '.join(parts)}"
