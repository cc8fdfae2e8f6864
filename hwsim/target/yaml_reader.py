"""YAML text to plain data, with the line and column of every value.

The tree is built from the parser's events, so nothing is constructed but dictionaries, lists and scalars,
nothing recurses, and every refusal knows its place: duplicate keys, anchors and aliases (a "billion laughs"
bomb needs them), tags, a second document. Plain scalars follow the YAML 1.2 core schema: ``1e9`` is a number,
``no`` a word, ``010`` ten.
"""

import re
from dataclasses import dataclass, field
from typing import Any

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_VALUES = 20_000

Path = tuple[str | int, ...]
Position = tuple[int, int]
"""Line and column, from 1."""

_INTEGER = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


class YamlError(Exception):
    """Text that cannot be read, with its place."""

    def __init__(self, position: Position, message: str, path: Path = ()) -> None:
        super().__init__(message)
        self.position = position
        self.message = message
        self.path = path


@dataclass
class Read:
    """Plain data, and where each value and each key stands."""

    data: Any = None
    values: dict[Path, Position] = field(default_factory=dict)
    keys: dict[Path, Position] = field(default_factory=dict)
    problems: list[YamlError] = field(default_factory=list)


@dataclass
class _Open:
    """A mapping or list whose end has not come yet."""

    container: dict[str, Any] | list[Any]
    path: Path
    key: str | None = None


def read_yaml(text: str) -> Read:
    """Parse ``text``; raises :class:`YamlError` at the first thing that stops reading."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    builder = _Builder()
    try:
        for event in YAML(typ="rt", pure=True).parse(text):
            builder.take(event)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        parts = (str(error.context or "").strip(), str(error.problem or "").strip())
        raise YamlError(position, f"not valid YAML: {', '.join(part for part in parts if part)}") from error
    except ReaderError as error:
        before = text[: int(error.position)]
        position = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        message = f"not valid YAML: the character {text[int(error.position)]!r} is not allowed"
        raise YamlError(position, message) from error
    except (YAMLError, ValueError) as error:
        raise YamlError((1, 1), f"not valid YAML: {' '.join(str(error).split())}") from error
    return builder.read


class _Builder:
    """Builds the tree event by event."""

    def __init__(self) -> None:
        self.read = Read()
        self.stack: list[_Open] = []
        self.documents = 0
        self.count = 0

    def take(self, event: Any) -> None:
        """Take one event of the parser."""
        position = (event.start_mark.line + 1, event.start_mark.column + 1)
        kind = type(event).__name__
        if kind == "DocumentStartEvent":
            self.documents += 1
            if self.documents > 1:
                raise YamlError(position, "a second document starts here; a descriptor is one document")
            if getattr(event, "version", None) not in (None, (1, 2)):
                raise YamlError(position, "descriptors are YAML 1.2; remove the %YAML line")
        elif kind == "AliasEvent" or getattr(event, "anchor", None):
            raise YamlError(position, "anchors and aliases (&, *) are not allowed; write the value out")
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self._no_tag(event, position)
            self._open({} if kind == "MappingStartEvent" else [], position)
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self.stack.pop()
        elif kind == "ScalarEvent":
            self._no_tag(event, position)
            self._scalar(event, position)

    def _no_tag(self, event: Any, position: Position) -> None:
        tag = str(getattr(event, "tag", None) or "")
        if tag:
            raise YamlError(position, f"tags ({tag[:40]}) are not allowed; write the plain value")

    def _open(self, container: dict[str, Any] | list[Any], position: Position) -> None:
        if self.stack and isinstance(self.stack[-1].container, dict) and self.stack[-1].key is None:
            raise YamlError(position, "a field name must be a word, not a list or mapping")
        if len(self.stack) >= MAX_DEPTH:
            raise YamlError(position, f"nested deeper than {MAX_DEPTH} levels")
        self.stack.append(_Open(container, self._place(container, position)))

    def _scalar(self, event: Any, position: Position) -> None:
        top = self.stack[-1] if self.stack else None
        if top is not None and isinstance(top.container, dict) and top.key is None:
            self._key(top, str(event.value), position)
            return
        plain = event.style in (None, "")
        self._place(plain_scalar(str(event.value)) if plain else str(event.value), position)

    def _key(self, top: _Open, name: str, position: Position) -> None:
        path = (*top.path, name)
        if name in top.container:
            line = self.read.keys[path][0]
            message = f"duplicate field; it stands in line {line} already"
            self.read.problems.append(YamlError(position, message, path))
        else:
            self.read.keys[path] = position
        top.key = name

    def _place(self, value: Any, position: Position) -> Path:
        """Put a value into the innermost open container; the first of two equal fields stays."""
        self.count += 1
        if self.count > MAX_VALUES:
            raise YamlError(position, f"more than {MAX_VALUES} values; this is no descriptor")
        if not self.stack:
            self.read.data = value
            self.read.values[()] = position
            return ()
        top = self.stack[-1]
        if isinstance(top.container, list):
            path: Path = (*top.path, len(top.container))
            top.container.append(value)
            self.read.values[path] = position
            return path
        key, top.key = top.key or "", None
        if key in top.container:
            return (*top.path, f"{key} (again)")
        top.container[key] = value
        self.read.values[(*top.path, key)] = position
        return (*top.path, key)


def plain_scalar(text: str) -> Any:
    """The value of an unquoted word, by the YAML 1.2 core schema (digits may be grouped with ``_``)."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text) and len(text) <= 400:
        digits = text.replace("_", "")
        return int(digits, {"0o": 8, "0x": 16}.get(digits[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    special = _SPECIAL.fullmatch(text)
    if special:
        return float("nan") if special.group(3) else float(f"{special.group(1)}inf")
    return text
