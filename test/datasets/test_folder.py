"""One's own images and labels."""

import numpy as np
import pytest
import yaml

from drive_seg.datasets import open_dataset
from drive_seg.datasets.folder import read_classes
from drive_seg.labels import CAMVID11, LabelMap


@pytest.fixture
def own(make, tmp_path):
    """Nested folders, images of every kind."""
    for i, name in enumerate(("monday/0001.png", "monday/0002.jpg", "tuesday/0001.bmp", "wednesday/x.1.webp")):
        make.picture(tmp_path / "images" / name, i)
        make.label(tmp_path / "labels" / f"{name.rsplit('.', 1)[0]}.png", 0, 1, 255)
    return tmp_path


def names(dataset):
    return [dataset.name_of(i) for i in range(len(dataset))]


def test_nested_folders_and_all_picture_formats(own):
    dataset = open_dataset("folder", root=own, classes=["ground", "other"])
    assert names(dataset) == ["monday/0001", "monday/0002", "tuesday/0001", "wednesday/x.1"]
    for i in range(4):
        image, label = dataset.read(i)
        assert image.shape == (8, 12, 3) and np.unique(label).tolist() == [0, 1, 255]


def test_splits_are_lists_or_subfolders(own, make):
    (own / "val.txt").write_text("tuesday/0001\nwednesday/x.1.webp\n")
    assert names(open_dataset("folder", root=own, classes=["a", "b"], split="val")) == ["tuesday/0001", "wednesday/x.1"]
    assert names(open_dataset("folder", root=own, classes=["a", "b"], split="monday")) == ["0001", "0002"]
    joined = open_dataset("folder", root=own, classes=["a", "b"], split="monday+val")
    assert len(joined) == 4
    make.picture(own / "extra" / "images" / "1.png")
    make.label(own / "extra" / "labels" / "1.png", 1)
    assert names(open_dataset("folder", root=own, classes=["a", "b"], split="extra")) == ["1"]
    with pytest.raises(ValueError, match="split 'sunday' is none of .*sunday.txt"):
        open_dataset("folder", root=own, classes=["a", "b"], split="sunday")
    for split in ("monday+", "monday+monday"):
        with pytest.raises(ValueError, match="must name each part once"):
            open_dataset("folder", root=own, classes=["a", "b"], split=split)
    for text, complaint in (("\n", "names nothing"), ("tuesday/0001\n" * 2, "'tuesday/0001' more than once")):
        (own / "val.txt").write_text(text)
        with pytest.raises(ValueError, match=complaint):
            open_dataset("folder", root=own, classes=["a", "b"], split="val")


def test_further_values_can_mean_void(own):
    dataset = open_dataset("folder", root=own, classes=["a", "b"], void=[0])
    assert np.unique(dataset.read(0)[1]).tolist() == [1, 255]
    assert dataset.fingerprint() != open_dataset("folder", root=own, classes=["a", "b"]).fingerprint()
    with pytest.raises(ValueError, match="void values are whole numbers of 0 to 255, not 300"):
        open_dataset("folder", root=own, classes=["a", "b"], void=[300])


def test_classes_come_by_name_list_file_or_map(tmp_path):
    assert read_classes("camvid11") is CAMVID11 and read_classes(CAMVID11) is CAMVID11
    (tmp_path / "yard.yaml").write_text("[ground, person, forklift]")
    yard = read_classes(tmp_path / "yard.yaml")
    assert (yard.name, yard.names) == ("yard", ("ground", "person", "forklift"))
    assert len(set(yard.colors)) == 3
    (tmp_path / "full.yml").write_text(yaml.safe_dump(CAMVID11.to_dict()))
    assert read_classes(str(tmp_path / "full.yml")) == CAMVID11
    assert read_classes({"classes": [{"id": 0, "name": "a", "color": [1, 2, 3]}]}) == LabelMap(
        "classes", ("a",), ((1, 2, 3),)
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("7", "neither a list"), ("[a, a]", "doubled"), ("[on, a]", "class name True is not text"), ("{", "as YAML"),
     ("classes: 3", "not a label map")],
)  # fmt: skip
def test_classes_that_cannot_be_understood(tmp_path, text, complaint):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"bad.yaml: .*{complaint}"):
        read_classes(tmp_path / "bad.yaml")


def test_what_does_not_pair_is_named(own, make):
    make.picture(own / "images" / "monday" / "0003.png")
    make.label(own / "labels" / "tuesday" / "0009.png", 1)
    with pytest.raises(ValueError, match=r"monday/0003.png has no label image \(1 more have no partner"):
        open_dataset("folder", root=own, classes=["a", "b"])
    make.picture(own / "images" / "monday" / "0001.jpg")
    with pytest.raises(ValueError, match="0001.jpg and .*0001.png have the same name"):
        open_dataset("folder", root=own, classes=["a", "b"])
    with pytest.raises(ValueError, match="there is no folder .*images"):
        open_dataset("folder", root=own / "labels", classes=["a", "b"])
    (own / "none" / "images").mkdir(parents=True)
    (own / "none" / "labels").mkdir()
    with pytest.raises(ValueError, match="images holds no images"):
        open_dataset("folder", root=own, classes=["a", "b"], split="none")


def test_sizes_and_ids_that_do_not_fit_are_told_together(own, make):
    make.label(own / "labels" / "monday" / "0001.png", 0, 2, 7, size=(4, 12))
    dataset = open_dataset("folder", root=own, classes=["a", "b"])
    with pytest.raises(ValueError, match=r"is 12x4 but its image is 12x8; .*0001.png holds the ids \[2, 7\]") as info:
        dataset.read(0)
    assert [fault.kind for fault in info.value.faults] == ["size", "ids"]
    assert info.value.faults[1].ids == (2, 7)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_names_with_spaces_of_any_editor(make, tmp_path, encoding):
    for i in range(3):
        make.picture(tmp_path / "images" / f"my drive {i}.png", i)
        make.label(tmp_path / "labels" / f"my drive {i}.png", i % 2, 255)
    (tmp_path / "val.txt").write_text("my drive 0\r\n\r\nmy drive 2.png\r\n", encoding=encoding)
    chosen = open_dataset("folder", root=tmp_path, classes=["a", "b"], split="val")
    assert names(chosen) == ["my drive 0", "my drive 2"]
    make.picture(tmp_path / "images" / "plain.png")
    make.label(tmp_path / "labels" / "plain.png", 1)
    (tmp_path / "val.txt").write_text("plain.png labels/plain.png\nmy drive 1\n", encoding=encoding)
    assert names(open_dataset("folder", root=tmp_path, classes=["a", "b"], split="val")) == ["plain", "my drive 1"]
    (tmp_path / "val.txt").write_text("my drive 1\nmy drive 9\n", encoding=encoding)
    with pytest.raises(ValueError, match="names 'my drive 9', which has no image and no label image"):
        open_dataset("folder", root=tmp_path, classes=["a", "b"], split="val")
    (tmp_path / "val.txt").write_text("data/images/plain.png\n", encoding=encoding)
    with pytest.raises(
        ValueError, match=r"val.txt names no image: it says 'data/images/plain.png', but in .*images lies"
    ):
        open_dataset("folder", root=tmp_path, classes=["a", "b"], split="val")


def test_what_lies_there_instead_of_labels_is_said(make, tmp_path):
    make.picture(tmp_path / "images" / "1.png")
    make.picture(tmp_path / "labels" / "1.jpg")

    def complaint(**more):
        with pytest.raises(ValueError) as refused:
            open_dataset("folder", root=tmp_path, classes=["a", "b"], **more)
        return str(refused.value)

    assert complaint().endswith(
        "labels holds no label images (.png, since JPEG changes the ids); it holds 1 other file, as 1.jpg"
    )
    make.label(tmp_path / "labels" / "1_mask.png", 0)
    assert (
        "images holds '1', " in complaint() and "labels '1_mask' (names without suffix must be the same)" in complaint()
    )
    make.picture(tmp_path / "images" / "2.png")
    make.label(tmp_path / "labels" / "2.png", 0)
    (tmp_path / "labels" / "1_mask.png").unlink()
    assert complaint().endswith("1.png has no label image: 1.jpg is none, labels must be PNG (JPEG changes the ids)")
    (tmp_path / "all.txt").write_text("1\n2\n")
    assert complaint(split="all").endswith(
        "which has no label image: 1.jpg is none, labels must be PNG (JPEG changes the ids)"
    )
    for path in (tmp_path / "images").iterdir():
        path.rename(path.with_suffix(".tif"))
    assert "it holds 2 other files, as 1.tif" in complaint()
