"""The other end of the node's benchmark: cameras, listeners, and the Segmenter that the node is compared with.

``python -m drive_seg.bench.camera_process --cameras camera,camera_2 --model dsnet_synth19 -o outcome.json`` awaits a
running node and measures three phases:

* **one at a time**: the Segmenter in this process, the node with one image, the node with one image of each camera, in
  turn. Nothing waits for anything else, so what the node adds to the Segmenter is the difference.
* **steady**: one camera at 30 Hz, or at the highest usual rate below that which leaves the node some rest.
* **overload**: one camera at a multiple of what the node manages.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.signals import SignalHandlerOptions

from drive_seg import checkpoint
from drive_seg.bench import checks, timing
from drive_seg.bench.cameras import COUNTERS, SIZE, Cameras, await_
from drive_seg.bench.subjects import image
from drive_seg.bench.timing import percentile
from drive_seg.files import write_atomically
from drive_seg.inference.runtimes.pytorch import TorchRuntime
from drive_seg.segmenter import Segmenter

READY_S, SETTLED_S = 90.0, 30.0
WARM_UPS = 6
PAUSE_S = 0.05
"""Before each turn, so that the threads of the one before, which wait busily for a moment, are asleep."""
RATES_HZ = (30.0, 25.0, 20.0, 15.0, 12.0, 10.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
BUSY = 0.85
"""How much of its time the node may work in the steady phase: beyond it every hiccup makes a frame late."""
MOST_HZ = 120.0
STEADY = 5
"""Times as long as the other phases lasts the steady one: of few images the 99th percentile is just the worst."""


def steady_rate(processing_s: float) -> float:
    """Images per second that leave a node, which takes so long for each, some rest: one of RATES_HZ, or fewer."""
    return next((hz for hz in RATES_HZ if hz * processing_s <= BUSY), BUSY / processing_s)


def measure(cameras: Cameras, segmenter: Segmenter, seconds: float, overload: float) -> dict[str, Any]:
    """All phases, one after the other; see :func:`drive_seg.bench.node.fill_in` for what they hold.

    Args:
        cameras: those of the node, which is ready.
        segmenter: with the same model as the node.
        seconds: of each of the phases (STEADY times as long for the steady one), and of each of the turns of the first.
        overload: times what the node manages.

    Raises:
        RuntimeError: if the node does not settle in time, or a mask is not what it should be.
    """
    for number in range(WARM_UPS):
        cameras.serve(cameras.count if number % 2 else 1, number)
    _check_masks(cameras, segmenter)
    book = _Book(cameras)
    phases = {"turns": book.phase(lambda: _in_turn(cameras, segmenter, seconds))}
    processing_s = percentile(phases["turns"]["processing_s"], 50)
    streams = {
        "steady": (STEADY * seconds, steady_rate(processing_s)),
        "overload": (seconds, min(MOST_HZ, overload / processing_s)),
    }
    for name, stream in streams.items():
        phases[name] = book.phase(lambda stream=stream: _stream(cameras, *stream))
        phases[name]["manages_hz"] = 1 / processing_s
    if cameras.fault:
        raise RuntimeError(cameras.fault)
    return phases


def _check_masks(cameras: Cameras, segmenter: Segmenter) -> None:
    """What is to be compared must do the same: pixel for pixel."""
    for number, picture in enumerate(cameras.pictures):
        cameras.serve(1, number)
        mask = np.frombuffer(cameras.mask(), np.uint8).reshape(SIZE)
        differing = int((mask != segmenter(picture).label).sum())
        if differing:
            raise RuntimeError(f"the node's mask differs from the Segmenter's in {differing} pixels")


class _Book:
    """What the node and the cameras count in each phase; from one phase to the next nothing may be sent."""

    def __init__(self, cameras: Cameras) -> None:
        self._cameras = cameras
        self._before = cameras.counters(SETTLED_S)

    def phase(self, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Let a phase happen, and give what it gives together with the counts."""
        cameras = self._cameras
        sent, cameras.latencies_s = cameras.sent, []
        found = act()
        before, self._before = self._before, cameras.counters(SETTLED_S)
        figures = cameras.figures()
        return {
            **found,
            "sent": cameras.sent - sent,
            "masks": len(cameras.latencies_s),
            "node": {key: self._before[key] - before[key] for key in COUNTERS},
            "lost_by_middleware_so_far": figures["lost_by_middleware"],
            "stages_ms": {key: value for key, value in figures.items() if key.startswith("stage_")},
        }


def _in_turn(cameras: Cameras, segmenter: Segmenter, seconds: float) -> dict[str, Any]:
    kept: dict[str, list[tuple[float, ...]]] = {"segmenter": [], "one": [], "all": []}

    def turn(name: str, call: Callable[[int], tuple[float, ...]]) -> Callable[[], None]:
        def timed() -> None:
            time.sleep(PAUSE_S)
            kept[name].append(call(len(kept[name])))

        return timed

    def segment(number: int) -> tuple[float]:
        picture = cameras.pictures[number % len(cameras.pictures)]
        started = time.perf_counter()
        segmenter(picture)
        return (time.perf_counter() - started,)

    calls = {
        "segmenter": turn("segmenter", segment),
        "one": turn("one", lambda number: cameras.serve(1, number)),
        "all": turn("all", lambda number: cameras.serve(cameras.count, number)),
    }
    for name, outcome in timing.measure(calls, seconds).items():
        if isinstance(outcome, Exception):
            raise outcome
        kept[name] = kept[name][-len(outcome) :]
    return {
        "segmenter_s": [seconds for (seconds,) in kept["segmenter"]],
        "one_s": [latency for latency, _ in kept["one"]],
        "processing_s": [processing for _, processing in kept["one"]],
        "all_s": [latency for latency, _ in kept["all"]],
        "cameras": cameras.count,
    }


def _stream(cameras: Cameras, seconds: float, hz: float) -> dict[str, Any]:
    reached = cameras.stream(max(1, round(seconds * hz)), hz)
    return {"asked_hz": hz, "sent_hz": reached, "latencies_s": cameras.latencies_s}


def _open(options: argparse.Namespace) -> tuple[Segmenter, float]:
    """The Segmenter that does as the node, and the share of pixels where it names eager's class.

    Raises:
        RuntimeError: if it does not run where the node shall, or names other classes.
    """
    told: list[str] = []
    model, size = checkpoint.find_model(options.model), tuple(options.input_size)
    segmenter = Segmenter.load(
        model, options.device, options.precision, size, options.runtime, tell=lambda text: told.append(text)
    )
    loaded = checkpoint.load(model)
    eager = TorchRuntime(loaded.build_network(), options.device, "fp32", fold=False)
    picture = image(SIZE)
    label, wanted = segmenter(picture).label, Segmenter(eager, loaded.contract, input_size=size)(picture).label
    if told:
        raise RuntimeError(told[0])
    share = float((label == wanted).mean())
    if share < checks.AGREEMENT[segmenter.precision]:
        raise RuntimeError(f"its labels equal eager's on {share:.2%} of the pixels")
    return segmenter, share


def main(args: Sequence[str] | None = None) -> int:
    """Measure as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="camera_process", description=__doc__.split("\n")[0])
    parser.add_argument("--cameras", default="camera", help="prefixes of the topics, by commas")
    parser.add_argument("--model", required=True, help="checkpoint of the node")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--input-size", type=int, nargs=2, required=True, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seconds", type=float, default=5.0, help="of each phase, the steady one longer")
    parser.add_argument("--overload", type=float, default=3.0, help="of the last one: times what the node manages")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(args)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    cameras = Cameras(options.cameras.split(","))
    try:
        segmenter, agreement = _open(options)
        await_(cameras.is_ready, READY_S, "the node to be ready")
        outcome = measure(cameras, segmenter, options.seconds, options.overload)
    except (RuntimeError, ValueError) as error:
        print(f"camera: {error}", file=sys.stderr)
        return 1
    finally:
        cameras.close()
        rclpy.try_shutdown()
    about = {"agreement": agreement, "runtime": segmenter.runtime, "precision": segmenter.precision}
    write_atomically(options.output, json.dumps({**about, **outcome}).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
