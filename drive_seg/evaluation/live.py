"""Live replay: what the node published while a recording was played is judged against that recording."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np

from drive_seg.evaluation.deterministic import Models, Replay, Work
from drive_seg.evaluation.partial import Partial
from drive_seg.evaluation.recorded import SAME_CLOCK_NS, LiveRecording
from drive_seg.evaluation.records import FATES, LOST, FrameRow
from drive_seg.evaluation.report import STALL_PERIODS, STALL_S
from drive_seg.evaluation.stamped_masks import StampedMasks, UnclearStampError
from drive_seg.images.messages import ImageError
from drive_seg.recordings.reading import Reading, Taken
from drive_seg.recordings.sources import SourceError
from drive_seg.recordings.sources.topics import ros2_name, so_many
from drive_seg.segmenter import Segmenter

MEANING = (
    "From the image's stamp to the moment at which the recorder heard its mask, in real time: how old the image was "
    "when it was recorded, and from its playing on until the mask came. "
)
BY_CLOCK = "When it was played is told by the player's /clock, which the same recorder heard."
BY_RATE = "The recorder noted times of the played clock, which are divided by the rate {rate:g}."
UNKNOWN = "Not known here: /clock was not recorded, and the masks' record times are of another time than their stamps."
AGE = " The input age is the latency without the time that the node worked at the frame."


class LiveReplay(Replay):
    """One source, and the recording of what a node published while it was played: ``run`` judges every image.

    Args:
        work: what was played; with no topics named, those cameras are judged that the node had.
        recording: what was published.
        other: a second model to compare with.

    Attributes:
        stalls: after ``run``, the times in which no mask came; ``length_s`` is in real time.
        latency_meaning: from when to when the latency counts.

    Raises:
        ValueError: source, truth or the other run cannot be used, or nothing of the source is in the recording.
    """

    def __init__(self, work: Work, recording: LiveRecording, other: Segmenter | None = None) -> None:
        reading = Reading(work.source, work.topics, work.part, work.truth.topics())
        self._cameras, left_out = _matched(reading, recording, work.topics is not None)
        if left_out:
            work = replace(work, topics=tuple(reading.topics[camera] for camera in self._cameras))
        self._recording, self._left_out = recording, left_out
        stand_in = SimpleNamespace(label_map=recording.label_map, sha256=recording.model["sha256"] or "")
        super().__init__(replace(work, model_name=recording.model["name"]), Models(stand_in, other))
        self._masks = {
            camera: StampedMasks(recording.source, recording.masks[prefix].topic, self._reading)
            for camera, prefix in self._cameras.items()
        }
        self._when = {camera: self._arrivals(prefix) for camera, prefix in self._cameras.items()}
        self._played: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._came: dict[str, list[tuple[float, float]]] = defaultdict(list)
        # Of stamps with several images and another number of masks: how many of their frames were published.
        self._unclear: dict[str, dict[int, int]] = defaultdict(dict)
        self.stalls: list[dict[str, Any]] = []
        how = BY_CLOCK if recording.clock is not None else BY_RATE.format(rate=recording.rate)
        self.latency_meaning = MEANING + how + AGE if recording.knows_time else UNKNOWN

    def run(self, advance=lambda: None) -> Partial:
        """Judge; as the deterministic ``run``."""
        partial = super().run(advance)
        remarks = [*([self._recording.remark] if self._recording.remark else []), *self._left_out]
        ledgers = []
        for camera, prefix in self._cameras.items():
            rows = [row for row in partial.rows if row["camera"] == camera]
            ledger, remark = self._settle(rows, camera, prefix)
            ledgers.append(ledger)
            remarks += [f"{camera}: {remark}"] if remark else []
            self.stalls += _stalls(partial.bags[0]["name"], camera, self._played[camera], self._came[camera])
        if all(ledger is not None for ledger in ledgers):
            partial.ledger = {key: sum(ledger[key] for ledger in ledgers) for key in ("received", *FATES)}
        entry = partial.bags[0]
        entry["reason"] = "; ".join(text for text in (entry["reason"], *remarks) if text)
        return partial

    def _predict(self, row: FrameRow, taken: Taken, image: np.ndarray) -> np.ndarray | None:
        """The mask that was published for this frame; times go into the row."""
        camera, stamp, masks = taken.camera, taken.record.stamp_ns, self._masks[taken.camera]
        played_s = self._recording.played_s(taken.record.time_ns) if self._recording.knows_time else None
        if played_s is not None:
            self._played[camera].append((row["time_s"], played_s))
        try:
            place = masks.place(taken)
        except UnclearStampError as error:
            row.update(fate="", reason=str(error))
            self._note_unclear(row, taken)
            return None
        if place is None:
            row["fate"] = ""  # told by the node's account, once all of them are known
            return None
        heard_ns, processing_ms = self._when[camera][stamp][place]
        if played_s is not None:
            self._time(row, taken, played_s, self._recording.heard_s(heard_ns), processing_ms)
        try:
            return masks.find(taken)
        except ImageError as error:
            row["reason"] = f"its recorded mask cannot be read: {error}"
            return None

    def _time(self, row: FrameRow, taken: Taken, played_s: float, heard_s: float, processing_ms: float | None) -> None:
        """Fill in the row's latency and input age."""
        self._came[taken.camera].append((heard_s, row["time_s"]))
        age_ns = taken.record.time_ns - taken.record.stamp_ns
        if not 0 <= age_ns < SAME_CLOCK_NS:
            row["warnings"] = "the stamp is of another time than the recording: latency since playing"
            age_ns = 0
        latency_ms = age_ns / 1e6 + 1000.0 * (heard_s - played_s)
        if latency_ms < 0:
            row["warnings"] = "its mask was heard before it was played: no latency"
            return
        row["latency_ms"] = latency_ms
        if processing_ms is not None:
            row["input_age_ms"] = max(0.0, latency_ms - processing_ms)

    def _note_unclear(self, row: FrameRow, taken: Taken) -> None:
        """Count the masks of a stamp once, and take the moments at which they came: no stall there."""
        camera, stamp = taken.camera, taken.record.stamp_ns
        if stamp in self._unclear[camera]:
            return
        self._unclear[camera][stamp] = min(self._masks[camera].count(stamp), self._reading.place_of(taken)[1])
        if self._recording.knows_time:
            came = [self._recording.heard_s(heard_ns) for heard_ns, _ in self._when[camera][stamp]]
            self._came[camera] += [(heard_s, row["time_s"]) for heard_s in came]

    def _arrivals(self, prefix: str) -> dict[int, list[tuple[int, float | None]]]:
        """Stamp -> record time and processing time of each mask with it."""
        masks = self._recording.masks[prefix]
        found: dict[int, list[tuple[int, float | None]]] = defaultdict(list)
        for stamp, time, processing in zip(masks.stamps, masks.times, masks.processing_ms, strict=True):
            found[stamp].append((time, processing))
        return found

    def _settle(self, rows: list[FrameRow], camera: str, prefix: str) -> tuple[dict[str, int] | None, str]:
        """Give the frames without a mask their fates; the node's counts if they are of these frames, and a remark."""
        account = self._recording.account_of(prefix)
        open_rows = [row for row in rows if not row["fate"]]
        unclear = min(sum(self._unclear[camera].values()), len(open_rows))
        if unclear and (account is None or account.received > len(rows)):
            ends = {"published": unclear, LOST: len(open_rows) - unclear}
            _end(open_rows, {fate: count for fate, count in ends.items() if count}, "")
        elif account is None:
            _end(open_rows, {}, "no mask of it was recorded, nor diagnostics that tell why")
        elif account.received > len(rows):
            _end(open_rows, {}, "no mask of it was recorded")
        if account is None:
            return None, "no diagnostics were recorded, so it is not known why frames have no mask"
        if account.received > len(rows):
            received = so_many(account.received, "frame")
            return None, f"the node received {received} but {len(rows)} are judged, so its counts are left out"
        heard = sum(row["fate"] == "published" for row in rows)
        ends = {fate: account.ended[fate] for fate in FATES if fate != "published"}
        ends["rejected"] = max(0, ends["rejected"] - sum(row["fate"] == "rejected" for row in rows))
        unheard = max(0, account.ended["published"] - heard - unclear)
        ends |= {"published": unheard + unclear, "in flight": account.in_flight, LOST: len(rows) - account.received}
        _end(open_rows, {fate: count for fate, count in ends.items() if count}, "")
        remarks = [f"{so_many(unheard, 'published mask')} not recorded"] if unheard else []
        remarks += (
            [f"{so_many(account.in_flight, 'frame')} in flight when the recording ended"] if account.in_flight else []
        )
        return {"received": account.received, **account.ended}, "; ".join(remarks)


def _matched(reading: Reading, recording: LiveRecording, is_named: bool) -> tuple[dict[str, str], list[str]]:
    """Camera of the source -> that of the recording, and a sentence for each camera that the node did not have."""
    found = {camera: recording.camera_of(ros2_name(topic)) for camera, topic in reading.topics.items()}
    if len(found) == len(recording.masks) == 1:
        found = dict(zip(found, recording.masks, strict=True))
    missing = [camera for camera, prefix in found.items() if prefix is None]
    if len(missing) == len(found) or (missing and is_named):
        raise SourceError(
            f"{recording.path} holds no masks of {', '.join(missing)}; it holds those of {', '.join(recording.masks)}."
        )
    return {camera: prefix for camera, prefix in found.items() if prefix is not None}, [
        f"the node had no camera for {reading.topics[camera]}" for camera in missing
    ]


def _end(rows: list[FrameRow], ends: dict[str, int], reason: str) -> None:
    """Let the frames end as the node counted; where it counted several ends, nobody knows which frame had which."""
    counted = ", ".join(f"{count} {fate}" for fate, count in ends.items())
    fate = max(ends, key=ends.__getitem__) if ends else LOST
    reasons = {
        LOST: "it never reached the node",
        "published": "its mask was not recorded",
        "in flight": "it had not ended when the recording did",
    }
    reason = reason or (f"one of {counted}; which of them is not known" if len(ends) > 1 else reasons.get(fate, ""))
    for row in rows:
        row["fate"] = fate
        if len(ends) > 1 or not row["reason"]:  # of one end a frame's own reason says more
            row["reason"] = "; ".join(text for text in (row["reason"], reason) if text)


def _stalls(
    bag: str, camera: str, played: list[tuple[float, float]], came: list[tuple[float, float]]
) -> list[dict[str, Any]]:
    """Gaps between masks, in real time; the playing of the first and last image count as ends of gaps too.

    Args:
        played: of each image its place in the recording and when it was played, in seconds.
        came: of each mask when it was heard, and the place of its image.
    """
    if not played:
        return []
    came = sorted(came)
    steps = [later[0] - earlier[0] for earlier, later in zip(came, came[1:], strict=False)]
    limit = max(STALL_S, STALL_PERIODS * median(steps)) if steps else STALL_S
    first, last = played[0], played[-1]
    ends = [(first[1], first[0]), *came, *([(last[1], last[0])] if not came or last[1] > came[-1][0] else [])]
    return [
        {"bag": bag, "camera": camera, "start_s": earlier[1], "length_s": later[0] - earlier[0]}
        for earlier, later in zip(ends, ends[1:], strict=False)
        if later[0] - earlier[0] > limit
    ]
