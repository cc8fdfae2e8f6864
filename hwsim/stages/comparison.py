"""The same network in other forms on the same device: float, uniform schemes, PIPE with one order for all.

The best single scheme is found among all the schemes that the layers' options have in common: closed-form costs
say which are as fast as the plan and inside its limits; the one with the smallest error whose replay agrees is the
one to beat. The anytime curve is the expansion of one pair of widths, stopped after each order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwsim.errors import UserError
from hwsim.report.document import AnytimePoint, ComparisonRow
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import Layer, LayerGraph
    from hwsim.simulate.cost import OptionCost
    from hwsim.simulate.simulation import Simulation
    from hwsim.stages.error_profile import ErrorProfile
    from hwsim.target.schema import Target
    from planner.plan import Plan

REFERENCE = Scheme(8, 8)
FLOAT = Scheme(None, None)
ANYTIME_ORDERS = range(1, 5)
BEST_TRIES = 4  # replays spent on finding the best single scheme


@dataclass(frozen=True)
class Form:
    """One row to be: what to call it and the scheme of all products."""

    name: str
    scheme: Scheme


def forms(target: "Target") -> list[Form]:
    """The forms every report compares with."""
    pipe = Scheme(4, 8, order=2)
    native = target.legal_widths("linear") or target.legal_widths("conv2d")
    legal = [pair for pair in native if pair[1] >= 2]  # no quantizer makes activations of one bit
    if legal and (4, 8) not in legal:
        weight_bits, act_bits = min(legal, key=lambda pair: (pair[0], -pair[1]))
        pipe = Scheme(weight_bits, act_bits, order=2)
    return [
        Form("float", FLOAT),
        Form("uniform w8a8", REFERENCE),
        Form("uniform w4a4", Scheme(4, 4)),
        Form("PIPE, uniform order 2", pipe),
    ]


def schemes_for(layer: "Layer", form: Form) -> Scheme:
    """What the form means for one layer."""
    return form.scheme.between_activations if layer.kind == "matmul" else form.scheme


def profiled_forms(target: "Target") -> list[Form]:
    """The forms whose errors must be in the profile: those compared, and the orders of the anytime curve."""
    compared = forms(target)
    base = compared[-1].scheme
    later = [Scheme(base.weight_bits, base.act_bits, order) for order in ANYTIME_ORDERS]
    return [*compared, *(Form(f"order {scheme.order}", scheme) for scheme in later)]


def uniform_error(products: "Sequence[Layer]", form: Form, profile: "ErrorProfile") -> float:
    """Predicted error of the form: the sum over the layers."""
    return sum(profile.layers[layer.name].error(schemes_for(layer, form)) for layer in products)


def compare(graph: "LayerGraph", target: "Target", profile: "ErrorProfile") -> list[ComparisonRow]:
    """One row for each form, simulated in cycle mode."""
    from hwsim.simulate.cycle import simulate_scheme

    rows: list[ComparisonRow] = []
    for form in forms(target):
        error = uniform_error(graph.products(), form, profile)
        try:
            simulation = simulate_scheme(graph, form.scheme, target)
        except UserError as reason:
            rows.append(_absent(form, str(reason)))
            continue
        rows.append(row(form.name, str(form.scheme), simulation, error, note=_note(form, target, simulation)))
    return rows


def best_uniform(
    graph: "LayerGraph",
    target: "Target",
    profile: "ErrorProfile",
    costs: "Mapping[str, Sequence[OptionCost]]",
    plan: "tuple[Plan, Simulation]",
) -> ComparisonRow:
    """The single scheme with the smallest error at the plan's latency or less, inside the plan's other limits."""
    from hwsim.simulate.cycle import LayerAssignment, simulate_plan

    name, products = "best single scheme", graph.products()
    chosen, replay = plan
    candidates = _uniform_candidates(products, profile, costs)
    work = chosen.totals.cycles - sum(layer.cycles for layer in chosen.layers)  # what no scheme changes
    inside = [found for found in candidates if _inside_limits(found, chosen)]
    fast = [found for found in inside if found.cycles + work <= chosen.totals.cycles * 1.05]
    for found in sorted(fast, key=lambda found: (found.error, found.cycles))[:BEST_TRIES]:
        assignments = {
            layer: LayerAssignment(option.scheme, option.engine, option.way)
            for layer, option in found.options.items()
        }
        simulation = simulate_plan(graph, assignments, 1, target)
        if simulation.seconds <= replay.seconds * (1 + 1e-9):
            others = "" if len(inside) == len(candidates) else f", of which {len(inside)} keep the limits"
            note = f"smallest error at this plan's latency or less, among {len(candidates)} single schemes{others}"
            return row(name, str(found.scheme), simulation, found.error, note=note)
    reason = f"none of {len(candidates)} single schemes is as fast as this plan" + (
        " and keeps the limits" if len(inside) < len(candidates) else ""
    )
    return _empty(name, "", reason if candidates else "no scheme is an option of every layer")


@dataclass(frozen=True)
class _Uniform:
    """One scheme for every product: its error, its closed-form cycles, its fastest options by layer."""

    scheme: Scheme
    error: float
    cycles: float
    options: "Mapping[str, OptionCost]"


def _inside_limits(found: _Uniform, plan: "Plan") -> bool:
    """Whether the sums over the layers keep the plan's limits on energy, bit operations and weights."""
    options = found.options.values()
    sums = {
        "energy": (sum(o.energy_pj for o in options), plan.totals.energy_pj, sum(o.energy_pj for o in plan.layers)),
        "bops": (sum(o.bops for o in options), plan.totals.bops, sum(o.bops for o in plan.layers)),
        "weight_memory": (
            sum(o.weight_bytes for o in options), plan.totals.weight_bytes, sum(o.weight_bytes for o in plan.layers)
        ),
    }  # fmt: skip
    for use in plan.limits:
        if use.name in sums:
            own, total, of_layers = sums[use.name]
            if own + total - of_layers > use.limit:  # what no scheme changes counts as well
                return False
    return True


def _uniform_candidates(
    products: "Sequence[Layer]", profile: "ErrorProfile", costs: "Mapping[str, Sequence[OptionCost]]"
) -> list[_Uniform]:
    """Every form that all products of the network can take."""
    fastest = [_fastest(costs[layer.name]) for layer in products]
    first = next((f for layer, f in zip(products, fastest, strict=True) if layer.kind != "matmul"), {})
    found: list[_Uniform] = []
    for scheme in first:
        form = Form("", scheme)
        options = {
            layer.name: _option(schemes_for(layer, form), known, widen=layer.kind == "matmul")
            for layer, known in zip(products, fastest, strict=True)
        }
        kept = {name: option for name, option in options.items() if option is not None}
        if len(kept) == len(options):
            error = sum(profile.layers[name].error(option.scheme) for name, option in kept.items())
            found.append(_Uniform(scheme, error, sum(o.cycles for o in kept.values()), kept))
    return found


def _fastest(options: "Sequence[OptionCost]") -> "dict[Scheme, OptionCost]":
    fastest: dict[Scheme, OptionCost] = {}
    for option in options:
        known = fastest.get(option.scheme)
        if option.scheme.predictors == 1 and (known is None or option.cycles < known.cycles):
            fastest[option.scheme] = option
    return fastest


def _option(wanted: Scheme, known: "Mapping[Scheme, OptionCost]", *, widen: bool) -> "OptionCost | None":
    """The wanted scheme; where its operands cannot be packed, the narrowest plain one that holds it."""
    if wanted in known or not widen or wanted.is_float:
        return known.get(wanted)
    holds = [
        scheme
        for scheme in known
        if (scheme.weight_bits or 0) >= (wanted.weight_bits or 0)
        and (scheme.act_bits or 0) >= (wanted.act_bits or 0)
    ]
    narrowest = min(holds, key=lambda s: (s.weight_bits or 0, s.act_bits or 0), default=None)
    return None if narrowest is None else known[narrowest]


def anytime(
    graph: "LayerGraph", target: "Target", profile: "ErrorProfile", plan: "Plan"
) -> tuple[list[AnytimePoint], str]:
    """The expansion stopped after each order, and why later orders are missing (empty if none is)."""
    from hwsim.simulate.cycle import simulate_scheme

    base = _expanded_widths(graph, target, plan)
    points: list[AnytimePoint] = []
    for order in ANYTIME_ORDERS:
        form = Form("", Scheme(base.weight_bits, base.act_bits, order))
        try:
            error = uniform_error(graph.products(), form, profile)
        except KeyError:
            return points, f"order {order} of {base} is no option of the profile"
        try:
            simulation = simulate_scheme(graph, form.scheme, target)
        except UserError as reason:
            return points, str(reason)
        points.append(AnytimePoint(
            order=order, scheme=str(form.scheme), seconds=simulation.seconds, error=error,
            weight_bytes=simulation.weight_bytes,
        ))  # fmt: skip
    return points, ""


def _expanded_widths(graph: "LayerGraph", target: "Target", plan: "Plan") -> Scheme:
    """The widths that the plan expands most, by multiply-accumulates; PIPE's where it expands none."""
    macs: dict[tuple[int | None, int | None], int] = {}
    for layer in plan.layers:
        if layer.order > 1:
            key = (layer.weight_bits, layer.act_bits)
            macs[key] = macs.get(key, 0) + graph.by_name(layer.name).macs
    if macs:
        return Scheme(*max(macs, key=lambda key: macs[key]))
    pipe = forms(target)[-1].scheme
    return Scheme(pipe.weight_bits, pipe.act_bits)


def row(
    name: str,
    scheme: str,
    simulation: "Simulation",
    error: float | None,
    *,
    chosen: bool = False,
    note: str = "",
) -> ComparisonRow:
    """A comparison row from a simulation."""
    return ComparisonRow(
        name=name,
        scheme=scheme,
        weight_bytes=simulation.weight_bytes,
        bops=float(simulation.bops),
        cycles=simulation.cycles,
        seconds=simulation.seconds,
        energy_joules=simulation.total_energy_pj * 1e-12,
        error=error,
        chosen=chosen,
        note=note,
    )


def _absent(form: Form, reason: str) -> ComparisonRow:
    return _empty(form.name, str(form.scheme), f"not runnable on this device: {reason}")


def _empty(name: str, scheme: str, reason: str) -> ComparisonRow:
    return ComparisonRow(
        name=name, scheme=scheme, weight_bytes=None, bops=None, cycles=None, seconds=None,
        energy_joules=None, error=None, note=reason,
    )  # fmt: skip


def _note(form: Form, target: "Target", simulation: "Simulation") -> str:
    if form.scheme.is_float:
        return ""
    floats = sum(1 for layer in simulation.layers if layer.scheme == "fp")
    if floats:
        return f"{floats} layers run in float: the device has no engine this wide for them"
    width = (form.scheme.weight_bits, form.scheme.act_bits)
    if width not in target.native_widths("linear") and width not in target.native_widths("conv2d"):
        return "no native width: runs on a wider one"
    return ""
