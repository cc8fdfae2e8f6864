"""HAWQ-V3's 18 published planning problems: proven, and never worse than the known answers."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest

from planner.solve import solve
from tests.shared_data import SHARED, shared

PATH = Path(__file__).resolve().parents[2] / "benchmarks/planner/hawq.py"
SPEC = importlib.util.spec_from_file_location("hawq_problems", PATH)
assert SPEC is not None
assert SPEC.loader is not None
hawq = importlib.util.module_from_spec(SPEC)
sys.modules["hawq_problems"] = hawq
SPEC.loader.exec_module(hawq)


def problems():
    folder = SHARED / "ref"
    return hawq.hawq_problems(folder) if (folder / "hawq_ilp_optima.csv").exists() else []


def error_of(tables, bits):
    return sum(layer.options[b == "8"].error for layer, b in zip(tables.layers, bits, strict=True))


def test_all_eighteen_are_there():
    shared("ref/hawq_ilp_optima.csv")
    assert len(problems()) == 18


@pytest.mark.parametrize("problem", problems(), ids=lambda problem: problem.name)
def test_proven_and_as_good_as_known(problem):
    plan = solve(problem.tables, problem.request)
    assert plan.status == "optimal"
    assert plan.totals.error <= problem.best * (1 + 1e-12)
    published = shared("ref/hawq_published_vs_cpsat.csv")
    with published.open() as stream:
        rows = {row["config"]: row["published_bits"] for row in csv.DictReader(stream)}
    bits = rows["bit_config_" + problem.name.replace("-", "_")]
    assert plan.totals.error <= error_of(problem.tables, bits) * (1 + 1e-12)
