"""Errors of a descriptor, one a line.

They read ``edge_gpu.yaml:6:5 engines.0.macs_per_cycle: must be greater than 0``.
"""

import re
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hwsim.target import engines, parts
from hwsim.target.checks import did_you_mean
from hwsim.target.quantities import describe
from hwsim.target.schema import Target
from hwsim.target.yaml_reader import Path, Position, Read

_ENGINES: dict[str, type[BaseModel]] = {
    "simd": engines.SimdEngine,
    "systolic": engines.SystolicEngine,
    "bit_serial": engines.BitSerialEngine,
    "bit_composable": engines.BitComposableEngine,
}
_TAGS = (*_ENGINES, "floats", "none", "[key]")
_MODELS: dict[tuple[str, ...], type[BaseModel]] = {
    (): Target,
    ("units",): parts.Units,
    ("engines", "*", "tile"): engines.Tile,
    ("vector",): parts.Vector,
    ("float_fallback",): parts.FloatFallback,
    ("memories", "*"): parts.Memory,
    ("host_link",): parts.HostLink,
    ("sync",): parts.Overhead,
    ("launch",): parts.Launch,
    ("launch", "per_layer"): parts.Overhead,
    ("launch", "per_inference"): parts.Overhead,
    ("software",): parts.Software,
    ("energy",): parts.Energy,
    ("tvm",): parts.Tvm,
    ("calibration",): parts.Calibration,
    ("calibration", "measured", "*"): parts.Measurement,
}
"""Which model reads which part; ``*`` stands for any index or name."""


def explain(error: ValidationError, read: Read) -> list[tuple[Position, Path, str]]:
    """All errors with their place in the file, in the order of the file."""
    found: list[tuple[Position, Path, str]] = []
    for details in error.errors(include_url=False):
        context = details.get("ctx", {})
        if details["type"] == "cross_check":
            for dotted, message in context["problems"]:
                path = _resolve(_parts(dotted), read.data, keep_last=True)
                found.append((_position(path, read), path, message))
            continue
        if details["type"] == "too_short" and len(details["input"]) >= context["min_length"]:
            continue  # pydantic counts only the entries that are valid; those that are not have errors of their own
        keep_last = details["type"] in ("missing", "union_tag_invalid")
        location = details["loc"]
        if details["type"] == "at_key":
            location = (*location, context["key"])
        elif details["type"] == "union_tag_invalid":
            location = (*location, "kind")
        path = _resolve(location, read.data, keep_last=keep_last)
        found.append((_position(path, read), path, _message(details, path, read.data)))
    return sorted(set(found), key=lambda one: (one[0], str(one[1])))


def line(source: str, position: Position, path: Path, message: str) -> str:
    """One error as it is printed."""
    dotted = ".".join(_word(part) for part in path) or "document"
    return f"{source}:{position[0]}:{position[1]} {dotted}: {' '.join(message.split())}"


def _word(part: str | int) -> str:
    """A part of a path; a field name that is no plain word (a slip of punctuation) is shown quoted and short."""
    text = str(part)
    return text if re.fullmatch(r"[\w\[\]()/+-]{1,64}", text) else repr(text[:40]).replace(" ", "·")


def _parts(dotted: str) -> Path:
    return tuple(int(part) if part.isdigit() else part for part in dotted.split("."))


def _resolve(location: Path, data: Any, *, keep_last: bool) -> Path:
    """The part of a location that exists in the file: without union tags and expanded shorthands."""
    path: list[str | int] = []
    place = data
    for index, part in enumerate(location):
        if isinstance(place, dict) and part in place:
            place = cast(dict[Any, Any], place)[part]
        elif isinstance(place, list) and isinstance(part, int) and part < len(cast(list[Any], place)):
            place = cast(list[Any], place)[part]
        elif part in _TAGS:
            continue
        else:
            if keep_last and index == len(location) - 1:
                path.append(part)
            break
        path.append(part)
    return tuple(path)


def _position(path: Path, read: Read) -> Position:
    """Where the field's name stands, or the list entry, or the innermost part around it that is there."""
    for length in range(len(path), 0, -1):
        found = read.keys.get(path[:length]) or read.values.get(path[:length])
        if found is not None:
            return found
    return (1, 1)


def _model(path: Path, data: Any) -> type[BaseModel] | None:
    if len(path) == 2 and path[0] == "engines":
        kind = data["engines"][path[1]].get("kind", "simd")
        return _ENGINES.get(kind)
    for pattern, model in _MODELS.items():
        if len(pattern) == len(path) and all(p in ("*", q) for p, q in zip(pattern, path, strict=True)):
            return model
    return None


def _unknown(path: Path, data: Any) -> str:
    model = _model(path[:-1], data)
    if model is None:
        return "unknown field"
    known = [field.alias or name for name, field in model.model_fields.items()]
    near = did_you_mean(str(path[-1]), known)
    return f"unknown field{near or '; known: ' + ', '.join(known)}"


def _message(details: ErrorDetails, path: Path, data: Any) -> str:
    """Pydantic's finding in the words of the file."""
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    if kind == "extra_forbidden":
        return _unknown(path, data)
    if kind == "literal_error":
        expected = str(context["expected"])
        words = [word.strip("' ") for word in expected.replace(" or ", ",").split(",")]
        near = did_you_mean(value, words) if isinstance(value, str) else ""
        return f"must be {expected}, not {describe(value)}{near}"
    if kind == "union_tag_invalid":
        tag = str(context["tag"])
        return f"must be one of {', '.join(_ENGINES)}, not {describe(tag)}{did_you_mean(tag, list(_ENGINES))}"
    wanted = _WANTED.get(kind)
    if wanted is not None:
        return f"must be {wanted}, not {describe(value)}"
    bound = _BOUNDS.get(kind)
    if bound is not None:
        words, key = bound
        return f"must be {words} {context[key]:g}"
    text = _FIXED.get(kind, details["msg"].removeprefix("Value error, "))
    return text[:1].lower() + text[1:]


_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "bool_type": "true or false",
    "model_type": "a mapping of fields",
    "model_attributes_type": "a mapping of fields",
    "dict_type": "a mapping",
    "tuple_type": "a list",
}
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_FIXED = {
    "missing": "required field is missing",
    "finite_number": "must be a finite number",
    "too_short": "must not be empty",
    "too_long": "has too many entries",
    "string_too_short": "must not be empty",
    "string_too_long": "must be at most 64 characters long",
    "string_pattern_mismatch": "must be a short name of letters, digits, '_', '.' and '-'",
}
