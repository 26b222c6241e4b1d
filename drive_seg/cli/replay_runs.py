"""The ways in which ``drive-seg replay`` comes to figures: one recording, many, or a live run. With progress shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from drive_seg.cli.options import screen, tell
from drive_seg.evaluation.records import Mode

if TYPE_CHECKING:
    from drive_seg.evaluation.deterministic import ModelChoice, Replay, Work
    from drive_seg.evaluation.partial import Partial
    from drive_seg.labels import LabelMap

Check = Callable[["LabelMap"], None]
"""Refuses, before any work is done, what does not fit the classes."""


@dataclass(frozen=True)
class Judged:
    """What was counted, and what the report has to say of it; see ``report.About``."""

    partial: Partial
    mode: Mode
    title: str
    model: dict[str, Any]
    latency_meaning: str
    written: Sequence[Path] = ()
    stalls: list[dict[str, Any]] | None = field(default=None)


def judge_one(work: Work, choice: ModelChoice, against: str, check: Check) -> Judged:
    """One recording, here."""
    from drive_seg.evaluation import deterministic as engine
    from drive_seg.evaluation.report import model_of

    models = engine.Models.load(choice, against, tell)
    check(models.model.label_map)
    replay = engine.Replay(work, models)
    partial = _run(replay)
    title = f"{work.name} by {choice.name}"
    about = model_of(choice.name, models.model)
    return Judged(partial, Mode.DETERMINISTIC, title, about, engine.LATENCY_MEANING, replay.written)


def judge_many(
    work: Work, sources: Sequence[str], choice: ModelChoice, against: str, check: Check, jobs: int, ray: str
) -> Judged:
    """Many recordings, in processes or on Ray; ``work`` says what to do with each."""
    from drive_seg.evaluation import deterministic as engine
    from drive_seg.evaluation import many
    from drive_seg.evaluation.bags import names_of
    from drive_seg.evaluation.pool import Pool, Watcher

    classes = many.classes_of(choice.path)
    check(classes)
    works = many.works_of(names_of(sources), work)
    merger = many.Merger([each.name for each in works], work.worst)
    written: list[Path] = []
    with _bar() as bar:
        task = bar.add_task(f"0 of {len(works)} recordings", total=0)
        expected = done = 0

        def expect(count: int) -> None:
            nonlocal expected
            expected += count
            bar.update(task, total=expected)

        def take(outcome: many.Outcome) -> None:
            nonlocal done
            done += 1
            merger.add(outcome)
            written.extend(map(Path, outcome.written))
            bar.update(task, description=f"{done} of {len(works)} recordings")
            if outcome.partial is None:
                tell(f"{outcome.bag} is left out: {outcome.reason}")

        watcher = Watcher(expect, lambda count: bar.advance(task, count), take, tell)
        if ray:
            from drive_seg.evaluation.ray_pool import RayPool

            # Workers of a cluster have current folders of their own.
            there = [many.absolute(each) for each in works]
            job = many.Job(replace(choice, path=many.absolute_path(choice.path)), many.absolute_path(against), 1)
            loaded = RayPool(job, ray, jobs, watcher).run(there)
        else:
            count = min(jobs, len(works)) if jobs else many.default_jobs(len(works), choice.device)
            loaded = Pool(many.Job(choice, against, many.threads_for(count)), count, watcher).run(works)
    model = loaded.about if loaded is not None else {"name": choice.name}
    title = f"{len(works)} recordings by {choice.name}"
    partial = merger.result(classes)
    return Judged(partial, Mode.DETERMINISTIC, title, model, engine.LATENCY_MEANING, written)


def judge_live(
    work: Work, choice: ModelChoice | None, recorded: Path | None, rate: float, against: str, check: Check
) -> Judged:
    """A recording that is played through the node now, or was: then ``recorded`` is what was published."""
    from drive_seg.evaluation.live import LiveReplay
    from drive_seg.evaluation.live_run import play_live
    from drive_seg.evaluation.many import classes_of
    from drive_seg.evaluation.recorded import LiveRecording

    if recorded is None:
        check(classes_of(choice.path))
        with screen.status("starting the node") as status:
            recorded = play_live(work, choice, rate, status.update)
    recording = LiveRecording(recorded, rate)
    check(recording.label_map)
    other = replace(choice, path=against).load(tell) if against and not work.against else None
    replay = LiveReplay(work, recording, other)
    partial = _run(replay)
    name = f"{work.name} by {recording.model['name']}, live"
    return Judged(partial, Mode.LIVE, name, recording.model, replay.latency_meaning, replay.written, replay.stalls)


def _run(replay: Replay) -> Partial:
    if replay.remark:  # now, since the run may take long
        tell(replay.remark)
    with _bar() as bar:
        task = bar.add_task("replaying", total=replay.expected)
        return replay.run(lambda: bar.advance(task))


@contextmanager
def _bar() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=screen, transient=True) as bar:
        yield bar
