"""Parameter files that have nothing for the node: rcl passes over them, and the node would run on its defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

_PARAMETERS = "ros__parameters"
_WILDCARDS = {"**": r"(/\w+)*", "*": r"/\w+"}
"""As rcl_yaml_param_parser expands them, each with the slash before it."""


def unheard(arguments: Sequence[str], node: str) -> list[str]:
    """A sentence for each parameter file on a command line that has nothing for a node.

    Args:
        arguments: the command line, which rcl has accepted.
        node: fully qualified name.
    """
    files = [file for option, file in zip(arguments, arguments[1:], strict=False) if option == "--params-file"]
    sentences = []
    for file in files:
        with open(file, encoding="utf-8") as opened:
            names = sorted(set(_names(yaml.safe_load(opened) or {})))
        if not any(_fits(name, node) for name in names):
            sentences.append(
                f"the parameter file {file} has nothing for this node, {node}, but for {', '.join(names) or 'nobody'}: "
                "write its name or /** there, or give the node the name that is in the file"
            )
    return sentences


def _names(tree: Any, above: str = "") -> Iterator[str]:
    """The names, with their namespaces, under which there are parameters."""
    if isinstance(tree, dict):
        if _PARAMETERS in tree:
            yield above
        for name, below in tree.items():
            if name != _PARAMETERS:
                yield from _names(below, f"{above}/{str(name).strip('/')}")


def _fits(name: str, node: str) -> bool:
    parts = name.strip("/").split("/")
    return re.fullmatch("".join(_WILDCARDS.get(part, f"/{re.escape(part)}") for part in parts), node) is not None
