"""The check before training finds all that is wrong at once, and says nothing against sound data."""

import json
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from drive_seg.cli import app
from drive_seg.datasets import open_dataset
from drive_seg.datasets.base import BrokenSample
from drive_seg.labels import CAMVID11
from drive_seg.training.check import check_data, refuse_broken
from drive_seg.training.check_report import print_report
from drive_seg.training.data import SegmentationData
from drive_seg.training.recipe import load_recipe
from drive_seg.training.study import load_study, recipe_of, runs
from drive_seg.training.train import train


def check(recipe_file, *settings):
    return check_data(load_recipe(recipe_file, list(settings)), progress=False)


def found(report, level="error"):
    return [problem for problem in report.problems if problem.level == level]


def printed(report):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(report, console)
    return console.export_text()


def test_sound_data_passes_with_exact_figures(recipe_file, tree):
    report = check(recipe_file)
    assert report.errors == 0
    labels = np.stack([cv2.imread(str(p), -1) for p in sorted((tree / "train" / "labels").iterdir())])
    train = report.splits[0]
    assert (train.name, train.count, dict(train.sizes), train.names) == ("train", 8, {(48, 64): 8}, CAMVID11.names)
    assert train.void_share == pytest.approx((labels == 255).mean(), rel=1e-12)
    shares = [(labels == c).sum() / (labels != 255).sum() for c in range(11)]
    np.testing.assert_allclose(train.shares(), shares, rtol=1e-12)
    assert train.images[:11].tolist() == [8 * (c in (3, 8)) for c in range(11)]
    assert [problem.where for problem in found(report, "warning")] == ["train", "val", "val"]  # numbered alike
    assert "never occur and cannot be learnt: Sky, Building, Pole" in report.problems[0].text


def test_all_problems_are_found_in_one_go(recipe_file, tree):
    train = tree / "train"
    (train / "labels" / "000.png").unlink()
    cv2.imwrite(str(train / "labels" / "zzz.png"), np.zeros((48, 64), np.uint8))
    (train / "images" / "001.png").write_bytes((train / "images" / "001.png").read_bytes()[:300])
    (train / "labels" / "002.png").write_text("no picture")
    cv2.imwrite(str(train / "labels" / "003.png"), np.zeros((24, 64), np.uint8))
    cv2.imwrite(str(train / "labels" / "004.png"), np.full((48, 64), 11, np.uint8))
    cv2.imwrite(str(train / "labels" / "005.png"), np.array([[11, 200] * 32] * 48, np.uint8))
    cv2.imwrite(str(train / "labels" / "006.png"), np.full((48, 64), 255, np.uint8))
    shutil.copy(train / "images" / "007.png", tree / "val" / "images" / "001.png")
    report = check(recipe_file)
    texts = {problem.text: [file.split("/")[-1] for file in problem.files] for problem in found(report)}
    assert texts == {
        "2 files without a partner": ["000.png has no label image", "zzz.png has no image"],
        "2 files that cannot be read": [
            "001.png cannot be read: the png data is truncated: it has no end within its 300 bytes",
            "002.png cannot be read: a label image must be a PNG file",
        ],
        "1 file whose label image has another size than the picture": ["003.png is 64x24 but its image is 64x48"],
        "2 files with values that are no class of label map 'camvid11' nor void, 11 in 2 files, 200 in 1 file": [
            "004.png holds the ids [11], which are neither a class nor void (255)",
            "005.png holds the ids [11, 200], which are neither a class nor void (255)",
        ],
        "1 image also in train: scores on them say nothing about new images": ["001 is 007 of train"],
    }
    assert [p.files for p in found(report, "warning") if "without any labelled pixel" in p.text] == [("006",)]
    assert report.splits[0].count == 2  # what is broken takes no part in the figures
    text = printed(report)
    assert all(sentence in text for sentence in texts) and "5 errors" in text and "not trained on" in text


def test_training_refuses_what_the_check_finds_in_the_same_words(recipe_file, tree):
    cv2.imwrite(str(tree / "train" / "labels" / "004.png"), np.full((48, 64), 11, np.uint8))
    sentence = found(check(recipe_file))[0].files[0]
    with pytest.raises(ValueError) as refusal:
        SegmentationData(load_recipe(recipe_file)).setup("fit")
    assert str(refusal.value) == sentence
    (tree / "train" / "labels" / "004.png").unlink()
    sentence = found(check(recipe_file))[0].files[0]
    with pytest.raises(ValueError) as refusal:
        SegmentationData(load_recipe(recipe_file))
    assert str(refusal.value) == sentence


def test_a_frame_in_both_splits_is_found_when_stored_anew(recipe_file, tree):
    """Smaller and as JPEG, so only name and look tell; a namesake that looks different is a warning."""
    image = cv2.imread(str(tree / "train" / "images" / "003.png"))
    cv2.imwrite(str(tree / "val" / "images" / "003.jpg"), cv2.resize(image, (32, 24), interpolation=cv2.INTER_AREA))
    cv2.imwrite(str(tree / "val" / "labels" / "003.png"), np.full((24, 32), 3, np.uint8))
    cv2.imwrite(str(tree / "val" / "images" / "002.png"), 255 - cv2.imread(str(tree / "train" / "images" / "002.png")))
    report = check(recipe_file)
    assert [(p.where, p.files) for p in found(report)] == [("val", ("003",))]
    (namesakes,) = [p for p in found(report, "warning") if "look different" in p.text]
    assert "002" in namesakes.files and "003" not in namesakes.files


def test_a_worker_of_torch_tells_the_same_sentence(recipe_file, tree):
    """It builds the error anew from its text."""
    cv2.imwrite(str(tree / "train" / "labels" / "004.png"), np.full((48, 64), 11, np.uint8))
    dataset = open_dataset("camvid", root=tree, split="train")
    with pytest.raises(BrokenSample) as info:
        dataset.read(4)
    assert str(BrokenSample(str(info.value))) == str(info.value) == str(info.value.faults[0])


def test_a_frame_stored_anew_under_another_name_is_a_warning(recipe_file, tree):
    image = cv2.imread(str(tree / "train" / "images" / "003.png"))
    cv2.imwrite(str(tree / "val" / "images" / "zz9.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    shutil.copy(tree / "train" / "labels" / "003.png", tree / "val" / "labels" / "zz9.png")
    report = check(recipe_file)
    assert report.errors == 0
    (twins,) = [p.files for p in found(report, "warning") if "look like one of train" in p.text]
    assert "zz9 looks like 003 of train" in twins


def test_training_on_train_and_val_is_called_a_leak_unless_it_is_meant(recipe_file):
    settings = ["data.train.split=train+val"]
    report = check(recipe_file, *settings)
    assert [p.text.split(":")[0] for p in found(report)] == ["3 images also in train"]
    report = check(recipe_file, *settings, "data.val_is_trained_on=true")
    assert report.errors == 0
    assert "3 images also in train" in [p.text.split(":")[0] for p in found(report, "warning")]


def test_recipes_that_train_on_all_labels_say_so():
    """Their scores are of images that were trained on; all others keep the rule, the cross-validations too."""
    config = Path(__file__).parents[2] / "config"
    recipes = {path.stem: load_recipe(path) for path in (config / "train").glob("*.yaml")}
    meant = {name for name, recipe in recipes.items() if recipe.data.val_is_trained_on}
    assert meant == {"dsnet_camvid11_release", "swiftnet_fbnet_street19", "swiftnet_fbnet_street19_fine"}
    for path in (config / "study").glob("*.yaml"):
        study = load_study(path)
        assert not any(recipe_of(path, study, run).data.val_is_trained_on for run in runs(study)), path


def test_patches_that_leave_gaps_are_found_with_their_images(recipe_file, tree):
    cv2.imwrite(str(tree / "train" / "images" / "002.png"), np.zeros((32, 40, 3), np.uint8))
    cv2.imwrite(str(tree / "train" / "labels" / "002.png"), np.zeros((32, 40), np.uint8))
    report = check(recipe_file, "augmentation.patches={size: [32, 32], grid: [1, 2]}")
    (gaps,) = found(report)
    assert "1 x 2 patches of (32, 32) leave gaps in an image of (48, 64)" in gaps.text
    assert len(gaps.files) == 7 and "002" not in gaps.files


def test_a_loss_on_presence_refuses_labels_that_leave_classes_out(recipe_file):
    """An image whose cars alone are labelled shows a road all the same: it must not teach that there is none."""
    source = yaml.safe_load(recipe_file.read_text())["data"]["train"]
    partial = {**source, "meaning": {"Road": [], "Pole": [], "SignSymbol": ["pole", "traffic sign"]}}
    both = f"data.train={yaml.safe_dump([source, partial], default_flow_style=True, width=10**6).strip()}"
    settings = ["data.label_map=cityscapes19", both]
    (problem,) = found(check(recipe_file, *settings))
    assert problem.text.startswith("the loss 'sel' learns which classes an image does not show")
    assert "leave out road, traffic light: say" in problem.text
    assert check(recipe_file, *settings, "losses={cross_entropy: 1}").errors == 0
    alone = f"data.train={yaml.safe_dump(partial, default_flow_style=True, width=10**6).strip()}"
    assert check(recipe_file, "data.label_map=cityscapes19", alone).errors == 0  # nothing of them is learnt at all


def test_validation_without_a_label_is_refused(recipe_file, tree):
    """Nothing would tell which weights are best, so that none would be kept."""
    for path in (tree / "val" / "labels").iterdir():
        cv2.imwrite(str(path), np.full((48, 64), 255, np.uint8))
    assert [p.text for p in found(check(recipe_file))] == ["no labelled pixel, so nothing tells which weights are best"]


def test_training_on_sound_data_tells_its_warnings_on_a_terminal_or_not(recipe_file, capsys):
    recipe = load_recipe(recipe_file)
    warnings = found(check_data(recipe, progress=False), "warning")
    assert warnings
    refuse_broken(recipe, progress=False)
    said = " ".join(capsys.readouterr().err.split())
    for warning in warnings:
        assert f"warning {warning.where}: {warning.text}" in said
        assert all(file in said for file in warning.files[:3])


def test_masks_of_0_and_255_are_told_from_classes(recipe_file, tree):
    for path in (tree / "train" / "labels").iterdir():
        cv2.imwrite(str(path), np.array([[0] * 24 + [255] * 40] * 48, np.uint8))
    (warning,) = [p for p in found(check(recipe_file), "warning") if "alone" in p.text]
    assert warning.where == "train: camvid split=train" and warning.text == (
        "labels hold 0 (Sky) and 255 alone: 255 is 62% of all pixels and means void here; where it is to be a class, "
        "write that class's id instead"
    )
    for path in (tree / "train" / "labels").iterdir():
        cv2.imwrite(str(path), np.array([[0] * 12 + [1] * 12 + [255] * 40] * 48, np.uint8))
    assert "255, which means void, is 62% of all pixels" in [p.text for p in found(check(recipe_file), "warning")]


def test_images_that_state_an_orientation_are_a_warning(recipe_file, tree):
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0" + tiff
    for number, suffix in ((0, ".jpg"), (1, ".png")):
        path = tree / "train" / "images" / f"{number:03d}.png"
        content = cv2.imencode(suffix, cv2.imread(str(path)))[1].tobytes()
        if suffix == ".jpg":
            content = content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:]
        else:
            chunk = struct.pack(">I", len(tiff)) + b"eXIf" + tiff + struct.pack(">I", zlib.crc32(b"eXIf" + tiff))
            content = content[:33] + chunk + content[33:]
        path.unlink()
        path.with_suffix(suffix).write_bytes(content)
    (warning,) = [p for p in found(check(recipe_file), "warning") if "EXIF" in p.text]
    assert warning.files == ("000", "001")
    assert warning.text.startswith("2 images with an EXIF orientation, which is not followed")


def test_training_refuses_before_it_begins_and_a_resumed_run_is_not_checked_again(recipe_file, tree, tmp_path):
    """Whatever is cached, and what would show only at the first validation."""
    broken = tree / "val" / "labels" / "001.png"
    whole = broken.read_bytes()
    cv2.imwrite(str(broken), np.full((48, 64), 77, np.uint8))
    recipe = load_recipe(recipe_file, ["data.cache_gib=0", "validate_every=2"])
    with pytest.raises(ValueError, match=r"not trained on: val: camvid split=val: 1 file with values .*001.png holds"):
        train(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "last.ckpt").exists()
    with pytest.raises(ValueError, match=r"3 images also in train.*\(000, 001, 002\) \(`drive-seg train"):
        broken.write_bytes(whole)
        train(load_recipe(recipe_file, ["data.train.split=train+val"]), tmp_path / "run", progress=False)
    train(load_recipe(recipe_file, ["schedule.epochs=1"]), tmp_path / "run", progress=False)
    cv2.imwrite(str(tree / "train" / "images" / "zz.png"), np.zeros((48, 64, 3), np.uint8))
    cv2.imwrite(str(tree / "train" / "labels" / "zz.png"), np.full((48, 64), 255, np.uint8))
    shutil.copy(tree / "val" / "images" / "001.png", tree / "train" / "images" / "zz.png")
    train(recipe, tmp_path / "run", progress=False)  # on from the first epoch, though a check would refuse now
    with pytest.raises(ValueError, match="1 image also in train"):
        train(recipe, tmp_path / "run", resume=False, progress=False)


def test_a_frame_twice_in_one_dataset_is_a_warning(recipe_file, tree):
    for kind in ("images", "labels"):
        shutil.copy(tree / "train" / kind / "000.png", tree / "train" / kind / "100.png")
    report = check(recipe_file)
    assert report.errors == 0
    assert [p.files for p in found(report, "warning") if "more than once" in p.text] == [("000 = 100",)]


def test_joined_datasets_are_told_in_the_runs_classes(recipe_file, tree):
    report = check(recipe_file, "data.label_map=cityscapes19", "data.batch_size=8")
    assert report.errors == 0
    train = report.splits[0]
    occurring = {name: share for name, share in zip(train.names, train.shares(), strict=True) if share}
    assert list(occurring) == ["road", "car/truck/bus/train"] and sum(occurring.values()) == pytest.approx(1)
    absent = report.problems[0].text
    assert "sidewalk" in absent and "truck" not in absent
    first = yaml.safe_load(recipe_file.read_text())["data"]["train"]
    both = yaml.safe_dump([first, {**first, "meaning": {"Car": ["tram"]}}], default_flow_style=True).strip()
    report = check(recipe_file, "data.label_map=cityscapes19", f"data.train={both}")
    assert [p.text for p in found(report)] == ["label map 'cityscapes19' has no class 'tram'"]


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("data.train.split=night", "there is no folder"),
        ("data.train.dataset=kitti", "no dataset is called 'kitti'"),
        ("data.train.colour=1", "dataset 'camvid' has no setting 'colour'"),
        ("data.label_map=kitti", "no label map is called 'kitti'"),
        ("data.label_map=voc21", "class 'Sky' of label map 'camvid11'"),
        ("data.batch_size=9", "8 images do not fill one batch of 9"),
    ],
)
def test_data_that_cannot_be_opened_or_used(recipe_file, setting, complaint):
    report = check(recipe_file, setting)
    assert any(complaint in problem.text for problem in found(report))
    assert report.splits[1].count == 3 or "voc21" in setting  # the rest is looked at all the same


def test_the_command_prints_and_tells_by_its_exit_code(recipe_file, tree, tmp_path):
    run = CliRunner().invoke(app, ["train", str(recipe_file), "--check", "-o", str(tmp_path / "run")])
    assert run.exit_code == 0, run.output
    assert "train: 8 images" in run.output and "64x48 (8)" in run.output and "can be trained on" in run.output
    (tree / "val" / "labels" / "000.png").unlink()
    file = tmp_path / "check.json"
    run = CliRunner().invoke(
        app, ["train", str(recipe_file), "--check", "-o", str(tmp_path / "run"), "--json", str(file)]
    )
    assert run.exit_code == 1 and not (tmp_path / "run").exists()
    outcome = json.loads(file.read_text())
    assert outcome["errors"] == 1 and outcome["problems"][0]["files"][0].endswith(
        "val/images/000.png has no label image"
    )
    assert outcome["splits"][0]["sizes"] == {"64x48": 8} and outcome["splits"][0]["classes"][3]["images"] == 8
    run = CliRunner().invoke(app, ["train", str(recipe_file), "--json", "-"])
    assert isinstance(run.exception, ValueError) and "goes with --check" in str(run.exception)


def test_long_lists_of_files_are_cut_on_screen(recipe_file, tree):
    for path in (tree / "train" / "labels").iterdir():
        cv2.imwrite(str(path), np.full((48, 64), 77, np.uint8))
    for i in range(20, 26):
        cv2.imwrite(str(tree / "train" / "labels" / f"{i}.png"), np.full((48, 64), 3, np.uint8))
        cv2.imwrite(str(tree / "train" / "images" / f"{i}.png"), np.full((48, 64, 3), i, np.uint8))
    for i in range(20, 33):
        cv2.imwrite(str(tree / "val" / "images" / f"{i}.png"), np.full((48, 64, 3), i, np.uint8))
    report = check(recipe_file)
    assert max(len(problem.files) for problem in report.problems) == 13
    assert "and 3 more; `drive-seg train RECIPE --check --json FILE` names all" in printed(report)


def test_real_camvid_is_sound_and_has_the_shares_of_its_card(shared_data, recipe_file):
    settings = [f"data.{split}.root={shared_data / 'camvid'}" for split in ("train", "val")]
    report = check(recipe_file, *settings)
    assert not report.problems
    val = report.splits[1]
    assert val.void_share == pytest.approx(0.01703, abs=5e-6)
    assert val.shares()[10] * (1 - val.void_share) == pytest.approx(0.02217, abs=5e-6)
    assert report.splits[0].images[:11].tolist() == [366, 365, 366, 367, 349, 319, 351, 173, 360, 317, 201]
