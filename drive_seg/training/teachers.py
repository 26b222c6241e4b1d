"""Finished models that another one learns from, each for the classes that it tells apart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from drive_seg import checkpoint
from drive_seg.checkpoint import Contract
from drive_seg.inference.path import resized
from drive_seg.inference.runtimes import MULTIPLE, Runtime, Size, choice
from drive_seg.inference.runtimes.files import onnx_file
from drive_seg.labels import VOID, LabelMap
from drive_seg.labels.groups import group_names, known_meaning, translation
from drive_seg.segmenter import network_size
from drive_seg.training.inference import Inference, averaged
from drive_seg.training.losses.distillation import Lesson
from drive_seg.training.recipe import Teacher as Settings

Members = tuple[int, ...]
"""Class ids of the run, in order."""
_LEAST = 1e-12
"""Probability below which none is told: its logarithm stays finite."""


class Teacher:
    """One model, ready to be asked.

    Args:
        settings: which, and how it is asked.
        label_map: the classes of the run.

    Attributes:
        origin: ``name``, of its recipe or the file's, ``sha256``, and what is set beside the model.
        licence: its contract's.
        members: for each class of its own the classes of the run that it may be; empty where it says nothing.

    Raises:
        ValueError: if the file cannot be used, gives no probabilities, or a class has no counterpart in the run.
    """

    def __init__(self, settings: Settings, label_map: LabelMap) -> None:
        path = checkpoint.find_model(settings.model)
        self._input_size: Size | None = None
        self._multiple = MULTIPLE
        if onnx_file.is_file_with_contract(path):
            file = onnx_file.read(path)
            runtime = choice.for_file(file, "cpu", "auto", "auto", 0)
            if not runtime.gives_logits:
                raise ValueError(f"teacher {path}: it gives class ids, or a sigmoid, and no probabilities of classes")
            self._network, self._input_size, self._multiple = _on_the_cpu(runtime), runtime.fixed_size, runtime.multiple
            contract, name, sha256 = file.contract, file.path.stem, file.sha256
        else:
            loaded = checkpoint.load(path)
            network = loaded.build_network().requires_grad_(False).to(memory_format=torch.channels_last)
            self._network = network
            contract, sha256 = loaded.contract, loaded.sha256
            name = contract.training.get("name", path.stem)
        try:
            self._inference = Inference(settings.scales, settings.flip).for_size(self._input_size)
            self.members = _members(contract, label_map, settings.meaning)
            if not any(self.members):
                raise ValueError("none of its classes means one of the run: see 'meaning'")
        except ValueError as error:
            raise ValueError(f"teacher {path}: {error}") from None
        self.path, self._contract, self._label_map = path, contract, label_map
        self.settings, self.licence = settings, contract.licence
        self.origin: dict[str, Any] = {"name": name, "sha256": sha256, **settings.how}

    def blocks(self) -> tuple[Members, ...]:
        """What it tells apart beyond doubt: of ``members``, those that overlap as one.

        Raises:
            ValueError: if that is nothing.
        """
        found = _disjoint(self.members)
        if len(found[0]) == self._label_map.num_classes:
            names = ", ".join(group_names(self._label_map, dict.fromkeys(filter(None, self.members))))
            raise ValueError(
                f"teacher {self.path}: it tells no classes of the run apart, as its own mean {names}: say under "
                "'meaning' what these are, [] for one that overlaps with others"
            )
        return found

    def to(self, device: torch.device) -> None:
        """Move it; a file of its own runtime stays where that runs."""
        if isinstance(self._network, nn.Module):
            self._network.to(device)

    @torch.no_grad()
    def lesson(self, image: Tensor, blocks: tuple[Members, ...]) -> Lesson:
        """What it says about windows of training, uint8 BGR [B, 3, H, W], which it sees in their own size."""
        size = (image.shape[-2], image.shape[-1])
        bound = self.settings.min_confidence
        if isinstance(self._network, nn.Module) and self.members == blocks and self._inference == Inference():
            logits = self._network(self._contract.input.normalise(image))
            return Lesson(logits, blocks, logits.float().softmax(1).amax(1) >= bound if bound else None)
        p = self.sums(self._averaged(image, self._seen_size(size), size), blocks)
        best = p.amax(1)
        sure = best >= bound if bound else None
        if not all(self.members):  # silent where the classes that mean nothing in the run are more probable
            speaks = best >= 1 - p.sum(1)
            sure = speaks if sure is None else sure & speaks
        return Lesson(p.clamp_min(_LEAST).log(), blocks, sure)

    @torch.no_grad()
    def probabilities(self, image: Tensor, wanted: Size) -> Tensor:
        """Of each of its own classes, float32 [B, K, *wanted], for whole images uint8 BGR [B, 3, H, W]."""
        size = self._input_size or network_size(self._contract.input.size, *image.shape[-2:], self._multiple)
        return self._averaged(image, size, wanted)

    def _averaged(self, image: Tensor, size: Size, wanted: Size) -> Tensor:
        def prepare(seen: Size) -> Tensor:
            return self._contract.input.normalise(resized(image, seen))

        return averaged(self._network, prepare, size, wanted, self._inference, self._multiple)

    def _seen_size(self, size: Size) -> Size:
        """In which (height, width) it sees a window of that size."""
        if self._input_size is not None:
            return self._input_size
        if isinstance(self._network, nn.Module):
            return size
        multiple = self._multiple
        return tuple(max(multiple, round(side / multiple) * multiple) for side in size)

    def sums(self, p: Tensor, parts: Sequence[Members]) -> Tensor:
        """Probability of each part of the run's classes: that of its own classes within it.

        Args:
            p: of its own classes, [B, K, H, W].
            parts: class ids of the run in each.

        Returns:
            [B, len(parts), H, W].
        """
        if self.members == tuple(parts):
            return p
        within = [[i for i, own in enumerate(self.members) if own and set(own) <= set(part)] for part in parts]
        return torch.stack([p[:, own].sum(1) for own in within], 1)


class Teachers:
    """The teachers of a run, which nothing here changes.

    It is no module on purpose: as a plain attribute of the task its weights are no part of the task's state, are not
    synchronised between devices, not averaged, and never trained.

    Args:
        settings: of each.
        label_map: the classes of the run.

    Attributes:
        origin: of each, see :class:`Teacher`, to be recorded.

    Raises:
        ValueError: if one cannot be used.
    """

    def __init__(self, settings: Sequence[Settings], label_map: LabelMap) -> None:
        self._members = [Teacher(one, label_map) for one in settings]
        self._blocks = [teacher.blocks() for teacher in self._members]
        self.origin: list[dict[str, Any]] = [teacher.origin for teacher in self._members]
        self._device = torch.device("cpu")

    def check_same(self, before: Sequence[dict[str, Any]]) -> None:
        """Make sure that a run goes on with the teachers that it began with, in whatever order.

        Args:
            before: their ``origin``.

        Raises:
            ValueError: if there are others now, or the content of one or what is set for it has changed.
        """
        then, now = (Counter(map(_identity, some)) for some in (before, self.origin))
        if then != now:
            raise ValueError(
                f"last.ckpt was trained with {_described(before)}, but the recipe has {_described(self.origin)}; "
                "go on with the same files, or begin anew with --restart"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Teachers:
        """Itself: the moving average copies the task, and need not copy what never changes."""
        return self

    def __call__(self, image: Tensor) -> tuple[Lesson, ...]:
        """What each says, for images uint8 BGR [B, 3, H, W], on their device."""
        if image.device != self._device:
            for teacher in self._members:
                teacher.to(image.device)
            self._device = image.device
        return tuple(teacher.lesson(image, blocks) for teacher, blocks in zip(self._members, self._blocks, strict=True))


def _on_the_cpu(runtime: Runtime) -> Callable[[Tensor], Tensor]:
    """A runtime as a network on any device, whose results nothing overwrites."""

    def network(batch: Tensor) -> Tensor:
        there = batch.to(runtime.tensor_device, runtime.dtype)
        parts = there.split(1) if runtime.one_by_one else [there]
        return torch.cat([runtime(part).clone() for part in parts]).to(batch.device)

    return network


def _members(contract: Contract, label_map: LabelMap, meaning: dict[str, list[str]]) -> tuple[Members, ...]:
    own, groups = contract.label_map, []
    known = known_meaning(own.name, label_map.name) if own.names != label_map.names else {}
    table = translation(own, label_map, {**known, **meaning}, groups)
    targets = [*((i,) for i in range(label_map.num_classes)), *groups]
    return tuple(() if target == VOID else targets[target] for target in table[: own.num_classes].tolist())


def _disjoint(members: Sequence[Members]) -> tuple[Members, ...]:
    """The sets, those that overlap as one, in order: the same for whoever tells the same apart."""
    blocks: list[set[int]] = []
    for own in filter(None, members):
        touched = [block for block in blocks if block & set(own)]
        if touched:
            touched[0].update(own, *touched[1:])
        else:
            blocks.append(set(own))
        blocks = [block for block in blocks if block not in touched[1:]]
    return tuple(sorted(tuple(sorted(block)) for block in blocks))


def _identity(origin: dict[str, Any]) -> str:
    """All of a teacher but its name, which may be another file's on another machine."""
    return json.dumps({key: value for key, value in origin.items() if key != "name"}, sort_keys=True)


def _described(origin: Sequence[dict[str, Any]]) -> str:
    teachers = []
    for teacher in origin:
        how = [f", {key} {value}" for key, value in teacher.items() if key not in ("name", "sha256")]
        teachers.append(f"{teacher['name']} ({teacher['sha256'][:12]}{''.join(how)})")
    return f"teacher{'s' * (len(teachers) > 1)} {', '.join(teachers)}" if teachers else "no teacher"
