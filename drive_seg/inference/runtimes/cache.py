"""Graphs of checkpoints that were prepared on this machine, in a folder that only its user can write.

``$XDG_CACHE_HOME/drive_seg/<hash of the checkpoint>/<form>-<height>x<width>.graph`` is a line of JSON, the key, and
then an ONNX file for the forms "onnxruntime" and "openvino", or PyTorch's machine code for
"inductor-<precision>-<device>". A graph whose key is not the wanted one to the letter is as good as none, and is never
loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import drive_seg
from drive_seg.files import canonical_json, write_atomically
from drive_seg.inference.runtimes import Size

_NAME = "{form}-{height}x{width}.graph"


@dataclass(frozen=True)
class Form:
    """What is kept of a checkpoint.

    Attributes:
        name: of the form, a part of the files' names.
        depends_on: all that its graphs depend on beside the checkpoint, its network, the size and PyTorch.
    """

    name: str
    depends_on: dict[str, Any]


def prepared_sizes(form: Form, sha256: str) -> list[Size]:
    """The (height, width) for which a checkpoint is prepared in a form, for this machine as it is now.

    Raises:
        ValueError: if others can write to the cache, or it cannot be read.
    """
    folder = root() / sha256
    try:
        if not folder.is_dir():
            return []
        check_private(folder)
    except OSError as error:
        raise ValueError(f"the cache {folder} cannot be read ({error})") from error
    found = []
    for file in sorted(folder.glob(f"{form.name}-*.graph")):
        match = re.fullmatch(rf"{re.escape(form.name)}-(\d+)x(\d+)\.graph", file.name)
        size = (int(match[1]), int(match[2])) if match else None
        if size and _header(file) == _key(form, sha256, size):
            found.append(size)
    return found


def read(form: Form, sha256: str, size: Size) -> bytes | None:
    """The graph of a checkpoint, or None if there is none for just this key, or it is damaged.

    Raises:
        ValueError: if others can write to the cache.
    """
    file = _file(form, sha256, size)
    if not file.is_file():
        return None
    check_private(file.parent)
    head, _, graph = file.read_bytes().partition(b"\n")
    wanted = {**_key(form, sha256, size), "graph": hashlib.sha256(graph).hexdigest()}
    return graph if head == canonical_json(wanted).encode() else None


def write(form: Form, sha256: str, size: Size, graph: bytes) -> Path:
    """Keep a graph; an older one of that checkpoint, form and size is replaced.

    Raises:
        ValueError: if others can write to the cache, or it cannot be written.
    """
    file = _file(form, sha256, size)
    key = {**_key(form, sha256, size), "graph": hashlib.sha256(graph).hexdigest()}
    make_private(file.parent)
    try:
        write_atomically(file, canonical_json(key).encode() + b"\n" + graph)
    except OSError as error:
        raise unwritable(error) from error
    return file


def root() -> Path:
    """The folder of the cache, which need not exist.

    Raises:
        ValueError: if the user has no home.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "drive_seg"
    try:
        return Path.home() / ".cache" / "drive_seg"
    except RuntimeError as error:
        raise ValueError(f"there is no place for a cache ({error}): set XDG_CACHE_HOME") from error


def _file(form: Form, sha256: str, size: Size) -> Path:
    return root() / sha256 / _NAME.format(form=form.name, height=size[0], width=size[1])


def _key(form: Form, sha256: str, size: Size) -> dict[str, Any]:
    """Everything that the graph depends on, and the runtime with which it was checked."""
    import torch

    return {
        "checkpoint": sha256,
        "size": list(size),
        **form.depends_on,
        "torch": torch.__version__,
        "drive_seg": drive_seg.__version__,
        "networks": networks_sha256(),
    }


@cache
def networks_sha256() -> str:
    """Of the networks' sources, which decide what weights mean."""
    digest = hashlib.sha256()
    for file in sorted((Path(drive_seg.__file__).parent / "networks").rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _header(file: Path) -> dict[str, Any] | None:
    """The key of a graph; None where there is none."""
    try:
        with open(file, "rb") as opened:
            key = json.loads(opened.readline(10_000))
        key.pop("graph", None)
    except (OSError, ValueError, AttributeError):
        return None
    return key


def make_private(folder: Path) -> None:
    """Make a folder of the cache, for its user alone.

    Raises:
        ValueError: if it cannot be made, or others can write to it.
    """
    try:
        root().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in (root(), folder):
            part.mkdir(exist_ok=True, mode=0o700)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"no permission to write to {folder}")
    except OSError as error:
        raise unwritable(error) from error
    check_private(folder)


def unwritable(error: OSError) -> ValueError:
    """What to say of a cache that cannot be written."""
    return ValueError(
        f"the cache {root()} cannot be written ({error}): set XDG_CACHE_HOME to a folder that can, or give the "
        "node an exported file (drive-seg export) as its model"
    )


def check_private(folder: Path) -> None:
    """Refuse a cache into which somebody else may have put something."""
    for part in (root(), folder):
        about = part.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
            raise ValueError(f"{part} is not used as a cache: it must be a folder that only its owner, you, can write")
