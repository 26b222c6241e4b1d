"""Recipes: what is refused, how one stands on another, and that each of the package's trains on a tiny tree."""

import logging
import re
import warnings
from pathlib import Path

import cv2
import lightning
import numpy as np
import pytest
import torch
import yaml

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.labels import CAMVID11, CAMVID32
from drive_seg.training.data import SegmentationData
from drive_seg.training.recipe import RecipeError, load_recipe
from drive_seg.training.record import without_folders
from drive_seg.training.task import SegmentationTask

CONFIG = Path(__file__).resolve().parents[2] / "config" / "train"
RECIPES = sorted(path.stem for path in CONFIG.glob("*.yaml"))
RESNETS = ("resnet50", "resnet101")
PUBLISHED = {
    "dsnet_cityscapes_coarse",
    "dsnet_cityscapes_fine",
    "dsnet_cityscapes_tune",
    *(f"fbnet_{net}_{encoder}_cityscapes" for net in ("fcn", "pspnet", "deeplabv3plus") for encoder in ("r50", "r101")),
    "fbnet_deeplabv3plus_bdd100k",
    "fbnet_deeplabv3plus_wrn38_cityscapes_coarse",
    "fbnet_deeplabv3plus_wrn38_cityscapes",
    "ifbfnet_r50_cityscapes",
    "ifbfnet_r101_cityscapes",
    "dfn_r101_voc",
    "dfn_r101_cityscapes",
}
OWN = {
    "dsnet_camvid11",
    "dsnet_camvid11_distilled",
    "dsnet_camvid11_release",
    "dsnet_synth19",
    "swiftnet_fbnet_street19",
    "swiftnet_fbnet_street19_fine",
    "swiftnet_road19",
}


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("optimizer.lr=fast", "optimizer.lr: .*valid number"),
        ("optimizer.momentun=0.9", "optimizer.momentun: Extra inputs"),
        ("schedule.epochs=0", "schedule.epochs: .*greater than or equal to 1"),
        ("augmentation.scale=[2, 1]", "scale must be"),
        ("optimizer.name=lion", "'adamw', 'adam' or 'sgd'"),
        ("schedule.iterations=5", "schedule: .*give either epochs or iterations"),
        ("accumulate=3", "batch_size 4 is not a multiple of accumulate x devices x nodes = 3"),
        ("devices=8", "batch_size 4 is not a multiple of .* = 8"),
        ("best=val_loss", "'val_miou' or 'val_f_miou'"),
        ("augmentation.scales=[0.5, 0]", "scales must all be above 0"),
        ("augmentation.patches={size: [0, 8], grid: [1, 1]}", "size and grid must each"),
        ("data.train=[]", "data.train: .*at least 1 item"),
        ("nonsense", "not of the form setting=value"),
        ("schedule.epochs=[1", "'schedule.epochs=\\[1': the value is no YAML: expected"),
        ("data.crop=[-64, 0]", "data.crop: .*must be two numbers of 1 or more"),
        ("losses={}", "losses: .*at least 1 item"),
        ("name.first=x", "'name' is not a group"),
    ],
)
def test_bad_settings_are_named(recipe_file, override, complaint):
    with pytest.raises(RecipeError, match=complaint):
        load_recipe(recipe_file, [override])


def test_unreadable_recipes_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read as YAML"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(RecipeError, match="not a mapping"):
        load_recipe(tmp_path / "list.yaml")


def write(folder: Path, *names: str, **values: str) -> Path:
    for name in names:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values[name]))
    return folder / f"{names[0]}.yaml"


@pytest.mark.parametrize("setting", ["data.train.root", "data.val.root"])
def test_a_recipe_names_folders_by_environment_variables(recipe_file, tree, monkeypatch, setting):
    wish = f"{setting}=${{ROADS}}/camvid"
    monkeypatch.setenv("ROADS", str(tree.parent))
    assert load_recipe(recipe_file, [wish]) == load_recipe(recipe_file)
    for unset in (lambda: monkeypatch.setenv("ROADS", ""), lambda: monkeypatch.delenv("ROADS")):
        unset()
        with pytest.raises(
            RecipeError, match=rf"tiny\.yaml: {setting}: '\$.ROADS./camvid' needs .* ROADS.* --set {setting}="
        ):
            load_recipe(recipe_file, [wish])


def test_variables_stand_in_lists_and_in_a_setting_that_is_replaced_nobody_looks_for_them(recipe_file, monkeypatch):
    monkeypatch.delenv("ROADS", raising=False)
    lost = "teachers=['${ROADS}/a', '${ROADS}/b']"
    with pytest.raises(RecipeError, match=r"teachers\.0: .*ROADS"):
        load_recipe(recipe_file, [lost])
    assert not load_recipe(recipe_file, [lost, "teachers=[]"]).teachers


def test_recipes_and_studies_name_no_folder_of_one_machine():
    for path in sorted(CONFIG.parent.rglob("*.yaml")):
        roots = re.findall(r"^[^#\n]*?(?:root|folder|file): *(\S+)", path.read_text(), re.MULTILINE)
        assert all(root.lstrip('"').startswith("${DRIVE_SEG_DATA}/") for root in roots), (path, roots)


def test_what_is_recorded_of_a_recipe_names_no_folder(recipe_file, tree):
    recipe = load_recipe(
        recipe_file, [f"augmentation.style={{folder: {tree}/photos}}", f"warm_start={tree}/m.safetensors"]
    )
    record = without_folders(recipe)
    assert record["augmentation"]["style"]["folder"] == "photos" and record["warm_start"] == "m.safetensors"
    assert str(tree.parent) not in str(record)


def test_a_recipe_stands_on_another(recipe_file, tmp_path):
    """Mappings are laid over each other; scalars, lists and null take the place of what stood there."""
    own = {
        "base": "middle.yaml",
        "name": "own",
        "optimizer": {"name": "sgd"},
        "schedule": {"epochs": None, "iterations": 7},
        "losses": {"sel": None},
    }
    middle = {"base": recipe_file.name, "name": "middle", "optimizer": {"lr": 0.5}, "data": {"crop": [8, 8]}}
    recipe = load_recipe(write(tmp_path, "own", "middle", own=own, middle=middle), ["losses.owfl=2.0"])
    original = load_recipe(recipe_file)
    assert recipe.name == "own" and recipe.optimizer.name == "sgd" and recipe.optimizer.lr == 0.5
    assert recipe.schedule.iterations == 7 and recipe.schedule.epochs is None
    assert recipe.schedule.warmup_epochs == original.schedule.warmup_epochs
    assert recipe.losses == {"owfl": 2.0} and recipe.data.crop == (8, 8)
    assert recipe.data.train == original.data.train


def test_settings_reach_into_lists(recipe_file):
    """Every member, or by its number one."""
    source = "{dataset: synth, seeds: [0, 1], frames: 4}"
    two = f"data.train=[{source}, {source}]"
    recipe = load_recipe(recipe_file, [two, "data.train.frames=6", "data.train.1.repeat=3", "data.crop.0=32"])
    assert [(s.arguments["frames"], s.repeat) for s in recipe.data.train] == [(6, 1), (6, 3)]
    assert recipe.data.crop == (32, 64)
    with pytest.raises(RecipeError, match="'data.train.2.repeat=1': 'train' has 2 members, counted from 0"):
        load_recipe(recipe_file, [two, "data.train.2.repeat=1"])


def test_recipes_that_stand_on_each_other_are_refused(tmp_path):
    one = write(tmp_path, "one", "two", one={"base": "two.yaml"}, two={"base": "one.yaml"})
    with pytest.raises(RecipeError, match="stands on this file itself"):
        load_recipe(one)
    with pytest.raises(RecipeError, match="stands on this file itself"):
        load_recipe(write(tmp_path, "self", self={"base": "self.yaml"}))
    with pytest.raises(RecipeError, match=r"gone\.yaml: cannot be read"):
        load_recipe(write(tmp_path, "lost", lost={"base": "gone.yaml"}))


def test_every_published_row_has_a_recipe_of_its_name():
    assert set(RECIPES) == PUBLISHED | OWN
    for name in RECIPES:
        assert load_recipe(CONFIG / f"{name}.yaml").name == name


def test_stages_follow_one_another():
    """Each starts from a model of the package, or where `drive-seg train` leaves the best checkpoint of another."""
    for name in RECIPES:
        recipe = load_recipe(CONFIG / f"{name}.yaml")
        if recipe.warm_start is not None and "/" not in recipe.warm_start:
            assert checkpoint.find_model(recipe.warm_start).is_file()
        elif recipe.warm_start is not None:
            folder, stage, file = recipe.warm_start.split("/")
            assert (folder, file) == ("runs", "best.safetensors") and stage in RECIPES and stage != name


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("dsnet_cityscapes_coarse", (80, None, "adam", 5e-4, 5e-4, 12, (512, 1024))),
        ("dsnet_cityscapes_fine", (120, None, "adam", 1e-4, 2e-4, 16, (800, 800))),
        ("dsnet_cityscapes_tune", (40, None, "sgd", 2e-5, 2e-4, 16, (800, 800))),
        ("fbnet_deeplabv3plus_bdd100k", (180, None, "sgd", 0.01, 1e-4, 8, (832, 832))),
        ("fbnet_deeplabv3plus_wrn38_cityscapes", (180, None, "sgd", 0.01, 1e-4, 8, (832, 832))),
        ("ifbfnet_r50_cityscapes", (None, 81000, "sgd", 0.01, 5e-4, 8, (876, 876))),
        ("dfn_r101_cityscapes", (None, 80000, "sgd", 4e-3, 1e-4, 32, (800, 800))),
        ("dfn_r101_voc", (120, None, "sgd", 4e-3, 1e-4, 32, (512, 512))),
    ],
)
def test_a_recipe_says_what_its_paper_prints(name, printed):
    """Bases could be laid over wrongly: length, optimiser, rate, decay, batch and window as the papers have them."""
    r = load_recipe(CONFIG / f"{name}.yaml")
    length = (r.schedule.epochs, r.schedule.iterations)
    assert (
        *length,
        r.optimizer.name,
        r.optimizer.lr,
        r.optimizer.weight_decay,
        r.data.batch_size,
        r.data.crop,
    ) == printed


@pytest.mark.parametrize(
    ("network", "backbone", "suffix"),
    [(n, b, f"{n}_{b.replace('resnet', 'r')}") for n in ("fcn", "pspnet", "deeplabv3plus") for b in RESNETS]
    + [("deeplabv3plus", "wider_resnet38", "deeplabv3plus_wrn38")],
)
def test_fbnets_rows_on_cityscapes_differ_in_the_network_alone(network, backbone, suffix):
    """Printed: poly 0.9, momentum 0.9, 180 epochs, scales 0.5 to 2, mirrored, both losses alike, on res5."""
    r = load_recipe(CONFIG / f"fbnet_{suffix}_cityscapes.yaml")
    assert (r.network.name, r.network.options["backbone"]) == (network, backbone)
    assert r.network.options["feature_balance"] == ["res5"]
    assert (r.schedule.kind, r.schedule.power, r.schedule.epochs, r.data.crop) == ("poly", 0.9, 180, (832, 832))
    assert (r.optimizer.name, r.optimizer.lr, r.optimizer.momentum, r.optimizer.weight_decay) == (
        "sgd",
        0.01,
        0.9,
        1e-4,
    )
    assert (r.augmentation.scale, r.augmentation.flip, r.data.batch_size) == ((0.5, 2.0), 0.5, 8)
    assert r.losses["ohem"] + r.losses["weighted_cross_entropy"] == r.losses["bwbce"] == 1


SIZE = (40, 56)


def write_pair(image: Path, label: Path, ids: list[int]) -> None:
    """Stripes of the given ids with noise; the first rows are void."""
    drawn = np.array(ids, np.uint8)[np.arange(SIZE[1]) * len(ids) // SIZE[1]]
    drawn = np.tile(drawn, (SIZE[0], 1))
    drawn[:2] = 0 if "cityscapes" in str(label) else 255  # Cityscapes' files hold ids of 34 classes, void among them
    noise = np.random.default_rng(0).integers(0, 60, (*SIZE, 3))
    picture = (drawn[..., None].astype(int) * 6 + noise).clip(0, 255).astype(np.uint8)
    for path, content in ((image, picture), (label, drawn)):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), content)


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> dict[str, Path]:
    """Each dataset's layout, with two to four images of a few classes: dataset -> root."""
    root = tmp_path_factory.mktemp("trees")
    city, bdd, voc = root / "cityscapes", root / "bdd100k", root / "voc"
    for part, kind, count in (("train", "Fine", 4), ("val", "Fine", 1), ("train_extra", "Coarse", 4)):
        for i in range(count):
            name = f"{part}/ulm/ulm_{i:06d}_000019"
            image = city / "leftImg8bit" / f"{name}_leftImg8bit.png"
            write_pair(image, city / f"gt{kind}" / f"{name}_gt{kind}_labelIds.png", [7, 8, 11, 17, 0, 26, 24])
    for part, count in (("train", 4), ("val", 1)):
        for i in range(count):
            label = bdd / "labels" / "sem_seg" / "masks" / part / f"{i}.png"
            write_pair(bdd / "images" / "10k" / part / f"{i}.jpg", label, [0, 1, 2, 255, 5, 13])
            for dataset in ("camvid", "camvid32"):
                folder = root / dataset / part
                ids = (
                    [3, 4, 1, 2, 8]
                    if dataset == "camvid"
                    else [CAMVID32.names.index(n) for n in ("Road", "Car", "Sky")]
                )
                write_pair(folder / "images" / f"{i}.png", folder / "labels" / f"{i}.png", ids)
            write_pair(root / "folder" / "images" / f"{i}.png", root / "folder" / "labels" / f"{i}.png", [0, 1])
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, labels, names in (("trainaug", "SegmentationClassAug", "abcd"), ("val", "SegmentationClass", "e")):
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            write_pair(voc / "JPEGImages" / f"{name}.jpg", voc / labels / f"{name}.png", [0, 7, 255, 15])
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A small, untrained network with CamVid's 11 classes."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    options = {"size": "0.5"}
    contract = Contract("dsnet", options, CAMVID11, InputSpec((32, 32)))
    checkpoint.save(path, networks.build("dsnet", CAMVID11.num_classes, **options), contract)
    return path


def tiny(name: str, trees: dict[str, Path], teacher: Path) -> list[str]:
    """What makes a recipe small: the tiny trees, a window of 32x32, two steps of two images (with patches, of four)."""
    recipe = load_recipe(CONFIG / f"{name}.yaml")

    def moved(source):
        own = {"seeds": [0, 1], "frames": 4, "size": [56, 40]} if source.dataset == "synth" else {}
        own |= {"classes": ["road", "not road"]} if source.dataset == "folder" else {}
        root = {"root": str(trees[source.dataset])} if source.dataset != "synth" else {}
        return {"dataset": source.dataset, **source.arguments, **own, **root}

    patches = recipe.augmentation.patches
    settings = {
        "data.train": [moved(source) for source in recipe.data.train],
        "data.val": [moved(source) for source in recipe.data.val],
        "data.crop": [32, 32],
        "data.batch_size": 2 if patches is None else 4,
        "data.workers": 0,
        "network.pretrained": None,
        "warm_start": None,
        "teachers": [str(teacher)] * len(recipe.teachers),
        "compile": False,
    }
    if recipe.augmentation.style is not None:
        settings["augmentation.style.folder"] = str(trees["folder"] / "images")
    if patches is not None:
        settings["augmentation.patches"] = {"size": [40, 36], "grid": [1, 2]}
    return [f"{key}={yaml.safe_dump(value, default_flow_style=True, width=10**6)}" for key, value in settings.items()]


TWIN = "fbnet_deeplabv3plus_wrn38_cityscapes_coarse"
"""105 million parameters: a step takes seconds, and the second stage takes the same."""


def test_the_largest_coarse_stage_differs_from_the_fine_one_in_labels_length_and_start_alone():
    coarse, fine = (load_recipe(CONFIG / f"{name}.yaml").model_dump() for name in (TWIN, TWIN.removesuffix("_coarse")))
    assert [key for key in coarse if coarse[key] != fine[key]] == [
        "name",
        "network",
        "data",
        "schedule",
        "validate_every",
        "warm_start",
    ]
    for part, keys in (("network", ["pretrained"]), ("data", ["train"]), ("schedule", ["epochs", "iterations"])):
        assert [key for key in coarse[part] if coarse[part][key] != fine[part][key]] == keys


def test_the_largest_coarse_stage_reads_coarse_labels(trees, teacher):
    data = SegmentationData(load_recipe(CONFIG / f"{TWIN}.yaml", tiny(TWIN, trees, teacher)))
    data.setup("fit")
    image, label = next(iter(data.train_dataloader()))
    assert image.shape == (2, 3, 32, 32) and label.shape == (2, 32, 32)
    assert data.recipe.data.train[0].arguments["labels"] == "coarse"


@pytest.mark.parametrize("name", [name for name in RECIPES if name != TWIN])
def test_a_recipe_trains_two_steps_on_a_tiny_tree(name, trees, teacher):
    recipe = load_recipe(CONFIG / f"{name}.yaml", tiny(name, trees, teacher))
    torch.manual_seed(0)
    data = SegmentationData(recipe)
    task = SegmentationTask(recipe, data.targets, data.steps_per_epoch)
    first = next(p for p in task.network.parameters() if p.ndim > 1)
    before = first.detach().clone()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = lightning.Trainer(
        fast_dev_run=2,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(task, data)
    assert trainer.global_step == 2
    assert torch.isfinite(trainer.callback_metrics["loss"]) and 0 <= trainer.callback_metrics["val_miou"] <= 1
    assert {f"loss_{loss}" for loss in recipe.losses} <= trainer.callback_metrics.keys()
    assert not torch.equal(first, before) and torch.isfinite(first).all()
