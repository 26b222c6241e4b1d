"""A road with its habits, and one side of one chunk of it to be built."""

from dataclasses import dataclass

import numpy as np

from drive_seg.synth.library import Library
from drive_seg.synth.road import CHUNK, Junction, Road, Section
from drive_seg.synth.things import Thing


@dataclass
class Place:
    """What all chunks of a drive share.

    Attributes:
        road: the road.
        library: textures and meshes.
        phases: int64 [8], when what comes every few chunks comes.
        pole_color: BGR.
    """

    road: Road
    library: Library
    phases: np.ndarray
    pole_color: tuple[float, float, float]

    def due(self, index: int, period: int, phase: int) -> bool:
        """Whether something that comes every `period` chunks comes in this one."""
        return (index + int(self.phases[phase])) % period == 0


class Side:
    """One side of one chunk: `side` is -1 for the right (d < 0) and +1 for the left; `made` is what stands there."""

    def __init__(
        self,
        place: Place,
        rng: np.random.Generator,
        index: int,
        theme: str,
        side: int,
        section: Section,
        junction: Junction | None = None,
    ) -> None:
        self.world, self.rng, self.index, self.theme = place, rng, index, theme
        self.side, self.section, self.junction = side, section, junction
        self.start, self.end = index * CHUNK, (index + 1) * CHUNK
        self.verge_end = place.road.half + section.verge
        self.made: list[Thing] = []

    def free(self, s: float, margin: float = 4.0) -> bool:
        """Whether s keeps `margin` metres from the cross street."""
        return self.junction is None or abs(s - self.junction.centre) > self.junction.half + margin
