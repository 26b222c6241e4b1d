"""``drive-seg pseudo-label``: finished models label images where they are sure: a dataset to look at and to train on.

Each teacher makes statements, "this pixel is one of these classes", or none where it is not sure. What several say is
what all of them allow: the finer statement where one is within the other, void where they contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import track

from drive_seg.datasets.folder import read_classes
from drive_seg.files import write_atomically, written_aside
from drive_seg.images.overlay import blend, legend_panel
from drive_seg.inference.runtimes import Size
from drive_seg.inference.runtimes.entry import Tell
from drive_seg.labels import VOID, LabelMap
from drive_seg.labels.groups import group_names
from drive_seg.recordings.segment import Images
from drive_seg.recordings.sources import SourceError
from drive_seg.training.recipe import Teacher as Settings
from drive_seg.training.teachers import Members, Teacher

_LEVELS = 1 << 16
"""Steps of a confidence: those of a frequent class differ in the fourth digit alone."""


class Plan(BaseModel):
    """Who labels, and in whose terms.

    ``label_map``: the classes of the run, by name or as a file, see the dataset ``folder``; ``teachers``: one or more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    label_map: str
    teachers: list[Settings] = Field(min_length=1)


@dataclass(frozen=True)
class Outcome:
    """What was written.

    Attributes:
        folder: where.
        images: how many.
        shares: of all pixels, by the name of a class or group, and of void.
    """

    folder: Path
    images: int
    shares: dict[str, float]


class Witness:
    """A teacher that makes statements about images.

    Attributes:
        statements: the classes of the run that each names; the number after the last is silence.
        bounds: int64 [statements and silence], the confidence from which each counts, of 0..65535.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self.statements: list[Members] = list(dict.fromkeys(filter(None, teacher.members)))
        self._counts = np.zeros((len(self.statements) + 1, _LEVELS), np.int64)
        least = round(teacher.settings.min_confidence * (_LEVELS - 1))
        self.bounds = np.full(len(self._counts), least, np.int64)

    def __call__(self, image: np.ndarray, size: Size, device: str) -> np.ndarray:
        """The most probable statement at each pixel, and its probability.

        One that lies within another, as road within road/sidewalk, counts for that one's probability, too. Where the
        classes that mean nothing in the run are together more probable, it is silent.

        Args:
            image: uint8 BGR [H, W, 3].
            size: (height, width) of the answer.
            device: where the network runs, if it is a checkpoint.

        Returns:
            uint16 [2, *size]: number of the statement, and 65535 x its probability.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None]
        p, members = self._teacher.probabilities(pixels, size), self._teacher.members
        exact = [p[0, [i for i, own in enumerate(members) if own == said]].sum(0) for said in (*self.statements, ())]
        said = torch.stack(exact).argmax(0, keepdim=True)
        sums = torch.cat((self._teacher.sums(p, self.statements)[0], exact[-1][None]))
        sure = sums.gather(0, said).clamp(0, 1) * (_LEVELS - 1)
        return torch.cat((said, sure.round().long())).cpu().numpy().astype(np.uint16)

    def count(self, answer: np.ndarray) -> None:
        """Remember how sure it was of each statement."""
        places = answer[0].astype(np.int64) * _LEVELS + answer[1]
        self._counts += np.bincount(places.ravel(), minlength=self._counts.size).reshape(self._counts.shape)

    @property
    def keeps_a_share(self) -> bool:
        return self._teacher.settings.keep < 1

    def raise_bounds(self) -> None:
        """Of each statement keep the most confident share (class-balanced self-training, Y. Zou et al., ECCV 2018,
        section 4.2: exp(-k_c)), so that a rare class, of which a network is less sure, does not get lost.
        """
        if not self.keeps_a_share:
            return
        up = self._counts[:, ::-1].cumsum(1)[:, ::-1]  # pixels of this confidence and above
        level = (up >= self._teacher.settings.keep * up[:, :1]).sum(1) - 1
        self.bounds = np.maximum(self.bounds, level)

    def decided(self, answer: np.ndarray) -> np.ndarray:
        """The statements of an answer that count: uint8 [H, W], as many as there are statements where none does."""
        silence = len(self.statements)
        return np.where(answer[1] >= self.bounds[answer[0]], answer[0], silence).astype(np.uint8)

    def to_dict(self, names: dict[Members, str]) -> dict[str, Any]:
        levels = zip(self.statements, self.bounds[:-1].tolist(), strict=True)
        bounds = {names[said]: round(level / (_LEVELS - 1), 4) for said, level in levels}
        return {**self._teacher.origin, "licence": self._teacher.licence, "bounds": bounds}


class Agreement:
    """What several witnesses say together.

    Args:
        statements: of each witness.
        num_classes: of the run.

    Attributes:
        found: what a label can say, single classes first: id -> classes of the run.
    """

    def __init__(self, statements: Sequence[Sequence[Members]], num_classes: int) -> None:
        anything = tuple(range(num_classes))
        sets: list[Members] = [*statements[0], anything]
        self._tables: list[np.ndarray] = []
        for own in statements[1:]:
            both = [[tuple(sorted(set(one) & set(other))) for other in (*own, anything)] for one in sets]
            merged = list(dict.fromkeys(one for row in both for one in row))
            self._tables.append(np.array([[merged.index(one) for one in row] for row in both]))
            sets = merged
        told = [one for one in dict.fromkeys(sets) if one and one != anything]
        self.found = sorted(told, key=lambda one: (len(one) > 1, one))
        if len(self.found) > VOID:
            raise ValueError(f"the teachers tell {len(self.found)} groups of classes apart; up to {VOID} are possible")
        self._ids = np.array([self.found.index(one) if one in self.found else VOID for one in sets], np.uint8)

    def __call__(self, said: Sequence[np.ndarray]) -> np.ndarray:
        """The label uint8 [H, W] of what each witness says, see :meth:`Witness.decided`."""
        together, *rest = said
        for table, own in zip(self._tables, rest, strict=True):
            together = table[together, own]
        return self._ids[together]


def pseudo_label(
    plan: Plan,
    sources: Sequence[str],
    output: Path,
    width: int | None = None,
    step: int = 1,
    void_below: float = 1.0,
    device: str = "cpu",
    tell: Tell = print,
    progress: bool = True,
) -> Outcome:
    """Write a dataset for ``folder``: ``images/``, ``labels/``, ``classes.yaml``; beside it ``overlay/`` to look at.

    ``teachers.yaml`` says whose labels these are: names, hashes, licences, settings, bounds, shares of classes.

    Args:
        plan: who labels.
        sources: images, folders, videos, bags or drives, as of :func:`~drive_seg.recordings.segment.Images`. Images of
            one stand in a subfolder of its name, a single image in one of its folder's name.
        output: a folder without labels.
        width: of the stored images in pixels, where they are wider; teachers see them as they are.
        step: every which frame of a video, bag or drive; of a folder all images are taken.
        void_below: share of the height below which all is void, where the vehicle's own bonnet is: teachers that never
            saw one take it for road.
        device: where checkpoints run.
        tell: called with what is left out: other cameras of a bag, images that cannot be decoded.
        progress: show a progress bar.

    Raises:
        ValueError: if a teacher does not fit, two images would have the same name, or there are labels already.
        SourceError: if a source cannot be read, or none holds an image.
        OSError: if something cannot be written.
    """
    if (output / "labels").exists():
        raise ValueError(f"{output} holds labels already: name another folder, or remove that one")
    classes = read_classes(plan.label_map)
    teachers = [Teacher(settings, classes) for settings in plan.teachers]
    output.mkdir(parents=True, exist_ok=True)
    for teacher in teachers:
        teacher.to(torch.device(device))
    witnesses = [Witness(teacher) for teacher in teachers]
    agreement = Agreement([witness.statements for witness in witnesses], classes.num_classes)
    labels = _label_map(output.name, classes, agreement.found)
    counts, images = np.zeros(VOID + 1, np.int64), 0
    for name, image, answers in _answers(witnesses, _pictures(sources, width, step, tell, progress), output, device):
        label = agreement([one.decided(answer) for one, answer in zip(witnesses, answers, strict=True)])
        label[round(void_below * len(label)) :] = VOID
        _write_picture(output / "labels" / f"{name}.png", label)
        panel = legend_panel(labels, len(image))
        overlay = blend(image, labels.colorize(label), 0.5)
        _write_picture(output / "overlay" / f"{name}.jpg", np.hstack((overlay, panel)))
        counts += np.bincount(label.ravel(), minlength=len(counts))
        images += 1
    if not images:
        raise SourceError("the sources hold no image that can be read")
    part = (counts / counts.sum()).tolist()
    shares = {**{name: part[i] for i, name in enumerate(labels.names)}, "void": part[VOID]}
    names = dict(zip(agreement.found, labels.names, strict=True))
    names |= {one: group_names(classes, [one])[0] for witness in witnesses for one in witness.statements}
    about = {
        "label_map": classes.name,
        "teachers": [witness.to_dict(names) for witness in witnesses],
        "sources": [Path(source).name for source in sources],
        "images": images,
        "shares": {name: round(share, 5) for name, share in shares.items()},
    }
    for file, data in (("classes.yaml", labels.to_dict()), ("teachers.yaml", about)):
        write_atomically(output / file, yaml.safe_dump(data, sort_keys=False, default_flow_style=None).encode())
    return Outcome(output, images, shares)


def _answers(
    witnesses: Sequence[Witness], pictures: Iterator[tuple[str, np.ndarray, Size]], output: Path, device: str
) -> Iterator[tuple[str, np.ndarray, list[np.ndarray]]]:
    """Name, stored image and what each witness says of all pictures; the images are written.

    Where a witness keeps a share, all are asked before the first answer is given.
    """
    asked = _asked(witnesses, pictures, output, device)
    if not any(witness.keeps_a_share for witness in witnesses):
        yield from asked
        return
    with TemporaryDirectory(dir=output, prefix=".answers_") as spool:
        kept = []
        for name, image, answers in asked:
            for witness, answer in zip(witnesses, answers, strict=True):
                witness.count(answer)
            kept.append((name, Path(spool) / f"{len(kept)}.npz"))
            np.savez_compressed(kept[-1][1], image, *answers)
        for witness in witnesses:
            witness.raise_bounds()
        for name, file in kept:
            image, *answers = np.load(file).values()
            yield name, image, answers


def _asked(
    witnesses: Sequence[Witness], pictures: Iterator[tuple[str, np.ndarray, Size]], output: Path, device: str
) -> Iterator[tuple[str, np.ndarray, list[np.ndarray]]]:
    written: set[str] = set()
    for name, image, size in pictures:
        if name in written:
            raise ValueError(f"two images would be called {name}: rename one, or a source's file or folder")
        written.add(name)
        answers = [witness(image, size, device) for witness in witnesses]
        stored = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA) if image.shape[:2] != size else image
        _write_picture(output / "images" / f"{name}.png", stored)
        yield name, stored, answers


def _pictures(
    sources: Sequence[str], width: int | None, step: int, tell: Tell, progress: bool
) -> Iterator[tuple[str, np.ndarray, Size]]:
    """Name, image uint8 BGR [H, W, 3] and the (height, width) in which it is stored."""
    for source in sources:
        images, path = Images(source, None, tell), Path(source).expanduser()
        single = path.is_file() and images.named
        place = path.absolute().parent.name if single else path.stem.replace(":", "_")
        every = images if images.named else islice(images, 0, None, step)
        for stem, image in track(every, total=_count(images, step), description=place, disable=not progress):
            full = image.shape[:2]
            size = full if width is None or width >= full[1] else (max(1, round(full[0] * width / full[1])), width)
            yield f"{place}/{stem}", image, size
        for remark in images.remarks():
            tell(remark)


def _count(images: Images, step: int) -> int | None:
    return images.expected if images.named or images.expected is None else -(-images.expected // step)


def _label_map(name: str, classes: LabelMap, found: Sequence[Members]) -> LabelMap:
    """The classes and groups that are told, by the names that mean them in ``classes``; a group as its first class."""
    return LabelMap(
        name or "pseudo", group_names(classes, found), tuple(classes.colors[members[0]] for members in found)
    )


def _write_picture(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        if not cv2.imwrite(str(aside), picture):
            raise OSError(f"{path} cannot be written")
