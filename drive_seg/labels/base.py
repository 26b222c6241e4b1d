"""The type of a label map: the classes of a mask by id, and their colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

VOID = 255
"""The id of pixels that carry no label: never a class, never counted, painted black."""

BACKGROUND = frozenset(("road", "sidewalk", "pavement", "building", "vegetation", "tree", "sky", "background"))
"""The background classes of FBNet's footnote 1 as Cityscapes and CamVid call them, and PASCAL VOC's, in lower case."""

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class LabelMap:
    """The classes of a mask: the id of a class is its place in ``names``.

    Attributes:
        name: what this set of classes is called, e.g. ``cityscapes19``.
        names: class names, unique, in the order of their ids 0..C-1.
        colors: one (red, green, blue) triple of 0..255 per class.

    Raises:
        ValueError: if names repeat or are empty, colours do not match names, or there are no or over 255 classes.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[RGB, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= VOID:
            raise ValueError(f"label map '{self.name}' has {len(self.names)} classes; 1 to {VOID} are possible")
        if len(self.colors) != len(self.names):
            raise ValueError(f"label map '{self.name}' has {len(self.names)} names and {len(self.colors)} colours")
        doubled = sorted({name for name in self.names if self.names.count(name) > 1})
        if doubled or not all(self.names):
            raise ValueError(f"label map '{self.name}' has doubled or empty class names: {doubled or 'empty'}")
        if any(len(c) != 3 or not all(0 <= v <= 255 for v in c) for c in self.colors):
            raise ValueError(f"label map '{self.name}' has a colour that is not three values of 0 to 255")

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def palette(self, order: str = "bgr") -> np.ndarray:
        """The look-up table id -> colour, uint8 [256, 3]; void and ids without a class are black.

        Raises:
            ValueError: if ``order`` is neither "bgr" nor "rgb".
        """
        if order not in ("bgr", "rgb"):
            raise ValueError(f"channel order '{order}' is neither 'bgr' nor 'rgb'")
        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = self.colors
        return table if order == "rgb" else np.ascontiguousarray(table[:, ::-1])

    def colorize(self, label: np.ndarray, order: str = "bgr") -> np.ndarray:
        """Paint a label image: uint8 [H, W] ids -> uint8 [H, W, 3] colours."""
        if label.dtype != np.uint8 or label.ndim != 2 or not label.size:
            return np.take(self.palette(order), label, axis=0)
        # The same by OpenCV, in a fifth of the time: a colour and an empty byte are looked up as one number.
        table = cv2.cvtColor(self.palette(order)[None], cv2.COLOR_BGR2BGRA).view(np.int32)[..., 0]
        wide = cv2.LUT(np.ascontiguousarray(label), table).reshape(label.shape)
        return cv2.cvtColor(wide.view(np.uint8).reshape(*label.shape, 4), cv2.COLOR_BGRA2BGR)

    def foreground(self) -> tuple[int, ...]:
        """The ids of what FBNet calls foreground: all but road, sidewalk, building, vegetation, sky, or a "background".

        The five go by the names that Cityscapes and CamVid give them; a map that has none of them is all foreground.
        """
        return tuple(i for i, name in enumerate(self.names) if name.lower() not in BACKGROUND)

    def to_dict(self) -> dict[str, Any]:
        """The map as plain data, as it travels in checkpoints and on the ``label_map`` topic."""
        classes = [
            {"id": i, "name": name, "color": list(color)}
            for i, (name, color) in enumerate(zip(self.names, self.colors, strict=True))
        ]
        return {"name": self.name, "void": VOID, "classes": classes}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LabelMap:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: if the data has not this form, or its ids are not 0..C-1 in order.
        """
        try:
            classes, void, name = data["classes"], data["void"], str(data["name"])
            ids = [int(c["id"]) for c in classes]
            names = tuple(str(c["name"]) for c in classes)
            colors = tuple((int(c["color"][0]), int(c["color"][1]), int(c["color"][2])) for c in classes)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"not a label map: {type(error).__name__}: {error}") from error
        if ids != list(range(len(ids))) or void != VOID:
            raise ValueError(f"label map '{name}' must have the ids 0..{len(ids) - 1} in order and void {VOID}")
        return cls(name, names, colors)
