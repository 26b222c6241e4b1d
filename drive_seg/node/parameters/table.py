"""The node's parameters as the table of docs/parameters.md and as a JSON schema, both made from their specs.

``python -m drive_seg.node.parameters.table`` in a checkout writes both (``make docs``).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drive_seg import files
from drive_seg.node.parameters import NODE_SPECS, camera_specs
from drive_seg.node.parameters.specs import Change, OneOf, SomeOf, Spec

PAGE = "docs/parameters.md"
SCHEMA = "config/segmentation.schema.json"
BEGIN = "<!-- The table of parameters: `make docs` writes it from drive_seg/node/parameters/declared.py. -->"
END = "<!-- End of the table of parameters. -->"

CAMERA = "<cam>"
"""Stands for a camera's name in the table."""
CAMERA_NAME = "[A-Za-z](_?[A-Za-z0-9])*"

CHANGES = {
    Change.NEVER: "never",
    Change.UNCONFIGURED: "unconfigured",
    Change.ANY_TIME: "at any time",
    Change.RELOADS: "at any time, reloads",
}

TOPIC = r"^(?!.*//)\S+$"
# What the check of a parameter demands, in the schema's words. Of a parameter that is not here the schema knows type,
# range and choices, which its spec tells.
FACETS: Mapping[str, Mapping[str, Any]] = {
    "model": {"pattern": r"\S"},
    "cameras": {
        "items": {"type": "string", "pattern": f"^{CAMERA_NAME}$"},
        "minItems": 1,
        "uniqueItems": True,
    },
    "device": {"pattern": r"^(auto|cpu|cuda(:\d+)?)$"},
    "input_size": {
        "anyOf": [
            {"maxItems": 0},
            {"items": {"const": 0}, "minItems": 2, "maxItems": 2},
            {"items": {"minimum": 8, "maximum": 16384}, "minItems": 2, "maxItems": 2},
        ]
    },
    "drivable_classes": {"items": {"type": "string", "minLength": 1}, "minItems": 1},
    "flat_classes": {"items": {"type": "string", "minLength": 1}},
    "vehicle_frame": {"pattern": "[^/ ]"},
    "grid_range_m": {"items": {"type": "number", "minimum": 0, "maximum": 1000}, "minItems": 2, "maxItems": 3},
    f"{CAMERA}.image_topic": {"pattern": TOPIC},
    f"{CAMERA}.camera_info_topic": {"anyOf": [{"const": ""}, {"pattern": TOPIC}]},
    f"{CAMERA}.mounting": {"anyOf": [{"maxItems": 0}, {"minItems": 6, "maxItems": 6}]},
}

# Parameters that every node of rclpy has, or takes for its topics.
EVERY_NODE = {
    "use_sim_time": {"type": "boolean", "default": False, "description": "the node's clock is /clock"},
    "start_type_description_service": {"type": "boolean", "default": True, "description": "a service of rclpy's"},
    "qos_overrides": {"type": "object", "description": "by topic, publisher or subscription, and policy"},
}


def markdown_table() -> str:
    """The table for the page: one row a parameter, those of a camera last, as ``<cam>.<name>``."""
    rows = ["| parameter | type | default | values | may change | what |", "|---|---|---|---|---|---|"]
    for name, spec in {**NODE_SPECS, **camera_specs(CAMERA)}.items():
        cells = [
            f"`{name}`",
            _kind(spec.default),
            f"`{_default(spec.default)}`",
            _values(spec),
            CHANGES[spec.change],
            _prose(spec.description),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a parameters file, for /** and for any name and namespace of the node."""
    of_the_node = _properties({name: _property(name, spec) for name, spec in NODE_SPECS.items()})
    of_a_camera = {
        name.removeprefix(f"{CAMERA}."): _property(name, spec) for name, spec in camera_specs(CAMERA).items()
    }
    taken = "|".join(sorted({re.escape(name.partition(".")[0]) for name in [*NODE_SPECS, *EVERY_NODE]}))
    a_camera = f"(?!({taken})(\\.|$)){CAMERA_NAME}"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Parameters of drive_seg's segmentation_node",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"$ref": "#/$defs/section"},
        "$defs": {
            "section": {
                "description": "/**, a node, or a namespace with nodes in it",
                "type": "object",
                "minProperties": 1,
                "properties": {"ros__parameters": {"$ref": "#/$defs/parameters"}},
                "additionalProperties": {"$ref": "#/$defs/section"},
            },
            "parameters": {
                "type": "object",
                "properties": {**of_the_node, **EVERY_NODE},
                "patternProperties": {
                    f"^{a_camera}$": {"$ref": "#/$defs/camera"},
                    **{f"^{a_camera}\\.{re.escape(name)}$": spec for name, spec in of_a_camera.items()},
                    r"^qos_overrides\.": {},
                },
                "additionalProperties": False,
            },
            "camera": {
                "description": "parameters of one camera, which 'cameras' must name",
                "type": "object",
                "properties": _properties(of_a_camera),
                "additionalProperties": False,
            },
        },
    }


def schema_text() -> str:
    """The schema as its file holds it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def with_table(page: str) -> str:
    """The page's text with the table as it is now between its two markers; ValueError if they are not there."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} lacks the line '{BEGIN if not begin else END}'")
    return f"{head}{BEGIN}\n\n{markdown_table()}\n{END}{tail}"


def write(checkout: Path) -> list[Path]:
    """Bring page and schema of a checkout up to date; returns the files that were not."""
    texts = {
        checkout / PAGE: with_table((checkout / PAGE).read_text(encoding="utf-8")),
        checkout / SCHEMA: schema_text(),
    }
    old = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in old:
        files.write_atomically(path, texts[path].encode())
    return old


def _property(name: str, spec: Spec) -> dict[str, Any]:
    """One parameter in the schema's words."""
    schema: dict[str, Any] = {"description": f"{spec.description} ({spec.change.value})"}
    if CAMERA not in str(spec.default):
        schema["default"] = spec.default
    if isinstance(spec.default, list):
        schema["type"] = "array"
        if spec.default:
            schema["items"] = {"type": _json_type(spec.default[0])}
    else:
        schema["type"] = _json_type(spec.default)
    if isinstance(spec.default, float):
        schema["description"] += "; with a decimal point"
    if spec.span:
        schema["minimum"], schema["maximum"] = spec.span
    if isinstance(spec.check, OneOf):
        schema["enum"] = list(spec.check.choices)
    if isinstance(spec.check, SomeOf):
        schema |= {"items": {"enum": list(spec.check.choices)}, "uniqueItems": True}
    return {**schema, **FACETS.get(name, {})}


def _properties(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Properties for ``a.b`` written as a section ``a:`` with ``b:`` in it, and as the one word."""
    properties: dict[str, Any] = {}
    for name, schema in flat.items():
        *sections, last = name.split(".")
        inner = properties
        for section in sections:
            new = {"type": "object", "properties": {}, "additionalProperties": False}
            inner = inner.setdefault(section, new)["properties"]
        inner[last] = schema
        properties[name] = schema
    return properties


def _json_type(value: Any) -> str:
    # bool first: it is an int to Python.
    names = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return next(name for kind, name in names.items() if isinstance(value, kind))


def _kind(value: Any) -> str:
    names = {bool: "bool", int: "int", float: "double", str: "string"}
    if isinstance(value, list):
        return f"{_kind(value[0])}[]" if value else "list"
    return next(name for kind, name in names.items() if isinstance(value, kind))


def _default(value: Any) -> str:
    """As a parameters file has it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_default, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else str(value)


def _values(spec: Spec) -> str:
    if isinstance(spec.check, OneOf | SomeOf):
        return ", ".join(f"`{choice}`" for choice in spec.check.choices)
    return f"{spec.span[0]} to {spec.span[1]}" if spec.span else ""


def _prose(text: str) -> str:
    """A description in a cell of the table: ``<...>`` would be a tag to Markdown, and | the end of the cell."""
    text = re.sub(r"[^\s,;:()]*<[^<>]+>[^\s,;:()]*", r"`\g<0>`", text)
    return text.replace("|", "\\|")


def main(args: Sequence[str] | None = None) -> int:
    """Write page and schema of a checkout; returns the exit status."""
    parser = argparse.ArgumentParser(prog="parameter_table", description=__doc__.splitlines()[0])
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(), help="default: this folder")
    changed = write(parser.parse_args(args).checkout)
    print("\n".join(f"wrote {path}" for path in changed) or "page and schema are up to date")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
