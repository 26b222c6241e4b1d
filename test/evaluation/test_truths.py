"""Which images are read, and which truth belongs to which of them."""

import csv
import json

import cv2
import numpy as np
import pytest

from drive_seg.evaluation.stamped_masks import StampedMasks
from drive_seg.evaluation.truths import TruthChoice, open_truths, same_classes
from drive_seg.images.messages import ImageError
from drive_seg.labels import CAMVID11, CITYSCAPES19, VOC21, LabelMap
from drive_seg.labels.groups import with_groups
from drive_seg.recordings.reading import Reading, Slice, camera_names
from drive_seg.recordings.sources import COMPRESSED, IMAGE, SourceError, Topic, bag
from drive_seg.recordings.sources.bag_files import BagFiles

NO_WISH = TruthChoice()


def found(spec, choice=NO_WISH, target=CITYSCAPES19, **options):
    """[(camera, number, truth)] of all images, and the remark."""
    reading = Reading(str(spec), **options)
    truths, remark = open_truths(choice, reading, target)
    return [(taken.camera, taken.number, truths.of(taken) if truths else None) for taken in reading], remark


def check(small, entries, expected):
    """Whether the truths are those of these indices (None: no truth)."""
    assert len(entries) == len(expected)
    for (_, _, truth), index in zip(entries, expected, strict=True):
        if index is None:
            assert truth is None
        else:
            np.testing.assert_array_equal(truth, small.truth(index))


def write_labels(small, folder, names):
    """small.truth(i) under the i-th name."""
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / f"{name}.png"), small.truth(i))
    return folder


@pytest.fixture
def images(small, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"shot_{i}.png"), small.shot(i))
    return folder


def test_label_topic_of_the_camera_is_found_and_matched_by_stamp(small, labelled_bag):
    entries, remark = found(labelled_bag)
    check(small, entries, [0, 1, None, 3, 4])
    assert [(camera, number) for camera, number, _ in entries] == [("front", i) for i in range(5)] and remark == ""


def test_labels_may_lie_anywhere_in_the_bag(small, tmp_path):
    images = [("image", small.stamp(i), small.shot(i)) for i in range(6)]
    labels = [("/made/by/hand/label_truth", small.stamp(i), small.truth(i)) for i in (4, 9, 0, 3, 1)]
    check(small, found(small.write_bag(tmp_path / "after", images + labels))[0], [0, 1, None, 3, 4, None])
    check(small, found(small.write_bag(tmp_path / "before", labels + images))[0], [0, 1, None, 3, 4, None])


def test_label_topic_can_be_named(small, tmp_path):
    messages = []
    for camera, shift in (("left", 0), ("right", 10)):
        messages.append((f"/{camera}/image", small.stamp(0), small.shot(0)))
        messages.append((f"/{camera}/annotation", small.stamp(0), small.truth(shift)))
    bag = small.write_bag(tmp_path / "bag", messages)
    named = TruthChoice(topic="{camera}/annotation")
    reading = Reading(str(bag), ignored=named.topics())
    assert reading.topics == {"left": "/left/image", "right": "/right/image"}
    check(small, found(bag, named, ignored=named.topics())[0], [0, 10])
    check(small, found(bag, TruthChoice(topic="/right/annotation"), topics=["right/image"])[0], [10])
    with pytest.raises(SourceError, match="choose one by --topic, or write {camera}"):
        found(bag, TruthChoice(topic="/left/annotation"), ignored=["*/annotation"])
    with pytest.raises(SourceError, match="has no topic 'left/gone'"):
        found(bag, TruthChoice(topic="{camera}/gone"), ignored=["*/annotation"])


def test_a_bag_says_what_its_labels_mean(small, tmp_path):
    shuffled = LabelMap("shuffled", CITYSCAPES19.names[::-1], CITYSCAPES19.colors[::-1])
    messages = [
        ("/front/label_map", small.stamp(0), shuffled.to_dict()),
        ("/front/image_raw", small.stamp(0), small.shot(0)),
        ("/front/label_truth", small.stamp(0), small.truth(0)),
    ]
    ((_, _, truth),), _ = found(small.write_bag(tmp_path / "bag", messages))
    ids = small.truth(0)
    np.testing.assert_array_equal(truth, np.where(ids == 255, 255, 18 - ids))


def test_truth_of_other_classes_is_a_remark_unless_it_was_asked_for(small, tmp_path):
    messages = [
        ("/front/label_map", small.stamp(0), VOC21.to_dict()),
        ("/front/image_raw", small.stamp(0), small.shot(0)),
        ("/front/label_truth", small.stamp(0), small.truth(0) % 11),
    ]
    bag = small.write_bag(tmp_path / "bag", messages)
    entries, remark = found(bag, target=CAMVID11)
    assert entries[0][2] is None
    assert remark.startswith("No frame is scored: the truth has the classes of 'voc21', the model those of 'camvid11'")
    with pytest.raises(ValueError, match="where nothing is called background, aeroplane, bicycle"):
        found(bag, TruthChoice(classes="voc21"), target=CAMVID11)
    with pytest.raises(ValueError, match="no label map is called 'mine'"):
        found(bag, TruthChoice(classes="mine"))


def test_truth_of_coarser_classes_becomes_groups(small, tmp_path):
    """Each camera's truth by its own label map; a map that only bears a known name is no known map."""
    ids = np.where(small.truth(0) == 255, 255, small.truth(0) % 11).astype(np.uint8)
    mine = LabelMap("camvid11", ("asphalt", "car"), ((0, 0, 0), (1, 1, 1)))
    messages = []
    for camera, label_map, truth in (("left", CAMVID11, ids), ("right", CITYSCAPES19, small.truth(1))):
        messages.append((f"/{camera}/label_map", small.stamp(0), label_map.to_dict()))
        messages.append((f"/{camera}/image_raw", small.stamp(0), small.shot(0)))
        messages.append((f"/{camera}/label_truth", small.stamp(0), truth))
    reading = Reading(str(small.write_bag(tmp_path / "bag", messages)))
    truths, remark = open_truths(NO_WISH, reading, CITYSCAPES19)
    left, right = (truths.of(taken) for taken in reading)
    shown = with_groups(CITYSCAPES19, truths.groups)
    assert remark == "" and set(truths.ids) == set(range(shown.num_classes))
    for camvid, city in (("Car", "car/truck/bus/train"), ("Tree", "vegetation/terrain"), ("Pedestrian", "person")):
        np.testing.assert_array_equal(left == shown.names.index(city), ids == CAMVID11.names.index(camvid))
    np.testing.assert_array_equal(left == 255, ids == 255)
    np.testing.assert_array_equal(right, small.truth(1))
    messages[0] = ("/left/label_map", small.stamp(0), mine.to_dict())
    _, remark = found(small.write_bag(tmp_path / "own", messages), topics=["left/image_raw"])
    assert "where nothing is called asphalt" in remark


def test_a_synthetic_drive_brings_its_truth():
    entries, _ = found("synth:frames=4,size=64x48", part=Slice(start=0.2))
    assert [number for _, number, _ in entries] == [2, 3]
    assert all(truth.shape == (48, 64) for _, _, truth in entries)
    assert "of 'cityscapes19', the model those of 'voc21'" in found("synth:frames=1,size=64x48", target=VOC21)[1]


@pytest.mark.parametrize("name", ["shot_{i}", "{i:06d}", "{i}"])
def test_label_files_of_an_image_folder(small, tmp_path, images, name):
    folder = write_labels(small, tmp_path / "labels", [name.format(i=i) for i in range(2)])
    check(small, found(images, TruthChoice(folder=folder))[0], [0, 1, None])
    check(small, found(images, TruthChoice(folder=folder), part=Slice(start=0.1))[0], [1, None])


@pytest.mark.parametrize("name", ["{ns}", "{sec}_{nsec:09d}", "{sec}.{nsec:09d}", "{i:04d}"])
def test_label_files_of_a_bag(small, tmp_path, name):
    bag = small.write_bag(tmp_path / "bag", [("/a/image_raw", small.stamp(i), small.shot(i)) for i in range(3)])
    names = [
        name.format(ns=small.stamp(i), sec=small.stamp(i) // 10**9, nsec=small.stamp(i) % 10**9, i=i) for i in range(2)
    ]
    check(small, found(bag, TruthChoice(folder=write_labels(small, tmp_path / "labels", names)))[0], [0, 1, None])


def test_label_files_of_several_cameras(small, tmp_path):
    messages = [(f"/{camera}/image_raw", small.stamp(0), small.shot(0)) for camera in ("left", "right")]
    bag = small.write_bag(tmp_path / "bag", messages)
    write_labels(small, tmp_path / "labels" / "right", ["0"])
    check(small, found(bag, TruthChoice(folder=tmp_path / "labels"))[0], [None, 0])
    with pytest.raises(SourceError, match="must hold a folder for each camera: left, right"):
        found(bag, TruthChoice(folder=write_labels(small, tmp_path / "flat", ["0"])))


def test_label_folders_that_cannot_be_used(small, tmp_path, labelled_bag):
    with pytest.raises(SourceError, match="does not exist"):
        found(labelled_bag, TruthChoice(folder=tmp_path / "none"))
    with pytest.raises(SourceError, match="no label PNG that is named by"):
        found(labelled_bag, TruthChoice(folder=write_labels(small, tmp_path / "words", ["one", "two"])))
    with pytest.raises(SourceError, match="labels of the same image"):
        found(labelled_bag, TruthChoice(folder=write_labels(small, tmp_path / "twice", ["1", "01"])))
    numbered = TruthChoice(folder=write_labels(small, tmp_path / "numbered", ["0"]))
    with pytest.raises(SourceError, match="leave --start out"):
        found(labelled_bag, numbered, part=Slice(start=0.002))
    with pytest.raises(ValueError, match="either a topic or a folder"):
        found(labelled_bag, TruthChoice("/front/label_truth", tmp_path / "numbered"))


def test_labels_that_cannot_be_used_say_why(small, tmp_path, images):
    folder = write_labels(small, tmp_path / "labels", ["0"])
    cv2.imwrite(str(folder / "1.png"), np.full(small.size, 19, np.uint8))
    cv2.imwrite(str(folder / "2.png"), small.shot(0))
    reading = Reading(str(images))
    truths, _ = open_truths(TruthChoice(folder=folder), reading, CITYSCAPES19)
    _, unknown, coloured = reading
    with pytest.raises(ImageError, match="holds id 19, which is no class of cityscapes19"):
        truths.of(unknown)
    with pytest.raises(ImageError, match=r"2\.png: a label image is an 8-bit grey PNG"):
        truths.of(coloured)


def test_asked_for_truth_must_be_there(small, tmp_path):
    bag = small.write_bag(tmp_path / "bag", [("/a/image_raw", small.stamp(0), small.shot(0))])
    assert found(bag) == ([("a", 0, None)], "")
    with pytest.raises(SourceError, match="has no label_truth topic"):
        found(bag, TruthChoice(classes="cityscapes19"))


def test_every_camera_but_no_depth_masks_or_doubles(small, tmp_path):
    jpeg = cv2.imencode(".jpg", small.shot(0))[1].tobytes()
    messages = [
        ("/front/image_raw", small.stamp(0), small.shot(0)),
        ("/front/image_raw/compressed", small.stamp(0), jpeg),
        ("/rear/image_raw/compressed", small.stamp(0), jpeg),
        ("/rear/depth/compressedDepth", small.stamp(0), jpeg),
        ("/front/segmentation/label", small.stamp(0), small.truth(0)),
        ("side", small.stamp(0), small.shot(0)),
    ]
    bag = small.write_bag(tmp_path / "bag", messages)
    cameras = {"front": "/front/image_raw", "rear": "/rear/image_raw/compressed", "side": "side"}
    assert Reading(str(bag)).topics == cameras
    assert {taken.camera: taken.record.image().shape for taken in Reading(str(bag))} == dict.fromkeys(
        cameras, (*small.size, 3)
    )
    assert Reading(str(bag), ["front/*/compressed"]).topics == {"front": "/front/image_raw/compressed"}
    with pytest.raises(SourceError, match="has no topic 'top'"):
        Reading(str(bag), ["top"])


def test_cameras_of_one_folder_go_by_their_whole_names():
    topics = [Topic("/a/left", IMAGE), Topic("/a/right/compressed", COMPRESSED), Topic("/b/image_raw", IMAGE)]
    assert camera_names(topics) == {
        "a/left": "/a/left",
        "a/right/compressed": "/a/right/compressed",
        "b": "/b/image_raw",
    }


def test_expected_is_what_will_come(labelled_bag, images):
    for spec, part in [(labelled_bag, Slice()), (images, Slice(start=0.1)), (images, Slice(frames=2))]:
        reading = Reading(str(spec), part=part)
        assert reading.expected == len(list(reading))


def test_masks_of_a_bag_are_found_in_any_order(small, labelled_bag):
    reading = Reading(str(labelled_bag))
    taken = list(reading)
    masks = StampedMasks(reading.source, "/front/label_truth", reading)
    for i in (3, 0, 1, 4):
        np.testing.assert_array_equal(masks.find(taken[i]), small.truth(i))
    assert masks.find(taken[2]) is None


def test_classes_are_matched_by_name_whatever_their_case():
    one = LabelMap("one", ("Road", "car"), ((0, 0, 0), (1, 1, 1)))
    table = same_classes(one, CITYSCAPES19, "this", "that")
    assert table[:3].tolist() == [0, 13, 255] and table[255] == 255


# Stamps that do not tell images apart


def stamped_bag(small, path, stamps, labels=None):
    """Images of these stamps, and right after each its label, where ``labels`` has its number."""
    messages = []
    for i, stamp_ns in enumerate(stamps):
        messages.append(("/front/image_raw", stamp_ns, small.shot(i)))
        if labels is None or i in labels:
            messages.append(("/front/label_truth", stamp_ns, small.truth(i)))
    return small.write_bag(path, messages)


def scores(replay, model, bag, folder, *options):
    replay(bag, "--model", model, "-o", folder, *options)
    report = json.loads((folder / "report.json").read_text())
    return report, list(csv.DictReader((folder / "frames.csv").open()))


@pytest.mark.parametrize("kind", ["all 0", "constant", "pairs"])
def test_truths_of_stamps_that_repeat_belong_to_the_images_in_order(replay, small, model, tmp_path, kind):
    stamps = {"all 0": [0] * 6, "constant": [small.stamp(3)] * 6, "pairs": [small.stamp(i // 2) for i in range(6)]}[
        kind
    ]
    good = stamped_bag(small, tmp_path / "good", [small.stamp(i) for i in range(6)])
    odd = stamped_bag(small, tmp_path / "odd", stamps)
    expected, expected_rows = scores(replay, model, good, tmp_path / "a")
    report, rows = scores(replay, model, odd, tmp_path / "b")
    assert report["miou"] == expected["miou"] and report["confusion"] == expected["confusion"]
    assert len({row["miou"] for row in rows}) == 6 and report["frames"]["scored"] == 6
    # Of a part of the recording too, whose labels lie behind those that are passed over.
    part, rows = scores(replay, model, odd, tmp_path / "c", "--start", 0.004, "--frames", 3)
    assert [row["miou"] for row in rows] == [row["miou"] for row in expected_rows[2:5]]


def test_every_report_warns_of_repeated_stamps_and_of_those_that_go_back(replay, small, model, tmp_path):
    bag = stamped_bag(small, tmp_path / "bag", [small.stamp(i) for i in (0, 1, 1, 3, 2, 4)])
    said = replay(bag, "--model", model, "-o", tmp_path / "out", "--require", "repeated<1", expect=1)
    sentence = "1 image with the stamp of an earlier one; 1 image with an earlier stamp than the one before"
    assert sentence in said and "repeated<1 is not met: it is 1." in said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["frames"]["repeated"], report["frames"]["backward"]) == (1, 1)
    assert report["bags"][0]["reason"] == sentence
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1 image with the stamp of an earlier one" in page and "Stamps must tell images apart" in page


def test_truths_that_may_be_of_several_images_are_not_scored(replay, small, model, tmp_path):
    stamps = [small.stamp(0), small.stamp(1), small.stamp(1), small.stamp(3)]
    bag = stamped_bag(small, tmp_path / "bag", stamps, labels=(0, 2, 3))
    report, rows = scores(replay, model, bag, tmp_path / "out")
    assert [bool(row["miou"]) for row in rows] == [True, False, False, True]
    assert rows[1]["reason"] == rows[2]["reason"]
    assert rows[1]["reason"].startswith("truth: 2 images and 1 mask have its stamp: which of them belong together")
    labels = tmp_path / "labels"
    labels.mkdir()
    for i in (0, 1, 3):
        cv2.imwrite(str(labels / f"{small.stamp(i)}.png"), small.truth(i))
    report, rows = scores(replay, model, bag, tmp_path / "files", "--truth", labels)
    assert [bool(row["miou"]) for row in rows] == [True, False, False, True]
    assert f"{small.stamp(1)}.png: 2 images have its stamp" in rows[1]["reason"]


def test_masks_of_an_earlier_run_are_compared_in_order(replay, small, model, tmp_path):
    bag = stamped_bag(small, tmp_path / "bag", [0] * 4)
    replay(bag, "--model", model, "-o", tmp_path / "one", "--masks")
    report, _ = scores(replay, model, bag, tmp_path / "two", "--against", tmp_path / "one")
    assert (report["against"]["frames"], report["against"]["agreement"]) == (4, 1.0)
    replay(bag, "--model", model, "-o", tmp_path / "part", "--masks", "--frames", 2)
    report, rows = scores(replay, model, bag, tmp_path / "three", "--against", tmp_path / "part")
    assert report["against"]["frames"] == 0 and "4 images and 2 masks have its stamp" in rows[0]["reason"]


def test_flicker_of_images_without_stamps_goes_by_their_record_times(replay, small, model, tmp_path):
    report, rows = scores(replay, model, stamped_bag(small, tmp_path / "bag", [0] * 4), tmp_path / "out")
    assert [row["time_s"] for row in rows] == ["0.0", "0.002", "0.004", "0.006"]
    assert report["flicker"] is not None


def test_a_bag_is_opened_once_for_images_and_truths(labelled_bag, small, monkeypatch):
    opened = []
    monkeypatch.setattr(bag, "BagFiles", lambda path: opened.append(path) or BagFiles(path))
    reading = Reading(str(labelled_bag), part=Slice(start=0.001, frames=2))
    truths, _ = open_truths(TruthChoice(), reading, CITYSCAPES19)
    taken = list(reading)
    np.testing.assert_array_equal(truths.of(taken[0]), small.truth(1))
    assert (reading.expected, reading.rate(), reading.place_of(taken[1])[1]) == (2, 10.0, 1)
    assert opened == [labelled_bag]
