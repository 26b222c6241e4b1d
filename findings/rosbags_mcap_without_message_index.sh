#!/bin/bash
# A valid mcap file is empty without a word: rosbags states 10 messages in it and reads 0, where the mcap library reads 10.
#
# Versions: rosbags 0.11.9, mcap 1.6.0 (CPython 3.11).
# Seen: of a file with a chunk index but no message index (an option of mcap's writers), Reader.message_count is 10, the topic's own
#   count is 0, and Reader.messages() yields nothing; no exception, no warning. With repeat_channels=False it has no topics at all
#   (where mcap's own SeekingReader raises KeyError; its NonSeekingReader reads all).
# Source: the format allows both (https://mcap.dev/spec: message index records and the summary's channels are optional); seen by
#   running this, 2026-12-01.
# Why it matters: whoever evaluates a camera bag gets "0 images" and exit code 0. Compare message_count with what is read, or read
#   such files from the beginning, as mcap's NonSeekingReader does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "rosbags==0.11.9" "mcap==1.6.0"
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys
from pathlib import Path

from mcap.reader import NonSeekingReader
from mcap.writer import IndexType, Writer
from rosbags.rosbag2 import Reader

folder = Path(sys.argv[1])


def seen(name, **options):
    """(messages stated, topics, messages read by rosbags, messages read by mcap) of ten Strings."""
    path = folder / f"{name}.mcap"
    with path.open("wb") as file:
        writer = Writer(file, **options)
        writer.start(profile="ros2")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data\n")
        channel = writer.register_channel("/words", "cdr", schema)
        for i in range(10):
            writer.add_message(channel, i + 1, b"\x00\x01\x00\x00\x02\x00\x00\x00a\x00", i + 1)
        writer.finish()
    with Reader(path) as reader:
        mine = reader.message_count, len(reader.connections), sum(1 for _ in reader.messages())
    with path.open("rb") as file:
        theirs = sum(1 for _ in NonSeekingReader(file).iter_messages())
    print(f"{name}: stated {mine[0]}, topics {mine[1]}, read by rosbags {mine[2]}, by mcap {theirs}")
    return *mine, theirs


assert seen("whole") == (10, 1, 10, 10)
assert seen("no_message_index", index_types=IndexType.CHUNK) == (10, 1, 0, 10)
assert seen("no_channels_in_summary", repeat_channels=False) == (10, 0, 0, 10)
PY
