"""What datasets share: pairs of image and label files, how they are read, and what may be wrong with them."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from drive_seg.datasets.label_files import read_ids, read_picture
from drive_seg.images.files import orientation
from drive_seg.labels import VOID, LabelMap

PICTURES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp"))
LABELS = frozenset((".png",))
_EXIF_BYTES = 256 * 1024
"""An EXIF header is within 64 KiB of a JPEG's beginning; thumbnails of other kinds may come before it."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a file.

    Attributes:
        kind: "missing" (no partner), "unreadable", "size" (label and image differ) or "ids" (outside the label map).
        file: the file it is about.
        detail: what is wrong, to be read after the file's name.
        ids: of the kind "ids", the values found.
    """

    kind: Literal["missing", "unreadable", "size", "ids"]
    file: str
    detail: str
    ids: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.file} {self.detail}"


class BrokenSample(ValueError):  # noqa: N818 - it says what is there, as the faults it carries do
    """A sample that cannot be used; ``faults`` are the reasons, which the message joins."""

    def __init__(self, message: str, faults: Iterable[Fault] = ()) -> None:
        super().__init__(message)  # text first: torch's workers build it anew from that alone
        self.faults = tuple(faults)

    @classmethod
    def by(cls, faults: Iterable[Fault]) -> BrokenSample:
        """The error of these faults."""
        faults = tuple(faults)
        return cls("; ".join(map(str, faults)), faults)


class Pair(NamedTuple):
    """An image and its labels; ``name`` is the same in whichever split the frame stands."""

    name: str
    image: Path
    label: Path


class LabelledFiles:
    """Pairs of an image file and a label file: what the datasets that are made of files have in common.

    Args:
        root: the dataset's folder.
        label_map: what the ids mean.
        pairs: the samples.
        problems: files without a partner.
        raw_ids: value in the label files -> class id or void, where files do not hold the class ids themselves.

    Raises:
        ValueError: if there is neither a pair nor a problem.
    """

    label_map: LabelMap
    reads_in_parallel = True

    def __init__(
        self,
        root: Path,
        label_map: LabelMap,
        pairs: list[Pair],
        problems: list[Fault],
        raw_ids: Mapping[int, int] | None = None,
    ) -> None:
        if not pairs and not problems:
            raise ValueError(f"{root} holds no image with labels")
        self.cache_folder: Path | None = root
        self.label_map, self.problems = label_map, problems
        self._root, self._pairs = root, pairs
        self._table = np.full(256, -1, np.int16)
        for raw, value in (raw_ids or {i: i for i in range(label_map.num_classes)}).items():
            self._table[raw] = value
        self._table[VOID] = VOID

    def __len__(self) -> int:
        return len(self._pairs)

    def name_of(self, i: int) -> str:
        return self._pairs[i].name

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 BGR [H, W, 3] and label uint8 [H, W], class ids and 255 = void, of sample i.

        Raises:
            BrokenSample: if a file cannot be read, sizes differ, or the label holds an id that is no class.
        """
        pair, faults = self._pairs[i], []
        image = raw = None
        try:
            image = read_picture(pair.image)
        except ValueError as error:
            faults.append(Fault("unreadable", str(pair.image), str(error)))
        try:
            raw = self._raw_ids(pair.label)
        except BrokenSample as error:
            faults += error.faults
        except ValueError as error:
            faults.append(Fault("unreadable", str(pair.label), str(error)))
        if raw is not None:
            faults += mismatches(image, raw, self._table >= 0, str(pair.label))
        if faults:
            raise BrokenSample.by(faults)
        return image, cv2.LUT(raw, self._table.astype(np.uint8))

    def is_turned(self, i: int) -> bool:
        """Whether the image of sample i states an EXIF orientation, which :meth:`read` does not follow."""
        try:
            with self._pairs[i].image.open("rb") as file:
                return orientation(file.read(_EXIF_BYTES)) != 1
        except OSError:
            return False

    def fingerprint(self) -> str:
        """A hash over what the values mean and the label files' names, sizes and modification times."""
        digest = hashlib.sha256(repr((self.label_map.names, self._table.tolist())).encode())
        for pair in self._pairs:
            stat = pair.label.stat()
            name = pair.label.relative_to(self._root) if pair.label.is_relative_to(self._root) else pair.label
            digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns};".encode())
        return digest.hexdigest()

    def _raw_ids(self, path: Path) -> np.ndarray:
        """The values of a label file, uint8 [H, W]; ValueError with the reason where it cannot be read."""
        return read_ids(path)


def mismatches(image: np.ndarray | None, label: np.ndarray, known: np.ndarray, name: str) -> list[Fault]:
    """What does not fit: the sizes of label and image (if there is one), and values of the label.

    Args:
        image: [H, W, 3] or None.
        label: uint8 [H, W].
        known: bool [256], which values a label may hold.
        name: of the label, for the message.
    """
    faults = []
    if image is not None and image.shape[:2] != label.shape:
        height, width = image.shape[:2]
        detail = f"is {label.shape[1]}x{label.shape[0]} but its image is {width}x{height}"
        faults.append(Fault("size", name, detail))
    wrong = np.flatnonzero((np.bincount(label.ravel(), minlength=256) > 0) & ~known).tolist()
    if wrong:
        faults.append(
            Fault("ids", name, f"holds the ids {wrong}, which are neither a class nor void ({VOID})", tuple(wrong))
        )
    return faults


def split_names(split: str) -> list[str]:
    """ "train+val" -> ["train", "val"].

    Raises:
        ValueError: if a part is empty or comes twice.
    """
    parts = str(split).split("+")
    if not all(parts) or len(set(parts)) < len(parts):
        raise ValueError(f"split '{split}' must name each part once, joined by +, as train+val")
    return parts


def files_in(folder: Path, suffixes: Iterable[str], ending: str = "") -> dict[str, Path]:
    """The files of a folder and its subfolders by name: their path in it without suffix and ``ending``.

    Files whose stem does not end so, hidden ones and other suffixes are left out.

    Raises:
        ValueError: if there is no such folder, or two files have the same name.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.stem.endswith(ending):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix().removesuffix(ending)
        if name in found:
            raise ValueError(f"{found[name]} and {path} have the same name; which of them is meant?")
        found[name] = path
    return found


def strays_in(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """The files of a folder that :func:`files_in` passes over for their suffix, by the same names."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in files
        if path.suffix.lower() not in suffixes
    }


def pair_up(
    images: dict[str, Path], labels: dict[str, Path], strays: Mapping[str, Path] | None = None
) -> tuple[list[Pair], list[Fault]]:
    """Images and labels of the same name, in the order of names, and the files that have no partner.

    ``strays`` are files beside the labels that are no PNG.
    """
    strays = strays or {}
    pairs = [Pair(name, images[name], labels[name]) for name in sorted(images.keys() & labels.keys())]
    lonely = [
        (path, f"has no label image{_but(strays.get(name))}") for name, path in images.items() if name not in labels
    ]
    lonely += [(path, "has no image") for name, path in labels.items() if name not in images]
    return pairs, [Fault("missing", str(path), reason) for path, reason in sorted(lonely)]


def _but(stray: Path | None) -> str:
    return "" if stray is None else f": {stray.name} is none, labels must be PNG (JPEG changes the ids)"


def pick(
    images: dict[str, Path],
    labels: dict[str, Path],
    names: Iterable[str],
    chosen_by: Path,
    strays: Mapping[str, Path] | None = None,
) -> tuple[list[Pair], list[Fault]]:
    """The pairs that a list names, in its order, and what it names in vain; other files do not matter.

    ``strays`` as for :func:`pair_up`.
    """
    pairs, problems, strays = [], [], strays or {}
    for name in names:
        lacking = [what for what, found in (("image", images), ("label image", labels)) if name not in found]
        if lacking:
            but = _but(strays.get(name)) if lacking == ["label image"] else ""
            detail = f"names '{name}', which has no {' and no '.join(lacking)}{but}"
            problems.append(Fault("missing", str(chosen_by), detail))
        else:
            pairs.append(Pair(name, images[name], labels[name]))
    return pairs, problems


def read_list(path: Path) -> list[str]:
    """The first word of each line of a text file.

    Raises:
        ValueError: as :func:`read_lines`, or if a word comes twice.
    """
    return unique([line.split()[0] for line in read_lines(path)], path)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without space around them; in UTF-8, or in UTF-16 where it says so.

    Raises:
        ValueError: if it cannot be read, or names nothing.
    """
    try:
        content = path.read_bytes()
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = content.decode("utf-16" if is_wide else "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a list of names: {error}") from None
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise ValueError(f"{path} names nothing")
    return lines


def unique(names: list[str], path: Path) -> list[str]:
    """The names of a list, which must not hold one twice.

    Raises:
        ValueError: it does.
    """
    doubled = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if doubled:
        raise ValueError(f"{path} names '{doubled[0]}' more than once")
    return names
