"""Cut-out pictures of trees, bushes and hedges."""

import cv2
import numpy as np

from drive_seg.synth.canvas import Texture

GREENS = np.array(
    [(52, 92, 80), (50, 80, 68), (58, 104, 98), (62, 90, 68), (56, 98, 106), (70, 92, 84), (76, 96, 98)],
    np.float32,
)
AUTUMN = np.array([(62, 112, 150), (58, 90, 132), (70, 118, 142), (56, 92, 94), (58, 94, 82)], np.float32)


def tree(rng: np.random.Generator, noise: np.ndarray, palette: np.ndarray, kind: str) -> Texture:
    """Tree 256 x 200 texels, trunk at the bottom middle. kind: "round", "tall", "conifer" or "bare"."""
    height, width = 256, 200
    picture = np.zeros((height, width, 4), np.uint8)
    bark = np.array([52, 62, 76]) * rng.uniform(0.6, 1.3)
    crown_low = {"round": 0.66, "tall": 0.74, "conifer": 0.86, "bare": 0.6}[kind]
    trunk = int(height * crown_low)
    lean = int(rng.integers(-6, 7))
    cv2.fillPoly(
        picture,
        [
            np.array(
                [
                    [width // 2 - 6, height],
                    [width // 2 + 6, height],
                    [width // 2 + 4 + lean, trunk - 40],
                    [width // 2 - 4 + lean, trunk - 40],
                ]
            )
        ],
        (*bark.tolist(), 255),
    )
    _branches(picture, rng, (width // 2 + lean, trunk), -np.pi / 2, 62 if kind == "bare" else 46, 5, bark)
    if kind == "bare":
        return Texture(picture)
    base = palette[rng.integers(len(palette))] * rng.uniform(0.8, 1.2)
    for x, y, size, lift in _clusters(rng, kind, width, height, trunk):
        shade = (0.42 + 1.0 * lift) * rng.uniform(0.75, 1.25)
        cv2.circle(picture, (int(x), int(y)), int(size), (*np.clip(base * shade, 0, 255).tolist(), 255), -1)
    stem = picture[trunk + 12 :].copy()
    streaks = 1.0 + 0.28 * rng.standard_normal((1, width, 1)) + 0.12 * rng.standard_normal((len(stem), 1, 1))
    stem[..., :3] = np.clip(stem[..., :3] * streaks, 0, 255)
    leafy = _leafy(picture, rng, noise, 0.62)
    leafy[trunk + 12 :] = stem
    return Texture(leafy)


def bush(rng: np.random.Generator, noise: np.ndarray, palette: np.ndarray) -> Texture:
    """Bush 96 x 160 texels."""
    picture = np.zeros((96, 160, 4), np.uint8)
    base = palette[rng.integers(len(palette))] * rng.uniform(0.75, 1.15)
    for _ in range(150):
        angle, reach = rng.uniform(0, np.pi), np.sqrt(rng.uniform(0, 1))
        x, y = 80 + 66 * reach * np.cos(angle), 94 - 76 * reach * np.sin(angle)
        shade = (1.1 - 0.5 * y / 96) * rng.uniform(0.8, 1.15)
        cv2.circle(
            picture,
            (int(x), int(y)),
            int(rng.integers(5, 13)),
            (*np.clip(base * shade, 0, 255).tolist(), 255),
            -1,
        )
    return Texture(_leafy(picture, rng, noise, 0.3))


def hedge(rng: np.random.Generator, noise: np.ndarray, palette: np.ndarray) -> Texture:
    """Closed hedge face 96 x 256 texels."""
    picture = np.zeros((96, 256, 4), np.uint8)
    base = palette[rng.integers(len(palette))] * rng.uniform(0.7, 1.05)
    picture[..., :3] = np.clip(base * 0.7, 0, 255)
    picture[..., 3] = 255
    for _ in range(420):
        x, y = rng.integers(0, 256), rng.integers(0, 96)
        shade = (1.15 - 0.5 * y / 96) * rng.uniform(0.7, 1.2)
        cv2.circle(
            picture,
            (int(x), int(y)),
            int(rng.integers(2, 7)),
            (*np.clip(base * shade, 0, 255).tolist(), 255),
            -1,
        )
    return Texture(_leafy(picture, rng, noise, 0.0))


def thicket(rng: np.random.Generator, noise: np.ndarray, palette: np.ndarray) -> Texture:
    """Edge of a wood 192 x 256 texels: crowns with a ragged top, trunks and darkness below."""
    height, width = 192, 256
    picture = np.zeros((height, width, 4), np.uint8)
    base = palette[rng.integers(len(palette))] * rng.uniform(0.6, 1.15)
    top = np.interp(np.arange(width), np.arange(0, width + 16, 16), rng.uniform(6, 52, width // 16 + 1))
    below = np.arange(height)[:, None] > top + 10
    picture[below] = (*(base * 0.45), 255)
    for at in rng.integers(0, width, int(rng.integers(0, 14))):
        tone = np.array([60, 68, 78]) * rng.uniform(0.5, 1.4)
        cv2.line(picture, (int(at), height), (int(at + rng.integers(-8, 9)), 60), (*tone.tolist(), 255), 3)
    low = rng.uniform(0.55, 1.0)  # crowns reach down to this share of the height
    for _ in range(520):
        x = rng.integers(0, width)
        y = top[x] + (height * low - top[x]) * rng.random() ** 0.8
        shade = (1.3 - 0.65 * y / height) * rng.uniform(0.6, 1.35)
        color = np.clip(base * shade * rng.uniform(0.94, 1.06, 3), 0, 255)
        cv2.circle(picture, (int(x), int(y)), int(rng.integers(3, 13)), (*color.tolist(), 255), -1)
    return Texture(_leafy(picture, rng, noise, 0.25))


def _branches(picture, rng, start, angle: float, length: float, depth: int, color) -> None:
    if depth == 0 or length < 5:
        return
    end = (int(start[0] + length * np.cos(angle)), int(start[1] + length * np.sin(angle)))
    cv2.line(picture, start, end, (*color.tolist(), 255), max(depth - 1, 1))
    for _ in range(3):
        _branches(
            picture,
            rng,
            end,
            angle + rng.uniform(-0.75, 0.75),
            length * rng.uniform(0.55, 0.85),
            depth - 1,
            color,
        )


def _clusters(rng, kind: str, width: int, height: int, trunk: int):
    """Yield leaf blobs (x, y, radius, height share), dark inner ones first."""
    count = 420
    if kind == "conifer":
        for lift in np.sort(rng.uniform(0, 1, count)):
            spread = 0.36 * width * (1.0 - lift) + 4
            x = width / 2 + spread * rng.uniform(-1, 1)
            yield x, trunk * (1 - lift) + 8, rng.integers(3, 10), 0.3 + 0.5 * lift * rng.uniform(0.6, 1)
        return
    wide = 0.40 if kind == "round" else 0.26
    centres = rng.uniform(-1, 1, (9, 2)) * [wide * width * 0.62, trunk * 0.30] + [width / 2, trunk * 0.52]
    for index in range(count):
        x0, y0 = centres[rng.integers(len(centres))]
        angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1))
        x = x0 + reach * np.cos(angle) * width * wide * 0.42
        y = y0 + reach * np.sin(angle) * trunk * 0.24
        lift = 1.0 - np.clip(y / trunk, 0, 1)
        yield x, np.clip(y, 6, height), rng.integers(4, 12), lift * (0.35 + 0.65 * index / count)


def _leafy(picture: np.ndarray, rng, noise: np.ndarray, ragged: float) -> np.ndarray:
    """Mottle the leaves and fray the outline."""
    height, width = picture.shape[:2]
    top, left = rng.integers(0, noise.shape[0], 2)
    rows, columns = (np.arange(height) + top) % noise.shape[0], (np.arange(width) + left) % noise.shape[1]
    grain = noise[rows][:, columns] + 0.5 * rng.standard_normal((height, width)).astype(np.float32)
    picture[..., :3] = np.clip(picture[..., :3] * (1.0 + 0.5 * grain)[..., None], 0, 255)
    if ragged > 0:
        soft = cv2.GaussianBlur(picture[..., 3], (0, 0), 3.0).astype(np.float32) / 255.0
        picture[..., 3] = np.where(soft + ragged * 0.6 * grain > 0.5, picture[..., 3], 0)
        picture[..., 3] = np.where(picture[..., 3] > 0, 255, 0)
    return picture
