"""The Segmenter's stages and the node's counters; the node itself once, small."""

import importlib.util
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from drive_seg.bench import frames, node
from drive_seg.bench.checks import WrongOutputError
from drive_seg.bench.frames import STREAMED, _stream, bench_frames, check_label, stage_figures
from drive_seg.bench.rows import Cell, Row, Status
from drive_seg.bench.subjects import Subject, from_checkpoint
from drive_seg.bench.ways import Way
from drive_seg.evaluation.records import FATES
from drive_seg.inference.decision import decide
from drive_seg.inference.runtimes.pytorch import TorchRuntime

COUNTERS = {"received": 9, "published": 4, "dropped": 5, "expired": 0, "rejected": 0, "failed": 0, "withheld": 0}


def phase(**changes):
    return {
        "sent": 10, "masks": 4, "node": {**COUNTERS, "in_flight": 0}, "stages_ms": {}, "lost_by_middleware_so_far": "0",
        **changes,
    }  # fmt: skip


def outcome(turns=None, steady=None, overload=None):
    """As the camera process writes it: the Segmenter takes 20 ms, the node 25 and in all 30, six cameras 150."""
    in_turn = {"cameras": 6, "segmenter_s": [0.02], "one_s": [0.03], "processing_s": [0.025], "all_s": [0.15]}
    times = {"latencies_s": [0.1, 0.2, 0.3, 0.4], "manages_hz": 40.0}
    return {
        "runtime": "inductor", "precision": "fp32", "agreement": 0.999,
        "turns": phase(**in_turn, **(turns or {})),
        "steady": phase(**times, asked_hz=25.0, sent_hz=24.9, **(steady or {})),
        "overload": phase(**times, asked_hz=120.0, sent_hz=100.0, **(overload or {})),
    }  # fmt: skip


def rows():
    return [Row("node", name, "", "", "640x360", images) for name, images in node.ROWS.items()]


def test_a_nodes_rows():
    filled = rows()
    node.fill_in(filled, outcome())
    segmenter, one, six, steady, overload = filled
    assert [row.median_ms for row in filled] == pytest.approx([20, 30, 150, 250, 250])
    assert all((row.runtime, row.precision, row.agreement) == ("inductor", "fp32", 0.999) for row in filled)
    assert one.details["over_segmenter_ms"] == pytest.approx(10)
    assert one.details["processing_over_segmenter_ms"] == pytest.approx(5)
    assert six.details["per_camera_ms"] == pytest.approx(25) and six.details["over_segmenter_ms"] == pytest.approx(5)
    assert six.details["per_camera_of_one"] == pytest.approx(25 / 30)
    assert steady.name == "node, 25 Hz" and not steady.details["usual_rate"]
    assert steady.details["p99_ms"] == pytest.approx(397) and steady.details["p99_of_p50"] == pytest.approx(397 / 250)
    assert overload.name == "node, 2.5 x overload" and overload.details["max_ms"] == pytest.approx(400)
    assert overload.details["sent"] == 10 and overload.details["node"]["dropped"] == 5


@pytest.mark.parametrize("where", ["turns", "steady", "overload"])
@pytest.mark.parametrize(
    ("counters", "reason"),
    [
        ({"dropped": 4}, "of 9 received frames only 8 ended"),
        ({"in_flight": 1, "received": 10}, "of 10 received frames only 9 ended"),
        ({"received": 11, "dropped": 7}, "counts 11 frames, but 10 were sent"),
        ({"published": 5, "dropped": 4}, "published 5 masks, but 4 came"),
        ({"failed": 1, "dropped": 4}, "lost to faults: 4 published, 4 dropped, 1 failed"),
    ],
)
def test_counters_that_do_not_add_up_are_refused(where, counters, reason):
    with pytest.raises(ValueError, match=reason):
        node.fill_in(rows(), outcome(**{where: {"node": {**COUNTERS, "in_flight": 0, **counters}}}))


def test_no_mask_at_all_is_refused():
    with pytest.raises(ValueError, match="of 10 images none came back"):
        node.fill_in(rows(), outcome(steady={"masks": 0}))


def test_the_steady_rate_leaves_the_node_some_rest():
    camera_process = pytest.importorskip("drive_seg.bench.camera_process", exc_type=ImportError)
    assert [camera_process.steady_rate(ms / 1e3) for ms in (1, 28, 29, 80, 1700)] == [30, 30, 25, 10, 0.5]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("torch", ("torch", "auto")),
        ("inductor bf16", ("inductor", "bf16")),
    ],
)
def test_a_nodes_runtime_by_words(wanted, found):
    assert node.node_runtimes("cpu", (wanted,)) == [found]


@pytest.mark.parametrize("wanted", ["lion", "auto", "torch fp8", "torch bf16 fast", ""])
def test_words_that_are_no_runtime_are_refused(wanted):
    with pytest.raises(ValueError, match="is not one of torch, native, inductor, onnxruntime, openvino, with or"):
        node.node_runtimes("cpu", (wanted,))


def test_the_usual_node_runs_on_the_fastest_that_can_be_prepared(monkeypatch):
    able = {"openvino", "onnxruntime"}
    monkeypatch.setattr(node, "_can_prepare", lambda entry: entry.name in able)
    assert node.node_runtimes("cpu") == [("openvino", "fp32")] and node.node_runtimes("cuda") == [("torch", "auto")]
    able.clear()
    assert node.node_runtimes("cpu") == [("torch", "fp32")]


def test_what_a_node_needs_is_prepared_in_a_cache_of_its_own(tmp_path, monkeypatch):
    subject = from_checkpoint("dsnet_synth19")
    monkeypatch.setattr(node, "graph_of", lambda subject, size, *how: b"graph of %dx%d" % size)
    before = os.environ["XDG_CACHE_HOME"]
    pytest.importorskip("onnxruntime")
    node._prepare(subject, (96, 128), "onnxruntime", "fp32", "cpu", tmp_path)
    assert os.environ["XDG_CACHE_HOME"] == before
    kept = sorted(file.name for file in tmp_path.glob("drive_seg/*/*.graph"))
    assert kept == ["onnxruntime-80x144.graph", "onnxruntime-96x128.graph"], "for the model's aspect and the image's"


def test_without_ros_the_rows_say_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = node.bench_node(from_checkpoint("dsnet_synth19"), (96, 160), "cpu", 0.1)
    assert [r.status for r in found] == ["not installed"] * 5
    assert "extra 'ros'" in found[0].reason


def test_a_node_that_dies_is_told_in_its_words(tmp_path, ros_domain_id):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no")
    loaded = replace(from_checkpoint("dsnet_synth19").checkpoint, path=broken)
    found = node.bench_node(Subject("broken", "dsnet", None, checkpoint=loaded), (96, 160), "cpu", 0.1)
    assert [r.status for r in found] == ["failed"] * 5 and broken.name in found[0].reason


def test_the_node_over_dds(ros_domain_id, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two processes' threads, waiting busily, would slow each other down
    found = node.bench_node(from_checkpoint("dsnet_synth19"), (88, 160), "cpu", 0.3)
    assert [r.status for r in found] == ["ran"] * 5, found[0].reason
    segmenter, one, six, steady, overload = found
    assert one.details["over_segmenter_ms"] == pytest.approx(one.median_ms - segmenter.median_ms)
    assert one.details["sent"] == one.details["masks"] >= one.runs + 6 * six.runs
    for row in (one, six, steady, overload):
        counted = row.details["node"]
        assert counted["published"] == row.details["masks"]
        assert counted["received"] == sum(counted[end] for end in FATES)


def test_stages_are_medians_of_the_timed_runs():
    stages = [{"preprocess": 0.001, "network": n, "colour": 0.002} for n in (0.01, 0.02, 0.09)]
    found = stage_figures(stages, [0.014, 0.025, 0.099])
    assert found["stages_ms"] == pytest.approx({"preprocess": 1.0, "network": 20.0, "colour": 2.0})
    assert found["beside_the_network_ms"] == pytest.approx(5.0)
    alone = stage_figures(stages, [0.014, 0.025, 0.099], [0.011, 0.017, 0.5])
    assert alone["stages_ms"] == found["stages_ms"]
    assert alone["beside_the_network_ms"] == pytest.approx(8.0)


def test_a_wrong_label_is_refused():
    wanted = np.arange(200, dtype=np.uint8).reshape(10, 20) % 19
    assert check_label(wanted.copy(), wanted, 19) == 1
    for wrong in (wanted[:5], wanted.astype(np.int64), wanted + 1, (wanted + 3) % 19):
        with pytest.raises(WrongOutputError):
            check_label(wrong, wanted, 19)


def test_a_frame_path_without_a_gpu_has_no_graph_and_says_so():
    graph, plain, overlapped = bench_frames(from_checkpoint("dsnet_synth19"), [Cell((64, 96), 2)], 0.01)
    assert graph.status == overlapped.status == "failed" and "frames went without a CUDA graph: n/a" in graph.reason
    assert plain.status == "ran" and plain.precision == "fp32" and plain.agreement > 0.999 and plain.ratio_to_eager > 0
    assert plain.details["frames_per_second"] == pytest.approx(2000 / plain.median_ms)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and PyTorch with CUDA")
def test_the_frame_path_of_a_gpu():
    rows = bench_frames(from_checkpoint("dsnet_synth19"), [Cell((360, 640), batch, "cuda") for batch in (1, 6)], 0.05)
    assert [(row.batch, row.status, row.precision) for row in rows] == [
        (n, "ran", "fp16") for n in (1, 6) for _ in "abc"
    ]


def test_overlapped_frames_are_two_on_their_way_and_come_back_in_order():
    sent, fetched, most = [], [], 0

    class Sent:
        def __init__(self, number):
            self.number = number

        def result(self):
            fetched.append(self.number)

    class Counting:
        def submit(self, images):
            nonlocal most
            sent.append(Sent(len(sent)))
            most = max(most, len(sent) - len(fetched))
            return sent[-1]

    _stream(Counting(), [])()
    assert fetched == list(range(STREAMED)) and most == 2


class _Deciding(TorchRuntime):
    """Decides by itself, and fails where its logits are asked for if it is told to."""

    decides = True

    def __init__(self, network: torch.nn.Module, fails: bool) -> None:
        super().__init__(network, "cpu", "fp32")
        self._fails = fails

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        if self._fails:
            raise RuntimeError("no logits today")
        return super().__call__(batch)

    def decide(
        self, batch: torch.Tensor, confidence: bool, temperature: float = 1.0, frame_temperature: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        return *decide(super().__call__(batch), confidence, temperature), None


def test_a_segmenter_in_each_runtime(monkeypatch):
    def refuse(subject, cell):
        raise ValueError("there is none")

    chosen = [
        Way("torch", "fp32", lambda subject, cell: TorchRuntime(subject.build(), "cpu", "fp32")),
        Way("deciding", "fp32", lambda subject, cell: _Deciding(subject.build(), False)),
        Way("failing", "fp32", lambda subject, cell: _Deciding(subject.build(), True)),
        Way("missing", "fp32", refuse),
    ]
    monkeypatch.setattr(frames, "ways", lambda device: chosen)
    rows = frames.bench_segmenter(from_checkpoint("dsnet_synth19"), [(48, 80)], "cpu", 1e-4)
    assert [(row.runtime, row.name) for row in rows] == [
        (way.runtime, name) for way in chosen for name in frames.OUTPUTS
    ]
    by_runtime = {way.runtime: [row for row in rows if row.runtime == way.runtime] for way in chosen}
    for row in by_runtime["torch"] + by_runtime["deciding"]:
        assert row.status == Status.RAN and row.agreement > 0.999 and row.ratio_to_eager > 0
        assert set(row.details["stages_ms"]) >= {"preprocess", "network", "postprocess"}
        assert row.details["beside_the_network_ms"] < row.median_ms
    for runtime, reason in (("failing", "no logits today"), ("missing", "there is none")):
        assert all(row.status == Status.FAILED and reason in row.reason for row in by_runtime[runtime])
