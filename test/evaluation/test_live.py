"""Live replay: a real run equals the deterministic one on the frames it published, and recordings are judged right."""

import csv
import json
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from drive_seg.evaluation.deterministic import ModelChoice, Work
from drive_seg.evaluation.live import LiveReplay
from drive_seg.evaluation.live_run import node_cameras, play_live
from drive_seg.evaluation.output import check_folder
from drive_seg.evaluation.processes import ChildError
from drive_seg.evaluation.recorded import LiveRecording
from drive_seg.evaluation.report import About, as_report
from drive_seg.evaluation.requirements import parse
from drive_seg.labels import CITYSCAPES19
from drive_seg.recordings.reading import Reading, Slice
from drive_seg.recordings.sources import SourceError, open_source
from drive_seg.recordings.sources.topics import Topic

MS = 1_000_000
WALL_NS = 1_800_000_000_000_000_000
SAME = ("bag", "camera", "index", "stamp_ns", "time_s", "fate", "miou", "pixel_accuracy", "boundary_f1")
ENDS = ("published", "dropped", "expired", "rejected", "failed", "withheld")


def rows_of(folder):
    return list(csv.DictReader((folder / "frames.csv").open()))


def masks_of(bag):
    found = [r for r in open_source(bag, ["*"]) if r.topic == "/front/segmentation/label"]
    return {record.stamp_ns: record.label() for record in found}


def test_live_run_equals_the_deterministic_one(
    replay, ros_domain_id, monkeypatch, small, model, labelled_bag, tmp_path
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    live, fixed = tmp_path / "live", tmp_path / "fixed"
    replay(labelled_bag, "--model", model, "-o", fixed, "--masks")
    # Its messages lie 1 ms apart, which no node on a small machine keeps up with in real time.
    more = ("--rate", 0.002, "--against", fixed, "--masks", "--require", "published>=1", "--require", "agreement>=1")
    said = replay(labelled_bag, "--model", model, "-o", live, "--live", *more)
    assert "see " in said
    report, other = (json.loads((folder / "report.json").read_text()) for folder in (live, fixed))
    frames = report["frames"]
    assert report["mode"] == "live" and frames["in_source"] == 5
    assert frames["received"] == sum(frames[end] for end in ENDS), "every received frame has ended"
    assert [each["met"] for each in report["requirements"]] == [True, True]

    rows = {row["stamp_ns"]: row for row in rows_of(live)}
    expected = {row["stamp_ns"]: row for row in rows_of(fixed)}
    assert rows.keys() == expected.keys()
    published = [stamp for stamp, row in rows.items() if row["fate"] == "published"]
    assert len(published) == frames["published"] >= 1
    for stamp in published:
        assert [rows[stamp][key] for key in SAME] == [expected[stamp][key] for key in SAME]
        assert float(rows[stamp]["latency_ms"]) > 0 and float(rows[stamp]["input_age_ms"]) >= 0
        assert float(rows[stamp]["latency_ms"]) < 100_000
    if len(published) == 5:
        assert (report["miou"], report["confusion"]) == (other["miou"], other["confusion"])
    masks = masks_of(fixed / "masks.mcap")
    heard = masks_of(live / "recorded")
    assert sorted(map(str, heard)) == sorted(published)
    for stamp, mask in heard.items():
        np.testing.assert_array_equal(mask, masks[stamp])
    np.testing.assert_array_equal(list(masks_of(live / "masks.mcap").values()), list(heard.values()))
    told = report["model"]
    assert (told["name"], told["sha256"], told["device"]) == ("small", other["model"]["sha256"], "cpu")

    # The recording can be judged again, to the same report but for how it was called.
    replay(labelled_bag, "--recorded", live / "recorded", "-o", tmp_path / "again", "--rate", 0.002, "--against", fixed)
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert {**again, "command": "", "requirements": []} == {**report, "command": "", "requirements": []}


def test_live_run_of_two_cameras_is_one_report_of_both(replay, ros_domain_id, monkeypatch, small, model, tmp_path):
    """One raw, the other JPEG with a topic in a namespace: both are played, served, recorded and scored."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    messages = []
    for i in range(3):
        jpeg = cv2.imencode(".jpg", small.shot(7 + i))[1].tobytes()
        messages.append(("/front/image_raw", small.stamp(i), small.shot(i)))
        messages.append(("/sensing/rear/image_raw/compressed", small.stamp(i) + MS, jpeg))
        messages.append(("/front/label_truth", small.stamp(i), small.truth(i)))
        messages.append(("/sensing/rear/label_truth", small.stamp(i) + MS, small.truth(7 + i)))
    bag = small.write_bag(tmp_path / "two", messages)
    live, fixed = tmp_path / "live", tmp_path / "fixed"
    replay(bag, "--model", model, "-o", fixed)
    # As above: the messages lie 1 ms apart.
    required = ("--require", "cameras==2", "--require", "published>=2")
    replay(bag, "--model", model, "-o", live, "--live", "--rate", 0.002, *required)
    report, other = (json.loads((folder / "report.json").read_text()) for folder in (live, fixed))
    assert report["cameras"] == other["cameras"] == ["front", "sensing/rear"]
    frames = report["frames"]
    assert frames["in_source"] == other["frames"]["received"] == 6
    assert frames["received"] == sum(frames[end] for end in ENDS)

    rows = {(row["camera"], row["stamp_ns"]): row for row in rows_of(live)}
    expected = {(row["camera"], row["stamp_ns"]): row for row in rows_of(fixed)}
    assert rows.keys() == expected.keys()
    published = [key for key, row in rows.items() if row["fate"] == "published"]
    assert {camera for camera, _ in published} == {"front", "sensing/rear"}
    assert len(published) == frames["published"] == frames["scored"]
    for key in published:
        assert [rows[key][name] for name in SAME] == [expected[key][name] for name in SAME]
        assert 0 < float(rows[key]["latency_ms"]) < 100_000
    if len(published) == 6:
        assert (report["miou"], report["confusion"]) == (other["miou"], other["confusion"])
    page = (live / "report.html").read_text()
    assert "front" in page and "sensing/rear" in page


def test_node_that_cannot_start_ends_the_run_with_its_words(ros_domain_id, labelled_bag, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    work = Work(str(labelled_bag), output=tmp_path / "out")
    with pytest.raises(ChildError, match=r"(?s)The node .*bad.safetensors"):
        play_live(work, ModelChoice(str(tmp_path / "bad.safetensors")), 1.0)


def test_folder_of_a_run_is_used_again_only_if_it_is_one(labelled_bag, tmp_path):
    rest = tmp_path / "rest"
    for name in ("logs", "recorded.partial"):
        (rest / name).mkdir(parents=True)
    (rest / "logs" / "node.log").touch()
    check_folder(rest)
    (rest / "logs" / "mine.txt").touch()
    with pytest.raises(ValueError, match="holds other files"):
        check_folder(rest)
    (tmp_path / "out" / "recorded").mkdir(parents=True)
    with pytest.raises(ValueError, match="a recording that somebody wants"):
        play_live(Work(str(labelled_bag), output=tmp_path / "out"), ModelChoice("dsnet_synth19"), 1.0)
    assert (tmp_path / "out" / "recorded").is_dir()


@dataclass
class Run:
    """What a node would have published while the images of /front were played: times in ms after the first image."""

    masks: dict[int, float]
    processing: float | None = None
    clock: bool = True
    rate: float = 1.0
    account: dict[str, int] | None = field(default_factory=dict)
    label_map: dict | None = field(default_factory=lambda: {**CITYSCAPES19.to_dict(), "model": "m", "model_hash": "ab"})
    camera: str = "front"
    same_clock: bool = False
    stamps: dict[int, int] | None = None

    def write(self, path, small):
        store = get_typestore(Stores.ROS2_JAZZY)
        t = store.types
        messages = []

        def stamp(ns):
            return t["builtin_interfaces/msg/Time"](*divmod(ns, 1_000_000_000))

        def heard(ms):
            return small.stamp(0) + round(ms * MS) if self.same_clock else WALL_NS + round(ms * MS)

        if self.label_map is not None:
            text = t["std_msgs/msg/String"](data=json.dumps(self.label_map))
            messages.append((f"/{self.camera}/segmentation/label_map", "std_msgs/msg/String", 0.0, text))
        for place in range(101) if self.clock else ():
            told = t["rosgraph_msgs/msg/Clock"](clock=stamp(small.stamp(0) + place * 20 * MS))
            messages.append(("/clock", "rosgraph_msgs/msg/Clock", place * 20 / self.rate, told))
        for index, ms in self.masks.items():
            of_image = small.stamp(index) if self.stamps is None else self.stamps[index]
            header = t["std_msgs/msg/Header"](stamp=stamp(of_image), frame_id="")
            mask = small.truth(index)
            image = t["sensor_msgs/msg/Image"](header, *mask.shape, "mono8", 0, mask.shape[1], mask.reshape(-1))
            messages.append((f"/{self.camera}/segmentation/label", "sensor_msgs/msg/Image", ms, image))
            if self.processing is not None:
                took = t["std_msgs/msg/Float64"](self.processing)
                topic = f"/{self.camera}/segmentation/debug/processing_time_ms"
                messages.append((topic, "std_msgs/msg/Float64", ms + 0.5, took))
        if self.account is not None:
            counts = {"published": len(self.masks), **self.account}
            values = {"received": sum(counts.values()), "in_flight": 0, **dict.fromkeys(ENDS, 0), **counts}
            values |= {"topic": "/front/image_raw", "device": "cuda:0", "precision": "fp16"}
            pairs = [t["diagnostic_msgs/msg/KeyValue"](key, str(value)) for key, value in values.items()]
            status = t["diagnostic_msgs/msg/DiagnosticStatus"](0, f"drive_seg: /car/node: {self.camera}", "", "", pairs)
            header = t["std_msgs/msg/Header"](stamp=stamp(0), frame_id="")
            array = t["diagnostic_msgs/msg/DiagnosticArray"](header, [status])
            messages.append(("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", 9000.0, array))
        with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
            topics = {}
            for topic, kind, ms, message in sorted(messages, key=lambda each: each[2]):
                if topic not in topics:
                    topics[topic] = bag.add_connection(topic, kind, typestore=store)
                bag.write(topics[topic], heard(ms), store.serialize_cdr(message, kind))
        return path


@pytest.fixture
def drive(small, tmp_path):
    """Ten images of /front, 100 ms apart, each recorded 5 ms after its stamp, with their labels."""
    return write_drive(tmp_path / "drive", small, [small.stamp(i) for i in range(10)])


def write_drive(path, small, stamps):
    store = get_typestore(Stores.ROS2_JAZZY)
    t = store.types
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        images = bag.add_connection("/front/image_raw", "sensor_msgs/msg/Image", typestore=store)
        truths = bag.add_connection("/front/label_truth", "sensor_msgs/msg/Image", typestore=store)
        for i in range(10):
            time = t["builtin_interfaces/msg/Time"](*divmod(stamps[i], 1_000_000_000))
            header = t["std_msgs/msg/Header"](stamp=time, frame_id="")
            for topic, array, encoding in ((images, small.shot(i), "bgr8"), (truths, small.truth(i), "mono8")):
                step = array.strides[0]
                message = t["sensor_msgs/msg/Image"](header, *array.shape[:2], encoding, 0, step, array.reshape(-1))
                late = 5 * MS if topic is images else 6 * MS
                bag.write(topic, small.stamp(i) + late, store.serialize_cdr(message, topic.msgtype))
    return path


@pytest.fixture
def judged(small, drive, tmp_path):
    """Judges a ``Run`` over the ten images: the replay, its partial and its report."""

    def judge(run, rate=1.0, **options):
        recording = LiveRecording(run.write(tmp_path / "recorded", small), rate)
        live = LiveReplay(Work(str(drive), **options), recording)
        partial = live.run()
        about = About("live", "drive", "", recording.model, "", live.latency_meaning)
        return live, partial, as_report(partial, about, live.stalls)

    return judge


def on_time(count=10, ms=40.0, step=100.0):
    """A mask for each of the first images: the image is recorded 5 ms after its stamp, the mask comes ``ms`` later."""
    return {i: i * step + 5 + ms for i in range(count)}


def test_latency_is_in_real_time_by_the_players_clock(judged):
    _, partial, report = judged(Run(on_time(), processing=30.0))
    assert [row["latency_ms"] for row in partial.rows] == pytest.approx([45.0] * 10, abs=0.01)
    assert [row["input_age_ms"] for row in partial.rows] == pytest.approx([15.0] * 10, abs=0.01)
    assert report["miou"] == 1 and report["stalls"] == [] and "/clock" in report["latency_meaning"]
    assert report["frames"]["received"] == report["frames"]["published"] == 10
    assert report["model"] == {"name": "m", "sha256": "ab", "device": "cuda:0", "precision": "fp16", "runtime": None}


@pytest.fixture
def judged_stamps(small, tmp_path):
    """Judges a ``Run`` over ten images with these stamps, and its requirements."""

    def judge(stamps, masks, *required, **run):
        bag = write_drive(tmp_path / "odd", small, stamps)
        run = Run(masks, stamps=dict(enumerate(stamps)), **run)
        live = LiveReplay(Work(str(bag)), LiveRecording(run.write(tmp_path / "recorded", small)))
        partial = live.run()
        report = as_report(partial, About("live", "odd", "", {}, "", live.latency_meaning), live.stalls)
        return partial, report, [r.judge(report)["met"] for r in parse(required, CITYSCAPES19)]

    return judge


@pytest.mark.parametrize("kind", ["all 0", "pairs"])
def test_masks_of_stamps_that_repeat_belong_to_the_images_in_order(small, judged_stamps, kind):
    stamps = [0] * 10 if kind == "all 0" else [small.stamp(i // 2 * 2) for i in range(10)]
    required = ("latency_p50_ms<=1", "latency_p50_ms<=200", "stalls==0")
    partial, report, met = judged_stamps(stamps, on_time(), *required, processing=30.0)
    assert report["miou"] == 1 and report["frames"]["scored"] == report["frames"]["published"] == 10
    # Since playing where the stamp is of no time; else from the stamp on, which is that of the image before.
    expected = [40.0] * 10 if kind == "all 0" else [45.0, 145.0] * 5
    assert [row["latency_ms"] for row in partial.rows] == pytest.approx(expected, abs=0.01)
    assert report["frames"]["repeated"] == (9 if kind == "all 0" else 5) and report["stalls"] == []
    assert met == [False, True, True]


def test_masks_that_may_be_of_several_images_are_neither_scored_nor_timed(judged_stamps):
    masks = {i: at for i, at in on_time().items() if i not in (0, 4)}
    required = ("latency_p50_ms<=1", "latency_p50_ms>=0", "miou>=0", "stalls==0")
    partial, report, met = judged_stamps([0] * 10, masks, *required, account={"dropped": 2})
    assert {row["latency_ms"] for row in partial.rows} == {None} and report["miou"] is None
    assert {row["fate"] for row in partial.rows} == {"published"}
    assert partial.rows[0]["reason"] == (
        "10 images and 8 masks have its stamp: which of them belong together is not known; "
        "one of 2 dropped, 8 published; which of them is not known"
    )
    counts = {name: report["frames"][name] for name in ("received", "published", "dropped")}
    assert counts == {"received": 10, "published": 8, "dropped": 2}
    assert met == [False, False, False, True]
    assert "not recorded" not in report["bags"][0]["reason"]


def test_unclear_masks_without_an_account_are_published_all_the_same(judged_stamps):
    masks = {i: at for i, at in on_time().items() if i != 0}
    partial, report, _ = judged_stamps([0] * 10, masks, account=None)
    assert {row["fate"] for row in partial.rows} == {"published"}
    assert "one of 9 published, 1 lost; which of them is not known" in partial.rows[3]["reason"]


def test_no_latency_is_below_zero(judged):
    partial, report = judged(Run({**on_time(), 3: 250.0}))[1:]
    assert partial.rows[3]["latency_ms"] is None
    assert partial.rows[3]["warnings"] == "its mask was heard before it was played: no latency"
    assert min(row["latency_ms"] for row in partial.rows if row["latency_ms"] is not None) == pytest.approx(45, abs=0.1)


def test_latency_at_half_speed_stretches_only_what_was_played(judged):
    masks = {i: 2 * (i * 100.0 + 5) + 40 for i in range(10)}
    _, partial, _ = judged(Run(masks, rate=0.5))
    assert [row["latency_ms"] for row in partial.rows] == pytest.approx([45.0] * 10, abs=0.01)


def test_recorder_on_the_played_clock_needs_the_rate(judged):
    # At half speed 40 ms of real time are 20 ms of the recording's.
    _, partial, report = judged(Run(on_time(ms=20.0), same_clock=True, clock=False), rate=0.5)
    assert [row["latency_ms"] for row in partial.rows] == pytest.approx([45.0] * 10, abs=0.01)
    assert "divided by the rate 0.5" in report["latency_meaning"]


def test_latency_is_not_invented_where_no_clock_was_recorded(judged):
    _, partial, report = judged(Run(on_time(), clock=False))
    assert {row["latency_ms"] for row in partial.rows} == {None} and report["latency_ms"]["p50"] is None
    assert "Not known" in report["latency_meaning"] and report["miou"] == 1


def test_dropped_frames_are_known_where_all_ended_alike(judged):
    _, partial, report = judged(Run(on_time(7), account={"dropped": 3}))
    assert [row["fate"] for row in partial.rows] == ["published"] * 7 + ["dropped"] * 3
    assert {row["reason"] for row in partial.rows} == {""}
    frames = report["frames"]
    assert (frames["in_source"], frames["received"], frames["published"], frames["dropped"]) == (10, 10, 7, 3)


def test_frames_the_node_never_received_are_lost(judged):
    _, partial, report = judged(Run(on_time(8)))
    assert [row["fate"] for row in partial.rows[8:]] == ["lost", "lost"]
    assert partial.rows[9]["reason"] == "it never reached the node"
    assert report["frames"]["in_source"] == 10 and report["frames"]["received"] == 8


def test_several_ends_are_counted_but_not_pinned_on_frames(judged):
    _, partial, report = judged(Run(on_time(5), account={"dropped": 2, "expired": 1, "withheld": 1}))
    (reason,) = {row["reason"] for row in partial.rows[5:]}
    assert reason == "one of 2 dropped, 1 expired, 1 withheld, 1 lost; which of them is not known"
    counts = {name: report["frames"][name] for name in ("received", *ENDS)}
    assert counts == {
        "received": 9,
        "published": 5,
        "dropped": 2,
        "expired": 1,
        "rejected": 0,
        "failed": 0,
        "withheld": 1,
    }


def test_published_masks_the_recorder_missed_are_told(judged):
    _, partial, report = judged(Run(on_time(8), account={"published": 10}))
    assert {row["fate"] for row in partial.rows} == {"published"}
    assert partial.rows[9]["reason"] == "its mask was not recorded" and report["frames"]["scored"] == 8
    assert report["bags"][0]["reason"] == "front: 2 published masks not recorded"


def test_account_of_a_longer_run_is_left_out(judged):
    _, partial, report = judged(Run(on_time(10)), part=Slice(frames=4))
    assert len(partial.rows) == 4 and "its counts are left out" in report["bags"][0]["reason"]
    assert report["frames"]["received"] == report["frames"]["published"] == 4


def test_without_diagnostics_nobody_knows_why(judged):
    _, partial, report = judged(Run(on_time(9), account=None))
    assert partial.rows[9]["fate"] == "lost" and "nor diagnostics" in partial.rows[9]["reason"]
    assert "no diagnostics were recorded" in report["bags"][0]["reason"]


def test_stalls_are_times_without_a_mask(judged):
    late = {**on_time(3), 3: 1500.0, 4: 1510.0}
    live, _, report = judged(Run(late, account={"dropped": 5}))
    (stall,) = live.stalls
    assert stall["camera"] == "front" and stall["start_s"] == pytest.approx(0.2)
    assert stall["length_s"] == pytest.approx((1500 - 245) / 1000, abs=1e-5)
    assert report["stalls"] == [stall]


def test_node_that_never_answers_is_one_long_stall(judged):
    live, _, report = judged(Run({5: 950.0}, account={"dropped": 9}))
    assert [stall["start_s"] for stall in live.stalls] == [0.0]
    assert live.stalls[0]["length_s"] == pytest.approx(0.945, abs=1e-3) and report["frames"]["dropped"] == 9


def test_camera_of_another_name_is_found_by_the_diagnostics(judged):
    _, partial, _ = judged(Run(on_time(), camera="middle"))
    assert {row["camera"] for row in partial.rows} == {"front"} and partial.rows[0]["miou"] == 1


def test_cameras_the_node_did_not_have_are_left_out(small, judged, drive, tmp_path):
    messages = [(f"/{camera}/image_raw", small.stamp(i), small.shot(i)) for i in range(3) for camera in ("a", "b")]
    two = small.write_bag(tmp_path / "two", messages)
    recording = LiveRecording(Run(on_time(3), camera="a", account=None).write(tmp_path / "recorded", small))
    partial = LiveReplay(Work(str(two)), recording).run()
    assert {row["camera"] for row in partial.rows} == {"a"}
    assert "the node had no camera for /b/image_raw" in partial.bags[0]["reason"]
    with pytest.raises(SourceError, match="holds no masks of b; it holds those of a"):
        LiveReplay(Work(str(two), topics=("/b/image_raw", "/a/image_raw")), recording)


def test_recordings_that_cannot_be_judged_are_refused(small, tmp_path, drive):
    with pytest.raises(SourceError, match="holds no masks"):
        LiveRecording(drive)
    with pytest.raises(SourceError, match="does not say what its ids mean"):
        LiveRecording(Run(on_time(), label_map=None).write(tmp_path / "mute", small))


def test_cameras_get_names_that_the_node_takes(small, labelled_bag):
    reading = Reading(str(labelled_bag))
    assert list(node_cameras(reading)) == ["front"]
    reading.topics = {"sensing/on": "/sensing/on/image", "2": "/2/image", "sensing_on": "/sensing_on/image"}
    reading.available = tuple(Topic(name, "sensor_msgs/msg/Image") for name in reading.topics.values())
    assert list(node_cameras(reading)) == ["sensing_on", "camera_2", "sensing_on_number_2"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a"], "name the model to judge by --model"),
        (["a", "--recorded", "r", "--model", "m"], "--recorded holds masks already"),
        (["a", "--recorded", "r", "--live"], "choose one"),
        (["a", "--live", "--model", "m", "--jobs", "2"], "cannot be judged live"),
        (["a", "b", "--live", "--model", "m"], "a live run is of one recording, not of 2"),
        (["a", "--model", "m", "--rate", "2"], "--rate is for live runs"),
        (["a", "--live", "--model", "m", "--rate", "0"], "the rate must lie above 0"),
    ],
)
def test_options_that_do_not_go_together(replay, tmp_path, arguments, sentence):
    assert sentence in replay(*arguments, "-o", tmp_path / "out", expect=1)
    assert not (tmp_path / "out").exists()
