"""The Segmenter's stages and the node's counters; the node itself once, small."""

import importlib.util

import numpy as np
import pytest

from drive_seg.bench import node
from drive_seg.bench.checks import WrongOutputError
from drive_seg.bench.frames import check_label, stage_figures
from drive_seg.bench.rows import Row
from drive_seg.checkpoint import find_model

COUNTERS = {"received": 9, "published": 4, "dropped": 5, "expired": 0, "rejected": 0, "failed": 0, "withheld": 0}


def phase(**changes):
    return {
        "image": "1280x720 bgr8", "asked_hz": 10.0, "sent_hz": 9.9, "sent": 10, "latencies_s": [0.1, 0.2, 0.3, 0.4],
        "node": {**COUNTERS, "in_flight": 0}, "precision": "fp32", "runtime": "torch", **changes,
    }  # fmt: skip


def row():
    return Row("node", "node 10 Hz", "", "", "640x360", 1)


def test_a_nodes_row():
    filled = row()
    node.fill_in(filled, phase())
    assert filled.median_ms == pytest.approx(250) and filled.runs == 4
    assert filled.details["p99_ms"] == pytest.approx(397) and filled.details["max_ms"] == pytest.approx(400)
    assert filled.details["sent"] == 10 and filled.details["node"]["dropped"] == 5


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
def test_counters_that_do_not_add_up_are_refused(counters, reason):
    with pytest.raises(ValueError, match=reason):
        node.fill_in(row(), phase(node={**COUNTERS, "in_flight": 0, **counters}))


def test_no_mask_at_all_is_refused():
    with pytest.raises(ValueError, match="of 10 images none came back"):
        node.fill_in(row(), phase(latencies_s=[]))


def test_without_ros_the_rows_say_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rows = node.bench_node(find_model("dsnet_synth19"), (96, 160), "cpu", 0.1)
    assert [r.status for r in rows] == ["not installed"] * 2
    assert "extra 'ros'" in rows[0].reason


def test_a_node_that_dies_is_told_in_its_words(tmp_path, ros_domain_id):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no")
    rows = node.bench_node(broken, (96, 160), "cpu", 0.1)
    assert [r.status for r in rows] == ["failed"] * 2 and "cannot configure" in rows[0].reason


def test_the_node_over_dds(ros_domain_id):
    rows = node.bench_node(find_model("dsnet_synth19"), (88, 160), "cpu", 0.5)
    assert [r.status for r in rows] == ["ran", "ran"], rows[0].reason + rows[1].reason
    for found in rows:
        counted = found.details["node"]
        assert counted["published"] == found.details["masks"] == found.runs
        assert counted["received"] == sum(counted[end] for end in node.ENDS)
    assert rows[0].details["sent"] == 5 and rows[1].details["asked_hz"] > 0


def test_stages_are_medians_of_the_timed_runs():
    stages = [{"preprocess": 0.001, "network": n, "colour": 0.002} for n in (0.01, 0.02, 0.09)]
    found = stage_figures(stages, [0.014, 0.025, 0.099])
    assert found["stages_ms"] == pytest.approx({"preprocess": 1.0, "network": 20.0, "colour": 2.0})
    assert found["beside_the_network_ms"] == pytest.approx(5.0)


def test_a_wrong_label_is_refused():
    wanted = np.arange(200, dtype=np.uint8).reshape(10, 20) % 19
    assert check_label(wanted.copy(), wanted, 19) == 1
    for wrong in (wanted[:5], wanted.astype(np.int64), wanted + 1, (wanted + 3) % 19):
        with pytest.raises(WrongOutputError):
            check_label(wrong, wanted, 19)
