"""Code of the user's own, named ``FILE.py:FUNCTION``: where models and data may come from."""

import contextlib
import difflib
import importlib.util
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Any

from hwsim.errors import UserError, first_line


def user_function(path: Path, name: str, where: str) -> Callable[..., Any]:
    """The function of this name in the file; ``where`` begins the message when there is none."""
    if not path.is_file():
        raise UserError(f"{where}: no such file {path}; write FILE.py:FUNCTION")
    with guarded(where):
        module = run_file(path)
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(name, own, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{where}: {path} has no function {name!r}{meant}")
    return function


@contextlib.contextmanager
def guarded(where: str) -> Generator[None]:
    """Run the user's code: what it raises is the user's mistake, also its own exit; what it prints goes to stderr.

    Results alone stand on stdout, where ``--json`` is read by other programs.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(
            f"{where}: the file ends the program (exit {error.code}); keep that under `if __name__ == '__main__'`"
        ) from error
    except Exception as error:
        raise UserError(f"{where}: {type(error).__name__}: {first_line(error)}") from error


def run_file(path: Path) -> ModuleType:
    """Run an existing ``.py`` file as a module. What lies beside it can be imported, as by ``python FILE.py``.

    The folder is searched last, so that a file there hides nothing that is installed.
    """
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(f"hwsim_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
