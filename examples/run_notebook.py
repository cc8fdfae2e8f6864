"""Run the cells of a notebook without Jupyter, and keep what they show.

python examples/run_notebook.py examples/plan.ipynb

Each code cell is executed in one namespace; the value of its last expression is shown as a notebook would show it
(``_repr_html_`` where there is one). The tests call ``run`` and leave the file alone.
"""

import ast
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def run(notebook: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The notebook with fresh outputs; cells run in ``directory``."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    os.chdir(directory)
    try:
        done = [_run_cell(cell, number, namespace) for number, cell in enumerate(notebook["cells"], 1)]
    finally:
        os.chdir(before)
    return {**notebook, "cells": done}


def _run_cell(cell: dict[str, Any], number: int, namespace: dict[str, Any]) -> dict[str, Any]:
    if cell["cell_type"] != "code":
        return cell
    body = ast.parse("".join(cell["source"])).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), f"cell {number}", "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), namespace)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        data: dict[str, Any] = {"text/plain": [str(value)]}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = [value._repr_html_()]
        outputs.append(
            {"output_type": "execute_result", "execution_count": None, "data": data, "metadata": {}}
        )
    return {**cell, "outputs": outputs}


def main() -> None:
    """Refresh the outputs of the notebooks named on the command line."""
    for name in sys.argv[1:]:
        path = Path(name)
        with tempfile.TemporaryDirectory() as scratch:
            fresh = run(json.loads(path.read_text(encoding="utf-8")), Path(scratch))
        path.write_text(json.dumps(fresh, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
