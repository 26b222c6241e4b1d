"""The guide for newcomers: its recipes are whole, its lists complete, and its recipe trains a folder."""

import re
from pathlib import Path

import pytest
import yaml

from drive_seg import checkpoint, datasets
from drive_seg.datasets.folder import read_classes
from drive_seg.training import losses
from drive_seg.training.check import check_data
from drive_seg.training.recipe import load_recipe
from drive_seg.training.study import load_study
from drive_seg.training.train import train


@pytest.fixture
def blocks(checkout: Path):
    """The YAML examples of a document."""

    def read(name: str) -> list[str]:
        return re.findall(r"```yaml\n(.*?)```", (checkout / name).read_text(), re.DOTALL)

    return read


def holding(blocks: list[str], start: str) -> str:
    (found,) = (block for block in blocks if block.startswith(start))
    return found


def test_the_guide_s_recipe_trains_a_folder(blocks, tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tree / "train" / "classes.yaml").write_text("".join(f"- class {i}\n" for i in range(9)))
    (tree / "train").rename("mydata")
    names = [f"{i:03d}\n" for i in range(8)]
    (tmp_path / "mydata" / "train.txt").write_text("".join(names[:6]))
    (tmp_path / "mydata" / "val.txt").write_text("".join(names[6:]))
    (tmp_path / "mydata.yaml").write_text(holding(blocks("docs/training.md"), "name: mydata"))
    small = ["data.crop=[32, 32]", "data.batch_size=2", "schedule.epochs=2"]
    recipe = load_recipe("mydata.yaml", small)
    assert not check_data(recipe, progress=False).errors
    best = train(recipe, Path("runs/mydata"), progress=False)  # although it validates every fifth epoch
    contract = checkpoint.load(best).contract
    assert contract.label_map.names[8] == "class 8" and contract.metrics["validation"]["epochs"] == 2


def test_the_guide_s_examples_are_accepted(blocks, tmp_path):
    found = blocks("docs/training.md")
    for name, start in (("list", "- road"), ("map", "name: yard")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(holding(found, start))
        assert read_classes(path).names == ("road", "vehicle", "person", "everything else")
    (tmp_path / "mydata.yaml").write_text(holding(found, "name: mydata"))
    assert load_recipe(tmp_path / "mydata.yaml").licence
    (tmp_path / "distilled.yaml").write_text(holding(found, "base: mydata.yaml"))
    assert len(load_recipe(tmp_path / "distilled.yaml").teachers) == 2
    (tmp_path / "losses.yaml").write_text(holding(found, "name: losses"))
    assert len(load_study(tmp_path / "losses.yaml").rows) == 2
    joined = {"base": "mydata.yaml", **yaml.safe_load(holding(found, "data:"))}
    (tmp_path / "joined.yaml").write_text(yaml.safe_dump(joined))
    assert len(load_recipe(tmp_path / "joined.yaml").data.train) == 3


@pytest.mark.parametrize("names", [datasets.names(), losses.names()], ids=["datasets", "losses"])
def test_the_guide_lists_them_all(checkout, names):
    cells = [line.split("|")[1] for line in (checkout / "docs/training.md").read_text().splitlines() if line[:1] == "|"]
    listed = set(re.findall(r"`(\w+)`", " ".join(cells)))
    assert set(names) <= listed
