"""Networks alone: honest rows for what runs, for what does not, and for what gives something wrong."""

import re
import sys

import pytest
import torch
from torch import nn

from drive_seg.bench import checks, roofline, subjects
from drive_seg.bench.contenders import Contender, contenders
from drive_seg.bench.networks import bench_networks
from drive_seg.bench.onnx_files import from_file
from drive_seg.bench.rows import Cell, NotInstalledError
from drive_seg.bench.subjects import Subject
from drive_seg.bench.ways import EAGER, Opened, Way
from drive_seg.inference.runtimes.files import trial
from drive_seg.inference.runtimes.openvino_runtime import OpenVino

CEILINGS = {"gflops": {"fp32": 100.0}, "copy_gb_per_s": 10.0}
CELL = Cell((64, 96))


class Tiny(nn.Module):
    """Five classes by 1x1."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)

    def forward(self, x):
        return self.conv(x)


def tiny(**options):
    torch.manual_seed(3)
    return Tiny().eval()


SUBJECT = Subject("tiny", "dsnet", tiny, classes=5, trained=True)


def contender(runtime, change=None, subject=SUBJECT, error=None):
    def opened(subject, cell):
        if error is not None:
            raise error
        network = subject.build()
        return Opened(runtime, "fp32", "cpu", network if change is None else lambda x: change(network(x)))

    return Contender(subject, subject.name, runtime, "fp32", Way(runtime, "fp32", opened))


def bench(*others, cells=(CELL,), seconds=1e-4):
    rows = bench_networks([contender(EAGER), *others], cells, seconds, CEILINGS)
    return {row.runtime: row for row in rows}


def test_a_row_has_figures_that_belong_together():
    row = bench(contender("same"), cells=[Cell((64, 96), batch=2)])["same"]
    assert row.status == "ran" and row.size == "96x64" and row.batch == 2 and row.agreement == 1
    assert 0 < row.p10_ms <= row.median_ms <= row.p90_ms and row.runs >= 5
    assert row.eager_of == "tiny" and row.ratio_to_eager > 0 and row.parameters == 20
    assert row.operations == 2 * 2 * 15 * 64 * 96
    assert row.bytes == 4 * (2 * 8 * 64 * 96 + 20)
    assert row.fraction_of_peak == pytest.approx(row.operations / row.median_ms / 1e6 / 100)
    assert row.fraction_of_bandwidth == pytest.approx(row.bytes / row.median_ms / 1e6 / 10)
    assert set(row.to_dict()) >= {
        "name", "runtime", "precision", "size", "batch", "median_ms", "p10_ms", "p90_ms", "ratio_to_eager",
        "peak_memory_mib",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda y: y.roll(1, 1), "agree with eager's on"),
        (lambda y: y[..., ::2], r"its output is \[1, 5, 64, 48\], not \[1, 5, 64, 96\]"),
        (lambda y: y * float("nan"), "not finite"),
        (lambda y: y.numpy(), "its output is ndarray"),
    ],
)
def test_one_with_wrong_output_is_refused_and_not_timed(change, reason):
    rows = bench(contender("wrong", change))
    assert rows["wrong"].status == "failed" and rows["wrong"].counts_as_failure
    assert re.search(reason, rows["wrong"].reason)
    assert rows["wrong"].median_ms is None and rows["wrong"].ratio_to_eager is None
    assert rows[EAGER].status == "ran" and rows[EAGER].ratio_to_eager == 1


def test_one_that_cannot_be_opened_is_a_row_with_the_reason():
    missing = NotInstalledError("not installed: x, which comes with the extra 'y'")
    rows = bench(contender("broken", error=RuntimeError("no such kernel")), contender("missing", error=missing))
    assert (rows["broken"].status, rows["broken"].reason) == ("failed", "RuntimeError: no such kernel")
    assert rows["missing"].status == "not installed" and not rows["missing"].counts_as_failure
    rows["missing"].asked = True
    assert rows["missing"].counts_as_failure


def test_a_runtime_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    for package in ("openvino", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    chosen = [c for c in contenders([SUBJECT], "cpu") if c.runtime in (EAGER, "openvino", "onnxruntime")]
    rows = {row.runtime: row for row in bench_networks(chosen, [CELL], 1e-4, CEILINGS)}
    assert rows[EAGER].status == "ran"
    assert rows["openvino"].status == rows["onnxruntime"].status == "not installed"
    assert "openvino, which comes with the extra 'openvino'" in rows["openvino"].reason
    assert "onnxruntime, which comes with the extra 'onnx'" in rows["onnxruntime"].reason


def test_ties_are_left_out_only_where_weights_were_never_trained():
    reference = torch.zeros(1, 2, 10, 10)
    reference[:, 0, :5] = 1.0
    other = reference.clone()
    other[:, 1, 5:] = 1e-6  # undecided pixels that fall the other way
    assert checks.check_agreement(other, reference, trained=False) == 1
    with pytest.raises(checks.WrongOutputError, match="agree with eager's on 50.00%"):
        checks.check_agreement(other, reference, trained=True)
    with pytest.raises(checks.WrongOutputError):
        checks.check_agreement(reference * 0, reference * 0, trained=False)


def test_heavy_networks_and_variants_run_in_the_cheapest_cell_unless_asked_for():
    heavy = Subject("big", "fcn", tiny, classes=5, heavy=True)
    variant = Subject("alike", "enet", tiny, classes=5, variant=True)
    cells = [Cell((64, 96)), Cell((64, 96), 2), Cell((128, 96))]
    usual = contenders([SUBJECT, heavy, variant], "cpu")
    assert [c.runtime for c in usual if c.name == "big"] == [EAGER]
    assert {"torch", "onnxruntime", "openvino"} <= {c.runtime for c in usual if c.name == "alike"}
    for contender in usual:
        everywhere = contender.name == "tiny" and contender.runtime != "inductor"
        assert [contender.takes_part(cell, cells) for cell in cells] == [True, everywhere, everywhere]
    asked = contenders([SUBJECT, heavy, variant], "cpu", ["big torch", "alike"])
    assert all(c.takes_part(cells[2], cells) for c in asked if c.name in ("big", "alike") and c.asked)


def test_choosing_contenders_by_words():
    other = Subject("other", "enet", tiny, classes=5)
    labels = [c.label for c in contenders([SUBJECT, other], "cpu", ["other openvino"])]
    assert labels == ["tiny torch eager fp32", "other torch eager fp32", "other openvino fp32"]
    assert "tiny openvino int8" not in [c.label for c in contenders([SUBJECT], "cpu")], "calibrated only if asked for"
    everyone = [c.label for c in contenders([SUBJECT, other], "cpu", ["all"])]
    assert "tiny openvino int8" in everyone
    assert "tiny openvino bf16" in everyone and "other openvino bf16" not in everyone
    with pytest.raises(ValueError, match="no contender has 'lion' in its name; there are: tiny torch eager fp32"):
        contenders([SUBJECT, other], "cpu", ["lion"])


def test_inputs_are_pictures_all_different():
    batch = subjects.batch_of(2, (64, 96))
    assert batch.shape == (2, 3, 64, 96) and batch.is_contiguous() and batch.std() > 0.3
    assert not torch.equal(batch[0], batch[1])


def test_the_papers_networks_are_built_alike_each_time():
    enet = next(s for s in subjects.all_subjects("dsnet_synth19") if s.name == "enet")
    first, second = enet.build().state_dict(), enet.build().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert enet.parameters == sum(p.numel() for p in enet.build().parameters())


def test_ceilings_are_measured():
    found = roofline.measure_ceilings("cpu", seconds=0.0, matrix=64, block=2**16)
    assert set(found["gflops"]) == {"fp32", "bf16"} and min(found["gflops"].values()) > 0
    assert found["copy_gb_per_s"] > 0 and "multiply-accumulate" in found["method"]
    none = roofline.fractions(None, "fp32", 1, 1.0, found)
    assert set(none.values()) == {None}


@pytest.fixture
def onnx_file(tmp_path, monkeypatch):
    """Makes ONNX files of one convolution: [N, 3, H, W] -> [N, 4, H, W]."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(trial, "outcomes", lambda file, names: [trial.Outcome(name) for name in names])

    def make(shape, channels=3):
        numpy_helper, helper, proto = onnx.numpy_helper, onnx.helper, onnx.TensorProto
        weights = numpy_helper.from_array(torch.ones(4, channels, 1, 1).numpy(), "w")
        graph = helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", proto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", proto.FLOAT, ["n", 4, "h", "w"])],
            [weights],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path = tmp_path / "peer.onnx"
        onnx.save(model, str(path))
        return path

    return make


def test_an_onnx_file_is_timed_in_every_runtime_without_a_contract(onnx_file):
    pytest.importorskip("openvino")
    files = from_file(onnx_file(["n", 3, "h", "w"]), "cpu")
    assert [(file.runtime, file.precision) for file in files][:2] == [("onnxruntime", "fp32"), ("openvino", "fp32")]
    rows = bench(*files)
    for runtime in ("onnxruntime", "openvino"):
        row = rows[runtime]
        assert (row.name, row.status, row.size, row.parameters) == ("peer", "ran", "96x64", 12)
        assert row.eager_of == "tiny" and row.ratio_to_eager > 0 and row.operations is None


def test_an_openvino_file_is_timed(onnx_file):
    openvino = pytest.importorskip("openvino")
    path = onnx_file([1, 3, 64, 96])
    openvino.save_model(OpenVino.core().read_model(path), path.with_suffix(".xml"))
    files = from_file(path.with_suffix(".xml"), "cpu")
    assert {file.runtime for file in files} == {"openvino"} and bench(files[0])["openvino"].status == "ran"
    with pytest.raises(ValueError, match="there is no runtime for such a file on cuda"):
        from_file(path.with_suffix(".xml"), "cuda")


def test_a_runtime_that_a_file_kills_takes_no_part(onnx_file, monkeypatch):
    dead = [trial.Outcome("onnxruntime"), trial.Outcome("openvino", fault="openvino ended it", died=True)]
    monkeypatch.setattr(trial, "outcomes", lambda file, names: dead[-len(names) :])
    assert [file.runtime for file in from_file(onnx_file(["n", 3, "h", "w"]), "cpu")] == ["onnxruntime"]


def test_an_onnx_file_of_a_fixed_size_runs_beside_the_nearest(onnx_file):
    file = from_file(onnx_file([1, 3, 72, 80]), "cpu")[0]
    cells = [Cell((64, 96), 2), Cell((640, 960), 2)]
    rows = bench_networks([contender(EAGER), file], cells, 1e-4, CEILINGS)
    (row,) = [row for row in rows if row.name == "peer"]
    assert (row.size, row.batch, row.status) == ("80x72", 2, "ran")
    assert file.batch_at(cells[0]).std() > 0.9


@pytest.mark.parametrize(
    ("shape", "channels", "reason"),
    [
        ([1, 1, 72, 80], 1, "is neither"),
        ([4, 3, 72, 80], 3, "takes 4 images"),
        ([1, 3, 72, "w"], 3, "one side"),
    ],
)
def test_an_onnx_file_that_takes_no_image_is_refused(onnx_file, shape, channels, reason):
    with pytest.raises(ValueError, match=reason):
        from_file(onnx_file(shape, channels), "cpu")
