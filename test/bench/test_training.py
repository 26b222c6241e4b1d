"""Training steps timed in turn, and how they are printed."""

import io

import pytest
import torch
from rich.console import Console

from drive_seg.bench import report, training
from drive_seg.bench.run import Plan
from drive_seg.bench.training import PARTS, Way, bench_training, ways
from drive_seg.training.kernels.library import ready


@pytest.fixture
def small(monkeypatch):
    """Crops of 64x96 of few frames."""
    data = {**training.RECIPE["data"], "crop": (64, 96)}
    data["train"] = {"dataset": "synth", "seeds": [0, 1], "frames": 2, "repeat": 2, "size": (160, 96)}
    monkeypatch.setattr(training, "RECIPE", {**training.RECIPE, "data": data})


def test_a_row_for_each_way_with_the_shares_of_its_parts(small, monkeypatch):
    chosen = [Way("eager", "fp32", 1), Way("kernels" if ready() else "eager", "bf16", 1)]
    monkeypatch.setattr(training, "ways", lambda device: chosen)
    before, said = torch.get_num_threads(), []
    rows = bench_training("cpu", 0.01, said.append)
    assert torch.get_num_threads() == before and said[-1] == "training: timing 2 ways in turn"
    assert [(row.part, row.runtime, row.precision, row.status) for row in rows] == [
        ("training", way.runtime, way.precision, "ran") for way in chosen
    ]
    assert rows[0].ratio_to_eager == 1
    for row in rows:
        assert row.details["threads"] == 1 and tuple(row.details["shares"]) == PARTS
        assert sum(row.details["shares"].values()) == pytest.approx(1)
        assert row.details["images_per_second"] == pytest.approx(4e3 / row.median_ms)
    printed = io.StringIO()
    Console(file=printed, width=100).print(report._table([row.to_dict() for row in rows]))
    assert "images/s" in printed.getvalue() and "Training step" in printed.getvalue()
    (line,) = report._details(rows[0].to_dict())
    assert line.startswith("eager fp32, threads 1: data ")


def test_a_way_that_fails_costs_none_of_the_others(small, monkeypatch):
    monkeypatch.setattr(training, "ways", lambda device: [Way("eager", "fp32", 1), Way("eager", "fp8", 1)])
    good, bad = bench_training("cpu", 0.01, lambda text: None)
    assert good.status == "ran" and (bad.status, bad.reason) == ("failed", "KeyError: 'fp8'")


def test_ways_of_this_machine_and_of_a_gpu():
    assert ways("cpu")[0] == Way("eager", "fp32", 1)
    assert {way.threads for way in ways("cpu")} == {1, torch.get_num_threads()}
    assert {(way.runtime, way.precision) for way in ways("cuda")} == {
        (runtime, precision) for runtime in ("eager", "compiled") for precision in ("fp32", "fp16")
    }


def test_training_is_timed_only_where_it_is_asked_for():
    assert "training" not in Plan().parts and Plan(parts=("training",)).parts == ("training",)
