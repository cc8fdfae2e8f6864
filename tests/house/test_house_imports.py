"""The house stands: who may import whom, no circles, and a command line that answers at once."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("hwsim", "planner", "quant")
HEAVY = ("torch", "tvm", "ortools", "numba", "networkx", "timm", "transformers", "matplotlib", "scipy")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(p): p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))}


def imported(path: Path, top_level_only: bool) -> set[str]:
    """Names of our modules and of outside packages that a file imports; type-checking imports left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("package", ["quant", "planner"])
def test_ground_floor_imports_nothing_from_above(package):
    other = {"quant": "planner", "planner": "quant"}[package]
    for name, path in MODULES.items():
        if name.split(".")[0] == package:
            roots = {module.split(".")[0] for module in imported(path, top_level_only=False)}
            assert not roots & {"hwsim", other}, f"{name} imports {roots & {'hwsim', other}}"


def test_no_import_circles():
    graph = {
        n: {m for m in imported(p, top_level_only=True) if m in MODULES and m != n}
        for n, p in MODULES.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


def test_no_module_reads_pickles():
    for name, path in MODULES.items():
        roots = {module.split(".")[0] for module in imported(path, top_level_only=False)}
        assert not roots & {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}, name


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from hwsim.cli.main import run; run(['--help']); "
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {module.split(".")[0] for module in done.stderr.split()}
    assert "typer" in loaded
    assert not loaded & {*HEAVY, "pydantic", "numpy"}


def test_every_file_has_a_home_in_the_size_limit():
    long = {name: n for name, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 450}
    assert not long
