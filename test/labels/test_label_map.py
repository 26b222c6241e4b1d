"""Label maps, palettes, and the class weights of DSNet's eqs. 2 and 3."""

import math

import numpy as np
import pytest

from drive_seg.labels import CAMVID11, CITYSCAPES19, VOID, LabelMap, frequency_orders, frequency_weights, label_map


def test_cityscapes_ids_and_colours():
    assert CITYSCAPES19.num_classes == 19
    assert CITYSCAPES19.names[0] == "road" and CITYSCAPES19.names[18] == "bicycle"
    assert CITYSCAPES19.palette("rgb")[0].tolist() == [128, 64, 128]
    assert CITYSCAPES19.palette("bgr")[13].tolist() == [142, 0, 0]  # car is (0, 0, 142) in RGB
    assert CITYSCAPES19.palette()[19:].sum() == 0


def test_colorize_paints_each_pixel_with_its_class():
    label = np.array([[3, VOID], [8, 0]], np.uint8)
    painted = CAMVID11.colorize(label, "rgb")
    assert painted.tolist() == [[[128, 64, 128], [0, 0, 0]], [[64, 0, 128], [128, 128, 128]]]
    assert (CAMVID11.colorize(label, "bgr") == painted[..., ::-1]).all()


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_every_id_is_painted_in_whatever_form_it_comes(order):
    ids = np.arange(256 * 7, dtype=np.uint8).reshape(64, 28)
    table = CITYSCAPES19.palette(order)
    forms = {
        "whole": ids,
        "odd": ids[:37, :13],
        "transposed": ids.T,
        "every third": ids[1::3, ::3],
        "mirrored": ids[:, ::-1],
        "read-only": np.broadcast_to(ids[0], (5, 28)),
        "one row": ids[4:5],
        "one column": ids[:, 3:4],
        "one pixel": ids[19:20, 3:4],
        "empty": ids[:0],
        "a row": ids[3],
        "several": ids.reshape(2, 32, 28),
        "int64": ids.astype(np.int64),
    }
    for name, label in forms.items():
        painted = CITYSCAPES19.colorize(label, order)
        assert painted.dtype == np.uint8 and painted.flags.c_contiguous and painted.flags.writeable, name
        assert np.array_equal(painted, table[label]), name


def test_colours_are_distinct_and_not_black():
    for known in (CITYSCAPES19, CAMVID11):
        assert len(set(known.colors)) == known.num_classes
        assert (0, 0, 0) not in known.colors


def test_round_trip_and_lookup():
    assert LabelMap.from_dict(CITYSCAPES19.to_dict()) == CITYSCAPES19
    assert label_map("camvid11") is CAMVID11
    with pytest.raises(ValueError, match="camvid11, camvid32, cityscapes19, voc21"):
        label_map("kitti")


@pytest.mark.parametrize(
    ("names", "colors", "complaint"),
    [
        (("a", "a"), ((0, 0, 1), (0, 0, 2)), "doubled"),
        (("a",), ((0, 0, 1), (0, 0, 2)), "1 names and 2 colours"),
        ((), (), "0 classes"),
        (("a",), ((0, 0, 256),), "0 to 255"),
    ],
)
def test_impossible_maps_are_refused(names, colors, complaint):
    with pytest.raises(ValueError, match=complaint):
        LabelMap("bad", names, colors)


@pytest.mark.parametrize(
    "change", [{"void": 0}, {"classes": [{"id": 1, "name": "a", "color": [1, 2, 3]}]}, {"classes": 3}]
)
def test_garbled_dictionaries_are_refused(change):
    with pytest.raises(ValueError, match="label map"):
        LabelMap.from_dict({**CAMVID11.to_dict(), **change})


def test_weights_follow_equation_2():
    share = np.array([0.5, 0.3, 0.1999, 0.0001])
    omega = [1 / math.log(f + 1.02) for f in share]
    expected = [w / max(omega) for w in omega]
    np.testing.assert_allclose(frequency_weights(share), expected, rtol=1e-12)


def test_orders_follow_equation_3():
    # ratios to the smallest: 1, 9.99, 10, 99, 1000 (an exact power of ten must not fall one short)
    smallest = 1e-4
    assert frequency_orders(smallest * np.array([1, 9.99, 10, 99, 1000])).tolist() == [0, 0, 1, 1, 3]


def test_absent_classes_do_not_disturb_the_others():
    share = np.array([0.9, 0.1])
    with_absent = np.array([0.9, 0.0, 0.1])
    np.testing.assert_allclose(frequency_weights(with_absent)[[0, 2]], frequency_weights(share))
    assert frequency_weights(with_absent)[1] == 1
    assert frequency_orders(with_absent).tolist() == [0, 0, 0]
    assert frequency_weights(np.zeros(3)).tolist() == [1, 1, 1] and frequency_orders(np.zeros(3)).tolist() == [0, 0, 0]
