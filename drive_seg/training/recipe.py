"""Recipes: everything a training run depends on, in one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator


class RecipeError(ValueError):
    """A recipe that cannot be followed; the message names each setting and what is wrong with it."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(_Part):
    """Name and options for ``networks.build``.

    ``pretrained``: a file of weights that the network's encoder starts from, torchvision's ImageNet ones for instance.
    """

    name: str
    options: dict[str, Any] = {}
    pretrained: Path | None = None


class Augmentation(_Part):
    """Random variation of training images.

    ``scale``: the factor's range; ``aspect``: largest relative change of the sides' ratio; ``flip``, ``photometric``:
    probabilities.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    aspect: float = Field(0.0, ge=0, le=1)
    flip: float = Field(0.5, ge=0, le=1)
    photometric: float = Field(0.8, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError("scale must be [smallest, largest], both above 0")
        return self


class Data(_Part):
    """What to learn from.

    ``train`` and ``val``: arguments of the dataset; ``crop``: (height, width) of training windows; ``input_size``:
    (height, width) that the network is meant for, as the checkpoint says it.
    """

    dataset: str
    train: dict[str, Any]
    val: dict[str, Any]
    crop: tuple[int, int]
    input_size: tuple[int, int]
    batch_size: int = Field(8, ge=1)
    workers: int = Field(0, ge=0)


class Optimizer(_Part):
    """AdamW or SGD (momentum 0.9); weight decay spares Batch Norm and biases."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(gt=0)
    weight_decay: float = Field(0.0, ge=0)


class Schedule(_Part):
    """Linear warm-up, then lr = base (1 - step / steps)^power."""

    epochs: int = Field(ge=1)
    warmup_epochs: float = Field(0.0, ge=0)
    power: float = Field(0.9, gt=0)


class Recipe(_Part):
    """One training run.

    ``losses``: name -> weight; ``validate_every``: in epochs; ``warm_start``: a checkpoint whose fitting weights are
    taken over; ``compile``: let torch.compile build the training step: minutes at the start, faster steps after.
    """

    name: str
    network: Network
    data: Data
    augmentation: Augmentation = Augmentation()
    losses: dict[str, float]
    optimizer: Optimizer
    schedule: Schedule
    ema_decay: float = Field(0.999, ge=0, lt=1)
    validate_every: int = Field(1, ge=1)
    warm_start: str | None = None
    compile: bool = False
    seed: int = 0
    licence: str = ""

    @field_validator("warm_start")
    @classmethod
    def _one_start(cls, warm_start: str | None, others: ValidationInfo) -> str | None:
        network = others.data.get("network")
        if warm_start is not None and network is not None and network.pretrained is not None:
            raise ValueError("goes not together with network.pretrained: the weights of either would be lost")
        return warm_start


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: the YAML file.
        overrides: settings such as ``schedule.epochs=10``, each value in YAML, laid over the file.

    Raises:
        RecipeError: if the file is missing, no YAML mapping, or a setting is unknown, missing or ill-typed.
    """
    try:
        data = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: is not a mapping of settings")
    for override in overrides or []:
        _lay_over(data, override)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{path}: {problems}") from None


def _lay_over(data: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator:
        raise RecipeError(f"'{override}' is not of the form setting=value")
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise RecipeError(f"'{override}': '{parent}' is not a group of settings")
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"'{override}': the value is no YAML: {error}") from error
