"""An independent check of a plan against its tables: everything is added again, in fractions.

Nothing of the model builder is used here, only the two documents. What is checked: every chosen option exists
and is allowed, groups agree, ensembles hold each later term exactly once, totals are what the layers add up
to, every limit of the request and every memory of the device holds, and no value is below its bound.
"""

import re
from fnmatch import fnmatchcase
from fractions import Fraction

from planner.errors import PlannerError
from planner.plan import Plan, PlanLayer
from planner.tables import EnsembleChoice, LayerOption, LayerTable, Tables


class Mismatch(PlannerError):
    """The plan does not hold on these tables."""


def _exact(value: float) -> Fraction:
    return Fraction(str(value))


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise Mismatch(f"plan does not hold: {message}")


def recount(tables: Tables, plan: Plan) -> dict[str, Fraction]:
    """All quantities of the plan, added again; latency in cycles, memories by ``memory:NAME``."""
    chosen = {layer.name: layer for layer in plan.layers}
    _demand(list(chosen) == [layer.name for layer in tables.layers], "its layers are not those of the tables")
    options = {layer.name: _option(layer, chosen[layer.name]) for layer in tables.layers}
    mode = _mode(tables, plan)
    networks = 1 if mode is None else mode.predictors
    copies = 1 if mode is None else networks + 1
    loads = [
        Fraction(tables.fixed_cycles if mode is None else mode.fixed_cycles + mode.combine_cycles)
    ] * networks
    energy = _exact(tables.fixed_energy_pj if mode is None else mode.fixed_energy_pj)
    error, bops = _exact(tables.fixed_error), Fraction(tables.fixed_bops * copies)
    for name, option in options.items():
        parts = _parts(option, chosen[name], mode)
        error += parts[0]
        loads = [load + own for load, own in zip(loads, parts[1], strict=True)]
        energy += parts[2]
        bops += parts[3]
    for boundary in tables.boundaries:
        before, after = options[boundary.source], options[boundary.target]
        for rule in boundary.rules:
            asked = (rule.source_act_bits, rule.source_engine, rule.target_act_bits, rule.target_engine)
            given = (before.act_bits, before.engine, after.act_bits, after.engine)
            if all(a in ("any", g) for a, g in zip(asked, given, strict=True)):
                alone = mode is not None and rule.alone_cycles is not None
                loads = [load + ((rule.alone_cycles or 0) if alone else rule.cycles) for load in loads]
                energy += copies * _exact(rule.energy_pj)
    weights = Fraction(tables.fixed_weight_bytes + sum(option.weight_bytes for option in options.values()))
    steps = [(live.layers, live.fixed_bytes) for live in tables.live_sets] or [((n,), 0) for n in options]
    held = 1 if mode is None else mode.activation_copies
    peak = max(Fraction(held * (fixed + sum(options[n].act_bytes for n in names))) for names, fixed in steps)
    found = {"error": error, "latency": max(loads), "energy": energy, "bops": bops}
    found |= {"weight_memory": weights, "activation_memory": peak}
    for memory in tables.memories:
        share = {"weights": weights, "activations": peak}
        found[f"memory:{memory.name}"] = sum((share[kind] for kind in set(memory.holds)), Fraction(0))
    return found


def _option(table: LayerTable, layer: PlanLayer) -> LayerOption:
    _demand(0 <= layer.option < len(table.options), f"{table.name} has no option {layer.option}")
    option = table.options[layer.option]
    for name in ("scheme", "weight_bits", "act_bits", "order", "kept", "engine", "way", "recipe"):
        stated, real = getattr(layer, name), getattr(option, name)
        _demand(stated == real, f"{table.name} says {name} {stated}, its option {layer.option} has {real}")
    return option


def _mode(tables: Tables, plan: Plan) -> EnsembleChoice | None:
    if plan.ensemble is None:
        return None
    modes = [choice for choice in tables.ensembles if choice.predictors == plan.ensemble.predictors]
    _demand(bool(modes), f"the tables offer no ensemble of {plan.ensemble.predictors}")
    return modes[0]


def _parts(
    option: LayerOption, layer: PlanLayer, mode: EnsembleChoice | None
) -> tuple[Fraction, list[Fraction], Fraction, Fraction]:
    """Error, cycles per network, energy and BOPs of one layer."""
    error, static = _exact(option.error), _exact(option.static_pj)
    dynamic = _exact(option.energy_pj) - static
    if mode is None:
        _demand(not layer.holds, f"{layer.name} spreads terms outside an ensemble")
        return error, [Fraction(option.cycles)], dynamic + static, Fraction(option.bops)
    networks = mode.predictors
    _demand(
        option.way == "single" and len(layer.holds) == networks, f"{layer.name} is no member of the ensemble"
    )
    everywhere = set.intersection(*(set(orders) for orders in layer.holds))
    if everywhere == set(range(1, option.order + 1)):
        cycles = [Fraction(option.cycles)] * networks
        energy = dynamic * (networks + 1) + static
        return error, cycles, energy, Fraction(option.bops * (networks + 1))
    base = len(everywhere)
    _demand(everywhere == set(range(1, base + 1)), f"{layer.name}: the base must be its first terms")
    later = sorted(order for orders in layer.holds for order in orders if order > base)
    _demand(
        later == list(range(base + 1, option.order + 1)), f"{layer.name}: a later term is lost or held twice"
    )
    splits = [s for s in option.splits if s.predictors == networks and s.base == base]
    _demand(bool(splits), f"{layer.name}: {option.scheme} may not be split after term {base}")
    times = {order: networks + 1 if order <= base else 1 for order in range(1, option.order + 1)}
    return (
        error + _exact(splits[0].error),
        [Fraction(sum(option.term_cycles[order - 1] for order in orders)) for orders in layer.holds],
        sum((times[k] * _exact(option.term_energy_pj[k - 1]) for k in times), _exact(splits[0].static_pj)),
        Fraction(sum(times[k] * option.term_bops[k - 1] for k in times)),
    )


def verify(tables: Tables, plan: Plan) -> dict[str, Fraction]:
    """Check the plan; returns the exact quantities, raises ``Mismatch`` with the first thing that is wrong."""
    found = recount(tables, plan)
    totals = plan.totals
    stated = {
        "error": totals.error,
        "energy": totals.energy_pj,
        "latency": totals.cycles,
        "bops": totals.bops,
        "weight_memory": totals.weight_bytes,
        "activation_memory": totals.activation_bytes,
    }
    for name, value in stated.items():
        _demand(float(found[name]) == float(value), f"{name} is {float(found[name])}, the plan says {value}")
    _check_limits(tables, plan, found)
    _check_agreements(tables, plan)
    _check_rules(plan)
    for proof in plan.proof:
        _demand(proof.bound <= proof.value, f"the bound of {proof.quantity} is above its value")
        if plan.status == "optimal":
            _demand(proof.gap == 0, f"{proof.quantity} is called optimal with a gap")
    return found


def _check_limits(tables: Tables, plan: Plan, found: dict[str, Fraction]) -> None:
    limits = plan.request.limits
    for name in type(limits).model_fields:
        limit: float | None = getattr(limits, name)
        if limit is None:
            continue
        value = found[name] / _exact(tables.clock_hz) if name == "latency" else found[name]
        _demand(value <= _exact(limit), f"{name} {float(value)} is above its limit {limit}")
    for memory in tables.memories:
        used = found[f"memory:{memory.name}"]
        _demand(used <= memory.bytes, f"{memory.name} holds {memory.bytes} bytes, the plan needs {int(used)}")


def _check_agreements(tables: Tables, plan: Plan) -> None:
    chosen = {layer.name: layer for layer in plan.layers}
    for agreement in tables.agreements:
        for name in agreement.on:
            values = {getattr(chosen[layer], name) for layer in agreement.layers}
            _demand(len(values) == 1, f"the layers of {agreement.name} differ in {name}")


def _check_rules(plan: Plan) -> None:
    for texts, wanted in ((plan.request.pins, True), (plan.request.forbids, False)):
        for text in texts:
            layers, _, schemes = text.partition("=")
            for layer in plan.layers:
                pattern = layers.strip()
                subject = layer.kind if pattern.startswith("kind:") else layer.name
                if fnmatchcase(subject, pattern.removeprefix("kind:")):
                    hit = any(_scheme_matches(layer, word.strip()) for word in schemes.split("|"))
                    _demand(hit == wanted, f"{layer.name} is {layer.scheme} against {text!r}")


def _scheme_matches(layer: PlanLayer, word: str) -> bool:
    bound = re.fullmatch(r"([wa])(<=|>=|<|>)(\d+)", word)
    if bound is None:
        return fnmatchcase(layer.scheme, word)
    own = layer.weight_bits if bound[1] == "w" else layer.act_bits
    bits, limit = 32 if own is None else own, int(bound[3])
    return {"<=": bits <= limit, ">=": bits >= limit, "<": bits < limit, ">": bits > limit}[bound[2]]
