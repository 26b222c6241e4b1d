"""Label files give the numbers they store; what is not whole is refused."""

import cv2
import numpy as np
import pytest

from drive_seg.datasets.label_files import read_colors, read_ids, read_picture


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("palette", [True, False])
def test_stored_numbers_survive_palettes_and_few_bits(make, tmp_path, depth, palette):
    ids = np.random.default_rng(depth).integers(0, 2**depth, (5, 11), dtype=np.uint8)
    ids[0, 0] = 2**depth - 1
    make.packed(tmp_path / "label.png", ids, depth, palette)
    np.testing.assert_array_equal(read_ids(tmp_path / "label.png"), ids)


def test_other_label_files_are_refused(make, tmp_path):
    make.picture(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match="8-bit RGB PNG, but a label image must be one 8-bit channel"):
        read_ids(tmp_path / "rgb.png")
    make.array(tmp_path / "deep.png", np.zeros((4, 4), np.uint16))
    with pytest.raises(ValueError, match="16-bit grey PNG"):
        read_ids(tmp_path / "deep.png")
    make.picture(tmp_path / "lossy.jpg")
    for read in (read_ids, read_colors):
        with pytest.raises(ValueError, match="must be a PNG file"):
            read(tmp_path / "lossy.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_half_a_file_is_no_picture(make, tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    make.picture(path, size=(64, 64))
    assert read_picture(path).shape == (64, 64, 3)
    path.write_bytes(path.read_bytes()[:-400])
    assert suffix == "png" or cv2.imread(str(path)) is not None  # OpenCV alone would fill it with grey
    with pytest.raises(ValueError, match="cannot be read: the .* data is truncated"):
        read_picture(path)


def test_empty_missing_and_foreign_files_are_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match="it is empty"):
        read_picture(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="cannot be read: it is not an image that OpenCV can read"):
        read_picture(tmp_path / "text.png")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_picture(tmp_path / "gone.png")
