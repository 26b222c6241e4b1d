"""The own car's bonnet at the lower edge of the picture, labelled void as Cityscapes does."""

from dataclasses import dataclass

import cv2
import numpy as np

from drive_seg.labels import VOID
from drive_seg.synth.canvas import Canvas

_STEPS = 24  # of the outline


@dataclass(frozen=True)
class Bonnet:
    """Outline and paint; heights are shares of the picture's height."""

    top: float  # in the middle
    drop: float  # lower by this at the sides
    tilt: float
    ridge: float  # height of two ridges
    paint: tuple[float, float, float]  # BGR albedo
    gloss: float  # share of the mirrored sky

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Bonnet":
        """Draw a bonnet that fills 2 to 16 % of the picture's height."""
        paint = rng.uniform(15, 225) + rng.uniform(-40, 40, 3) * rng.choice([0.2, 1.0])
        return cls(
            top=float(rng.uniform(0.02, 0.16)),
            drop=float(rng.uniform(0.0, 0.12)),
            tilt=float(rng.uniform(-0.015, 0.015)),
            ridge=float(rng.choice([0.0, 0.008, 0.015])),
            paint=tuple(np.clip(paint, 10, 235).tolist()),
            gloss=float(rng.uniform(0.05, 0.6)),
        )


def draw_bonnet(canvas: Canvas, bonnet: Bonnet) -> None:
    """Draw it over everything; its paint mirrors what is above the horizon."""
    height, width = canvas.label.shape
    x = np.linspace(-1.0, 1.0, _STEPS + 1)
    line = bonnet.top - bonnet.drop * x * x + bonnet.tilt * x
    line += bonnet.ridge * np.maximum(1.0 - np.abs(np.abs(x) - 0.55) / 0.2, 0.0)
    rows = height * (1.0 - line)
    edge = np.stack([(x + 1) / 2 * (width - 1), rows], axis=-1)
    points = np.concatenate([edge, [[width, height + 1.0], [-1.0, height + 1.0]]])
    first = max(int(rows.min()) - 1, 0)
    if first >= height:
        return
    mask = np.zeros((height - first, width), np.uint8)
    cv2.fillPoly(mask, [np.rint((points - [0, first]) * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    light = canvas.light
    lit = np.asarray(bonnet.paint) * (light.ambient + 0.7 * light.sun + 0.1 * light.headlights) * light.tint
    sky = cv2.resize(canvas.image[: max(height // 3, 1)], (12, len(mask)), interpolation=cv2.INTER_AREA)
    sky = cv2.resize(np.ascontiguousarray(sky[::-1]), (width, len(mask))).astype(np.float32)
    fade = np.linspace(bonnet.gloss, bonnet.gloss * 0.3, len(mask), dtype=np.float32)[:, None, None]
    paint = np.minimum(lit, 255.0).astype(np.float32)
    picture = np.empty((*mask.shape, 4), np.uint8)
    picture[..., :3] = paint * (1.0 - fade) + sky * fade
    picture[..., 3] = VOID
    cv2.copyTo(picture, mask, canvas.buffer[first:])
