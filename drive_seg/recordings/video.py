"""Writing of overlay videos with whatever encoder the installed OpenCV brings."""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import numpy as np

from drive_seg.images.overlay import legend_panel
from drive_seg.labels import LabelMap

# Tried in this order. mp4v is in every FFmpeg build, H.264 only where OpenCV was built with an encoder for it;
# the Motion-JPEG writer is OpenCV's own and knows AVI alone, so the file's suffix changes with it.
CODECS = (("mp4v", ".mp4"), ("avc1", ".mp4"), ("MJPG", ".avi"))


class VideoError(RuntimeError):
    """A video cannot be written; the message says why."""


class OverlayVideo:
    """A video file written aside and put in place by ``close``.

    Use it as a context manager: a body that raises leaves no file. ``path`` is where the finished video lies;
    its suffix differs from the wished one (.avi) where OpenCV has only its own Motion-JPEG writer.

    Args:
        path: wished file, ``*.mp4`` or ``*.avi``; its folder is made.
        fps: frames per second of the video, above 0.
        size: (width, height) in pixels of the frames that ``write`` takes. Encoders want even sides: an odd
            one gets one black column or row at the far edge.

    Raises:
        VideoError: no encoder of this OpenCV build could open the file.
        ValueError: fps or size is not positive, or the file's suffix is not .mp4 or .avi.
    """

    def __init__(self, path: str | Path, fps: float, size: tuple[int, int]) -> None:
        if not fps > 0 or min(size) < 1:
            raise ValueError(f"A video needs a frame rate and a size above 0, not {fps} fps and {size}.")
        if Path(path).suffix.lower() not in (".mp4", ".avi"):
            raise ValueError(f"The video {path} must end in .mp4 or .avi.")
        self.path = Path(path)
        self.size = (int(size[0]), int(size[1]))
        self.frames = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._even = (self.size[0] + self.size[0] % 2, self.size[1] + self.size[1] % 2)
        self._writer, self._partial = self._open(float(fps))

    def write(self, bgr: np.ndarray) -> None:
        """Append one frame: uint8 BGR, height x width x 3 of the size given at the start."""
        width, height = self.size
        if bgr.shape != (height, width, 3) or bgr.dtype != np.uint8:
            raise ValueError(f"The video takes uint8 frames of {(height, width, 3)}, not {bgr.dtype} {bgr.shape}.")
        if self._even != self.size:
            bgr = cv2.copyMakeBorder(
                bgr, 0, self._even[1] - height, 0, self._even[0] - width, cv2.BORDER_CONSTANT, value=(0, 0, 0)
            )
        self._writer.write(np.ascontiguousarray(bgr))
        self.frames += 1

    def close(self) -> None:
        """Finish the file and put it in place; a video without a frame leaves none."""
        if self._writer is None:
            return
        self._release()
        if self.frames == 0:
            self._partial.unlink(missing_ok=True)
            return
        if not self._partial.exists():
            raise VideoError(f"The encoder left no file at {self._partial}; is the disk full?")
        with self._partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(self._partial, self.path)

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif self._writer is not None:
            self._release()
            self._partial.unlink(missing_ok=True)

    def _release(self) -> None:
        self._writer.release()
        self._writer = None

    def _open(self, fps: float) -> tuple[cv2.VideoWriter, Path]:
        for fourcc, suffix in CODECS:
            path = self.path if suffix == ".mp4" else self.path.with_suffix(suffix)
            # The suffix must stay last: it is what tells the encoder the container.
            partial = path.with_name(f".{path.stem}.partial{path.suffix}")
            writer = cv2.VideoWriter(str(partial), cv2.VideoWriter_fourcc(*fourcc), fps, self._even)
            if writer.isOpened():
                self.path = path
                return writer, partial
            writer.release()
            partial.unlink(missing_ok=True)
        tried = ", ".join(fourcc for fourcc, _ in CODECS)
        raise VideoError(
            f"Cannot write {self.path}: OpenCV opened it with none of {tried}. "
            "Is the folder writable, and does this OpenCV build have video support?"
        )


class LegendVideo:
    """A video of pictures with a label map's legend beside each: a context manager that leaves a whole file or none.

    All pictures are shown at the size of the first one, which may be shrunk.

    Args:
        path: wished file, as of :class:`OverlayVideo`; ``path`` tells the real one once there is a picture.
        fps: pictures a second.
        labels: what the colours mean.
        widest: of a picture, in pixels.
    """

    def __init__(self, path: Path, fps: float, labels: LabelMap, widest: float = math.inf) -> None:
        self.path, self._fps, self._labels, self._widest = path, fps, labels, widest
        self._video: OverlayVideo | None = None

    @property
    def frames(self) -> int:
        """How many were written."""
        return self._video.frames if self._video is not None else 0

    def write(self, picture: np.ndarray) -> None:
        """Append a picture, uint8 BGR [H, W, 3]."""
        if self._video is None:
            scale = min(1.0, self._widest / picture.shape[1])
            self._size = tuple(max(1, round(scale * side)) for side in picture.shape[1::-1])
            self._legend = legend_panel(self._labels, self._size[1])
            self._video = OverlayVideo(self.path, self._fps, (self._size[0] + self._legend.shape[1], self._size[1]))
            self.path = self._video.path
        if picture.shape[1::-1] != self._size:
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        self._video.write(np.hstack((picture, self._legend)))

    def __enter__(self) -> LegendVideo:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._video is not None:
            self._video.__exit__(kind)
