"""Studies: which runs they make, that they go on where they stopped, and how the table is reckoned."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from drive_seg import networks
from drive_seg.labels import CAMVID11, CITYSCAPES19
from drive_seg.training import losses
from drive_seg.training.recipe import RecipeError
from drive_seg.training.study import carry_out, load_study, recipe_of, runs
from drive_seg.training.targets import Targets
from drive_seg.training.train import train


@pytest.fixture
def study_file(recipe_file):
    settings = {
        "name": "tiny",
        "recipe": recipe_file.name,
        "source": "Table 6",
        "set": {"schedule.epochs": 1},
        "folds": {"a": {"data.batch_size": 4}, "b": {"data.batch_size": 2}},
        "seeds": [0, 1],
        "rows": [
            {"name": "WCE", "set": {"losses": {"weighted_cross_entropy": 1.0}}, "paper": 58.5},
            {"name": "OWFL + SEL", "set": {"losses": {"owfl": 1.0, "sel": 0.1}}, "paper": 61.4},
        ],
    }
    path = recipe_file.parent / "study.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def pretend(scores, calls):
    """A trainer that writes the log of a run with a score looked up by (losses, batch size, seed)."""

    def train(recipe, folder):
        calls.append(folder)
        miou = scores[(tuple(recipe.losses), recipe.data.batch_size, recipe.seed)]
        log = folder / "csv" / "version_0" / "metrics.csv"
        log.parent.mkdir(parents=True)
        with log.open("w") as lines:
            writer = csv.DictWriter(lines, ["epoch", "val_miou", "val_f_miou", "val_accuracy"])
            writer.writeheader()
            writer.writerow({"epoch": 0, "val_miou": miou, "val_f_miou": miou / 2, "val_accuracy": 0.9})

    return train


WCE, OWFL = ("weighted_cross_entropy",), ("owfl", "sel")
SCORES = {
    (WCE, 4, 0): 0.50,
    (WCE, 2, 0): 0.52,
    (WCE, 4, 1): 0.51,
    (WCE, 2, 1): 0.53,
    (OWFL, 4, 0): 0.54,
    (OWFL, 2, 0): 0.55,
    (OWFL, 4, 1): 0.55,
    (OWFL, 2, 1): 0.56,
}


def test_every_row_meets_every_fold_and_seed(study_file):
    study = load_study(study_file)
    made = {(r.row, r.fold, r.seed): recipe_of(study_file, study, r) for r in runs(study)}
    assert len(made) == 2 * 2 * 2
    assert made["OWFL + SEL", "b", 1].data.batch_size == 2
    assert made["OWFL + SEL", "b", 1].seed == 1
    assert made["OWFL + SEL", "b", 1].losses == {"owfl": 1.0, "sel": 0.1}
    assert {recipe.schedule.epochs for recipe in made.values()} == {1}


def test_the_table_pairs_runs_of_the_same_fold_and_seed(study_file, tmp_path):
    report = carry_out(study_file, tmp_path / "out", pretend(SCORES, []))
    first, second = report["rows"]
    assert first["miou"]["mean"] == pytest.approx(0.515) and second["miou"]["mean"] == pytest.approx(0.55)
    assert second["miou"]["difference"] == pytest.approx(0.035)
    differences = [0.04, 0.03, 0.04, 0.03]
    spread = math.sqrt(sum((d - 0.035) ** 2 for d in differences) / 3)
    assert second["miou"]["spread"] == pytest.approx(spread)
    assert second["miou"]["pairs"] == 4 and second["miou"]["supported"]
    assert second["f_miou"]["difference"] == pytest.approx(0.0175)
    assert second["paper_difference"] == pytest.approx(2.9)
    table = (tmp_path / "out" / "study.md").read_text()
    assert "| WCE | 4 | 51.5 |  |" in table and "| OWFL + SEL | 4 | 55.0 | +3.5 ± 0.6 |" in table and "+2.9" in table


def test_a_difference_within_the_spread_is_put_in_brackets(study_file, tmp_path):
    noisy = {**SCORES, (OWFL, 4, 0): 0.45, (OWFL, 2, 1): 0.49}
    report = carry_out(study_file, tmp_path / "out", pretend(noisy, []))
    assert not report["rows"][1]["miou"]["supported"]
    assert "| (-0.5 ± 4.7) |" in (tmp_path / "out" / "study.md").read_text()


def test_finished_runs_are_left_alone(study_file, tmp_path):
    calls = []
    carry_out(study_file, tmp_path / "out", pretend(SCORES, calls))
    assert len(calls) == 8
    carry_out(study_file, tmp_path / "out", pretend(SCORES, calls))
    assert len(calls) == 8
    (tmp_path / "out" / "WCE" / "a" / "seed0" / "score.json").unlink()
    (tmp_path / "out" / "WCE" / "a" / "seed0" / "csv" / "version_0" / "metrics.csv").unlink()
    (tmp_path / "out" / "WCE" / "a" / "seed0" / "csv" / "version_0").rmdir()
    carry_out(study_file, tmp_path / "out", pretend(SCORES, calls))
    assert len(calls) == 9


def test_three_pairs_need_a_difference_of_two_and_a_half_spreads(study_file, tmp_path):
    """Student's t at 2 degrees of freedom is 4.303: 1.9 +- 0.8 lies within what chance does, 2.1 +- 0.8 does not."""
    settings = yaml.safe_load(study_file.read_text())
    settings.update(folds={"a": {"data.batch_size": 4}}, seeds=[0, 1, 2])
    study_file.write_text(yaml.safe_dump(settings))
    for mean, supported in ((0.019, False), (0.021, True)):
        scores = {(WCE, 4, seed): 0.5 for seed in range(3)}
        scores |= {(OWFL, 4, seed): 0.5 + mean + 0.008 * (seed - 1) for seed in range(3)}
        row = carry_out(study_file, tmp_path / str(mean), pretend(scores, []))["rows"][1]["miou"]
        assert row["spread"] == pytest.approx(0.008) and row["supported"] is supported


def test_a_finished_run_of_other_settings_is_not_compared_with(study_file, tmp_path):
    calls = []
    carry_out(study_file, tmp_path / "out", pretend(SCORES, calls))
    carry_out(study_file, tmp_path / "out", pretend(SCORES, calls), ["data.workers=2"])  # decides nothing
    assert len(calls) == 8
    with pytest.raises(RecipeError, match="WCE/a/seed0 was .* other settings .optimizer.lr was 0.01 and is 1"):
        carry_out(study_file, tmp_path / "out", pretend(SCORES, calls), ["optimizer.lr=1.0"])
    settings = yaml.safe_load(study_file.read_text())
    settings["rows"][1]["set"]["losses"] = {"owfl": 1.0, "sel": 0.2}
    study_file.write_text(yaml.safe_dump(settings))
    with pytest.raises(RecipeError, match="OWFL_._SEL/a/seed0 was .*losses.sel was 0.1 and is 0.2"):
        carry_out(study_file, tmp_path / "out", pretend(SCORES, calls))
    assert len(calls) == 8


def test_settings_of_the_command_line_are_laid_over_every_run(study_file, tmp_path):
    seen = []

    def note(recipe, folder):
        seen.append((recipe.data.train[0].arguments["root"], recipe.optimizer.lr))
        pretend(SCORES, [])(recipe, folder)

    carry_out(study_file, tmp_path / "out", note, ["data.train.root=elsewhere", "optimizer.lr=0.5"])
    assert seen == [("elsewhere", 0.5)] * 8


def test_a_real_run_is_scored_by_its_last_epoch(study_file, tmp_path):
    settings = yaml.safe_load(study_file.read_text())
    settings.update(seeds=[0], folds={"all": {}}, rows=settings["rows"][1:])
    study_file.write_text(yaml.safe_dump(settings))
    report = carry_out(study_file, tmp_path / "out", lambda recipe, folder: train(recipe, folder, progress=False))
    assert 0 <= report["rows"][0]["miou"]["mean"] <= 1
    assert report["rows"][0]["miou"]["difference"] is None and not report["rows"][0]["miou"]["supported"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rows": []}, "rows: List should have at least 1 item"),
        ({"seed": 3}, "seed: Extra inputs are not permitted"),
        ({"rows": [{"name": "a", "set": {"lossses": {}}}]}, "row 'a': .*lossses: Extra inputs"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "two rows have the same name"),
        ({"set": {"schedule": {"iterations": 30}}}, "row 'WCE': give its length as schedule.epochs"),
        ({"recipe": "nowhere.yaml"}, "row 'WCE': .*nowhere.yaml: cannot be read"),
    ],
)
def test_wrong_studies_are_told(study_file, change, sentence):
    study_file.write_text(yaml.safe_dump({**yaml.safe_load(study_file.read_text()), **change}))
    with pytest.raises(RecipeError, match=sentence):
        load_study(study_file)


def test_an_unvalidated_last_epoch_is_refused(study_file, tmp_path):
    settings = yaml.safe_load(study_file.read_text())
    settings["set"] = {"schedule.epochs": 3}
    study_file.write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match="hold no validation of its last epoch"):
        carry_out(study_file, tmp_path / "out", pretend(SCORES, []))


STUDIES = sorted((Path(__file__).parents[2] / "config" / "study").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_of_the_package_can_be_followed(path):
    """Each row builds its network and finds there what its losses need."""
    study = load_study(path)
    for run in {run.row: run for run in runs(study)}.values():
        recipe = recipe_of(path, study, run)
        classes = CAMVID11 if "camvid" in path.stem else CITYSCAPES19
        # Large networks on the meta device, which costs nothing; DSNet's Semantic Encoding needs a real one.
        with torch.device("cpu" if recipe.network.name == "dsnet" else "meta"):
            network = networks.build(recipe.network.name, classes.num_classes, **recipe.network.options)
            output = network.train()(torch.empty(2, 3, 64, 64))
        given = {
            "sel": output.semantic_presence is not None,
            "bwbce": all(p.logits.shape[1] == len(classes.foreground()) for p in output.block_presence.values())
            and bool(output.block_presence),
            "pointwise_stages": all(p.logits.shape[1] == classes.num_classes for p in output.block_presence.values())
            and bool(output.block_presence),
            "auxiliary": output.aux_logits is not None,
            "deep_supervision": bool(output.stage_logits),
            "border": bool(output.border_logits),
        }
        assert all(given.get(loss, True) for loss in recipe.losses), (run.row, recipe.losses)
        losses.WeightedSum(recipe.losses, Targets(classes, (), np.ones(classes.num_classes) / classes.num_classes))
