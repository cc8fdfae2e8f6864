"""The command ``hwsim``: mounts one verb per file and turns errors into exit codes.

Exit codes: 0 ok · 1 failure · 2 usage or bad input · 3 infeasible · 4 a budget or tolerance is violated
under ``--strict`` · 130 interrupted, with the best result so far saved.
"""

import difflib
import errno
import gc
import sys
import traceback
from functools import cache
from typing import Annotated, Any

import typer
from typer.main import get_command

from hwsim.cli import (
    bench,
    compile,
    console,
    doctor,
    evaluate,
    model,
    plan,
    quantize,
    report,
    simulate,
    solve,
    target,
)
from hwsim.cli import run as run_verb
from hwsim.cli.common import equip, examples
from hwsim.errors import HwsimError, mistakes

app = typer.Typer(
    name="hwsim",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: the framed one cuts the names of long flags on a terminal of 80 columns.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"hwsim {metadata.version('hwsim')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Which quantized form of a model should run on a device, how fast, how accurate.

    Example: hwsim plan --target edge_gpu --model vit_b
    Example: hwsim plan --target edge_gpu --model vit_b --max-latency 4ms
    Example: hwsim report out/vit_b-edge_gpu
    Example: hwsim doctor
    """


plan.app.command("diff")(solve.diff)
app.add_typer(plan.app, name="plan")
app.command("report")(report.report)
app.command("quantize")(quantize.quantize)
app.command("evaluate")(evaluate.evaluate)
app.command("compile")(compile.compile_)
app.command("run")(run_verb.run)
app.command("bench")(bench.bench)
app.command("simulate")(simulate.simulate)
app.command("solve")(solve.solve)
app.add_typer(target.app, name="target")
app.add_typer(model.app, name="model")
app.command("doctor")(doctor.doctor)


FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk, which is the user's to mend."""


@cache
def command() -> Any:
    """The tree of commands; the verb people begin with stands first."""
    root: Any = get_command(app)
    root.commands = {"plan": root.commands["plan"]} | root.commands
    return equip(root)


def _exit_code(error: BaseException) -> int:
    """Print ``error`` as one line and say which code to leave with."""
    if console.SETTINGS.debug:
        traceback.print_exception(error)
    message = _usage_message(error) if hasattr(error, "format_message") else str(error)
    print(f"hwsim: error: {message or type(error).__name__}", file=sys.stderr)
    code = getattr(error, "exit_code", 1)
    return code if isinstance(code, int) else 1


def _usage_message(error: Any) -> str:
    """Typer's message; the likeliest flags instead of all that look a little alike."""
    asked = getattr(error, "option_name", None)
    if asked and error.message.startswith("No such option"):
        known = [option for param in error.ctx.command.params for option in param.opts] if error.ctx else []
        near = difflib.get_close_matches(asked, known, n=2, cutoff=0.6)
        where = f"see {error.ctx.command_path} --help" if error.ctx else "see --help"
        return f"no flag {asked}; " + (f"did you mean {' or '.join(near)}?" if near else where)
    if type(error).__name__ == "MissingParameter" and error.param and error.ctx:
        param, known = error.param, examples(error.ctx.command)
        name = str(param.name).upper() if param.param_type_name == "argument" else max(param.opts, key=len)
        return f"{name} is missing" + (f"; for example: {known[0]}" if known else "")
    return str(error.format_message())


def run(arguments: list[str]) -> int:
    """Run the command line ``arguments`` and return the exit code."""
    console.SETTINGS.reset()
    console.start_logging()
    try:
        result = command()(args=arguments, prog_name="hwsim", standalone_mode=False)
        if result == 130:
            print("hwsim: interrupted", file=sys.stderr)
        return result if isinstance(result, int) else 0
    except HwsimError as error:
        return _exit_code(error)
    except mistakes() as error:
        _exit_code(error)
        return 2
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.errno not in FULL:
            return _defect(error)
        _exit_code(error)
        return 1
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own usage errors
            return _exit_code(error)
        return _defect(error)


def _defect(error: BaseException) -> int:
    """Say that this is no mistake of the user's."""
    _exit_code(error)
    if not console.SETTINGS.debug:
        print("hwsim: this is a defect; run again with --debug and report it", file=sys.stderr)
    return 1


def main() -> None:
    """Entry point of the console script."""
    # torch, timm and transformers leave millions of objects that stay: Python's default has the collector walk
    # through them again and again, a second of a short run (benchmarks/plan_cold.py).
    gc.set_threshold(50_000, 20, 100)
    sys.exit(run(sys.argv[1:]))
