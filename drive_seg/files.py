"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A path to write to, beside ``path``; on leaving without an exception the file is synced and takes its place.

    The temporary name keeps the suffix, since some writers choose their format by it. On an exception the temporary
    file is removed and ``path`` stays as it was.
    """
    path = Path(path)
    aside = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a whole file, so that a reader sees the old content or the new, whatever happens in between.

    Raises:
        OSError: if it cannot be written.
    """
    with written_aside(path) as aside:
        aside.write_bytes(data)
