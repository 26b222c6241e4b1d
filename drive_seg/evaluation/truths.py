"""Ground truth of a replay: a label topic matched by stamp, a folder of label PNGs, or none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from drive_seg.evaluation.stamped_masks import StampedMasks
from drive_seg.images.messages import ImageError, decode_label
from drive_seg.labels import CITYSCAPES19, VOID, LabelMap, label_map
from drive_seg.labels.groups import known_meaning, translation
from drive_seg.recordings.reading import TRUTH, Reading, Taken
from drive_seg.recordings.sources import SourceError
from drive_seg.recordings.sources.folder import natural_order

STAMP = re.compile(r"\d{16,19}")
SPLIT_STAMP = re.compile(r"(\d{1,10})[_.](\d{9})")
CAMERA = "{camera}"

Find = Callable[[Taken], np.ndarray | None]


@dataclass(frozen=True)
class TruthChoice:
    """What the user said about ground truth.

    Attributes:
        topic: the label topic of a bag; ``{camera}`` in it stands for the camera's name. None looks for
            ``<camera>/label_truth``, or one ``label_truth`` anywhere if there is one camera.
        folder: a folder of label PNGs instead; with several cameras it holds a folder named as each of them.
        classes: name of the label map of its ids; None is that on the topic ``label_map`` beside the label topic, that
            of a synthetic drive, else the model's own.
    """

    topic: str | None = None
    folder: Path | None = None
    classes: str | None = None

    @property
    def is_asked_for(self) -> bool:
        return any((self.topic, self.folder, self.classes))

    def topics(self) -> list[str]:
        """Patterns of the topics that hold truths, not a camera's images."""
        return [self.topic.replace(CAMERA, "*")] if self.topic else []


class Truths:
    """The true labels of a reading's images, in the ids of the model: classes, and groups where a truth tells no finer.

    Attributes:
        ids: the ids that the labels can hold.
        groups: the class ids of each group; ``C + g`` in a label says "one of the classes of group g".
    """

    def __init__(self, find: dict[str, Find], sources: dict[str, LabelMap], target: LabelMap) -> None:
        self._find, self._sources = find, sources
        groups: list[tuple[int, ...]] = []
        self._tables = {camera: truth_table(source, target, groups) for camera, source in sources.items()}
        self.groups = tuple(groups)
        known = [self._tables[camera][: source.num_classes] for camera, source in sources.items()]
        self.ids = tuple(int(i) for i in np.unique(np.concatenate(known)) if i != VOID)

    def of(self, taken: Taken) -> np.ndarray | None:
        """The true label of an image, uint8 [H, W], 255 = void; None if it has none.

        Raises:
            ImageError: there is one, but it cannot be used.
        """
        find = self._find.get(taken.camera)
        label = find(taken) if find is not None else None
        if label is None:
            return None
        source = self._sources[taken.camera]
        unknown = label[(label >= source.num_classes) & (label != VOID)]
        if unknown.size:
            raise ImageError(f"it holds id {unknown.max()}, which is no class of {source.name}")
        return self._tables[taken.camera][label]


def open_truths(choice: TruthChoice, reading: Reading, target: LabelMap) -> tuple[Truths | None, str]:
    """The truth of a source, and a remark if there is some that cannot be used though nobody asked for it.

    Raises:
        ValueError: what was asked for is not there, or its classes are not the model's.
    """
    if choice.topic and choice.folder:
        raise ValueError("the truth is either a topic or a folder, not both")
    synthetic = reading.spec.startswith("synth:") and choice.folder is None
    topics: dict[str, str] = {}
    if choice.folder is not None:
        find = _of_folder(choice.folder, reading)
    elif synthetic:
        find = dict.fromkeys(reading.topics, _beside)
    else:
        topics = _truth_topics(choice.topic, reading)
        find = {camera: StampedMasks(reading.source, topic, reading).find for camera, topic in topics.items()}
    if not find:
        if choice.is_asked_for:
            raise SourceError(
                f"{reading.spec} has no {TRUTH} topic; name one by --truth-topic, or a folder by --truth."
            )
        return None, ""
    if choice.classes:
        sources = dict.fromkeys(find, label_map(choice.classes))
    elif synthetic:
        sources = dict.fromkeys(find, CITYSCAPES19)
    else:
        sources = {camera: _map_beside(reading, topics.get(camera)) or target for camera in find}
    try:
        return Truths(find, sources, target), ""
    except ValueError as error:
        if choice.is_asked_for:
            raise
        return None, f"No frame is scored: {error}."


def same_classes(source: LabelMap, target: LabelMap, whose: str, target_whose: str) -> np.ndarray:
    """The table that turns ids of one label map into those of another by the names of the classes (case set aside).

    Returns:
        uint8 [256]; 255 for ids without a class.

    Raises:
        ValueError: a class of the source has no namesake.
    """
    places = {name.casefold(): i for i, name in enumerate(target.names)}
    missing = [name for name in source.names if name.casefold() not in places]
    if missing:
        raise ValueError(
            f"{whose} has the classes of '{source.name}', {target_whose} those of '{target.name}', "
            f"where nothing is called {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}"
        )
    table = np.full(256, VOID, np.uint8)
    table[: source.num_classes] = [places[name.casefold()] for name in source.names]
    return table


def truth_table(source: LabelMap, target: LabelMap, groups: list[tuple[int, ...]]) -> np.ndarray:
    """As :func:`same_classes`, or else by what is known of the two label maps; new groups are appended."""
    try:
        return same_classes(source, target, "the truth", "the model")
    except ValueError:
        meaning = known_meaning(source.name, target.name)
        # a map of one's own may bear a known name
        if set(meaning) != set(source.names) or not set().union(*meaning.values()) <= set(target.names):
            raise
    return translation(source, target, meaning, groups)


def _beside(taken: Taken) -> np.ndarray | None:
    return taken.truth.label() if taken.truth is not None else None


def _map_beside(reading: Reading, topic: str | None) -> LabelMap | None:
    """The label map on the topic ``label_map`` in the folder of a label topic; None if there is none."""
    if topic is None:
        return None
    name = f"{topic.rpartition('/')[0]}/label_map".strip("/")
    for found in (each.name for each in reading.available if each.name.strip("/") == name):
        for record in reading.source.select([found]):
            try:
                return LabelMap.from_dict(json.loads(record.message.message().data))
            except (ValueError, AttributeError) as error:
                raise SourceError(f"{reading.spec}: {found} is no label map: {error}") from error
    return None


def _truth_topics(wished: str | None, reading: Reading) -> dict[str, str]:
    """Camera -> its label topic, of those that have one."""
    names = {topic.name.strip("/"): topic.name for topic in reading.available}
    if wished is not None:
        if CAMERA not in wished and len(reading.topics) > 1:
            raise SourceError(
                f"{reading.spec} has the cameras {', '.join(reading.topics)}: choose one by --topic, or write "
                f"{CAMERA} in --truth-topic."
            )
        found = {camera: wished.replace(CAMERA, camera).strip("/") for camera in reading.topics}
        absent = sorted({topic for topic in found.values() if topic not in names})
        if absent:
            raise SourceError(f"{reading.spec} has no topic '{absent[0]}'; it has {', '.join(names)}.")
        return {camera: names[topic] for camera, topic in found.items()}
    found = {camera: f"{camera}/{TRUTH}" for camera in reading.topics if f"{camera}/{TRUTH}" in names}
    elsewhere = [name for name in names if name.split("/")[-1] == TRUTH]
    if not found and len(reading.topics) == len(elsewhere) == 1:
        found = {next(iter(reading.topics)): elsewhere[0]}
    return {camera: names[topic] for camera, topic in found.items()}


def _of_folder(folder: Path, reading: Reading) -> dict[str, Find]:
    if not folder.is_dir():
        raise SourceError(f"The folder of truths {folder} does not exist.")
    if len(reading.topics) == 1:
        camera = next(iter(reading.topics))
        inner = folder / camera
        return {camera: LabelFiles(inner if inner.is_dir() else folder, reading).find}
    found = {
        camera: LabelFiles(folder / camera, reading).find for camera in reading.topics if (folder / camera).is_dir()
    }
    if not found:
        raise SourceError(f"{folder} must hold a folder for each camera: {', '.join(reading.topics)}.")
    return found


class LabelFiles:
    """Label PNGs (8-bit grey, ids, 255 = void) of a folder, by one of four kinds of names, looked for in this order:

    1. of an image folder, the images' own: ``0016E5_07959.png`` for ``0016E5_07959.jpg``;
    2. the stamp in ns: ``1700000000100000000.png`` (16 to 19 digits);
    3. the stamp in parts: ``1700000000_100000000.png`` or with a dot, nanoseconds with 9 digits;
    4. the image's number in its source, from 0: ``000012.png`` or ``12.png``.

    The first kind that fits any file is that of the whole folder; files of other names are passed over.

    Raises:
        SourceError: no name is of any kind, two files are for one image, or images have numbers that a slice of a bag
            does not tell.
    """

    def __init__(self, folder: Path, reading: Reading) -> None:
        files = sorted((p for p in folder.glob("*.png") if not p.name.startswith(".")), key=natural_order)
        self._files: dict[int | str, Path] = {}
        self._reading, self._by_stamp = reading, False
        self._key: Callable[[Taken], int | str]
        own = [file for file in files if file.stem in set(reading.stems)]
        stamped = [file for file in files if STAMP.fullmatch(file.stem)]
        split = [file for file in files if SPLIT_STAMP.fullmatch(file.stem)]
        numbered = [file for file in files if file.stem.isdigit() and not STAMP.fullmatch(file.stem)]
        if own:
            self._key = lambda taken: reading.stems[taken.number]
            self._add(own, lambda stem: stem)
        elif stamped or split:
            self._key, self._by_stamp = lambda taken: taken.record.stamp_ns, True
            self._add(stamped, int) if stamped else self._add(split, _joined_stamp)
        elif numbered:
            if reading.is_bag and reading.part.start > 0:
                raise SourceError(
                    f"The labels in {folder} are numbered, and the numbers of a bag's images are not known from a "
                    "later start on: name them by stamps, or leave --start out."
                )
            self._key = lambda taken: self._sure_number(taken, reading)
            self._add(numbered, int)
        else:
            raise SourceError(
                f"{folder} has no label PNG that is named by a stamp in ns, by SECONDS_NANOSECONDS, by the image's "
                "number, or as the image file."
            )

    def find(self, taken: Taken) -> np.ndarray | None:
        """The label of an image, uint8 [H, W] as stored; None if it has none.

        Raises:
            ImageError: the file is no such label, or several images have its stamp.
        """
        path = self._files.get(self._key(taken))
        if path is None:
            return None
        if self._by_stamp and (images := self._reading.place_of(taken)[1]) > 1:
            raise ImageError(f"{path.name}: {images} images have its stamp, and whose it is is not known")
        try:
            return decode_label(SimpleNamespace(format="png", data=path.read_bytes()))
        except (OSError, ImageError) as error:
            raise ImageError(f"{path.name}: {error}") from error

    def _add(self, files: list[Path], key: Callable[[str], int | str]) -> None:
        for file in files:
            other = self._files.setdefault(key(file.stem), file)
            if other is not file:
                raise SourceError(f"{other} and {file.name} are labels of the same image.")

    @staticmethod
    def _sure_number(taken: Taken, reading: Reading) -> int:
        if reading.is_bag and reading.damaged:
            raise ImageError("its number is not known: a message before it is damaged")
        return taken.number


def _joined_stamp(stem: str) -> int:
    seconds, nanoseconds = SPLIT_STAMP.fullmatch(stem).groups()
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
