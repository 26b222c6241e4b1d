"""Which sample comes when, on which device, and from where it is read."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.torch import load_file

from drive_seg.datasets import open_dataset
from drive_seg.datasets.joined import Joined
from drive_seg.labels import CAMVID11
from drive_seg.training.data import InMemory, Patched, SegmentationData
from drive_seg.training.recipe import Patches, load_recipe
from drive_seg.training.sampling import NO_FOCUS, ClassUniform, EpochOrder, ids_present


def order_of(epoch, *args, **kwargs):
    order = EpochOrder(*args, **kwargs)
    order.set_epoch(epoch)
    draws = list(order)
    assert len(draws) == len(order)
    return draws


def test_each_sample_comes_once_in_an_order_of_the_epochs_own():
    first, second = (order_of(epoch, 50, 3) for epoch in (0, 1))
    assert sorted(d.index for d in first) == sorted(d.index for d in second) == list(range(50))
    assert [d.index for d in first] != [d.index for d in second]
    assert first == order_of(0, 50, 3) and {d.focus for d in first} == {NO_FOCUS}


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("length", [16, 19, 23])
def test_devices_share_every_batch_without_repeating_or_losing(devices, length):
    """Batches of 8: at each step the devices together hold what a single one would."""
    alone = order_of(2, length, 5, 8)
    assert len(alone) == length // 8 * 8
    shares = [order_of(2, length, 5, 8, (rank, devices)) for rank in range(devices)]
    part = 8 // devices
    for step in range(length // 8):
        together = [d for share in shares for d in share[step * part : (step + 1) * part]]
        assert sorted(together) == sorted(alone[step * 8 : (step + 1) * 8])


def test_validation_images_are_shared_however_many_there_are():
    shares = [order_of(0, 7, device=(rank, 3)) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 2, 2]
    assert sorted(d.index for share in shares for d in share) == list(range(7))


@pytest.fixture
def rare():
    """100 samples: id 0 in all of them, id 1 in every second one, id 9 in number 42 alone."""
    present = np.zeros((100, 256), bool)
    present[:, 0] = present[::2, 1] = present[42, 9] = True
    present[:, 255] = True
    return present


def test_rare_classes_come_as_often_as_others(rare):
    draws = [d for epoch in range(30) for d in order_of(epoch, 100, 1, 10, by_class=ClassUniform(rare, 0.6))]
    chosen = [d for d in draws if d.focus != NO_FOCUS]
    assert len(draws) == 3000 and len(chosen) == 1800
    assert all(rare[d.index, d.focus] for d in chosen)
    for focus in (0, 1, 9):
        assert sum(d.focus == focus for d in chosen) == pytest.approx(600, abs=80)


def test_no_two_draws_of_an_epoch_share_their_random_numbers(rare):
    draws = order_of(4, 100, 1, by_class=ClassUniform(rare, 0.5))
    assert len({d.number for d in draws}) == 100
    plain = [d for d in draws if d.focus == NO_FOCUS]
    assert len({d.index for d in plain}) == 50 and all(d.number == d.index for d in plain)


def test_over_sampling_depends_on_seed_and_epoch_alone(rare):
    assert order_of(4, 100, 1, by_class=ClassUniform(rare, 0.5)) == order_of(
        4, 100, 1, by_class=ClassUniform(rare, 0.5)
    )
    whole = order_of(4, 100, 1, 10, by_class=ClassUniform(rare, 0.5))
    halves = [order_of(4, 100, 1, 10, (rank, 2), ClassUniform(rare, 0.5)) for rank in range(2)]
    assert sorted(halves[0] + halves[1]) == sorted(whole)


def test_over_sampling_needs_a_label():
    with pytest.raises(ValueError, match="no pixel"):
        ClassUniform(np.zeros((3, 256), bool), 0.5)


def joined(tree):
    return Joined(CAMVID11, [(open_dataset("camvid", root=tree, split="train"), 2, {})], [])


def test_presence_is_read_from_the_labels(tree):
    samples = joined(tree)
    present = ids_present(samples)
    assert present.shape == (16, 256)
    for i in range(len(samples)):
        assert np.flatnonzero(present[i]).tolist() == np.unique(samples.read(i)[1]).tolist()


def test_presence_in_patches_takes_one_read_of_each_image(tree, monkeypatch):
    samples, patches = joined(tree), Patches(size=(32, 32), grid=(2, 3))
    patched = Patched(samples, patches)
    expected = [np.unique(patched.read(i)[1]).tolist() for i in range(len(patched))]
    reads, original = [], samples.read
    monkeypatch.setattr(samples, "read", lambda i: reads.append(i) or original(i))
    present = ids_present(samples, patches)
    assert [np.flatnonzero(ids).tolist() for ids in present] == expected
    assert sorted(reads) == list(range(16))


@pytest.mark.parametrize(("limit", "kept"), [(0, 0), (1, 1), (3 * 48 * 64 * 4, 3), (float("inf"), 8)])
def test_as_many_images_are_kept_as_there_is_memory_for(tree, monkeypatch, limit, kept):
    """One takes 48 x 64 x 4 bytes; the one that reaches the limit is still kept, repeats count once."""
    samples = joined(tree)
    cache = InMemory(samples, limit)
    assert cache.bytes == kept * 48 * 64 * 4
    expected = [samples.read(i) for i in range(16)]
    reads = []
    original = samples.read
    monkeypatch.setattr(samples, "read", lambda i: reads.append(i) or original(i))
    for i in range(16):
        assert all((a == b).all() for a, b in zip(cache.read(i), expected[i], strict=True))
    assert len(reads) == 2 * (8 - kept)


def test_patches_are_samples(tree):
    samples = joined(tree)
    patched = Patched(samples, Patches(size=(32, 32), grid=(2, 3)))
    assert len(patched) == 96
    image, label = samples.read(5)
    for number, (y, x) in enumerate([(0, 0), (0, 16), (0, 32), (16, 0), (16, 16), (16, 32)]):
        a, b = patched.read(5 * 6 + number)
        assert (a == image[y : y + 32, x : x + 32]).all() and (b == label[y : y + 32, x : x + 32]).all()


def test_an_epoch_counts_patches(recipe_file):
    patches = "augmentation.patches={size: [32, 32], grid: [2, 3]}"
    data = SegmentationData(load_recipe(recipe_file, [patches, "data.crop=[24, 24]", "data.class_uniform=0.5"]))
    assert data.steps_per_epoch == 8 * 6 // 4
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == 12 and batches[0][0].shape == (4, 3, 24, 24) and batches[0][1].shape == (4, 24, 24)


def test_a_batch_passes_through_in_parts(recipe_file):
    data = SegmentationData(load_recipe(recipe_file, ["accumulate=2"]))
    data.setup("fit")
    assert data.steps_per_epoch == 2 and [len(label) for _, label in data.train_dataloader()] == [2, 2, 2, 2]


BY_TWO_WORKERS = """
import multiprocessing
import sys
from safetensors.torch import save_file
from drive_seg.training.data import SegmentationData
from drive_seg.training.recipe import load_recipe

multiprocessing.set_start_method("forkserver")  # the default of Python 3.14
data = SegmentationData(load_recipe(sys.argv[1], ["data.workers=2", "data.class_uniform=0.5"]))
data.setup("fit")
loader = data.train_dataloader()
assert loader.multiprocessing_context.get_start_method() == "fork"
batches = enumerate(loader)
save_file({f"{i} {j}": part.contiguous() for i, batch in batches for j, part in enumerate(batch)}, sys.argv[2])
"""


def test_a_gpu_is_fed_by_the_cores_there_are(recipe_file, monkeypatch):
    def workers(*settings):
        return SegmentationData(load_recipe(recipe_file, list(settings))).workers

    monkeypatch.setattr("os.cpu_count", lambda: 12)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert workers() == 0 and workers("data.workers=3") == 3
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [workers(), workers("devices=2"), workers("data.workers=0")] == [8, 6, 0]


def test_workers_change_nothing(recipe_file, tmp_path):
    """Workers are forks, which only a process without threads of other libraries should make: one of its own does."""
    data = SegmentationData(load_recipe(recipe_file, ["data.class_uniform=0.5"]))
    data.setup("fit")
    file = tmp_path / "batches.safetensors"
    subprocess.run([sys.executable, "-c", BY_TWO_WORKERS, str(recipe_file), str(file)], check=True, timeout=300)
    here = {f"{i} {j}": part for i, batch in enumerate(data.train_dataloader()) for j, part in enumerate(batch)}
    there = load_file(file)
    assert here.keys() == there.keys() and len(here) == 2 * data.steps_per_epoch
    assert all(part.equal(there[name]) for name, part in here.items())
