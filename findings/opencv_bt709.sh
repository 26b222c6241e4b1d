#!/bin/bash
# One video, two colours: OpenCV's wheels read a video that declares BT.709 as BT.601 up to 4.12, and as BT.709 from 4.13 on.
#
# Versions: opencv-python-headless 4.12.0.88 and 4.13.0.92 (CPython 3.11, x86-64), both with the FFmpeg that they bring.
# Seen: one pixel of the same file, B G R: 4.12 gives 29 199 58, 4.13 gives 23 175 48 (24 levels of green apart). Without
#   the declaration both give 29 199 58.
# Source: https://github.com/opencv/opencv/issues/20513 describes the older behaviour; seen by running this, 2026-12-01.
# Why it matters: cameras, phones and ffmpeg declare BT.709 for HD video. A network that was trained on frames from one OpenCV
#   and runs on frames from another sees shifted colours, and a score changes with a `pip install -U`, without a word.
#
# The file is an MPEG-4 clip in MP4 that OpenCV writes itself; a colr box (ISO/IEC 14496-12, 12.1.5) is put into its track.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 4.12.0.88 4.13.0.92; do
    python3 -m venv "$folder/$version"
done
"$folder/4.12.0.88/bin/pip" install -q --disable-pip-version-check opencv-python-headless==4.12.0.88 numpy==2.2.6
"$folder/4.13.0.92/bin/pip" install -q --disable-pip-version-check opencv-python-headless==4.13.0.92 numpy==2.4.6
cat > "$folder/clip.py" <<'PY'
import struct
import sys

import cv2
import numpy as np

path = sys.argv[1]
writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
writer.write(np.full((48, 64, 3), (30, 200, 60), np.uint8))
writer.release()
if sys.argv[2] == "declared":
    data = bytearray(open(path, "rb").read())
    box = struct.pack(">I4s4sHHHB", 19, b"colr", b"nclx", 1, 1, 1, 0)  # primaries, transfer, matrix: BT.709
    begin, end = 0, len(data)
    for kind, header in ((b"moov", 8), (b"trak", 8), (b"mdia", 8), (b"minf", 8), (b"stbl", 8), (b"stsd", 16), (b"mp4v", 0)):
        at = begin
        while data[at + 4 : at + 8] != kind:
            at += struct.unpack_from(">I", data, at)[0]
        (length,) = struct.unpack_from(">I", data, at)
        struct.pack_into(">I", data, at, length + len(box))
        begin, end = at + header, at + length
    data[end:end] = box
    open(path, "wb").write(data)
PY
"$folder/4.12.0.88/bin/python" "$folder/clip.py" "$folder/plain.mp4" plain
"$folder/4.12.0.88/bin/python" "$folder/clip.py" "$folder/bt709.mp4" declared
read_pixel() { "$folder/$1/bin/python" -c 'import cv2, sys; print(*cv2.VideoCapture(sys.argv[1]).read()[1][24, 32])' "$folder/$2.mp4"; }
for version in 4.12.0.88 4.13.0.92; do
    echo "$version plain: $(read_pixel $version plain)   declared BT.709: $(read_pixel $version bt709)"
done
[ "$(read_pixel 4.12.0.88 bt709)" = "29 199 58" ] && [ "$(read_pixel 4.13.0.92 bt709)" = "23 175 48" ]
