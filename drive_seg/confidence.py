"""What a contract says about confidence: the temperature that calibrates it, and how sure the model usually is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np

COOLEST, HOTTEST = 0.05, 20.0
"""Temperatures from the one to the other are taken; beyond them every confidence is 1, or 1 / classes."""
WARMTH, SURE, FAR = 3.0, 0.5, 0.4
"""Whole frames are judged at so many times the temperature: at 1 most pixels of a good model are next to certain, which
a byte cannot tell apart. A pixel is sure there if it is so as the surer half of the validation's. A frame with less
than 0.4 of the usual share of sure pixels is not one that the model was made for. On frames by day, in the dark, upside
down, blurred and of no road this finds more of the bad masks at as few false alarms than mean confidence, entropy or
the share of unsure pixels. ``drive-seg self-check`` measures it of a model."""


@dataclass(frozen=True)
class FrameConfidence:
    """How sure a model is of one frame.

    Attributes:
        mean: confidence over its pixels at :attr:`Confidence.frame_temperature`, 0..1.
        sure: share of its pixels that are as sure as half of those of the model's validation, see :class:`Usual`; None
            if the contract does not say how sure these are.
    """

    mean: float
    sure: float | None = None


@dataclass(frozen=True)
class Usual:
    """How sure a model is of the frames that it was validated on.

    Attributes:
        frames: how many there were.
        sure_from: the confidence from which on a pixel is sure: the pixels' median at
            :attr:`Confidence.frame_temperature`, 0..1.
        sure: the frames' mean share of sure pixels, 0..1; a half but for ties.
        data: what they were, in words.
    """

    frames: int
    sure_from: float
    sure: float
    data: str = ""

    def __post_init__(self) -> None:
        if self.frames < 1 or not all(0 < value <= 1 for value in (self.sure_from, self.sure)):
            raise ValueError(f"usual confidence {asdict(self)}: frames is not 1 or more, or another figure not in 0..1")

    @property
    def least(self) -> float:
        """A frame with a smaller share of sure pixels is not one that the model was made for."""
        return FAR * self.sure

    def share(self, plane: np.ndarray) -> float:
        """The share of a confidence image's pixels that are sure, 0..1."""
        return float(np.mean(plane >= self._bound))

    @property
    def _bound(self) -> int:
        return min(round(255 * self.sure_from), 254)  # beyond that rounding would decide

    @classmethod
    def of(cls, planes: Sequence[np.ndarray], data: str = "") -> Usual | None:
        """Of frames' confidences at the frames' temperature, uint8; None if there is no frame or nothing is sure."""
        if not len(planes):
            return None
        shares = np.mean([np.bincount(plane.ravel(), minlength=256) / plane.size for plane in planes], axis=0)
        sure_from = int(np.searchsorted(shares.cumsum(), SURE))
        if not sure_from:
            return None
        usual = cls(len(planes), round(sure_from / 255, 4), 1.0, data)
        return replace(usual, sure=round(float(np.mean([usual.share(plane) for plane in planes])), 4))


@dataclass(frozen=True)
class Confidence:
    """How a model's confidence is to be taken.

    Attributes:
        temperature: logits are divided by it before the softmax whose maximum is the confidence (C. Guo et al., "On
            Calibration of Modern Neural Networks", ICML 2017, eq. 9). It changes no class id.
        fitted_on: what the temperature was fitted on, in words.
        usual: how sure the model is of whole frames of the kind that it was validated on; None if nobody measured it.
    """

    temperature: float = 1.0
    fitted_on: str = ""
    usual: Usual | None = None

    def __post_init__(self) -> None:
        if not COOLEST <= self.temperature <= HOTTEST:
            raise ValueError(f"temperature {self.temperature} is not from {COOLEST} to {HOTTEST}; 1 changes nothing")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without what is left at its default; empty if all is."""
        data = {key: value for key, value in asdict(self).items() if value}
        if self.temperature == 1:
            del data["temperature"]
        return data

    @property
    def frame_temperature(self) -> float:
        """At which whole frames are judged."""
        return WARMTH * self.temperature

    def of_frame(self, plane: np.ndarray) -> FrameConfidence:
        """How sure the model is of a frame, from confidences at the frames' temperature, uint8 [h, w]."""
        return FrameConfidence(cv2.mean(plane)[0] / 255, None if self.usual is None else self.usual.share(plane))

    @classmethod
    def from_dict(cls, data: Any) -> Confidence:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: if a key is unknown, missing or has a value of the wrong kind.
        """
        values = _checked("confidence", data, {"temperature": float, "fitted_on": str, "usual": Mapping})
        if "usual" in values:
            kinds = {"frames": int, "sure_from": float, "sure": float, "data": str}
            usual = _checked("confidence.usual", values["usual"], kinds)
            if missing := [key for key in kinds if key not in usual and key != "data"]:
                raise ValueError(f"confidence.usual lacks {', '.join(missing)}")
            values["usual"] = Usual(**usual)
        return cls(**values)


def _checked(name: str, data: Any, kinds: Mapping[str, type]) -> dict[str, Any]:
    """The keys and values of a mapping, each of its kind."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{name} is not a list of keys with values, but {data!r}; the keys are {', '.join(kinds)}")
    for key, value in data.items():
        if key not in kinds:
            raise ValueError(f"{name} has no key {key!r}; the keys are {', '.join(kinds)}")
        wanted = (int, float) if kinds[key] is float else kinds[key]
        finite = not isinstance(value, float) or math.isfinite(value)
        if not isinstance(value, wanted) or isinstance(value, bool) or not finite:
            raise ValueError(f"{name}.{key} cannot be {value!r}")
    return dict(data)
