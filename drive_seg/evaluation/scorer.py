"""Scores label images against the truth as both come over the wire, paired by their exact stamps.

``python -m drive_seg.evaluation.scorer --camera camera -o score.json`` runs until SIGINT or SIGTERM, then writes the
file.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import String

from drive_seg.files import write_atomically
from drive_seg.images.messages import ImageError, decode_label
from drive_seg.labels import LabelMap, label_map
from drive_seg.metrics import ConfusionMatrix
from drive_seg.recordings.ros_args import split_ros_args

WAITING = 200
DEPTH = 100


class Score:
    """Pairs predictions with truths and counts them. Stamps are in ns.

    Args:
        truth_map: what the ids of the truth mean.
    """

    def __init__(self, truth_map: LabelMap) -> None:
        self.truth_map = truth_map
        self.matrix = ConfusionMatrix(truth_map.num_classes)
        self.problem = ""
        self.pairs = self.predictions = self.truths = 0
        self._waiting: dict[str, OrderedDict[int, np.ndarray]] = {
            "prediction": OrderedDict(),
            "truth": OrderedDict(),
        }

    def meaning(self, predicted: LabelMap) -> None:
        """Hear what the ids of the predictions mean; classes that differ from the truth's cannot be scored."""
        if predicted.names != self.truth_map.names:
            self.problem = f"the model's classes ({predicted.name}) are not those of the truth ({self.truth_map.name})"

    def predict(self, stamp_ns: int, label: np.ndarray) -> None:
        """Take a predicted label, uint8 [H, W]."""
        self.predictions += 1
        self._take("prediction", "truth", stamp_ns, label)

    def tell(self, stamp_ns: int, label: np.ndarray) -> None:
        """Take a true label, uint8 [H, W]."""
        self.truths += 1
        self._take("truth", "prediction", stamp_ns, label)

    def report(self) -> dict[str, Any]:
        """Figures as plain data; null where there is no figure. ``problem`` says why there is no score."""
        problem = self.problem or ("" if self.pairs else "no mask came with the stamp of a truth")
        iou = self.matrix.iou() if not problem else np.full(self.truth_map.num_classes, np.nan)
        share = self.matrix.counts.sum(1) / max(1, self.matrix.counts.sum())
        return {
            "label_map": self.truth_map.name,
            "problem": problem,
            "pairs": self.pairs,
            "predictions": self.predictions,
            "truths": self.truths,
            "miou": _number(float(np.nanmean(iou)) if np.isfinite(iou).any() else math.nan),
            "pixel_accuracy": _number(math.nan if problem else self.matrix.pixel_accuracy()),
            "classes": [
                {"name": name, "iou": _number(float(iou[i])), "share": float(share[i])}
                for i, name in enumerate(self.truth_map.names)
            ],
        }

    def _take(self, kind: str, other: str, stamp_ns: int, label: np.ndarray) -> None:
        partner = self._waiting[other].pop(stamp_ns, None)
        if partner is None:
            self._waiting[kind][stamp_ns] = label
            if len(self._waiting[kind]) > WAITING:  # its partner was dropped
                self._waiting[kind].popitem(last=False)
            return
        prediction, truth = (label, partner) if kind == "prediction" else (partner, label)
        if prediction.shape != truth.shape:
            self.problem = f"masks are {prediction.shape} but truths are {truth.shape} (height, width)"
        if not self.problem:
            self._count(prediction, truth)
        self.pairs += 1

    def _count(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        try:
            self.matrix.update(prediction, truth)
        except ValueError as error:
            self.problem = f"the truth does not fit {self.truth_map.name}: {error}"


class Scorer(Node):
    """Feeds a ``Score`` from a camera's topics."""

    def __init__(self, camera: str, score: Score) -> None:
        super().__init__("scorer")
        self._score = score
        qos = QoSProfile(depth=DEPTH)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(String, f"{camera}/segmentation/label_map", self._on_label_map, latched)
        self.create_subscription(
            Image, f"{camera}/segmentation/label", lambda message: self._on_label(message, score.predict), qos
        )
        self.create_subscription(
            Image, f"{camera}/label_truth", lambda message: self._on_label(message, score.tell), qos
        )

    def _on_label_map(self, message: String) -> None:
        try:
            self._score.meaning(LabelMap.from_dict(json.loads(message.data)))
        except ValueError as error:
            self._score.problem = f"the label_map topic cannot be read: {error}"

    def _on_label(self, message: Image, take: Any) -> None:
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        try:
            take(stamp_ns, decode_label(message))
        except ImageError as error:
            self._score.problem = f"a label image cannot be read: {error}"


def main(args: Sequence[str] | None = None) -> int:
    """Score until a signal; returns the exit status."""
    own, ros_args = split_ros_args(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser(prog="scorer", description=__doc__.split("\n")[0])
    parser.add_argument("--camera", default="camera", help="prefix of the topics (default camera)")
    parser.add_argument("--truth", default="cityscapes19", help="label map of the truth (default cityscapes19)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(own)
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        score = Score(label_map(options.truth))
    except ValueError as error:
        parser.error(str(error))
    rclpy.init(args=ros_args, signal_handler_options=SignalHandlerOptions.NO)
    node = Scorer(options.camera, score)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stopped:
            executor.spin_once(timeout_sec=0.1)
        _take_what_waits(executor, score)
    except ExternalShutdownException:
        pass
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    write_atomically(options.output, json.dumps(score.report(), indent=1).encode())
    return 0


def _take_what_waits(executor: SingleThreadedExecutor, score: Score) -> None:
    before = -1
    while before != score.predictions + score.truths:
        before = score.predictions + score.truths
        executor.spin_once(timeout_sec=0.1)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
