"""Code of the user's own, named ``FILE.py:FUNCTION``: where models and data may come from."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


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
