"""What the messages of a bag consist of: its own definitions first, then those installed or brought by rosbags."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from rosbags.interfaces import Connection, MessageDefinitionFormat, Nodetype
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from drive_seg.recordings.message_types import definition, rihs01

_IDL_RULE = "=" * 80 + "\n"

log = logging.getLogger(__name__)


def types_of(connections: list[Connection], is2: bool) -> Typestore:
    """A store with every type of the connections whose definition is known and agrees with its hash.

    The others are left out; no bag is refused for a message that nobody asks for.
    """
    types: dict[str, Any] = {}
    for connection in connections:
        try:
            types.update(_defined(connection))
        except Exception:  # an unreadable definition is as good as none
            log.debug("The definition of %s in the bag cannot be read.", connection.msgtype)
    if is2:
        for connection in connections:
            if not _is_complete(connection.msgtype, types, set()):
                types.update(_known(connection))
    store = get_typestore(Stores.EMPTY)
    present = {**store.fielddefs, **types}  # a store is born with Time and Duration, which ROS 1 texts do not define
    complete = {name: fields for name, fields in types.items() if _is_complete(name, present, set())}
    store.register(complete)
    for connection in connections:
        if connection.msgtype in complete and connection.digest and not _fits(store, connection, is2):
            log.debug("The definition of %s does not fit its hash %s.", connection.msgtype, connection.digest)
            store.fielddefs.pop(connection.msgtype, None)
    return store


def nested_type(description: Any) -> str | None:
    """The name of the message type in a field's description, also within arrays; None for numbers and text."""
    kind, inner = description
    if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        kind, inner = inner[0]
    return inner if kind == Nodetype.NAME else None


def _defined(connection: Connection) -> dict[str, Any]:
    if connection.msgdef.format == MessageDefinitionFormat.MSG:
        # An empty text is how a definition that was not found is written, but also how Empty is.
        return get_types_from_msg(connection.msgdef.data, connection.msgtype) if connection.msgdef.data.strip() else {}
    if connection.msgdef.format == MessageDefinitionFormat.IDL:
        return {name: fields for text in _idl_parts(connection.msgdef.data) for name, fields in text.items()}
    return {}


def _idl_parts(text: str) -> Iterator[dict[str, Any]]:
    if not text.startswith(f"{_IDL_RULE}IDL: "):
        yield get_types_from_idl(text)
        return
    for part in text.split(_IDL_RULE)[1:]:
        yield get_types_from_idl(part.split("\n", 1)[1])


def _known(connection: Connection) -> dict[str, Any]:
    try:
        found = definition(connection.msgtype, connection.digest)
        return {} if found is None else dict(get_types_from_msg(found[0], connection.msgtype))
    except Exception:  # a name that is no type's
        return {}


def _is_complete(name: str, types: dict[str, Any], seen: set[str]) -> bool:
    if name in seen:
        return True
    seen.add(name)
    if name not in types:
        return False
    nested = filter(None, (nested_type(field[1]) for field in types[name][1]))
    return all(_is_complete(inner, types, seen) for inner in nested)


def _fits(store: Typestore, connection: Connection, is2: bool) -> bool:
    try:
        if not is2:
            return store.generate_msgdef(connection.msgtype)[1] == connection.digest
        return connection.digest in (store.hash_rihs01(connection.msgtype), rihs01(store, connection.msgtype))
    except Exception:
        return False
