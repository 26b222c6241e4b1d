"""What is written down of a recipe, and how two of them are told apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drive_seg.training.recipe import Recipe, Source

_MACHINE = ("devices", "nodes", "accumulate", "compile", "precision", "data.workers", "data.cache_gib")
"""Where a run computes, not what."""
_PASSED = ("warm_start", "network.pretrained", "teachers", "schedule.epochs", "schedule.iterations")
"""What a run that goes on has behind it, has checked elsewhere, or may be given more of."""
_WORDS = ("name", "licence", "validate_every")
_SHOWN = 4


def without_folders(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data without folders, which say nothing outside the machine that trained."""
    plain = recipe.model_dump(mode="json")
    for part in ("train", "val"):
        for written, source in zip(plain["data"][part], getattr(recipe.data, part), strict=True):
            for key in set(source.arguments) - set(portable(source)):
                written.pop(key)
    if recipe.network.pretrained is not None:
        plain["network"]["pretrained"] = Path(recipe.network.pretrained).name
    if recipe.warm_start is not None:
        plain["warm_start"] = Path(recipe.warm_start).name
    if recipe.augmentation.style is not None:
        plain["augmentation"]["style"]["folder"] = Path(recipe.augmentation.style.folder).name
    return plain


def portable(source: Source) -> dict[str, Any]:
    """A dataset's arguments without folders and files."""
    return {
        key: value
        for key, value in source.arguments.items()
        if key != "root" and not (isinstance(value, str) and "/" in value)
    }


def settings_of_a_run(recipe: Recipe) -> dict[str, Any]:
    """What decides the outcome of a whole run, by dotted name: all but the machine, folders and words."""
    flat = _flat(without_folders(recipe))
    return {key: value for key, value in flat.items() if not _among(key, (*_MACHINE, *_WORDS))}


def settings_to_go_on(recipe: Recipe) -> dict[str, Any]:
    """What must stay as it is while a run is resumed: of the above, what the rest of it still depends on."""
    return {key: value for key, value in settings_of_a_run(recipe).items() if not _among(key, _PASSED)}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings that are not equal, in words: "optimizer.lr was 0.01 and is 0.1"; empty if all are."""
    changed = [
        f"{key} was {before.get(key)} and is {now.get(key)}"
        for key in dict.fromkeys((*before, *now))
        if before.get(key) != now.get(key)
    ]
    more = f", and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return ", ".join(changed[:_SHOWN]) + more


def _among(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; lists are values, and so is an empty mapping."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
