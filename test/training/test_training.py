"""From a tree of images to a checkpoint the Segmenter loads; resumed training equals uninterrupted training."""

import json

import cv2
import numpy as np
import pytest
import torch

from drive_seg import checkpoint
from drive_seg.labels import CAMVID11
from drive_seg.segmenter import Segmenter
from drive_seg.training import evaluation
from drive_seg.training.augmentation import Augment, jitter_colour, random_crop
from drive_seg.training.datasets import open_dataset
from drive_seg.training.recipe import Augmentation, RecipeError, load_recipe
from drive_seg.training.statistics import class_frequency
from drive_seg.training.task import decay_groups, poly_rate
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
    assert matrix.pixel_accuracy() > 0.8  # two flat colours are learnt in sixty steps


def test_resuming_gives_the_same_weights_as_going_through(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, ["schedule.epochs=4", "augmentation.photometric=0.5"])
    through = train(recipe, tmp_path / "through", progress=False)

    class KilledError(Exception):
        pass

    import lightning

    def stop_after_two(self, *_args):
        if self.trainer.current_epoch == 2:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightning.LightningModule, "on_train_epoch_start", stop_after_two)
        with pytest.raises(KilledError):
            train(recipe, tmp_path / "resumed", progress=False)
    train(recipe, tmp_path / "resumed", progress=False)
    one, other = (torch.load(tmp_path / run / "last.ckpt", weights_only=True) for run in ("through", "resumed"))
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part]), part
    assert checkpoint.load(through).sha256 == checkpoint.load(tmp_path / "resumed" / "best.safetensors").sha256


def test_warm_start_takes_over_what_fits(recipe_file, tmp_path):
    first = train(load_recipe(recipe_file, ["schedule.epochs=1"]), tmp_path / "first", progress=False)
    from drive_seg.training.task import SegmentationTask

    recipe = load_recipe(recipe_file, [f"warm_start={first}"])
    task = SegmentationTask(recipe, CAMVID11, np.full(11, 1 / 11), steps_per_epoch=2)
    tensors = checkpoint.load(first).tensors
    assert torch.equal(task.network.state_dict()["stage3.0.right.0.0.weight"], tensors["stage3.0.right.0.0.weight"])


def test_recipes_of_the_package_are_valid(checkout):
    recipes = sorted((checkout / "config" / "train").glob("*.yaml"))
    assert {path.stem for path in recipes} >= {"dsnet_camvid11", "dsnet_synth19"}
    for path in recipes:
        assert load_recipe(path).name == path.stem


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("optimizer.lr=fast", "optimizer.lr: .*valid number"),
        ("optimizer.momentun=0.9", "optimizer.momentun: Extra inputs"),
        ("schedule.epochs=0", "schedule.epochs: .*greater than or equal to 1"),
        ("augmentation.scale=[2, 1]", "scale must be"),
        ("optimizer.name=lion", "'adamw' or 'sgd'"),
        ("nonsense", "not of the form setting=value"),
        ("name.first=x", "'name' is not a group"),
    ],
)
def test_bad_settings_are_named(recipe_file, override, complaint):
    with pytest.raises(RecipeError, match=complaint):
        load_recipe(recipe_file, [override])


def test_unreadable_recipes_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read as YAML"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(RecipeError, match="not a mapping"):
        load_recipe(tmp_path / "list.yaml")


def test_class_frequency_counts_valid_pixels_and_is_kept(tree, monkeypatch):
    dataset = open_dataset("camvid", root=tree, split="train")
    pixels = np.concatenate([dataset.read(i)[1].ravel() for i in range(len(dataset))])
    expected = [(pixels == c).sum() / (pixels != 255).sum() for c in range(11)]
    frequency = class_frequency(dataset)
    np.testing.assert_allclose(frequency, expected, rtol=1e-15)
    assert frequency.dtype == np.float64
    assert len(list(tree.glob(".class_statistics_*.json"))) == 1
    monkeypatch.setattr(dataset, "read", lambda i: pytest.fail("the cache was not used"))
    np.testing.assert_array_equal(class_frequency(dataset), frequency)


def test_changed_labels_are_counted_anew(tree):
    before = class_frequency(open_dataset("camvid", root=tree, split="val"))
    label = tree / "val" / "labels" / "000.png"
    cv2.imwrite(str(label), np.full((48, 64), 5, np.uint8))
    after = class_frequency(open_dataset("camvid", root=tree, split="val"))
    assert before[5] == 0 and after[5] > 0.3


def test_statistics_of_a_read_only_folder_go_to_the_users_cache(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tree.chmod(0o555)
    class_frequency(open_dataset("camvid", root=tree, split="train"))
    tree.chmod(0o755)
    assert not list(tree.glob(".class_statistics*"))
    assert len(list((tmp_path / "cache" / "drive_seg").glob("class_statistics_*.json"))) == 1


def test_broken_datasets_are_named(tree):
    (tree / "val" / "labels" / "001.png").unlink()
    with pytest.raises(ValueError, match="1 files have no partner, the first is '001'"):
        open_dataset("camvid", root=tree, split="val")
    with pytest.raises(ValueError, match="there is no folder"):
        open_dataset("camvid", root=tree, split="test")
    with pytest.raises(ValueError, match="no dataset is called 'kitti'; there are: camvid, synth"):
        open_dataset("kitti")
    with pytest.raises(ValueError, match="unexpected keyword argument 'colour'"):
        open_dataset("camvid", root=tree, split="train", colour=1)
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


def test_augmentation_moves_image_and_label_alike():
    """An image whose blue channel is its label: after any geometry they still agree, padding is void."""
    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(0, 11, (6, 8)), np.ones((16, 16))).astype(np.uint8)
    image = np.repeat((label * 20)[..., None], 3, 2).astype(np.uint8)
    augment = Augment((64, 96), Augmentation(scale=(0.4, 2.0), aspect=0.2, photometric=0.0))
    voids = 0
    for seed in range(40):
        a, b = augment(image, label, np.random.default_rng(seed))
        assert a.shape == (64, 96, 3) and b.shape == (64, 96) and a.flags.c_contiguous
        inside = b != 255
        voids += (~inside).sum()
        agree = np.abs(a[..., 0].astype(int) - b.astype(int) * 20) <= 10
        assert agree[inside].mean() > 0.75  # resizing blurs the borders of the patches
    assert voids > 0


def test_augmentation_depends_on_its_generator_alone():
    image = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    label = np.zeros((40, 60), np.uint8)
    augment = Augment((32, 48), Augmentation())
    one, same = (augment(image, label, np.random.default_rng(5)) for _ in range(2))
    other = augment(image, label, np.random.default_rng(6))
    assert (one[0] == same[0]).all() and not (one[0] == other[0]).all()


def test_crops_visit_every_corner_and_pad_small_images():
    label = np.arange(16, dtype=np.uint8).reshape(4, 4)
    image = np.repeat(label[..., None], 3, 2)
    seen = {random_crop(image, label, (2, 2), np.random.default_rng(s))[1][0, 0] for s in range(200)}
    assert seen == {0, 1, 2, 4, 5, 6, 8, 9, 10}
    padded, void = random_crop(image, label, (6, 6), np.random.default_rng(0))
    assert (void != 255).sum() == 16 and padded.shape == (6, 6, 3)


def test_colour_jitter_keeps_the_picture():
    image = np.kron(np.array([[40, 200], [120, 80]]), np.ones((16, 16)))[..., None].repeat(3, 2).astype(np.uint8)
    for seed in range(20):
        out = jitter_colour(image, np.random.default_rng(seed)).astype(int)
        assert out.shape == image.shape
        assert out[:12, :12].mean() < out[20:, :12].mean() + 1 and out[:12, 20:].mean() > out[20:, 20:].mean() - 1


def test_learning_rate_rises_then_falls_as_the_paper_says():
    assert poly_rate(0, 100, 9, 0.9) == pytest.approx(0.1)
    assert poly_rate(50, 100, 9, 0.9) == pytest.approx(0.5**0.9)
    assert poly_rate(100, 100, 9, 0.9) == 0
    assert poly_rate(0, 100, 0, 0.9) == 1


def test_weight_decay_spares_batch_norm_and_biases():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    kernels, vectors = decay_groups(network, 0.1)
    assert [p.ndim for p in kernels["params"]] == [4] and kernels["weight_decay"] == 0.1
    assert len(vectors["params"]) == 3 and vectors["weight_decay"] == 0
