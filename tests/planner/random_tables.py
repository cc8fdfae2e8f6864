"""Random small tables and requests, and the answer by looking at every plan."""

import random
from fractions import Fraction
from itertools import pairwise, product

from planner.errors import Infeasible
from planner.request import Limits, Request
from planner.select import legal_options
from planner.solve import solve
from planner.tables import (
    Agreement,
    Boundary,
    BoundaryRule,
    EnsembleChoice,
    LayerOption,
    LayerTable,
    LiveSet,
    Memory,
    Split,
    Tables,
)
from planner.verify import verify


def _option(rng, decades, splits):
    weight_bits, act_bits = rng.choice([2, 4, 8]), rng.choice([4, 8])
    order = rng.choice([1, 1, 2, 3])
    error = round(rng.random(), 3) * 10.0 ** -rng.randint(0, decades)
    way = rng.choice(["single", "single", "rows", "terms"])
    term_cycles = tuple(rng.randint(1, 9) for _ in range(order))
    cycles = sum(term_cycles) if way == "single" else max(1, sum(term_cycles) * 2 // 3)
    offered = []
    if way == "single" and order > 1 and splits:
        offered = [
            Split(predictors=p, base=b, error=error * 0.5, static_pj=rng.randint(0, 9) / 8)
            for p in (2, 3)
            for b in range(1, order)
            if rng.random() < 0.7
        ]
    static = rng.choice([0.0, rng.randint(0, 9) / 8])
    return LayerOption(
        scheme=f"w{weight_bits}a{act_bits}" + (f".o{order}" if order > 1 else ""),
        weight_bits=weight_bits,
        act_bits=act_bits,
        order=order,
        engine=rng.choice(["mac", "simd"]),
        way=way,
        error=error,
        cycles=cycles,
        energy_pj=static + rng.randint(0, 40) / 8,
        static_pj=static,
        bops=weight_bits * act_bits * order,
        weight_bytes=weight_bits * order * rng.randint(1, 3),
        act_bytes=act_bits * rng.randint(1, 3),
        term_cycles=term_cycles,
        term_energy_pj=tuple(rng.randint(0, 40) / 8 for _ in range(order)),
        term_bops=tuple(weight_bits * act_bits for _ in range(order)),
        splits=tuple(offered),
    )


def random_tables(seed, layers=None, options=4, ensembles=None):
    rng = random.Random(seed)
    count = layers or rng.randint(1, 6)
    with_ensembles = rng.random() < 0.4 if ensembles is None else ensembles
    if with_ensembles:
        count, options = min(count, 4), min(options, 3)
    decades = rng.choice([0, 3, 12])
    names = [f"layer{i}" for i in range(count)]
    tables = [
        LayerTable(
            name=name,
            kind=rng.choice(["linear", "conv2d"]),
            options=tuple(_option(rng, decades, with_ensembles) for _ in range(rng.randint(1, options))),
        )
        for name in names
    ]
    boundaries = []
    for source, target in pairwise(names):
        if rng.random() < 0.4:
            rules = tuple(
                BoundaryRule(
                    source_act_bits=rng.choice(["any", 4, 8]),
                    target_act_bits=rng.choice(["any", 4, 8]),
                    source_engine=rng.choice(["any", "mac"]),
                    target_engine=rng.choice(["any", "simd"]),
                    cycles=rng.randint(0, 6),
                    alone_cycles=rng.choice([None, rng.randint(0, 12)]) if with_ensembles else None,
                    energy_pj=rng.randint(0, 8) / 4,
                )
                for _ in range(rng.randint(1, 2))
            )
            boundaries.append(Boundary(source=source, target=target, rules=rules))
    agreements = []
    if count > 1 and rng.random() < 0.4:
        members = rng.sample(names, rng.randint(2, count))
        on = rng.choice([("act_bits",), ("engine",), ("act_bits", "engine"), ("weight_bits",)])
        agreements.append(Agreement(name="stream", layers=tuple(members), on=on))
    live_sets = [
        LiveSet(
            step=f"s{i}",
            layers=tuple(rng.choices(names, k=rng.randint(1, count))),
            fixed_bytes=rng.randint(0, 9),
        )
        for i in range(rng.randint(0, 3))
    ]
    memories = []
    if rng.random() < 0.3:
        holds = rng.choice([("weights",), ("activations",), ("weights", "activations")])
        memories.append(Memory(name="sram", bytes=rng.randint(10, 60) * count, holds=holds))
    choices = ()
    if with_ensembles:
        choices = tuple(
            EnsembleChoice(
                predictors=p,
                fixed_cycles=rng.randint(0, 5),
                fixed_energy_pj=rng.randint(0, 8) / 4,
                combine_cycles=rng.randint(0, 3),
                activation_copies=rng.choice([1, p + 1]),
            )
            for p in rng.choice([(2,), (2, 3), (3,)])
        )
    return Tables(
        layers=tuple(tables),
        units=4,
        clock_hz=rng.choice([1.0, 1e9]),
        fixed_cycles=rng.randint(0, 5),
        fixed_energy_pj=rng.randint(0, 8) / 4,
        fixed_error=rng.choice([0.0, 0.001]),
        fixed_bops=rng.randint(0, 9),
        fixed_weight_bytes=rng.randint(0, 9),
        boundaries=tuple(boundaries),
        agreements=tuple(agreements),
        live_sets=tuple(live_sets),
        memories=tuple(memories),
        ensembles=choices,
    )


def random_request(seed, tables):
    rng = random.Random(seed * 7 + 1)
    plans = sample_plans(tables, rng, 8)
    limits = {}
    for quantity in ("error", "latency", "energy", "bops", "weight_memory", "activation_memory"):
        if rng.random() < 0.35:
            value = rng.choice(plans)[quantity] * rng.choice(
                [Fraction(1), Fraction(1), Fraction(9, 10), Fraction(3, 2)]
            )
            limits[quantity] = float(
                value / Fraction(str(tables.clock_hz)) if quantity == "latency" else value
            )
    pins, forbids = [], []
    if rng.random() < 0.15:
        pins.append(f"{rng.choice(tables.layers).name}={rng.choice(['w4*', 'w8*|w2*', 'a>=8'])}")
    if rng.random() < 0.15:
        forbids.append(f"layer*={rng.choice(['w2*', '*.o3', 'w<4'])}")
    objective = rng.choice(
        [("error",), ("latency",), ("energy",), ("error", "latency"), ("latency", "error")]
    )
    return Request(
        objective=objective,
        limits=Limits(**limits),
        pins=tuple(pins),
        forbids=tuple(forbids),
        time_limit=30,
    )


def fraction(value):
    return Fraction(str(value))


def layer_choices(option, mode):
    """All ways in which one option can be used: what it adds to each quantity."""
    plain = {
        "error": fraction(option.error),
        "weight_memory": option.weight_bytes,
        "act": option.act_bytes,
        "option": option,
    }
    if mode is None:
        yield plain | {"loads": (option.cycles,), "energy": fraction(option.energy_pj), "bops": option.bops}
        return
    if option.way != "single":
        return
    p = mode.predictors
    yield plain | {
        "loads": (option.cycles,) * p,
        "energy": fraction(option.energy_pj) * (p + 1) - p * fraction(option.static_pj),
        "bops": option.bops * (p + 1),
    }
    for split in option.splits:
        if split.predictors != p:
            continue
        for where in product(range(p), repeat=option.order - split.base):
            loads = [sum(option.term_cycles[: split.base])] * p
            for term, network in enumerate(where, start=split.base):
                loads[network] += option.term_cycles[term]
            energies = [fraction(e) for e in option.term_energy_pj]
            yield plain | {
                "error": fraction(option.error) + fraction(split.error),
                "loads": tuple(loads),
                "energy": (p + 1) * sum(energies[: split.base])
                + sum(energies[split.base :])
                + fraction(split.static_pj),
                "bops": (p + 1) * sum(option.term_bops[: split.base]) + sum(option.term_bops[split.base :]),
            }


def evaluate(tables, mode, parts):
    p = 1 if mode is None else mode.predictors
    copies = 1 if mode is None else p + 1
    fixed = tables.fixed_cycles if mode is None else mode.fixed_cycles + mode.combine_cycles
    options = {layer.name: part["option"] for layer, part in zip(tables.layers, parts, strict=True)}
    crossing = [
        rule
        for boundary in tables.boundaries
        for rule in boundary.rules
        if rule.source_act_bits in ("any", options[boundary.source].act_bits)
        and rule.source_engine in ("any", options[boundary.source].engine)
        and rule.target_act_bits in ("any", options[boundary.target].act_bits)
        and rule.target_engine in ("any", options[boundary.target].engine)
    ]
    alone = mode is not None
    extra = sum(
        rule.alone_cycles if alone and rule.alone_cycles is not None else rule.cycles for rule in crossing
    )
    energy = fraction(tables.fixed_energy_pj if mode is None else mode.fixed_energy_pj)
    steps = [(s.layers, s.fixed_bytes) for s in tables.live_sets] or [((n,), 0) for n in options]
    held = 1 if mode is None else mode.activation_copies
    found = {
        "error": fraction(tables.fixed_error) + sum(part["error"] for part in parts),
        "latency": fixed + extra + max(sum(part["loads"][m] for part in parts) for m in range(p)),
        "energy": energy
        + sum(part["energy"] for part in parts)
        + copies * sum(fraction(rule.energy_pj) for rule in crossing),
        "bops": copies * tables.fixed_bops + sum(part["bops"] for part in parts),
        "weight_memory": tables.fixed_weight_bytes + sum(part["weight_memory"] for part in parts),
        "activation_memory": max(
            held * (fixed_bytes + sum(options[n].act_bytes for n in names)) for names, fixed_bytes in steps
        ),
    }
    agree = all(
        len({tuple(getattr(options[n], prop) for prop in group.on) for n in group.layers}) == 1
        for group in tables.agreements
    )
    return found, agree


def sample_plans(tables, rng, count):
    found = []
    for _ in range(count):
        parts = [next(iter(layer_choices(rng.choice(layer.options), None))) for layer in tables.layers]
        found.append({k: Fraction(v) for k, v in evaluate(tables, None, parts)[0].items()})
    return found


def all_plans(tables, request):
    """Every plan that meets all demands, as its quantities."""
    legal = legal_options(tables, request.pins, request.forbids)
    for mode in (None, *(tables.ensembles if request.ensembles else ())):
        choices = [
            [choice for index in indices for choice in layer_choices(layer.options[index], mode)]
            for layer, indices in zip(tables.layers, legal, strict=True)
        ]
        for parts in product(*choices):
            found, agree = evaluate(tables, mode, parts)
            if agree and _inside(tables, request, found):
                yield found


def _inside(tables, request, found):
    for name in type(request.limits).model_fields:
        limit = getattr(request.limits, name)
        if limit is None:
            continue
        value = found[name] / fraction(tables.clock_hz) if name == "latency" else found[name]
        if value > fraction(limit):
            return False
    for memory in tables.memories:
        share = {"weights": found["weight_memory"], "activations": found["activation_memory"]}
        if sum(share[kind] for kind in memory.holds) > memory.bytes:
            return False
    return True


def best_by_brute_force(tables, request):
    """The lexicographic optimum over all plans, or None."""
    keys = [
        tuple(Fraction(found[name]) for name in request.objective) for found in all_plans(tables, request)
    ]
    return min(keys, default=None)


def assert_optimum_of_brute_force(seed):
    """The solver finds the very optimum of a random instance, or proves with brute force that there is none."""
    tables = random_tables(seed)
    request = random_request(seed, tables)
    best = best_by_brute_force(tables, request)
    try:
        plan = solve(tables, request)
    except Infeasible:
        assert best is None, seed
        return
    assert plan.status == "optimal", seed
    assert best is not None, seed
    found = verify(tables, plan)
    assert tuple(Fraction(found[name]) for name in request.objective) == best, seed
