"""What becomes of a mask before planners get it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from drive_seg.images.masks import class_ids, drivable_mask, hide, read_ignore_mask
from drive_seg.labels import CAMVID11, CITYSCAPES19, LabelMap


def slow_regions(mask: np.ndarray, corners: bool) -> list[set[tuple[int, int]]]:
    """The connected regions of true pixels, by flooding."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)] + ([(1, 1), (1, -1), (-1, 1), (-1, -1)] if corners else [])
    left = {tuple(place) for place in np.argwhere(mask).tolist()}
    regions = []
    while left:
        border, region = [left.pop()], set()
        while border:
            row, column = border.pop()
            region.add((row, column))
            near = {(row + down, column + right) for down, right in steps} & left
            left -= near
            border += near
        regions.append(region)
    return regions


def slow_drivable(label: np.ndarray, classes: tuple[int, ...], smallest: float) -> np.ndarray:
    mask = np.isin(label, classes)
    for region in slow_regions(mask, corners=False):
        if len(region) < smallest:
            mask[tuple(zip(*region, strict=True))] = False
    for region in slow_regions(~mask, corners=True):
        if len(region) < smallest:
            mask[tuple(zip(*region, strict=True))] = True
    return np.where(mask & (label != 255), np.uint8(255), np.uint8(0))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("area", [0.0, 0.002, 0.004, 0.03])
def test_the_drivable_area_is_that_of_the_slow_reference(seed: int, area: float) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.choice(np.array([0, 1, 13, 255], np.uint8), (12, 16), p=[0.55, 0.2, 0.2, 0.05])
    label = coarse.repeat(3, 0).repeat(3, 1)
    noise = rng.random(label.shape) < 0.04
    label[noise] = rng.integers(0, 3, int(noise.sum()))
    mask = drivable_mask(label, (0, 2), area)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, slow_drivable(label, (0, 2), area * label.size))


def test_specks_and_holes_go_and_holes_of_void_stay() -> None:
    label = np.full((100, 100), 1, np.uint8)
    label[40:] = 0
    label[10:13, 10:13] = 0  # a speck of 9 pixels
    label[60:63, 20:23] = 13  # a hole of 9
    label[60:64, 40:44] = 13  # a hole of 16
    label[80:82, 80:82] = 255
    mask = drivable_mask(label, (0,), 0.0010)
    assert not mask[:40].any()
    expected = np.full((60, 100), 255)
    expected[20:24, 40:44] = 0
    expected[40:42, 80:82] = 0
    assert np.array_equal(mask[40:], expected)


def test_nothing_is_drivable_without_classes() -> None:
    assert not drivable_mask(np.zeros((4, 4), np.uint8), (), 0.01).any()


def test_classes_are_found_by_name_in_whatever_case() -> None:
    assert class_ids(["road", "sidewalk"], CITYSCAPES19) == (0, 1)
    assert class_ids(["road"], CAMVID11) == (3,)
    both = LabelMap("both", ("ROAD", "Road", "road"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
    assert class_ids(["Road"], both) == (1,), "as it is written, where it is"
    assert class_ids(["rOAD"], both) == (0,)
    with pytest.raises(ValueError, match=r"names 'raod', and the label map camvid11 has no such class: it has Sky, "):
        class_ids(["Road", "raod"], CAMVID11)
    assert class_ids(["Road", "raod"], CAMVID11, may_lack=True) == (3,)


def test_hide_makes_void_of_ignored_and_unsure_pixels() -> None:
    label = np.array([[1, 2], [3, 4]], np.uint8)
    confidence = np.array([[127, 128], [255, 255]], np.uint8)
    ignored = np.array([[False, False], [False, True]])
    hidden, sure = hide(label, confidence, ignored, 0.5)
    assert hidden.tolist() == [[255, 2], [3, 255]]
    assert sure.tolist() == [[127, 128], [255, 0]]
    assert label.tolist() == [[1, 2], [3, 4]], "what was given is not written to"
    assert hide(label, None, ignored, 0.0)[0].tolist() == [[1, 2], [3, 255]]
    assert hide(label, confidence, None, 0.0) == (label, confidence)
    assert hide(label, confidence, None, 1.0)[0].tolist() == [[255, 255], [3, 4]]
    assert hide(label, None, None, 0.5)[0] is label, "a frame whose confidence was not asked for in time"


def write_png(path: Path, pixels: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


def test_an_ignore_mask_is_what_is_not_black(tmp_path: Path) -> None:
    ignored = np.zeros((6, 8), bool)
    ignored[4:, 2:] = True
    grey = write_png(tmp_path / "grey.png", ignored.astype(np.uint8))
    color = np.zeros((6, 8, 3), np.uint8)
    color[ignored, 2] = 200
    transparent = np.zeros((6, 8, 4), np.uint8)
    transparent[..., 0] = 255
    transparent[ignored, 3] = 255
    deep = write_png(tmp_path / "deep.png", ignored.astype(np.uint16) * 256)
    for path in (
        grey,
        deep,
        write_png(tmp_path / "color.png", color),
        write_png(tmp_path / "transparent.png", transparent),
    ):
        assert np.array_equal(read_ignore_mask(path), ignored), path


def test_an_ignore_mask_that_cannot_be_used_is_refused_with_a_sentence(tmp_path: Path) -> None:
    good = write_png(tmp_path / "good.png", np.eye(20, dtype=np.uint8))
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:-20])
    jpeg = tmp_path / "photo.png"
    jpeg.write_bytes(cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1].tobytes())
    everything = write_png(tmp_path / "all.png", np.full((4, 4), 9, np.uint8))
    for path, reason in (
        (tmp_path / "none.png", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (cut, "cannot be used"),
        (jpeg, "is not a PNG file"),
        (everything, "leaves no pixel"),
    ):
        with pytest.raises(ValueError, match=reason):
            read_ignore_mask(path)
