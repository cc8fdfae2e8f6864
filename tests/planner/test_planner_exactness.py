"""Integer scaling: no decade of error hides a better plan, no limit is overstepped by a hair."""

import random
from fractions import Fraction
from itertools import product

import pytest

from planner.control import Control
from planner.cpsat import DIGIT_BITS, Model
from planner.entries import ExactTables
from planner.errors import Infeasible
from planner.request import Limits, Request
from planner.solve import solve
from planner.space import Space
from planner.tables import LayerOption, LayerTable, Tables


def make(rows):
    """Tables from rows of (error, cycles, energy) per layer."""
    layers = []
    for index, row in enumerate(rows):
        options = tuple(
            LayerOption(
                scheme=f"s{i}", weight_bits=8, act_bits=8, error=error, cycles=cycles, energy_pj=energy
            )
            for i, (error, cycles, energy) in enumerate(row)
        )
        layers.append(LayerTable(name=f"l{index}", kind="linear", options=options))
    return Tables(layers=tuple(layers), clock_hz=1.0)


def best(rows, most_cycles):
    sums = [
        sum(Fraction(str(part[0])) for part in plan)
        for plan in product(*rows)
        if sum(part[1] for part in plan) <= most_cycles
    ]
    return min(sums)


@pytest.mark.parametrize("seed", range(25))
def test_forty_decades_and_ties_in_the_last_digit(seed):
    rng = random.Random(seed)
    rows = []
    for _ in range(6):
        base = rng.random()
        # all options nearly tie: they differ in the 17th digit or by one of forty decades
        rows.append(
            [(base * (1 + rng.randint(0, 3) * 2.0**-52) + 10.0 ** -rng.randint(12, 40), rng.randint(1, 4), 0.0)
             for _ in range(3)]
            + [(1e12 * rng.random(), 0, 0.0)]
        )  # fmt: skip
    tables = make(rows)
    plan = solve(tables, Request(limits=Limits(latency=14)))
    assert plan.status == "optimal"
    assert plan.proof[0].gap == 0
    chosen = [rows[i][layer.option][0] for i, layer in enumerate(plan.layers)]
    assert sum(Fraction(str(error)) for error in chosen) == best(rows, 14)


def test_sum_of_tenths_meets_three_tenths():
    tables = make([[(1.0, 1, 0.1), (2.0, 1, 0.05)], [(1.0, 1, 0.2), (2.0, 1, 0.05)]])
    plan = solve(tables, Request(limits=Limits(energy=0.3)))
    assert plan.totals.error == 2.0


def test_a_hair_above_the_limit_is_refused():
    above = 0.1 + 1e-17 * 3  # the next float above one tenth
    assert above > 0.1
    tiny = 10.0**-300
    rows = [[(1.0, 1, 0.1 + 0.1), (2.0, 1, 1e-17)], [(1.0, 1, above), (2.0, 1, 1e-17), (1.5, 1, tiny)]]
    plan = solve(make(rows), Request(limits=Limits(energy=0.3)))
    assert plan.totals.error == 2.5
    with pytest.raises(Infeasible):
        solve(make([rows[0][:1], rows[1][:1]]), Request(limits=Limits(energy=0.3)))


@pytest.mark.parametrize("seed", range(10))
def test_exact_limits_in_digits_agree_with_fractions(seed):
    rng = random.Random(seed)
    rows = [[(0.0, 1, rng.random() * 10.0 ** -rng.choice([0, 9, 18])) for _ in range(3)] for _ in range(4)]
    exact = ExactTables(make(rows))
    space = Space(exact, None, exact.entries([[0, 1, 2]] * 4, None))
    row = space.rows("energy")[0]
    assert row.reach.bit_length() > DIGIT_BITS
    sums = sorted(
        (sum(exact.energy_scale.integer(rows[i][e][2]) for i, e in enumerate(plan)), plan)
        for plan in product(range(3), repeat=4)
    )
    total, plan = sums[rng.randint(1, len(sums) - 2)]
    for limit, fits in ((total, True), (total - 1, False)):
        model = Model(space)
        model.limit(row, limit, exact=True)
        for layer, entry in enumerate(plan):
            model.model.add(model.variables[space.x[layer][entry]] == 1)
        assert (model.run(Control()).status == "optimal") is fits


@pytest.mark.parametrize("seed", range(20))
def test_a_bound_of_zero_loses_no_plan_to_rounding(seed):
    """All layers but one can stay free of error: the bound is 0, and errors of 17 digits do not fit a float."""
    rng = random.Random(seed)
    tables = Tables(
        clock_hz=1.0,
        layers=tuple(
            LayerTable(
                name=f"l{index}",
                kind="linear",
                options=tuple(
                    LayerOption(
                        scheme=f"s{cycles}",
                        weight_bits=8,
                        act_bits=8,
                        error=error,
                        cycles=cycles,
                        energy_pj=0.0,
                    )
                    for cycles, error in ((3, 0.0), (2, rng.uniform(1e-9, 1e-3)), (1, rng.uniform(1e3, 1e4)))
                ),
            )
            for index in range(12)
        ),
    )
    plan = solve(tables, Request(limits=Limits(latency=35.0)))
    assert plan.status == "optimal"
    assert plan.totals.error == min(layer.options[1].error for layer in tables.layers)
