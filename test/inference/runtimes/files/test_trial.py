"""A file that may kill its runtime is tried in another process, and the faster runtime is taken."""

import signal
import subprocess

import pytest
import yaml

from drive_seg.checkpoint import CheckpointError
from drive_seg.inference.runtimes import choice
from drive_seg.inference.runtimes.files import onnx_file, trial
from drive_seg.inference.runtimes.files.trial import Outcome, choose, outcomes

BOTH = ["onnxruntime", "openvino"]


def write(folder, operation, **changes):
    """An ONNX file of one operation with its contract."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    ports = "(float[N,3,H,W] image) => (float[N,C,h,w] logits)"
    text = f'<ir_version: 8, opset_import: ["" : 17]> net {ports} {{ logits = {operation}(image) }}'
    path = folder / "net.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    contract = {
        "label_map": [{"id": i, "name": name, "color": [i, i, i]} for i, name in enumerate("abc")],
        "channel_order": "rgb",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "input_size": [64, 96],
        "output": "logits",
        "licence": "MIT",
        **changes,
    }
    path.with_suffix(".contract.yaml").write_text(yaml.safe_dump(contract))
    return path


@pytest.fixture
def no_process(monkeypatch):
    """From its call on no other process may be started."""

    def forbid():
        def refuse(*arguments, **named):
            raise AssertionError("it was tried again")

        monkeypatch.setattr(subprocess, "run", refuse)

    return forbid


def test_both_runtimes_are_timed_once_and_the_outcome_is_kept(tmp_path, no_process):
    pytest.importorskip("openvino")
    file = onnx_file.read(write(tmp_path, "Identity"))
    found = outcomes(file, BOTH)
    assert [outcome.runtime for outcome in found] == BOTH
    assert all(outcome.ms > 0 and outcome.agreement > 0.999 and not outcome.fault for outcome in found)
    no_process()
    assert outcomes(file, BOTH) == found and choose(file, BOTH, "auto", 0) in BOTH
    with pytest.raises(AssertionError, match="tried again"):
        outcomes(onnx_file.read(write(tmp_path, "Identity", mean=[0.5] * 3)), BOTH)


def test_a_runtime_that_dies_costs_a_sentence_and_not_this_process(tmp_path, monkeypatch, no_process):
    """A package of OpenVINO's name, which ends its process as a fault in machine code does, stands for it."""
    deadly = tmp_path / "deadly" / "openvino" / "__init__.py"
    deadly.parent.mkdir(parents=True)
    deadly.write_text(f"import os\nos.kill(os.getpid(), {int(signal.SIGSEGV)})\n")
    monkeypatch.syspath_prepend(str(deadly.parents[1]))
    file = onnx_file.read(write(tmp_path, "Identity"))
    first, second = outcomes(file, BOTH)
    assert not first.fault and second.died
    assert second.fault == f"{file.path}: openvino ended the process that tried it (SIGSEGV): it is not run here"
    no_process()
    assert choose(file, BOTH, "auto", 0) == "onnxruntime", "known from the cache"


def test_what_is_wrong_with_a_file_is_said_by_the_other_process_and_not_kept(tmp_path):
    file = onnx_file.read(write(tmp_path, "Sigmoid"))
    with pytest.raises(CheckpointError, match="net.onnx .contract net.contract.yaml.: .*must say output: sigmoid"):
        choose(file, BOTH[:1], "auto", 0)
    kept = trial._place(file, BOTH[:1], "auto", 0)
    assert kept.parent.is_dir() and not kept.exists()


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        (Outcome("a", 10.0), Outcome("b", 5.0), "b"),
        (Outcome("a", 10.0), Outcome("b", 9.5), "a"),
        (Outcome("a", 10.0), Outcome("b", 5.0, agreement=0.99), "a"),
        (Outcome("a", 10.0), Outcome("b", fault="no"), "a"),
        (Outcome("a", fault="no"), Outcome("b", 5.0), "b"),
        (Outcome("a"), Outcome("b"), "a"),
    ],
)
def test_the_faster_one_is_taken_if_it_labels_alike(monkeypatch, first, second, wanted):
    monkeypatch.setattr(trial, "outcomes", lambda *arguments: [first, second])
    assert choose(None, ["a", "b"], "auto", 0) == wanted


def test_auto_asks_the_trial_for_onnx_files(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    file, asked = onnx_file.read(write(tmp_path, "Identity")), []
    monkeypatch.setattr(trial, "choose", lambda file, able, *wish: asked.append(list(able)) or able[-1])
    assert choice.for_file(file, "auto", "auto", "auto", 0).name == "openvino"
    assert choice.for_file(file, "cpu", "auto", "onnxruntime", 0).name == "onnxruntime"
    assert asked == [BOTH, ["onnxruntime"]]
