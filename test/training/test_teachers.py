"""Recipes with teachers: what they do to a run, what stays outside its files, and what is refused."""

import json

import numpy as np
import pytest
import torch

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.labels import CAMVID11, CAMVID32, CITYSCAPES19, LabelMap
from drive_seg.training.callbacks import MovingAverage
from drive_seg.training.recipe import RecipeError, Teacher, load_recipe
from drive_seg.training.targets import Targets
from drive_seg.training.task import SegmentationTask
from drive_seg.training.teachers import Teachers
from drive_seg.training.train import train


@pytest.fixture
def teacher(tmp_path, tiny_network):
    """Writes a teacher with random weights: its path."""

    def make(name="one", label_map=CAMVID11, seed=0, **spec):
        torch.manual_seed(seed)
        network = networks.build(tiny_network, label_map.num_classes)
        contract = Contract(
            tiny_network, {}, label_map, InputSpec((48, 64), **spec), {"name": f"{name}_recipe"}, licence="free"
        )
        path = tmp_path / "lab" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        checkpoint.save(path, network, contract)
        return path

    return make


@pytest.fixture
def distilled(recipe_file, tiny_network):
    """A recipe with these teachers, settings laid over."""

    def make(teachers, *settings):
        base = [f"network.name={tiny_network}", "losses={cross_entropy: 1.0, distillation: {temperature: 3}}"]
        return load_recipe(recipe_file, [*base, f"teachers={[str(t) for t in teachers]}", *settings])

    return make


def last(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def test_each_teacher_sees_the_image_through_its_own_input(teacher):
    """One that wants BGR in raw values, too; both in eval mode, without gradient, in the order given."""
    paths = [
        teacher("one"),
        teacher("two", seed=1, channel_order="bgr", scale=1.0, mean=(9.0, 8.0, 7.0), std=(60.0,) * 3),
    ]
    image = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    found = Teachers([Teacher(model=str(path)) for path in paths], CAMVID11)(image)
    for (logits, blocks, sure), path in zip(found, paths, strict=True):
        assert blocks == tuple((i,) for i in range(11)) and sure is None
        loaded = checkpoint.load(path)
        with torch.no_grad():
            expected = loaded.build_network()(loaded.contract.input.normalise(image))
        torch.testing.assert_close(logits, expected)
        assert not logits.requires_grad and logits.shape == (2, 11, 16, 24)


def test_two_epochs_with_teachers(teacher, distilled, tmp_path):
    """They shape the weights, are unchanged, and only their names and hashes are written anywhere."""
    one, two = teacher("one"), teacher("two", seed=1)
    before = [path.read_bytes() for path in (one, two)]
    best = train(distilled([one, two]), tmp_path / "taught", progress=False)
    other = train(distilled([one, one]), tmp_path / "otherwise", progress=False)
    assert [path.read_bytes() for path in (one, two)] == before
    contract = checkpoint.load(best).contract
    assert contract.training["teachers"] == [
        {"name": f"{path.stem}_recipe", "sha256": checkpoint.load(path).sha256} for path in (one, two)
    ]
    assert str(tmp_path) not in str(contract.to_dict())
    network = networks.build(contract.network, 11)
    state = last(tmp_path / "taught")
    for part in ("state_dict", "current_model_state"):
        assert set(state[part]) == {f"network.{name}" for name in network.state_dict()}
    assert (tmp_path / "taught" / "last.ckpt").stat().st_size < 1.2 * _without(distilled, tmp_path)
    assert checkpoint.load(best).tensors.keys() == checkpoint.load(one).tensors.keys()
    pair = (checkpoint.load(path).tensors["head.weight"] for path in (best, other))
    assert not torch.equal(*pair)


def _without(distilled, tmp_path):
    train(distilled([], "losses={cross_entropy: 1.0}"), tmp_path / "untaught", progress=False)
    return (tmp_path / "untaught" / "last.ckpt").stat().st_size


def test_teachers_change_neither_in_training_nor_with_the_task(teacher, distilled):
    """Not by the task's own training mode, its dtype, or the copy that the moving average makes."""
    path = teacher()
    task = SegmentationTask(distilled([path]), Targets(CAMVID11, (), np.full(11, 1 / 11)), 2)
    image = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    before = task.teachers(image)[0].scores
    plain = SegmentationTask(distilled([], "losses={cross_entropy: 1.0}"), task.targets, 2)
    assert task.state_dict().keys() == plain.state_dict().keys()
    assert len(list(task.parameters())) == len(list(plain.parameters()))
    average = MovingAverage(0.9)
    average.setup(None, task, "fit")
    assert average._average_model.module.teachers is task.teachers
    assert task.train().freeze_unused() == ["side.weight", "side.bias"]
    task.double()
    assert torch.equal(task.teachers(image)[0].scores, before)


def test_a_resumed_run_with_teachers_is_the_same_bit_for_bit(teacher, distilled, tmp_path, monkeypatch):
    recipe = distilled([teacher("one"), teacher("two", seed=1)], "schedule.epochs=4", "ema_decay=0.9")
    train(recipe, tmp_path / "through", progress=False)
    save, written = torch.save, []

    def stop(content, path):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path)
        save(content, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", stop)
        with pytest.raises(OSError, match="No space left"):
            train(recipe, tmp_path / "resumed", progress=False)
    train(recipe, tmp_path / "resumed", progress=False)
    one, other = last(tmp_path / "through"), last(tmp_path / "resumed")
    assert one["global_step"] == other["global_step"] == 8
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])


def test_a_run_is_not_resumed_with_other_teachers(teacher, distilled, tmp_path):
    """Not with another file of the same name, nor with more, fewer or none; in another order, it is."""
    pair = [teacher("one"), teacher("two", seed=1)]
    run = tmp_path / "run"
    train(distilled(pair), run, progress=False)
    origin = [{"name": f"{path.stem}_recipe", "sha256": checkpoint.load(path).sha256} for path in pair]
    assert last(run)["teachers"] == origin
    whole, before = pair[0].read_bytes(), (run / "last.ckpt").read_bytes()
    teacher("one", seed=2)
    names = ", ".join(f"{t['name']} \\({t['sha256'][:12]}\\)" for t in origin)
    with pytest.raises(
        ValueError, match=f"last.ckpt was trained with teachers {names}, but the recipe has teachers one_"
    ):
        train(distilled(pair, "schedule.epochs=3"), run, progress=False)
    pair[0].write_bytes(whole)
    with pytest.raises(ValueError, match=r"but the recipe has teacher two_recipe \(\w{12}\); .* anew with --restart"):
        train(distilled(pair[1:], "schedule.epochs=3"), run, progress=False)
    with pytest.raises(ValueError, match="but the recipe has no teacher;"):
        train(distilled([], "losses={cross_entropy: 1.0}", "schedule.epochs=3"), run, progress=False)
    assert (run / "last.ckpt").read_bytes() == before
    train(distilled(pair[::-1], "schedule.epochs=3"), run, progress=False)
    assert last(run)["epoch"] == 2


def test_a_training_checkpoint_that_does_not_name_its_teachers_is_resumed(teacher, distilled, tmp_path):
    """As those are that were written before they did."""
    path, run = teacher(), tmp_path / "run"
    train(distilled([path]), run, progress=False)
    state = last(run)
    del state["teachers"]
    torch.save(state, run / "last.ckpt")
    train(distilled([path], "schedule.epochs=3"), run, progress=False)
    assert last(run)["epoch"] == 2 and len(last(run)["teachers"]) == 1


def test_teachers_of_other_classes_say_what_they_mean_in_the_run(teacher):
    """By names in whatever order; by what is known of both maps, a class in two groups joining these."""
    turned = teacher(label_map=LabelMap("turned", CAMVID11.names[::-1], CAMVID11.colors))
    image = torch.randint(0, 256, (1, 3, 16, 24), dtype=torch.uint8)
    (lesson,) = Teachers([Teacher(model=str(turned))], CAMVID11)(image)
    assert lesson.blocks == tuple((i,) for i in range(11))
    network, spec = checkpoint.load(turned).build_network(), checkpoint.load(turned).contract.input
    with torch.no_grad():
        p = network(spec.normalise(image)).softmax(1)
    torch.testing.assert_close(lesson.scores.exp(), p.flip(1))
    fine = teacher("fine", CITYSCAPES19, seed=1)
    (lesson,) = Teachers([Teacher(model=str(fine), min_confidence=0.3)], CAMVID11)(image)
    network = checkpoint.load(fine).build_network()
    with torch.no_grad():
        p = network(spec.normalise(image)).softmax(1)
    of = dict(zip(lesson.blocks, lesson.scores.exp().unbind(1), strict=True))
    assert sorted(of) == [(i,) for i in range(11)]
    car = CAMVID11.names.index("Car")
    members = [CITYSCAPES19.names.index(name) for name in ("car", "truck", "bus", "train")]
    torch.testing.assert_close(of[(car,)], p[:, members].sum(1))
    assert torch.equal(lesson.sure, torch.stack(list(of.values())).amax(0) >= 0.3)
    old = teacher("old", CAMVID32)
    (lesson,) = Teachers([Teacher(model=str(old))], CITYSCAPES19)(image)
    riders = tuple(CITYSCAPES19.names.index(name) for name in ("rider", "motorcycle", "bicycle"))
    told = [i for block in lesson.blocks for i in block]
    assert riders in lesson.blocks and len(set(told)) == len(told)


def test_a_teacher_that_tells_nothing_apart_is_refused(teacher):
    kerb = LabelMap("kerb", ("Road", "kerb", "rest"), CAMVID11.colors[:3])
    path = str(teacher(label_map=kerb))
    known = {"rest": ["not Road"]}
    with pytest.raises(
        ValueError, match=r"one.safetensors: it tells no classes of the run apart, as its own mean Road, "
    ):
        Teachers([Teacher(model=path, meaning={**known, "kerb": ["Road/Pavement"]})], CAMVID11)
    with pytest.raises(
        ValueError, match=r"one.safetensors: class 'kerb' of label map 'kerb' is not in 'camvid11'; say"
    ):
        Teachers([Teacher(model=path, meaning=known)], CAMVID11)
    image = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    (lesson,) = Teachers([Teacher(model=path, meaning={**known, "kerb": []})], CAMVID11)(image)
    assert [len(block) for block in lesson.blocks] == [10, 1]
    loaded = checkpoint.load(path)
    with torch.no_grad():
        road, open_, rest = loaded.build_network()(loaded.contract.input.normalise(image)).softmax(1).unbind(1)
    torch.testing.assert_close(lesson.scores.exp(), torch.stack((rest, road), 1))
    assert (open_ > torch.maximum(road, rest)).all() and not lesson.sure.any(), "what it sees means nothing here"
    (lesson,) = Teachers([Teacher(model=path, meaning={"kerb": ["not Road"], "rest": []})], CAMVID11)(image)
    assert lesson.sure.all()


def test_a_student_of_a_road_teacher_learns_and_its_file_says_how(teacher, distilled, tmp_path):
    """It goes on with the same settings alone."""
    path = str(teacher(label_map=LabelMap("two", ("Road", "rest"), CAMVID11.colors[:2])))
    settings = {
        "model": path,
        "meaning": {"rest": ["not Road"]},
        "min_confidence": 0.2,
        "flip": True,
        "scales": [1, 1.5],
    }
    best = train(distilled([], f"teachers=[{json.dumps(settings)}]"), tmp_path / "run", progress=False)
    (origin,) = checkpoint.load(best).contract.training["teachers"]
    assert origin == {
        "name": "one_recipe",
        "sha256": checkpoint.load(path).sha256,
        **{key: value for key, value in settings.items() if key != "model"},
    }
    with pytest.raises(ValueError, match=r"min_confidence 0.2.*but the recipe has teacher .*min_confidence 0.3"):
        other = json.dumps({**settings, "min_confidence": 0.3})
        train(distilled([], f"teachers=[{other}]", "schedule.epochs=3"), tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"min_confidence": 2}, "teachers.0.min_confidence: Input should be less than or equal to 1"),
        ({"scales": [0]}, "teachers.0.scales.0: Input should be greater than 0"),
        ({"class": "road"}, "teachers.0.class: Extra inputs are not permitted"),
        ({"keep": 0.5}, "keep is for pseudo-labels"),
    ],
)
def test_settings_that_make_no_sense_are_named(distilled, settings, complaint):
    with pytest.raises(RecipeError, match=complaint):
        distilled([], f"teachers=[{json.dumps({'model': 'dsnet_camvid11', **settings})}]")


def test_a_teacher_that_is_not_there_is_named(distilled, tmp_path):
    with pytest.raises(ValueError, match=r"gone\.safetensors: there is no such file"):
        SegmentationTask(distilled([tmp_path / "gone.safetensors"]), Targets(CAMVID11, (), np.full(11, 1 / 11)), 2)


def test_teachers_and_their_loss_go_together(distilled):
    with pytest.raises(RecipeError, match="losses has no 'distillation'"):
        distilled(["dsnet_camvid11"], "losses={cross_entropy: 1.0}")
    with pytest.raises(RecipeError, match="'distillation' needs teachers"):
        distilled([])
