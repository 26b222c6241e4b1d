"""A tiny CamVid-like tree and a recipe that trains on it in seconds."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from torch import nn

from drive_seg.networks import SegmentationNetwork, SegmentationOutput, catalog
from drive_seg.networks.layers import ConvBN


def write_sample(folder: Path, stem: str, seed: int, size=(48, 64)) -> None:
    """A picture whose left part is class 3 and right part class 8, in two clearly different colours."""
    rng = np.random.default_rng(seed)
    split = int(rng.integers(16, 48))
    label = np.full(size, 3, np.uint8)
    label[:, split:] = 8
    label[:2] = 255
    image = np.where(label[..., None] == 8, (200, 60, 30), (60, 90, 180)) + rng.normal(0, 10, (*size, 3))
    for name, picture in (("images", image.clip(0, 255).astype(np.uint8)), ("labels", label)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name / f"{stem}.png"), picture)


@pytest.fixture(autouse=True)
def _recipes_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes of config/ find their datasets by this variable; tests read none of them."""
    monkeypatch.setenv("DRIVE_SEG_DATA", "/datasets")


@pytest.fixture
def sample_writer():
    return write_sample


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """train with 8 and val with 3 samples."""
    for split, count in (("train", 8), ("val", 3)):
        for i in range(count):
            write_sample(tmp_path / "camvid" / split, f"{i:03d}", seed=i + 100 * (split == "val"))
    return tmp_path / "camvid"


@pytest.fixture
def recipe_file(tree: Path, tmp_path: Path) -> Path:
    settings = {
        "name": "tiny",
        "network": {"name": "dsnet"},
        "data": {
            "train": {"dataset": "camvid", "root": str(tree), "split": "train"},
            "val": {"dataset": "camvid", "root": str(tree), "split": "val"},
            "crop": [48, 64],
            "input_size": [48, 64],
            "batch_size": 4,
        },
        "losses": {"owfl": 1.0, "sel": 0.1},
        "optimizer": {"lr": 0.01},
        "schedule": {"epochs": 2, "warmup_epochs": 0.5},
        "ema_decay": 0.5,
        "licence": "free",
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


class TinyNetwork(SegmentationNetwork):
    """Batch Norm, dropout and a branch that only an auxiliary loss looks at, at full resolution."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stages = {}
        self.body = nn.Sequential(ConvBN(3, 8, 3), nn.Dropout2d(0.2), ConvBN(8, 8, 3))
        self.head = nn.Conv2d(8, num_classes, 1)
        self.side = nn.Conv2d(8, num_classes, 1)

    def segment(self, image, balance):
        x = self.body(image)
        return SegmentationOutput(self.head(x), aux_logits=self.side(x))


@pytest.fixture
def tiny_network(monkeypatch) -> str:
    """The name of a network that trains in milliseconds."""
    monkeypatch.setitem(catalog._CATALOG, "tiny", TinyNetwork)
    return "tiny"
