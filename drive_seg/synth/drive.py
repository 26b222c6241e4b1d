"""A procedural street drive: camera frames with exact labels, any frame at any time, all from one seed."""

from dataclasses import dataclass

import numpy as np

from drive_seg.synth.bonnet import draw_bonnet
from drive_seg.synth.camera import EgoPose, View
from drive_seg.synth.canvas import Canvas
from drive_seg.synth.classes import derived_rng
from drive_seg.synth.depth import far_to_near, in_view
from drive_seg.synth.ground import GroundLook, draw_ground, draw_reflections
from drive_seg.synth.library import Library
from drive_seg.synth.look import Lens
from drive_seg.synth.relief import draw_with_relief
from drive_seg.synth.scene import check_variety, draw_scene
from drive_seg.synth.sky import SkyLook, draw_sky
from drive_seg.synth.traffic import Traffic
from drive_seg.synth.world import World

_SEEN = 170.0  # m ahead that things are drawn
_GROUND = 2000.0  # m of ground kept in the table
_BEHIND = 14.0
_TOWN = {"canyon": 0.7, "suburb": 0.25, "avenue": 0.3, "open": 0.12}  # share of houses on the horizon


@dataclass(frozen=True)
class SynthFrame:
    """One frame.

    `image` is uint8 (height, width, 3) BGR, `label` uint8 (height, width) of Cityscapes ids
    (0..18; void, 255, is the own bonnet alone),
    `stamp_ns` nanoseconds since the drive's start.
    """

    image: np.ndarray
    label: np.ndarray
    stamp_ns: int


class SynthDrive:
    """Endless drive along one street.

    Every frame depends on (seed, size, fps, index) alone, whatever was asked for before; with one OpenCV
    version the pixels are the same on every x86-64 with AVX2 (without it a rare one is off by 1 grey level).

    Labels follow the Cityscapes annotation rules where these fill holes: a fence is labelled with what is
    seen through it, a bicycle's wheel with what is seen between its spokes, a tree with its trunk.

    Args:
        seed: 0 or more; chooses street, weather, camera and traffic.
        size: (width, height) of the frames in pixels, each at least 16.
        fps: frames per second, over 0.
        variety: "street" is a town by day seen by a clean dash camera; "wide" adds highways, country roads and jams,
            night and haze, cameras of any height and angle, their dirt and faults, and the own bonnet.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self, seed: int = 0, size: tuple[int, int] = (640, 360), fps: float = 10.0, variety: str = "street"
    ) -> None:
        if int(seed) != seed or seed < 0:
            raise ValueError(f"seed must be a whole number of 0 or more, not {seed}")
        width, height = size
        if min(width, height) < 16 or max(width, height) > 8192:
            raise ValueError(f"size must be (width, height) with sides of 16 to 8192 pixels, not {tuple(size)}")
        if not 0.0 < fps < float("inf"):
            raise ValueError(f"fps must be over 0, not {fps}")
        check_variety(variety)
        self.seed, self.size, self.fps = int(seed), (int(width), int(height)), float(fps)
        self._scene = scene = draw_scene(derived_rng(self.seed, 0), self.size, variety)
        self.camera = scene.camera
        library = Library(self.seed, scene.season, scene.wide)
        self._world = World(self.seed, library, scene)
        self._traffic = Traffic(self.seed, self._world, scene.jam)
        self._ground = GroundLook(derived_rng(self.seed, 11), library.noise, scene.dry, scene.wide, scene.road)
        town = _TOWN.get(self._world.base_theme, 0.02)
        self._sky = SkyLook(derived_rng(self.seed, 12), library.noise, scene.mood.name, town, scene.wide)
        self._light = scene.mood.light(self._sky.horizon)
        self._lens = Lens(self.seed, self.size, scene.mood, scene.marks)

    def frame(self, i: int) -> SynthFrame:
        """Return frame `i` (0 or more); ValueError for a negative index."""
        seconds = self._seconds(i)
        pose = self._traffic.ego(seconds)
        canvas = Canvas(View(self.camera, pose), self._light)
        made = self._things(seconds, pose)
        here = pose.x, pose.y - float(self._world.road.centre(pose.x))
        shadows = [polygon for thing in made if (polygon := thing.shadow(self._light)) is not None]
        draw_sky(canvas, self._sky, seconds * 0.6)
        draw_ground(canvas, self._table(pose), self._ground, shadows)
        for thing in far_to_near(in_view(made, canvas.view, self._world.road), *here):
            if self._scene.wide:
                draw_with_relief(canvas, thing, self._world.library.noise)
            else:
                thing.draw(canvas)
        if self._scene.wet:
            draw_reflections(canvas, self._scene.wet)
        if self._scene.bonnet:
            draw_bonnet(canvas, self._scene.bonnet)
        image = self._lens.expose(canvas.image, i)
        return SynthFrame(image, canvas.label.copy(), round(i * 1e9 / self.fps))

    def ego_pose(self, i: int) -> EgoPose:
        """Where the camera's ground point is in frame `i`: world x, y in metres, yaw in radians, speed."""
        return self._traffic.ego(self._seconds(i))

    def ground_label(self, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        """Class ids, uint8, of the flat ground at world points in metres (arrays broadcast together).

        Only road, sidewalk and terrain occur: what stands or drives on the ground is not asked.
        """
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        table = self._world.table(float(x.min()), float(x.max())) if x.size else None
        if table is None:
            return np.zeros(x.shape, np.uint8)
        return table.labels(x, y - self._world.road.centre(x))

    def _seconds(self, i: int) -> float:
        if int(i) != i or i < 0:
            raise ValueError(f"frame index must be a whole number of 0 or more, not {i}")
        return int(i) / self.fps

    def _table(self, pose: EgoPose):
        return self._world.table(pose.x - 40.0, pose.x + _GROUND)

    def _things(self, seconds: float, pose: EgoPose) -> list:
        chunks = self._world.chunks(pose.x - _BEHIND, pose.x + _SEEN)
        made = [thing for chunk in chunks for thing in chunk.things]
        made += self._traffic.things(seconds, chunks)
        low, high = pose.x - _BEHIND, pose.x + _SEEN
        return [thing for thing in made if thing.s1 > low and thing.s0 < high]
