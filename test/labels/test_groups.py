"""Classes of one label map in another: every class has a meaning, groups are named, shown and folded."""

import numpy as np
import pytest

from drive_seg.labels import CAMVID11, CAMVID32, CITYSCAPES19, LabelMap, label_map
from drive_seg.labels.groups import _KNOWN, fold, group_names, known_meaning, named_classes, translation, with_groups


def names_of(targets, groups):
    return [
        "void" if t == 255 else "/".join(CITYSCAPES19.names[i] for i in (groups[t - 19] if t >= 19 else [t]))
        for t in targets
    ]


def table_of(source, target, groups):
    return translation(source, target, known_meaning(source.name, target.name), groups)


@pytest.mark.parametrize(("source", "target"), sorted(_KNOWN))
def test_every_class_has_a_meaning(source, target):
    assert set(_KNOWN[source, target]) == set(label_map(source).names)
    table = table_of(label_map(source), label_map(target), [])
    assert table[255] == 255


def test_camvid_and_cityscapes_undo_each_other():
    groups: list = []
    fine = table_of(CAMVID11, CITYSCAPES19, groups)
    coarse = table_of(CITYSCAPES19, CAMVID11, [])
    for i in range(11):
        members = (fine[i],) if fine[i] < 19 else groups[fine[i] - 19]
        assert {int(coarse[m]) for m in members} == {i}
    assert np.unique(coarse[:19]).tolist() == list(range(11))


def test_camvid_among_the_classes_of_cityscapes():
    groups = []
    table = translation(CAMVID11, CITYSCAPES19, known_meaning("camvid11", "cityscapes19"), groups)
    assert names_of(table[:11], groups) == [
        "sky",
        "building/wall",
        "pole",
        "road",
        "sidewalk",
        "vegetation/terrain",
        "traffic light/traffic sign",
        "fence",
        "car/truck/bus/train",
        "person",
        "rider/motorcycle/bicycle",
    ]
    assert set(table[11:]) == {255}
    before = len(groups)
    finer = translation(CAMVID32, CITYSCAPES19, known_meaning("camvid32", "cityscapes19"), groups)
    of = dict(zip(CAMVID32.names, names_of(finer[:32], groups), strict=True))
    assert of["TrafficLight"] == "traffic light" and of["SignSymbol"] == "traffic sign" and of["Wall"] == "wall"
    assert of["Truck_Bus"] == "truck/bus" and of["Void"] == of["Misc_Text"] == "void"
    assert of["VegetationMisc"] == "vegetation/terrain"  # a group that the 11 classes brought already
    assert len(groups) == before + 3  # rider/bicycle, rider/motorcycle, truck/bus


def test_names_that_are_the_same_need_no_word():
    few = LabelMap("few", ("car", "road"), ((0, 0, 0), (1, 1, 1)))
    groups = []
    table = translation(few, CITYSCAPES19, {}, groups)
    assert table[:3].tolist() == [13, 0, 255] and groups == []


@pytest.mark.parametrize(
    ("meaning", "sentence"),
    [
        ({}, "class 'tram' of label map 'odd' is not in 'cityscapes19'; say what it is under 'meaning'"),
        ({"tram": ["tramway"]}, "label map 'cityscapes19' has no class 'tramway'"),
        ({"trem": ["train"]}, "label map 'odd' has no class 'trem'"),
    ],
)
def test_what_has_no_counterpart_is_named(meaning, sentence):
    odd = LabelMap("odd", ("road", "tram"), ((0, 0, 0), (1, 1, 1)))
    with pytest.raises(ValueError, match=sentence):
        translation(odd, CITYSCAPES19, meaning, [])


def test_a_label_map_with_groups():
    groups: list = []
    table = table_of(CAMVID11, CITYSCAPES19, groups)
    shown = with_groups(CITYSCAPES19, groups)
    tree, car = (int(table[CAMVID11.names.index(name)]) for name in ("Tree", "Car"))
    assert shown.num_classes == 19 + len(groups) and shown.names[:19] == CITYSCAPES19.names
    assert shown.names[tree] == "vegetation/terrain" and shown.names[car] == "car/truck/bus/train"
    assert shown.colors[car] == CITYSCAPES19.colors[CITYSCAPES19.names.index("car")]
    assert [i for i in shown.foreground() if i < 19] == list(CITYSCAPES19.foreground())
    assert car in shown.foreground() and tree not in shown.foreground()
    assert with_groups(CITYSCAPES19, ()) is CITYSCAPES19


def test_folding_changes_what_is_right_alone():
    rng = np.random.default_rng(0)
    prediction, label = rng.integers(0, 5, (2, 30, 40), dtype=np.uint8)
    label[rng.random(label.shape) < 0.3] = 5
    label[rng.random(label.shape) < 0.1] = 255
    folded = fold(prediction, label, 5, ((1, 3),))
    for p, t, f in zip(prediction.flat, label.flat, folded.flat, strict=True):
        assert f == (5 if t == 5 and p in (1, 3) else p)


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("road", (0,)),
        ("car/truck", (13, 14)),
        ("not road", tuple(range(1, 19))),
        ("not road/sidewalk", tuple(range(2, 19))),
    ],
)
def test_the_name_of_a_group_means_its_classes(name, members):
    """A dataset may name them so, and a meaning, too: no word on either is needed."""
    assert named_classes(CITYSCAPES19, name) == members
    assert len(members) == 1 or group_names(CITYSCAPES19, [members]) == (name,)
    source, groups = LabelMap("own", (name, "other"), ((0, 0, 0),) * 2), []
    table = translation(source, CITYSCAPES19, {"other": [name]}, groups)
    expected = 0 if len(members) == 1 else 19
    assert table[:2].tolist() == [expected, expected] and groups == [members][: expected // 19]


def test_names_that_mean_nothing_are_refused():
    own = LabelMap("own", ("not raod",), ((0, 0, 0),))
    with pytest.raises(
        ValueError, match="class 'not raod' of label map 'own' is not in 'cityscapes19'; say what it is"
    ):
        translation(own, CITYSCAPES19, {}, [])
    with pytest.raises(ValueError, match="label map 'cityscapes19' has no class 'lorry'"):
        translation(own, CITYSCAPES19, {"not raod": ["car/lorry"]}, [])
    with pytest.raises(ValueError, match="label map 'own' has no class 'road'"):
        translation(own, CITYSCAPES19, {"road": ["road"], "not raod": []}, [])
