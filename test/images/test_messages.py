"""Labels, messages built from arrays, cv_bridge as fallback and as oracle, and life without rclpy."""

import array
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from drive_seg.images import foreign_encodings
from drive_seg.images.encodings import BAYER
from drive_seg.images.messages import ImageError, decode, decode_label, to_compressed_png, to_image

IDS = np.array([[0, 1, 2, 18], [255, 7, 7, 11], [3, 3, 254, 0]], np.uint8)
COLORS = np.arange(3 * 4 * 3, dtype=np.uint8).reshape(3, 4, 3) * 7
HEADER = Header(stamp=Time(sec=-2, nanosec=999_999_999), frame_id="camera/ö optical")

ARRAYS = [("mono8", IDS), ("bgr8", COLORS), ("rgb8", COLORS)]


# labels


@pytest.mark.parametrize("padding", [0, 1, 13])
@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_label_of_an_image(encoding: str, padding: int) -> None:
    rows = np.pad(IDS, ((0, 0), (0, padding)), constant_values=77)
    msg = Image(encoding=encoding, height=3, width=4, step=4 + padding, data=rows.tobytes())
    label = decode_label(msg)
    np.testing.assert_array_equal(label, IDS)
    assert label.dtype == np.uint8 and label.flags.c_contiguous


@pytest.mark.parametrize("encoding", ["bgr8", "mono16", "16UC1", ""])
def test_label_in_another_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(ImageError, match=rf"mono8 or 8UC1; this one is '{encoding}'"):
        decode_label(Image(encoding=encoding, height=2, width=2, step=12, data=bytes(24)))


def test_label_with_too_little_data_is_refused() -> None:
    with pytest.raises(ImageError, match="data holds 11 bytes, but 3 rows of 4 bytes"):
        decode_label(Image(encoding="mono8", height=3, width=4, step=4, data=bytes(11)))


def test_label_of_a_png() -> None:
    label = decode_label(to_compressed_png(IDS, HEADER, "mono8"))
    np.testing.assert_array_equal(label, IDS)
    assert label.dtype == np.uint8 and label.flags.c_contiguous


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (COLORS, "8-bit RGB"),
        (np.dstack([COLORS, IDS]), "8-bit RGBA"),
        (IDS.astype(np.uint16), "16-bit grey"),
    ],
)
def test_label_of_another_png_is_refused(pixels: np.ndarray, reason: str) -> None:
    file = cv2.imencode(".png", pixels)[1]
    with pytest.raises(ImageError, match=f"an 8-bit grey PNG; this one is {reason}$"):
        decode_label(CompressedImage(format="mono8; png compressed ", data=file.tobytes()))


@pytest.mark.parametrize("format_string", ["jpeg", "mono8; png compressed "])
def test_label_of_a_jpeg_is_refused_whatever_it_calls_itself(format_string: str) -> None:
    file = cv2.imencode(".jpg", IDS)[1]
    with pytest.raises(ImageError, match="lossless: JPEG changes the class ids"):
        decode_label(CompressedImage(format=format_string, data=file.tobytes()))


# messages built from arrays


@pytest.mark.parametrize(("encoding", "pixels"), ARRAYS)
def test_image_is_tightly_packed(encoding: str, pixels: np.ndarray) -> None:
    msg = to_image(pixels, HEADER, encoding)
    assert (msg.encoding, msg.height, msg.width, msg.is_bigendian) == (encoding, 3, 4, 0)
    assert msg.step == pixels.nbytes // 3
    assert isinstance(msg.data, array.array) and msg.data.typecode == "B"
    assert msg.data.tobytes() == pixels.tobytes()


@pytest.mark.parametrize("build", [to_image, to_compressed_png])
def test_header_is_copied_bit_for_bit(build) -> None:
    header = Header(stamp=Time(sec=-2, nanosec=999_999_999), frame_id="camera/ö optical")
    msg = build(IDS, header, "mono8")
    assert msg.header == HEADER
    header.stamp.sec, header.frame_id = 5, "other"
    assert msg.header == HEADER


@pytest.mark.parametrize(
    "pixels",
    [COLORS[::-1], COLORS[:, 1:3], COLORS[..., ::-1], np.asfortranarray(COLORS), COLORS.transpose(1, 0, 2)],
    ids=["flipped", "cropped", "channels reversed", "Fortran order", "transposed"],
)
def test_non_contiguous_arrays(pixels: np.ndarray) -> None:
    assert not pixels.flags.c_contiguous
    msg = to_image(pixels, HEADER, "bgr8")
    assert msg.data.tobytes() == pixels.tobytes()
    np.testing.assert_array_equal(decode(msg), pixels)
    np.testing.assert_array_equal(decode(to_compressed_png(pixels, HEADER, "bgr8")), pixels)


@pytest.mark.parametrize(("build", "kind"), [(to_image, Image), (to_compressed_png, CompressedImage)])
def test_data_never_takes_the_slow_road(build, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making the field from anything but bytes or an array.array reads item by item, 2600 times slower."""
    sources = []

    class Recorder(array.array):
        def __new__(cls, typecode: str, source=()):
            sources.append(source)
            return super().__new__(cls, typecode, source)

    # The constructor and the setter of the message both make the field by this name.
    recorder = types.SimpleNamespace(array=Recorder)
    monkeypatch.setattr(sys.modules[kind.__module__], "array", recorder)
    monkeypatch.setattr("drive_seg.images.messages.array", recorder, raising=False)
    pixels = np.full((240, 320, 3), 9, np.uint8)
    msg = build(pixels, HEADER, "bgr8")
    assert isinstance(msg.data, Recorder) and len(msg.data) > 0
    assert all(isinstance(source, (bytes, array.array)) or len(source) == 0 for source in sources)
    np.testing.assert_array_equal(decode(msg), pixels)


@pytest.mark.parametrize(
    ("encoding", "format_string"),
    [
        ("mono8", "mono8; png compressed "),
        ("bgr8", "bgr8; png compressed bgr8"),
        ("rgb8", "rgb8; png compressed bgr8"),
    ],
)
def test_compressed_png_holds_true_colors(encoding: str, format_string: str) -> None:
    pixels = dict(ARRAYS)[encoding]
    msg = to_compressed_png(pixels, HEADER, encoding)
    assert msg.format == format_string
    assert isinstance(msg.data, array.array) and msg.data.typecode == "B"
    # As any picture viewer reads the file, and as decode does.
    shown = cv2.imdecode(np.frombuffer(msg.data, np.uint8), cv2.IMREAD_COLOR)
    expected = {"mono8": np.dstack([IDS] * 3), "bgr8": COLORS, "rgb8": COLORS[..., ::-1]}[encoding]
    np.testing.assert_array_equal(shown, expected)
    np.testing.assert_array_equal(decode(msg), expected)


@pytest.mark.parametrize("build", [to_image, to_compressed_png])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("mono8", COLORS),
        ("mono8", IDS.astype(np.int64)),
        ("bgr8", IDS),
        ("rgb8", np.dstack([COLORS, IDS])),
        ("bgr8", COLORS.astype(np.float32)),
        ("mono8", np.zeros((0, 4), np.uint8)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(build, encoding: str, pixels: np.ndarray) -> None:
    with pytest.raises(ImageError, match=f"{encoding} needs uint8.*, not {pixels.dtype} of shape"):
        build(pixels, HEADER, encoding)


@pytest.mark.parametrize("build", [to_image, to_compressed_png])
def test_writing_another_encoding_is_refused(build) -> None:
    with pytest.raises(ImageError, match="mono8, bgr8, rgb8; 'nv12' is none of them"):
        build(IDS, HEADER, "nv12")


# encodings outside the table


WORKING = """
import types
import numpy as np

class CvBridge:
    def encoding_to_dtype_with_channels(self, encoding):
        if encoding != "grb16":
            raise RuntimeError(f"Unrecognized image encoding [{encoding}]")
        return "uint16", 3

    def imgmsg_to_cv2(self, msg, desired_encoding):
        assert desired_encoding == "bgr8"
        if msg.encoding == "rgb8":  # the trial
            return np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.width, 3)[..., ::-1]
        assert (msg.encoding, msg.step, len(msg.data)) == ("grb16", 6 * msg.width, 6 * msg.width * msg.height)
        samples = np.frombuffer(msg.data, ">u2" if msg.is_bigendian else "<u2")
        return (samples.reshape(msg.height, msg.width, 3) // 257).astype(np.uint8)[..., [2, 0, 1]]
"""
DYING = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"


@pytest.fixture
def install_cv_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts a stand-in of this source before the cv_bridge that may be installed."""

    def install(source: str) -> None:
        (tmp_path / "cv_bridge.py").write_text(source)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    foreign_encodings.why_unusable.cache_clear()
    yield install
    foreign_encodings.why_unusable.cache_clear()
    sys.modules.pop("cv_bridge", None)


def foreign(encoding: str = "grb16", padding: int = 0, is_bigendian: int = 0) -> Image:
    """COLORS with its channels in another order, 16 bits each."""
    height, width = COLORS.shape[:2]
    samples = COLORS[..., [1, 2, 0]].astype(np.uint16) * 257
    samples = samples.astype(">u2" if is_bigendian else "<u2", order="C")
    rows = np.pad(samples.view(np.uint8).reshape(height, -1), ((0, 0), (0, padding)), constant_values=0xAB)
    step = rows.shape[1]
    return Image(
        encoding=encoding, height=height, width=width, step=step, is_bigendian=is_bigendian, data=rows.tobytes()
    )


def test_unknown_encoding_without_cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    with pytest.raises(ImageError, match=r"^encoding 'foo8' is not supported \(supported: bgr8, .*, nv21, .*;"):
        decode(foreign("foo8"))


@pytest.mark.parametrize("padding", [0, 1, 6, 7])
@pytest.mark.parametrize("is_bigendian", [0, 1])
def test_unknown_encoding_goes_to_cv_bridge_without_padding(
    install_cv_bridge: Callable[[str], None], padding: int, is_bigendian: int
) -> None:
    install_cv_bridge(WORKING)
    image = decode(foreign(padding=padding, is_bigendian=is_bigendian))
    np.testing.assert_array_equal(image, COLORS)
    assert image.flags.c_contiguous


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (DYING, "a trial was ended by SIGSEGV"),
        ("import numpy.no_such_part", "ModuleNotFoundError: No module named 'numpy.no_such_part'"),
        (WORKING.replace("::-1", ":"), "AssertionError"),
    ],
    ids=["dies", "cannot be imported", "wrong"],
)
def test_a_cv_bridge_that_does_not_work_costs_the_frame_alone(
    install_cv_bridge: Callable[[str], None], source: str, reason: str
) -> None:
    install_cv_bridge(source)
    beginning = f"encoding 'grb16' is not supported, and cv_bridge does not work with the NumPy {np.__version__}"
    for _ in range(2):
        with pytest.raises(ImageError, match=f"^{re.escape(beginning)} that is installed: {reason}"):
            decode(foreign())


@pytest.mark.parametrize("shape", ["(3, 4), np.uint8", "(3, 4, 3)"])
def test_what_cv_bridge_makes_no_picture_of_is_refused(install_cv_bridge: Callable[[str], None], shape: str) -> None:
    install_cv_bridge(WORKING.replace("return (samples", f"return np.zeros({shape}) if 1 else (samples"))
    with pytest.raises(ImageError, match="encoding 'grb16' is not supported, and cv_bridge made"):
        decode(foreign())
    with pytest.raises(ImageError, match=r"cv_bridge cannot convert it: Unrecognized image encoding \[foo\]"):
        decode(foreign("foo"))


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "8UC2", "16UC3", "8UC4", "64FC3", "32SC1", "8SC1"])
def test_numbers_without_colours_are_refused_without_cv_bridge(
    install_cv_bridge: Callable[[str], None], encoding: str
) -> None:
    install_cv_bridge(DYING)
    with pytest.raises(ImageError, match=f"^encoding '{encoding}' is not supported: it says what numbers there are"):
        decode(foreign(encoding))
    assert "cv_bridge" not in sys.modules


def imported_cv_bridge() -> types.ModuleType:
    """The real one; its compiled half is often built for another NumPy than the one that torch brings."""
    reason = "the oracle, cv_bridge, is not installed or cannot be loaded"
    try:
        import cv_bridge.boost.cv_bridge_boost
    except (ImportError, AttributeError) as error:
        pytest.skip(f"{reason}: {error}")
    return cv_bridge


@pytest.mark.parametrize(
    ("encoding", "pixel_bytes"),
    [("bgr8", 3), ("rgb8", 3), ("bgra8", 4), ("rgba8", 4), ("mono8", 1), ("mono16", 2)]
    + [("yuv422", 2), ("yuv422_yuy2", 2), *((bayer, 1) for bayer in BAYER)],
)
def test_unpadded_images_agree_with_cv_bridge(encoding: str, pixel_bytes: int) -> None:
    """Without 8UC1 and 8UC3, which cv_bridge calls no colours, and YUV in planes, which it does not know."""
    cv_bridge = imported_cv_bridge()
    data = np.random.default_rng(5).integers(0, 256, 24 * 32 * pixel_bytes, dtype=np.uint8)
    msg = Image(encoding=encoding, height=24, width=32, step=32 * pixel_bytes, data=data.tobytes())
    expected = cv_bridge.CvBridge().imgmsg_to_cv2(msg, desired_encoding="bgr8")
    # One grey value apart at most: cv_bridge may bring another OpenCV than Python's, which rounds otherwise.
    np.testing.assert_allclose(decode(msg).astype(int), expected.astype(int), rtol=0, atol=1)


# without rclpy


def test_message_packages_alone_suffice(checkout: Path) -> None:
    """Replay and training read images too, on desks that have the message packages but no rclpy."""
    program = """
import sys
sys.modules["rclpy"] = None
import numpy as np
from std_msgs.msg import Header
from drive_seg.images.messages import decode, decode_label, to_compressed_png, to_image
ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
assert (decode_label(to_image(ids, Header(), "mono8")) == ids).all()
assert (decode(to_compressed_png(ids, Header(), "mono8"))[..., 2] == ids).all()
del sys.modules["rclpy"]
assert not [name for name in sys.modules if name.split(".")[0] in ("rclpy", "torch", "cv_bridge")]
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
