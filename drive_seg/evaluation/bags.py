"""Which recordings a user means: bags, folders that hold bags, and globs."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from drive_seg.recordings.sources import SourceError
from drive_seg.recordings.sources.file_kinds import METADATA, is_bag_name


def find_sources(given: Sequence[str]) -> list[str]:
    """Every recording that the arguments name, each once.

    A folder with metadata.yaml is one bag, as is a folder whose bag files make up one recording. Another folder stands
    for all bags in it and below it; one without any is itself a source, such as a folder of images. A name with ``*``,
    ``?`` or ``[`` that is no file is a pattern, where ``**`` goes through folders.

    Raises:
        SourceError: a pattern fits nothing, or a folder cannot be read.
    """
    found: dict[str, str] = {}
    for argument in given:
        for source in _expanded(argument):
            found.setdefault(source if source.startswith("synth:") else os.path.realpath(source), source)
    return list(found.values())


def names_of(sources: Sequence[str]) -> dict[str, str]:
    """Name in the report -> source, sorted by name; a name is as much of the end of the path as tells them apart."""
    parts = {source: _parts(source) for source in sources}
    names: dict[str, str] = {}
    for source, mine in parts.items():
        others = [theirs for other, theirs in parts.items() if other != source]
        length = next((n for n in range(1, len(mine)) if all(theirs[-n:] != mine[-n:] for theirs in others)), len(mine))
        names["/".join(mine[-length:])] = source
    return dict(sorted(names.items()))


def _parts(source: str) -> tuple[str, ...]:
    if source.startswith("synth:"):
        return (source,)
    return Path(source).expanduser().resolve().parts


def _expanded(argument: str) -> list[str]:
    path = Path(argument).expanduser()
    if argument.startswith("synth:"):
        return [argument]
    if not path.exists() and glob.has_magic(argument):
        matches = sorted(glob.glob(str(path), recursive=True))
        # Of a bag's folder and what lies in it, the folder is meant.
        folders = [Path(match) for match in matches if (Path(match) / METADATA).is_file()]
        kept = [match for match in matches if not any(folder in Path(match).parents for folder in folders)]
        found = [source for match in kept if not _is_beside(match) for source in _expanded_path(Path(match), match)]
        if not found:
            raise SourceError(f"Nothing fits '{argument}'.")
        return found
    return _expanded_path(path, argument)


def _expanded_path(path: Path, written: str) -> list[str]:
    if path.name == METADATA and path.is_file():  # which stands for its bag
        return [str(path.absolute().parent)]
    if not path.is_dir() or (path / METADATA).is_file():
        return [written]
    return _bags_in(path) or [written]


def _bags_in(folder: Path) -> list[str]:
    """The bags in a folder and below it, in the order of their paths."""
    if (folder / METADATA).is_file():
        return [str(folder)]
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror}.") from error
    files = [path for path in entries if path.is_file() and is_bag_name(path.name)]
    if files and _is_one(folder):
        return [str(folder)]
    below = [bag for path in entries if path.is_dir() and not path.name.startswith(".") for bag in _bags_in(path)]
    return [*map(str, files), *below]


def _is_one(folder: Path) -> bool:
    from drive_seg.recordings.sources.bag_files import unlisted_files

    try:
        files = unlisted_files(folder)
    except SourceError:
        return False
    return not any(file.suffix == ".bag" for file in files) and _is_named_for(files, folder)


def _is_named_for(files: Sequence[Path], folder: Path) -> bool:
    """One file that lies in a folder of its own name is the folder's recording, not one of a collection."""
    return len(files) > 1 or files[0].name.startswith(folder.resolve().name)


def _is_beside(match: str) -> bool:
    path = Path(match)
    return path.is_file() and not is_bag_name(path.name) and (path.parent / METADATA).is_file()
