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
from multiprocessing.process import BaseProcess

from drive_seg.evaluation.deterministic import Work
from drive_seg.evaluation.many import Job, Loaded, Outcome, judge_one

log = logging.getLogger(__name__)

END_S = 5.0


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


class Pool:
    """Processes that share the work; a process that dies costs the recording it was at, and another takes its place.

    Args:
        job: what all of them do.
        jobs: how many processes.
        watcher: whom to tell.
    """

    def __init__(self, job: Job, jobs: int, watcher: Watcher) -> None:
        self._job, self._jobs, self._watcher = job, jobs, watcher
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._loaded: Loaded | None = None

    def run(self, works: Sequence[Work]) -> Loaded | None:
        """Judge them all, the outcomes in any order; every process has ended afterwards, come what may.

        Returns:
            what the workers loaded; None if there was nothing to do.

        Raises:
            WorkerError: the model could not be loaded.
        """
        left = deque(works)
        try:
            while left or self._workers:
                while left and len(self._workers) < self._jobs:
                    with _without_interrupts():
                        self._workers.append(_Worker(self._context, self._job, len(self._workers)))
                for worker in self._ready():
                    self._serve(worker, left)
        finally:
            for worker in self._workers:
                worker.end()
        return self._loaded

    def _ready(self) -> list[_Worker]:
        ready = set(wait([worker.connection for worker in self._workers]))
        return [worker for worker in self._workers if worker.connection in ready]

    def _serve(self, worker: _Worker, left: deque[Work]) -> None:
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if kind == "unusable":
            raise WorkerError(value)
        if kind == "tell":
            self._watcher.tell(value)
        elif kind == "expect":
            worker.expected = value
            self._watcher.expect(value)
        elif kind == "advance":
            worker.judged += value
            self._watcher.advance(value)
        else:
            if kind == "loaded":
                self._loaded, worker.is_idle = self._loaded or value, True
            else:
                self._settle(worker, value)
            self._give(worker, left)

    def _give(self, worker: _Worker, left: deque[Work]) -> None:
        if not left:
            worker.end()
            self._workers.remove(worker)
            return
        worker.begin(left.popleft())

    def _settle(self, worker: _Worker, outcome: Outcome) -> None:
        # The bar may have been told of images that never came.
        self._watcher.expect(worker.judged - worker.expected)
        worker.work, worker.is_idle = None, True
        self._watcher.done(outcome)

    def _bury(self, worker: _Worker) -> None:
        worker.process.join(END_S)
        how = _how_it_ended(worker.process.exitcode)
        worker.end()
        self._workers.remove(worker)
        if worker.work is not None:
            self._settle(worker, Outcome(worker.work.name, None, f"the process that judged it {how}"))
            return
        # It died while loading, and so may the next one: go on with those there are.
        self._jobs -= 1
        if self._jobs == 0:
            raise WorkerError(f"a process that was to load the model {how}")


class _Worker:
    """One process, its connection, and what it is at."""

    def __init__(self, context: multiprocessing.context.SpawnContext, job: Job, number: int) -> None:
        self.connection, theirs = context.Pipe()
        self.work: Work | None = None
        self.expected = self.judged = 0
        self.is_idle = False
        self.process: BaseProcess = context.Process(
            target=_work, args=(theirs, job, number == 0), name=f"replay {number}", daemon=True
        )
        self.process.start()
        theirs.close()

    def begin(self, work: Work) -> None:
        self.work, self.expected, self.judged, self.is_idle = work, 0, 0, False
        # A process that has just died is noticed when its connection is read.
        with contextlib.suppress(OSError):
            self.connection.send(work)

    def end(self) -> None:
        """End it, at once if it is at work."""
        if self.is_idle:
            with contextlib.suppress(OSError):
                self.connection.send(None)
            self.process.join(END_S)
        else:
            self.process.terminate()
            self.process.join(END_S)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.connection.close()


def _work(connection: Connection, job: Job, is_first: bool) -> None:
    """What a process does: load, then judge what it is given until it is given nothing."""
    # Who loads the same model need not repeat what was said of it.
    tell = (lambda text: connection.send(("tell", text))) if is_first else (lambda text: None)
    try:
        models = job.load(tell)
    except Exception as error:  # whatever a runtime raises; the parent says it
        connection.send(("unusable", str(error) or repr(error)))
        return
    connection.send(("loaded", job.describe(models)))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        while (work := connection.recv()) is not None:
            outcome = judge_one(
                work,
                models,
                lambda count: connection.send(("expect", count or 0)),
                lambda: connection.send(("advance", 1)),
            )
            connection.send(("outcome", outcome))


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
