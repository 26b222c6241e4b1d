"""Files that are either whole or not there, where shared ones are stored, and paths with environment variables."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE = "drive_seg"


def canonical_json(data: Any) -> str:
    """The one JSON text of some data: keys sorted, no spaces, ASCII."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


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


def share_file(name: str) -> Path:
    """Absolute path of a file or folder of the package's share folder; ``name`` is relative to it
    (``"config/segmentation.param.yaml"``).

    A source tree (also of an editable install) is asked first, so that what was just edited is what runs;
    then the share folders of the prefix this module is installed in, of AMENT_PREFIX_PATH and of this Python.

    Raises FileNotFoundError, naming the folders tried, where none of them has it.
    """
    tried = list(dict.fromkeys(_share_folders()))
    for folder in tried:
        if (folder / name).exists():
            return folder / name
    places = ", ".join(str(folder) for folder in tried) or "no share folder of the package was found"
    raise FileNotFoundError(f"{PACKAGE} has no shared file '{name}' (looked in: {places}); reinstall the package")


def _share_folders() -> Iterator[Path]:
    package_folder = Path(__file__).resolve().parent
    if (package_folder.parent / "package.xml").is_file():
        yield package_folder.parent
    prefixes = [*package_folder.parents]
    ament_prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    prefixes += [Path(prefix) for prefix in ament_prefixes if prefix]
    prefixes.append(Path(sys.prefix))
    for prefix in prefixes:
        share = prefix / "share" / PACKAGE
        if (share / "package.xml").is_file():
            yield share


def expand_variables(text: str) -> str:
    """Replace each ``${NAME}`` by the environment variable of that name.

    Raises:
        ValueError: if one is not set, or empty.
    """

    def value(variable: re.Match[str]) -> str:
        if found := os.environ.get(variable[1]):
            return found
        raise ValueError(f"'{text}' needs the environment variable {variable[1]}, which is not set")

    return re.sub(r"\$\{(\w+)\}", value, text)
