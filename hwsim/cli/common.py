"""What every verb takes: ``--config``, ``--quiet``, ``--log-level``, ``--debug``; and how every help ends.

The flags are added to the finished tree of commands, so that no verb has to repeat them.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from hwsim.cli import console
from hwsim.config import read_config
from hwsim.errors import UserError

_PYTHON_TYPE = re.compile(r"list\[(\w+)\]|(?<=\w) range")
_EXAMPLE = re.compile(r"^Example: *(.+)$", re.MULTILINE)


def equip(root: Any) -> Any:
    """Give every command of the tree the common flags, and its examples a paragraph of their own."""
    for _, command in walk(root):
        _set_examples_apart(command)
        _name_values(command)
        own = {option for param in command.params for option in param.opts}
        extra = [param for param in _common_parameters() if not own & set(param.opts)]
        command.params += [param for param in extra if _runs(command) or param.name != "config"]
    return root


def _runs(command: Any) -> bool:
    """Whether the command does something by itself, so that flags can be kept for it."""
    return not hasattr(command, "commands") or bool(command.invoke_without_command)


def walk(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    yield words, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, (*words, name))


def examples(command: Any) -> list[str]:
    """The example command lines of a command."""
    return [line.strip() for line in (command.epilog or "").splitlines() if line.strip().startswith("hwsim ")]


def _set_examples_apart(command: Any) -> None:
    text = command.help or ""
    found = _EXAMPLE.findall(text)
    command.help = _EXAMPLE.sub("", text).strip()
    if found:
        # \b: a paragraph that keeps its line breaks
        command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in found)


def _name_values(command: Any) -> None:
    """Say what a value is in the help as people say it: not "int range", not "list[str]", no verb that must follow."""
    if hasattr(command, "commands") and command.invoke_without_command:
        command.subcommand_metavar = "[COMMAND]"
    context = typer.Context(command)
    for param in command.params:
        shown = _PYTHON_TYPE.sub(lambda match: match[1] or "", param.display_type(context))
        param.display_type = partial(_shown, shown)


def _shown(text: str, _context: Any) -> str:
    return text


def _common_parameters() -> list[Any]:
    """The common flags as parameters, read off a command that has nothing else."""
    app = typer.Typer(add_completion=False)
    app.command()(_common)
    return [param for param in get_command(app).params if param.name != "help"]


def _use_config(context: typer.Context, value: Path | None) -> None:
    """Let the file answer for flags that the command line leaves open."""
    if value is None or context.resilient_parsing:
        return
    params = {key(param): param for param in context.command.params if param.name not in ("config", "help")}
    verb = context.command_path.partition(" ")[2]
    settings = read_config(value, verb, params)
    defaults: dict[str, Any] = {}
    for name, setting in settings.items():
        param = params[name]
        try:
            given = _as_typed(setting.value, param)
            param.process_value(context, given)
        except (UserError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{setting.place}: {name}: {error}") from error
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            raise UserError(f"{setting.place}: {name}: {getattr(error, 'message', error)}") from error
        defaults[str(param.name)] = given
    context.default_map = {**(context.default_map or {}), **defaults}


def key(param: Any) -> str:
    """A parameter's name in a config file: its flag without dashes, or the argument's name."""
    if param.param_type_name == "argument":
        return str(param.name).replace("_", "-")
    return max(param.opts, key=len).lstrip("-")


def _as_typed(value: Any, param: Any) -> Any:
    """A value as the command line would have brought it."""
    if param.multiple or param.nargs == -1:
        return [str(item) for item in (value if isinstance(value, list) else [value])]
    if isinstance(value, list):
        raise UserError("takes one value, not a list")
    return value if isinstance(value, bool) else str(value)


def _be_quiet(value: bool) -> None:
    if value:
        console.SETTINGS.quiet = True
        console.start_logging()


def _set_level(value: str | None) -> None:
    if value is not None:
        console.SETTINGS.log_level = console.known_level(value)
        console.start_logging()


def _show_tracebacks(value: bool) -> None:
    if value:
        console.SETTINGS.debug = True


def _common(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", is_eager=True, expose_value=False, callback=_use_config,
            help="YAML file with flags (`max-latency: 4ms`); the command line goes before it.",
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", expose_value=False, callback=_be_quiet, help="No progress, no notes.")
    ] = False,
    log_level: Annotated[
        str | None,
        typer.Option(
            "--log-level", expose_value=False, callback=_set_level, autocompletion=console.levels,
            help="debug, info, warning or error.",
        ),
    ] = None,
    debug: Annotated[
        bool,
        typer.Option("--debug", expose_value=False, callback=_show_tracebacks, help="Show tracebacks of errors."),
    ] = False,
) -> None:  # fmt: skip
    """A command with the common flags alone."""
