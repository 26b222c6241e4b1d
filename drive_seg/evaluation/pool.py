"""Recordings judged in processes of this machine, each with its own model."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from drive_seg.evaluation.deterministic import Models, Work
from drive_seg.evaluation.many import Job, Loaded, Outcome, judge_one

log = logging.getLogger(__name__)

END_S = 5.0

Note = Callable[[str, Any], object]
"""Hears what a worker has to say: the name of a :class:`Watcher`'s member, and what it is to be called with."""


@dataclass(frozen=True)
class Watcher:
    """What is called while the work goes on: with images expected or judged, each outcome, and sentences for the user.

    ``expect`` gets how many more images there will be than was thought so far.
    """

    expect: Callable[[int], None] = lambda count: None
    advance: Callable[[int], None] = lambda count: None
    done: Callable[[Outcome], None] = lambda outcome: None
    tell: Callable[[str], None] = log.info


class WorkerError(RuntimeError):
    """No worker could load the model; the message says why."""


class UnusableError(ValueError):
    """The model cannot be loaded where the work is done."""


def judge_there(job: Job, work: Work, note: Note) -> tuple[Outcome, Loaded]:
    """Judge a recording in a worker, which loads the models for the first one.

    Raises:
        UnusableError: they cannot be loaded.
    """
    if job not in _models:
        try:
            _models[job] = job.load(lambda text: note("tell", text))
        except Exception as error:  # whatever a runtime raises; the parent says it
            raise UnusableError(str(error) or repr(error)) from error
    expected = judged = 0

    def expect(count: int | None) -> None:
        nonlocal expected
        expected = count or 0
        note("expect", expected)

    def advance() -> None:
        nonlocal judged
        judged += 1
        note("advance", 1)

    outcome = judge_one(work, _models[job], expect, advance)
    note("expect", judged - expected)  # the bar may have been told of images that never came
    return outcome, job.describe(_models[job])


_models: dict[Job, Models] = {}
"""Of this process, if it is a worker."""


class Pool:
    """Processes that share the work; a process that dies costs the recording it was at, and another takes its place.

    Args:
        job: what all of them do.
        jobs: how many processes.
        watcher: whom to tell.
    """

    def __init__(self, job: Job, jobs: int, watcher: Watcher) -> None:
        self._job, self._jobs, self._watcher = job, jobs, watcher
        self._workers: list[_Worker] = []

    def run(self, works: Sequence[Work]) -> Loaded | None:
        """Judge them all, the outcomes in any order; every process has ended afterwards, come what may.

        Returns:
            what the workers loaded; None if there was nothing to do.

        Raises:
            WorkerError: the model could not be loaded.
        """
        left, loaded, started = deque(works), None, 0
        try:
            while left or self._workers:
                while left and len(self._workers) < self._jobs:
                    with _without_interrupts():
                        self._workers.append(_Worker(self._job, started == 0))
                    self._workers[-1].begin(left.popleft())
                    started += 1
                ready = set(wait([worker.connection for worker in self._workers]))
                for worker in [worker for worker in self._workers if worker.connection in ready]:
                    kind, value = worker.hear()
                    if kind != "outcome":
                        getattr(self._watcher, kind)(value)
                        continue
                    outcome, about = value
                    loaded = loaded or about
                    self._watcher.done(outcome)
                    if left and worker.is_alive:
                        worker.begin(left.popleft())
                    else:
                        self._workers.remove(worker)
                        worker.end()
        finally:
            for worker in self._workers:
                worker.end()
        return loaded


class _Worker:
    """One process, its connection, and what it is at."""

    def __init__(self, job: Job, tells: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, job, tells), name="replay", daemon=True)
        self.work: Work | None = None
        self.is_alive = True
        self.process.start()
        theirs.close()

    def begin(self, work: Work) -> None:
        """Let it judge a recording."""
        self.work = work
        # A process that has just died is noticed when its connection is read.
        with contextlib.suppress(OSError):
            self.connection.send(work)

    def hear(self) -> tuple[str, Any]:
        """What it says next: a note, or "outcome" and what became of its recording.

        Raises:
            WorkerError: it could not load the model.
        """
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            self.is_alive = False
            self.process.join(END_S)
            reason = f"the process that judged it {_how_it_ended(self.process.exitcode)}"
            return "outcome", (Outcome(self.work.name, None, reason), None)
        if kind == "unusable":
            raise WorkerError(value)
        return kind, value

    def end(self) -> None:
        """End it at once."""
        self.process.terminate()
        self.process.join(END_S)
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(connection: Connection, job: Job, tells: bool) -> None:
    """Judge what comes until nothing comes any more."""

    def note(kind: str, value: Any) -> None:
        # Who loads the same model need not repeat what was said of it.
        if kind != "tell" or tells:
            connection.send((kind, value))

    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        while True:
            try:
                note("outcome", judge_there(job, connection.recv(), note))
            except UnusableError as error:
                note("unusable", str(error))


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started here never gets a Ctrl-C, which reaches every process of a terminal: its parent ends it.

    A Ctrl-C to the parent meanwhile is acted upon afterwards, so that no process is left half started.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _postponed_interrupts():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _postponed_interrupts() -> Iterator[None]:
    """The mask is of one thread: Python's handler still runs, in the main one, when another thread takes a Ctrl-C."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *details: came.append(details))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        handler(*came[-1])


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with exit status {exitcode}"
