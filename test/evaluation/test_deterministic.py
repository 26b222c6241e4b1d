"""Every image once, by the same road as everywhere: masks, figures and files of a replay without a clock."""

import csv
import json

import cv2
import numpy as np
import pytest

from drive_seg.datasets import open_dataset
from drive_seg.evaluation.dataset import as_report as as_evaluated
from drive_seg.evaluation.dataset import evaluate
from drive_seg.evaluation.deterministic import Models, Replay, Work
from drive_seg.evaluation.output import as_csv, write_report
from drive_seg.evaluation.report import About, as_report
from drive_seg.evaluation.truths import TruthChoice
from drive_seg.images.messages import decode_label
from drive_seg.labels import CAMVID11, CITYSCAPES19, VOC21
from drive_seg.recordings.reading import Slice
from drive_seg.recordings.sources import SourceError, open_source
from drive_seg.segmenter import Segmenter

ABOUT = About("deterministic", "bag", "a title", {"name": "m"}, "drive-seg replay", "its own time", "another")


def replayed(segmenter, source, other=None, **options):
    job = Replay(Work(str(source), **options), Models(segmenter, other))
    return job, job.run()


def without_times(text):
    lines = list(csv.reader(text.splitlines()))
    place = lines[0].index("latency_ms")
    return [line[:place] + line[place + 1 :] for line in lines]


@pytest.fixture(scope="module")
def other(small, tmp_path_factory):
    return Segmenter.load(small.save_model(tmp_path_factory.mktemp("other") / "o.safetensors", seed=2), "cpu")


def test_every_image_once_with_the_segmenters_own_mask(segmenter, labelled_bag, small, tmp_path):
    _, partial = replayed(segmenter, labelled_bag, output=tmp_path, masks=True)
    assert [row["stamp_ns"] for row in partial.rows] == [small.stamp(i) for i in range(5)]
    assert [row["time_s"] for row in partial.rows] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert {row["fate"] for row in partial.rows} == {"published"} and {row["bag"] for row in partial.rows} == {"bag"}
    assert all(row["latency_ms"] > 0 and row["input_age_ms"] is None for row in partial.rows)
    records = [r for r in open_source(tmp_path / "masks.mcap", ["*"]) if r.topic == "/front/segmentation/label"]
    assert [(r.stamp_ns, r.frame_id) for r in records] == [(small.stamp(i), "front_optical_frame") for i in range(5)]
    for i, record in enumerate(records):
        np.testing.assert_array_equal(record.label(), segmenter(small.shot(i)).label)


def test_same_figures_as_evaluate_on_the_same_frames(segmenter, labelled_bag):
    _, partial = replayed(segmenter, labelled_bag)
    report = as_report(partial, ABOUT)
    data = open_dataset(
        "bag", root=labelled_bag, classes=CITYSCAPES19, image="front/image_raw", label="front/label_truth"
    )
    evaluated = as_evaluated(evaluate(segmenter, data, progress=False))
    for name in ("miou", "f_miou", "pixel_accuracy", "boundary_f1"):
        assert report[name] == evaluated[name] and report[name] is not None
    assert report["confusion"] == evaluated["confusion_matrix"]
    assert report["reliability"] == evaluated["reliability"]
    labelled = sum(map(sum, report["confusion"]))
    assert sum(row["pixels"] for row in report["reliability"]["bins"]) == labelled
    for entry in report["classes"]:
        name = entry["name"]
        assert entry["iou"] == evaluated["iou"][name] and entry["share"] == evaluated["share"][name]
        assert entry["recall"] == evaluated["class_accuracy"][name]
        assert entry["boundary_f1"] == evaluated["boundary"]["f1"][name]
    assert report["frames"]["scored"] == evaluated["images"] == 4 and report["frames"]["without_truth"] == 1


def test_same_figures_as_evaluate_on_truths_of_coarser_classes(segmenter, small, tmp_path):
    messages = [("/front/label_map", small.stamp(0), CAMVID11.to_dict())]
    for i in range(3):
        messages.append(("/front/image_raw", small.stamp(i), small.shot(i)))
        messages.append(("/front/label_truth", small.stamp(i), np.minimum(small.truth(i) % 16, 11) % 11))
    bag = small.write_bag(tmp_path / "bag", messages)
    _, partial = replayed(segmenter, bag)
    report = as_report(partial, ABOUT)
    data = open_dataset("bag", root=bag, classes=CAMVID11, image="front/image_raw", label="front/label_truth")
    evaluated = as_evaluated(evaluate(segmenter, data, progress=False))
    for name in ("miou", "f_miou", "pixel_accuracy", "boundary_f1"):
        assert report[name] == pytest.approx(evaluated[name], rel=1e-12) and report[name] is not None
    scored = {entry["name"]: entry["iou"] for entry in report["classes"] if entry["iou"] is not None}
    assert scored == pytest.approx({name: iou for name, iou in evaluated["iou"].items() if iou is not None})
    assert "car/truck/bus/train" in evaluated["iou"] and len(report["classes"]) == 19 + len(partial.groups) == 24
    write_report(tmp_path / "report", report, partial)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "car/truck/bus/train" in page and "group 0" not in page and "id 19" not in page


def test_same_result_every_time(segmenter):
    drive = "synth:seed=2,frames=4,size=88x48"
    runs = [replayed(segmenter, drive)[1] for _ in range(2)]
    first, second = (without_times(as_csv(run.rows)) for run in runs)
    assert first == second and len(first) == 5
    reports = [{**as_report(run, ABOUT), "latency_ms": None} for run in runs]
    assert reports[0] == reports[1] and reports[0]["flicker"] is not None and reports[0]["miou"] is not None


def test_bag_video_and_folder_give_the_masks_of_their_images(segmenter, small, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), small.shot(i))
    bag = small.write_bag(tmp_path / "bag", [("a/image_raw", small.stamp(i), small.shot(i)) for i in range(3)])
    counts = [replayed(segmenter, source)[1].predicted for source in (folder, bag)]
    np.testing.assert_array_equal(*counts)
    expected = np.bincount(np.concatenate([segmenter(small.shot(i)).label.ravel() for i in range(3)]), minlength=20)
    np.testing.assert_array_equal(counts[0], expected)


def test_slice_and_topics(segmenter, small, tmp_path):
    messages = [(f"/{camera}/image_raw", small.stamp(i), small.shot(i)) for i in range(3) for camera in ("a", "b")]
    bag = small.write_bag(tmp_path / "bag", messages)

    def seen(**options):
        return [(row["camera"], row["index"]) for row in replayed(segmenter, bag, **options)[1].rows]

    assert seen() == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert seen(topics=("/b/*",), part=Slice(frames=2)) == [("b", 0), ("b", 1)]
    assert seen(part=Slice(start=0.004)) == [("a", 0), ("b", 0)], "messages are recorded 1 ms apart"
    with pytest.raises(SourceError, match="has no topic 'c'"):
        seen(topics=("c",))


def test_image_that_cannot_be_read_is_rejected_and_the_rest_goes_on(segmenter, small, tmp_path):
    jpeg = cv2.imencode(".jpg", small.shot(0))[1].tobytes()
    messages = [("/a/image/compressed", small.stamp(i), data) for i, data in enumerate((jpeg, jpeg[:100], jpeg))]
    _, partial = replayed(segmenter, small.write_bag(tmp_path / "bag", messages))
    assert [row["fate"] for row in partial.rows] == ["published", "rejected", "published"]
    assert partial.rows[1]["reason"] and partial.rows[1]["latency_ms"] is None
    assert as_report(partial, ABOUT)["frames"]["received"] == 3


def test_truth_of_another_size_is_refused_with_a_reason(segmenter, small, tmp_path):
    messages = [
        ("/a/image_raw", small.stamp(0), small.shot(0)),
        ("/a/label_truth", small.stamp(0), small.truth(0, (40, 88))),
        ("/a/image_raw", small.stamp(1), small.shot(1)),
        ("/a/label_truth", small.stamp(1), small.truth(1)),
    ]
    _, partial = replayed(segmenter, small.write_bag(tmp_path / "bag", messages))
    assert partial.rows[0]["reason"] == "the truth is 88x40 but the mask 88x48" and partial.rows[0]["miou"] is None
    assert partial.rows[0]["fate"] == "published" and partial.rows[1]["miou"] is not None


def test_network_that_fails_on_a_frame_fails_only_that_one(segmenter, labelled_bag, small):
    class FailsAt:
        label_map, sha256 = segmenter.label_map, ""

        def __call__(self, image):
            if np.array_equal(image, small.shot(3)):
                raise RuntimeError("out of memory")
            return segmenter(image)

    _, partial = replayed(FailsAt(), labelled_bag)
    assert [row["fate"] for row in partial.rows] == ["published"] * 3 + ["failed", "published"]
    assert partial.rows[3]["reason"] == "RuntimeError: out of memory"


def test_against_a_second_model_and_against_its_run_are_the_same(segmenter, other, labelled_bag, tmp_path):
    replayed(other, labelled_bag, output=tmp_path, masks=True)
    _, by_model = replayed(segmenter, labelled_bag, other)
    _, by_run = replayed(segmenter, labelled_bag, against=str(tmp_path))
    assert as_report(by_model, ABOUT)["against"] == as_report(by_run, ABOUT)["against"]
    assert [row["agreement"] for row in by_model.rows] == [row["agreement"] for row in by_run.rows]
    against = as_report(by_model, ABOUT)["against"]
    assert 0 < against["agreement"] < 1 and against["frames"] == 5
    assert against["miou"] == as_report(replayed(other, labelled_bag)[1], ABOUT)["miou"]
    assert against["flicker"] == as_report(replayed(other, labelled_bag)[1], ABOUT)["flicker"]
    (picture, *_) = by_model.different
    assert picture.other.shape == picture.prediction.shape
    assert picture.row["agreement"] == min(row["agreement"] for row in by_model.rows)


def test_against_itself_agrees_wholly(segmenter, labelled_bag):
    report = as_report(replayed(segmenter, labelled_bag, segmenter)[1], ABOUT)
    assert report["against"]["agreement"] == 1 and report["against"]["miou"] == report["miou"]
    assert {entry["difference"] for entry in report["against"]["classes"]} <= {0.0, None}


def test_against_a_run_without_masks_is_refused(segmenter, labelled_bag, tmp_path):
    with pytest.raises(SourceError, match="repeat that run with --masks"):
        Replay(Work(str(labelled_bag), against=str(tmp_path)), Models(segmenter))


def test_masks_file_says_what_its_ids_mean(segmenter, labelled_bag, tmp_path):
    job, _ = replayed(segmenter, labelled_bag, output=tmp_path, masks=True, model_name="small")
    assert job.written == [tmp_path / "masks.mcap"] and [p.name for p in tmp_path.iterdir()] == ["bag", "masks.mcap"]
    source = open_source(tmp_path / "masks.mcap", ["*"])
    latched = {topic.name: topic.type for topic in source.topics if topic.latched}
    assert latched == {
        "/front/segmentation/label_info": "vision_msgs/msg/LabelInfo",
        "/front/segmentation/label_map": "std_msgs/msg/String",
    }
    texts = {r.topic: r.message.message() for r in source if r.topic in latched}
    told = json.loads(texts["/front/segmentation/label_map"].data)
    assert (told["model"], told["model_hash"], told["classes"][13]["name"]) == ("small", segmenter.sha256, "car")
    info = texts["/front/segmentation/label_info"]
    assert [(each.class_id, each.class_name) for each in info.class_map] == list(enumerate(CITYSCAPES19.names))
    assert decode_label(next(r for r in source if r.is_image).message.message()).dtype == np.uint8


def test_overlay_video_has_every_frame(segmenter, labelled_bag, tmp_path):
    job, _ = replayed(segmenter, labelled_bag, output=tmp_path / "out", video=True)
    (path,) = job.written
    capture = cv2.VideoCapture(str(path))
    assert path.parent == tmp_path / "out" and capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == 5


def test_run_that_breaks_leaves_no_half_file(segmenter, labelled_bag, tmp_path):
    out = tmp_path / "out"
    job = Replay(Work(str(labelled_bag), output=out, masks=True, video=True), Models(segmenter))

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.run(stop)
    assert list(out.iterdir()) == []


def test_truth_that_does_not_fit_is_a_remark_of_the_bag(small, tmp_path):
    other = Segmenter.load(small.save_model(tmp_path / "m.safetensors", VOC21), "cpu", runtime="torch")
    job, partial = replayed(other, "synth:frames=1,size=88x48")
    assert job.remark.startswith("No frame is scored: ") and partial.bags[0]["reason"] == job.remark.rstrip(".")


def test_part_without_an_image_is_refused(segmenter, small, tmp_path):
    messages = [("/a/image_raw", small.stamp(0), small.shot(0))]
    messages += [("/a/label_truth", small.stamp(i), small.truth(i)) for i in range(3)]
    with pytest.raises(SourceError, match="no image that can be read in this part"):
        replayed(segmenter, small.write_bag(tmp_path / "bag", messages), part=Slice(start=0.001))


def test_folder_of_labels(segmenter, small, tmp_path):
    (tmp_path / "labels").mkdir()
    bag = small.write_bag(tmp_path / "bag", [("/a/image_raw", small.stamp(i), small.shot(i)) for i in range(3)])
    for i in (0, 2):
        cv2.imwrite(str(tmp_path / "labels" / f"{small.stamp(i)}.png"), small.truth(i))
    _, partial = replayed(segmenter, bag, truth=TruthChoice(folder=tmp_path / "labels"))
    assert [row["miou"] is None for row in partial.rows] == [False, True, False]


def test_recording_of_which_nothing_can_be_decoded_is_an_error(replay, small, model, tmp_path):
    broken = [("/front/image/compressed", small.stamp(i), b"no picture") for i in range(2)]
    bag = small.write_bag(tmp_path / "broken", broken)
    said = replay(bag, "--model", model, "-o", tmp_path / "one", expect=1)
    assert "none of its images can be decoded, the first: " in said and "Traceback" not in said
    whole = small.write_bag(tmp_path / "whole", [("/front/image", small.stamp(0), small.shot(0))])
    said = replay(bag, whole, "--model", model, "-o", tmp_path / "two", "--jobs", 1, expect=1)
    assert "1 of 2 recordings could not be judged: broken" in said and "1 frame, 1 with a mask" in said


def test_run_in_which_no_frame_gets_a_mask_is_no_success(replay, small, model, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Segmenter, "__call__", fail)
    bag = small.write_bag(tmp_path / "bag", [("/front/image", small.stamp(0), small.shot(0))])
    said = replay(bag, "--model", model, "-o", tmp_path / "out", expect=1)
    assert "1 frame, 0 with a mask" in said and "no frame got a mask" in said
    assert "RuntimeError: out of memory" in (tmp_path / "out" / "report.html").read_text()
