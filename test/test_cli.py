"""The command line as a user calls it: in a process of its own."""

import json
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.labels import CAMVID11, CITYSCAPES19
from drive_seg.segmenter import Segmenter


def drive_seg(*arguments, expect=0, columns=120):
    """Run ``drive-seg`` and return its result; the exit code must be the expected one."""
    command = [sys.executable, "-m", "drive_seg.cli", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": str(columns), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.returncode == expect, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("models") / "m.safetensors"
    contract = Contract("dsnet", {}, CITYSCAPES19, InputSpec((48, 88)), metrics={"validation": {"miou": 0.25}})
    checkpoint.save(path, networks.build("dsnet", 19), contract)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(3):
        image = np.random.default_rng(i).integers(0, 255, (9, 16, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"shot{i}.png"), cv2.resize(image, (96, 54), interpolation=cv2.INTER_CUBIC))
    return folder


def test_help_names_every_command():
    text = drive_seg("--help").stdout
    for command in ("networks", "train", "pseudo-label", "evaluate", "segment", "inspect", "export", "prepare"):
        assert command in text
        assert "--help" in drive_seg(command, "--help").stdout


def test_networks_as_json():
    rows = json.loads(drive_seg("networks", "dsnet_1", "--size", "128x64", "--classes", 7, "--json", "-").stdout)
    keys = {"name", "network", "options", "parameters", "multiply_accumulates", "size", "classes", "source", "note"}
    assert all(keys | {"paper_parameters", "paper_multiply_accumulates"} <= set(row) for row in rows)
    assert {row["network"] for row in rows} == {"dsnet"}
    row = next(row for row in rows if row["name"] == "dsnet_1.5")
    assert row["options"] == {"size": "1.5"} and row["size"] == [64, 128] and row["classes"] == 7
    assert row["parameters"] == 1_364_847 - 12 * 16 * 4 and row["paper_parameters"] == 1_360_000


def test_networks_by_the_rules_of_fbnets_table_2():
    text = drive_seg("networks", "_r50", "--paper-rules").stdout
    assert "1024x1024 pixels" in text
    for figure in ("540.78", "541.54", "760.44", "761.20"):
        assert re.search(rf" {figure} +{figure} G", text), "our count beside the paper's"
    assert len(re.findall(r"\+ 43,036 +\+ 0\.76 ", text)) == 2


def test_networks_as_a_table_for_100_columns():
    text = drive_seg("networks", "dsnet", columns=100).stdout
    assert max(map(len, text.splitlines()[:-1])) <= 100
    assert re.search(r"dsnet_add +1,152,159 +6\.52 +1\.15 M +DSNet Table 5", text)
    assert re.search(r"dsnet_dw +875,159 +3\.89 +~ 0\.89 M", text) and "dsnet_dw: -1.7 %" in text
    assert "Options of dsnet: size=1.0, unit=dsnet, shuffle=True" in text


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--size", "big"], "size 'big' is not of the form WIDTHxHEIGHT"),
        (["--size", "640x32"], "below 64x64 pixels"),
        (["pidnet"], "no system has 'pidnet' in its name; the networks are: deeplabv3plus, dfn, dsnet"),
    ],
)
def test_networks_refuses_with_one_sentence(arguments, complaint):
    result = drive_seg("networks", *arguments, expect=1)
    assert complaint in result.stderr.replace("\n", " ") and "Traceback" not in result.stderr


def test_inspect_prints_the_contract(model):
    printed = json.loads(drive_seg("inspect", "--model", model, "--json", "-").stdout)
    assert printed["network"] == "dsnet" and printed["input"]["size"] == [48, 88]
    assert printed["label_map"] == CITYSCAPES19.to_dict()
    assert printed["sha256"] == checkpoint.load(model).sha256
    readable = drive_seg("inspect", "--model", model).stdout
    assert "traffic light" in readable and printed["sha256"] in readable


def test_inspect_refuses_with_one_sentence(tmp_path):
    (tmp_path / "no.safetensors").write_bytes(b"no")
    result = drive_seg("inspect", "--model", tmp_path / "no.safetensors", expect=1)
    assert result.stdout == "" and "not a whole safetensors file" in result.stderr
    assert "Traceback" not in result.stderr


def test_pseudo_label_by_a_model_for_itself(model, pictures, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"label_map: cityscapes19\nteachers: [{{model: {model}, keep: 0.25, flip: true}}]")
    arguments = ("pseudo-label", plan, pictures, "-o", tmp_path / "own", "--device", "cpu", "--json", "-")
    printed = json.loads(drive_seg(*arguments).stdout)
    assert printed["images"] == 3 and sum(printed["shares"].values()) == pytest.approx(1)
    assert 0.25 <= 1 - printed["shares"]["void"] < 0.27
    assert len(list((tmp_path / "own" / "labels").rglob("*.png"))) == 3
    result = drive_seg(*arguments, expect=1)
    assert "holds labels already" in " ".join(result.stderr.split()) and "Traceback" not in result.stderr
    result = drive_seg(*arguments, "--set", "teachers.0.kep=0.5", expect=1)
    assert "teachers.0.kep: Extra inputs are not permitted" in " ".join(result.stderr.split())


def test_segment_a_folder(model, pictures, tmp_path):
    drive_seg("segment", pictures, "-o", tmp_path / "out", "--model", model, "--device", "cpu")
    segmenter = Segmenter.load(model, device="cpu")
    for i in range(3):
        image = cv2.imread(str(pictures / f"shot{i}.png"))
        label, color, overlay = (
            cv2.imread(str(tmp_path / "out" / kind / f"shot{i}.png"), cv2.IMREAD_UNCHANGED)
            for kind in ("label", "color", "overlay")
        )
        assert label.shape == (54, 96) and label.dtype == np.uint8
        assert (label == segmenter(image).label).mean() > 0.999  # another number of threads may sum in another order
        assert (color == CITYSCAPES19.colorize(label)).all()
        assert np.abs(overlay.astype(int) - (image.astype(int) + color) / 2).max() <= 1


def test_segment_one_image_and_a_drive_to_video(model, pictures, tmp_path):
    drive_seg("segment", pictures / "shot1.png", "-o", tmp_path / "one", "--model", model)
    assert [p.name for p in (tmp_path / "one" / "label").iterdir()] == ["shot1.png"]
    drive_seg("segment", "synth:seed=1,frames=4,size=128x72,fps=10", "-o", tmp_path / "v.mp4", "--model", model)
    video = cv2.VideoCapture(str(tmp_path / "v.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    assert video.get(cv2.CAP_PROP_FRAME_WIDTH) > 128 and video.get(cv2.CAP_PROP_FRAME_HEIGHT) == 72


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere.png"], "does not exist"),
        (["PICTURES", "--input-size", "big"], "WIDTHxHEIGHT"),
        (["PICTURES", "--device", "tpu"], "not one of auto, cpu, cuda"),
        (["PICTURES", "--model", "dsnet_nowhere"], "no model is called 'dsnet_nowhere'"),
    ],
)
def test_segment_refuses_with_one_sentence(model, pictures, tmp_path, arguments, complaint):
    arguments = [pictures if a == "PICTURES" else a for a in arguments]
    if "--model" not in arguments:
        arguments += ["--model", model]
    result = drive_seg("segment", *arguments, "-o", tmp_path / "out", expect=1)
    assert complaint in result.stderr.replace("\n", " ") and "Traceback" not in result.stderr


def test_evaluate_scores_at_label_resolution(model, tmp_path):
    options = ["--dataset", "synth", "--option", "seeds=[3,4]", "--option", "frames=2", "--option", "size=[128,72]"]
    drive_seg("evaluate", "--model", model, *options, "--json", tmp_path / "r.json", "--input-size", "128x72")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["images"] == 2 and set(report["iou"]) == set(CITYSCAPES19.names)
    counts = np.array(report["confusion_matrix"])
    assert counts.sum() == 2 * 128 * 72
    assert report["pixel_accuracy"] == pytest.approx(np.trace(counts) / counts.sum())
    assert "traffic light" in drive_seg("evaluate", "--model", model, *options).stdout


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A folder of two images with labels, ids of the 19 classes."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(7)
    for name, values in (("images", (40, 60, 3)), ("labels", (40, 60))):
        (root / name).mkdir()
        for stem in "ab":
            picture = rng.integers(0, 11, values, dtype=np.uint8)
            cv2.imwrite(str(root / name / f"{stem}.png"), picture)
    return root


def test_evaluate_a_folder_with_more_effort_and_a_page(model, labelled, tmp_path):
    effort = ["--scales", "0.5, 1", "--flip", "--window", "48x32", "--stride", "3/4", "--worst", 1]
    paths = ["--json", tmp_path / "r.json", "--page", tmp_path / "page"]
    result = drive_seg("evaluate", "--model", model, "--dataset", "folder", "--root", labelled, *effort, *paths)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["inference"] == {"scales": [0.5, 1.0], "flip": True, "window": [32, 48], "stride": 0.75}
    assert report["label_map"] == report["dataset_label_map"] == "cityscapes19" and report["images"] == 2
    page = (tmp_path / "page" / "index.html").read_text()
    assert "index.html" in result.stderr and "<title>m on folder</title>" in page and page.count("<img") == 4


def test_evaluate_translates_known_classes_and_says_so(model, labelled):
    arguments = ["evaluate", "-m", model, "--dataset", "folder", "--root", labelled, "--option", "classes=camvid11"]
    shown = " ".join(drive_seg(*arguments).stdout.split())
    assert "car/truck/bus/train" in shown and "The labels have the classes of camvid11" in shown


def test_evaluate_takes_the_meaning_of_unknown_classes(model, labelled, tmp_path):
    own = ["--option", f"classes=[{','.join(f'own{i}' for i in range(11))}]"]
    rest = ", ".join(f"own{i}: []" for i in range(2, 11))
    meaning = ["--option", f"meaning={{own0: [car, truck], own1: [road], {rest}}}", "--option", "void=4"]
    paths = ["--json", tmp_path / "r.json", "--page", tmp_path / "page"]
    drive_seg("evaluate", "--model", model, "--dataset", "folder", "--root", labelled, *own, *meaning, *paths)
    report = json.loads((tmp_path / "r.json").read_text())
    labels = np.stack([cv2.imread(str(path), -1) for path in (labelled / "labels").iterdir()])
    assert np.sum(report["confusion_matrix"]) == (labels < 2).sum()
    assert "car/truck" in (tmp_path / "page" / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--option", "classes=[lion,tiger]"], "knows the classes of 'cityscapes19', the dataset those of 'classes'"),
        (["--scales", "1,1/0"], "scale '1/0' is not a number"),
        (["--option", "void"], "'void' is not of the form setting=value"),
        (["--option", "void=[1"], "'void=[1': the value is no YAML"),
        (["--option", "colour=3"], "dataset 'folder' has no setting 'colour'; it has: root, classes, split, void"),
        (["--json", "nowhere/report.json"], "there is no folder nowhere for report.json"),
        (["--page", __file__], "is a file; --page names a folder"),
    ],
)
def test_evaluate_refuses_with_one_sentence(model, labelled, arguments, complaint):
    result = drive_seg("evaluate", "--model", model, "--dataset", "folder", "--root", labelled, *arguments, expect=1)
    assert complaint in result.stderr.replace("\n", " ") and "Traceback" not in result.stderr


def test_synth_writes_images_with_labels(tmp_path):
    drive_seg("synth", tmp_path / "s", "--frames", 2, "--seed", 4, "--size", "128x72", "--step", 5)
    assert sorted(p.name for p in (tmp_path / "s" / "images").iterdir()) == ["000000.png", "000005.png"]
    label = cv2.imread(str(tmp_path / "s" / "labels" / "000005.png"), cv2.IMREAD_UNCHANGED)
    assert label.shape == (72, 128) and set(np.unique(label)) <= {*range(19), 255}


def test_train_from_a_recipe_to_a_file_that_loads(tmp_path):
    for split, count in (("train", 4), ("val", 1)):
        for i in range(count):
            for name, value in (("images", 90), ("labels", 3)):
                (tmp_path / "data" / split / name).mkdir(parents=True, exist_ok=True)
                picture = np.full((32, 32), value, np.uint8)
                picture[4 * i : 4 * i + 4] += (40 + 20 * (split == "val")) * (name == "images")
                cv2.imwrite(str(tmp_path / "data" / split / name / f"{i}.png"), picture)
    settings = [f"data.train.root={tmp_path}/data", f"data.val.root={tmp_path}/data", "schedule.epochs=1"]
    settings += ["validate_every=1", "data.batch_size=2", "data.crop=[32,32]", "compile=false"]
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    recipe = os.path.join(os.path.dirname(__file__), "..", "config", "train", "dsnet_camvid11.yaml")
    drive_seg("train", recipe, "-o", tmp_path / "run", *arguments)
    loaded = checkpoint.load(tmp_path / "run" / "best.safetensors")
    assert loaded.contract.label_map == CAMVID11 and loaded.contract.metrics["validation"]["epochs"] == 1
    result = drive_seg("train", recipe, "-o", tmp_path / "run", *arguments, "--set", "losses.owl=1", expect=1)
    assert "no loss is called 'owl'" in result.stderr
