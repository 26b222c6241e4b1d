"""What the recording of a live run holds: masks and when they came, the clock, and the node's own account."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from drive_seg.evaluation.records import FATES
from drive_seg.labels import LabelMap
from drive_seg.recordings.sources import SourceError, open_source
from drive_seg.recordings.sources.topics import listed

LABEL, LABEL_MAP = "segmentation/label", "segmentation/label_map"
PROCESSING = "segmentation/debug/processing_time_ms"
DIAGNOSTICS, CLOCK = "diagnostics", "clock"
STATUS = "drive_seg: "
"""How a status begins; the node and the camera follow, in recordings of before the camera alone."""
SAME_CLOCK_NS = 600 * 1_000_000_000
"""A mask comes this long after its image's stamp at most; beyond it, they were noted on different clocks."""

TOPICS = ("label", "label_map", "debug/processing_time_ms")
"""What has to be recorded of each camera, below ``<camera>/segmentation/``, beside /clock and /diagnostics."""


@dataclass(frozen=True)
class Account:
    """What the node's last diagnostics say of one camera.

    Attributes:
        image_topic: where its images came from, without the outer slashes.
        received, in_flight: how many frames came, and how many of them had not ended yet.
        ended: how many ended with each fate.
        about: every figure as the node wrote it.
    """

    image_topic: str
    received: int
    in_flight: int
    ended: dict[str, int]
    about: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class Masks:
    """The masks of one camera in the order in which they came.

    Attributes:
        topic: where they lie in the recording.
        stamps, times: stamp and record time of each in ns.
        processing_ms: how long the node worked at each; None where it was not recorded.
    """

    topic: str
    stamps: list[int]
    times: list[int]
    processing_ms: list[float | None]


class LiveRecording:
    """A bag with what a node published while a source was played.

    Args:
        path: the bag.
        rate: speed of the playing, times real time; it counts where the bag was recorded on the played clock.

    Attributes:
        source: the bag, to select topics from.
        label_map: what the ids of the masks mean.
        model: name, sha256, device and precision of the model, as far as they are told.
        accounts: node's camera name -> its account.
        masks: camera (prefix of its topics, without outer slashes) -> its masks.
        remark: what one must know of it, else empty.

    Raises:
        SourceError: it cannot be read, or is no such recording.
    """

    def __init__(self, path: str | Path, rate: float = 1.0) -> None:
        self.path, self.rate = str(path), rate
        self.source = open_source(path, ["*"])
        available = self.source.topics
        self._names = {topic.name.strip("/"): topic.name for topic in available}
        prefixes = [name.removesuffix(LABEL).strip("/") for name in self._names if f"/{name}".endswith(f"/{LABEL}")]
        if not prefixes:
            raise SourceError(f"{path} holds no masks, no topic <camera>/{LABEL}; it has {listed(available)}.")
        self.accounts = self._accounts()
        self.remark = ""
        self.label_map, self.model = self._model()
        self.masks = {prefix: self._masks(prefix) for prefix in prefixes}

    def camera_of(self, image_topic: str) -> str | None:
        """The camera whose masks are those of an image topic; None if there is none.

        The node's diagnostics say which, else the name of the topics.
        """
        wanted = image_topic.strip("/")
        for name, account in self.accounts.items():
            if account.image_topic == wanted:
                return next((prefix for prefix in self.masks if f"/{prefix}".endswith(f"/{name}")), None)
        folder = wanted.removesuffix("/compressed").rpartition("/")[0]
        return folder if folder in self.masks else None

    def account_of(self, camera: str) -> Account | None:
        """The node's account of a camera of ``masks``; None if its diagnostics were not recorded."""
        return next((self.accounts[name] for name in self.accounts if f"/{camera}".endswith(f"/{name}")), None)

    @cached_property
    def clock(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Times told on /clock and when they were heard first, int64 ns both; None unless that was on another clock."""
        told, heard = [], []
        for record in self._records([CLOCK]):
            time = record.message.message().clock
            told.append(time.sec * 1_000_000_000 + time.nanosec)
            heard.append(record.time_ns)
        if len(told) < 2 or any(later < earlier for earlier, later in zip(told, told[1:], strict=False)):
            return None
        first, places = np.unique(np.array(told, np.int64), return_index=True)
        when = np.array(heard, np.int64)[places]
        return (first, when) if abs(int(np.median(first - when))) > 1_000_000_000 else None

    @cached_property
    def knows_time(self) -> bool:
        """Whether record times of masks can be related to the times of the source."""
        pairs = [pair for masks in self.masks.values() for pair in zip(masks.times, masks.stamps, strict=True)]
        ages = [time - stamp for time, stamp in pairs]
        return self.clock is not None or bool(ages and 0 <= int(np.median(ages)) < SAME_CLOCK_NS)

    def played_s(self, time_ns: int) -> float | None:
        """When a message of the source was played: real seconds on the scale of ``heard_s``; None if not known."""
        if self.clock is None:
            return time_ns / 1e9 / self.rate if self.knows_time else None
        told, heard = self.clock
        place = int(np.searchsorted(told, time_ns))
        if place == len(told) or (place == 0 and told[0] != time_ns):
            return None
        if told[place] == time_ns:
            return int(heard[place]) / 1e9
        span, part = int(told[place] - told[place - 1]), time_ns - int(told[place - 1])
        return (int(heard[place - 1]) + int(heard[place] - heard[place - 1]) * part / span) / 1e9

    def heard_s(self, time_ns: int) -> float:
        """A record time of this recording in real seconds."""
        return time_ns / 1e9 / (1.0 if self.clock is not None else self.rate)

    def _records(self, names: list[str]):
        topics = [self._names[name] for name in names if name in self._names]
        return self.source.select(topics) if topics else ()

    def _accounts(self) -> dict[str, Account]:
        latest: dict[str, dict[str, str]] = {}
        for record in self._records([DIAGNOSTICS]):
            for status in record.message.message().status:
                if status.name.startswith(STATUS):
                    values = {pair.key: pair.value for pair in status.values}
                    if "received" in values:
                        latest[status.name.rpartition(": ")[2]] = values
        try:
            return {
                name: Account(
                    values.get("topic", "").strip("/"),
                    int(values["received"]),
                    int(values["in_flight"]),
                    {fate: int(values[fate]) for fate in FATES},
                    values,
                )
                for name, values in latest.items()
            }
        except (KeyError, ValueError) as error:
            raise SourceError(f"{self.path}: its diagnostics are not those of this node: {error}.") from error

    def _model(self) -> tuple[LabelMap, dict[str, Any]]:
        told = []
        for record in self._records([name for name in self._names if f"/{name}".endswith(f"/{LABEL_MAP}")]):
            try:
                data = json.loads(record.message.message().data)
                told.append((LabelMap.from_dict(data), data.get("model"), data.get("model_hash")))
            except (ValueError, AttributeError) as error:
                raise SourceError(f"{self.path}: its label map cannot be read: {error}") from error
        if not told:
            raise SourceError(f"{self.path} does not say what its ids mean: record <camera>/{LABEL_MAP} too.")
        if any(label_map != told[0][0] for label_map, _, _ in told):
            raise SourceError(f"{self.path}: the classes changed during the run, so its masks cannot be judged as one.")
        names = list(dict.fromkeys(str(name) for _, name, _ in told))
        if len(names) > 1:
            self.remark = f"the model was changed during the run: {', then '.join(names)}"
        label_map, _, sha256 = told[0]
        about = next(iter(self.accounts.values())).about if self.accounts else {}
        known = {key: about.get(key) if about.get(key) != "n/a" else None for key in ("device", "precision")}
        return label_map, {"name": ", ".join(names), "sha256": sha256, **known, "runtime": None}

    def _masks(self, camera: str) -> Masks:
        stamps, times = [], []
        for record in self._records([f"{camera}/{LABEL}".strip("/")]):
            stamps.append(record.stamp_ns)
            times.append(record.time_ns)
        return Masks(self._names[f"{camera}/{LABEL}".strip("/")], stamps, times, self._processing(camera, times))

    def _processing(self, camera: str, times: list[int]) -> list[float | None]:
        """What the node told right after each mask; a figure or a mask that was lost leaves its pair without."""
        found: list[float | None] = [None] * len(times)
        for record in self._records([f"{camera}/{PROCESSING}".strip("/")]):
            place = bisect_right(times, record.time_ns) - 1
            if place >= 0 and found[place] is None:
                found[place] = float(record.message.message().data)
        return found
