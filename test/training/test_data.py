"""A batch is varied by several threads at once, and is what its samples are one by one."""

import threading

import numpy as np
import pytest
import torch

from drive_seg.training.augmentation import Augment
from drive_seg.training.data import Batches
from drive_seg.training.recipe import Augmentation
from drive_seg.training.sampling import NO_FOCUS, Draw


class Noise:
    """Samples of any number, which remember the threads that read them."""

    def __init__(self):
        self.readers = set()

    def __len__(self):
        return 9

    def read(self, i):
        self.readers.add(threading.get_ident())
        rng = np.random.default_rng(i)
        return rng.integers(256, size=(40, 50, 3), dtype=np.uint8), rng.integers(5, size=(40, 50), dtype=np.uint8)


@pytest.mark.parametrize("augment", [Augment((32, 48), Augmentation(degraded=0.5)), None], ids=["augmented", "plain"])
def test_a_batch_holds_its_samples_in_their_order(augment):
    samples = Noise()
    batches = Batches(samples, augment, seed=3)
    draws = [Draw(index, 1, number, NO_FOCUS) for number, index in enumerate((4, 0, 8, 4, 2))]
    together, apart = batches.__getitems__(draws), [batches[draw] for draw in draws]
    assert all(
        torch.equal(a, b) for one, other in zip(together, apart, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert samples.readers == {threading.get_ident()}  # not every dataset can be read by several threads
