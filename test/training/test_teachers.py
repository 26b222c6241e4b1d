"""Recipes with teachers: what they do to a run, what stays outside its files, and what is refused."""

import numpy as np
import pytest
import torch

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.labels import CAMVID11, CITYSCAPES19, LabelMap
from drive_seg.training.callbacks import MovingAverage
from drive_seg.training.recipe import RecipeError, load_recipe
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
    found = Teachers([str(path) for path in paths], CAMVID11)(image)
    for logits, path in zip(found, paths, strict=True):
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
    (before,) = task.teachers(image)
    plain = SegmentationTask(distilled([], "losses={cross_entropy: 1.0}"), task.targets, 2)
    assert task.state_dict().keys() == plain.state_dict().keys()
    assert len(list(task.parameters())) == len(list(plain.parameters()))
    average = MovingAverage(0.9)
    average.setup(None, task, "fit")
    assert average._average_model.module.teachers is task.teachers
    assert task.train().freeze_unused() == ["side.weight", "side.bias"]
    task.double()
    assert torch.equal(task.teachers(image)[0], before)


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


@pytest.mark.parametrize(
    "classes",
    [CITYSCAPES19, LabelMap("turned", CAMVID11.names[::-1], CAMVID11.colors)],
    ids=["others", "another order"],
)
def test_teachers_of_other_classes_are_refused(teacher, distilled, classes):
    path = teacher(label_map=classes)
    with pytest.raises(ValueError, match=r"teacher .*one\.safetensors has the classes .*, but the run has Sky, "):
        SegmentationTask(distilled([path]), Targets(CAMVID11, (), np.full(11, 1 / 11)), 2)


def test_a_teacher_that_is_not_there_is_named(distilled, tmp_path):
    with pytest.raises(ValueError, match=r"gone\.safetensors: there is no such file"):
        SegmentationTask(distilled([tmp_path / "gone.safetensors"]), Targets(CAMVID11, (), np.full(11, 1 / 11)), 2)


def test_teachers_and_their_loss_go_together(distilled):
    with pytest.raises(RecipeError, match="losses has no 'distillation'"):
        distilled(["dsnet_camvid11"], "losses={cross_entropy: 1.0}")
    with pytest.raises(RecipeError, match="'distillation' needs teachers"):
        distilled([])
