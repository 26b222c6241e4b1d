"""``drive-seg replay`` as a user calls it: files, exit codes, sentences."""

import csv
import json
import os
import subprocess
import sys

import cv2
import pytest

from drive_seg.cli import main
from drive_seg.evaluation.records import COLUMNS

COMMAND = ("replay", "--device", "cpu", "--runtime", "torch")


@pytest.fixture
def replay(monkeypatch, capsys):
    """Runs the command in this process; gives (stdout, stderr in one line)."""

    def run(*arguments, expect=0):
        monkeypatch.setattr(sys, "argv", ["drive-seg", *COMMAND, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert (ended.value.code or 0) == expect, printed.err
        return printed.out, " ".join(printed.err.split())

    return run


def test_exit_code_of_the_process_says_whether_requirements_are_met(model, labelled_bag, tmp_path):
    command = [sys.executable, "-m", "drive_seg.cli", *COMMAND, labelled_bag, "--model", model]
    command += ["-o", tmp_path / "out", "--frames", 2, "--require", "miou>=0.99"]
    result = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "miou>=0.99 is not met: it is 0." in result.stderr
    assert json.loads((tmp_path / "out" / "report.json").read_text())["frames"]["received"] == 2


def test_report_of_a_labelled_bag(replay, model, labelled_bag, tmp_path):
    out = tmp_path / "out"
    common = ("--model", model, "-o", out)
    printed, said = replay(
        labelled_bag, *common, "--masks", "--video", "--require", "published_share>=1", "--json", "-"
    )
    report = json.loads((out / "report.json").read_text())
    assert json.loads(printed) == report
    assert {path.name for path in out.iterdir()} == {
        "report.json",
        "report.html",
        "frames.csv",
        "masks.mcap",
        "overlay.mp4",
    }
    rows = list(csv.DictReader((out / "frames.csv").open()))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 5 and rows[2]["miou"] == "" and 0 < float(rows[0]["miou"]) < 1
    assert report["mode"] == "deterministic" and report["cameras"] == ["front"] and report["frames"]["scored"] == 4
    assert report["requirements"] == [{"text": "published_share>=1", "value": 1.0, "met": True}]
    assert report["model"]["name"] == "small" and report["command"].startswith("drive-seg replay ")
    assert "5 frames, 5 with a mask, mIoU " in said

    # again: the earlier report is replaced, and what this run did not make is gone; a missed requirement says so
    _, said = replay(labelled_bag, *common, "--require", "miou>=0.99", "--require", "f_miou>=0", expect=1)
    again = json.loads((out / "report.json").read_text())
    assert again["miou"] == report["miou"] and [each["met"] for each in again["requirements"]] == [False, True]
    assert {path.name for path in out.iterdir()} == {"report.json", "report.html", "frames.csv"}
    assert "drive-seg: miou>=0.99 is not met: it is 0." in said


def test_bad_input_is_refused_with_one_sentence_and_nothing_is_touched(replay, model, labelled_bag, tmp_path):
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    _, said = replay(labelled_bag, "--model", model, "-o", other, expect=1)
    assert "holds other files than an earlier report" in said and [p.name for p in other.iterdir()] == ["thesis.txt"]
    out = tmp_path / "out"
    _, said = replay(labelled_bag, "--model", model, "-o", out, "--require", "speed>1", expect=1)
    assert "no figure is called 'speed'" in said and not out.exists()
    _, said = replay(tmp_path / "none", "--model", model, "-o", out, expect=1)
    assert "does not exist" in said and not out.exists()


def test_folder_with_truths_against_another_model(replay, small, model, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"shot{i}.png"), small.shot(i))
        cv2.imwrite(str(tmp_path / "labels" / f"shot{i}.png"), small.truth(i))
    second = small.save_model(tmp_path / "second.safetensors", seed=3)
    arguments = ("--truth", tmp_path / "labels", "--against", second, "--frames", 2, "--require", "agreement>=1")
    _, said = replay(tmp_path / "images", "--model", model, "-o", tmp_path / "out", *arguments, expect=1)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["frames"]["scored"] == 2 and report["against"]["name"] == "second"
    assert "agreement>=1 is not met: it is 0." in said
