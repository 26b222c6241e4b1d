"""The outcome of a check of training data, and how it is printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from drive_seg.labels import VOID

_SHOWN_FILES = 10
_SHOWN_SIZES = 4


@dataclass(frozen=True)
class Problem:
    """Something wrong: ``level`` is "error" (no training) or "warning"; ``files`` are all that it concerns."""

    level: str
    where: str
    text: str
    files: tuple[str, ...] = ()


@dataclass
class SplitFigures:
    """What a split holds, repeats and broken samples left out.

    Attributes:
        name: "train" or "val".
        sizes: (height, width) -> images.
        pixels: float64 [256], how many of each target (class or group of the run) and, at 255, of void.
        images: int64 [256], in how many images each occurs.
        names: of the targets.
    """

    name: str
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256))
    images: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return sum(self.sizes.values())

    @property
    def void_share(self) -> float:
        """The share of void among all pixels."""
        return float(self.pixels[VOID] / max(self.pixels.sum(), 1))

    def shares(self) -> np.ndarray:
        """Each target's share of the labelled pixels, float64 [targets]."""
        labelled = self.pixels[: len(self.names)]
        return labelled / max(labelled.sum(), 1)


@dataclass
class Report:
    """The outcome of a check."""

    splits: list[SplitFigures]
    problems: list[Problem]

    @property
    def errors(self) -> int:
        return sum(problem.level == "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "errors": self.errors,
            "warnings": len(self.problems) - self.errors,
            "problems": [{**vars(problem), "files": list(problem.files)} for problem in self.problems],
            "splits": [
                {
                    "name": split.name,
                    "images": split.count,
                    "sizes": {f"{w}x{h}": count for (h, w), count in split.sizes.most_common()},
                    "void_share": split.void_share,
                    "classes": [
                        {"name": name, "share": float(share), "images": int(images)}
                        for name, share, images in zip(split.names, split.shares(), split.images, strict=False)
                    ],
                }
                for split in self.splits
            ],
        }


def print_report(report: Report, console: Console) -> None:
    """A table for each split, then the problems with the names of their first files, then the verdict."""
    for split in report.splits:
        console.print(_table(split))
        console.print(_totals(split), soft_wrap=True, highlight=False)
    print_problems(report.problems, console)
    warnings = len(report.problems) - report.errors
    verdict = "this data is not trained on" if report.errors else "this data can be trained on"
    console.print(f"{_plural(report.errors, 'error')}, {_plural(warnings, 'warning')}: {verdict}", highlight=False)


def print_problems(problems: Sequence[Problem], console: Console, most_files: int = _SHOWN_FILES) -> None:
    """The problems, each with the names of its first files."""
    for problem in problems:
        console.print(_sentence(problem), soft_wrap=True)
        for file in problem.files[:most_files]:
            console.print(Text(f"    {file}"), soft_wrap=True)
        if len(problem.files) > most_files:
            left = len(problem.files) - most_files
            console.print(
                f"    and {left} more; `drive-seg train RECIPE --check --json FILE` names all", highlight=False
            )


def _table(split: SplitFigures) -> Table:
    table = Table("class", "% of labelled pixels", "images", title=f"{split.name}: {_plural(split.count, 'image')}")
    for name, share, images in zip(split.names, split.shares(), split.images, strict=False):
        table.add_row(escape(name), f"{100 * share:.3f}" if images else "-", str(images))
    return table


def _totals(split: SplitFigures) -> str:
    sizes = [f"{w}x{h} ({count})" for (h, w), count in split.sizes.most_common(_SHOWN_SIZES)]
    if len(split.sizes) > _SHOWN_SIZES:
        sizes.append(f"{len(split.sizes) - _SHOWN_SIZES} more")
    return f"void: {100 * split.void_share:.2f} % of all pixels; sizes, height x width: {', '.join(sizes) or 'none'}\n"


def _sentence(problem: Problem) -> Text:
    color = "red" if problem.level == "error" else "yellow"
    return Text.assemble((problem.level, color), f"  {problem.where}: {problem.text}")


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
