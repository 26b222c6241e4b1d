"""A check's outcome for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from drive_seg.training.check import Problem, Report, SplitFigures

_SHOWN_FILES = 10
_SHOWN_SIZES = 4


def print_report(report: Report, console: Console) -> None:
    """A table for each split, then the problems with the names of their first files, then the verdict."""
    for split in report.splits:
        console.print(_table(split))
        console.print(_totals(split), soft_wrap=True, highlight=False)
    for problem in report.problems:
        console.print(_sentence(problem), soft_wrap=True)
        for file in problem.files[:_SHOWN_FILES]:
            console.print(Text(f"    {file}"), soft_wrap=True)
        if len(problem.files) > _SHOWN_FILES:
            console.print(f"    and {len(problem.files) - _SHOWN_FILES} more; --json FILE names all", highlight=False)
    warnings = len(report.problems) - report.errors
    verdict = "this data is not trained on" if report.errors else "this data can be trained on"
    console.print(f"{_plural(report.errors, 'error')}, {_plural(warnings, 'warning')}: {verdict}", highlight=False)


def _table(split: SplitFigures) -> Table:
    table = Table("class", "% of labelled pixels", "images", title=f"{split.name}: {_plural(split.count, 'image')}")
    for name, share, images in zip(split.names, split.shares(), split.images, strict=False):
        table.add_row(escape(name), f"{100 * share:.3f}" if images else "-", str(images))
    return table


def _totals(split: SplitFigures) -> str:
    sizes = [f"{h}x{w} ({count})" for (h, w), count in split.sizes.most_common(_SHOWN_SIZES)]
    if len(split.sizes) > _SHOWN_SIZES:
        sizes.append(f"{len(split.sizes) - _SHOWN_SIZES} more")
    return f"void: {100 * split.void_share:.2f} % of all pixels; sizes, height x width: {', '.join(sizes) or 'none'}\n"


def _sentence(problem: Problem) -> Text:
    color = "red" if problem.level == "error" else "yellow"
    return Text.assemble((problem.level, color), f"  {problem.where}: {problem.text}")


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
