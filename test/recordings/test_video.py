"""Overlay videos: the file is complete, readable and of the size given."""

import cv2
import numpy as np
import pytest

from drive_seg.recordings import video as video_module
from drive_seg.recordings.video import OverlayVideo, VideoError


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, frame = capture.read()
        if not ok:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame)


def test_frames_come_back_in_order_with_rate_and_colour(tmp_path):
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]
    with OverlayVideo(tmp_path / "new" / "a.mp4", 7.0, (64, 48)) as video:
        for colour in colours:
            video.write(np.full((48, 64, 3), colour, np.uint8))
        assert not (tmp_path / "new" / "a.mp4").exists()
    frames, fps = frames_of(video.path)
    assert fps == pytest.approx(7.0)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    for frame, colour in zip(frames, colours, strict=True):
        assert np.abs(frame.reshape(-1, 3).mean(0) - colour).max() < 12
    assert [path.name for path in (tmp_path / "new").iterdir()] == [video.path.name]


def test_odd_sides_get_one_row_and_column_more(tmp_path):
    with OverlayVideo(tmp_path / "odd.mp4", 10, (33, 21)) as video:
        video.write(np.full((21, 33, 3), 255, np.uint8))
    (frame,), _ = frames_of(video.path)
    assert frame.shape == (22, 34, 3)
    assert frame[:16, :24].mean() > 240


def test_body_that_raises_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), OverlayVideo(tmp_path / "a.mp4", 10, (32, 32)) as video:
        video.write(np.zeros((32, 32, 3), np.uint8))
        raise KeyError("stop")
    assert list(tmp_path.iterdir()) == []


def test_wrong_frame_and_wrong_size_are_named(tmp_path):
    with OverlayVideo(tmp_path / "a.mp4", 10, (32, 16)) as video, pytest.raises(ValueError, match=r"\(16, 32, 3\)"):
        video.write(np.zeros((32, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="above 0"):
        OverlayVideo(tmp_path / "b.mp4", 0, (32, 16))
    with pytest.raises(ValueError, match=r"end in \.mp4 or \.avi"):
        OverlayVideo(tmp_path / "b.png", 10, (32, 16))


def test_no_encoder_at_all_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(video_module, "CODECS", (("zzzz", ".mp4"),))
    with pytest.raises(VideoError, match="none of zzzz"):
        OverlayVideo(tmp_path / "a.mp4", 10, (32, 16))
