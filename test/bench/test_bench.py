"""``drive-seg bench`` as a user calls it, and what it refuses, prints and draws."""

import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import cv2
import pytest
from rich.console import Console

from drive_seg.bench import machine
from drive_seg.bench.plot import write_plot
from drive_seg.bench.report import as_tables
from drive_seg.bench.rows import Row
from drive_seg.bench.run import Plan
from drive_seg.cli import main


def drive_seg(*arguments, expect=0):
    command = [sys.executable, "-m", "drive_seg.cli", "bench", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.returncode == expect, result.stdout + result.stderr
    return result


@pytest.fixture
def outcome():
    """Of two networks at two sizes, one contender that failed, one that is not installed."""
    rows = []
    for scale, size in ((1.0, "640x360"), (4.0, "1280x720")):
        for name, runtime, ms in (("dsnet", "torch eager", 70.0), ("dsnet", "openvino", 20.0), ("enet", "torch", 40.0)):
            row = Row("network", name, runtime, "fp32", size, 1, parameters=910_447)
            row.take([scale * ms / 1e3] * 3)
            row.compare(rows[0] if rows else row)
            rows.append(row)
    for name, error in (("broken", ValueError("its output is wrong")), ("absent", ImportError("not there"))):
        rows.append(Row("network", name, "onnxruntime", "fp32", "640x360", 1))
        rows[-1].fail(error)
    return {
        "rows": [row.to_dict() for row in rows],
        "machine": {
            "cpu": "a processor", "cores": 2, "threads": 2, "gpu": None, "versions": {"torch": "2"},
            "load": [0.1, 0.1, 0.1], "clock_mhz": 2000.0, "at_the_end": {"load": None, "clock_mhz": None},
        },
        "roofline": {"gflops": {"fp32": 200.0}, "copy_gb_per_s": 40.0},
        "seconds": 60.0, "seconds_of": {"network": 54.0},
    }  # fmt: skip


def test_a_small_run_as_json_and_tables(tmp_path):
    arguments = ["--sizes", "160x96,96x64", "--what", "network", "--contenders", "enet torch,dsnet torch eager"]
    arguments += ["--batch", 2, "--seconds", 0.01, "--json", tmp_path / "b.json", "--plot", tmp_path / "b.png"]
    shown = drive_seg(*arguments).stdout
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["complete"] is True and set(found) >= {"rows", "machine", "roofline", "eager", "seconds"}
    assert {(r["size"], r["batch"]) for r in found["rows"]} == {("160x96", 2), ("96x64", 2)}
    eager = [r for r in found["rows"] if r["runtime"] == "torch eager"]
    assert {r["name"] for r in eager} == {"dsnet", "enet"} and all(r["ratio_to_eager"] == 1 for r in eager)
    assert all(r["status"] == "ran" and r["p10_ms"] <= r["median_ms"] <= r["p90_ms"] for r in found["rows"])
    assert found["machine"]["threads"] == 1 and "torch" in found["machine"]["versions"]
    assert {"load", "clock_mhz", "cpu"} <= set(found["machine"]) and found["roofline"]["gflops"]["bf16"] > 0
    assert "Networks alone, 160x96, batch 2" in shown and max(map(len, shown.splitlines())) <= 100
    assert cv2.imread(str(tmp_path / "b.png")).shape[1] == 2000


def test_help_says_which_side_comes_first():
    assert "WIDTHxHEIGHT" in drive_seg("--help").stdout


def test_an_onnx_file_that_cannot_run_is_a_row_and_the_run_fails(tmp_path):
    (tmp_path / "torn.onnx").write_bytes(b"no network")
    arguments = ["--sizes", "96x64", "--batch", 1, "--what", "network", "--contenders", "dsnet torch eager"]
    arguments += ["--seconds", 0.01, "--onnx", tmp_path / "torn.onnx", "--json", "-"]
    found = json.loads(drive_seg(*arguments, expect=1).stdout)
    torn, eager = sorted(found["rows"], key=lambda row: row["name"], reverse=True)
    assert torn["name"] == "torn" and torn["status"] == "failed" and "torn.onnx" in torn["reason"]
    assert eager["status"] == "ran" and found["complete"] is False


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--sizes", "big"], "size 'big' is not of the form WIDTHxHEIGHT"),
        (["--sizes", "641x360"], "size 641x360 cannot be timed: sides must be multiples of 8"),
        (["--what", "lions"], "what 'lions' is not among network, segmenter, node"),
        (["--batch", "two"], "batch 'two' is not a whole number"),
        (["--onnx", "nowhere.onnx"], "nowhere.onnx: there is no such file"),
        (["--plot", "speed.jpg"], "its name must end in .png"),
        (["--node-runtime", "lion"], "node runtime 'lion' is not one of torch, native, inductor"),
        (["--contenders", "lion"], "no contender has 'lion' in its name"),
        (["--device", "tpu"], "not one of auto, cpu, cuda"),
    ],
)
def test_bench_refuses_with_one_sentence(monkeypatch, capsys, arguments, complaint):
    monkeypatch.setattr(sys, "argv", ["drive-seg", "bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and complaint in " ".join(said.split()) and "Traceback" not in said


def test_the_usual_cells_on_a_cpu_and_on_a_gpu():
    cells = [(cell.size, cell.batch) for cell in Plan().cells()]
    assert cells == [((360, 640), 1), ((360, 640), 6), ((720, 1280), 1), ((1080, 1920), 1)]
    assert len(Plan(device="cuda").cells()) == 6 and len(Plan(batches=(1, 6)).cells()) == 6
    assert Plan().image_sizes() == ((360, 640), (720, 1280))


def test_a_gpus_clocks_are_nvidia_smis_words(monkeypatch):
    asked = []

    def told(command, **options):
        asked.append(command)
        return SimpleNamespace(stdout="1980 MHz, 2619 MHz, 34, 71.20 W\n")

    monkeypatch.setattr(machine.torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12ab"))
    monkeypatch.setattr(machine.subprocess, "run", told)
    found = machine.state("cuda")["gpu_state"]
    assert found["clocks.sm"] == "1980 MHz" and found["power.draw"] == "71.20 W"
    assert "--id=GPU-12ab" in asked[0]

    def missing(*_, **__):
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(machine.subprocess, "run", missing)
    assert machine.state("cuda")["gpu_state"] is None and "gpu_state" not in machine.state()


def test_the_table_tells_what_did_not_run(outcome):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(as_tables(outcome))
    text = console.export_text()
    assert "broken onnxruntime fp32: its output is wrong" in text and "load 0.1 at the start" in text
    assert max(map(len, text.splitlines())) <= 100 and "0.29" in text


def test_the_table_tells_what_a_node_adds_and_that_its_counters_add_up(outcome):
    node = {"received": 71, "published": 24, "dropped": 47, "expired": 0, "rejected": 0, "failed": 0, "withheld": 0}
    details = [
        {"over_segmenter_ms": 6.0, "processing_ms": 44.0, "processing_over_segmenter_ms": 4.0, "p99_ms": 51.0},
        {"over_segmenter_ms": 2.5, "per_camera_ms": 42.5, "per_camera_of_one": 0.92},
        {
            "asked_hz": 25.0, "sent_hz": 24.9, "manages_hz": 27.1, "max_ms": 88.0, "p99_ms": 77.0, "p99_of_p50": 1.83,
            "usual_rate": False, "sent": 72, "masks": 24, "node": node,
        },
    ]  # fmt: skip
    for name, found in zip(("node, 1 camera", "node, 6 cameras", "node, 25 Hz"), details, strict=True):
        row = Row("node", name, "inductor", "fp32", "640x360", 6 if "6" in name else 1, details=found)
        row.take([0.046])
        outcome["rows"].append(row.to_dict())
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(as_tables(outcome))
    text = " ".join(console.export_text().split())
    assert text.count("Node over DDS") == 1, "one table for one camera and for six"
    assert "44.0 ms, 4.0 more than the Segmenter" in text and "42.5 ms for each camera, 0.92 times" in text
    assert "71 received = 24 published + 47 dropped, 1 lost before the node" in text and "1.83" in text
    assert "30 Hz is too much for it: alone it manages 27.1 images per second" in text


def test_the_plot_shows_each_contender(outcome, tmp_path):
    write_plot(tmp_path / "p.png", outcome)
    picture = cv2.imread(str(tmp_path / "p.png"))
    assert picture.shape == (760, 2000, 3)
    for half in (picture[:, :1000], picture[:, 1000:]):
        bright = half[(half.max(2).astype(int) - half.min(2)) > 100]
        assert len({tuple(colour // 64) for colour in bright}) >= 3, "a colour for each contender"
    with pytest.raises(ValueError, match="nothing to plot"):
        write_plot(tmp_path / "p.png", {"rows": []})
    with pytest.raises(ValueError, match=r"must end in \.png"):
        write_plot(tmp_path / "p.jpg", outcome)
