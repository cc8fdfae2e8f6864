"""The planner against every plan there is, over random small instances with all kinds of demands."""

from fractions import Fraction

import pytest

from planner.errors import Infeasible
from planner.solve import solve
from planner.verify import verify
from tests.planner.random_tables import best_by_brute_force, random_request, random_tables

BLOCKS = [range(first, first + 50) for first in range(0, 600, 50)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.start}-{block.stop - 1}")
def test_same_optimum_as_brute_force(block):
    for seed in block:
        tables = random_tables(seed)
        request = random_request(seed, tables)
        best = best_by_brute_force(tables, request)
        try:
            plan = solve(tables, request)
        except Infeasible:
            assert best is None, seed
            continue
        assert best is not None, seed
        assert plan.status == "optimal", seed
        found = verify(tables, plan)
        assert tuple(Fraction(found[name]) for name in request.objective) == best, seed
