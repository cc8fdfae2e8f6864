"""Runner-ups, prices of limits, alternatives, frontier and infeasibility, each against every plan there is."""

from fractions import Fraction
from itertools import product
from random import Random

import pytest

from planner.control import Control
from planner.entries import ExactTables
from planner.errors import Infeasible, PlannerError
from planner.exact import as_fraction
from planner.infeasible import demands_of, feasible, question_under
from planner.pareto import pareto
from planner.request import Limits, Request
from planner.solve import solve
from planner.verify import recount
from tests.planner.random_tables import all_plans, evaluate, layer_choices, random_request, random_tables


def solved(seed, **changes):
    """A random problem that has a plan, or a skip."""
    tables = random_tables(seed)
    request = random_request(seed, tables)
    request = request.model_copy(update={"objective": request.objective[:1], **changes})
    try:
        return tables, request, solve(tables, request)
    except Infeasible:
        return None


def pick_from(plan, tables):
    chosen = [layer.options[done.option] for layer, done in zip(tables.layers, plan.layers, strict=True)]
    return [next(iter(layer_choices(option, None))) for option in chosen]


@pytest.mark.parametrize("seed", range(40))
def test_runner_up_is_the_best_single_change(seed):
    found = solved(seed, ensembles=False)
    if found is None:
        return
    tables, request, plan = found
    parts = pick_from(plan, tables)
    plans = list(all_plans(tables, request))
    name = request.objective[0]
    for index, layer in enumerate(tables.layers):
        changes = []
        for option in range(len(layer.options)):
            if layer.options[option].scheme == plan.layers[index].scheme:
                continue
            other = [*parts]
            other[index] = next(iter(layer_choices(layer.options[option], None)))
            values, agree = evaluate(tables, None, other)
            if agree and values in plans:
                changes.append(values)
        told = plan.layers[index].runner_up
        if not changes:
            assert told is None or told.breaks
            continue
        base, _ = evaluate(tables, None, parts)
        assert told is not None
        assert not told.breaks
        told_change = {
            "error": told.error_change,
            "latency": told.cycles_change,
            "energy": told.energy_change_pj,
        }
        least = min(values[name] for values in changes) - base[name]
        assert told_change[name] == pytest.approx(float(least), rel=1e-12, abs=0)


@pytest.mark.parametrize("seed", range(30))
def test_price_of_a_limit_is_what_one_percent_more_buys(seed):
    found = solved(seed, explain=True)
    if found is None:
        return
    tables, request, plan = found
    name = request.objective[0]
    for use in plan.limits:
        if use.name.startswith("memory:") or use.name == "error":
            continue
        free = request.model_copy(update={"limits": request.limits.model_copy(update={use.name: None})})
        best = min(values[name] for values in all_plans(tables, free))
        now = Fraction(recount(tables, plan)[name])
        assert use.binding is (best < now)
        assert use.gain_of_one_percent is not None
        assert 0 <= use.gain_of_one_percent <= float(now - best) * (1 + 1e-12)


def test_price_of_latency_by_hand():
    tables = random_tables(1, layers=3, ensembles=False).model_copy(
        update={"memories": (), "agreements": (), "boundaries": (), "clock_hz": 1.0}
    )
    cycles = sorted({int(values["latency"]) for values in all_plans(tables, Request())})
    for most in cycles[:-1]:
        plan = solve(tables, Request(limits=Limits(latency=most), explain=True))
        more = [
            v["error"] for v in all_plans(tables, Request(limits=Limits(latency=most + max(1, most // 100))))
        ]
        tight = [v["error"] for v in all_plans(tables, Request(limits=Limits(latency=most)))]
        assert plan.limits[0].gain_of_one_percent == float(min(tight) - min(more))


@pytest.mark.parametrize("seed", range(30))
def test_alternatives_are_the_next_best_that_differ(seed):
    found = solved(seed, ensembles=False, alternatives=3)
    if found is None:
        return
    tables, request, plan = found
    name = request.objective[0]
    by_schemes = {}
    for parts in product(
        *[[c for o in layer.options for c in layer_choices(o, None)] for layer in tables.layers]
    ):
        values, agree = evaluate(tables, None, parts)
        if agree and values in list(all_plans(tables, request)):
            key = tuple(part["option"].scheme for part in parts)
            by_schemes[key] = min(by_schemes.get(key, values[name]), values[name])
    del by_schemes[tuple(layer.scheme for layer in plan.layers)]
    ranked = sorted(by_schemes.values())
    unit = as_fraction(tables.clock_hz) if name == "latency" else 1
    told = [other.proof.value for other in plan.alternatives]
    assert told == [float(Fraction(value) / unit) for value in ranked[:3]]
    assert all(other.proof.gap == 0 and other.schemes for other in plan.alternatives)


def frontier(tables, request, first, second):
    points = sorted({(values[second], values[first]) for values in all_plans(tables, request)})
    kept, least = [], None
    for x, y in points:
        if least is None or y < least:
            kept.append((x, y))
            least = y
    return kept


@pytest.mark.parametrize("seed", range(25))
def test_walked_frontier_is_the_frontier(seed):
    tables = random_tables(seed, layers=4)
    request = Request(time_limit=60)
    wanted = frontier(tables, request, "error", "latency")
    if not wanted:
        with pytest.raises(Infeasible):
            pareto(tables, request, None)
        return
    plans = pareto(tables, request, None)
    assert [(plan.totals.cycles, plan.totals.error) for plan in plans] == [(x, float(y)) for x, y in wanted]
    assert all(plan.status == "optimal" for plan in plans)
    spread = pareto(tables, request, 4)
    assert {(p.totals.cycles, p.totals.error) for p in spread} <= {(x, float(y)) for x, y in wanted}
    assert spread[0].totals == plans[0].totals
    assert spread[-1].totals == plans[-1].totals
    assert len(spread) == min(4, len(plans))
    assert [plan.totals for plan in pareto(tables, request, 1000)] == [plan.totals for plan in plans]


def test_frontier_of_errors_with_many_digits_that_reaches_zero():
    """Integers that stand for such errors are finer than floats: a limit just below a point must not admit it."""
    rng = Random(7)
    tables = random_tables(3, layers=4)
    for layer in tables.layers:
        for number, option in enumerate(layer.options):
            object.__setattr__(option, "error", rng.random() ** 12 if number else 0.0)
    wanted = [float(y) for _, y in frontier(tables, Request(), "error", "latency")]
    assert wanted[-1] == 0 and len(wanted) > 4
    found = pareto(tables, Request(time_limit=60), 1000)
    assert [plan.totals.error for plan in found] == pytest.approx(wanted, rel=1e-15)
    few = pareto(tables, Request(time_limit=60), 4)
    assert len(few) == 4


def test_frontier_of_one_quantity_is_refused():
    with pytest.raises(PlannerError, match="against itself"):
        pareto(random_tables(0), Request(), 3, against="error")


def infeasible_requests():
    for seed in range(400):
        tables = random_tables(seed)
        request = random_request(seed, tables)
        limits = {k: v * 0.8 for k, v in request.limits.model_dump().items() if v is not None}
        request = request.model_copy(update={"limits": Limits(**limits)})
        if not any(True for _ in all_plans(tables, request)):
            yield seed, tables, request


@pytest.mark.parametrize(("seed", "tables", "request_"), list(infeasible_requests())[:40])
def test_conflict_is_minimal_and_relaxations_are_the_smallest(seed, tables, request_):
    with pytest.raises(Infeasible) as caught:
        solve(tables, request_)
    report = caught.value.report
    assert report.minimal
    exact = ExactTables(tables)
    demands = demands_of(exact, request_)
    core = [d for d in demands if (d.kind, d.name) in {(c.kind, c.name) for c in report.conflict}]
    assert len(core) == len(report.conflict)
    assert feasible(question_under(exact, request_, core), Control()) is False
    for demand in core:
        rest = [other for other in core if other is not demand]
        assert feasible(question_under(exact, request_, rest), Control()) is True, demand
    for relaxation in report.relaxations:
        if relaxation.needed is None:
            continue
        if relaxation.name.startswith("memory:"):
            grown = [m.model_copy(update={"bytes": int(relaxation.needed)}) for m in tables.memories]
            wide, asked = tables.model_copy(update={"memories": tuple(grown)}), request_
        else:
            wide = tables
            limits = request_.limits.model_copy(update={relaxation.name: relaxation.needed})
            asked = request_.model_copy(update={"limits": limits})
        values = list(all_plans(wide, asked))
        assert values, relaxation
        if relaxation.name in ("latency", "error", "energy", "bops"):
            own = min(v[relaxation.name] for v in values)
            unit = as_fraction(tables.clock_hz) if relaxation.name == "latency" else 1
            assert float(own / unit) == pytest.approx(relaxation.needed, rel=1e-15)


def plain_tables():
    tables = random_tables(2, layers=2, ensembles=False)
    return tables.model_copy(update={"agreements": (), "memories": ()})


def test_headline_speaks_of_hardware():
    tables = plain_tables()
    with pytest.raises(Infeasible, match="latency at most 1e-12 s") as caught:
        solve(tables, Request(limits=Limits(latency=1e-12)))
    relaxed = caught.value.report.relaxations[0]
    assert relaxed.name == "latency"
    assert relaxed.needed is not None
    assert solve(tables, Request(limits=Limits(latency=relaxed.needed))).status == "optimal"


def test_contradicting_pins_are_named():
    tables = plain_tables()
    name = tables.layers[0].name
    with pytest.raises(Infeasible) as caught:
        solve(tables, Request(pins=(f"{name}=w16*",)))
    assert [(c.kind, c.name) for c in caught.value.report.conflict] == [("pin", f"{name}=w16*")]


def test_where_no_single_change_is_enough_all_conflicts_are_named():
    tables, limits = plain_tables(), Limits(latency=1e-12, energy=1e-9, weight_memory=10**12)
    with pytest.raises(Infeasible) as caught:
        solve(tables, Request(limits=limits))
    report = caught.value.report
    assert not report.relaxations and len(report.conflict) == len(report.further) == 1
    assert {report.conflict[0].name, report.further[0].name} == {"latency", "energy"}
    plans = list(all_plans(tables, Request()))
    least = {one.name: one.needed for one in report.needed}
    assert least["energy"] == pytest.approx(float(min(v["energy"] for v in plans)))
    assert least["latency"] == pytest.approx(
        float(min(v["latency"] for v in plans) / as_fraction(tables.clock_hz))
    )
