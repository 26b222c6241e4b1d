"""Pseudo-labels: what teachers say together, what is written, and what is refused."""

import cv2
import numpy as np
import pytest
import torch
import yaml

from drive_seg.datasets import open_dataset
from drive_seg.labels import CITYSCAPES19
from drive_seg.training.pseudo_labels import Agreement, Plan, Witness, pseudo_label

ROAD, CAR, TRUCK, PERSON = (CITYSCAPES19.names.index(name) for name in ("road", "car", "truck", "person"))
NOT_ROAD = tuple(i for i in range(19) if i != ROAD)


def agree(*witnesses):
    """The name of what is said together; each witness: its statements, and the number of the one it makes or None."""
    agreement = Agreement([statements for statements, _ in witnesses], 19)
    said = [np.array([[len(own) if number is None else number]]) for own, number in witnesses]
    label = agreement(said)[0, 0]
    return () if label == 255 else agreement.found[label]


def test_the_finer_statement_counts_and_a_contradiction_is_void():
    road, fine = [(ROAD,), NOT_ROAD], [(ROAD,), (CAR,), (CAR, TRUCK), (PERSON, TRUCK)]
    assert agree((road, 0), (fine, 0)) == (ROAD,)
    assert agree((road, 1), (fine, 1)) == agree((fine, 1), (road, 1)) == (CAR,)
    assert agree((road, 1), (fine, 2)) == (CAR, TRUCK)
    assert agree((road, 0), (fine, 1)) == ()
    assert agree((road, 1), (fine, None)) == NOT_ROAD and agree((road, None), (fine, 3)) == (PERSON, TRUCK)
    assert agree((road, None), (fine, None)) == ()
    assert agree((fine, 2), (fine, 3)) == (TRUCK,), "what both allow"


def test_a_third_teacher_does_not_settle_a_quarrel():
    road = [(ROAD,), NOT_ROAD]
    assert agree((road, 0), (road, 1), (road, 0)) == agree((road, 0), (road, 0), (road, 1)) == ()
    assert agree((road, 0), (road, None), (road, 0)) == (ROAD,)


class Fake:
    """A teacher whose probabilities are given, for classes a and b of its own and one that says nothing."""

    def __init__(self, p, members, **settings):
        self.members, self.p = members, torch.tensor(p, dtype=torch.float32).T.view(1, len(members), 1, -1)
        self.settings = Plan(label_map="x", teachers=[{"model": "m", **settings}]).teachers[0]

    def probabilities(self, image, wanted):
        return self.p

    def sums(self, p, parts):
        return torch.stack(
            [sum(p[:, i] for i, m in enumerate(self.members) if m and set(m) <= set(s)) for s in parts], 1
        )


def decided(teacher):
    witness = Witness(teacher)
    answer = witness(np.zeros((1, 1, 3), np.uint8), (1, 1), "cpu")
    witness.count(answer)
    witness.raise_bounds()
    return witness.decided(answer)[0].tolist()


def test_a_statement_needs_its_confidence():
    """A class that means nothing takes its share, and silences where it is the most probable; two that mean the same
    add up."""
    members = ((ROAD,), (ROAD,), NOT_ROAD, ())
    p = [(0.5, 0.45, 0.05, 0.0), (0.5, 0.3, 0.2, 0.0), (0.0, 0.0, 0.95, 0.05), (0.2, 0.2, 0.1, 0.5)]
    assert decided(Fake(p, members, min_confidence=0.9)) == [0, 2, 1, 2]
    assert decided(Fake(p, members)) == [0, 0, 1, 2]


def test_a_finer_statement_speaks_for_the_coarser_one():
    p = [(0.4, 0.55, 0.05), (0.55, 0.4, 0.05), (0.1, 0.4, 0.5)]
    assert decided(Fake(p, ((CAR,), (CAR, TRUCK), (ROAD,)), min_confidence=0.9)) == [1, 3, 3]


def test_the_most_confident_share_of_each_class_is_kept():
    """A rare class of which the network is never sure keeps its half, though each fixed bound would drop it."""
    frequent = [(p, 1 - p) for p in (0.99, 0.98, 0.97, 0.96)]
    rare = [(0.4, 0.6), (0.45, 0.55)]
    assert decided(Fake(frequent + rare, ((ROAD,), (CAR,)), keep=0.5)) == [0, 0, 2, 2, 1, 2]
    assert decided(Fake(frequent + rare, ((ROAD,), (CAR,)), keep=0.5, min_confidence=0.9)) == [0, 0, 2, 2, 2, 2]
    assert decided(Fake(frequent + rare, ((ROAD,), (CAR,)))) == [0, 0, 0, 0, 1, 1]


@pytest.fixture
def frames(tmp_path):
    """Three frames of 32 x 64, the left half dark and the right bright."""
    folder = tmp_path / "drive"
    folder.mkdir()
    for i in range(3):
        image = np.full((32, 64, 3), 20 + i, np.uint8)
        image[:, 32:] = 220
        cv2.imwrite(str(folder / f"{i}.png"), image)
    return folder


@pytest.fixture
def onnx_teacher(tmp_path):
    """An ONNX file that says dark or bright, as its contract names them: its path."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    def make(name="light", names=("dark", "bright"), body="", gain=0.05, **changes):
        # logits: gain x (128 - grey) and its opposite
        text = f"""<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,h,w] image) => (float[1,c,h,w] out) {{
            axes = Constant<value_ints=[1]>() middle = Constant<value_float=128.0>()
            gain = Constant<value_float={gain}>()
            grey = ReduceMean<axes=[1], keepdims=1>(image) off = Sub(middle, grey) score = Mul(off, gain)
            other = Neg(score) {body or "out = Concat<axis=1>(score, other)"} }}"""
        path = tmp_path / "models" / f"{name}.onnx"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
        classes = [{"id": i, "name": each, "color": [i, i, i]} for i, each in enumerate(names)]
        contract = {"label_map": classes, "channel_order": "bgr", "range": "raw", "input_size": [32, 64]}
        contract |= {"output": "logits", "licence": f"of {name}", **changes}
        path.with_suffix(".contract.yaml").write_text(yaml.safe_dump(contract))
        return str(path)

    return make


def plan(*teachers, classes="cityscapes19"):
    return Plan(label_map=classes, teachers=list(teachers))


ROADS = {"dark": ["road"], "bright": ["not road"]}


@pytest.mark.parametrize(
    ("body", "output"),
    [("", "logits"), ("both = Concat<axis=1>(score, other) out = Softmax<axis=1>(both)", "probabilities")],
)
def test_a_road_teacher_writes_a_dataset_that_trains(frames, onnx_teacher, tmp_path, body, output):
    model = onnx_teacher(body=body, output=output)
    teacher = {"model": model, "meaning": ROADS, "min_confidence": 0.9, "flip": True, "scales": [1, 2]}
    out = tmp_path / "set"
    done = pseudo_label(plan(teacher), [str(frames)], out, width=48, progress=False)
    assert done.images == 3 and done.shares["road"] == pytest.approx(0.5, abs=0.03)
    data = open_dataset("folder", root=out, classes=out / "classes.yaml")
    assert data.label_map.names == ("road", "not road") and not data.problems
    image, label = data.read(1)
    assert data.name_of(1) == "drive/1" and image.shape == (24, 48, 3)
    assert (label[:, :21] == 0).all() and (label[:, 27:] == 1).all()
    overlay = cv2.imread(str(out / "overlay" / "drive" / "1.jpg"))
    assert overlay.shape[0] == 24 and overlay.shape[1] > 48
    about = yaml.safe_load((out / "teachers.yaml").read_text())
    (said,) = about["teachers"]
    assert said["name"] == "light" and len(said["sha256"]) == 64 and said["licence"] == "of light"
    assert said["bounds"] == {"road": 0.9, "not road": 0.9} and said["min_confidence"] == 0.9
    assert str(tmp_path) not in (out / "teachers.yaml").read_text()
    groups: list = []
    from drive_seg.datasets.joined import table_of

    assert table_of(data.label_map, CITYSCAPES19, {}, groups)[:2].tolist() == [ROAD, 19] and groups == [NOT_ROAD]


def test_several_teachers(frames, onnx_teacher, tmp_path):
    """One tells cars and lorries from the road; a second takes the bright half for road; together that is void."""
    fine = {"model": onnx_teacher("fine"), "meaning": {"dark": ["road"], "bright": ["car/truck"]}}
    road = {"model": onnx_teacher("road"), "meaning": ROADS}
    wrong = {"model": onnx_teacher("wrong"), "meaning": {"dark": ["road"], "bright": ["road"]}}
    names = {}
    for name, some in (("agree", (road, fine)), ("quarrel", (fine, wrong))):
        done = pseudo_label(plan(*some), [str(frames)], tmp_path / name, progress=False)
        names[name] = {key: round(share, 2) for key, share in done.shares.items() if share}
    assert names == {"agree": {"road": 0.5, "car/truck": 0.5}, "quarrel": {"road": 0.5, "void": 0.5}}


def test_the_share_is_over_all_images(frames, onnx_teacher, tmp_path):
    """The frames differ in how dark they are: half of the dark pixels is the darkest frame and half of the next."""
    teacher = {"model": onnx_teacher(gain=0.01), "meaning": ROADS, "keep": 0.5}
    out = tmp_path / "set"
    done = pseudo_label(plan(teacher), [str(frames)], out, progress=False)
    data = open_dataset("folder", root=out, classes=out / "classes.yaml")
    dark = [(data.read(i)[1][:, :32] == 0).mean() for i in range(3)]
    assert dark == [1, 1, 0], "pixels of one confidence stay together"
    assert done.shares["road"] == pytest.approx(1 / 3, abs=0.01)
    assert not list(out.glob(".answers*"))


def test_classes_without_a_meaning_silence_a_teacher(frames, onnx_teacher, tmp_path):
    """The network has a third channel, which wins in the dark half."""
    body = "two = Constant<value_float=2.0>() twice = Mul(score, two) out = Concat<axis=1>(score, other, twice)"
    model = onnx_teacher(body=body, names=("dark", "bright", "none"))
    teacher = {"model": model, "meaning": {**ROADS, "none": []}}
    done = pseudo_label(plan(teacher), [str(frames)], tmp_path / "set", progress=False)
    assert {name: round(share, 2) for name, share in done.shares.items()} == {"road": 0, "not road": 0.5, "void": 0.5}


def test_the_bonnet_is_void(frames, onnx_teacher, tmp_path):
    out = tmp_path / "set"
    pseudo_label(plan({"model": onnx_teacher(), "meaning": ROADS}), [str(frames)], out, void_below=0.75, progress=False)
    label = cv2.imread(str(out / "labels" / "drive" / "0.png"), cv2.IMREAD_UNCHANGED)
    assert (label[24:] == 255).all() and not (label[:24] == 255).any()


def test_what_does_not_fit_is_refused(frames, onnx_teacher, tmp_path):
    model, out = onnx_teacher(), tmp_path / "set"
    with pytest.raises(
        ValueError, match=r"teacher .*light\.onnx: class 'dark' of label map 'light' is not in 'cityscap"
    ):
        pseudo_label(plan(model), [str(frames)], out, progress=False)
    with pytest.raises(ValueError, match="label map 'cityscapes19' has no class 'raod'"):
        pseudo_label(plan({"model": model, "meaning": {**ROADS, "dark": ["raod"]}}), [str(frames)], out, progress=False)
    with pytest.raises(ValueError, match="none of its classes means one of the run"):
        pseudo_label(plan({"model": model, "meaning": {"dark": [], "bright": []}}), [str(frames)], out, progress=False)
    assert not out.exists()
    good = plan({"model": model, "meaning": ROADS})
    with pytest.raises(ValueError, match="two images would be called drive/0: rename one"):
        pseudo_label(good, [str(frames), str(frames)], tmp_path / "twice", progress=False)
    pseudo_label(good, [str(frames / "0.png")], out, progress=False)
    assert (out / "labels" / "drive" / "0.png").is_file()
    with pytest.raises(ValueError, match="set holds labels already"):
        pseudo_label(good, [str(frames)], out, progress=False)
