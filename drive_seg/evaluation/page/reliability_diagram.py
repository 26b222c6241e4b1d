"""The reliability diagram as SVG, for a page that holds all it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HOW_TO_READ = (
    "Each bar is the share of right pixels among those of a confidence, darker the more pixels it stands for. On the "
    "dashed line a pixel is right as often as its confidence says; below it the model is too sure. Rings: without the "
    "model's temperature."
)
_SIDE, _LEFT, _BELOW = 240, 34, 34


def as_svg(report: Mapping[str, Any]) -> str:
    """Bars of accuracy over confidence, darker the more pixels they stand for; on the line both are equal.

    Args:
        report: :meth:`drive_seg.evaluation.reliability.Reliability.to_dict`; rings are what it was before the
            temperature.
    """
    most = max(row["pixels"] for row in report["bins"]) or 1
    shapes = []
    for row in report["bins"]:
        if not row["pixels"]:
            continue
        x, width = _SIDE * row["from"], _SIDE * (row["to"] - row["from"])
        height, strength = _SIDE * row["accuracy"], 0.15 + 0.85 * (row["pixels"] / most) ** 0.5
        shapes.append(
            f'<rect x="{x:.1f}" y="{_SIDE - height:.1f}" width="{width:.1f}" height="{height:.1f}" fill="#2b6cb0" '
            f'fill-opacity="{strength:.2f}"><title>{_in_words(row)}</title></rect>'
        )
    for row in (report["before"] or {"bins": []})["bins"]:
        if row["pixels"]:
            x, y = _SIDE * row["confidence"], _SIDE * (1 - row["accuracy"])
            shapes.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="none" stroke="#c05621" stroke-width="1.5">'
                f"<title>without the temperature: {_in_words(row)}</title></circle>"
            )
    ticks = "".join(
        f'<text x="{_SIDE * share}" y="{_SIDE + 14}" text-anchor="middle">{100 * share:.0f}</text>'
        f'<text x="-5" y="{_SIDE * (1 - share) + 4}" text-anchor="end">{100 * share:.0f}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<svg role="img" aria-label="reliability diagram" width="{_SIDE + _LEFT + 16}" height="{_SIDE + _BELOW + 12}" '
        f'viewBox="{-_LEFT} -8 {_SIDE + _LEFT + 16} {_SIDE + _BELOW + 12}" font-size="11" fill="currentColor">'
        f'<rect width="{_SIDE}" height="{_SIDE}" fill="none" stroke="currentColor" stroke-opacity=".3"/>'
        f'{"".join(shapes)}<path d="M0 {_SIDE}L{_SIDE} 0" stroke="currentColor" stroke-dasharray="4 3"/>{ticks}'
        f'<text x="{_SIDE / 2}" y="{_SIDE + 28}" text-anchor="middle">confidence, %</text>'
        f'<text transform="translate({12 - _LEFT} {_SIDE / 2}) rotate(-90)" text-anchor="middle">right, %</text></svg>'
    )


def _in_words(row: Mapping[str, Any]) -> str:
    return (
        f"{row['pixels']:,} pixels of confidence {100 * row['from']:.0f} to {100 * row['to']:.0f} %, "
        f"{100 * row['confidence']:.1f} % on average: {100 * row['accuracy']:.1f} % right"
    )
