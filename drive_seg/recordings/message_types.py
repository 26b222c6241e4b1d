"""Message classes by name, and the definitions that a bag has to carry. No rclpy."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore


def message_class(type_name: str) -> type | None:
    """The Python class of "sensor_msgs/msg/Image" and the like; None where its package is not installed."""
    parts = type_name.split("/")
    if len(parts) != 3 or parts[1] != "msg":
        return None
    try:
        found: Any = getattr(importlib.import_module(f"{parts[0]}.msg"), parts[2])
    except (ImportError, AttributeError):
        return None
    return found


def definition(type_name: str, type_hash: str = "") -> tuple[str, str] | None:
    """The definition text of a type with everything nested in it, and its hash, as rosbag2 stores them.

    The installed package's own .msg files come first, then the definitions that rosbags brings.

    Args:
        type_name: such as "vision_msgs/msg/LabelInfo".
        type_hash: the RIHS01 hash that its publisher announces, if known: what differs from it is not taken.

    Returns:
        (text, RIHS01 hash), or None where no fitting definition is found.
    """
    for store in (_installed_types(type_name), get_typestore(Stores.ROS2_JAZZY)):
        if store is None or type_name not in store.fielddefs:
            continue
        found = rihs01(store, type_name)
        if found == type_hash or not type_hash.startswith("RIHS01_"):
            return store.generate_msgdef(type_name, ros_version=2)[0], found
    return None


def rihs01(store: Typestore, type_name: str) -> str:
    """The hash of a type that a .msg file defines, as ROS 2 makes it: there char is IDL's uint8, not its char."""
    as_idl = get_typestore(Stores.EMPTY)
    as_idl.fielddefs.update(
        {
            name: (constants, [(field, _without_char(kind)) for field, kind in fields])
            for name, (constants, fields) in store.fielddefs.items()
        }
    )
    return as_idl.hash_rihs01(type_name)


def _without_char(kind: Any) -> Any:
    if isinstance(kind, tuple):
        return "uint8" if kind == "char" else tuple(_without_char(part) for part in kind)
    return "uint8" if kind == "char" else kind


@cache
def _installed_types(type_name: str) -> Typestore | None:
    """A store with the type and all it nests, from the installed .msg files; None where one is missing."""
    types: dict = {}
    wanted = [type_name]
    while wanted:
        name = wanted.pop()
        if name in types:
            continue
        text = _message_file(name)
        if text is None:
            return None
        try:
            found = get_types_from_msg(text, name)
        except TypesysError:
            return None
        types.update(found)
        wanted += [nested for nested in _nested(found[name][1]) if nested not in types]
    store = get_typestore(Stores.EMPTY)
    store.register(types)
    return store


def _message_file(type_name: str) -> str | None:
    package, _, name = type_name.split("/")
    for prefix in _prefixes():
        path = prefix / "share" / package / "msg" / f"{name}.msg"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return None


def _prefixes() -> Iterator[Path]:
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        if prefix:
            yield Path(prefix)
    yield Path(sys.prefix)


def _nested(fields: list[tuple[str, Any]]) -> Iterator[str]:
    for _, (kind, inner) in fields:
        if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
            kind, inner = inner[0]
        if kind == Nodetype.NAME:
            yield inner
