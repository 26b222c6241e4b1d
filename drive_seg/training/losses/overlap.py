"""A loss on how well whole classes overlap, which is what mIoU judges, rather than on pixels one by one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drive_seg.labels import VOID
from drive_seg.networks import SegmentationOutput
from drive_seg.training.targets import Targets, log_probabilities


class LovaszSoftmax(nn.Module):
    """M. Berman et al., "The Lovász-Softmax loss", CVPR 2018: eqs. 8 and 9, averaged over the classes of the batch.

    An error (1 - p of a pixel of the class, p of any other) weighs as much as the Jaccard loss grows when its pixel is
    counted as wrong after all those with larger errors. A pole of a few pixels thus counts as much as the road.

    Errors are ranked by counting them into bins instead of sorting millions of them: the value is within a bin's width
    of the exact one, and pixels of a bin share its weight.

    Where a label is a group of classes, the pixel says nothing of its members one by one; the group is judged like a
    class of its own, to which the pixels of its members belong too.

    Args:
        targets: of the run.
        bins: how many the errors between 0 and 1 are counted into.
    """

    def __init__(self, targets: Targets, bins: int = 1024) -> None:
        super().__init__()
        if bins < 2:
            raise ValueError(f"bins {bins} is below 2")
        self.groups, self.bins = targets.groups, bins
        sets = [{i} for i in range(targets.label_map.num_classes)] + [set(group) for group in targets.groups]
        # [id of a label, row that is judged], and the last id is void
        inside = [[there <= row for row in sets] for there in sets] + [[False] * len(sets)]
        judged = [[there <= row or not there & row for row in sets] for there in sets] + [[False] * len(sets)]
        self.register_buffer("inside", torch.tensor(inside), persistent=False)
        self.register_buffer("judged", torch.tensor(judged), persistent=False)

    def forward(self, output: SegmentationOutput, label: Tensor) -> Tensor:
        p = log_probabilities(output.logits, self.groups).exp().movedim(1, -1).flatten(0, 2)  # [N, T]
        target = label.flatten().long()
        target = torch.where(target == VOID, len(self.inside) - 1, target)
        inside = self.inside.index_select(0, target)
        # An error is 1 - p inside and p elsewhere, and its weight is not learnt: what is left is a sum over p.
        with torch.no_grad():
            weight = self._weights(torch.where(inside, 1 - p, p), inside, self.judged.index_select(0, target))
            constant, factor = (weight * inside).sum(), torch.where(inside, -weight, weight)
        return constant + (factor * p).sum()

    def _weights(self, error: Tensor, inside: Tensor, judged: Tensor) -> Tensor:
        """Each error's share in the loss, float32 like ``error`` [N, T]; 0 where its class is not judged or absent."""
        rows = error.shape[1]
        offset = self.bins * torch.arange(rows, dtype=torch.int32, device=error.device)
        # Bin 0 holds the largest errors; what is not judged goes behind the last bin of the last class.
        place = ((1 - error) * self.bins).to(torch.int32).clamp_(0, self.bins - 1).add_(offset)
        place.masked_fill_(~judged, rows * self.bins)
        count, hits = self._counts(place.flatten(), rows), self._counts(place[inside], rows)
        total, found = hits.sum(1, keepdim=True), hits.cumsum(1)
        union = total + (count - hits).cumsum(1)
        jaccard = 1 - (total - found) / union.clamp_min(1)
        growth = jaccard.diff(dim=1, prepend=jaccard.new_zeros(rows, 1))
        present = total > 0
        weight = growth / count.clamp_min(1) * present / present.sum().clamp_min(1)
        table = torch.cat((weight.flatten(), weight.new_zeros(1))).float()
        return table.index_select(0, place.flatten()).view_as(error)

    def _counts(self, place: Tensor, rows: int) -> Tensor:
        return torch.bincount(place, minlength=rows * self.bins + 1)[:-1].view(rows, self.bins).double()
