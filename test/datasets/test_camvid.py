"""CamVid's layouts: the reduction with 11 classes, the original with 32 in colours."""

import cv2
import numpy as np
import pytest

from drive_seg.datasets import open_dataset
from drive_seg.datasets.camvid import segnet_split
from drive_seg.labels import CAMVID11, CAMVID32

FRAMES = {"0001TP_006690": "train", "0016E5_07961": "val", "0016E5_08190": "train", "Seq05VD_f00000": "test"}


@pytest.fixture
def original(make, tmp_path):
    """The published folders with one frame per entry of FRAMES: SUVs (left) and walls (right)."""
    suv, wall = (CAMVID32.colors[CAMVID32.names.index(name)] for name in ("SUVPickupTruck", "Wall"))
    for seed, name in enumerate(FRAMES):
        make.picture(tmp_path / "701_StillsRaw_full" / f"{name}.png", seed)
        painted = np.empty((8, 12, 3), np.uint8)
        painted[:, :6], painted[:, 6:] = suv, wall
        make.array(tmp_path / "LabeledApproved_full" / f"{name}_L.png", painted[..., ::-1])
    return tmp_path


def test_both_layouts_of_the_reduction_read_alike(make, tmp_path):
    for name, folders, void in (("ours", ("images", "labels"), 255), ("tutorial", ("", "annot"), 11)):
        root = tmp_path / name
        for split in ("train", "val"):
            images, labels = ((root / split / f) if name == "ours" else root / f"{split}{f}" for f in folders)
            make.picture(images / "0001TP_1.png", seed=3)
            make.label(labels / "0001TP_1.png", 0, 10, void)
    ours, tutorial = (open_dataset("camvid", root=tmp_path / n, split="train+val") for n in ("ours", "tutorial"))
    assert len(ours) == len(tutorial) == 2 and ours.label_map == CAMVID11
    for i in range(2):
        assert ours.name_of(i) == tutorial.name_of(i) == "0001TP_1"
        for a, b in zip(ours.read(i), tutorial.read(i), strict=True):
            np.testing.assert_array_equal(a, b)
    assert ours.read(0)[1][0].tolist() == [0] * 4 + [10] * 4 + [255] * 4
    make.label(tmp_path / "ours" / "train" / "labels" / "0001TP_1.png", 11)
    with pytest.raises(ValueError, match=r"0001TP_1.png holds the ids \[11\], which are neither a class nor void"):
        open_dataset("camvid", root=tmp_path / "ours", split="train").read(0)


def test_colours_become_ids(original):
    dataset = open_dataset("camvid32", root=original, split="train+val+test", labels="colors")
    image, label = dataset.read(0)
    assert label.dtype == np.uint8
    assert label[0].tolist() == [CAMVID32.names.index("SUVPickupTruck")] * 6 + [CAMVID32.names.index("Wall")] * 6
    np.testing.assert_array_equal(image, cv2.imread(str(original / "701_StillsRaw_full" / f"{dataset.name_of(0)}.png")))


def test_every_colour_of_the_list_has_its_place(make, tmp_path):
    make.picture(tmp_path / "train" / "images" / "a.png", size=(4, 32))
    painted = np.tile(np.array(CAMVID32.colors, np.uint8)[None], (4, 1, 1))
    make.array(tmp_path / "train" / "labels" / "a_L.png", painted[..., ::-1])
    label = open_dataset("camvid32", root=tmp_path, split="train", labels="colors").read(0)[1]
    assert (label == np.arange(32)).all()


def test_published_frames_are_split_as_segnet_did_or_by_lists(original, tmp_path):
    for split in ("train", "val", "test"):
        dataset = open_dataset("camvid32", root=original, split=split, labels="colors")
        names = [dataset.name_of(i) for i in range(len(dataset))]
        assert names == sorted(name for name, part in FRAMES.items() if part == split)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "val.txt").write_text("0016E5_08190.png\n/SegNet/CamVid/val/0001TP_006690.png /SegNet/x.png\n")
    dataset = open_dataset("camvid32", root=original, split="val", labels="colors", lists=lists)
    assert [dataset.name_of(i) for i in range(len(dataset))] == ["0016E5_08190", "0001TP_006690"]
    (lists / "train.txt").write_text("nowhere\n")
    with pytest.raises(ValueError, match="train.txt names 'nowhere', which has no image and no label image"):
        open_dataset("camvid32", root=original, split="train", labels="colors", lists=lists)
    with pytest.raises(ValueError, match="no frame of a split 'extra'; there are train, val and test"):
        open_dataset("camvid32", root=original, split="extra")


def test_the_second_half_of_the_dusk_sequence_is_tested():
    """367, 101 and 233 frames of the splits: 62 of this sequence in train, 62 in test."""
    halves = [segnet_split(f"0001TP_{frame:06d}") for frame in range(6690, 10381, 30)]
    assert halves == ["train"] * 62 + ["test"] * 62


def test_other_sequences_are_split_as_segnet_did():
    assert segnet_split("0016E5_07959") == segnet_split("0016E5_08159") == "val"
    assert segnet_split("0006R0_f00930") == "train" and segnet_split("kitti_1") is None


def test_colours_of_no_class_are_refused(original):
    path = original / "LabeledApproved_full" / "0016E5_07961_L.png"
    painted = cv2.imread(str(path))
    painted[0, 0] = (3, 2, 1)
    cv2.imwrite(str(path), painted)
    with pytest.raises(ValueError, match=r"_L.png holds 1 colours of no class, as RGB \(1, 2, 3\)"):
        open_dataset("camvid32", root=original, split="val", labels="colors").read(0)
    with pytest.raises(ValueError, match="RGB PNG, but a label image must be one"):
        open_dataset("camvid32", root=original, split="val").read(0)
    with pytest.raises(ValueError, match="'ids' or 'colors', not 'rgb'"):
        open_dataset("camvid32", root=original, split="val", labels="rgb")


def test_real_camvid_is_split_as_its_folders_say(shared_data):
    for name in ("camvid", "camvid32"):
        for split in ("train", "val"):
            dataset = open_dataset(name, root=shared_data / name, split=split)
            assert {segnet_split(dataset.name_of(i)) for i in range(len(dataset))} == {split}


def test_only_the_wanted_shots_are_kept(make, tmp_path):
    for name in ("0001TP_1", "0006R0_f1", "0006R0_f2", "0016E5_1"):
        make.picture(tmp_path / "train" / "images" / f"{name}.png", seed=1)
        make.label(tmp_path / "train" / "labels" / f"{name}.png", 0)
    two = open_dataset("camvid", root=tmp_path, split="train", sequences=["0006R0", "0001TP"])
    assert [two.name_of(i) for i in range(len(two))] == ["0001TP_1", "0006R0_f1", "0006R0_f2"]
    with pytest.raises(ValueError, match="no frame of the sequence '0006', only of: 0001TP, 0006R0, 0016E5"):
        open_dataset("camvid", root=tmp_path, split="train", sequences=["0006"])
