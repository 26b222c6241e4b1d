"""From a recipe's data section to batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning
import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from drive_seg.labels import LabelMap
from drive_seg.training.augmentation import Augment
from drive_seg.training.datasets import Dataset, open_dataset
from drive_seg.training.recipe import Recipe
from drive_seg.training.statistics import class_frequency


class InMemory:
    """A dataset decoded once and kept, so that no epoch waits for the disk.

    It has the members of :class:`~drive_seg.training.datasets.Dataset` that reading needs.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.label_map = dataset.label_map
        steps = track(range(len(dataset)), description="reading images", transient=True)
        self._samples = [dataset.read(i) for i in steps]

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self._samples[i]


class Batches(TorchDataset):
    """Samples as tensors: image uint8 BGR [3, H, W], label uint8 [H, W], augmented if ``augment`` is given.

    Items are asked for by (epoch, index), and the random numbers of one depend on these two and the seed alone:
    workers and resuming change nothing.
    """

    def __init__(self, samples: InMemory, augment: Augment | None, seed: int) -> None:
        self.samples, self.augment, self.seed = samples, augment, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, epoch_and_index: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, i = epoch_and_index
        image, label = self.samples.read(i)
        if self.augment is not None:
            image, label = self.augment(image, label, np.random.default_rng((self.seed, epoch, i)))
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label)


class EpochOrder(Sampler[tuple[int, int]]):
    """(epoch, index) of each sample once, in an order drawn from seed and epoch, or as they are without a seed.

    The trainer calls ``set_epoch`` before each epoch.
    """

    def __init__(self, length: int, seed: int | None = None) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.seed is not None:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        return ((self.epoch, int(i)) for i in order)


class SegmentationData(lightning.LightningDataModule):
    """Training and validation batches of a recipe.

    Attributes:
        label_map: what the ids mean.
        frequency: float64 [C], class shares of the training labels.

    Raises:
        ValueError: if a dataset is unknown or broken, or smaller than one batch.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self._train_set = open_dataset(recipe.data.dataset, **recipe.data.train)
        self._val_set = open_dataset(recipe.data.dataset, **recipe.data.val)
        if self.steps_per_epoch < 1:
            size = recipe.data.batch_size
            raise ValueError(f"{len(self._train_set)} training images do not fill one batch of {size}")
        self.label_map: LabelMap = self._train_set.label_map
        self.frequency = class_frequency(self._train_set)
        self._train: Batches | None = None
        self._val: Batches | None = None

    def setup(self, stage: str) -> None:
        if self._train is None:
            augment = Augment(self.recipe.data.crop, self.recipe.augmentation)
            self._train = Batches(InMemory(self._train_set), augment, self.recipe.seed)
            self._val = Batches(InMemory(self._val_set), None, self.recipe.seed)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch; the last, smaller one is left out, since Batch Norm would weigh it like the others."""
        return len(self._train_set) // self.recipe.data.batch_size

    def train_dataloader(self) -> DataLoader:
        order = EpochOrder(len(self._train), self.recipe.seed)
        return self._loader(self._train, order, batch_size=self.recipe.data.batch_size, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        # one by one: images of a set may differ in size
        return self._loader(self._val, EpochOrder(len(self._val)), batch_size=1)

    def _loader(self, samples: Batches, order: EpochOrder, **arguments: Any) -> DataLoader:
        workers = self.recipe.data.workers
        return DataLoader(
            samples,
            sampler=order,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            **arguments,
        )
