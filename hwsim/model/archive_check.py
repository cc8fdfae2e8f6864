"""Look into a .pt2 archive before torch reads it, and refuse what could run code.

``torch.export.load`` gives every symbolic size to ``sympy.sympify``, which evaluates Python, and finds the function of
a node by walking attributes from ``torch``, so that ``torch.os.system`` would be one. Both stand as text in the JSON
documents of the archive: an honest program has arithmetic over symbols there, and operators.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hwsim.errors import UserError

# Sizes as sympy prints them, ``s0 + 1`` or ``Add(Symbol('s0', positive=True), Integer(1))``: numbers, symbols, sympy's
# and torch's classes (Mod, FloorDiv), arithmetic. What is quoted may be a symbol or a number only.
_NAME = re.compile(r"[A-Za-z_]\w*")
_SYMBOL = re.compile(r"[a-z]{1,3}\d+|[A-Z][A-Za-z0-9]*|(int_)?oo")
_QUOTED = re.compile(r"'([a-z]{1,3}\d+|-?\d+(\.\d*)?(e[+-]?\d+)?)'|\b[a-z]+=(True|False|\d+)\b")
_ARITHMETIC = re.compile(r"[\w\s+\-*/%(),<>=!&|~]*|-?\d+\.\d*(e[+-]?\d+)?")

_OPERATOR = re.compile(r"torch\.ops\.(aten|prims|higher_order)(\.[A-Za-z]\w*|\._[A-Za-z]\w*){1,2}")
_SYMBOLIC = re.compile(r"torch\.sym_[a-z]+|torch\._sym_[a-z]+|math\.[a-z0-9]+")
_PYTHON = re.compile(
    r"_operator\.(add|and_|eq|floordiv|ge|getitem|gt|le|lt|mod|mul|ne|neg|not_|or_|pos|pow|sub|truediv)"
)
_READS_FILES = "torch.ops.aten.from_file"


def refuse_code(path: Path) -> None:
    """Raise a ``UserError`` when a text in the archive is more than an operator or the arithmetic of sizes."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) != len(names):
            raise UserError(f"--model {path}: the archive holds a file twice; save the program again")
        for name in names:
            if name.endswith(".json"):
                _refuse_in(path, json.loads(archive.read(name)))


def _refuse_in(path: Path, document: Any) -> None:
    for key, text in _texts(document):
        if key == "expr_str" and not _is_arithmetic(text):
            raise UserError(
                f"--model {path}: size {text[:60]!r} is not arithmetic; the file is not to be trusted"
            )
        if key == "target" and not _is_operator(text):
            raise UserError(
                f"--model {path}: operator {text[:60]!r} is none of torch's own; save the program with torch's "
                "operators only (program.run_decompositions())"
            )


def _texts(document: Any) -> Iterator[tuple[str, str]]:
    """Every (key, text) of a JSON document, the subgraphs of nodes included."""
    waiting = [document]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            items: dict[str, Any] = found
            for key, value in items.items():
                if isinstance(value, str):
                    yield key, value
                else:
                    waiting.append(value)
        elif isinstance(found, list):
            waiting.extend(found)  # pyright: ignore[reportUnknownArgumentType]


def _is_arithmetic(text: str) -> bool:
    bare = _QUOTED.sub("", text)
    return _ARITHMETIC.fullmatch(bare) is not None and all(
        _SYMBOL.fullmatch(name) for name in _NAME.findall(bare)
    )


def _is_operator(text: str) -> bool:
    known = any(pattern.fullmatch(text) for pattern in (_OPERATOR, _SYMBOLIC, _PYTHON))
    return known and not text.startswith(_READS_FILES)
