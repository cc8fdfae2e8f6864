"""Proof without a solver: list all plans between the Lagrangian bound and the best known plan.

Where no boundary is priced, layers fall apart into groups that only agreements tie. Group by group every partial
plan is extended by every combination of the next group's entries; one whose Lagrangian value with the cheapest
rest exceeds a ceiling, or that breaks a limit with the smallest rest, is dropped (branch and bound, Land & Doig
1960, breadth first). All plans up to the ceiling reach the end, where they are compared in exact integers; the
ceiling rises from the bound to the known plan's cost until it has a plan below it. Floats only drop, with a
margin far above their rounding. Where too many plans stay open there is no answer.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from planner.bounds import SUMS, Bound, Indices, Relaxation
from planner.search import Problem
from planner.space import Choice, Space, agreement_key
from planner.ties import Vector

Matrix = npt.NDArray[np.float64]
_CEILINGS = (1 / 16, 1 / 4, 1.0)
_PLANS = 3000
_COMBINATIONS = 64
_COMPARED = 200
_MARGIN = 1e-10


@dataclass(frozen=True, slots=True)
class _Group:
    """Layers tied by agreements and their combinations of entries, with float costs and Lagrangian values."""

    layers: tuple[int, ...]
    combinations: list[tuple[int, ...]]
    costs: Matrix
    reduced: Vector


@dataclass(frozen=True, slots=True)
class _Listing:
    """The groups, those that decide most first, and what the costs of a plan may be."""

    groups: list[_Group]
    rooms: Vector
    offset: float
    """Objective at which the Lagrangian value of a plan's entries is 0."""


def enumerated(problem: Problem, relaxation: Relaxation, bound: Bound, start: Choice) -> Choice | None:
    """The optimum, which is ``start`` where nothing is better; ``None`` if the plans are too many to list."""
    space, quantity = problem.space, relaxation.quantity
    if space.networks > 1 or any(tie.prices for tie in relaxation.forest.ties):
        return None
    best, value = start, space.value(quantity, space.assignment(start))
    kept = [[entry for entry, low in enumerate(row) if low <= value] for row in bound.with_entry]
    listing = _listing(relaxation, bound, kept)
    if listing is None:
        return None
    if not all(group.combinations for group in listing.groups):
        return best
    for share in _CEILINGS:
        ceiling = bound.value + share * (value - bound.value)
        listed = _plans(listing, ceiling)
        if listed is None:
            return None
        for compared, (least, entries) in enumerate(_cheapest_first(listing, *listed, len(kept))):
            if least + relaxation.constant > value + _MARGIN * abs(value):
                break
            if compared == _COMPARED:
                return None
            found = _value(space, quantity, entries)
            choice = Choice(entries, ((),) * len(entries))
            if found < value and problem.admits(space.assignment(choice)):
                best, value = choice, found
        if value <= ceiling:
            break
    return best


def _value(space: Space, quantity: str, entries: Sequence[int]) -> int:
    """The exact objective of a plan without priced boundaries."""
    pairs = zip(space.entries, entries, strict=True)
    return space.rows(quantity)[0].constant + sum(row[entry].costs[SUMS[quantity]] for row, entry in pairs)


def _listing(relaxation: Relaxation, bound: Bound, kept: Sequence[Sequence[int]]) -> _Listing | None:
    multipliers = np.array([bound.multipliers[limit.name] for limit in relaxation.limits])
    names = [relaxation.quantity, *relaxation.names]
    weights = np.array([1.0, *multipliers])
    found: list[_Group] = []
    settled: dict[int, int] = {}
    for layers in _tied(relaxation.space):
        rows = [kept[layer] for layer in layers]
        if math.prod(map(len, rows)) > _COMBINATIONS:
            return None
        combinations = _agreeing(relaxation.space, layers, rows)
        if len(combinations) == 1:
            settled |= zip(layers, combinations[0], strict=True)
        else:
            found.append(_group(relaxation.space, layers, combinations, names, weights))
    found.sort(key=lambda group: -float(np.ptp(group.reduced)) if len(group.reduced) else 0.0)
    found.append(_group(relaxation.space, list(settled), [tuple(settled.values())], names, weights))
    rooms = np.array([np.inf, *relaxation.rooms])
    return _Listing(found, rooms, relaxation.constant - float(multipliers @ relaxation.rooms))


def _group(
    space: Space,
    layers: Sequence[int],
    combinations: list[tuple[int, ...]],
    names: Sequence[str],
    weights: Vector,
) -> _Group:
    kinds = [SUMS[name] for name in names]
    rows: list[list[float]] = []
    for taken in combinations:
        entries = [space.entries[layer][entry].costs for layer, entry in zip(layers, taken, strict=True)]
        rows.append([float(sum(costs[kind] for costs in entries)) for kind in kinds])
    costs = np.array(rows).reshape(-1, len(names))
    return _Group(tuple(layers), combinations, costs, costs @ weights)


def _tied(space: Space) -> list[list[int]]:
    """Layers in groups that agreements tie, directly or through others."""
    leader = list(range(len(space.entries)))
    for agreement in space.tables.agreements:
        joined = {leader[space.position[name]] for name in agreement.layers}
        leader = [min(joined) if one in joined else one for one in leader]
    found: dict[int, list[int]] = {}
    for layer, one in enumerate(leader):
        found.setdefault(one, []).append(layer)
    return list(found.values())


def _agreeing(space: Space, layers: Sequence[int], rows: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """The combinations of a group's entries that meet its agreements."""
    combinations = list(product(*rows))
    for agreement in space.tables.agreements if len(layers) > 1 else ():
        members = [space.position[name] for name in agreement.layers]
        if members[0] in layers:
            key = agreement_key(agreement.on)
            places = [(layer, layers.index(layer)) for layer in members]
            combinations = [
                taken
                for taken in combinations
                if len({key(space.option(layer, taken[place])) for layer, place in places}) == 1
            ]
    return combinations


def _plans(listing: _Listing, ceiling: float) -> tuple[Matrix, Indices] | None:
    """Costs and combinations of all plans up to ``ceiling`` and inside the rooms; ``None`` if too many."""
    groups, rooms = listing.groups, listing.rooms
    least = [group.costs.min(axis=0) for group in groups]
    cheapest = [float(group.reduced.min()) for group in groups]
    size = abs(ceiling) + abs(listing.offset) + sum(float(np.abs(group.reduced).max()) for group in groups)
    top = ceiling - listing.offset + _MARGIN * size
    most = rooms + _MARGIN * np.abs(rooms)
    rest, rest_reduced = sum(least, np.zeros(len(rooms))), sum(cheapest)
    costs, reduced = np.zeros((1, len(rooms))), np.zeros(1)
    picks = np.zeros((1, len(groups)), dtype=np.intp)
    for place, group in enumerate(groups):
        rest, rest_reduced = rest - least[place], rest_reduced - cheapest[place]
        values = reduced[:, None] + group.reduced
        plan, pick = np.nonzero(values <= top - rest_reduced)
        grown = costs[plan] + group.costs[pick]
        inside = np.flatnonzero((grown <= most - rest).all(axis=1))
        if len(inside) > _PLANS:
            return None
        plan, pick = plan[inside], pick[inside]
        costs, reduced, picks = grown[inside], values[plan, pick], picks[plan]
        picks[:, place] = pick
    return costs, picks


def _cheapest_first(
    listing: _Listing, costs: Matrix, picks: Indices, layers: int
) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Objective (without its constant) and entries of the listed plans, in the order of the objective."""
    for row in np.argsort(costs[:, 0], kind="stable"):
        entries = [0] * layers
        for group, pick in zip(listing.groups, picks[row], strict=True):
            for layer, entry in zip(group.layers, group.combinations[pick], strict=True):
                entries[layer] = entry
        yield float(costs[row, 0]), tuple(entries)
