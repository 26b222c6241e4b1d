"""Studies: matched training runs that differ in one thing, over seeds and folds, and the table that compares them."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.table import Table

from drive_seg.files import write_atomically
from drive_seg.training.recipe import Recipe, RecipeError, load_recipe
from drive_seg.training.record import differences, settings_of_a_run

MEASURES = ("miou", "f_miou", "accuracy")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Part):
    """One variant: ``set`` is laid over the study's recipe; ``paper``: what its paper prints for it, if anything."""

    name: str
    set: dict[str, Any] = {}
    paper: float | None = None


class Study(_Part):
    """Variants of one recipe.

    ``recipe``: its file, relative to the study's; ``set``: settings of all runs; ``folds``: settings of each fold of a
    cross-validation, by name; ``seeds``; ``rows``: the variants, the first of which the others are compared with;
    ``source``: the table of the paper that ``paper`` figures are from.
    """

    name: str
    recipe: str
    source: str = ""
    set: dict[str, Any] = {}
    folds: dict[str, dict[str, Any]] = {"all": {}}
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    rows: list[Row] = Field(min_length=1)


class Run(_Part):
    """One training of a study: which row, fold and seed, and the settings laid over the recipe."""

    row: str
    fold: str
    seed: int
    settings: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where it lies within the study's folder."""
        return Path(self.row.replace(" ", "_").replace("/", "-"), self.fold, f"seed{self.seed}")


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study and check each of its runs' recipes.

    Args:
        path: its file.
        overrides: as of :func:`carry_out`.

    Raises:
        RecipeError: if the file is no study, or a row makes no recipe; the message names it.
    """
    try:
        study = Study.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: cannot be read as YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{path}: {problems}") from None
    folders = [run.folder for run in runs(study)]
    if len(set(folders)) < len(folders):
        raise RecipeError(f"{path}: two rows have the same name")
    for run in runs(study):
        try:
            recipe = recipe_of(path, study, run, overrides)
        except RecipeError as error:
            raise RecipeError(f"{path}: row '{run.row}': {error}") from None
        if recipe.schedule.epochs is None:
            raise RecipeError(f"{path}: row '{run.row}': give its length as schedule.epochs")
    return study


def runs(study: Study) -> list[Run]:
    """All runs, seed by seed and fold by fold, so that each pass through the rows is a whole comparison."""
    return [
        Run(row=row.name, fold=fold, seed=seed, settings={**study.set, **settings, **row.set, "seed": seed})
        for seed in study.seeds
        for fold, settings in study.folds.items()
        for row in study.rows
    ]


def recipe_of(path: Path, study: Study, run: Run, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of one run, with further settings laid over it.

    Raises:
        RecipeError: if recipe and settings do not fit.
    """
    settings = [f"{key}={json.dumps(value)}" for key, value in run.settings.items()]
    return load_recipe(path.parent / study.recipe, [*settings, *overrides])


def carry_out(
    path: Path, output: Path, train: Callable[[Recipe, Path], object], overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Train what is not trained yet and return the comparison so far, which also lies in ``output``.

    A run that was stopped is resumed, a finished one is left alone; so a study may be carried out in pieces.

    Args:
        path: the study's file.
        output: folder for all runs, ``study.json`` and ``study.md``.
        train: trains a recipe in a folder, going on where it stopped.
        overrides: settings such as ``data.train.root=DIR`` for all runs, laid over the study's own.

    Raises:
        RecipeError: if the study cannot be read, or a finished run had other settings.
        ValueError: if data, network or losses do not fit.
    """
    study = load_study(path, overrides)
    for run in runs(study):
        recipe, folder = recipe_of(path, study, run, overrides), output / run.folder
        settings = settings_of_a_run(recipe)
        score = _score(folder / "score.json")
        if score is not None:
            _check_same(folder, score, settings)
            continue
        train(recipe, folder)
        record = {**final_score(folder, recipe), "settings": settings}
        write_atomically(folder / "score.json", json.dumps(record, indent=1).encode())
        _write(study, output)
    return _write(study, output)


def _check_same(folder: Path, score: dict[str, Any], settings: dict[str, Any]) -> None:
    now = json.loads(json.dumps(settings))
    changed = differences(score.get("settings", now), now)
    if changed:
        raise RecipeError(
            f"{folder} was trained with other settings ({changed}), so that runs would not be matched; remove it, or "
            "carry the study out in another folder"
        )


def final_score(folder: Path, recipe: Recipe) -> dict[str, float]:
    """Validation figures of the last epoch of a finished run; NaN where there is no foreground to score.

    Not of its best epoch: choosing that on the data which the score is given for would flatter every run.

    Raises:
        ValueError: if the run's logs hold no validation of its last epoch.
    """
    last: dict[str, str] = {}
    for log in sorted(folder.glob("csv/*/metrics.csv")):
        with log.open() as lines:
            for line in csv.DictReader(lines):
                if line.get("val_miou") and int(line["epoch"]) >= int(last.get("epoch", -1)):
                    last = line
    if not last or int(last["epoch"]) + 1 != recipe.schedule.epochs:
        raise ValueError(f"{folder}: its logs hold no validation of its last epoch")
    return {measure: float(last.get(f"val_{measure}") or math.nan) for measure in MEASURES}


def compare(study: Study, output: Path) -> list[dict[str, Any]]:
    """Each row's mean over finished runs, and its difference to the first row over the runs that both have.

    ``spread`` is the standard deviation of those differences; ``supported`` says whether a mean difference of zero lies
    outside its 95 % confidence interval (Student's t), which takes three pairs or more.
    """
    scores = {(run.row, run.fold, run.seed): _score(output / run.folder / "score.json") for run in runs(study)}
    first = study.rows[0]
    table = []
    for row in study.rows:
        entry: dict[str, Any] = {"row": row.name, "paper": row.paper, "paper_difference": None}
        if row.paper is not None and first.paper is not None:
            entry["paper_difference"] = round(row.paper - first.paper, 4)
        own = {key[1:]: score for key, score in scores.items() if key[0] == row.name and score is not None}
        base = {key[1:]: score for key, score in scores.items() if key[0] == first.name and score is not None}
        entry["runs"] = len(own)
        for measure in MEASURES:
            pairs = [own[key][measure] - base[key][measure] for key in own if key in base and row is not first]
            entry[measure] = _summary([score[measure] for score in own.values()], pairs)
        table.append(entry)
    return table


def _score(path: Path) -> dict[str, float] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _summary(values: Sequence[float], pairs: Sequence[float]) -> dict[str, Any]:
    difference = statistics.fmean(pairs) if pairs else None
    spread = statistics.stdev(pairs) if len(pairs) > 1 else None
    supported = len(pairs) >= 3 and abs(difference) > _t_quantile(len(pairs) - 1) * spread / math.sqrt(len(pairs))
    return {
        "mean": statistics.fmean(values) if values else None,
        "difference": difference,
        "spread": spread,
        "pairs": len(pairs),
        "supported": supported,
    }


_T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t, 0.975, for 1 to 10 degrees of freedom."""


def _t_quantile(freedom: int) -> float:
    """For more than 10 the value of 10, which is a little strict."""
    return _T_QUANTILES[min(freedom, len(_T_QUANTILES)) - 1]


def _write(study: Study, output: Path) -> dict[str, Any]:
    report = {"study": study.name, "source": study.source, "rows": compare(study, output)}
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "study.json", json.dumps(report, indent=1).encode())
    write_atomically(output / "study.md", as_markdown(report).encode())
    return report


HEADINGS = ("row", "runs", "mIoU %", "difference", "f-mIoU %", "difference", "paper's difference")


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [row["row"], str(row["runs"])]
    for measure in ("miou", "f_miou"):
        summary = row[measure]
        cells += [_percent(summary["mean"]), _difference(summary)]
    paper = row["paper_difference"]
    return [*cells, "" if paper is None else f"{paper:+.1f}"]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _difference(summary: dict[str, Any]) -> str:
    if summary["difference"] is None:
        return ""
    text = f"{100 * summary['difference']:+.1f}"
    if summary["spread"] is not None:
        text += f" ± {100 * summary['spread']:.1f}"
    return text if summary["supported"] else f"({text})"


def as_markdown(report: dict[str, Any]) -> str:
    """The comparison as a Markdown table; a difference that the spread does not support stands in brackets."""
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in report["rows"]]
    return "\n".join(lines) + "\n"


def as_table(report: dict[str, Any]) -> Table:
    """The same for the terminal."""
    table = Table(*HEADINGS, title=f"{report['study']} {report['source']}".strip())
    for row in report["rows"]:
        table.add_row(*_cells(row))
    return table
