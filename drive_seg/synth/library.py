"""The pictures and shapes of one drive, made when first needed and kept."""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from drive_seg.synth import bodies, cars, foliage, textures, vehicles
from drive_seg.synth.canvas import Texture
from drive_seg.synth.classes import derived_rng
from drive_seg.synth.mesh import Mesh

_KINDS = (
    *("facade", "side", "roof", "wall", "fence", "tree", "bush", "hedge", "car", "truck", "bus", "train"),
    *("thicket", "barrier", "bank"),
)
_KEPT = 400


class Library:
    """Textures and meshes by name and variant; each depends on (seed, name, variant) alone."""

    def __init__(self, seed: int, season: str, wide: bool = False) -> None:
        self._seed = seed
        self._wide = wide
        self._kept: dict[Hashable, Any] = {}
        self.palette = foliage.AUTUMN if season == "autumn" else foliage.GREENS
        self.trees = (
            ["round", "round", "tall", "conifer"] if season != "winter" else ["bare", "bare", "conifer", "round"]
        )
        self.noise = textures.tileable_noise(derived_rng(seed, 90))

    def _get(self, key: tuple, make: Callable[[np.random.Generator], Any]) -> Any:
        if key not in self._kept:
            if len(self._kept) >= _KEPT:
                self._kept.pop(next(iter(self._kept)))
            numbers = [_KINDS.index(key[0]), *(int(part) for part in key[1:])]
            self._kept[key] = make(derived_rng(self._seed, 91, *numbers))
        return self._kept[key]

    def facade(self, variant: int, bays: int, floors: int, shop: bool) -> Texture:
        return self._get(
            ("facade", variant, bays, floors, shop),
            lambda rng: textures.facade(rng, self.noise, bays, floors, shop),
        )

    def side(self, variant: int) -> Texture:
        return self._get(
            ("side", variant),
            lambda rng: textures.plain_wall(rng, self.noise, (200, 200), bool(rng.random() < 0.5)),
        )

    def roof(self, variant: int) -> Texture:
        return self._get(("roof", variant), lambda rng: textures.roof(rng, self.noise))

    def wall(self, variant: int) -> Texture:
        return self._get(
            ("wall", variant),
            lambda rng: textures.plain_wall(rng, self.noise, (56, 160), bool(rng.random() < 0.6)),
        )

    def fence(self, variant: int) -> Texture:
        kind = ("bars", "boards", "mesh", "rail")[variant % 4]
        return self._get(("fence", variant), lambda rng: textures.fence(rng, self.noise, kind))

    def tree(self, variant: int) -> Texture:
        kind = self.trees[variant % len(self.trees)]
        return self._get(("tree", variant), lambda rng: foliage.tree(rng, self.noise, self.palette, kind))

    def bush(self, variant: int) -> Texture:
        return self._get(("bush", variant), lambda rng: foliage.bush(rng, self.noise, self.palette))

    def hedge(self, variant: int) -> Texture:
        return self._get(("hedge", variant), lambda rng: foliage.hedge(rng, self.noise, self.palette))

    def thicket(self, variant: int) -> Texture:
        return self._get(("thicket", variant), lambda rng: foliage.thicket(rng, self.noise, self.palette))

    def barrier(self, variant: int) -> Texture:
        kind = ("concrete", "rail", "noise wall")[variant % 3]
        return self._get(("barrier", variant), lambda rng: textures.barrier(rng, self.noise, kind))

    def bank(self, variant: int) -> Texture:
        return self._get(("bank", variant), lambda rng: textures.bank(rng, self.noise))

    def vehicle(self, kind: str, variant: int) -> tuple[Mesh, float, float]:
        """Return (mesh, length, width) of a "car", "truck", "bus" or "train"."""
        modern = self._wide and variant % 4 != 0
        make = {
            "car": bodies.modern_car if modern else cars.car,
            "truck": vehicles.lorry if modern else vehicles.truck,
            "bus": vehicles.bus,
            "train": vehicles.tram,
        }[kind]
        return self._get((kind, variant), make)
