"""What every verb shares: where to print, how loudly, and how a mistake looks.

Results go to stdout, progress and logs to stderr, so that ``hwsim plan --json | jq`` works. Bars appear
only on a terminal; ``NO_COLOR``, ``CI`` and ``--quiet`` are honoured.
"""

import json
import logging
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from hwsim.errors import UserError
from hwsim.files import existing_file

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["SETTINGS", "existing_file", "log", "out", "print_json", "shows_progress"]

_LEVELS = ("debug", "info", "warning", "error")


@dataclass
class Settings:
    """Choices that hold for the whole process; set once from the command line."""

    debug: bool = False
    quiet: bool = False
    log_level: str = "warning"


SETTINGS = Settings()


def take_global_flags(arguments: list[str]) -> list[str]:
    """Read ``--debug``, ``--quiet`` and ``--log-level`` wherever they stand; return the other arguments."""
    rest: list[str] = []
    pending = iter(arguments)
    for argument in pending:
        name, _, value = argument.partition("=")
        if argument == "--":
            rest.extend([argument, *pending])
        elif argument == "--debug":
            SETTINGS.debug = True
        elif argument in ("--quiet", "-q"):
            SETTINGS.quiet = True
        elif name == "--log-level":
            SETTINGS.log_level = _level(value or next(pending, ""))
        else:
            rest.append(argument)
    logging.basicConfig(
        level="ERROR" if SETTINGS.quiet else SETTINGS.log_level.upper(),
        format="%(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    return rest


def _level(value: str) -> str:
    if value.lower() not in _LEVELS:
        raise UserError(f"--log-level: {value!r} is not a level; choose {', '.join(_LEVELS)}")
    return value.lower()


def shows_progress() -> bool:
    """Whether a moving bar would reach a person."""
    return sys.stderr.isatty() and not SETTINGS.quiet and not os.environ.get("CI")


def out() -> "Console":
    """The console for results; its width does not cut tables when the output is a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140, highlight=False, soft_wrap=False)


def log() -> "Console":
    """The console for progress and remarks."""
    from rich.console import Console

    return Console(stderr=True, quiet=SETTINGS.quiet, highlight=False)


def print_json(value: Any) -> None:
    """Write ``value`` to stdout as JSON with stable key order."""
    typer.echo(json.dumps(value, indent=2, sort_keys=True, allow_nan=False))
