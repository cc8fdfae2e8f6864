"""What must hold for any tables: monotony, scaling, permutation, pruning, determinism."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.decide import reduced
from planner.entries import ExactTables
from planner.errors import Infeasible
from planner.exact import as_fraction
from planner.limits import limit_for, to_integer
from planner.request import Request
from planner.solve import question_of, solve
from planner.tables import Tables
from tests.planner.random_tables import best_by_brute_force, random_request, random_tables

seeds = st.integers(min_value=10_000, max_value=10_000_000)
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def single(seed):
    """A random problem with one objective."""
    tables = random_tables(seed)
    request = random_request(seed, tables)
    return tables, request.model_copy(update={"objective": request.objective[:1]})


def optimum(tables, request):
    """Exact optimum in the integers of the tables, or None."""
    try:
        plan = solve(tables, request)
    except Infeasible:
        return None
    assert plan.status == "optimal"
    return as_fraction(plan.proof[0].value)


@quick
@given(seeds)
def test_removing_an_option_never_improves(seed):
    tables, request = single(seed)
    rng = random.Random(seed)
    layer = rng.choice(tables.layers)
    if len(layer.options) == 1:
        return
    dropped = rng.randrange(len(layer.options))
    fewer = layer.model_copy(update={"options": layer.options[:dropped] + layer.options[dropped + 1 :]})
    layers = tuple(fewer if one is layer else one for one in tables.layers)
    with_all, without = (
        optimum(tables, request),
        optimum(tables.model_copy(update={"layers": layers}), request),
    )
    assert without is None or (with_all is not None and with_all <= without)


@quick
@given(seeds)
def test_loosening_a_limit_never_worsens(seed):
    tables, request = single(seed)
    limits = {k: v for k, v in request.limits.model_dump().items() if v is not None}
    if not limits:
        return
    name = random.Random(seed).choice(sorted(limits))
    wider = request.limits.model_copy(update={name: limits[name] * 1.25 + 1e-9})
    tight, loose = optimum(tables, request), optimum(tables, request.model_copy(update={"limits": wider}))
    assert tight is None or (loose is not None and loose <= tight)


@quick
@given(seeds, st.sampled_from([2, 1024, 1000]))
def test_scaling_cycles_and_clock_changes_nothing(seed, factor):
    tables, request = single(seed)
    data = tables.model_dump()

    def scale(node):
        if isinstance(node, dict):
            return {k: times(v) if "cycles" in k else scale(v) for k, v in node.items()}
        return [scale(v) for v in node] if isinstance(node, list | tuple) else node

    def times(value):
        if isinstance(value, list | tuple):
            return [v * factor for v in value]
        return None if value is None else value * factor

    scaled = scale(data) | {"clock_hz": tables.clock_hz * factor}
    other = Tables.model_validate(scaled)
    assert optimum(tables, request) == optimum(other, request)


@quick
@given(seeds)
def test_order_of_layers_and_options_changes_nothing(seed):
    tables, request = single(seed)
    rng = random.Random(seed)
    layers = [
        layer.model_copy(update={"options": tuple(rng.sample(layer.options, len(layer.options)))})
        for layer in tables.layers
    ]
    rng.shuffle(layers)
    assert optimum(tables, request) == optimum(tables.model_copy(update={"layers": tuple(layers)}), request)


@quick
@given(seeds)
def test_pruning_keeps_the_optimum(seed):
    tables, request = single(seed)
    exact = ExactTables(tables)
    question = question_of(exact, request.model_copy(update={"ensembles": False}))
    entries = reduced(question, request.objective[0], None)
    alone = request.model_copy(update={"ensembles": False})
    before = best_by_brute_force(tables, alone)
    if not all(entries):
        assert before is None
        return
    kept = tuple(
        layer.model_copy(update={"options": tuple(layer.options[entry.option] for entry in row)})
        for layer, row in zip(tables.layers, entries, strict=True)
    )
    assert best_by_brute_force(tables.model_copy(update={"layers": kept}), alone) == before


@pytest.mark.parametrize("seed", range(15))
def test_same_bytes_every_time(seed):
    tables = random_tables(seed, ensembles=seed % 2 == 0)
    request = random_request(seed, tables).model_copy(update={"alternatives": 1, "explain": True})
    try:
        first = solve(tables, request).model_dump_json()
    except Infeasible:
        return
    assert solve(tables, request).model_dump_json() == first


@given(st.integers(min_value=0, max_value=10**15), st.sampled_from([1.0, 3e8, 999999937.0, 1.2345e9]))
def test_limits_admit_what_they_were_made_for(value, clock):
    tables = random_tables(3).model_copy(update={"clock_hz": clock})
    exact = ExactTables(tables)
    assert to_integer(exact, "latency", as_fraction(limit_for(exact, "latency", value))) >= value


def test_no_limit_takes_the_least_error():
    tables = random_tables(5, ensembles=False)
    request = Request(ensembles=False)
    assert optimum(tables.model_copy(update={"memories": (), "agreements": ()}), request) == sum(
        min(as_fraction(option.error) for option in layer.options) for layer in tables.layers
    ) + as_fraction(tables.fixed_error)
