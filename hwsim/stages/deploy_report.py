"""Gather plan, simulation and comparison into the one report object."""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwsim.report.document import (
    AnytimePoint,
    Budget,
    ComparisonRow,
    LayerRow,
    ParetoPoint,
    Provenance,
    Report,
    Stage,
    Validation,
)
from hwsim.simulate.stored_weights import fixed_weight_bytes
from hwsim.stages import deploy_figures
from hwsim.stages.provenance import graph_sha256, versions, weights_text
from hwsim.stages.request import PlanRequest
from hwsim.units import format_quantity

if TYPE_CHECKING:
    from hwsim.model.load import LoadedModel
    from hwsim.simulate.cost import OptionCost, VectorCost
    from hwsim.simulate.simulation import Simulation
    from hwsim.stages.error_profile import ErrorProfile
    from hwsim.target.schema import Target
    from planner.plan import Plan, PlanLayer

OTHER_SHARE = 0.1  # parameters that stay in float are worth a word from this share of all weights on
COST_BOUND = 0.15  # cost mode and cycle mode may differ by this much before the report objects
NOT_MODELLED = [
    "no chip was probed: cycles follow from the descriptor's numbers, not from a register-level model",
    "caches are described as scratchpads; conflicts, refresh and thermal limits are not simulated",
    "the software stack enters as one efficiency factor and a launch cost per layer",
]
_BUDGETS = {
    "latency": ("time", "--max-latency"),
    "energy": ("energy", "--max-energy"),
    "bops": ("count", "--max-bops"),
    "weight_memory": ("bytes", "--max-weight-memory"),
    "activation_memory": ("bytes", "--max-activation-memory"),
    "error": ("error", "--max-error"),
}


@dataclass(frozen=True)
class Findings:
    """All that the stages of one run found."""

    request: PlanRequest
    model: "LoadedModel"
    target: "Target"
    plan: "Plan"
    simulation: "Simulation"
    comparison: list[ComparisonRow]
    costs: "Mapping[str, Sequence[OptionCost]]"
    vectors: "Sequence[VectorCost]"
    pareto: list[ParetoPoint]
    basis: str
    default_limit: str | None
    remarks: list[str]
    plan_text: str
    profile: "ErrorProfile | None" = None
    anytime: tuple[AnytimePoint, ...] = ()
    anytime_missing: str = "not computed"


def build_report(found: Findings, seconds: Mapping[str, float]) -> Report:
    """The report of one plan."""
    plan, simulation, target = found.plan, found.simulation, found.target
    own = next(row for row in found.comparison if row.chosen)
    warnings = [*found.remarks, *plan.remarks, *_gain_warnings(found.comparison, own)]
    if found.model.illustrative:
        warnings.append(
            f"illustrative ({found.model.weights.kind} weights): errors say nothing of a trained model"
        )
    warnings += _left_out(found)
    validation = Validation(
        predicted_cycles=plan.totals.cycles,
        simulated_cycles=simulation.cycles,
        bound=COST_BOUND,
        roofline_cycles=simulation.roofline_cycles,
        serial_cycles=simulation.serial_cycles,
    )
    priced = _priced(found)
    roof, moved = deploy_figures.roofline(target, plan, priced)
    return Report(
        model=found.model.resolved,
        target=target.name,
        target_description=target.description,
        illustrative=found.model.illustrative,
        error_meaning=_error_meaning(found),
        headline=_headline(found, own),
        solver=_solver_line(plan),
        budgets=_budgets(found, simulation),
        not_honoured=_not_honoured(found, validation),
        warnings=warnings,
        comparison=found.comparison,
        layers=_layer_rows(found, priced, moved),
        pareto=found.pareto,
        sensitivity=(
            None
            if found.profile is None
            else deploy_figures.sensitivity_map(found.profile, found.costs, plan)
        ),
        roofline=roof,
        timeline=deploy_figures.timeline(simulation, target),
        validation=validation,
        anytime=list(found.anytime),
        memory=deploy_figures.memory_use(simulation),
        energy_by_component={name: pj * 1e-12 for name, pj in simulation.energy_pj.items()},
        peak_memory_bytes=simulation.peak_memory_bytes,
        units=target.unit_count,
        clock_hz=target.clock_hz,
        stages=[Stage(name=name, seconds=value) for name, value in seconds.items()],
        provenance=_provenance(found),
        unavailable=_unavailable(found),
        not_modelled=NOT_MODELLED,
        reproduce=_reproduce(found),
    )


def _error_meaning(found: Findings) -> str:
    text = "sum over layers of the predicted divergence of the output from float, in nats"
    mark = f"; illustrative ({found.model.weights.kind} weights)" if found.model.illustrative else ""
    return f"{text} ({found.basis}){mark}"


def _headline(found: Findings, own: ComparisonRow) -> str:
    reference = next((row for row in found.comparison if row.name == "uniform w8a8"), None)
    text = f"{found.model.spec} on {found.target.name}: {format_quantity(found.simulation.seconds, 'time')}"
    weights = format_quantity(found.simulation.weight_bytes, "bytes")
    text += f", weights {weights}, predicted error {own.error:.3g}"
    if reference is not None and reference.seconds and own.seconds:
        text += f"; {reference.seconds / own.seconds:.2f}× as fast as uniform w8a8"
    return text


def _solver_line(plan: "Plan") -> str:
    proof = plan.proof[0]
    options = f"{plan.options_before} options, {plan.options_after} after pruning"
    if plan.status == "optimal":
        return f"proven optimal in {', then '.join(p.quantity for p in plan.proof)} ({options})"
    why = {"time_limit": "time limit reached", "interrupted": "interrupted", None: "search ended"}[
        plan.stopped
    ]
    return f"{why}: best plan found, gap {100 * proof.gap:.2g} % to the proven bound ({options})"


def _budgets(found: Findings, simulation: "Simulation") -> list[Budget]:
    budgets: list[Budget] = []
    for use in found.plan.limits:
        unit, flag = _BUDGETS.get(use.name, ("bytes", "descriptor"))
        scale = 1e-12 if use.name == "energy" else 1.0
        asked = flag
        if use.name == "error" and found.default_limit:
            asked = found.default_limit
        elif use.name.startswith("memory:"):
            asked = "capacity in the descriptor"
        used = simulation.seconds if use.name == "latency" else use.used * scale
        # the planner may have been given a tighter latency, so that the replay stays inside the asked one
        asked_latency = found.request.search.limits.latency if use.name == "latency" else None
        limit = asked_latency or use.limit * scale
        name = use.name.replace("memory:", "memory ").replace("_", " ")
        budgets.append(Budget(name=name, unit=unit, limit=limit, value=used, asked_by=asked))  # pyright: ignore[reportArgumentType]
    return budgets


def _not_honoured(found: Findings, validation: Validation) -> list[str]:
    texts: list[str] = []
    asked = str(found.request.widths)
    floats = [layer.name for layer in found.plan.layers if layer.weight_bits is None]
    if asked and floats:
        texts.append(f"--bits {asked}: {_count(len(floats), 'layer')} in float, first {floats[0]}")
    limit = found.request.search.limits.latency
    if limit is not None and found.simulation.seconds > limit:
        simulated = format_quantity(found.simulation.seconds, "time")
        texts.append(f"--max-latency {format_quantity(limit, 'time')}: the simulated latency is {simulated}")
    texts += _overfull(found)
    if not validation.held:
        texts.append("the simulated latency is outside the stated bound around the predicted one")
    if found.plan.status != "optimal":
        texts.append("proof of optimality: " + _solver_line(found.plan))
    return texts


def _overfull(found: Findings) -> list[str]:
    """Activations beyond their memory in the replay.

    The planner counts what no product writes at a byte an element (`live`), the replay at the width that is written.
    """
    simulation = found.simulation
    home = next(level for level in found.target.levels if level.name == simulation.activation_home)
    peak = max(simulation.schedule.live, default=0.0)
    if not home.shared or peak <= home.capacity:
        return []
    return [
        f"memory {home.name}: the replay holds {format_quantity(peak, 'bytes')} of activations at once, "
        f"its capacity is {format_quantity(home.capacity, 'bytes')}"
    ]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _left_out(found: Findings) -> list[str]:
    """What a plan does not reach: products of unopened operators, parameters that stay in float."""
    graph, warnings = found.model.graph, list[str]()
    unopened = graph.uncounted()
    if unopened:
        names = ", ".join(f"{layer.name} ({layer.op})" for layer in unopened[:3])
        more = f" and {len(unopened) - 3} more" if len(unopened) > 3 else ""
        warnings.append(
            f"latency and energy lack the multiply-accumulates of {names}{more}: only their outputs are priced"
        )
    extra, whole = fixed_weight_bytes(graph.layers), found.plan.totals.weight_bytes
    if extra > OTHER_SHARE * whole:
        warnings.append(
            f"of {format_quantity(whole, 'bytes')} of weights, {format_quantity(extra, 'bytes')} are embeddings, "
            "norms and biases in float32, which no plan changes"
        )
    return warnings


def _gain_warnings(comparison: list[ComparisonRow], own: ComparisonRow) -> list[str]:
    floats = next((row for row in comparison if row.name == "float" and row.seconds), None)
    if floats is None or floats.seconds is None or own.seconds is None:
        return []
    gain = floats.seconds / own.seconds
    return [] if gain >= 1.1 else [f"quantization gains only {gain:.2f}× over float on this device"]


def _layer_rows(
    found: Findings, priced: "Mapping[str, OptionCost]", moved: Mapping[str, float]
) -> list[LayerRow]:
    simulated = found.simulation.layer_cycles()
    vectors = {cost.name: cost for cost in found.vectors}
    chosen = {layer.name: layer for layer in found.plan.layers}
    total = max(1.0, sum(simulated.values()))
    counts = {cost.name: cost.units for cost in found.vectors} | {n: o.units for n, o in priced.items()}
    units = deploy_figures.layer_units(found.simulation, found.target, counts)
    rows: list[LayerRow] = []
    for layer in found.model.graph.layers:
        cycles = simulated.get(layer.name)
        share = (cycles or 0.0) / total
        decision = chosen.get(layer.name)
        if decision is None:
            cost = vectors[layer.name]
            rows.append(LayerRow(
                name=layer.name, kind=layer.kind, scheme=layer.op, engine="vector", way="", macs=0, bops=0,
                predicted_cycles=cost.cycles, simulated_cycles=cycles, share_of_time=share, error=None,
                bound=cost.bound, unit=units.get(layer.name, ""),
            ))  # fmt: skip
            continue
        runner = decision.runner_up
        rows.append(LayerRow(
            name=layer.name, kind=decision.kind, scheme=decision.scheme, engine=decision.engine,
            way=decision.way, macs=layer.macs, bops=decision.bops, predicted_cycles=decision.cycles,
            simulated_cycles=cycles, share_of_time=share, error=decision.error, bound=decision.bound,
            runner_up="" if runner is None else runner.scheme, runner_up_cost=_runner_up_cost(decision),
            faster_than_float=_gain(found.costs[layer.name], decision), unit=units.get(layer.name, ""),
            memory_bytes=moved.get(layer.name),
        ))  # fmt: skip
    return rows


def _priced(found: Findings) -> "dict[str, OptionCost]":
    """The option of cost mode that the plan took for each layer."""
    return {
        layer.name: option
        for layer in found.plan.layers
        for option in found.costs[layer.name]
        if (str(option.scheme), option.engine, option.way) == (layer.scheme, layer.engine, layer.way)
    }


def _runner_up_cost(layer: "PlanLayer") -> str:
    runner = layer.runner_up
    if runner is None:
        return ""
    text = f"error {runner.error_change:+.2g}, cycles {runner.cycles_change:+d}"
    return text + (f", breaks {', '.join(runner.breaks)}" if runner.breaks else "")


def _gain(options: "Sequence[OptionCost]", layer: "PlanLayer") -> float | None:
    floats = [option.cycles for option in options if option.scheme.is_float]
    return min(floats) / layer.cycles if floats and layer.cycles else None


def _provenance(found: Findings) -> Provenance:
    return Provenance(
        command=found.request.command,
        model=found.model.resolved,
        model_spec=found.model.spec,
        weights=weights_text(found.model),
        target=found.target.name,
        target_sha256=found.target.sha256,
        graph_sha256=graph_sha256(found.model.graph),
        seed=found.request.search.seed,
        versions=versions(),
        sensitivity=found.basis,
        plan_sha256=hashlib.sha256(found.plan_text.encode()).hexdigest(),
    )


def _unavailable(found: Findings) -> dict[str, str]:
    missing = {"measured latency": "no artifact was run; hwsim compile and hwsim bench --report add it"}
    if found.model.illustrative:
        missing["top-1 accuracy"] = f"{found.model.weights.kind} weights"
    else:
        missing["top-1 accuracy"] = "not measured while planning; see hwsim evaluate"
    if not found.pareto:
        missing["Pareto frontier"] = "not asked for; --pareto 8 proves eight points of it"
    if found.profile is None:
        missing["sensitivity map"] = "the plan was made without its error profile"
    if found.anytime_missing:
        missing["further orders" if found.anytime else "anytime curve"] = found.anytime_missing
    return missing


def _reproduce(found: Findings) -> list[str]:
    """Commands that make the plan again and render its report again."""
    directory = shlex.quote(str(found.request.output_dir))
    made = [found.request.command] if found.request.command else []
    return [*made, f"hwsim report {directory}"]
