"""PASCAL VOC 2012: palette images chosen by lists; SBD's as grey PNGs and as MATLAB files."""

import struct

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import yaml
from typer.testing import CliRunner

from drive_seg.cli import app
from drive_seg.datasets import open_dataset, open_unchecked
from drive_seg.datasets.base import BrokenSample
from drive_seg.datasets.voc_sbd import read_segmentation
from drive_seg.labels import VOC21, label_map


@pytest.fixture
def voc(make, tmp_path):
    ids = np.array([[0, 15, 20, 255]], np.uint8).repeat(8, 0).repeat(3, 1)
    for seed, name in enumerate(("2007_000032", "2007_000039", "2008_000001")):
        make.picture(tmp_path / "JPEGImages" / f"{name}.jpg", seed)
        make.label(tmp_path / "SegmentationClassAug" / f"{name}.png", 0, seed)
        if seed < 2:
            make.packed(tmp_path / "SegmentationClass" / f"{name}.png", ids)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000039\n")
    (lists / "val.txt").write_text("2007_000032\n\n")
    (lists / "train_aug.txt").write_text(
        "/JPEGImages/2008_000001.jpg /SegmentationClassAug/2008_000001.png\n2007_000039\n"
    )
    return tmp_path


def test_lists_choose_and_palettes_are_read_as_numbers(voc):
    dataset = open_dataset("voc", root=voc, split="train+val")
    assert [dataset.name_of(i) for i in range(len(dataset))] == ["2007_000039", "2007_000032"]
    assert dataset.read(1)[1][0].tolist() == [0] * 3 + [15] * 3 + [20] * 3 + [255] * 3


def test_augmented_labels(voc):
    dataset = open_dataset("voc", root=voc, split="train_aug", labels="SegmentationClassAug")
    assert [dataset.name_of(i) for i in range(len(dataset))] == ["2008_000001", "2007_000039"]
    assert np.unique(dataset.read(0)[1]).tolist() == [0, 2]
    with pytest.raises(ValueError, match="train_aug.txt names '2008_000001', which has no label image"):
        open_dataset("voc", root=voc, split="train_aug")


def test_missing_folders_and_lists_are_named(voc):
    with pytest.raises(ValueError, match="there is no folder .*JPEGImages"):
        open_dataset("voc", root=voc / "ImageSets", split="train")
    with pytest.raises(ValueError, match="trainval.txt cannot be read as a list"):
        open_dataset("voc", root=voc, split="trainval")


def test_the_colours_are_those_of_the_devkit():
    """Its VOClabelcolormap: the bits of the id, three at a time, from the top of red, green and blue downwards."""
    for i, color in enumerate(VOC21.colors):
        expected = [sum(((i >> (3 * k + c)) & 1) << (7 - k) for k in range(8)) for c in range(3)]
        assert list(color) == expected, VOC21.names[i]
    assert label_map("voc21").num_classes == 21
    assert VOC21.foreground() == tuple(range(1, 21))


SBD = {"train": ("2007_000032", "2007_000039", "2008_000002"), "val": ("2008_000003", "2008_000004")}


def save_matlab(path, ids, packed=True):
    """A file of SBD's: with the boundary of each class, which nobody asks for, as sparse matrices in cells."""
    boundaries = np.empty((20, 1), object)
    for i in range(20):
        boundaries[i, 0] = scipy.sparse.csc_matrix(np.zeros(ids.shape, bool))
    present = np.array([[i] for i in np.unique(ids) if 0 < i < 255], np.uint8)
    content = {"Boundaries": boundaries, "Segmentation": ids, "CategoriesPresent": present}
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"GTcls": content}, do_compression=packed)


@pytest.fixture
def sbd(make, voc):
    """benchmark_RELEASE: VOC's train and val frame, and three more; VOC does not label the frames of 2008."""
    dataset = voc / "benchmark_RELEASE" / "dataset"
    for part, names in SBD.items():
        for seed, name in enumerate(names):
            make.picture(dataset / "img" / f"{name}.jpg", 10 + seed)
            ids = np.zeros((8, 12), np.uint8)
            ids[:3, 2:7], ids[7] = (12 if part == "train" else 20), 255
            save_matlab(dataset / "cls" / f"{name}.mat", ids)
        (dataset / f"{part}.txt").write_text("\n".join(names) + "\n")
    return dataset.parent


def test_trainaug_joins_voc_with_sbd_as_published(voc, sbd):
    """train with VOC's labels, what else SBD has, nothing of val; whether or not the folder is named to its end."""
    for folder in (sbd, sbd / "dataset"):
        dataset = open_dataset("voc", root=voc, split="trainaug", sbd=folder)
        names = [dataset.name_of(i) for i in range(len(dataset))]
        assert names == ["2007_000039", "2008_000002", "2008_000003", "2008_000004"]
    assert np.unique(dataset.read(0)[1]).tolist() == [0, 15, 20, 255]
    image, label = dataset.read(1)
    expected = np.zeros((8, 12), np.uint8)
    expected[:3, 2:7], expected[7] = 12, 255
    assert image.shape == (8, 12, 3) and label.dtype == np.uint8 and label.flags.c_contiguous
    np.testing.assert_array_equal(label, expected)
    assert np.unique(dataset.read(2)[1]).tolist() == [0, 20, 255]
    before = dataset.fingerprint()
    save_matlab(sbd / "dataset" / "cls" / "2008_000002.mat", np.arange(96, dtype=np.uint8).reshape(8, 12) % 21)
    assert open_dataset("voc", root=voc, split="trainaug", sbd=sbd).fingerprint() != before


def test_of_sbd_what_is_missing_is_named(voc, sbd):
    (sbd / "dataset" / "cls" / "2008_000003.mat").unlink()
    dataset = open_unchecked("voc", root=voc, split="train_aug+val", sbd=sbd)
    assert len(dataset) == 4
    assert str(dataset.problems[0]).endswith("val.txt names '2008_000003', which has no label image")
    (sbd / "dataset" / "val.txt").write_text("2008_000002\n")
    with pytest.raises(ValueError, match=r"train.txt and val.txt both name '2008_000002'"):
        open_dataset("voc", root=voc, split="trainaug", sbd=sbd)
    with pytest.raises(ValueError, match="sbd adds to the split 'trainaug' only, but the split is 'val'"):
        open_dataset("voc", root=voc, split="val", sbd=sbd)
    with pytest.raises(ValueError, match="there is no folder .*img"):
        open_dataset("voc", root=voc, split="trainaug", sbd=voc)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("gone", "No such file or directory"),
        ("empty", "it is no MATLAB file of version 5"),
        ("text", "it is no MATLAB file of version 5"),
        ("other", "it holds no structure 'GTcls'"),
        ("field", "its structure has no field 'Segmentation'"),
        ("float", "the labels in it are no rows and columns of uint8"),
        ("7.3", "it is a MATLAB file of version 0x0200, not of version 5"),
    ],
)
def test_a_broken_matlab_file_gives_one_sentence(tmp_path, damage, reason):
    path = tmp_path / "a.mat"
    if damage == "float":
        save_matlab(path, np.zeros((4, 5)))
    elif damage == "other":
        scipy.io.savemat(path, {"GTinst": {"Segmentation": np.zeros((4, 5), np.uint8)}})
    elif damage == "field":
        scipy.io.savemat(path, {"GTcls": {"Boundaries": np.zeros((4, 5), np.uint8)}})
    elif damage != "gone":
        header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384)
        path.write_bytes({"empty": b"", "text": b"no labels\n" * 40, "7.3": header}[damage])
    with pytest.raises(ValueError, match=f"^cannot be read: {reason}"):
        read_segmentation(path)


@pytest.mark.parametrize("packed", [True, False])
def test_labels_are_those_that_scipy_reads(tmp_path, packed):
    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 3), (5, 1), (2, 2), (375, 500)):
        ids = rng.integers(0, 21, size, dtype=np.uint8)
        save_matlab(tmp_path / "a.mat", ids, packed)
        found = read_segmentation(tmp_path / "a.mat")
        np.testing.assert_array_equal(found, scipy.io.loadmat(tmp_path / "a.mat")["GTcls"][0, 0]["Segmentation"])
        np.testing.assert_array_equal(found, ids)


@pytest.mark.parametrize("packed", [True, False])
def test_a_matlab_file_that_is_cut_or_changed_anywhere_is_refused_or_read(tmp_path, packed):
    """Never another error; and cut short it is never taken for whole."""
    path = tmp_path / "a.mat"
    ids = np.arange(300, dtype=np.uint8).reshape(20, 15) % 21
    save_matlab(path, ids, packed)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for length in range(0, len(whole), 41):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cannot be read"):
            read_segmentation(path)
    refused = 0
    for _ in range(500):
        changed = bytearray(whole)
        changed[rng.integers(128, len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            found = read_segmentation(path)
        except ValueError as error:
            assert "cannot be read" in str(error)
            refused += 1
        else:
            assert found.dtype == np.uint8
            assert not packed or np.array_equal(found, ids)  # what is packed has a checksum
    assert refused > (400 if packed else 0)


def test_files_of_machines_with_the_other_byte_order(tmp_path):
    """Written by hand: scipy writes its own order only."""

    def element(kind, content):
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    def matrix(kind, size, name, *content):
        head = element(6, struct.pack(">II", kind, 0)) + element(5, struct.pack(">ii", *size)) + element(1, name)
        return element(14, head + b"".join(content))

    small = struct.pack(">HHi", 4, 5, 16)  # 4 bytes of the kind int32, in the tag itself
    fields = small + element(1, b"Boundaries".ljust(16, b"\0") + b"Segmentation".ljust(16, b"\0"))
    labels = [matrix(9, (2, 3), b"", element(2, bytes(range(6)))) for _ in range(2)]
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    (tmp_path / "a.mat").write_bytes(header + matrix(2, (1, 1), b"GTcls", fields, *labels))
    assert read_segmentation(tmp_path / "a.mat").tolist() == [[0, 2, 4], [1, 3, 5]]


def test_the_check_before_training_reads_sbd_and_names_a_broken_file(voc, sbd, tmp_path):
    source = {"dataset": "voc", "root": str(voc), "split": "trainaug", "sbd": str(sbd)}
    settings = {
        "name": "sbd",
        "network": {"name": "dsnet"},
        "data": {
            "train": source,
            "val": {"dataset": "voc", "root": str(voc), "split": "val"},
            "crop": [8, 8],
            "input_size": [8, 8],
            "batch_size": 2,
        },
        "losses": {"cross_entropy": 1.0},
        "optimizer": {"lr": 0.01},
        "schedule": {"epochs": 1},
    }
    recipe = tmp_path / "sbd.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    command = ["train", str(recipe), "--check", "--json", str(tmp_path / "check.json")]
    sound = CliRunner().invoke(app, command)
    assert sound.exit_code == 0, sound.output
    train = yaml.safe_load((tmp_path / "check.json").read_text())["splits"][0]
    assert train["images"] == 4
    assert {c["name"]: c["images"] for c in train["classes"]}["horse"] == 0
    assert {c["name"]: c["images"] for c in train["classes"]}["dog"] == 1
    broken = sbd / "dataset" / "cls" / "2008_000004.mat"
    broken.write_bytes(broken.read_bytes()[:200])
    assert CliRunner().invoke(app, command).exit_code == 1
    problems = yaml.safe_load((tmp_path / "check.json").read_text())["problems"]
    errors = [file for problem in problems if problem["level"] == "error" for file in problem["files"]]
    assert len(errors) == 1 and errors[0].startswith(f"{broken} cannot be read")
    dataset = open_dataset("voc", root=voc, split="trainaug", sbd=sbd)
    with pytest.raises(BrokenSample, match=r"2008_000004\.mat cannot be read"):
        dataset.read(3)
