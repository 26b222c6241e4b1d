"""Frames of validation that are in training too: scores on them would say nothing about new images."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

_THUMBNAIL = (16, 16)
_ALIKE = 0.05
"""Mean difference of thumbnails, as a share of their contrast, up to which frames of one name are the same picture.

On CamVid, another size and a JPEG quality of 50 make at most 0.02; train frames apart in time differ by 0.11 or more.
"""
_TWIN = 0.025
"""The same for frames of different names. On CamVid, neighbours of a shot differ by as little when the car stands."""


@dataclass(frozen=True)
class Look:
    """What is kept of an image to know it again: its name, a hash of its pixels, a grey thumbnail uint8 [16, 16]."""

    name: str
    digest: bytes
    thumbnail: np.ndarray


def look_of(name: str, image: np.ndarray) -> Look:
    """Of an image uint8 BGR [H, W, 3]."""
    grey = cv2.cvtColor(cv2.resize(image, _THUMBNAIL, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    digest = hashlib.blake2b(repr(image.shape).encode() + np.ascontiguousarray(image).data, digest_size=16).digest()
    return Look(name, digest, grey)


@dataclass
class Leaks:
    """Validation frames by how they resemble training.

    Attributes:
        shared: certainly there too: the same pixels, or the same name and look.
        twins: of another name, but looking the same: stored anew under that name, or a moment apart in one shot.
        namesakes: of the same name, but looking different.
    """

    shared: list[str] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)
    namesakes: list[str] = field(default_factory=list)


def find_leaks(train: Sequence[Look], val: Sequence[Look]) -> Leaks:
    """Compare each validation frame with all of training."""
    if not train:
        return Leaks()
    pictures = {look.digest: look.name for look in train}
    places = defaultdict(list)
    for i, look in enumerate(train):
        places[look.name].append(i)
    thumbnails = np.array([look.thumbnail.ravel() for look in train], np.float32)
    contrast = thumbnails.std(1)
    leaks = Leaks()
    for look in val:
        if look.digest in pictures:
            leaks.shared.append(_both(look.name, "is", pictures[look.digest]))
            continue
        own = look.thumbnail.astype(np.float32).ravel()
        difference = np.abs(thumbnails - own).mean(1)
        scale = np.minimum(contrast, own.std())
        namesakes = places.get(look.name, [])
        if (difference[namesakes] < _ALIKE * scale[namesakes]).any():
            leaks.shared.append(look.name)
        elif (difference < _TWIN * scale).any():
            nearest = int(np.argmin(difference - _TWIN * scale))
            leaks.twins.append(_both(look.name, "looks like", train[nearest].name))
        elif namesakes:
            leaks.namesakes.append(look.name)
    return Leaks(*(list(dict.fromkeys(names)) for names in (leaks.shared, leaks.twins, leaks.namesakes)))


def _both(val: str, verb: str, train: str) -> str:
    return val if val == train else f"{val} {verb} {train} of train"
