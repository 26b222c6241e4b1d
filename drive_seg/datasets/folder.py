"""Images and labels of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from drive_seg.datasets.base import (
    LABELS,
    PICTURES,
    Fault,
    LabelledFiles,
    Pair,
    files_in,
    pair_up,
    pick,
    read_lines,
    split_names,
    strays_in,
    unique,
)
from drive_seg.labels import VOC21, VOID, LabelMap, label_map


class Folder(LabelledFiles):
    """A folder of images and label PNGs of the same names, also in subfolders::

        <root>/images/**/NAME.jpg|png|bmp|webp      <root>/labels/**/NAME.png

    A label PNG is one 8-bit channel, or a palette image, whose values are ids of the classes; 255 is void.

    Args:
        root: the folder with images and labels.
        split: which part of it; None is all. Either ``<root>/<split>.txt`` (or a path of such a file), with a name
            such as "monday/000001" on each line (what follows a name after a space is passed over), or the subfolders
            ``images/<split>`` and ``labels/<split>``, or ``<split>/images`` and ``<split>/labels``. Several are joined
            by "+".
        classes: see :func:`read_classes`.
        void: further values of the label files that mean void, as 0 or [0, 254].

    Raises:
        ValueError: if a folder or list is missing or empty, or the classes cannot be understood.
    """

    def __init__(
        self,
        root: str | Path,
        classes: str | Path | Sequence[str] | Mapping[str, Any] | LabelMap,
        split: str | None = None,
        void: int | Iterable[int] = (),
    ) -> None:
        root, known = Path(root), read_classes(classes)
        pairs: list[Pair] = []
        problems: list[Fault] = []
        for part in [None] if split is None else split_names(split):
            some, lonely = _find(root, part)
            pairs, problems = pairs + some, problems + lonely
        unlabelled = [void] if isinstance(void, int) else void
        ids = {i: i for i in range(known.num_classes)} | {_byte(value): VOID for value in unlabelled}
        super().__init__(root, known, pairs, problems, ids)


def read_classes(classes: str | Path | Sequence[str] | Mapping[str, Any] | LabelMap) -> LabelMap:
    """The label map that a user names.

    Args:
        classes: a known label map's name (cityscapes19, camvid11, camvid32, voc21); or a list of class names in the
            order of their ids; or a YAML file with such a list, or with ``name`` and ``classes``, each
            ``{id, name, color: [r, g, b]}`` as checkpoints write them. Colours that are not given are PASCAL VOC's.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(classes, LabelMap):
        return classes
    if isinstance(classes, Mapping):
        return LabelMap.from_dict({"void": VOID, "name": "classes", **classes})
    if not isinstance(classes, (str, Path)):
        return _named("classes", classes)
    path = Path(classes)
    if path.suffix.lower() not in (".yaml", ".yml"):
        return label_map(str(classes))
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {error}") from None
    try:
        if isinstance(data, list):
            return _named(path.stem, data)
        if isinstance(data, dict):
            return LabelMap.from_dict({"void": VOID, "name": path.stem, **data})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    raise ValueError(f"{path}: is neither a list of class names nor a label map")


def _named(name: str, classes: Sequence[str]) -> LabelMap:
    wrong = [c for c in classes if not isinstance(c, str)]
    if wrong:
        raise ValueError(f"class name {wrong[0]!r} is not text; put it in quotes")
    colors = VOC21.colors[1:]
    return LabelMap(name, tuple(classes), tuple(colors[i % len(colors)] for i in range(len(classes))))


def _byte(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= VOID:
        raise ValueError(f"void values are whole numbers of 0 to {VOID}, not {value!r}")
    return value


def _find(root: Path, split: str | None) -> tuple[list[Pair], list[Fault]]:
    if split is None:
        return _pairs(root / "images", root / "labels")
    chosen = next((path for path in (root / f"{split}.txt", root / split, Path(split)) if path.is_file()), None)
    if chosen is not None:
        images, labels = files_in(root / "images", PICTURES), files_in(root / "labels", LABELS)
        lines = read_lines(chosen)
        names = unique([_name_in(line, images) for line in lines], chosen)
        if images and not images.keys() & set(names):
            raise ValueError(
                f"{chosen} names no image: it says '{lines[0]}', but in {root / 'images'} lies '{next(iter(images))}'"
            )
        strays = {} if set(names) <= labels.keys() else strays_in(root / "labels", LABELS)
        return pick(images, labels, names, chosen, strays)
    for images, labels in ((f"images/{split}", f"labels/{split}"), (f"{split}/images", f"{split}/labels")):
        if (root / images).is_dir():
            return _pairs(root / images, root / labels)
    raise ValueError(
        f"split '{split}' is none of {root / f'{split}.txt'}, {root / 'images' / split}, {root / split / 'images'}"
    )


def _pairs(images: Path, labels: Path) -> tuple[list[Pair], list[Fault]]:
    found, partners = files_in(images, PICTURES), files_in(labels, LABELS)
    strays = {} if found.keys() <= partners.keys() else strays_in(labels, LABELS)
    if not found:
        raise ValueError(
            f"{images} holds no images ({', '.join(sorted(PICTURES))})" + _such_as(strays_in(images, PICTURES))
        )
    if not partners:
        raise ValueError(f"{labels} holds no label images (.png, since JPEG changes the ids)" + _such_as(strays))
    if not found.keys() & partners.keys():
        raise ValueError(
            f"no label is called as an image: {images} holds '{next(iter(found))}', {labels} '{next(iter(partners))}' "
            "(names without suffix must be the same)"
        )
    return pair_up(found, partners, strays)


def _such_as(strays: Mapping[str, Path]) -> str:
    if not strays:
        return ""
    others = f"{len(strays)} other file{'' if len(strays) == 1 else 's'}"
    return f"; it holds {others}, as {next(iter(strays.values())).name}"


def _name_in(line: str, images: Mapping[str, Path]) -> str:
    """The name on a line of a list: all of it, or its first word where that alone names an image."""
    whole, first = _without_suffix(line), _without_suffix(line.split()[0])
    return first if whole not in images and first in images else whole


def _without_suffix(name: str) -> str:
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in PICTURES else name
