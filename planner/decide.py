"""One exact minimisation over all modes of using the units: prune, bound, solve, compare."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from planner.bounds import SUMS, Bound, Relaxation
from planner.control import Control
from planner.entries import ExactTables
from planner.enumerate import enumerated
from planner.improve import improved
from planner.labels import guided
from planner.limits import Limit, tightened
from planner.multipliers import best_bound, refined, with_better_plans
from planner.prune import Entries, agreeing, class_keys, cost_kinds, fitting, undominated
from planner.search import Cuts, Outcome, Problem, Search
from planner.space import Choice, Space
from planner.tables import EnsembleChoice

CORE_ENTRIES = 3


@dataclass(frozen=True, slots=True)
class Question:
    """Everything but the objective: which options, which limits, which modes.

    ``kept`` is the quantity whose limit is the optimum of an earlier objective: few options can still meet it.
    """

    exact: ExactTables
    legal: tuple[tuple[int, ...], ...]
    limits: tuple[Limit, ...]
    modes: tuple[EnsembleChoice | None, ...]
    cuts: Cuts | None = None
    distinct_schemes: bool = False
    kept: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Options left by each step, over all modes."""

    pruned: int = 0
    solver: int = 0


@dataclass(frozen=True, slots=True)
class Pick:
    """A plan apart from any space: per layer the option, the terms held by all, the holders of the others."""

    mode: EnsembleChoice | None
    options: tuple[tuple[int, int], ...]
    holders: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """The best plan over all modes and what is proven about it."""

    status: Literal["optimal", "feasible", "infeasible", "unknown"]
    pick: Pick | None
    value: int | None
    bound: int
    counts: Counts


def reduced(question: Question, quantity: str | None, mode: EnsembleChoice | None) -> Entries:
    """The entries of one mode that an optimal plan may need; some layer's may be empty."""
    exact = question.exact
    networks = 1 if mode is None else mode.predictors
    entries = agreeing(exact, exact.entries(question.legal, mode))
    if all(entries):
        entries = agreeing(exact, fitting(exact, entries, question.limits, networks))
    quantities = [limit.quantity for limit in question.limits] + ([quantity] if quantity else [])
    keys = class_keys(exact, question.distinct_schemes)
    return undominated(exact, entries, cost_kinds(exact, quantities), keys)


def pick_of(space: Space, choice: Choice) -> Pick:
    """The plan behind a choice of entries."""
    taken = [row[entry] for row, entry in zip(space.entries, choice.entries, strict=True)]
    return Pick(space.mode, tuple((entry.option, entry.base) for entry in taken), choice.holders)


def choice_of(space: Space, pick: Pick | None) -> Choice | None:
    """The same plan in this space, if all its entries are there."""
    if pick is None or pick.mode != space.mode:
        return None
    found: list[int] = []
    for row, wanted in zip(space.entries, pick.options, strict=True):
        index = next((i for i, entry in enumerate(row) if (entry.option, entry.base) == wanted), None)
        if index is None:
            return None
        found.append(index)
    return Choice(tuple(found), pick.holders)


def minimise(
    question: Question, quantity: str | None, control: Control, starts: Sequence[Pick] = ()
) -> Decision:
    """The exact minimum of ``quantity`` over all modes; every mode after the first must beat the best.

    Without a quantity any plan will do.
    """
    best: Decision = Decision("infeasible", None, None, 0, Counts())
    bounds: list[int] = []
    open_modes = False
    counts = Counts()
    for mode in question.modes:
        entries = reduced(question, quantity, mode)
        counts = replace(counts, pruned=counts.pruned + sum(len(row) for row in entries))
        if not all(entries):
            continue
        limits = list(question.limits)
        if best.value is not None:
            if quantity is None:
                break
            limits = tightened(limits, Limit(quantity, best.value - 1, 0.0))
        if question.kept in SUMS:
            entries = _keeping(question, entries, mode, limits)
        if not all(entries):
            continue
        outcome, space = _solve_mode(question, entries, mode, quantity, limits, control, starts)
        counts = replace(counts, solver=counts.solver + sum(len(row) for row in space.entries))
        if outcome.status == "infeasible":
            continue
        bounds.append(outcome.bound)
        open_modes = open_modes or outcome.status != "optimal"
        if outcome.choice is not None:
            pick = pick_of(space, outcome.choice)
            best = Decision("feasible", pick, outcome.value, 0, counts)
    if best.value is None:
        return Decision("unknown" if open_modes else "infeasible", None, None, min(bounds, default=0), counts)
    bound = min([*bounds, best.value])
    return Decision("optimal" if bound >= best.value else "feasible", best.pick, best.value, bound, counts)


def _keeping(
    question: Question, entries: Entries, mode: EnsembleChoice | None, limits: Sequence[Limit]
) -> Entries:
    """Without entries that no plan can use that keeps to the earlier objective's optimum."""
    assert question.kept is not None
    space = Space(question.exact, mode, entries)
    kept = next(limit for limit in limits if limit.quantity == question.kept)
    relaxation = Relaxation(space, question.kept, [limit for limit in limits if limit is not kept])
    return _within(space, refined(relaxation, best_bound(relaxation)), kept.value)


def _solve_mode(
    question: Question,
    entries: Entries,
    mode: EnsembleChoice | None,
    quantity: str | None,
    limits: Sequence[Limit],
    control: Control,
    starts: Sequence[Pick],
) -> tuple[Outcome, Space]:
    """Minimise in one mode: bound, list what is left if it is little, else find a good plan and prove it."""
    space = Space(question.exact, mode, entries)
    problem = _problem(question, space, quantity, limits)
    start = _start(problem, starts)
    least = 0 if quantity is None else max(row.constant for row in space.rows(quantity))
    if quantity is None or not bounds_pay(space, quantity):
        return Search(problem, control, start, least).run(), space
    relaxation = Relaxation(space, quantity, limits)
    bound = best_bound(relaxation)
    if bound.value == math.inf:
        return Outcome("infeasible"), space
    least = max(least, math.ceil(bound.value))
    best = _start(problem, _picks(space, relaxation, bound, start))
    if best is not None:
        found_all = enumerated(problem, relaxation, bound, best)
        if found_all is not None:
            value = space.value(quantity, space.assignment(found_all))
            return Outcome("optimal", found_all, value, value), space
    bound = with_better_plans(relaxation, bound)
    found = _picks(space, relaxation, bound, start)
    best = _start(problem, found)
    if best is None or _too_many(space, bound, best, quantity):
        bound = refined(relaxation, bound)
    if best is not None and _too_many(space, bound, best, quantity):
        found += filter(None, [_guided_pick(space, relaxation, bound, best)])
        best = _start(problem, found)
    if best is None:
        core = _from_core(question, space, bound, quantity, limits, control, found)
        best = _start(problem, found if core is None else [*found, pick_of(space, core)])
    if best is None:
        return Search(problem, control, None, least).run(), space
    value = space.value(quantity, space.assignment(best))
    kept = _worthy(space, bound, best, quantity)
    pick = pick_of(space, best)
    if not all(kept):
        return Outcome("optimal", best, value, value), space
    small = Space(question.exact, mode, kept)
    return Search(
        _problem(question, small, quantity, limits), control, choice_of(small, pick), least
    ).run(), small


def _picks(space: Space, relaxation: Relaxation, bound: Bound, start: Choice | None) -> list[Pick]:
    """The relaxation's best plan and the start, as far as they are known."""
    found = [_spread(space, relaxation.entries_of(plan)) for plan in bound.plans[:1]]
    return found if start is None else [*found, pick_of(space, start)]


def _worthy(space: Space, bound: Bound, best: Choice, quantity: str) -> Entries:
    """The entries that a plan better than ``best`` may use."""
    return _within(space, bound, space.value(quantity, space.assignment(best)))


def _within(space: Space, bound: Bound, value: float) -> Entries:
    """The entries whose least value is not above ``value``."""
    return [
        [entry for entry, low in zip(row, lows, strict=True) if low <= value]
        for row, lows in zip(space.entries, bound.with_entry, strict=True)
    ]


def _too_many(space: Space, bound: Bound, best: Choice, quantity: str) -> bool:
    """Whether the solver would be left with more entries than it proves quickly."""
    return sum(map(len, _worthy(space, bound, best, quantity))) > CORE_ENTRIES * len(space.entries)


def _guided_pick(space: Space, relaxation: Relaxation, bound: Bound, best: Choice) -> Pick | None:
    """A plan between the bound and the best one, found along the ties."""
    value = space.value(relaxation.quantity, space.assignment(best))
    plan = guided(relaxation, bound, value - bound.value)
    if plan is None:
        return None
    multipliers = np.array([bound.multipliers[limit.name] for limit in relaxation.limits])
    plan = improved(relaxation, plan, multipliers)
    return _spread(space, relaxation.entries_of(plan))


def _spread(space: Space, plan: tuple[int, ...]) -> Pick:
    """A plan of the relaxation; later terms go to the least loaded network, largest first."""
    taken = [row[entry] for row, entry in zip(space.entries, plan, strict=True)]
    loads = [0] * space.networks
    holders = [[0] * len(entry.later) for entry in taken]
    terms = [
        (cycles, layer, term) for layer, entry in enumerate(taken) for term, cycles in enumerate(entry.later)
    ]
    for cycles, layer, term in sorted(terms, reverse=True):
        network = loads.index(min(loads))
        loads[network] += cycles
        holders[layer][term] = network
    return pick_of(space, Choice(plan, tuple(map(tuple, holders))))


def bounds_pay(space: Space, quantity: str) -> bool:
    """Whether the relaxation knows the objective and the space is not trivial."""
    return quantity in SUMS and sum(len(row) for row in space.entries) > len(space.entries) + 4


def _problem(question: Question, space: Space, quantity: str | None, limits: Sequence[Limit]) -> Problem:
    cuts = () if question.cuts is None else tuple((tuple(v), most) for v, most in question.cuts(space))
    return Problem(space, quantity, tuple(limits), cuts)


def _start(problem: Problem, starts: Sequence[Pick]) -> Choice | None:
    """The best of the given plans that this problem admits."""
    space, quantity = problem.space, problem.quantity
    found: list[tuple[int, Choice]] = []
    for pick in starts:
        choice = choice_of(space, pick)
        if choice is not None:
            chosen = space.assignment(choice)
            if problem.admits(chosen):
                found.append((0 if quantity is None else space.value(quantity, chosen), choice))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _from_core(
    question: Question,
    space: Space,
    bound: Bound,
    quantity: str,
    limits: Sequence[Limit],
    control: Control,
    starts: Sequence[Pick],
) -> Choice | None:
    """A good plan from the entries that the relaxation holds most promising."""
    lows = sorted(low for row in bound.with_entry for low in row)
    share = CORE_ENTRIES * len(space.entries)
    while share < len(lows) and not control.stopped:
        core = _within(space, bound, lows[share])
        if all(core):
            small = Space(question.exact, space.mode, core)
            problem = _problem(question, small, quantity, limits)
            least = max(row.constant for row in small.rows(quantity))
            outcome = Search(problem, control, _start(problem, starts), least, coarse=True).run()
            if outcome.choice is not None:
                return choice_of(space, pick_of(small, outcome.choice))
        share *= 3
    return None
