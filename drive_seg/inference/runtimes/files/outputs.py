"""What the arrays of a file's network mean: logits, probabilities, sigmoids or ids become ids and confidence."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from drive_seg.inference.decision import decide
from drive_seg.inference.runtimes import NotFiniteError, Size
from drive_seg.labels import VOID, LabelMap
from drive_seg.networks.layers import resize

TOLERANCE = 0.02
"""How far probabilities of half precision may be from summing to 1."""


class Outputs:
    """The outputs of a network by its contract.

    Args:
        options: of the contract, see :func:`drive_seg.inference.runtimes.files.contract.contract_of`.
        label_map: of what comes out.

    Attributes:
        kind: "logits", "probabilities", "sigmoid" or "ids".
        classes: N of the network: its ids are 0..N-1.
        table: uint8 [256], the label map's id or 255 for each id of the network; None where they are the same.
    """

    def __init__(self, options: dict[str, Any], label_map: LabelMap) -> None:
        becomes = options.get("becomes")
        self.kind, self._label_map = options["output"], label_map
        self.classes = len(becomes) if becomes else label_map.num_classes
        self.table = None
        self._merged: Tensor | None = None
        if becomes:
            self.table = torch.full((256,), VOID, dtype=torch.uint8)
            self.table[: self.classes] = torch.tensor(becomes, dtype=torch.uint8)
            meanings, place = torch.tensor(becomes).unique(return_inverse=True)
            self._merged = place if len(meanings) < self.classes else None
        self._threshold = options.get("threshold")
        self._axis: int | None = None
        self._binary = False

    @property
    def gives_logits(self) -> bool:
        """Whether there are logits whose softmax are the probabilities of the classes."""
        return self.kind in ("logits", "probabilities") and not self._binary

    @property
    def plain(self) -> bool:
        """Whether to decide on the logits is all there is to do."""
        return self.kind == "logits" and self.gives_logits and self.table is None

    def check(self, values: np.ndarray, sureness: np.ndarray | None) -> None:
        """Look at what the network gave for an image that holds black, white, grey and colours.

        Raises:
            ValueError: if it is not what the contract says; the sentence names what it is.
        """
        about = f"{values.dtype} {list(values.shape)}"
        if values.ndim == 4 and len(values) != 1:
            raise ValueError(f"{about}, which is {len(values)} answers for one image")
        if self.kind == "ids":
            floating = np.issubdtype(values.dtype, np.floating)
            if _plane(values) is None or not (
                floating or values.dtype == bool or np.issubdtype(values.dtype, np.integer)
            ):
                raise ValueError(f"{about}; ids are whole numbers [N, h, w], [N, 1, h, w], [N, h, w, 1] or [h, w]")
            self._ids(values)
            if sureness is not None:
                _check_sureness(sureness)
            return
        if not np.issubdtype(values.dtype, np.floating):
            raise ValueError(f"{about}: these are ids, not {self.kind}: output: ids")
        self._axis, channels = self._axis_of_classes(values.shape, about)
        self._binary = channels == 1
        if self._threshold is not None and self.kind == "logits" and not self._binary:
            raise ValueError(f"{about}; threshold goes with one channel of logits")
        planes = self._arranged(values)
        _must_be_finite(planes.amax(1))
        wrong = _otherwise(planes, self.kind)
        if wrong:
            raise ValueError(f"{about}, {wrong}")

    def logits(self, values: np.ndarray | Tensor, size: Size) -> Tensor:
        """Logits float32 [B, C, h, w] of the label map at a size; only where it ``gives_logits``.

        Values in the memory of a device stay there; only where they are ``plain``.

        Of network classes that become one, they are of the sum of probabilities; those that become void are left out.
        """
        planes = self._planes(values, size)
        logits = _log(planes) if self.kind == "probabilities" else planes
        if self.table is None:
            return logits
        count = self._label_map.num_classes
        sums = torch.zeros(len(logits), count + 1, *logits.shape[2:])
        sums.index_add_(1, self.table[: self.classes].long().clamp(max=count), logits.softmax(1))
        return _log(sums[:, :count])

    def decide(
        self, values: np.ndarray, sureness: np.ndarray | None, size: Size, confidence: bool, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        """Ids of the label map or 255, and confidence if asked for: uint8 [B, h, w] each.

        Args:
            values: of the output, as :meth:`check` let them through.
            sureness: of the output that says how sure ids are, if there is one.
            size: (height, width) of the network's input: where logits are decided on.
            confidence: whether that is asked for; of network classes that become one it is the sum.
            temperature: what logits are divided by for it; what the network itself says of its ids stays.

        Raises:
            ValueError: if an id is not one of the network's.
            NotFiniteError: if a value is not finite.
        """
        if self.kind == "ids":
            ids, sure = self._ids(values), _bytes(sureness) if confidence and sureness is not None else None
        elif self._binary or self.kind == "sigmoid":
            ids, sure = self._over_threshold(self._planes(values, size), confidence, temperature)
        else:
            planes = self._planes(values, size)
            logits = _log(planes) if confidence and self.kind == "probabilities" else planes
            logits = logits / temperature if confidence and temperature != 1 else logits
            ids, sure = decide(logits, confidence)
            _must_be_finite(ids != VOID)
            if sure is not None and self._merged is not None:
                sure = self._summed(logits, ids)
        return (ids if self.table is None else self.table[ids.long()]), sure

    def _over_threshold(self, planes: Tensor, confidence: bool, temperature: float) -> tuple[Tensor, Tensor | None]:
        """Of one channel the class 0 or 1, of several the largest; with a threshold void where none reaches it."""
        largest, ids = planes.max(1)
        _must_be_finite(largest)
        chances = largest.sigmoid() if self.kind == "logits" else largest.clamp(0, 1)
        if self._binary:
            ids = (chances >= (self._threshold or 0.5)).to(torch.uint8)
            chances = torch.where(ids == 1, chances, 1 - chances)
        else:
            ids = ids.masked_fill(chances < (self._threshold or 0.0), VOID).to(torch.uint8)
        if not confidence:
            return ids, None
        return ids, (255 * (chances.logit() / temperature).sigmoid()).round().to(torch.uint8)

    def _summed(self, logits: Tensor, ids: Tensor) -> Tensor:
        """255 x the probability of what each id becomes: the sum over all classes of the network that become it."""
        shares = logits.softmax(1)
        sums = torch.zeros(len(shares), int(self._merged.max()) + 1, *shares.shape[2:])
        sums.index_add_(1, self._merged, shares)
        chosen = sums.gather(1, self._merged[ids.long()].unsqueeze(1))[:, 0]
        return (255 * chosen.clamp(max=1)).round().to(torch.uint8)

    def _ids(self, values: np.ndarray) -> Tensor:
        """uint8 [B, h, w] of ids in any shape and type."""
        if np.issubdtype(values.dtype, np.floating):
            _must_be_finite(torch.from_numpy(values))
            broken = values[np.rint(values) != values]
            if broken.size:
                raise ValueError(f"it gave {broken[0]:g}, which is no id: ids are whole numbers")
        strange = values[((values < 0) | (values >= self.classes)) & (values != VOID)]
        if strange.size:
            owner = f"label map '{self._label_map.name}'" if self.table is None else "the network by its contract"
            raise ValueError(
                f"it gave the id {int(strange[0])}, but {owner} has the ids 0..{self.classes - 1} and {VOID} is void"
            )
        return torch.from_numpy(_plane(values).astype(np.uint8))

    def _axis_of_classes(self, shape: tuple[int, ...], about: str) -> tuple[int | None, int]:
        """Which axis holds the classes, and how many; None where one channel has no axis of its own."""
        one_will_do = self.classes == 2 and self.kind != "probabilities"
        axes = {2: (), 3: (0, 2), 4: (1, 3)}.get(len(shape), ())
        for count in (self.classes, 1) if one_will_do else (self.classes,):
            for axis in axes:
                if shape[axis] == count:
                    return axis, count
        if one_will_do and len(shape) in (2, 3):
            return None, 1
        if not axes:
            raise ValueError(
                f"{about}; {self.kind} are floating-point numbers [N, classes, h, w] or [N, h, w, classes]"
            )
        count = min(shape[axis] for axis in axes)
        owner = f"label map '{self._label_map.name}'" if self.table is None else "the network by its contract"
        spare = f": if the last is no class, say ignore: [{count - 1}]" if count == self.classes + 1 else ""
        raise ValueError(f"{about}, so of {count} classes, but {owner} has {self.classes}{spare}")

    def _arranged(self, values: np.ndarray | Tensor) -> Tensor:
        """float32 [B, C, h, w], a view where it can be."""
        planes = torch.as_tensor(values).float()
        if self._axis is None:
            return planes.reshape(-1, 1, *planes.shape[-2:])
        if self._axis in (2, 3):
            planes = planes.movedim(-1, -3)
        return planes if planes.ndim == 4 else planes.unsqueeze(0)

    def _planes(self, values: np.ndarray | Tensor, size: Size) -> Tensor:
        """float32 [B, C, h, w] at a size: of a lower resolution, they are brought there bilinearly."""
        planes = self._arranged(values)
        return planes if planes.shape[-2:] == size else resize(planes, size)


def kind_of(values: Tensor) -> str:
    """What values [B, C, h, w] of an image of black, white and colours are: a kind, or "log-probabilities"."""
    lowest, highest = float(values.min()), float(values.max())
    if values.shape[1] > 1 and lowest > -1e-3 and float((values.sum(1) - 1).abs().max()) < TOLERANCE:
        return "probabilities"
    if values.shape[1] > 1 and highest < 1e-3 and float((values.exp().sum(1) - 1).abs().max()) < TOLERANCE:
        return "log-probabilities"
    return "sigmoid" if lowest >= 0 and highest <= 1 else "logits"


def _otherwise(planes: Tensor, wanted: str) -> str:
    """What the values are if not what they should be; empty if they may be that."""
    found = kind_of(planes)
    # The softmax of log-probabilities are the probabilities, so they are logits like any other.
    kind = "logits" if found == "log-probabilities" else found
    if kind == wanted:
        return ""
    what = {
        "probabilities": "which are 0 or more and sum to 1 over the classes: a softmax is inside the network",
        "sigmoid": "all between 0 and 1 and not of the sum 1: a sigmoid is inside the network",
        "logits": f"which are {float(planes.min()):.4g} to {float(planes.max()):.4g}: logits",
        "log-probabilities": "which are log-probabilities, and these are taken as logits",
    }[found]
    return f"{what}. The contract says output: {wanted}; it must say output: {kind}"


def _log(probabilities: Tensor) -> Tensor:
    """Logits whose softmax these are; what is not a number stays so."""
    return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()


def _must_be_finite(values: Tensor) -> None:
    """NotFiniteError if one is not, or is False."""
    finite = values if values.dtype == torch.bool else values.isfinite()
    if not finite.all():
        raise NotFiniteError(1 - float(finite.float().mean()))


def _plane(values: np.ndarray) -> np.ndarray | None:
    """[N, h, w] of [N, h, w], [N, 1, h, w], [N, h, w, 1] or [h, w]; None of anything else."""
    if values.ndim == 4 and values.shape[1] == 1:
        return values[:, 0]
    if values.ndim == 4 and values.shape[3] == 1:
        return values[..., 0]
    return {2: values[None], 3: values}.get(values.ndim) if values.size else None


def _check_sureness(values: np.ndarray) -> None:
    about = f"a label whose confidence is {values.dtype} {list(values.shape)}"
    if _plane(values) is None or not (values.dtype == np.uint8 or np.issubdtype(values.dtype, np.floating)):
        raise ValueError(
            f"{about}; uint8, or floating-point numbers 0..1, [N, h, w], [N, 1, h, w], [N, h, w, 1] or [h, w]"
        )
    if values.dtype != np.uint8 and not (values.min() >= -1e-3 and values.max() <= 1 + 1e-3):
        raise ValueError(f"{about} of {values.min():.4g} to {values.max():.4g}; floating-point numbers lie in 0..1")


def _bytes(values: np.ndarray) -> Tensor:
    """255 x the confidence, uint8 [B, h, w]."""
    plane = torch.from_numpy(np.array(_plane(values)))
    if plane.dtype == torch.uint8:
        return plane
    _must_be_finite(plane)
    return (255 * plane.float().clamp(0, 1)).round().to(torch.uint8)
