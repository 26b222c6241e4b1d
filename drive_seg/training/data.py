"""From a recipe's data section to batches."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from drive_seg.datasets import Dataset, open_dataset
from drive_seg.datasets.joined import Joined
from drive_seg.labels import label_map
from drive_seg.training.augmentation import Augment, patch_windows
from drive_seg.training.progress import bar
from drive_seg.training.recipe import Patches, Recipe, Source
from drive_seg.training.sampling import NO_FOCUS, ClassUniform, Draw, EpochOrder, ids_present
from drive_seg.training.statistics import class_counts
from drive_seg.training.targets import Targets

_GIB = 2**30


class Samples(Protocol):
    """Anything with samples: image uint8 BGR [H, W, 3] and label uint8 [H, W]."""

    def __len__(self) -> int: ...
    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]: ...


class InMemory:
    """Joined datasets decoded once and kept, so that no epoch waits for the disk.

    Args:
        dataset: to read from.
        limit: bytes that may be kept; samples beyond it are read whenever they are asked for.
    """

    def __init__(self, dataset: Joined, limit: float = float("inf")) -> None:
        self._dataset = dataset
        self._samples: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self.bytes = 0
        for i in bar(range(len(dataset)), len(dataset), "reading images", rank_zero_only.rank == 0):
            if self.bytes >= limit:
                break
            place = dataset.place(i)
            if place not in self._samples:
                self._samples[place] = image, label = dataset.read(i)
                self.bytes += image.nbytes + label.nbytes

    @property
    def reads_in_parallel(self) -> bool:
        return self._dataset.reads_in_parallel

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        kept = self._samples.get(self._dataset.place(i))
        return self._dataset.read(i) if kept is None else kept


class Patched:
    """Each image as its overlapping patches, which follow one another."""

    def __init__(self, samples: Samples, patches: Patches) -> None:
        self._samples, self._patches = samples, patches
        self._count = patches.grid[0] * patches.grid[1]

    def __len__(self) -> int:
        return len(self._samples) * self._count

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        image, label = self._samples.read(i // self._count)
        window = patch_windows(label.shape, self._patches.size, self._patches.grid)[i % self._count]
        return image[window], label[window]


class Batches(TorchDataset):
    """Samples as tensors: image uint8 BGR [3, H, W], label uint8 [H, W], augmented if ``augment`` is given.

    Items are asked for by :class:`Draw`, and the random numbers of one depend on its epoch and number and on the seed
    alone: workers, devices and resuming change nothing.
    """

    def __init__(self, samples: Samples, augment: Augment | None, seed: int) -> None:
        self.samples, self.augment, self.seed = samples, augment, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        return self._varied(draw, *self.samples.read(draw.index))

    def __getitems__(self, draws: list[Draw]) -> list[tuple[Tensor, Tensor]]:
        """A batch, varied side by side by as many threads as the training step has: OpenCV leaves Python's lock."""
        samples = [self.samples.read(draw.index) for draw in draws]  # not every dataset can be read by several threads
        with ThreadPoolExecutor(min(torch.get_num_threads(), len(draws))) as pool:
            return list(pool.map(self._varied, draws, *zip(*samples, strict=True)))

    def _varied(self, draw: Draw, image: np.ndarray, label: np.ndarray) -> tuple[Tensor, Tensor]:
        if self.augment is not None:
            rng = np.random.default_rng((self.seed, draw.epoch, draw.number))
            image, label = self.augment(image, label, rng, None if draw.focus == NO_FOCUS else draw.focus)
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label)


class SegmentationData(lightning.LightningDataModule):
    """Training and validation batches of a recipe.

    Attributes:
        targets: what the ids of the labels mean, and their shares in the training labels.
        val_ids: the ids that validation labels can hold.

    Raises:
        ValueError: if a dataset is unknown or broken, or smaller than one batch.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        train, val = ([(_open(s), s.repeat, s.meaning) for s in part] for part in (recipe.data.train, recipe.data.val))
        first: Dataset = train[0][0]
        classes = first.label_map if recipe.data.label_map is None else label_map(recipe.data.label_map)
        groups: list[tuple[int, ...]] = []
        self._train_set, self._val_set = Joined(classes, train, groups), Joined(classes, val, groups)
        if self.steps_per_epoch < 1:
            size = recipe.data.batch_size
            raise ValueError(f"{len(self._train_set)} training images do not fill one batch of {size}")
        counts = self._train_set.counts(class_counts)[: classes.num_classes + len(groups)]
        self.targets = Targets(classes, tuple(groups), counts / max(counts.sum(), 1))
        self.val_ids = self._val_set.ids()
        self._train: Batches | None = None
        self._val: Batches | None = None
        self._by_class: ClassUniform | None = None

    def setup(self, stage: str) -> None:
        if self._train is not None:
            return
        recipe, limit = self.recipe, self.recipe.data.cache_gib * _GIB
        images = InMemory(self._train_set, limit)
        patches = recipe.augmentation.patches
        samples = images if patches is None else Patched(images, patches)
        if recipe.data.class_uniform:
            self._by_class = ClassUniform(ids_present(images, patches), recipe.data.class_uniform)
        self._train = Batches(samples, Augment(recipe.data.crop, recipe.augmentation), recipe.seed)
        self._val = Batches(InMemory(self._val_set, limit - images.bytes), None, recipe.seed)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch; the last, smaller batch is left out, since Batch Norm would weigh it alike."""
        patches = self.recipe.augmentation.patches
        count = 1 if patches is None else patches.grid[0] * patches.grid[1]
        return len(self._train_set) * count // self.recipe.data.batch_size

    @property
    def workers(self) -> int:
        """Processes that prepare batches for one device."""
        given = self.recipe.data.workers
        if given is not None:
            return given
        return min(8, (os.cpu_count() or 1) // self.recipe.devices) if torch.cuda.is_available() else 0

    def train_dataloader(self) -> DataLoader:
        recipe = self.recipe
        order = EpochOrder(len(self._train), recipe.seed, recipe.data.batch_size, self._device(), self._by_class)
        return self._loader(self._train, order, batch_size=recipe.part_size)

    def val_dataloader(self) -> DataLoader:
        # one by one: images of a set may differ in size
        return self._loader(self._val, EpochOrder(len(self._val), device=self._device()), batch_size=1)

    def _device(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(self, samples: Batches, order: EpochOrder, **arguments: Any) -> DataLoader:
        workers = self.workers
        return DataLoader(
            samples,
            sampler=order,
            num_workers=workers,
            # Forks share the images in memory. Python 3.14's default would send each worker a copy of them.
            multiprocessing_context="fork" if workers else None,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=_collate,
            **arguments,
        )


def _collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A batch whose images stay as they are in memory, a pixel's channels side by side, as networks take them here."""
    images, labels = zip(*items, strict=True)
    pixels = torch.stack([image.permute(1, 2, 0) for image in images])
    return pixels.permute(0, 3, 1, 2), torch.stack(labels)


def _open(source: Source) -> Dataset:
    return open_dataset(source.dataset, **source.arguments)
