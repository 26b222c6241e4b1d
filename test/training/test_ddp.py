"""Two processes that train together (gloo, on the CPU) do what a single one does.

Exact agreement is tested with a network without Batch Norm: what normalises over the batch sees half of it on each
device, unless it is synchronised, and SyncBatchNorm runs on GPUs only.
"""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.labels import CAMVID11
from drive_seg.networks import catalog
from drive_seg.training.recipe import load_recipe
from drive_seg.training.train import train

SCRIPT = Path(__file__).with_name("ddp_run.py")
SETTINGS = (
    "losses={cross_entropy: 1.0}",
    "augmentation={scale: [1, 1], photometric: 0.5}",
    "precision=fp32",
    "schedule={epochs: 2, warmup_epochs: 0.5}",
)


@pytest.fixture
def alone(recipe_file, tmp_path, monkeypatch):
    """Trains here, in a single process."""
    spec = importlib.util.spec_from_file_location("ddp_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(catalog._CATALOG, "plain", module.Plain)
    monkeypatch.setitem(catalog._CATALOG, "normalised", module.Normalised)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def run(*settings: str) -> Path:
        train(load_recipe(recipe_file, [*SETTINGS, *settings]), tmp_path / "alone", progress=False)
        return tmp_path / "alone"

    return run


@pytest.fixture
def together(recipe_file, tmp_path):
    """Trains in two processes that torchrun starts."""

    def run(*settings: str) -> Path:
        folder = tmp_path / "together"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command += [str(SCRIPT), str(recipe_file), str(folder), "devices=2", *SETTINGS, *settings]
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")]),
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    return run


def last(folder: Path) -> dict:
    return torch.load(folder / "last.ckpt", weights_only=True)


def scores(folder: Path) -> list[list[float]]:
    files = list((folder / "csv").glob("version_*/metrics.csv"))
    assert len(files) == 1  # the other process writes none
    with open(files[0]) as file:
        rows = [row for row in csv.DictReader(file) if row.get("val_miou")]
    return [[float(row[name]) for name in ("val_miou", "val_f_miou", "val_accuracy")] for row in rows]


@pytest.fixture
def teacher(alone, tmp_path) -> Path:
    """A network with random weights to learn from; ``alone`` has made the kind known."""
    torch.manual_seed(3)
    path = tmp_path / "teacher.safetensors"
    checkpoint.save(path, networks.build("plain", 11), Contract("plain", {}, CAMVID11, InputSpec((48, 64))))
    return path


def test_two_processes_make_the_steps_of_one(alone, together, teacher):
    """2 x 2 images against 4: the same weights after four steps, and scores over all three validation images.

    Every image has the same number of labelled pixels, so the mean of two means is the mean over all. A branch without
    a loss must not make the processes wait for its gradient, and neither must a teacher.
    """
    settings = ("network.name=plain", "optimizer={name: sgd, lr: 0.2, weight_decay: 0.0001}")
    settings += ("losses={cross_entropy: 1.0, distillation: 1.0}", f"teachers=[{teacher}]")
    single, double = alone(*settings), together(*settings)
    one, two = last(single), last(double)
    assert one["global_step"] == two["global_step"] == 4
    for part in ("state_dict", "current_model_state"):
        assert one[part].keys() == two[part].keys()
        for name, tensor in one[part].items():
            torch.testing.assert_close(two[part][name], tensor, rtol=0, atol=1e-5)
    momentum = [[entry["momentum_buffer"] for entry in s["optimizer_states"][0]["state"].values()] for s in (one, two)]
    for mine, theirs in zip(*momentum, strict=True):  # decayed sums of the gradients
        torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-5)
    assert len(scores(single)) == 2 and scores(double) == [pytest.approx(row, abs=2e-3) for row in scores(single)]
    recorded = [checkpoint.load(folder / "best.safetensors").contract.metrics for folder in (single, double)]
    assert recorded[0]["validation"]["epochs"] == recorded[1]["validation"]["epochs"]
    assert len(list((double / "panels").iterdir())) == 2


def test_statistics_that_each_process_gathers_are_averaged(alone, together):
    """At a vanishing rate the weights stay, so the mean over a batch is the mean of those over its halves."""
    settings = ("network.name=normalised", "optimizer={name: sgd, lr: 1.0e-20}")
    one, two = (checkpoint.load(run(*settings) / "best.safetensors").tensors for run in (alone, together))
    assert one["body.1.running_mean"].any()
    torch.testing.assert_close(two["body.1.running_mean"], one["body.1.running_mean"], rtol=1e-4, atol=1e-6)
