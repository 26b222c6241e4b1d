"""Which sample comes when: epochs in an order of their own, shared among devices, rare classes more often."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Sampler

from drive_seg.labels import VOID
from drive_seg.training.augmentation import patch_windows
from drive_seg.training.recipe import Patches
from drive_seg.training.statistics import for_each_sample

NO_FOCUS = -1


class Draw(NamedTuple):
    """One sample of an epoch.

    Attributes:
        epoch: which.
        number: differs between all draws of an epoch; with seed and epoch it decides the random numbers.
        index: of the sample.
        focus: an id that the training window shall hold, or ``NO_FOCUS``.
    """

    epoch: int
    number: int
    index: int
    focus: int = NO_FOCUS


class ClassUniform:
    """Draws a class, each as likely, then one of the samples that hold it: rare classes are seen as often as others.

    Args:
        present: bool [samples, 256], which ids occur in which sample (see :func:`ids_present`).
        share: of an epoch's samples that are drawn so, 0 to 1.

    Raises:
        ValueError: if no sample has a label.
    """

    def __init__(self, present: np.ndarray, share: float) -> None:
        self.share = share
        self.classes = np.flatnonzero(present[:, :VOID].any(0))
        if not self.classes.size:
            raise ValueError("no pixel of the training images has a label")
        self._holders = {int(c): np.flatnonzero(present[:, c]) for c in self.classes}

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """(index of a sample, id that it holds)."""
        focus = int(rng.choice(self.classes))
        return int(rng.choice(self._holders[focus])), focus


def ids_present(samples: Any, patches: Patches | None = None) -> np.ndarray:
    """Which ids occur in which sample, or in which patch of each; every label is read once.

    Args:
        samples: to read from.
        patches: the windows that each image is cut into, if any.

    Returns:
        bool [samples, 256], or [samples * patches, 256] with the patches of a sample one after the other.
    """

    def present(i: int) -> np.ndarray:
        label = samples.read(i)[1]
        windows = [...] if patches is None else patch_windows(label.shape, patches.size, patches.grid)
        return np.stack([np.bincount(label[window].ravel(), minlength=256) > 0 for window in windows])

    found = for_each_sample(samples, present, "classes of each image", progress=rank_zero_only.rank == 0)
    return np.concatenate(list(found))


class EpochOrder(Sampler[Draw]):
    """The draws of an epoch for one device.

    Without a seed these are all samples as they are. With one, each sample comes once, shuffled by seed and epoch
    alone, except that ``by_class`` replaces its share of them; the rest that fills no batch is left out. The devices
    take turns, so that together they get every draw exactly once, and a batch of all devices is the batch that a single
    one would have got.

    Args:
        length: number of samples.
        seed: of the run.
        batch_size: of an optimiser step, over all devices.
        device: (number of this device, how many there are).
        by_class: for over-sampling rare classes.

    The trainer calls ``set_epoch`` before each epoch.
    """

    def __init__(
        self,
        length: int,
        seed: int | None = None,
        batch_size: int = 1,
        device: tuple[int, int] = (0, 1),
        by_class: ClassUniform | None = None,
    ) -> None:
        self.length, self.seed, self.epoch = length, seed, 0
        self._taken = slice(device[0], length // batch_size * batch_size, device[1])
        self._by_class = by_class

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(range(self.length)[self._taken])

    def __iter__(self) -> Iterator[Draw]:
        return iter(self._draws()[self._taken])

    def _draws(self) -> list[Draw]:
        order = np.arange(self.length)
        if self.seed is None:
            return [Draw(self.epoch, int(i), int(i)) for i in order]
        rng = np.random.default_rng((self.seed, self.epoch))
        rng.shuffle(order)
        if self._by_class is None:
            return [Draw(self.epoch, int(i), int(i)) for i in order]
        count = round(self._by_class.share * self.length)
        draws = [Draw(self.epoch, int(i), int(i)) for i in order[: self.length - count]]
        draws += [Draw(self.epoch, self.length + slot, *self._by_class.draw(rng)) for slot in range(count)]
        return [draws[i] for i in rng.permutation(self.length)]
