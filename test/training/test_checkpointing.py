"""The training checkpoint survives whatever happens while it is written."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from drive_seg.training.checkpointing import WholeCheckpoints, remove_partial


def content(number):
    return {"number": number, "weights": torch.full((300, 1000), float(number))}


def test_a_process_killed_while_writing_leaves_a_whole_file(tmp_path):
    """Killed at the start of its 3rd, 4th, ... write, wherever it has got to by then."""
    path = tmp_path / "last.ckpt"
    command = [sys.executable, str(Path(__file__).with_name("killed_writer.py")), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    remove_partial(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("file write failed")])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / "run" / "last.ckpt"
    checkpoints = WholeCheckpoints()
    checkpoints.save_checkpoint(content(1), path)

    def half(_, to):
        to.write_bytes(path.read_bytes()[:1000])
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match=r"No space left|last\.ckpt cannot be written"):
        checkpoints.save_checkpoint(content(2), path)
    assert checkpoints.load_checkpoint(path)["number"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


class Poison:
    def __reduce__(self):
        return (os.abort, ())


@pytest.mark.parametrize("damage", ["cut", "pickle", "gone"])
def test_what_is_no_checkpoint_is_named(tmp_path, damage):
    path = tmp_path / "last.ckpt"
    if damage == "cut":
        WholeCheckpoints().save_checkpoint(content(1), path)
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "pickle":
        path.write_bytes(pickle.dumps(Poison(), protocol=2))
    with pytest.raises(ValueError, match=r"last\.ckpt: not a whole training checkpoint"):
        WholeCheckpoints().load_checkpoint(path)


def test_removing(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint(content(1), path)
    for _ in range(2):
        WholeCheckpoints().remove_checkpoint(path)
    assert not path.exists()
