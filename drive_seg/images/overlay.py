"""Pictures of a mask: blended over its image, with a legend beside it."""

from __future__ import annotations

import cv2
import numpy as np

from drive_seg.labels import LabelMap


def blend(image: np.ndarray, color: np.ndarray, alpha: float) -> np.ndarray:
    """Lay a painted mask over its image.

    Args:
        image: uint8 [H, W, 3].
        color: uint8 [H, W, 3] in the same channel order; black pixels (void) leave the image as it is.
        alpha: 0 shows the image alone, 1 the mask alone.

    Returns:
        uint8 [H, W, 3].
    """
    mixed = cv2.addWeighted(image, 1.0 - alpha, color, alpha, 0.0)
    void = cv2.inRange(color, (0, 0, 0), (0, 0, 0))
    return cv2.copyTo(image, void, mixed)


def legend_panel(label_map: LabelMap, height: int, only: list[int] | None = None) -> np.ndarray:
    """A panel naming each class beside its colour, uint8 BGR [height, W, 3].

    Args:
        label_map: the classes.
        height: of the panel in pixels; the rows share it evenly, at most 28 pixels each.
        only: the ids to show; all when left out.
    """
    ids = list(range(label_map.num_classes)) if only is None else only
    row = max(8, min(28, height // max(1, len(ids))))
    scale = row / 46.0
    font = cv2.FONT_HERSHEY_SIMPLEX
    text_width = max((cv2.getTextSize(label_map.names[i], font, scale, 1)[0][0] for i in ids), default=0)
    panel = np.full((height, row * 2 + text_width + 8, 3), 255, np.uint8)
    colors = label_map.palette("bgr")
    for line, i in enumerate(ids):
        top = line * row
        cv2.rectangle(panel, (3, top + 2), (row + 6, top + row - 3), colors[i].tolist(), cv2.FILLED)
        cv2.putText(
            panel,
            label_map.names[i],
            (row + 12, top + int(row * 0.7)),
            font,
            scale,
            (0, 0, 0),
            1,
            cv2.LINE_AA,
        )
    return panel
