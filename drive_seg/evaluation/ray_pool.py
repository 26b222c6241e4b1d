"""Recordings judged on a Ray cluster, one task each."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from drive_seg.evaluation.deterministic import Work
from drive_seg.evaluation.many import Job, Loaded, Outcome
from drive_seg.evaluation.pool import UnusableError, Watcher, WorkerError, judge_there

TELL_S = 1.0
CONNECT_S = 10.0
GPU_SHARE = 0.5
"""Two tasks share a GPU: one decodes and counts while the other computes."""


class RayPool:
    """Tasks on a cluster; one that dies costs its recording alone.

    Ray leaves threads behind in the process that used it, and takes faulthandler's place for signals: that process
    should soon end, and not fork.

    Args:
        job: what all of them do.
        address: "local" for workers of this machine, "auto" for the cluster it is part of, or HOST:PORT.
        jobs: how many tasks at a time; 0 is as many as the cluster has CPUs.
        watcher: whom to tell.

    Raises:
        ValueError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, job: Job, address: str, jobs: int, watcher: Watcher) -> None:
        _check_reachable(address)
        # Before the import: Ray reads it there, and would report its use over the network.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise ValueError("--ray needs the Python package 'ray', which the extra 'cluster' installs") from error
        self._ray, self._job, self._jobs, self._watcher = ray, job, jobs, watcher
        local = {"include_dashboard": False, "num_cpus": jobs or None} if address == "local" else {}
        self._is_ours = not ray.is_initialized()
        try:
            if self._is_ours:
                ray.init(address, log_to_driver=False, logging_level="ERROR", **local)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise ValueError(f"the Ray cluster '{address}' cannot be reached: {error}") from error

    def run(self, works: Sequence[Work]) -> Loaded | None:
        """As ``Pool.run``; None if no task came as far as loading the model."""
        ray = self._ray
        resources = ray.cluster_resources()
        most = self._jobs or max(1, int(resources.get("CPU", 1)))
        device = self._job.choice.device
        on_gpu = device.startswith("cuda") or (device == "auto" and resources.get("GPU", 0) > 0)
        # A network may kill the process it runs in, which a second try would only repeat.
        options = {"num_cpus": self._job.threads or 1, "num_gpus": GPU_SHARE if on_gpu else 0, "max_retries": 0}
        task = ray.remote(**options)(_judge)
        counter = ray.remote(num_cpus=0)(_Counter).remote()
        left, running = deque(works), {}
        loaded: Loaded | None = None
        try:
            while left or running:
                while left and len(running) < most:
                    work = left.popleft()
                    running[task.remote(self._job, work, counter)] = work
                ready, _ = ray.wait(list(running), timeout=TELL_S)
                for reference in ready:
                    outcome, told = self._result(reference, running.pop(reference))
                    loaded = loaded or told
                    self._watcher.done(outcome)
                self._show(counter)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            if self._is_ours:
                ray.shutdown()
        return loaded

    def _result(self, reference: Any, work: Work) -> tuple[Outcome, Loaded | None]:
        try:
            return self._ray.get(reference)
        except UnusableError as error:
            raise WorkerError(str(error)) from error
        except self._ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return Outcome(work.name, None, f"its task on the cluster failed: {lines[-1]}"), None

    def _show(self, counter: Any) -> None:
        counts = self._ray.get(counter.take.remote())
        self._watcher.expect(counts["expect"])
        self._watcher.advance(counts["advance"])


def _check_reachable(address: str) -> None:
    """Refuse HOST:PORT where nobody listens, which Ray itself would try for minutes: ValueError."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"the Ray cluster '{address}' cannot be reached: {error}") from error


class _Counter:
    """Images that were announced and judged since it was asked last."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, counts: Counter[str]) -> None:
        self._counts.update(counts)

    def take(self) -> Counter[str]:
        taken, self._counts = self._counts, Counter()
        return taken


def _judge(job: Job, work: Work, counter: Any) -> tuple[Outcome, Loaded]:
    counts, sent = Counter(), time.monotonic()

    def note(name: str, value: Any) -> None:
        """Passed on at most once a second."""
        nonlocal counts, sent
        if name == "tell":
            return
        counts[name] += value
        if time.monotonic() - sent >= TELL_S:
            counter.add.remote(counts)
            counts, sent = Counter(), time.monotonic()

    found = judge_there(job, work, note)
    counter.add.remote(counts)
    return found
