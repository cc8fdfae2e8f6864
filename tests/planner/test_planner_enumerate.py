"""Listing all plans below a ceiling, against looking at every plan and against CP-SAT."""

import pytest

from planner import decide
from planner.bounds import SUMS
from planner.enumerate import enumerated
from planner.errors import Infeasible
from planner.request import Limits, Request
from planner.solve import solve, solve_with_stats
from planner.tables import LayerOption, LayerTable, Tables
from tests.planner.random_tables import assert_optimum_of_brute_force, random_request, random_tables


@pytest.fixture
def listed(monkeypatch):
    """Whether each small question was answered by listing; bounds are forced upon spaces of any size."""
    answers = []

    def watched(*arguments):
        found = enumerated(*arguments)
        answers.append(found is not None)
        return found

    monkeypatch.setattr(decide, "bounds_pay", lambda _, quantity: quantity in SUMS)
    monkeypatch.setattr(decide, "enumerated", watched)
    return answers


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_the_optimum_of_brute_force(first, listed):
    for seed in range(first, first + 100):
        assert_optimum_of_brute_force(seed)
    assert sum(listed) > 20


def test_the_optimum_of_cp_sat_on_larger_networks(listed, monkeypatch):
    compared = 0
    for seed in range(40):
        tables = random_tables(seed, layers=14, options=6, ensembles=False)
        tables = tables.model_copy(update={"boundaries": ()})
        request = random_request(seed, tables).model_copy(update={"objective": ("error",)})
        try:
            one = solve(tables, request)
        except Infeasible:
            continue
        with monkeypatch.context() as patch:
            patch.setattr(decide, "enumerated", lambda *_: None)
            other = solve_with_stats(tables, request)
        assert one.totals.error == other.plan.totals.error
        assert one.status == other.plan.status == "optimal"
        compared += other.stats.solves > 0
    assert sum(listed) > 10
    assert compared > 10, "CP-SAT was asked too rarely to compare"


def test_too_many_equal_plans_are_left_to_the_solver(listed):
    """Twenty layers alike: about 2^20 plans lie between the bound and the optimum."""
    options = (
        LayerOption(scheme="w4a8", weight_bits=4, act_bits=8, error=1.0, cycles=10),
        LayerOption(scheme="w8a8", weight_bits=8, act_bits=8, error=0.5, cycles=17),
    )
    layers = tuple(LayerTable(name=f"layer{i}", kind="linear", options=options) for i in range(20))
    tables = Tables(model="alike", target="one", clock_hz=1.0, layers=layers)
    plan = solve(tables, Request(objective=("error",), limits=Limits(latency=269.0), time_limit=30))
    assert listed[0] is False
    assert plan.status == "optimal"
    assert plan.totals.error == 15.5
