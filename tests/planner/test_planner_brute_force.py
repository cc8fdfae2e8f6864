"""The planner against every plan there is, over random small instances with all kinds of demands."""

import pytest

from tests.planner.random_tables import assert_optimum_of_brute_force

BLOCKS = [range(first, first + 50) for first in range(0, 600, 50)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.start}-{block.stop - 1}")
def test_same_optimum_as_brute_force(block):
    for seed in block:
        assert_optimum_of_brute_force(seed)
