"""What the test of killed writers runs, a process without threads that may be forked: ``killed_writer.py FILE``."""

import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from drive_seg.training.checkpointing import WholeCheckpoints


def content(number: int) -> dict[str, Any]:
    return {"number": number, "weights": torch.full((300, 1000), float(number))}


def write_for_ever(path: Path, report: int) -> None:
    """The life of the child: checkpoint after checkpoint, each told to the parent before it begins."""
    number = 0
    while True:
        os.write(report, b".")
        WholeCheckpoints().save_checkpoint(content(number), path)
        number += 1


def kill_and_read(path: Path, writes: int) -> None:
    """Kill a child at the start of this write of its own; what lies there then is one of the last two, and whole."""
    told, report = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_for_ever(path, report)
        finally:
            os._exit(1)
    os.close(report)
    try:
        for _ in range(writes):
            assert select.select([told], [], [], 60)[0], "the child does not write"
            assert os.read(told, 1) == b"."
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
    read = WholeCheckpoints().load_checkpoint(path)
    assert read["number"] >= writes - 2 and (read["weights"] == read["number"]).all()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for count in range(3, 15):
        kill_and_read(Path(sys.argv[1]), count)
