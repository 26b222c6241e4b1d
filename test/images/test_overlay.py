"""Blending and the legend."""

import numpy as np

from drive_seg.images.overlay import blend, legend_panel
from drive_seg.labels import CAMVID11


def test_blend_mixes_and_leaves_void_alone():
    image = np.full((2, 2, 3), 100, np.uint8)
    color = np.zeros((2, 2, 3), np.uint8)
    color[0, 0] = (200, 0, 50)
    mixed = blend(image, color, 0.25)
    assert mixed[0, 0].tolist() == [125, 75, 88]  # 0.75 * 100 + 0.25 * colour, rounded
    assert (mixed[1] == 100).all() and (mixed[0, 1] == 100).all()
    assert (blend(image, color, 0.0) == image).all()


def test_legend_shows_every_colour_and_fits_the_height():
    panel = legend_panel(CAMVID11, 240)
    assert panel.shape[0] == 240 and panel.dtype == np.uint8
    colours = {tuple(c) for c in panel.reshape(-1, 3).tolist()}
    assert {tuple(c) for c in CAMVID11.palette("bgr")[:11].tolist()} <= colours
    some = {tuple(c) for c in legend_panel(CAMVID11, 240, only=[3]).reshape(-1, 3).tolist()}
    assert (128, 64, 128) in some and tuple(CAMVID11.palette("bgr")[8].tolist()) not in some
