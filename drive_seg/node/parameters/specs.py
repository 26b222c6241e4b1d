"""What a parameter may be: its type, its range, when it may change, and the sentence for a value it may not be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_topic_name import validate_topic_name

Check = Callable[[Any], str | None]
"""Says what is wrong with a value of the right type; None if nothing is."""


class Change(Enum):
    """When a parameter may be set; the value is what its descriptor tells the user."""

    NEVER = "fixed when the node starts"
    UNCONFIGURED = "can change while the node is unconfigured"
    RELOADS = "can change at any time: while a model is loaded, the new one is loaded beside it"
    ANY_TIME = "can change at any time"


@dataclass(frozen=True)
class Spec:
    """One parameter. The default's type is the parameter's type."""

    default: Any
    description: str
    change: Change = Change.UNCONFIGURED
    span: tuple[float, float] | None = None
    check: Check = lambda value: None

    def descriptor(self) -> ParameterDescriptor:
        """What ``ros2 param describe`` shows."""
        descriptor = ParameterDescriptor(
            description=self.description,
            additional_constraints=self.change.value,
            read_only=self.change is Change.NEVER,
        )
        if self.span and isinstance(self.default, float):
            low, high = self.span
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        elif self.span:
            low, high = map(int, self.span)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
        return descriptor

    def problem(self, value: Any) -> str | None:
        """What is wrong with this value, of whatever type; None if nothing is."""
        wanted, given = _type_name(self.default), _type_name(value)
        if given != wanted and not (given == "empty list" and isinstance(self.default, list)):
            return f"must be {_article(wanted)}, not the {given} {value!r}{_mend(wanted, value)}"
        if self.span and not self.span[0] <= value <= self.span[1]:
            return f"must lie in {self.span[0]}..{self.span[1]}, not {value}"
        return self.check(value)


@dataclass(frozen=True)
class OneOf:
    """Check that a value is one of a few words; the table and the schema of the parameters list them."""

    choices: tuple[str, ...]

    def __call__(self, value: str) -> str | None:
        return None if value in self.choices else f"must be {' or '.join(self.choices)}, not '{value}'"


def one_of(*choices: str) -> OneOf:
    return OneOf(choices)


def check_model(value: str) -> str | None:
    return None if value.strip() else "must name a model"


def check_device(value: str) -> str | None:
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        return None
    return f"must be auto, cpu, cuda or cuda:N, not '{value}'"


def check_fallback_device(value: str) -> str | None:
    return check_device(value) if value else None


def check_size(value: Iterable[int]) -> str | None:
    size = list(value)
    if size in ([], [0, 0]) or (len(size) == 2 and all(8 <= side <= 16384 for side in size)):
        return None
    return f"must be [height, width] of 8..16384 pixels each, or [0, 0] for the model's own size, not {size}"


@dataclass(frozen=True)
class SomeOf:
    """Check that a list holds each of a few words at most once."""

    choices: tuple[str, ...]

    def __call__(self, value: Iterable[str]) -> str | None:
        given = list(value)
        if set(given) <= set(self.choices) and len(set(given)) == len(given):
            return None
        return f"must hold {' or '.join(self.choices)}, each at most once, not {given}"


def check_order(*choices: str) -> SomeOf:
    return SomeOf(choices)


def check_topic(value: str) -> str | None:
    try:
        validate_topic_name(value)
    except InvalidTopicNameException as error:
        return f"is no topic name: {' '.join(str(error).split())}"
    return f"is no topic name: '{value}' has a doubled '/'" if "//" in value else None


def _type_name(value: Any) -> str:
    if isinstance(value, str):
        return "string"
    for kind, name in ((bool, "bool"), (int, "integer"), (float, "double"), (bytes, "byte")):
        if isinstance(value, kind):
            return name
    return f"list of {_type_name(value[0])}s" if len(value) else "empty list"


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _mend(wanted: str, value: Any) -> str:
    """How to write the value that was probably meant, where that is clear."""
    if wanted == "double" and isinstance(value, int) and not isinstance(value, bool):
        return f": write {float(value)}"
    if wanted == "integer" and isinstance(value, float) and value.is_integer():
        return f": write {int(value)}"
    if wanted == "list of strings" and isinstance(value, str):
        return f": write [{value}]"
    return ""
