"""What a recording's file is: by its first bytes, whatever it is called, else by its name."""

from __future__ import annotations

from pathlib import Path

from drive_seg.images.files import is_lfs_pointer
from drive_seg.recordings.sources.topics import SourceError

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
METADATA = "metadata.yaml"
SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd", ".bag", ".bag.active")
"""How the names of bags' files end, in either case."""

_MAGIC = {b"\x89MCAP0\r\n": ".mcap", b"SQLite format 3\0": ".db3", b"#ROSBAG V": ".bag"}
_BEGINNING = 64


def is_bag_name(name: str) -> bool:
    """Whether a file is called as those of bags are."""
    return name.lower().endswith(SUFFIXES)


def is_bag(path: Path) -> bool:
    """Whether a file or folder is meant to be a bag, going by names and first bytes alone."""
    if path.is_dir():
        return (path / METADATA).is_file() or any(is_bag_name(file.name) for file in path.iterdir())
    return is_bag_name(path.name) or bool(_known(_beginning(path)))


def bag_suffix(file: Path) -> str:
    """.mcap, .db3 or .bag, as a file's bytes or else its name say; of any other its own suffix in lower case."""
    named = file.name.lower().removesuffix(".zstd").removesuffix(".active")
    return _known(_beginning(file)) or Path(named).suffix


def is_packed(file: Path) -> bool:
    """Whether a file is compressed by zstd, or called so and none of a bag's files."""
    beginning = _beginning(file)
    return beginning.startswith(ZSTD_MAGIC) or (file.name.lower().endswith(".zstd") and not _known(beginning))


def refuse_pointer(file: Path) -> None:
    """Refuse a Git LFS pointer.

    Raises:
        SourceError: it is one.
    """
    if is_lfs_pointer(_beginning(file)):
        raise SourceError(f"{file} is a Git LFS pointer, not the file itself: fetch it by `git lfs pull`.")


def _known(beginning: bytes) -> str:
    return next((suffix for magic, suffix in _MAGIC.items() if beginning.startswith(magic)), "")


def _beginning(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_BEGINNING)
