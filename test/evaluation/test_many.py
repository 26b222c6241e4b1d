"""Many recordings: found, judged in processes or on Ray, and merged into the same report however it was done."""

import contextlib
import csv
import importlib.util
import json
import multiprocessing.util
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from drive_seg.evaluation import many
from drive_seg.evaluation.bags import find_sources, names_of
from drive_seg.evaluation.deterministic import ModelChoice, Models, Replay, Work
from drive_seg.evaluation.output import distinct_names
from drive_seg.evaluation.partial import merge
from drive_seg.evaluation.pool import Pool, Watcher, WorkerError
from drive_seg.evaluation.report import About, as_report
from drive_seg.recordings.sources import SourceError

ABOUT = About("deterministic", "bags", "a title", {"name": "m"}, "drive-seg replay", "its own time")
TIMES = ("latency_ms", "command", "versions", "model")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def drives(small, tmp_path_factory):
    """Two labelled bags, one in a folder below, and a broken one."""
    folder = tmp_path_factory.mktemp("drives")
    (folder / "more").mkdir()
    for path, count, first in ((folder / "b", 4, 0), (folder / "more" / "c", 3, 10)):
        messages = []
        for i in range(first, first + count):
            messages.append(("/front/image_raw", small.stamp(i), small.shot(i)))
            messages.append(("/front/label_truth", small.stamp(i), small.truth(i)))
        small.write_bag(path, messages)
    (folder / "a.mcap").write_bytes(b"no bag at all")
    return folder


@pytest.fixture(scope="module")
def choice(model):
    return ModelChoice(str(model), "cpu", "auto", "torch")


def report_of(folder):
    report = json.loads((folder / "report.json").read_text())
    return {key: value for key, value in report.items() if key not in TIMES}


def rows_of(folder):
    rows = csv.DictReader((folder / "frames.csv").open())
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def judged(works, job, jobs, **watched):
    """The outcomes by name."""
    outcomes = {}
    Pool(job, jobs, Watcher(done=lambda outcome: outcomes.setdefault(outcome.bag, outcome), **watched)).run(works)
    return outcomes


def test_bags_are_found_in_folders_and_by_patterns(drives, tmp_path):
    a, b, c = str(drives / "a.mcap"), str(drives / "b"), str(drives / "more" / "c")
    assert find_sources([str(drives)]) == [a, b, c]
    assert find_sources([b]) == [b], "a bag is itself"
    assert find_sources([c, str(drives), b]) == [c, a, b], "each once"
    assert find_sources([str(drives / "*")]) == [a, b, c]
    assert find_sources([str(drives / "**")]) == [a, b, c]
    assert find_sources([str(drives / "**" / "*.mcap")]) == [a, f"{b}/b.mcap", f"{c}/c.mcap"]
    assert find_sources(["synth:frames=2", "clip.mp4"]) == ["synth:frames=2", "clip.mp4"]
    with pytest.raises(SourceError, match="Nothing fits"):
        find_sources([str(drives / "*.bag")])
    (tmp_path / "pictures").mkdir()
    assert find_sources([str(tmp_path / "pictures")]) == [str(tmp_path / "pictures")], "a folder of images"


def test_folder_without_metadata_is_one_recording_or_several(tmp_path):
    split, loose = tmp_path / "all" / "drive", tmp_path / "all" / "loose"
    for folder, names in ((split, ("drive_0.mcap", "drive_1.mcap")), (loose, ("x.mcap", "y.mcap", "z.db3"))):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
    expected = [str(split), *(str(loose / name) for name in ("x.mcap", "y.mcap", "z.db3"))]
    assert find_sources([str(tmp_path / "all")]) == expected


def test_names_are_short_and_differ(tmp_path):
    sources = [str(tmp_path / name) for name in ("two/bag", "one/bag", "one/other")]
    assert names_of(sources) == {"one/bag": sources[1], "other": sources[2], "two/bag": sources[0]}
    assert list(names_of(["synth:frames=2", "/x/a.mcap"])) == ["a.mcap", "synth:frames=2"]


def replay_apart(*arguments, expect=0):
    """Runs the command as a process of its own; what it said in one line."""
    command = [sys.executable, "-m", "drive_seg.cli", "replay", "--device", "cpu", "--runtime", "torch", *arguments]
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
    assert ended.returncode == expect, ended.stderr
    return " ".join(ended.stderr.split())


@pytest.fixture(scope="module")
def by_pool(drives, model, tmp_path_factory):
    """The report's folder of all of them, by two processes, and what the command said."""
    out = tmp_path_factory.mktemp("pool") / "out"
    return out, replay_apart(drives, "--model", model, "-o", out, "--masks", "--jobs", 2, expect=1)


def test_one_report_for_all_with_the_broken_one_named(by_pool):
    out, said = by_pool
    assert "a.mcap is left out" in said and "1 of 3 recordings could not be judged: a.mcap" in said
    report = report_of(out)
    bags = [(bag["name"], bag["status"], bag["frames"]) for bag in report["bags"]]
    assert bags == [("a.mcap", "failed", 0), ("b", "ok", 4), ("c", "ok", 3)]
    assert report["bags"][0]["reason"] and report["frames"]["received"] == report["frames"]["scored"] == 7
    assert [row["bag"] for row in rows_of(out)] == ["b"] * 4 + ["c"] * 3
    assert "a.mcap" in (out / "report.html").read_text()
    assert sorted(path.parent.name for path in out.rglob("masks.mcap")) == ["b", "c"]


def test_one_process_gives_what_two_give_and_masks_of_many_can_be_compared_with(
    replay, by_pool, drives, model, tmp_path
):
    good, (out, _) = (drives / "more" / "c", drives / "b"), by_pool
    required = ("--against", out, "--require", "agreement>=1", "--require", "failed_bags<=0")
    replay(*good, "--model", model, "-o", tmp_path / "out", "--jobs", 1, *required)
    one, two = report_of(tmp_path / "out"), report_of(out)
    assert all(each["met"] for each in one["requirements"]) and one["bags"] == two["bags"][1:]
    for key in ("bags", "requirements", "against", "source", "title"):
        one.pop(key), two.pop(key)
    assert one == two
    rows = rows_of(tmp_path / "out")
    assert {row.pop("agreement") for row in rows} == {"1.0"}
    assert rows == [{key: value for key, value in row.items() if key != "agreement"} for row in rows_of(out)]


def test_report_is_written_where_every_bag_is_broken(replay, drives, model, tmp_path):
    (tmp_path / "z.bag").write_bytes(b"neither")
    arguments = (drives / "a.mcap", tmp_path / "z.bag", "--model", model, "-o", tmp_path / "out", "--jobs", 1)
    assert "2 of 2 recordings could not be judged" in replay(*arguments, expect=1)
    report = report_of(tmp_path / "out")
    assert {bag["status"] for bag in report["bags"]} == {"failed"} and report["miou"] is None
    assert (tmp_path / "out" / "report.html").is_file()


def test_merging_does_not_depend_on_who_is_done_first(drives, segmenter):
    works = many.works_of(names_of([str(drives / "b"), str(drives / "more" / "c")]), Work("", worst=3))
    outcomes = [many.judge_one(work, Models(segmenter), lambda count: None, lambda: None) for work in works]
    reports = []
    for order in (outcomes, outcomes[::-1]):
        merger = many.Merger([work.name for work in works], 3)
        for outcome in order:
            merger.add(outcome)
        partial = merger.result(segmenter.label_map)
        reports.append(as_report(partial, ABOUT))
        assert len(partial.worst) == 3
    assert reports[0] == reports[1]
    plain = merge([many.unpacked(outcome.partial) for outcome in outcomes], 3)
    assert as_report(plain, ABOUT) == reports[0]


def test_pictures_travel_small_and_masks_unchanged(drives, segmenter):
    partial = Replay(Work(str(drives / "b")), Models(segmenter)).run()
    sent = many.packed(partial)
    assert all(kept.image.ndim == 1 for kept in sent.worst)
    back = many.unpacked(sent)
    for before, after in zip(partial.worst, back.worst, strict=True):
        np.testing.assert_array_equal(before.prediction, after.prediction)
        np.testing.assert_array_equal(before.truth, after.truth)
        assert after.other is None and np.abs(before.image.astype(int) - after.image).mean() < 10


def test_process_that_is_killed_costs_its_recording_alone(drives, choice):
    endless = "synth:seed=1,frames=100000,size=88x48"
    works = [Work(endless), Work(str(drives / "b"))]
    outcomes = {}

    def kill(count):
        for worker in pool._workers:
            if worker.work is not None and worker.work.name == endless:
                os.kill(worker.process.pid, signal.SIGKILL)

    pool = Pool(
        many.Job(choice), 1, Watcher(advance=kill, done=lambda outcome: outcomes.update({outcome.bag: outcome}))
    )
    pool.run(works)
    assert outcomes["b"].partial is not None
    assert outcomes[endless].reason == "the process that judged it was ended by SIGKILL (out of memory?)"


def test_model_that_cannot_be_loaded_ends_the_run(drives, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(WorkerError, match="bad.safetensors"):
        judged([Work(str(drives / "b"))], many.Job(ModelChoice(str(tmp_path / "bad.safetensors"))), 1)


def test_progress_counts_every_image(drives, choice):
    counts = {"expected": 0, "judged": 0}

    def count(name):
        return lambda number: counts.update({name: counts[name] + number})

    works = many.works_of(names_of(find_sources([str(drives)])), Work(""))
    judged(works, many.Job(choice), 1, expect=count("expected"), advance=count("judged"))
    assert counts == {"expected": 7, "judged": 7}


def test_interrupt_ends_every_process(model, tmp_path):
    arguments = ["replay", "synth:seed=1,frames=100000,size=88x48", "synth:seed=2,frames=100000,size=88x48"]
    arguments += ["--model", str(model), "-o", str(tmp_path / "out"), "--jobs", "2", "--device", "cpu"]
    command = [sys.executable, "-m", "drive_seg.cli", *arguments, "--runtime", "torch"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(workers := children.read_text().split()) < 3:  # two workers, and the tracker of Python's own
            assert process.poll() is None, process.stderr.read()
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 130 and "Traceback" not in said, said
        wait_for_end(workers)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "out" / "report.json").exists()


def test_interrupt_while_a_process_is_being_started_waits_until_it_has(choice, monkeypatch, capfd):
    """Between its start and what it is told to do it must not be left alone: it would end in a traceback."""
    start, pids = multiprocessing.util.spawnv_passfds, []

    def interrupt():
        # As threads of libraries do, it takes the signal that the main one has blocked.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.raise_signal(signal.SIGINT)

    def start_and_interrupt(path, arguments, *rest):
        pid = start(path, arguments, *rest)
        if "--multiprocessing-fork" in arguments:  # else it is the tracker of Python's own
            pids.append(pid)
            thread = threading.Thread(target=interrupt)
            thread.start()
            thread.join()
        return pid

    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        judged([Work("synth:seed=1,frames=100000,size=88x48")] * 2, many.Job(choice), 2)
    assert len(pids) == 1, "no other is started"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    wait_for_end(pids)
    assert "Traceback" not in capfd.readouterr().err


def wait_for_end(pids):
    """Until none of them runs; one that nobody has waited for yet has ended too."""
    for pid in pids:
        with contextlib.suppress(OSError):
            deadline = time.monotonic() + 60
            while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                assert time.monotonic() < deadline, Path(f"/proc/{pid}/cmdline").read_text()
                select.select([], [], [], 0.02)


def test_jobs_and_threads_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert (many.default_jobs(3, "cpu"), many.threads_for(3)) == (3, 2)
    assert (many.default_jobs(100, "cpu"), many.threads_for(8)) == (8, 1)
    assert many.default_jobs(100, "cuda:0") == 2


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray, the extra 'cluster'")
def test_ray_gives_the_same_report(by_pool, drives, model, tmp_path):
    """Apart: Ray leaves threads behind in its process, and no handler of segmentation faults."""
    out = tmp_path / "ray"
    said = replay_apart(drives, "--model", model, "--jobs", 2, "-o", out, "--ray", "local", expect=1)
    assert "a.mcap is left out" in said
    assert report_of(out) == report_of(by_pool[0])
    assert rows_of(out) == rows_of(by_pool[0]) and len(rows_of(out)) == 7


def test_ray_that_is_not_installed_is_named(replay, monkeypatch, drives, model, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    said = replay(drives / "b", "--model", model, "-o", tmp_path / "out", "--ray", "local", expect=1)
    assert "which the extra 'cluster' installs" in said and not (tmp_path / "out").exists()


def test_cluster_that_is_not_there_is_named(replay, monkeypatch, drives, model, tmp_path):
    """Before Ray is imported."""
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = (drives / "b", "--model", model, "-o", tmp_path / "out", "--ray", "127.0.0.1:1")
    assert "the Ray cluster '127.0.0.1:1' cannot be reached" in replay(*arguments, expect=1)


def test_recordings_and_cameras_of_like_names_get_files_of_their_own():
    names = distinct_names(["a/b", "a_b", "a b", ".hidden", "..", "kept-1.mcap"])
    assert names == {
        "a/b": "a_b",
        "a_b": "a_b_2",
        "a b": "a_b_3",
        ".hidden": "hidden",
        "..": "_",
        "kept-1.mcap": "kept-1.mcap",
    }
