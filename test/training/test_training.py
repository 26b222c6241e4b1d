"""From a tree of images to a checkpoint the Segmenter loads; resumed training equals uninterrupted training."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from drive_seg import checkpoint
from drive_seg.datasets import open_dataset
from drive_seg.evaluation import dataset as evaluation
from drive_seg.labels import CAMVID11
from drive_seg.networks import SegmentationNetwork, SegmentationOutput, catalog
from drive_seg.segmenter import Segmenter
from drive_seg.training.callbacks import strip
from drive_seg.training.recipe import load_recipe
from drive_seg.training.statistics import class_counts
from drive_seg.training.targets import Targets
from drive_seg.training.task import SegmentationTask
from drive_seg.training.train import train


def test_training_learns_and_writes_a_checkpoint_that_scores_as_recorded(recipe_file, tree, tmp_path):
    recipe = load_recipe(recipe_file, ["schedule.epochs=30", "validate_every=5"])
    best = train(recipe, tmp_path / "run", progress=False)
    loaded = checkpoint.load(best)
    assert loaded.contract.label_map == CAMVID11 and loaded.contract.licence == "free"
    assert loaded.contract.training["optimizer"]["lr"] == 0.01
    assert str(tree) not in json.dumps(loaded.contract.to_dict())  # folders of the lab do not travel
    recorded = loaded.contract.metrics["validation"]
    matrix = evaluation.evaluate(
        Segmenter.load(best, device="cpu"), open_dataset("camvid", root=tree, split="val"), progress=False
    )
    assert matrix.miou() == pytest.approx(recorded["miou"], abs=2e-4)
    usual = loaded.contract.confidence.usual
    assert usual.frames == len(matrix.image_names) and usual.data == recorded["data"] and usual.sure >= 0.5
    assert matrix.pixel_accuracy() > 0.8  # two flat colours are learnt in sixty steps


def test_the_last_epoch_is_validated_whatever_the_interval(tiny_recipe, tmp_path):
    train(tiny_recipe("schedule.epochs=5", "validate_every=2"), tmp_path, progress=False)
    with next(tmp_path.glob("csv/*/metrics.csv")).open() as log:
        validated = [int(row["epoch"]) for row in csv.DictReader(log) if row["val_miou"]]
    assert validated == [1, 3, 4]
    train(tiny_recipe("validate_every=9"), tmp_path / "short", progress=False)  # a trial shall end in a checkpoint, too
    assert checkpoint.load(tmp_path / "short" / "best.safetensors").contract.metrics["validation"]["epochs"] == 2


def test_frames_that_were_trained_on_do_not_say_how_sure_a_model_is(tiny_recipe, tmp_path):
    best = train(tiny_recipe("data.val_is_trained_on=true", "schedule.epochs=1"), tmp_path, progress=False)
    assert checkpoint.load(best).contract.confidence.usual is None


@pytest.fixture
def tiny_recipe(recipe_file, tiny_network):
    """A recipe that trains in a second, from settings laid over the small one."""

    def make(*overrides):
        settings = [f"network.name={tiny_network}", "losses={cross_entropy: 1.0, auxiliary: 0.4}"]
        return load_recipe(recipe_file, [*settings, *overrides])

    return make


def last(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def equal_states(one, other):
    return all(torch.equal(one[p][k], other[p][k]) for p in ("state_dict", "current_model_state") for k in one[p])


@pytest.mark.parametrize("network", ["tiny", "dsnet"])
def test_twice_five_epochs_give_the_weights_of_ten_bit_for_bit(
    recipe_file, tiny_network, tmp_path, monkeypatch, network
):
    """With momentum, average, dropout, accumulation, over-sampling and a best score; the disk is full after five."""
    losses = {"tiny": "{cross_entropy: 1.0, auxiliary: 0.4}", "dsnet": "{owfl: 1.0, sel: 0.1}"}[network]
    precision = {"tiny": "fp32", "dsnet": "bf16"}[network]
    settings = [f"network.name={network}", f"losses={losses}", "accumulate=2", "schedule.epochs=10", "ema_decay=0.9"]
    settings += ["validate_every=2", "data.class_uniform=0.5", f"precision={precision}"]
    recipe = load_recipe(recipe_file, settings)
    through = train(recipe, tmp_path / "through", progress=False)

    save, written = torch.save, []

    def until_the_disk_is_full(content, path):
        if len(written) == 5:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        written.append(path)
        save(content, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", until_the_disk_is_full)
        with pytest.raises(OSError, match="No space left"):
            train(recipe, tmp_path / "resumed", progress=False)
    assert last(tmp_path / "resumed")["epoch"] == 4
    again = train(recipe, tmp_path / "resumed", progress=False)
    one, other = last(tmp_path / "through"), last(tmp_path / "resumed")
    assert one["epoch"] == 9 and one["global_step"] == other["global_step"] == 20
    assert equal_states(one, other)
    assert checkpoint.load(through).sha256 == checkpoint.load(again).sha256


def test_the_average_is_not_the_last_step(tiny_recipe, tmp_path):
    """With a decay of 0.5 the rising start (1 + n) / (10 + n) rules the first seven steps."""
    train(tiny_recipe("schedule.epochs=2"), tmp_path, progress=False)
    state = last(tmp_path)
    name = "network.head.weight"
    assert not torch.equal(state["state_dict"][name], state["current_model_state"][name])
    assert state["averaging_state"]["n_averaged"] == 4


def test_parts_of_a_batch_add_up_to_its_gradient(tiny_recipe, tmp_path, monkeypatch):
    """Without Batch Norm and dropout in the way, two parts of two make the step of one batch of four."""
    name = TinyNetworkWithout.attach(monkeypatch)
    settings = ["precision=fp32", "optimizer={name: sgd, lr: 0.5}", "augmentation={scale: [1, 1], photometric: 0}"]
    for parts in (1, 2):
        recipe = tiny_recipe(f"network.name={name}", *settings, f"accumulate={parts}")
        train(recipe, tmp_path / str(parts), progress=False)
    one, two = (last(tmp_path / parts)["current_model_state"] for parts in ("1", "2"))
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=1e-5) for name in one)


class TinyNetworkWithout(SegmentationNetwork):
    """Two convolutions."""

    def __init__(self, num_classes):
        super().__init__()
        self.stages = {}
        self.body, self.side = nn.Conv2d(3, num_classes, 3, padding=1), nn.Conv2d(3, num_classes, 1)

    def segment(self, image, balance):
        return SegmentationOutput(self.body(image), aux_logits=self.side(image))

    @classmethod
    def attach(cls, monkeypatch):
        monkeypatch.setitem(catalog._CATALOG, "without", cls)
        return "without"


def test_a_broken_last_checkpoint_is_named(tiny_recipe, tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"half of it")
    with pytest.raises(ValueError, match=r"last\.ckpt: not a whole training checkpoint"):
        train(tiny_recipe(), tmp_path, progress=False)
    train(tiny_recipe("schedule.epochs=1"), tmp_path, resume=False, progress=False)
    assert last(tmp_path)["epoch"] == 0


def test_iterations_end_where_they_should(tiny_recipe, tmp_path):
    """Five steps are two epochs of two and a half of the third, which is finished at a rate of 0."""
    recipe = tiny_recipe("schedule={iterations: 5, warmup_iterations: 1}", "optimizer.clip_norm=1.0")
    train(recipe, tmp_path, progress=False)
    state = last(tmp_path)
    assert state["epoch"] == 2 and state["global_step"] == 6
    assert state["lr_schedulers"][0]["_last_lr"] == [0, 0]


def test_each_validation_paints_the_first_images(tiny_recipe, tree, tmp_path):
    train(tiny_recipe("schedule.epochs=2"), tmp_path, progress=False)
    assert sorted(path.name for path in (tmp_path / "panels").iterdir()) == ["0001.png", "0002.png"]
    panel = cv2.imread(str(tmp_path / "panels" / "0002.png"))
    assert panel.shape == (3 * 240, 3 * 320, 3)  # three validation images of 48x64
    label = cv2.imread(str(tree / "val" / "labels" / "000.png"), cv2.IMREAD_UNCHANGED)
    truth = cv2.resize(CAMVID11.colorize(label), (320, 240), interpolation=cv2.INTER_NEAREST)
    assert (panel[:240, 320:640] == truth).all()
    assert np.abs(panel[:240, :320].mean() - cv2.imread(str(tree / "val" / "images" / "000.png")).mean()) < 1
    events = list((tmp_path / "tensorboard").glob("events*"))
    assert events and any(b"predictions" in file.read_bytes() for file in events)


def test_a_group_is_painted_as_its_first_class():
    targets = Targets(CAMVID11, ((4, 7),))
    label = np.array([[11, 3], [255, 7]], np.uint8)
    painted = strip(np.zeros((2, 2, 3), np.uint8), label, np.full((2, 2), 7, np.uint8), targets, 2)
    colours = CAMVID11.palette()
    assert (painted[:, 2:4] == [[colours[4], colours[3]], [[0, 0, 0], colours[7]]]).all()
    assert (painted[:, 4:] == colours[7]).all() and not painted[:, :2].any()


def test_scores_by_hand(tiny_recipe):
    """Classes 3 (Road) and 8 (Car), and the groups {1, 3} and {7, 8}, of which the second is foreground alone.

    A class is judged where the label tells whether it is there, a group by its classes' pixels as well as its own. What
    the labels cannot hold (0, 1, 7) is not scored; 5 they could hold, so predicting it costs.
    """
    targets = Targets(CAMVID11, ((1, 3), (7, 8)), np.full(13, 1 / 13))
    task = SegmentationTask(tiny_recipe(), targets, 2, val_ids=[3, 5, 8, 9, 11, 12])
    assert np.isnan(task.scores()["val_miou"])
    truth = np.array([3, 3, 3, 8, 11, 11, 12, 12, 255], np.uint8)
    guess = np.array([3, 3, 8, 8, 1, 0, 7, 8, 5], np.uint8)
    task.confusion.update(guess, truth)
    scores = task.scores()
    assert scores["val_miou"] == pytest.approx((2 / 3 + 1 / 2 + 3 / 5 + 3 / 4) / 4)
    assert scores["val_f_miou"] == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert scores["val_accuracy"] == pytest.approx(6 / 8)
    task.confusion.update(np.array([5], np.uint8), np.array([3], np.uint8))
    iou = task.validation_iou()
    assert iou["Tree"] == 0 and iou["Pedestrian"] is None and iou["Fence"] is None
    assert task.scores()["val_miou"] == pytest.approx((2 / 4 + 0 + 1 / 2 + 3 / 6 + 3 / 4) / 5)


def test_the_best_checkpoint_is_chosen_by_the_metric_asked_for(tiny_recipe, tmp_path, monkeypatch):
    """mIoU rises over the epochs while that of the foreground falls."""

    def scores(self):
        epoch = self.current_epoch
        return {"val_miou": 0.1 * (epoch + 1), "val_f_miou": 0.5 - 0.1 * epoch, "val_accuracy": 0.5}

    monkeypatch.setattr(SegmentationTask, "scores", scores)
    for metric, epochs in (("val_miou", 3), ("val_f_miou", 1)):
        best = train(tiny_recipe(f"best={metric}", "schedule.epochs=3"), tmp_path / metric, progress=False)
        recorded = checkpoint.load(best).contract.metrics["validation"]
        assert recorded["epochs"] == epochs and recorded["miou"] == pytest.approx(0.1 * epochs)


def test_the_recorded_score_is_the_files_own_where_the_vehicle_sees_smaller_images(
    recipe_file, tree, tmp_path, sample_writer
):
    """Images of 48x64 for a network that is fed 24x32, or 40x56 of 20x28 (sides are multiples of 8)."""
    for i in range(2):
        sample_writer(tree / "val", f"other{i}", 50 + i, size=(40, 56))
    recipe = load_recipe(recipe_file, ["data.input_size=[24, 32]", "schedule.epochs=6", "validate_every=6"])
    best = train(recipe, tmp_path / "run", progress=False)
    recorded = checkpoint.load(best).contract.metrics["validation"]
    segmenter = Segmenter.load(best, device="cpu", runtime="torch")
    scores = evaluation.evaluate(segmenter, open_dataset("camvid", root=tree, split="val"), progress=False)
    assert scores.miou() == pytest.approx(recorded["miou"], abs=2e-4)
    assert scores.f_miou() == pytest.approx(recorded["f_miou"], abs=2e-4)
    assert scores.pixel_accuracy() == pytest.approx(recorded["pixel_accuracy"], abs=2e-4)


def test_a_run_goes_on_with_its_own_settings_alone(tiny_recipe, tmp_path):
    train(tiny_recipe(), tmp_path, progress=False)
    changes = ["optimizer.lr=0.02", "losses.auxiliary=0.1", "data.workers=1", "validate_every=2", "schedule.epochs=4"]
    with pytest.raises(
        ValueError, match=r"other settings \(losses.auxiliary was 0.4 and is 0.1, optimizer.lr was 0.01 and is 0.02\)"
    ):
        train(tiny_recipe(*changes), tmp_path, progress=False)
    train(tiny_recipe(*changes[3:]), tmp_path, progress=False)  # longer, and validated at other times
    assert last(tmp_path)["epoch"] == 3
    with pytest.raises(ValueError, match="last.ckpt has 4 epochs behind it, but the recipe asks for 2"):
        train(tiny_recipe(), tmp_path, progress=False)


def test_a_run_begun_anew_leaves_nothing_to_go_on_from(tiny_recipe, tmp_path, monkeypatch):
    train(tiny_recipe(), tmp_path, progress=False)
    assert (tmp_path / "best.safetensors").is_file() and (tmp_path / "last.ckpt").is_file()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(SegmentationTask, "training_step", stop)
    with pytest.raises(BaseException):  # noqa: B017 - Lightning turns Ctrl-C into an exit
        train(tiny_recipe("optimizer.lr=0.5"), tmp_path, resume=False, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file() and path.suffix != ".yaml") == []
    assert not list((tmp_path / "panels").iterdir())


def test_a_run_without_a_score_says_that_it_has_no_best(tiny_recipe, tmp_path, monkeypatch):
    nothing = {"val_miou": float("nan"), "val_f_miou": float("nan"), "val_accuracy": 0.5}
    monkeypatch.setattr(SegmentationTask, "scores", lambda self: nothing)
    with pytest.raises(ValueError, match="no validation gave a val_f_miou: .*last.ckpt holds the training"):
        train(tiny_recipe("best=val_f_miou"), tmp_path, progress=False)


def test_only_what_no_loss_looks_at_is_frozen(tiny_recipe):
    targets = Targets(CAMVID11, (), np.full(11, 1 / 11))
    both = SegmentationTask(tiny_recipe(), targets, 2)
    assert both.freeze_unused() == []
    alone = SegmentationTask(tiny_recipe("losses={cross_entropy: 1.0}"), targets, 2)
    before = {name: value.clone() for name, value in alone.state_dict().items()}
    assert alone.freeze_unused() == ["side.weight", "side.bias"]
    assert not alone.network.side.weight.requires_grad and alone.network.head.weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in alone.state_dict().items())


def test_precision_fp16_needs_a_gpu(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="fp16 needs a CUDA device"):
        train(tiny_recipe("precision=fp16"), tmp_path, progress=False)


def test_warm_start_takes_over_what_fits(recipe_file, tmp_path):
    first = train(load_recipe(recipe_file, ["schedule.epochs=1"]), tmp_path / "first", progress=False)
    recipe = load_recipe(recipe_file, [f"warm_start={first}"])
    task = SegmentationTask(recipe, Targets(CAMVID11, (), np.full(11, 1 / 11)), steps_per_epoch=2)
    tensors = checkpoint.load(first).tensors
    assert torch.equal(task.network.state_dict()["stage3.0.right.0.0.weight"], tensors["stage3.0.right.0.0.weight"])
    again = train(load_recipe(recipe_file, [f"warm_start={first}", "schedule.epochs=1"]), tmp_path, progress=False)
    assert checkpoint.load(again).contract.training["warm_start"] == "best.safetensors"


def class_share(dataset):
    counts = class_counts(dataset)
    return counts / counts.sum()


def test_class_frequency_counts_valid_pixels_and_is_kept(tree, monkeypatch):
    dataset = open_dataset("camvid", root=tree, split="train")
    pixels = np.concatenate([dataset.read(i)[1].ravel() for i in range(len(dataset))])
    expected = [(pixels == c).sum() / (pixels != 255).sum() for c in range(11)]
    frequency = class_share(dataset)
    np.testing.assert_allclose(frequency, expected, rtol=1e-15)
    assert frequency.dtype == np.float64
    assert len(list(tree.glob(".class_statistics_*.json"))) == 1
    monkeypatch.setattr(dataset, "read", lambda i: pytest.fail("the cache was not used"))
    np.testing.assert_array_equal(class_share(dataset), frequency)


def test_changed_labels_are_counted_anew(tree):
    before = class_share(open_dataset("camvid", root=tree, split="val"))
    label = tree / "val" / "labels" / "000.png"
    cv2.imwrite(str(label), np.full((48, 64), 5, np.uint8))
    after = class_share(open_dataset("camvid", root=tree, split="val"))
    assert before[5] == 0 and after[5] > 0.3


def test_statistics_of_a_read_only_folder_go_to_the_users_cache(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tree.chmod(0o555)
    class_share(open_dataset("camvid", root=tree, split="train"))
    tree.chmod(0o755)
    assert not list(tree.glob(".class_statistics*"))
    assert len(list((tmp_path / "cache" / "drive_seg").glob("class_statistics_*.json"))) == 1


def test_broken_datasets_are_named(tree):
    (tree / "val" / "labels" / "001.png").unlink()
    with pytest.raises(ValueError, match="001"):
        open_dataset("camvid", root=tree, split="val")
    with pytest.raises(ValueError, match="there is no folder"):
        open_dataset("camvid", root=tree, split="test")
    with pytest.raises(ValueError, match="no dataset is called 'kitti'; there are: .*camvid, .*synth"):
        open_dataset("kitti")
    with pytest.raises(ValueError, match="'camvid' has no setting 'colour'; it has: root, split, sequences"):
        open_dataset("camvid", root=tree, split="train", colour=1)
    with pytest.raises(ValueError, match="dataset 'folder' needs root, classes"):
        open_dataset("folder")
    cv2.imwrite(str(tree / "train" / "labels" / "003.png"), np.full((48, 64), 11, np.uint8))
    dataset = open_dataset("camvid", root=tree, split="train")
    with pytest.raises(ValueError, match=r"003.png holds the ids \[11\]"):
        [dataset.read(i) for i in range(len(dataset))]


def test_splits_can_be_joined(tree):
    assert len(open_dataset("camvid", root=tree, split="train+val")) == 11


def test_real_camvid_has_its_published_sizes(shared_data):
    for split, count in (("train", 367), ("val", 101)):
        dataset = open_dataset("camvid", root=shared_data / "camvid", split=split)
        assert len(dataset) == count
        image, label = dataset.read(0)
        assert image.shape == (360, 480, 3) and label.shape == (360, 480)
