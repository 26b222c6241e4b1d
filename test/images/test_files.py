"""Compressed images: format strings of the wild, what PNG and JPEG may hold, and damaged files."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage

from drive_seg.images.encodings import BAYER
from drive_seg.images.messages import ImageError, decode, decode_label

# BGR, blocks of 16 x 16 so that a JPEG keeps them flat
COLORS = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (40, 90, 200)], [(255, 255, 255), (9, 9, 9)]], np.uint8)
CHART = np.repeat(np.repeat(COLORS, 16, axis=0), 16, axis=1)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()


def compressed(format_string: str, file: bytes) -> CompressedImage:
    return CompressedImage(format=format_string, data=file)


def assert_chart(image: np.ndarray, tolerance: int) -> None:
    """The chart within so many grey values, away from the blocks' borders."""
    assert image.shape == CHART.shape and image.dtype == np.uint8 and image.flags.c_contiguous
    inside = np.zeros(CHART.shape[:2], bool)
    for y in range(0, CHART.shape[0], 16):
        for x in range(0, CHART.shape[1], 16):
            inside[y + 5 : y + 11, x + 5 : x + 11] = True
    assert np.abs(image[inside].astype(int) - CHART[inside]).max() <= tolerance


def photo() -> np.ndarray:
    """A picture with some structure everywhere, so that its file has length to lose."""
    y, x = np.mgrid[0:240, 0:320]
    waves = 127 + 60 * np.sin(x / 7) + 60 * np.cos(y / 5 + x / 31)
    return np.dstack([waves, waves[::-1], waves[:, ::-1]]).astype(np.uint8)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def palette_png() -> bytes:
    """2 x 2 pixels that are indices into a palette of red and blue."""
    header = struct.pack(">IIBBBBB", 2, 2, 8, 3, 0, 0, 0)
    rows = zlib.compress(b"\x00\x00\x01" + b"\x00\x01\x00")
    palette = bytes((255, 0, 0, 0, 0, 255))
    parts = [(b"IHDR", header), (b"PLTE", palette), (b"IDAT", rows), (b"IEND", b"")]
    return SIGNATURE + b"".join(chunk(name, body) for name, body in parts)


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def exif(orientation: int, thumbnail: bytes = b"") -> bytes:
    """An EXIF segment with the orientation as its only entry, and a thumbnail behind it."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    directory = struct.pack(">H", 1) + entry + struct.pack(">I", 0)
    return segment(0xE1, b"Exif\x00\x00MM\x00*\x00\x00\x00\x08" + directory + thumbnail)


def with_segment(file: bytes, extra: bytes) -> bytes:
    return file[:2] + extra + file[2:]


JPEG_FORMATS = [
    "jpeg",
    "jpg",
    "bgr8; jpeg compressed bgr8",
    "rgb8; jpeg compressed bgr8",
    "",
    "JPEG",
    "png",
    "?",
]
PNG_FORMATS = [
    "png",
    "bgr8; png compressed bgr8",
    "rgb8; png compressed bgr8",
    "rgb8; png compressed ",
    "",
    "jpeg",
]


@pytest.mark.parametrize("format_string", JPEG_FORMATS)
def test_jpeg_of_any_format_string(format_string: str) -> None:
    assert_chart(decode(compressed(format_string, jpeg(CHART))), tolerance=4)


@pytest.mark.parametrize("format_string", PNG_FORMATS)
def test_png_of_any_format_string(format_string: str) -> None:
    np.testing.assert_array_equal(decode(compressed(format_string, png(CHART))), CHART)


@pytest.mark.parametrize("format_string", ["rgb8; png compressed rgb8", "bgr8; png compressed rgb8"])
def test_png_whose_encoder_was_given_rgb_is_turned_back(format_string: str) -> None:
    """compressed_image_transport's own subscriber swaps them likewise."""
    stored = np.ascontiguousarray(CHART[..., ::-1])
    np.testing.assert_array_equal(decode(compressed(format_string, png(stored))), CHART)


@pytest.mark.parametrize(
    ("format_string", "encode"),
    [("mono8; png compressed ", png), ("mono8; jpeg compressed mono8", jpeg), ("jpeg", jpeg), ("png", png)],
)
def test_grey_gets_three_equal_channels(format_string: str, encode) -> None:
    grey = np.full((16, 24), 130, np.uint8)
    np.testing.assert_array_equal(decode(compressed(format_string, encode(grey))), np.full((16, 24, 3), 130))


def test_alpha_is_dropped_not_blended() -> None:
    alpha = np.arange(CHART.shape[0] * CHART.shape[1], dtype=np.uint8).reshape(CHART.shape[:2])
    file = png(np.dstack([CHART, alpha]))
    np.testing.assert_array_equal(decode(compressed("bgra8; png compressed bgr8", file)), CHART)


def test_sixteen_bit_png_is_scaled_as_mono16_is() -> None:
    samples = np.array([[0, 128, 129, 257], [0x1234, 0x3412, 32896, 65535]], np.uint16)
    expected = np.array([[0, 0, 1, 1], [18, 52, 128, 255]], np.uint8)
    image = decode(compressed("mono16; png compressed ", png(samples)))
    np.testing.assert_array_equal(image, np.dstack([expected] * 3))
    color = decode(compressed("bgr16; png compressed bgr16", png(np.dstack([samples, samples // 2, samples // 4]))))
    expected = np.dstack([np.rint(samples // divisor / 257) for divisor in (1, 2, 4)])
    np.testing.assert_array_equal(color, expected.astype(np.uint8))


def test_palette_png_has_its_colors() -> None:
    expected = np.array([[(0, 0, 255), (255, 0, 0)], [(255, 0, 0), (0, 0, 255)]], np.uint8)
    np.testing.assert_array_equal(decode(compressed("png", palette_png())), expected)


def test_palette_png_is_no_label() -> None:
    with pytest.raises(ImageError, match="an 8-bit grey PNG; this one is 8-bit palette"):
        decode_label(compressed("mono8; png compressed ", palette_png()))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("encoding", BAYER)
def test_mosaic_in_a_png_gets_its_colors(encoding: str, depth: int) -> None:
    """compressed_image_transport stores Bayer images as they are."""
    raw = np.zeros(CHART.shape[:2], np.uint8)
    for y in range(raw.shape[0]):
        for x in range(raw.shape[1]):
            letter = encoding.removeprefix("bayer_")[(y % 2) * 2 + x % 2]
            raw[y, x] = CHART[y, x]["bgr".index(letter)]
    name = encoding
    if depth == 16:
        raw, name = raw.astype(np.uint16) * 257, encoding.replace("8", "16")
    assert_chart(decode(compressed(f"{name}; png compressed ", png(raw))), tolerance=0)


def test_mosaic_in_a_jpeg_is_grey() -> None:
    grey = np.full((16, 16), 77, np.uint8)
    image = decode(compressed("bayer_rggb8; jpeg compressed mono8", jpeg(grey)))
    np.testing.assert_array_equal(image, np.full((16, 16, 3), 77))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_does_not_turn_the_picture(orientation: int) -> None:
    file = with_segment(jpeg(CHART), exif(orientation))
    turned = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    assert (turned.shape != CHART.shape) == (orientation in (6, 8)), "the EXIF segment of this test is not read"
    assert_chart(decode(compressed("jpeg", file)), tolerance=4)


# damage


@pytest.mark.parametrize("read", [decode, decode_label])
def test_an_empty_message_is_refused(read) -> None:
    with pytest.raises(ImageError, match=r"holds no data \(format 'jpeg'\)"):
        read(compressed("jpeg", b""))


@pytest.mark.parametrize("read", [decode, decode_label])
@pytest.mark.parametrize(
    "content", [b"GIF89a" + bytes(40), b"BM" + bytes(60), b"II*\x00" + bytes(50), b"\xff", bytes(9)]
)
def test_other_content_is_refused(read, content: bytes) -> None:
    with pytest.raises(ImageError, match=f"neither JPEG nor PNG.*{len(content)} bytes"):
        read(compressed("jpeg", content))


@pytest.mark.parametrize(
    "format_string", ["16UC1; compressedDepth", "16UC1; compressedDepth png", "32FC1; png compressed "]
)
def test_depth_is_refused(format_string: str) -> None:
    with pytest.raises(ImageError, match="is a depth image"):
        decode(compressed(format_string, bytes(12) + png(np.zeros((4, 4), np.uint16))))


@pytest.mark.parametrize("share", [0.001, 0.03, 0.5, 0.9, 0.999])
def test_truncated_jpeg_is_noticed(share: float) -> None:
    """OpenCV 4 would return a picture whose lower part is grey."""
    file = jpeg(photo())
    with pytest.raises(ImageError, match="jpeg data is truncated|neither JPEG"):
        decode(compressed("jpeg", file[: max(3, int(len(file) * share))]))


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_jpeg_without_its_last_bytes_is_noticed(lost: int) -> None:
    file = jpeg(photo())
    with pytest.raises(ImageError, match=f"no end marker within its {len(file) - lost} bytes"):
        decode(compressed("jpeg", file[:-lost]))


def test_the_end_of_a_thumbnail_is_not_the_end_of_a_jpeg() -> None:
    file = with_segment(jpeg(photo()), exif(1, thumbnail=jpeg(CHART)))
    assert decode(compressed("jpeg", file)).shape == (240, 320, 3)
    with pytest.raises(ImageError, match="jpeg data is truncated"):
        decode(compressed("jpeg", file[: len(file) // 2]))


def test_a_progressive_jpeg_is_read() -> None:
    file = cv2.imencode(".jpg", CHART, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    assert_chart(decode(compressed("jpeg", file)), tolerance=4)


@pytest.mark.parametrize("padding", [b"\x00" * 500, b"\xff" * 7])
@pytest.mark.parametrize("encode", [jpeg, png])
def test_bytes_behind_the_end_are_ignored(encode, padding: bytes) -> None:
    """Cameras round the size of their buffers up."""
    np.testing.assert_array_equal(
        decode(compressed("", encode(CHART) + padding)), decode(compressed("", encode(CHART)))
    )


def test_jpeg_with_a_broken_segment_is_refused() -> None:
    file = bytearray(jpeg(CHART))
    file[4:6] = struct.pack(">H", 40)  # the first segment now ends within the next one
    with pytest.raises(ImageError, match="jpeg data is corrupt: no segment begins at byte 44"):
        decode(compressed("jpeg", bytes(file)))


def test_jpeg_without_tables_is_refused() -> None:
    file = jpeg(CHART)
    scan = file.index(b"\xff\xda")
    with pytest.raises(ImageError, match="jpeg data"):
        decode(compressed("jpeg", file[:2] + file[scan:]))


@pytest.mark.parametrize("read", [decode, decode_label])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
def test_truncated_png_is_noticed(read, share: float) -> None:
    file = png(photo()[..., 0])
    with pytest.raises(ImageError, match="png data is truncated"):
        read(compressed("png", file[: max(8, int(len(file) * share))]))


@pytest.mark.parametrize("read", [decode, decode_label])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_one_flipped_bit_in_a_png_is_noticed(read, share: float) -> None:
    file = bytearray(png(photo()[..., 0]))
    file[int(len(file) * share)] ^= 0x10
    with pytest.raises(ImageError, match="png data is corrupt: the checksum at byte"):
        read(compressed("png", bytes(file)))


def test_png_with_broken_pixels_and_right_checksums_is_refused() -> None:
    header = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", b"no deflate stream"), (b"IEND", b"")]
    file = SIGNATURE + b"".join(chunk(name, body) for name, body in parts)
    with pytest.raises(ImageError, match="png data"):
        decode(compressed("png", file))


def test_png_that_claims_an_absurd_size_is_refused() -> None:
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    file = SIGNATURE + b"".join(chunk(name, body) for name, body in parts)
    with pytest.raises(ImageError, match="png data"):
        decode(compressed("png", file))


def test_png_without_a_header_is_refused() -> None:
    with pytest.raises(ImageError, match="does not begin with a header"):
        decode(compressed("png", SIGNATURE + chunk(b"IEND", b"")))
