"""From a decision to the plan document: layers, totals, limits and runner-ups."""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.decide import Pick, Question, choice_of
from planner.entries import ACTIVATIONS, BOPS, ENERGY, ERROR, LATENCY, WEIGHTS, Entry, ExactTables
from planner.limits import to_float
from planner.plan import LimitUse, PlanEnsemble, PlanLayer, RunnerUp, Totals
from planner.runner_up import Neighbours
from planner.space import Choice, Space
from planner.tables import LayerOption


@dataclass(frozen=True, slots=True)
class Body:
    """The parts of a plan that follow from the decision alone."""

    totals: Totals
    ensemble: PlanEnsemble | None
    layers: tuple[PlanLayer, ...]
    limits: tuple[LimitUse, ...]


def space_of(exact: ExactTables, pick: Pick) -> tuple[Space, Choice]:
    """The space that holds nothing but the pick."""
    alone = tuple((option,) for option, _ in pick.options)
    entries = exact.entries(alone, pick.mode)
    kept = [
        [entry for entry in row if entry.base == base]
        for row, (_, base) in zip(entries, pick.options, strict=True)
    ]
    space = Space(exact, pick.mode, kept)
    choice = choice_of(space, pick)
    assert choice is not None
    return space, choice


def totals_of(exact: ExactTables, pick: Pick) -> Totals:
    """All quantities of a decision."""
    space, choice = space_of(exact, pick)
    return _totals(space, space.assignment(choice))


def _totals(space: Space, chosen: Sequence[int]) -> Totals:
    exact = space.exact
    cycles = space.value("latency", chosen)
    return Totals(
        error=to_float(exact, "error", space.value("error", chosen)),
        cycles=cycles,
        latency=to_float(exact, "latency", cycles),
        energy_pj=to_float(exact, "energy", space.value("energy", chosen)),
        bops=space.value("bops", chosen),
        weight_bytes=space.value("weight_memory", chosen),
        activation_bytes=space.value("activation_memory", chosen),
    )


def assemble(exact: ExactTables, question: Question, pick: Pick, quantity: str) -> Body:
    """Layers with runner-ups in ``quantity``, totals and limits of a decision."""
    space, choice = space_of(exact, pick)
    chosen = space.assignment(choice)
    around = Neighbours(exact, question, pick)
    layers = tuple(
        _layer(
            space, index, space.entries[index][0], choice.holders[index], around.runner_up(index, quantity)
        )
        for index in range(len(space.entries))
    )
    ensemble = None
    if pick.mode is not None:
        loads = tuple(row.value(chosen) for row in space.rows("latency"))
        ensemble = PlanEnsemble(
            predictors=pick.mode.predictors, units=pick.mode.predictors + 1, predictor_cycles=loads
        )
    limits: list[LimitUse] = []
    for limit in question.limits:
        used = to_float(exact, limit.quantity, space.value(limit.quantity, chosen))
        limits.append(LimitUse(name=limit.name, limit=limit.shown, used=used, slack=limit.shown - used))
    return Body(_totals(space, chosen), ensemble, layers, tuple(limits))


def held_orders(entry: Entry, holders: Sequence[int], networks: int) -> tuple[tuple[int, ...], ...]:
    """The orders, from 1, that each expanded network holds."""
    base = tuple(range(1, entry.base + 1))
    return tuple(
        base + tuple(entry.base + 1 + term for term, holder in enumerate(holders) if holder == network)
        for network in range(networks)
    )


def _layer(
    space: Space, index: int, entry: Entry, holders: Sequence[int], runner_up: RunnerUp | None
) -> PlanLayer:
    exact = space.exact
    table = space.tables.layers[index]
    option: LayerOption = table.options[entry.option]
    holds = () if space.mode is None else held_orders(entry, holders, space.networks)
    loads = [0] * space.networks
    for holder, cycles in zip(holders, entry.later, strict=True):
        loads[holder] += cycles
    return PlanLayer(
        name=table.name,
        kind=table.kind,
        option=entry.option,
        scheme=option.scheme,
        weight_bits=option.weight_bits,
        act_bits=option.act_bits,
        order=option.order,
        kept=option.kept,
        engine=option.engine,
        way=option.way,
        recipe=option.recipe,
        holds=holds,
        error=to_float(exact, "error", entry.costs[ERROR]),
        cycles=entry.costs[LATENCY] + max(loads),
        energy_pj=to_float(exact, "energy", entry.costs[ENERGY]),
        bops=entry.costs[BOPS],
        weight_bytes=entry.costs[WEIGHTS],
        act_bytes=entry.costs[ACTIVATIONS],
        bound=option.bound,
        runner_up=runner_up,
    )
