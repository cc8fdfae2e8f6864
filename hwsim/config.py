"""The flags of a verb as a YAML file: what ``--config`` reads, and what is kept beside a result.

Keys are flags without their dashes (an argument without a flag has its name)::

    # hwsim-config: the flags of `hwsim plan`
    schema_version: 1
    verb: plan
    target: edge_gpu
    max-latency: 4ms

A flag on the command line goes before the file, the file before the default. ``plan``, ``quantize`` and
``compile`` write every flag of a run to ``config.yaml`` in their output directory, so that the file alone
repeats it.
"""

import contextlib
import io
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwsim import files
from hwsim.errors import UserError, mistakes

NAME = "config.yaml"
SCHEMA_VERSION = 1
HEAD = ("schema_version", "verb")
# How a run is watched or continued is no part of its result.
_PASSING = frozenset({"config", "quiet", "log-level", "debug", "json", "resume", "dry-run", "progress"})


@dataclass(frozen=True)
class Setting:
    """One value of a file; ``place`` is where it stands, for error messages."""

    value: Any
    place: str


def read_config(path: Path, verb: str, known: Collection[str]) -> dict[str, Setting]:
    """Settings by key; a key that is no flag of ``verb`` is a mistake, as is a file made for another verb."""
    from hwsim.target.checks import did_you_mean
    from hwsim.target.load import read_text
    from hwsim.target.yaml_reader import YamlError, read_yaml

    files.existing_file(path, "--config")
    try:
        read = read_yaml(read_text(path, str(path)))
    except YamlError as error:
        raise UserError(f"{path}:{error.position[0]}:{error.position[1]}: {error.message}") from error
    problem = next(iter(read.problems), None)
    if problem is not None:
        raise UserError(f"{path}:{problem.position[0]}:{problem.position[1]}: {problem.message}")
    if not isinstance(read.data, dict):
        raise UserError(f"{path}: holds no flags; write one a line, for example `target: edge_gpu`")
    settings: dict[str, Setting] = {}
    for name, value in read.data.items():
        row, column = read.keys.get((name,), (1, 1))
        place = f"{path}:{row}:{column}"
        key = str(name) if name in HEAD else str(name).replace("_", "-")
        if key == "verb" and value != verb:
            raise UserError(f"{place}: these are flags of `hwsim {value}`, not of `hwsim {verb}`")
        if key == "schema_version" and value != SCHEMA_VERSION:
            raise UserError(f"{place}: schema_version {value}; this hwsim reads {SCHEMA_VERSION}")
        if key not in HEAD and key not in known:
            hint = did_you_mean(key, sorted(known)) or f"; see hwsim {verb} --help"
            raise UserError(f"{place}: {name!r} is no flag of hwsim {verb}{hint}")
        if isinstance(value, dict):
            raise UserError(f"{place}: {name} holds keys of its own; flags are not nested")
        if key not in HEAD and value is not None:
            settings[key] = Setting(value, place)
    return settings


def config_text(verb: str, values: Mapping[str, object]) -> str:
    """All flags that decide the result, as a file that ``--config`` reads."""
    from ruamel.yaml import YAML

    document: dict[str, object] = {"schema_version": SCHEMA_VERSION, "verb": verb}
    for name, value in values.items():
        key = name.strip("_").replace("_", "-")
        plain = _plain(value)
        if key not in _PASSING and plain not in (None, "", []):
            document[key] = plain
    stream = io.StringIO()
    stream.write(f"# hwsim-config: the flags of `hwsim {verb}`; repeat with: hwsim {verb} --config {NAME}\n")
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    yaml.width = 4096
    yaml.dump(document, stream)
    return stream.getvalue()


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


@contextlib.contextmanager
def kept(directory: Path, verb: str, values: Mapping[str, object]) -> Generator[None]:
    """Write ``config.yaml`` when the run inside ends; not when the request itself was wrong.

    A plan that failed or was interrupted is mended there and goes on from there. Of the other verbs a directory holds
    a result and its flags or neither: those of an unfinished run would stand beside an older result.
    """
    try:
        yield
    except mistakes():
        raise
    except BaseException as error:
        if verb == "plan" and (directory.is_dir() or isinstance(error, KeyboardInterrupt)):
            write(directory, verb, values)
        raise
    write(directory, verb, values)


def write(directory: Path, verb: str, values: Mapping[str, object]) -> None:
    """Write ``config.yaml`` into ``directory``."""
    files.write_text(directory / NAME, config_text(verb, values))
