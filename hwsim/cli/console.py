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
from hwsim.files import existing_file as existing_file
from hwsim.files import plan_file as plan_file

if TYPE_CHECKING:
    from rich.console import Console

_LEVELS = ("debug", "info", "warning", "error")


@dataclass
class Settings:
    """Choices that hold for the whole process; set once from the command line."""

    debug: bool = False
    quiet: bool = False
    log_level: str = "warning"

    def reset(self) -> None:
        """Back to the defaults, for another command line in the same process."""
        self.debug, self.quiet, self.log_level = False, False, "warning"


SETTINGS = Settings()


def start_logging() -> None:
    """Send log messages to stderr, as loudly as the settings say."""
    logging.basicConfig(
        level="ERROR" if SETTINGS.quiet else SETTINGS.log_level.upper(),
        format="%(levelname)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )


def levels() -> list[str]:
    """The names that ``--log-level`` takes."""
    return list(_LEVELS)


def known_level(value: str) -> str:
    """The level of this name."""
    if value.lower() not in _LEVELS:
        raise UserError(f"--log-level: {value!r} is not a level; choose {', '.join(_LEVELS)}")
    return value.lower()


def shows_progress() -> bool:
    """Whether a moving bar would reach a person."""
    return sys.stderr.isatty() and not SETTINGS.quiet and not os.environ.get("CI")


def out(*, markup: bool = False) -> "Console":
    """The console for results; its width does not cut tables when the output is a file.

    Without markup what stands in brackets is printed as it is: `net.py:make[depth=2]` is a model's name. Nor does
    `net.py:zero:` become a picture.
    """
    from rich.console import Console

    width = None if sys.stdout.isatty() else 140
    return Console(width=width, highlight=False, soft_wrap=False, markup=markup, emoji=False)


def log() -> "Console":
    """The console for progress and remarks."""
    from rich.console import Console

    return Console(stderr=True, quiet=SETTINGS.quiet, highlight=False, markup=False, emoji=False)


def flags(context: typer.Context) -> dict[str, Any]:
    """The values of this command's flags, in the order of its help whatever the order they were given in."""
    return {
        param.name: context.params[param.name]
        for param in context.command.params
        if param.name in context.params
    }


def print_json(value: Any) -> None:
    """Write ``value`` to stdout as JSON with stable key order."""
    typer.echo(json.dumps(value, indent=2, sort_keys=True, allow_nan=False))
