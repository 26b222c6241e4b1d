"""A loss on how well whole classes overlap, which is what mIoU judges, rather than on pixels one by one."""

from __future__ import annotations

from torch import Tensor, nn

from drive_seg.networks import SegmentationOutput
from drive_seg.training.losses.shared import Overlap, Shared
from drive_seg.training.targets import Targets


class LovaszSoftmax(nn.Module):
    """M. Berman et al., "The Lovász-Softmax loss", CVPR 2018: eqs. 8 and 9, averaged over the classes of the batch.

    An error (1 - p of a pixel of the class, p of any other) weighs as much as the Jaccard loss grows when its pixel is
    counted as wrong after all those with larger errors. A pole of a few pixels thus counts as much as the road.

    Errors are ranked by counting them into bins instead of sorting millions of them: the value is within a bin's width
    of the exact one, and pixels of a bin share its weight.

    Groups of classes are rows of their own, see :class:`~drive_seg.training.losses.shared.Rows`.

    Args:
        targets: of the run.
        bins: how many the errors between 0 and 1 are counted into.
    """

    def __init__(self, targets: Targets, bins: int = 1024) -> None:
        super().__init__()
        if bins < 2:
            raise ValueError(f"bins {bins} is below 2")
        self.shared, self.overlap = Shared(targets), Overlap(bins, growth)

    def forward(self, output: SegmentationOutput, label: Tensor) -> Tensor:
        return self.shared(output.logits, label, self.overlap)[1]


def growth(count: Tensor, hits: Tensor) -> Tensor:
    """What an error of each bin weighs: how much the Jaccard loss grows with the bin, by its pixels and the classes.

    Args:
        count: float64 [rows, bins], pixels whose error falls into the bin; bin 0 holds the largest errors.
        hits: float64 [rows, bins], how many of them are of the row's class.

    Returns:
        float64 [rows, bins], 0 where the class is absent.
    """
    total, found = hits.sum(1, keepdim=True), hits.cumsum(1)
    union = total + (count - hits).cumsum(1)
    jaccard = 1 - (total - found) / union.clamp_min(1)
    grown = jaccard.diff(dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
    present = total > 0
    return grown / count.clamp_min(1) * present / present.sum().clamp_min(1)
