"""Which frames the self-check doubts: good drives and what no model was made for."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.cli import app
from drive_seg.confidence import Confidence, Usual
from drive_seg.datasets import open_dataset
from drive_seg.evaluation import self_check as doubts
from drive_seg.evaluation.calibration import calibrate
from drive_seg.evaluation.self_check import DAMAGES, judge, noises, rate
from drive_seg.labels import CAMVID11
from drive_seg.recordings.sources import SourceError
from drive_seg.segmenter import Segmenter


class ByBrightness(torch.nn.Module):
    """The brighter a pixel, the surer the network is of class 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([10 * x[:, :1], torch.zeros(len(x), 10, *x.shape[-2:])], 1)


@pytest.fixture
def by_brightness() -> Segmenter:
    usual = Usual(frames=1, sure_from=0.32, sure=0.5)
    spec = InputSpec((32, 48), mean=(0, 0, 0), std=(1, 1, 1))
    return Segmenter(ByBrightness(), Contract("", {}, CAMVID11, spec, confidence=Confidence(usual=usual)), device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images, the first of them too dim for the network to be sure of."""
    for i in range(5):
        image = np.random.default_rng(i).integers(*((120, 250) if i else (10, 60)), (32, 48, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    return tmp_path


def test_frames_are_judged_one_by_one_and_counted(by_brightness: Segmenter, folder: Path) -> None:
    steps = []
    found = judge(by_brightness, [str(folder)], advance=lambda: steps.append(1))
    plain, *damaged, noise = found
    assert (plain.source, plain.good, plain.frames, plain.doubted) == (str(folder), True, 5, 1)
    assert plain.to_dict()["reasons"] == {"unfamiliar_frame": 1}
    assert [each.source for each in damaged] == [f"{folder}, {name}" for name in DAMAGES]
    assert damaged[0].doubted == 5, "in the dark"
    assert [each.frames for each in damaged] == [5] * 4 and noise.frames == 10 and len(steps) == 35
    assert rate(found, True) == 0.2 and rate(found, False) == sum(d.doubted for d in found[1:]) / 30
    some = judge(by_brightness, [str(folder)], [str(folder)], made=False, every=2, most=2)
    assert [(each.good, each.frames, each.doubted) for each in some] == [(True, 2, 1), (False, 2, 1)]
    assert rate([], True) is None


def test_a_source_without_images_is_refused(by_brightness: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        judge(by_brightness, [str(tmp_path)])


def test_damages_do_what_they_are_called() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    assert doubts.dark(image).mean() < 25 < image.mean()
    assert (doubts.upside_down(image)[::-1] == image).all()
    assert doubts.on_its_side(image).shape == (40, 30, 3)
    assert doubts.blurred(image).std() < image.std() / 2
    pictures = list(noises())
    assert len(pictures) == 10 and all(picture.dtype == np.uint8 for picture in pictures) and pictures[-1].std() == 0


def test_the_command_prints_both_rates(folder: Path, tmp_path: Path, monkeypatch, by_brightness: Segmenter) -> None:
    monkeypatch.setattr(Segmenter, "load", classmethod(lambda cls, *_, **__: by_brightness))
    arguments = ["self-check", "--model", "any", "--good", str(folder), "--no-made"]
    ran = CliRunner().invoke(app, [*arguments, "--bad", str(folder / "0.png")])
    assert ran.exit_code == 0 and "20.0 % of the good frames are doubted" in ran.stdout
    assert "100.0 % of the bad frames are doubted" in ran.stdout
    ran = CliRunner().invoke(app, [*arguments, "--json", "-"])
    assert json.loads(ran.stdout)["doubted"] == {"good": 0.2, "bad": None}


GOOD, BAD = 1 / 50, 9 / 10
"""Of good frames by day so many at most are doubted, and of bad ones so many at least."""


@pytest.mark.parametrize("model", ["swiftnet_fbnet_street19", "dsnet_camvid11"])
def test_bad_frames_of_a_real_road_are_told_from_good_ones(shared_data: Path, model: str) -> None:
    """Every tenth frame of CamVid val says what is usual; every thirtieth of CamVid train is judged, and damaged."""
    loaded = Segmenter.load(model, device="cpu")

    class EveryTenth:
        def __init__(self, dataset) -> None:
            self._dataset, self.label_map = dataset, dataset.label_map

        def __len__(self) -> int:
            return len(self._dataset) // 10

        def read(self, i: int):
            return self._dataset.read(10 * i)

    data = EveryTenth(open_dataset("camvid", root=shared_data / "camvid", split="val"))
    confidence = calibrate(loaded, data, "camvid val", progress=False).confidence
    ours = Segmenter(loaded._network, dataclasses.replace(loaded.contract, confidence=confidence))
    found = judge(ours, [str(shared_data / "camvid" / "train" / "images")], every=30)
    assert rate(found, True) <= GOOD and rate(found, False) >= BAD, [each.to_dict() for each in found]


def test_bad_frames_of_a_synthetic_drive_are_told_from_good_ones() -> None:
    """Drives 2000 to 2003 say what is usual to the model that was trained on others; drive 2010 is judged."""
    loaded = Segmenter.load("dsnet_synth19", device="cpu")
    data = open_dataset("synth", seeds=[2000, 2004], frames=2, step=40)
    confidence = calibrate(loaded, data, "synth", progress=False).confidence
    ours = Segmenter(loaded._network, dataclasses.replace(loaded.contract, confidence=confidence))
    found = judge(ours, ["synth:seed=2010,frames=10,size=640x360,fps=1"])
    assert rate(found, True) <= GOOD and rate(found, False) >= BAD, [each.to_dict() for each in found]
