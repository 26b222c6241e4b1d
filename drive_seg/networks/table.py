"""What ``drive-seg networks`` prints: systems and what they cost, as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from drive_seg.networks.systems import PAPER_CLASSES, PAPER_SIZE


def as_table(rows: Sequence[dict[str, Any]], paper_rules: bool) -> RenderableType:
    """The rows of :func:`~drive_seg.networks.systems.measure`, and below them where they depart from the papers."""
    height, width = rows[0]["size"]
    rules = "as FBNet's Table 2 counts" if paper_rules else "convolutions and matrix products"
    table = Table(
        box=box.SIMPLE,
        pad_edge=False,
        title=f"{len(rows)} systems, {rows[0]['classes']} classes, {width}x{height} pixels",
        caption=(
            f"G: multiply-accumulates in thousands of millions ({rules}); + is FBNet's share, and what training has on "
            f"top. Paper: parameters (M) or G, at {PAPER_CLASSES} classes and {PAPER_SIZE[1]}x{PAPER_SIZE[0]} pixels "
            "by FBNet's rules; ~ is a figure not met, see below."
        ),
        caption_justify="left",
    )
    table.add_column("system")
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("G", justify="right", no_wrap=True)
    table.add_column("paper", justify="right", no_wrap=True)
    table.add_column("source")
    for row in rows:
        table.add_row(_name(row), _parameters(row), _multiply_accumulates(row), _paper(row), row["source"])
    notes = [Text(f"{row['name']}: {row['note']}") for row in rows if row["note"]]
    return Group(table, *notes)


def options_text(network: str, options: dict[str, Any]) -> str:
    """The options of a network and their defaults, in a sentence."""
    return f"Options of {network}: {_options(options)}"


def _options(options: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        return " + ".join(value) or "none" if isinstance(value, list | tuple) else str(value)

    return ", ".join(f"{key}={shown(value)}" for key, value in options.items())


def _name(row: dict[str, Any]) -> Text:
    text = Text(row["name"])
    if row["options"]:
        text.append(f"\n{_options(row['options'])}", style="dim")
    return text


def _parameters(row: dict[str, Any]) -> Text:
    text = Text(f"{row['parameters']:,}")
    if row["training_parameters"]:
        text.append(f"\n+ {row['training_parameters']:,}", style="dim")
    return text


def _multiply_accumulates(row: dict[str, Any]) -> Text:
    text = Text(f"{row['multiply_accumulates'] / 1e9:.2f}")
    if row["added_multiply_accumulates"] is not None:
        text.append(f"\n+ {row['added_multiply_accumulates'] / 1e9:.2f}", style="dim")
    return text


def _paper(row: dict[str, Any]) -> str:
    if row["paper_parameters"] is not None:
        about = "~ " if row["note"].startswith(("+", "-")) else ""
        return f"{about}{row['paper_parameters'] / 1e6:g} M"
    if row["paper_multiply_accumulates"] is not None:
        return f"{row['paper_multiply_accumulates'] / 1e9:.2f} G"
    return ""
