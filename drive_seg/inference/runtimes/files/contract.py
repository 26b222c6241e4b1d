"""What a file of somebody else's network does not say: its contract, ``<name>.contract.yaml``."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from drive_seg.checkpoint import TO_UNIT, CheckpointError, Contract, InputSpec
from drive_seg.confidence import Confidence
from drive_seg.files import expand_variables
from drive_seg.labels import VOID, LabelMap, label_map
from drive_seg.labels.groups import known_meaning, single_meanings
from drive_seg.networks.layers import one_of

SUFFIX = ".contract.yaml"
REQUIRED = ("label_map", "channel_order", "mean", "std", "input_size", "output", "licence")
OPTIONAL = (
    "scale",
    "range",
    "multiple",
    "output_name",
    "confidence_name",
    "threshold",
    "classes",
    "ignore",
    "meaning",
    "confidence",
    "file",
)
OUTPUTS = ("logits", "probabilities", "sigmoid", "ids")
RANGES = ("normalised", "raw")
LARGEST, LEAST_SPAN = 10.0, 0.5
LARGEST_RAW, LEAST_RAW_SPAN = 300.0, 20.0
"""What networks are fed lies within +- the one, with black and white at least the other apart. Networks in use:
-2.2..2.7 (ImageNet), -1..1, 0..1, -0.5..0.5; raw 0..255 and -124..152."""
_RAW = {"mean": [0.0] * 3, "std": [1.0] * 3, "scale": 1.0}


def contract_path(path: Path) -> Path:
    """Where the contract of a file is: ``pidnet.onnx`` -> ``pidnet.contract.yaml``; a contract is its own."""
    return path if is_contract(path) else path.with_suffix(SUFFIX)


def is_contract(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIX)


def model_path(path: Path) -> Path:
    """The network's file: the path itself, or the ``file`` of a contract, relative to the contract's folder.

    ``${NAME}`` in it is the environment variable of that name.

    Raises:
        CheckpointError: if the contract cannot be read, names no file, or a variable that is not set.
    """
    if not is_contract(path):
        return path
    data = _load(path)
    name = data.get("file") if isinstance(data, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise CheckpointError(
            f"{path}: a contract that is given as the model says in 'file' which .onnx or .xml it is for"
        )
    try:
        return path.parent / Path(expand_variables(name)).expanduser()
    except ValueError as error:
        raise CheckpointError(f"{path}: file: {error}: export it, or write the path of the network's file") from None


def read_contract(path: Path) -> Contract:
    """The contract of the file at ``path``, or at ``path`` itself.

    Raises:
        CheckpointError: if it is missing or no YAML, or a key is unknown, missing or wrong.
    """
    file = contract_path(path)
    if not file.is_file():
        raise CheckpointError(
            f"{path}: there is no {file.name} beside it, so nothing is known about its classes and input: "
            f"drive-seg inspect --model {path} writes one to fill in"
        )
    try:
        return contract_of(_load(file), file.name.removesuffix(SUFFIX))
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file}: {' '.join(str(error).split())}{elsewhere(file, path)}") from error


def elsewhere(contract: Path, network: Path) -> str:
    """What to do where a contract that is wrong cannot be changed; empty where it can."""
    if os.access(contract, os.W_OK):
        return ""
    return (
        f"; {contract.name} cannot be written: write one elsewhere with 'file: {network}', and give that as the model"
    )


def contract_of(data: Any, name: str) -> Contract:
    """The contract of these keys; ``name`` is what a label map of its own is called.

    ``options`` holds ``output`` and what was given of ``output_name``, ``confidence_name``, ``threshold``, ``multiple``
    and ``range``; for ``classes``, ``ignore`` and ``meaning`` together it is ``becomes``: the id of the label map, or
    255, for each id of the network.

    Raises:
        ValueError: if a key is unknown, missing or wrong.
    """
    keys = f"the keys are {', '.join(REQUIRED)}, and where needed {', '.join(OPTIONAL)}"
    if not isinstance(data, dict):
        raise ValueError(f"holds no keys with values; {keys}")
    raw = one_of("range", data.get("range", RANGES[0]), RANGES) == "raw"
    data = {**_RAW, **data} if raw else data
    missing = [key for key in REQUIRED if key not in data]
    unknown = [str(key) for key in data if key not in (*REQUIRED, *OPTIONAL)]
    if missing or unknown:
        faults = [f"{key} is missing" for key in missing] + [f"{key} is unknown" for key in unknown]
        raise ValueError(f"{', '.join(faults)}; {keys}")
    empty = [key for key in REQUIRED if data[key] is None]
    if empty:
        raise ValueError(
            f"{', '.join(empty)} {'are' if len(empty) > 1 else 'is'} empty: fill in what the network needs"
        )
    height, width = _numbers("input_size", data["input_size"], 2, whole=True)
    spec = InputSpec(
        size=(height, width),
        channel_order=_text("channel_order", data["channel_order"]),
        mean=tuple(map(float, _numbers("mean", data["mean"], 3))),
        std=tuple(map(float, _numbers("std", data["std"], 3))),
        **({"scale": float(_number("scale", data["scale"]))} if "scale" in data else {}),
    )
    _check_range(spec, raw)
    classes = _labels(data["label_map"], name)
    return Contract(
        network="onnx",
        options=_options(data, classes),
        label_map=classes,
        input=spec,
        licence=_text("licence", data["licence"]),
        confidence=Confidence.from_dict(data.get("confidence", {})),
    )


def _options(data: dict[str, Any], classes: LabelMap) -> dict[str, Any]:
    options = {key: _text(key, data[key]) for key in ("output", "output_name", "confidence_name") if key in data}
    kind = one_of("output", options["output"], OUTPUTS)
    if "confidence_name" in options and kind != "ids":
        raise ValueError(f"confidence_name goes with output ids; of {kind} the confidence is computed")
    if "threshold" in data:
        options["threshold"] = float(_number("threshold", data["threshold"]))
        if not 0 < options["threshold"] < 1:
            raise ValueError(f"threshold {options['threshold']:g} is not between 0 and 1")
        if kind not in ("sigmoid", "logits"):
            raise ValueError(f"threshold goes with output sigmoid, or logits of one channel, not with {kind}")
    if "multiple" in data:
        options["multiple"] = _number("multiple", data["multiple"], whole=True)
        if not 1 <= options["multiple"] <= 256:
            raise ValueError(f"multiple {options['multiple']} is not 1 to 256")
    if data.get("range", RANGES[0]) != RANGES[0]:
        options["range"] = data["range"]
    if any(key in data for key in ("classes", "ignore", "meaning")):
        options["becomes"] = _becomes(data, classes)
    return options


def _becomes(data: dict[str, Any], target: LabelMap) -> list[int]:
    """The id of the label map, or void, for each id of the network."""
    ignored = data.get("ignore", [])
    if not isinstance(ignored, list) or len(set(map(str, ignored))) != len(ignored):
        raise ValueError(f"ignore is not a list of different ids of the network: {ignored!r}")
    ignored = [_number("id in ignore", i, whole=True) for i in ignored]
    given = data.get("meaning") or {}
    if not isinstance(given, dict):
        raise ValueError(f"meaning is not of the form {{class of the network: class of label_map}}: {given!r}")
    meaning = {key if isinstance(key, int) else str(key): _meant(key, value) for key, value in given.items()}
    by_id = [key for key in meaning if isinstance(key, int)]
    known: Mapping[str, Any] = {}
    if "classes" in data:
        own = data["classes"]
        if isinstance(own, str):
            known, names = known_meaning(own, target.name), label_map(own).names
        elif isinstance(own, list) and own and all(isinstance(entry, str) and entry for entry in own):
            names = tuple(own)
        else:
            raise ValueError(f"classes is neither the name of a label map nor a list of names: {own!r}")
    elif by_id:
        names = tuple(f"id {i}" for i in range(max(*by_id, *ignored, 0) + 1) if i not in ignored)
    else:
        names = target.names
    count = len(names) + len(ignored)
    if count > VOID or any(not 0 <= i < count for i in (*ignored, *by_id)):
        raise ValueError(
            f"ignore {ignored} and {len(names)} classes make the ids 0..{count - 1}, at most 0..{VOID - 1}"
        )
    strange = [key for key in meaning if not isinstance(key, int) and key not in names]
    if strange:
        own = (
            "" if "classes" in data else ": say in classes what the network's own are, by a label map's name or a list"
        )
        raise ValueError(f"meaning names {strange[0]!r}, which is no class of the network{own}")
    kept = [i for i in range(count) if i not in ignored]
    named = {
        names[kept.index(key)] if isinstance(key, int) else key: value
        for key, value in meaning.items()
        if key not in ignored
    }
    found = dict(zip(kept, single_meanings(names, target, {**known, **named}), strict=True))
    return [found.get(i, VOID) for i in range(count)]


def _meant(key: Any, value: Any) -> list[str]:
    """A class of the label map, or none for void."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if len(values) > 1 or not all(isinstance(entry, str) for entry in values):
        raise ValueError(f"meaning of {key!r} is not one class of the label map, or [] for void: {value!r}")
    return values


def _check_range(spec: InputSpec, raw: bool) -> None:
    """Refuse a normalisation that no network is fed, with the likely correction.

    Raises:
        ValueError: if black or white is far outside what any is fed, or both are nearly one value.
    """
    if _fits(spec, raw):
        return
    (lowest, _), (_, highest) = _ends(spec)
    found = f"black and white become {lowest:.4g} and {highest:.4g}"
    if raw:
        raise ValueError(
            f"range is raw, but {found}; raw values lie within -{LARGEST_RAW:g}..{LARGEST_RAW:g} and "
            f"{LEAST_RAW_SPAN:g} or more apart: leave out range, or leave out mean, std and scale"
        )
    # What to write, what it changes, and whether the result would be usual.
    ways = (
        ("range: raw, if the network takes pixel values", {}, _is_raw),
        ("scale: 1 and range: raw (mean is in pixel values)", {"scale": 1.0}, _is_raw),
        ("scale: 1 (mean and std are in pixel values of 0..255)", {"scale": 1.0}, _is_usual),
        ("no scale (mean and std are in units of 0..1)", {"scale": TO_UNIT}, _is_usual),
        ("std 255 times as large", {"std": tuple(255 * s for s in spec.std)}, _is_usual),
        ("std 255 times as small", {"std": tuple(s / 255 for s in spec.std)}, _is_usual),
    )
    likely = []
    for how, change, suits in ways:
        changed = replace(spec, **change)
        if suits(changed) and (not change or changed != spec):
            likely.append(how)
    raise ValueError(
        f"{found} by (pixel * scale - mean) / std; normalised they lie within -{LARGEST:g}..{LARGEST:g} and "
        f"{LEAST_SPAN} or more apart. Likely is {' or '.join(likely[:2]) or 'another mean, std or scale'}"
    )


def _ends(spec: InputSpec) -> tuple[tuple[float, float], tuple[float, float]]:
    """Least and largest value of the channels for black, and for white."""
    ends = [[(v * spec.scale - m) / s for m, s in zip(spec.mean, spec.std, strict=True)] for v in (0, 255)]
    return (min(ends[0]), max(ends[0])), (min(ends[1]), max(ends[1]))


def _fits(spec: InputSpec, raw: bool) -> bool:
    least, largest = (LEAST_RAW_SPAN, LARGEST_RAW) if raw else (LEAST_SPAN, LARGEST)
    (black, _), (_, white) = _ends(spec)
    return min(255 * spec.scale / s for s in spec.std) >= least and max(-black, white) <= largest


def _is_raw(spec: InputSpec) -> bool:
    """Whether black and white are as far apart as 0 and 255, wherever that is."""
    (lowest, _), (white, highest) = _ends(spec)
    return lowest > -200 and highest < 300 and white - lowest > 200 and spec.std == (1.0,) * 3


def _is_usual(spec: InputSpec) -> bool:
    """Whether black and white lie on two sides of, or at, 0 as far apart as in networks in use."""
    (lowest, black), (white, highest) = _ends(spec)
    return -4 <= lowest <= black <= 0.01 and 0.4 <= white <= highest <= 4


def _labels(given: Any, name: str) -> LabelMap:
    """The label map of that name, or of these classes; it is then called like the file."""
    if isinstance(given, str):
        return label_map(given)
    if not isinstance(given, list) or not given:
        raise ValueError("label_map is neither the name of one nor a list of classes with id, name and color")
    for entry in given:
        if not isinstance(entry, dict) or set(entry) != {"id", "name", "color"}:
            raise ValueError(f"label_map: a class has id, name and color, not {entry!r}")
        _number("id of a class", entry["id"], whole=True)
        _text("name of a class", entry["name"])
        _numbers("color of a class", entry["color"], 3, whole=True)
    return LabelMap.from_dict({"name": name, "void": VOID, "classes": given})


def _load(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise CheckpointError(f"{file}: {' '.join(str(error).split())}") from error


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} is not a text: {value!r}")
    return value


def _number(key: str, value: Any, whole: bool = False) -> float:
    kind = int if whole else (int, float)
    if not isinstance(value, kind) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{key} is not a {'whole ' if whole else ''}number: {value!r}")
    return value


def _numbers(key: str, value: Any, count: int, whole: bool = False) -> list:
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{key} is not a list of {count} numbers: {value!r}")
    return [_number(key, entry, whole) for entry in value]
