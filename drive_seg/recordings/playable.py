"""Which cameras a player would publish of a source, as JSON: ``python -m drive_seg.recordings.playable SOURCE``.

Launch files ask before they start anything; they may run in another Python than this package.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from drive_seg.recordings.sources import COMPRESSED, SourceError, open_source
from drive_seg.recordings.sources.frames import FrameSource
from drive_seg.recordings.sources.topics import cameras_of, ros2_name


def cameras(spec: str, start: float = 0.0, duration: float | None = None) -> dict[str, str] | None:
    """Image topic as the player names it -> its transport ("raw" or "compressed"); None if the player chooses the name.

    That is so for all but bags. Depth images are left out, and compressed topics whose raw images are there too.

    Raises:
        SourceError: the source cannot be played.
    """
    source = open_source(spec, None, start, duration)
    if isinstance(source, FrameSource):
        return None
    topics = cameras_of(source.topics)
    return {ros2_name(topic.name): "compressed" if topic.type == COMPRESSED else "raw" for topic in topics}


def main(args: Sequence[str] | None = None) -> int:
    """Print them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="playable", description=__doc__.split("\n")[0])
    parser.add_argument("source")
    parser.add_argument("--start", type=float, default=0.0)
    parser.add_argument("--duration", type=float)
    options = parser.parse_args(args)
    try:
        print(json.dumps(cameras(options.source, options.start, options.duration)))
    except (SourceError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
