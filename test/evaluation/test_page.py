"""The report page: complete in itself, right, small, and readable in a real browser."""

import base64
import copy
import os
import re
import shutil
import signal
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from drive_seg.evaluation.page import charts
from drive_seg.evaluation.page import pictures as page_pictures
from drive_seg.evaluation.page import tables as page_tables
from drive_seg.evaluation.page.write import write_page
from drive_seg.evaluation.records import FATES, Picture, new_row
from drive_seg.evaluation.reliability import Reliability
from drive_seg.labels import LabelMap

LABELS = LabelMap("three", ("road", "tree", "person"), ((128, 64, 128), (107, 142, 35), (220, 20, 60)))
VOID_ELEMENTS = {"meta", "img", "br", "hr", "input", "link"}
HOSTILE = "</title><script>alert('x')</script>\"&<img src=http://evil.example/x.png onerror=alert(1)>"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """A parsed page: that its elements are closed in order, its visible text, and what it refers to."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.title = ""
        self.feed(html)
        self.close()
        assert self.open == [], f"not closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "poster")]
        self.ids += [value for name, value in attrs if name == "id" and value]
        assert not [name for name, _ in attrs if name.startswith("on")], attrs
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID_ELEMENTS:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and "title" not in self.open:
            self.words.append(data)
        if self.open[-2:] == ["head", "title"]:
            self.title += data


def a_report(**changes: object) -> dict:
    counts = {"in_source": 10, "received": 9, "scored": 3, "without_truth": 1}
    ends = {**dict.fromkeys(FATES, 0), "published": 4, "dropped": 2, "expired": 1, "rejected": 1}
    report = {
        "miou": 0.6437,
        "f_miou": 0.412,
        "pixel_accuracy": 0.901,
        "boundary_f1": 0.555,
        "flicker": 0.0123,
        "label_map": "three",
        "mode": "live",
        "source": "drives/*.mcap",
        "title": "net on two drives",
        "model": {"name": "net", "sha256": "ab" * 32, "device": "cpu", "precision": "fp32", "runtime": "torch"},
        "cameras": ["front"],
        "command": "drive-seg replay 'drives/*.mcap' --require 'miou>=0.6'",
        "versions": {"drive_seg": "0.1.0"},
        "classes": [
            a_class("road", (128, 64, 128), 0.9),
            a_class("tree", (107, 142, 35), 0.4),
            a_class("person", (220, 20, 60), None),
        ],
        "confusion": [[900, 100, 0, 0], [250, 750, 0, 0], [0, 0, 0, 0]],
        "frames": {**counts, **ends},
        "latency_ms": {"p50": 21.5, "p95": 33.25, "p99": 1234.0, "max": 2000.0},
        "latency_meaning": "From stamp to mask.",
        "input_age_ms": {"p50": 5.0, "p95": 6.0, "p99": 7.0, "max": 8.0},
        "stalls": [{"bag": "a.mcap", "camera": "front", "start_s": 0.2, "length_s": 0.75}],
        "flicker_meaning": "Changes without motion.",
        "bags": [a_bag("a.mcap", "ok", ""), a_bag("b.mcap", "failed", "the file is cut off")],
        "against": None,
        "requirements": [
            {"text": "miou>=0.6", "value": 0.6437, "met": True},
            {"text": "latency_p99_ms<=80", "value": 1234.0, "met": False},
        ],
    }
    return {**report, **changes}


def a_reliability() -> dict:
    counts = np.zeros((2, 256), np.int64)
    counts[:, 204] = 100, 75
    return Reliability(1.5, counts, counts * 2).to_dict()


def a_class(name: str, color: tuple[int, int, int], iou: float | None) -> dict:
    figures = dict.fromkeys(("precision", "recall", "boundary_f1", "share", "predicted_share"), iou and iou / 2)
    return {"name": name, "color": list(color), "iou": iou, **figures}


def a_bag(name: str, status: str, reason: str) -> dict:
    return {"name": name, "status": status, "reason": reason, "frames": 9, "scored": 3, "miou": 0.6437}


def some_rows(count: int = 9, bag: str = "a.mcap", camera: str = "front") -> list[dict]:
    rows = []
    for i in range(count):
        row = new_row(bag, camera, i, 10**18 + i * 10**8, i / 10)
        row.update(latency_ms=20.0 + i, input_age_ms=5.0, miou=0.5 + i % 10 / 100, flicker=0.01, agreement=0.97)
        rows.append(row)
    return rows


def a_picture(**masks: np.ndarray | None) -> Picture:
    image = np.full((60, 80, 3), 120, np.uint8)
    truth = np.zeros((60, 80), np.uint8)
    truth[:, :8] = 255
    prediction = np.zeros((60, 80), np.uint8)
    prediction[:6] = 2
    return Picture(some_rows(1)[0], image, **{"prediction": prediction, "truth": truth, "other": None, **masks})


def written(tmp_path: Path, *arguments: object, **more: object) -> tuple[str, Page]:
    path = tmp_path / "out" / "report.html"
    write_page(path, *arguments, **more)
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


def assert_self_contained(html: str, page: Page) -> None:
    for reference in page.references:
        assert reference.startswith(("data:image/", "#")), reference[:80]
        assert not reference.startswith("#") or reference[1:] in page.ids, f"{reference} leads nowhere"
    assert not {"link", "script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_the_page_is_complete_in_itself_and_tells_the_figures(tmp_path: Path) -> None:
    rows = some_rows()
    rows[2].update(fate="dropped", reason="a newer frame came", latency_ms=None)
    rows[4].update(fate="expired", reason="120 ms old when picked up")
    rows[5].update(fate="expired", reason="97 ms old when picked up")
    rows[6]["warnings"] = "dark image;frozen image"
    html, page = written(tmp_path, a_report(), rows, [a_picture()], LABELS)
    assert html.startswith("<!DOCTYPE html>")
    assert_self_contained(html, page)
    assert page.title == "net on two drives"
    for told in (
        "1 of 2 requirements are not met; 1 of 2 bags could not be judged",
        "latency_p99_ms<=80 , measured 1234",
        "mIoU 64.4 %",
        "f-mIoU 41.2 %",
        "boundary F1 55.5 %",
        "flicker 1.23 %",
        "latency p50 / p95 / p99 21.5 / 33.2 / 1,234.0 ms",
        "published / received 4 / 9",
        "b.mcap: the file is cut off",
        "2 frames dropped (22.2 % of received)",
        "a newer frame came (1 frame)",
        "such as: 120 ms old when picked up (2 frames)",
        "a.mcap, front at 0.2 s: 0.8 s",
        "frozen image (1 frame)",
        "1 of 10 frames of the source never reached the node",
        "Changes without motion.",
        "true → predicted: road → person (10.0 % of the pixels)",
        "tree labelled as road: 25.0 % of tree, 12.50 % of all pixels",
        "neither the truth nor the masks hold them: person",
        "ab" * 32,
        "drive-seg replay 'drives/*.mcap' --require 'miou>=0.6'",
    ):
        assert told in page.text, told
    assert page.tags.count("img") == 4


def test_confidence_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    html, page = written(tmp_path, a_report(reliability=a_reliability()), some_rows(), [], LABELS)
    assert_self_contained(html, page)
    assert "lie 5.0 % apart: the expected calibration error, over 15 bins of equal width; 5.0 % without" in page.text
    assert "temperature of 1.5" in page.text and 'aria-label="reliability diagram"' in html
    assert "confidence" not in written(tmp_path, a_report(), some_rows(), [], LABELS)[1].ids


def test_warnings_come_before_the_figures(tmp_path: Path) -> None:
    _, page = written(tmp_path, a_report(), some_rows(), [], LABELS)
    order = [page.ids.index(name) for name in ("warnings", "figures", "classes", "timeline", "frames", "origin")]
    assert order == sorted(order)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    labels = LabelMap("x", (HOSTILE, "tree", "person"), LABELS.colors)
    report = a_report(title=HOSTILE, command=HOSTILE, source=HOSTILE, cameras=[HOSTILE], flicker_meaning=HOSTILE)
    report["classes"][0]["name"] = HOSTILE
    report["bags"] = [a_bag(HOSTILE, "failed", HOSTILE), a_bag("broken\udce9name", "ok", HOSTILE)]
    report["model"]["name"] = report["versions"][HOSTILE] = report["requirements"][0]["text"] = HOSTILE
    report["against"] = an_other(name=HOSTILE)
    report["stalls"][0]["camera"] = HOSTILE
    rows = some_rows(3, HOSTILE, HOSTILE)
    rows[0].update(fate="rejected", reason=HOSTILE, warnings=HOSTILE)
    picture = Picture({**rows[0]}, *(getattr(a_picture(), name) for name in ("image", "prediction", "truth")))
    html, page = written(tmp_path, report, rows, [picture], labels, [picture])
    assert_self_contained(html, page)
    assert "<script" not in html and "<img src=http" not in html
    assert page.title == HOSTILE
    assert page.text.count(HOSTILE) >= 15


def an_other(**changes: object) -> dict:
    classes = [
        {"name": "road", "iou": 0.9, "other_iou": 0.85, "difference": 0.05, "agreement": 0.93},
        {"name": "tree", "iou": 0.4, "other_iou": 0.5, "difference": -0.1, "agreement": 0.41},
        {"name": "person", "iou": None, "other_iou": None, "difference": None, "agreement": None},
    ]
    means = {"miou": 0.6, "f_miou": 0.5, "own_miou": 0.65, "own_f_miou": 0.4, "flicker": 0.0523, "agreement": 0.876}
    return {"name": "old net", "frames": 3, **means, "classes": classes, **changes}


def test_differences_have_a_sign_and_a_word(tmp_path: Path) -> None:
    other = np.full((60, 80), 1, np.uint8)
    different = [a_picture(other=other)]
    html, page = written(tmp_path, a_report(against=an_other()), some_rows(), [], LABELS, different)
    assert_self_contained(html, page)
    for told in (
        "mIoU 64.4 % +5.0 better",  # of the frames that both have
        "f-mIoU 41.2 % −10.0 worse",
        "flicker 1.23 % −4.00 better",
        "agreement 87.6 %",
        "old net difference agreement",
        "85.0 % +5.0 better 93.0 %",
        "50.0 % −10.0 worse 41.0 %",
        "Frames that differ most from old net",
        "road → tree (90.0 % of the pixels), person → tree (10.0 % of the pixels)",
        "pixels unlike the other run's",
    ):
        assert told in page.text, told


@pytest.mark.parametrize("case", ["no truth", "no frames", "all null", "one class", "nothing at all"])
def test_empty_cases_say_so(tmp_path: Path, case: str) -> None:
    report, rows, pictures, labels = a_report(), some_rows(), [], LABELS
    if case == "no truth":
        report.update(miou=None, f_miou=None, boundary_f1=None, pixel_accuracy=None, confusion=None)
        report["frames"].update(scored=0, without_truth=4)
        rows = [{**row, "miou": None} for row in rows]
        pictures, told = [a_picture(truth=None)], ["No truth was found", "Frames to look at", "overlay", "mIoU n/a"]
    elif case == "no frames":
        report["frames"] = dict.fromkeys(report["frames"], 0)
        rows, told = [], ["No frame was received", "There are no frames to draw"]
    elif case == "all null":
        report = nulls(report)
        rows = [
            {key: value if key in ("bag", "camera", "fate") else None for key, value in row.items()} for row in rows
        ]
        told = ["mIoU n/a", "published / received n/a / n/a"]
    elif case == "one class":
        labels = LabelMap("one", ("road",), ((1, 2, 3),))
        report.update(classes=report["classes"][:1], confusion=[[7, 0]], label_map="one")
        told = ["over the foreground classes only", "none in this label map"]
    else:
        report, rows, told = {}, [], ["Replay report", "No requirement was set"]
    html, page = written(tmp_path, report, rows, pictures, labels)
    assert_self_contained(html, page)
    for text in told:
        assert text in page.text + page.title, text


def nulls(data: object) -> object:
    """The same report with null for all numbers."""
    if isinstance(data, dict):
        return {key: value if key == "color" else nulls(value) for key, value in data.items() if key != "stalls"}
    if isinstance(data, list):
        return [nulls(value) for value in data]
    return None if isinstance(data, (int, float)) and not isinstance(data, bool) else data


def test_numbers_that_json_does_not_know_are_no_figures(tmp_path: Path) -> None:
    rows = some_rows()
    rows[3].update(latency_ms=float("nan"), miou=float("inf"))
    _, page = written(tmp_path, a_report(miou=float("nan")), rows, [], LABELS)
    assert "mIoU n/a" in page.text and "nan" not in page.text.split() and "inf" not in page.text.split()


def test_a_long_run_stays_small_and_keeps_its_peaks(tmp_path: Path) -> None:
    rows = some_rows(20_000)
    rows[12_345]["latency_ms"] = 99_999.0
    for row in rows[::1000]:
        row.update(fate="dropped", latency_ms=None)
    html, page = written(tmp_path, a_report(), rows, [], LABELS)
    assert len(html) < 400_000
    assert "▲ up to 99,999 ms" in page.text
    assert "columns of 3.3 s" in page.text and "20,000 frames" in page.text
    assert html.count("<title>") <= charts.MAX_COLUMNS + 10


def test_many_cameras_share_the_room_and_the_rest_is_counted(tmp_path: Path) -> None:
    rows = [row for bag in range(20) for camera in "ab" for row in some_rows(300, f"bag{bag}", camera)]
    for row in rows:
        if (row["bag"], row["camera"]) == ("bag19", "b"):
            row["fate"] = "dropped"
    html, page = written(tmp_path, a_report(stalls=[]), rows, [], LABELS)
    assert page.tags.count("article") == charts.MAX_TIMELINES
    assert "bag19 · b" in page.text
    assert "10 more timelines" in page.text
    assert html.count("<title>") <= charts.ALL_COLUMNS + 1
    assert len(html) < 3_000_000


def test_columns_hold_least_median_and_greatest() -> None:
    rows = some_rows(6000)
    for i, row in enumerate(rows):
        row.update(latency_ms=float(i % 10), time_s=i / 10, fate="expired" if i < 10 else "published")
    (line,), left = charts.timelines(rows, [])
    assert left == 0 and line.per_column == pytest.approx(599.9 / 600)
    texts = re.findall("<title>(.*?)</title>", line.svg, re.DOTALL)
    assert len(texts) == charts.MAX_COLUMNS
    assert texts[0].startswith("0.0 to 0.9 s, 10 frames\n10 expired\nlatency 4.5 ms (0.0 to 9.0)")
    assert ">10 expired</text>" in line.svg and ">latency, ms</text>" in line.svg
    assert "var(--blue)" in line.svg and "#0066a8" not in line.svg


def test_stamps_that_go_backwards_and_holes_are_drawn_in_order_of_time() -> None:
    rows = some_rows(20)
    rows.reverse()
    del rows[5:10]
    (line,), _ = charts.timelines(rows, [{"camera": "front", "start_s": 0.9, "length_s": 0.6}])
    places = re.findall(r'<rect x="([\d.]+)" width="([\d.]+)"[^>]*><title>(.)', line.svg)
    frames = [float(x) for x, _, first in places if first != "s"]
    assert len(frames) == 15 and frames == sorted(frames)
    (stall,) = [(float(x), float(width)) for x, width, first in places if first == "s"]
    assert stall == pytest.approx((86 + 860 * 0.9 / 1.9, 860 * 0.6 / 1.9), abs=0.1)
    latency = next(d for d in re.findall(r'd="([^"]*)"', line.svg) if d.count("L") == 13)
    assert latency.count("M") == 2, "the line is broken at the hole"


def test_frames_at_one_moment_are_drawn() -> None:
    rows = some_rows(3)
    for row in rows:
        row.update(time_s=0.0, latency_ms=None, input_age_ms=None, miou=None, flicker=0.0, agreement=None)
    (line,), _ = charts.timelines(rows, [])
    assert "flicker, %" in line.svg and "nan" not in line.svg


def test_the_marks_of_an_axis_say_where_they_are() -> None:
    (line,), _ = charts.timelines(some_rows(20), [])
    marks = [float(mark) for mark in re.findall(r">([\d.]+) s</text>", line.svg)]
    assert marks == [0.25 * i for i in range(8)]


def test_times_are_told_in_minutes_where_they_are_long() -> None:
    assert charts.clock(3725, True) == "1:02:05"
    assert charts.clock(0.25, False, 2) == "0.25 s"
    (line,), _ = charts.timelines([{**row, "time_s": 10 * row["time_s"]} for row in some_rows(200)], [])
    assert ">1:00</text>" in line.svg and ">3:00</text>" in line.svg


def test_the_matrix_leaves_out_what_does_not_occur_and_names_void() -> None:
    made = page_tables.matrix([[8, 0, 0, 2], [0, 0, 0, 0], [0, 0, 5, 0]], LABELS)
    assert made.columns == ["road", "person", "void"] and made.left_out == ["tree"]
    assert [name for name, _ in made.rows] == ["road", "person"]
    assert [cell.text for cell in made.rows[0][1]] == ["80", "", "20"]
    assert [cell.right for cell in made.rows[1][1]] == [False, True, False]
    assert made.rows[0][1][2].title == "road labelled as void: 2 pixels, 20.00 % of road"
    assert page_tables.matrix([[0, 0, 0]] * 3, LABELS) is None


def test_a_large_matrix_shows_the_classes_with_most_errors() -> None:
    count = page_tables.MOST_CLASSES + 5
    labels = LabelMap("many", tuple(f"c{i}" for i in range(count)), ((1, 1, 1),) * count)
    counts = np.eye(count, count + 1, dtype=int) * 100
    counts[5:, 0] = 7
    made = page_tables.matrix(counts.tolist(), labels)
    assert made.not_shown == 5 and len(made.rows) == page_tables.MOST_CLASSES
    assert made.rows[0][0] == "c5"


def test_the_ledger_adds_up() -> None:
    lines = page_tables.ledger(a_report()["frames"])
    n = {name: int(value.replace(",", "")) for name, value, *_ in lines}
    assert n["received"] == n["= published"] + sum(value for name, value in n.items() if name.startswith("+ "))
    assert n["+ in flight"] == 1


def test_pictures_are_small_and_masks_keep_their_colours() -> None:
    truth = np.zeros((1000, 2000), np.uint8)
    truth[:, 1000:] = 1
    prediction = truth.copy()
    prediction[:500] = 2
    picture = Picture(some_rows(1)[0], np.full((1000, 2000, 3), 90, np.uint8), prediction, truth)
    strip = page_pictures.error_strip(picture, LABELS)
    assert [shown.name for shown in strip.pictures] == ["image", "truth", "prediction", "error"]
    images = [decoded(shown.uri) for shown in strip.pictures]
    assert {image.shape for image in images} == {(320, 640, 3)}
    assert {tuple(color) for color in images[1].reshape(-1, 3).tolist()} == {(128, 64, 128), (35, 142, 107)}
    assert np.abs(images[3][:150].astype(int) - (0, 196, 255)).max() < 12
    assert np.abs(images[3][170:].astype(int) - 30).max() < 12
    assert strip.mixups == [(0.25, "road", "person"), (0.25, "tree", "person")]


def test_a_frame_without_a_mask_says_why() -> None:
    picture = a_picture(prediction=None)
    picture.row.update(fate="dropped")
    strip = page_pictures.error_strip(picture, LABELS)
    assert [shown.missing for shown in strip.pictures] == ["", "", "none: dropped"]


def decoded(uri: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(uri.split(",", 1)[1]), np.uint8), cv2.IMREAD_COLOR)


def test_an_old_page_stays_if_the_new_one_cannot_be_made(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    broken = copy.deepcopy(a_report())
    broken["bags"][0].pop("status")
    with pytest.raises(KeyError):
        write_page(path, broken, [], [], LABELS)
    assert path.read_text() == "old" and [found.name for found in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium to open the page in")
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report = a_report(against=an_other(), title="net & <friends>")
    write_page(path, report, some_rows(50), [a_picture()], LABELS, [a_picture(other=np.zeros((60, 80), np.uint8))])
    shot = tmp_path / "shot.png"
    log = browse(tmp_path, path, f"--screenshot={shot}", "--window-size=1280,2600", "--enable-logging=stderr")[1]
    assert not re.search(r"CONSOLE|Refused to|Uncaught", log), log
    picture = cv2.imread(str(shot))
    assert picture.shape == (2600, 1280, 3)
    for top in range(0, 2600, 650):
        assert picture[top : top + 650].std() > 10, f"the screenshot is blank from line {top} on"
    for b, g, r in ((128, 64, 128), (35, 142, 107)):  # the classes' chips
        assert (picture == (b, g, r)).all(2).sum() > 50
    dom = browse(tmp_path, path, "--dump-dom")[0]
    assert "<title>net &amp; &lt;friends&gt;</title>" in dom
    assert "64.4 %" in dom and "Frames that differ most" in dom


def browse(folder: Path, page: Path, *options: str) -> tuple[str, str]:
    """Open a page in a headless browser; its stdout and stderr."""
    profile = folder / "profile"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={profile}", *options, page.as_uri()]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, log = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"the browser did not end: {process.communicate()[1]}")
    assert process.returncode == 0, log
    return output, log
