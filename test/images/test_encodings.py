"""Raw images of every encoding against charts of flat colours, encoded by slow, obvious loops."""

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import Image

from drive_seg.images.encodings import PACKED, SEMI_PLANAR, SUPPORTED, WHOLE_ROWS, WIDE, sixteen_to_eight_bit
from drive_seg.images.messages import ImageError, decode

# BGR. Primaries find swapped channels, the mixed ones find swapped chroma and wrong scaling.
PATCHES = [
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)],
    [(40, 90, 200), (200, 140, 30), (128, 128, 128), (0, 0, 0)],
]
SIDE = 12
FILLER = 0xAB  # in the padding, so that a sheared row shows
PADDINGS = [0, 1, 5, 64]


def color_chart() -> np.ndarray:
    return np.repeat(np.repeat(np.array(PATCHES, np.uint8), SIDE, axis=0), SIDE, axis=1)


def assert_chart(image: np.ndarray, tolerance: int) -> None:
    """Every patch has its colour; borders, where neighbours mix, are left out."""
    assert image.shape == color_chart().shape
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    for row, colors in enumerate(PATCHES):
        for column, color in enumerate(colors):
            top, left = row * SIDE + 3, column * SIDE + 3
            inside = image[top : top + SIDE - 6, left : left + SIDE - 6].astype(int)
            assert np.abs(inside - color).max() <= tolerance, (row, column, inside[0, 0].tolist(), color)


def message(encoding: str, rows: np.ndarray, width: int, padding: int = 0, **fields) -> Image:
    """An Image of ``rows`` (uint8 [rows, bytes]) with so many bytes of padding behind each row."""
    padded = np.full((rows.shape[0], rows.shape[1] + padding), FILLER, np.uint8)
    padded[:, : rows.shape[1]] = rows
    values = {"height": rows.shape[0], "width": width, "step": padded.shape[1], "data": padded.tobytes()}
    return Image(encoding=encoding, **{**values, **fields})


def yuv(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """BT.601, limited range, by the book."""
    blue, green, red = color
    luma = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    u = 128 + (-37.797 * red - 74.203 * green + 112.0 * blue) / 255
    v = 128 + (112.0 * red - 93.786 * green - 18.214 * blue) / 255
    return round(luma), round(u), round(v)


def mosaic(pattern: str) -> np.ndarray:
    """The chart through a colour filter whose upper left 2 x 2 pixels are ``pattern``, row by row."""
    chart = color_chart()
    height, width = chart.shape[:2]
    raw = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            letter = pattern[(y % 2) * 2 + x % 2]
            raw[y, x] = chart[y, x]["bgr".index(letter)]
    return raw


def packed_yuv(order: str) -> np.ndarray:
    """The chart as 4:2:2 with the four bytes of two pixels in ``order``, for example ``"uyvy"``."""
    chart = color_chart()
    height, width = chart.shape[:2]
    raw = np.zeros((height, width * 2), np.uint8)
    for y in range(height):
        for x in range(0, width, 2):
            luma, u, v = yuv(tuple(chart[y, x].tolist()))
            for i, letter in enumerate(order):
                raw[y, x * 2 + i] = {"y": luma, "u": u, "v": v}[letter]
    return raw


def semi_planar(order: str) -> np.ndarray:
    """The chart as 4:2:0: the luma rows, then half as many rows of chroma pairs in ``order``."""
    chart = color_chart()
    height, width = chart.shape[:2]
    raw = np.zeros((height + height // 2, width), np.uint8)
    for y in range(height):
        for x in range(width):
            luma, u, v = yuv(tuple(chart[y, x].tolist()))
            raw[y, x] = luma
            if y % 2 == 0 and x % 2 == 0:
                pair = {"u": u, "v": v}
                raw[height + y // 2, x : x + 2] = pair[order[0]], pair[order[1]]
    return raw


def whole_rows(encoding: str, padding: int) -> np.ndarray:
    """The chart as rows of luma with padding, then chroma with its share of the padding."""
    chart = color_chart()
    planes = np.array([[yuv(tuple(pixel)) for pixel in row] for row in chart.tolist()], np.uint8)
    luma, u, v = planes[..., 0], planes[..., 1], planes[..., 2]
    if encoding == "nv24":
        chroma = [(np.dstack([u, v]).reshape(len(chart), -1), 2 * padding)]
    else:
        chroma = [(u[:, ::2], padding // 2), (v[:, ::2], padding // 2)]
    parts = [np.pad(plane, ((0, 0), (0, more)), constant_values=FILLER) for plane, more in [(luma, padding), *chroma]]
    return np.concatenate([part.reshape(-1) for part in parts])


def row_bytes(encoding: str, width: int) -> int:
    if encoding in WIDE:
        return 2 * row_bytes(WIDE[encoding], width)
    return width * PACKED.get(encoding, (1,))[0]


def rows_of(encoding: str, height: int) -> int:
    """How many rows of ``step`` bytes an image has."""
    return height * 3 // 2 if encoding in SEMI_PLANAR else height * WHOLE_ROWS.get(encoding, 1)


WIDTH, HEIGHT = 4 * SIDE, 2 * SIDE


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("bgr8", "bgr"), ("8UC3", "bgr"), ("rgb8", "rgb"), ("bgra8", "bgra"), ("rgba8", "rgba")],
)
def test_color(encoding: str, order: str, padding: int) -> None:
    chart = color_chart()
    alpha = np.arange(WIDTH * HEIGHT, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    planes = {"b": chart[..., 0], "g": chart[..., 1], "r": chart[..., 2], "a": alpha}
    rows = np.dstack([planes[letter] for letter in order]).reshape(HEIGHT, -1)
    np.testing.assert_array_equal(decode(message(encoding, rows, WIDTH, padding)), chart)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_gets_three_equal_channels(encoding: str, padding: int) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image = decode(message(encoding, grey, 32, padding))
    np.testing.assert_array_equal(image, np.dstack([grey, grey, grey]))
    assert image.flags.c_contiguous


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("is_bigendian", [0, 1])
def test_mono16_is_scaled_to_eight_bit(is_bigendian: int, padding: int) -> None:
    samples = np.array([[0, 128, 129, 257], [0x1234, 0x3412, 32896, 65535]])
    rows = samples.astype(">u2" if is_bigendian else "<u2").view(np.uint8)
    image = decode(message("mono16", rows, 4, padding, is_bigendian=is_bigendian))
    # 0x1234 / 257 = 18.1 and 0x3412 / 257 = 51.9: the wrong byte order would swap 18 and 52.
    expected = np.array([[0, 0, 1, 1], [18, 52, 128, 255]], np.uint8)
    np.testing.assert_array_equal(image, np.dstack([expected] * 3))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("is_bigendian", [0, 1])
@pytest.mark.parametrize("order", ["rgb", "bgr", "rgba", "bgra"])
def test_sixteen_bit_colors(order: str, is_bigendian: int, padding: int) -> None:
    chart = color_chart().astype(np.uint16) * 257
    planes = {"b": chart[..., 0], "g": chart[..., 1], "r": chart[..., 2], "a": chart[..., 0]}
    samples = np.dstack([planes[letter] for letter in order]).astype(">u2" if is_bigendian else "<u2")
    rows = samples.view(np.uint8).reshape(HEIGHT, -1)
    image = decode(message(f"{order}16", rows, WIDTH, padding, is_bigendian=is_bigendian))
    np.testing.assert_array_equal(image, color_chart())
    assert image.flags.c_contiguous


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_sixteen_bit_bayer_of_sensors_that_fill_fewer(pattern: str, padding: int, bits: int) -> None:
    samples = np.rint(mosaic(pattern) / 255 * (2**bits - 1)).astype("<u2")
    image = decode(message(f"bayer_{pattern}16", samples.view(np.uint8), WIDTH, padding), bits)
    assert_chart(image, tolerance=0)


def test_samples_beyond_the_sensors_bits_are_white() -> None:
    samples = np.array([[0, 2048, 4095, 4096, 65535]], "<u2")
    image = decode(message("mono16", samples.view(np.uint8), 5), 12)
    assert image[0, :, 0].tolist() == [0, 128, 255, 255, 255]


def test_sixteen_bit_samples_are_rounded_over_the_whole_range() -> None:
    samples = np.arange(65536, dtype=np.uint16)[np.newaxis]
    np.testing.assert_array_equal(sixteen_to_eight_bit(samples), np.rint(samples / 257).astype(np.uint8))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer(pattern: str, padding: int) -> None:
    assert_chart(decode(message(f"bayer_{pattern}8", mosaic(pattern), WIDTH, padding)), tolerance=0)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
def test_packed_yuv(encoding: str, order: str, padding: int) -> None:
    assert_chart(decode(message(encoding, packed_yuv(order), WIDTH, padding)), tolerance=3)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("encoding", "order"), [("nv12", "uv"), ("nv21", "vu")])
@pytest.mark.parametrize("height", [HEIGHT, HEIGHT * 3 // 2], ids=["picture height", "buffer rows"])
def test_semi_planar_yuv(encoding: str, order: str, padding: int, height: int) -> None:
    msg = message(encoding, semi_planar(order), WIDTH, padding, height=height)
    assert_chart(decode(msg), tolerance=3)


@pytest.mark.parametrize("padding", [0, 2, 64])
@pytest.mark.parametrize("encoding", ["nv24", "yuv422p"])
def test_yuv_whose_chroma_has_as_many_rows(encoding: str, padding: int) -> None:
    data = whole_rows(encoding, padding)
    msg = Image(encoding=encoding, height=HEIGHT, width=WIDTH, step=WIDTH + padding, data=data.tobytes())
    assert_chart(decode(msg), tolerance=3)


def test_every_encoding_is_covered_by_a_chart() -> None:
    covered = {
        "bgr8",
        "8UC3",
        "rgb8",
        "bgra8",
        "rgba8",
        "mono8",
        "8UC1",
        "mono16",
        "yuv422",
        "uyvy",
        "yuv422_yuy2",
    }
    covered |= {"yuyv", "nv12", "nv21", "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"}
    covered |= {"rgb16", "bgr16", "rgba16", "bgra16", "nv24", "yuv422p"}
    covered |= {"bayer_rggb16", "bayer_bggr16", "bayer_gbrg16", "bayer_grbg16"}
    assert set(SUPPORTED) == covered


@pytest.mark.parametrize("encoding", SUPPORTED)
def test_trailing_data_is_ignored(encoding: str) -> None:
    rows = np.full((rows_of(encoding, 24), row_bytes(encoding, 12)), 200, np.uint8)
    exact = message(encoding, rows, width=12, height=24)
    more = message(encoding, np.vstack([rows, rows[:7]]), width=12, height=24)
    np.testing.assert_array_equal(decode(exact), decode(more))


def test_unpadded_bgr8_is_a_view_of_the_message() -> None:
    msg = message("bgr8", color_chart().reshape(HEIGHT, -1), WIDTH)
    assert np.shares_memory(decode(msg), np.frombuffer(msg.data, np.uint8))


@pytest.mark.parametrize("padding", [1, 3])
def test_padded_bgr8_is_an_array_of_its_own(padding: int) -> None:
    msg = message("bgr8", color_chart().reshape(HEIGHT, -1), WIDTH, padding)
    image = decode(msg)
    assert image.flags.c_contiguous
    assert not np.shares_memory(image, np.frombuffer(msg.data, np.uint8))


@pytest.mark.parametrize("data_type", [bytes, list, np.ndarray])
def test_other_holders_of_the_bytes(data_type: type) -> None:
    """Messages read by rosbags hold an ndarray, messages by hand may hold bytes; they may be read-only."""

    class Message:
        encoding, is_bigendian, height, width, step = "rgb8", 0, HEIGHT, WIDTH, WIDTH * 3
        rgb = cv2.cvtColor(color_chart(), cv2.COLOR_BGR2RGB)
        data = {bytes: rgb.tobytes(), list: rgb.ravel().tolist(), np.ndarray: rgb.ravel()}[data_type]

    np.testing.assert_array_equal(decode(Message()), color_chart())


@pytest.mark.parametrize("encoding", SUPPORTED)
@pytest.mark.parametrize(("height", "width"), [(0, 8), (8, 0), (0, 0)])
def test_zero_size_is_refused(encoding: str, height: int, width: int) -> None:
    msg = Image(encoding=encoding, height=height, width=width, step=64, data=bytes(64 * 12))
    with pytest.raises(ImageError, match=rf"{width} x {height} pixels"):
        decode(msg)


@pytest.mark.parametrize("encoding", SUPPORTED)
def test_data_one_byte_too_short_is_refused(encoding: str) -> None:
    step = 64
    needed = step * rows_of(encoding, 8)
    msg = Image(encoding=encoding, height=8, width=8, step=step, data=bytes(needed))
    assert decode(msg).shape == (8, 8, 3)
    msg.data = bytes(needed - 1)
    with pytest.raises(ImageError, match=rf"{needed - 1} bytes.*{needed}"):
        decode(msg)


@pytest.mark.parametrize("encoding", SUPPORTED)
def test_step_one_byte_too_short_is_refused(encoding: str) -> None:
    row = row_bytes(encoding, 8)
    msg = Image(encoding=encoding, height=8, width=8, step=row - 1, data=bytes(row * 24))
    with pytest.raises(ImageError, match=rf"step is {row - 1} bytes.*needs {row}"):
        decode(msg)


@pytest.mark.parametrize(
    ("encoding", "height", "width"),
    [
        ("uyvy", 8, 7),
        ("yuyv", 8, 7),
        ("nv12", 8, 7),
        ("nv21", 7, 8),
        ("bayer_rggb8", 2, 8),
        ("bayer_grbg8", 8, 2),
        ("bayer_grbg16", 8, 2),
        ("yuv422p", 8, 7),
    ],
)
def test_sizes_without_whole_color_cells_are_refused(encoding: str, height: int, width: int) -> None:
    msg = Image(encoding=encoding, height=height, width=width, step=32, data=bytes(32 * 24))
    with pytest.raises(ImageError, match=encoding):
        decode(msg)


def test_semi_planar_that_counts_both_planes_in_its_step_is_refused() -> None:
    """Its data would also fit a picture of two thirds of the height: no guess is made."""
    msg = Image(encoding="nv12", height=24, width=16, step=32, data=bytes(24 * 32))
    with pytest.raises(ImageError, match="data holds 768 bytes"):
        decode(msg)


def test_an_empty_message_is_refused() -> None:
    with pytest.raises(ImageError, match="data holds 0 bytes"):
        decode(Image(encoding="bgr8", height=2, width=2, step=6))
