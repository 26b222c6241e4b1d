"""What each process of the distributed tests runs: ``ddp_run.py RECIPE FOLDER SETTING...``."""

import sys
from pathlib import Path

import torch
from torch import nn

from drive_seg.networks import SegmentationNetwork, SegmentationOutput, catalog
from drive_seg.training.recipe import load_recipe
from drive_seg.training.train import train


class Plain(SegmentationNetwork):
    """No Batch Norm: SyncBatchNorm runs on GPUs only, and without it two devices normalise by halves of the batch.

    ``side`` has no loss in the recipe.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stages = {}
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head, self.side = nn.Conv2d(8, num_classes, 1), nn.Conv2d(8, num_classes, 1)

    def segment(self, image, balance):
        x = self.body(image)
        return SegmentationOutput(self.head(x), aux_logits=self.side(x))


class Normalised(Plain):
    """With Batch Norm, whose statistics are each device's own on the CPU."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.body.insert(1, nn.BatchNorm2d(8))


if __name__ == "__main__":
    torch.set_num_threads(1)
    catalog._CATALOG.update(plain=Plain, normalised=Normalised)
    recipe, folder, *settings = sys.argv[1:]
    train(load_recipe(recipe, settings), Path(folder), progress=False)
