"""What runtime auto would take is prepared by a child process: waited for, left for later, forbidden, or it dies."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.inference.runtimes.native import runtime as native
from drive_seg.inference.runtimes.preparation import SWITCH, Preparation, prepare_and_wait
from drive_seg.labels import CAMVID11
from drive_seg.segmenter import Segmenter

DEADLINE_S = 120.0


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A DSNet, where preparing is not forbidden."""
    monkeypatch.delenv(SWITCH)
    torch.manual_seed(2)
    path = tmp_path / "m.safetensors"
    checkpoint.save(path, networks.build("dsnet", 11), Contract("dsnet", {}, CAMVID11, InputSpec((64, 96))))
    return path


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Lets lines of a shell script be the compiler; $out is the file that it is to make."""

    def make(*lines):
        script = tmp_path / "compiler.sh"
        script.write_text("\n".join(('for out in "$@"; do :; done', *lines)) + "\n")
        monkeypatch.setenv("CXX", f"sh {script}")

    return make


@pytest.fixture
def quick_compiler(compiler, kernels_file):
    compiler(f'cp "{kernels_file}" "$out"')


def load(model, **how):
    told = []
    return Segmenter.load(model, "cpu", tell=told.append, **how), told


def test_auto_waits_for_the_fastest_once(model, quick_compiler):
    first, told = load(model)
    assert first.runtime == "native" and first.unprepared is None
    assert told == ["preparing native for m.safetensors, once on this machine"]
    again, told = load(model)
    assert again.runtime == "native" and told == []
    assert [file.suffix for file in native.library_file().parent.iterdir()] == [".so"], "nothing lies beside it"


def test_it_may_be_left_for_later(model, quick_compiler):
    segmenter, told = load(model, prepare_first="later")
    assert (segmenter.runtime, segmenter.unprepared, told) == ("torch", "native", [])
    preparation = Preparation(model, "cpu", nice=1)
    preparation.wait()
    assert load(model, prepare_first="later")[0].runtime == "native"


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_it_may_be_forbidden(model, quick_compiler, monkeypatch, how):
    if how == "environment":
        monkeypatch.setenv(SWITCH, "never")
    segmenter, told = load(model, prepare_first="never" if how == "argument" else "wait")
    assert segmenter.runtime == "torch" and segmenter.unprepared is None
    assert told == [
        "runtime auto takes torch: native is faster, but not prepared for this model: "
        f"drive-seg prepare --model {model} --runtime native"
    ]
    assert not native.library_file().exists()


@pytest.mark.parametrize("how", ["int8", "fp16", "by name"])
def test_nothing_is_prepared_for_what_auto_would_not_take(model, compiler, how):
    compiler("exit 9")
    wish = {"runtime": "torch"} if how == "by name" else {"precision": how}
    if how == "int8":
        with pytest.raises(ValueError, match="precision 'int8'"):
            load(model, **wish)
    else:
        assert load(model, **wish)[0].runtime == "torch"
    assert not native.library_file().parent.exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("echo 'no such instruction' >&2; exit 1", r"the kernels cannot be compiled by sh: no such instruction"),
        ("kill -SEGV $PPID", r"the process that prepares it was ended by SIGSEGV"),
    ],
    ids=["fails", "dies"],
)
def test_what_cannot_be_prepared_costs_a_sentence_and_is_not_tried_again(model, compiler, line, reason, tmp_path):
    tries = tmp_path / "tries"
    compiler(f'echo x >> "{tries}"', line)
    segmenter, told = load(model)
    assert segmenter.runtime == "torch"
    assert told[1] == f"no faster runtime could be prepared for m.safetensors: {reason}"
    segmenter, told = load(model)
    assert segmenter.runtime == "torch"
    command = f"drive-seg prepare --model {model} --runtime native"
    assert told == [f"runtime auto takes torch: native is faster, but could not be prepared ({reason}): {command}"]
    assert tries.read_text() == "x\n"


@pytest.fixture
def endless_compiler(compiler, tmp_path):
    """Waits until it has begun, and gives its process id."""
    begun = tmp_path / "begun"
    compiler(f'echo $$ > "{begun}.part"; mv "{begun}.part" "{begun}"; exec sleep 1000')

    def wait():
        wait_until(begun.exists)
        return int(begun.read_text())

    return wait


def test_ended_it_ends_the_compiler_too(model, endless_compiler):
    preparation = Preparation(model, "cpu")
    compiling = endless_compiler()
    preparation.end()
    with pytest.raises(ValueError, match="the process that prepares it ended with 143"):
        preparation.wait()
    assert not runs(compiling)
    assert load(model, prepare_first="later")[0].unprepared == "native", "that is no failure to remember"


@pytest.mark.skipif(sys.platform != "linux", reason="on Linux alone a process hears that its parent has died")
def test_it_does_not_outlive_a_parent_that_is_killed(model, endless_compiler):
    code = (
        f"from drive_seg.inference.runtimes.preparation import Preparation; Preparation({str(model)!r}, 'cpu').wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    compiling = endless_compiler()
    parent.kill()
    parent.wait()
    wait_until(lambda: not runs(compiling))


def test_a_model_that_is_not_there_is_no_failure_to_remember(model, monkeypatch):
    told = []
    prepare_and_wait("no_such_model", "cpu", "auto", told.append)
    assert len(told) == 1 and "no_such_model" in told[0]
    assert load(model, prepare_first="later")[0].unprepared == "native"


def wait_until(done):
    end = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
