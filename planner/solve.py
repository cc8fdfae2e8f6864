"""The planner's front door: tables and a request in, a proven plan out.

>>> plan = solve(tables, Request(limits=Limits(latency=4e-3)))      # doctest: +SKIP
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event

import ortools
import pydantic

from planner.assemble import assemble
from planner.control import Control, ProgressCallback, SolveStats
from planner.decide import Decision, Pick, Question, minimise
from planner.entries import ExactTables
from planner.errors import Infeasible, Unsolved
from planner.exact import as_fraction
from planner.explain import alternatives, priced
from planner.infeasible import explain_infeasible
from planner.limits import Limit, all_limits, tightened, to_fraction, to_integer
from planner.plan import Plan
from planner.proof import proof_of
from planner.request import Request
from planner.select import legal_options
from planner.tables import Tables
from planner.verify import verify


@dataclass(frozen=True, slots=True)
class Solution:
    """A plan and what it cost to find."""

    plan: Plan
    stats: SolveStats


def solve(
    tables: Tables,
    request: Request,
    *,
    warm_start: Plan | None = None,
    progress: ProgressCallback | None = None,
    stop: Event | None = None,
) -> Plan:
    """The best plan inside the limits; raises ``Infeasible`` with a report when there is none.

    Ctrl-C ends the search and returns the best plan so far, ``plan.stopped`` says so; without any plan yet it
    stays a ``KeyboardInterrupt``.
    """
    return solve_with_stats(tables, request, warm_start=warm_start, progress=progress, stop=stop).plan


def solve_with_stats(
    tables: Tables,
    request: Request,
    *,
    warm_start: Plan | None = None,
    progress: ProgressCallback | None = None,
    stop: Event | None = None,
) -> Solution:
    """Like ``solve``, with the effort beside the plan."""
    control = Control(request.seed, request.workers, request.time_limit, stop, progress)
    starts = [] if warm_start is None else picks_of(tables, warm_start)
    with control.listening():
        plan = plan_within(ExactTables(tables), request, control, starts)
    control.stats.seconds = control.elapsed
    return Solution(plan, control.stats)


def plan_within(exact: ExactTables, request: Request, control: Control, starts: Sequence[Pick] = ()) -> Plan:
    """The plan under a clock that several requests may share."""
    question = question_of(exact, request)
    decisions = lexicographic(question, request, control, starts)
    last = decisions[-1]
    if last.status == "infeasible":
        again = replace(control, started=time.monotonic(), stats=control.stats)
        raise Infeasible(explain_infeasible(exact, request, again))
    if last.pick is None:
        if control.by_hand:
            raise KeyboardInterrupt
        raise Unsolved(_unsolved(control))
    return finish(exact, request, question, decisions, control)


def question_of(exact: ExactTables, request: Request) -> Question:
    """What the request asks of these tables, apart from the objective."""
    tables = exact.tables
    legal = legal_options(tables, request.pins, request.forbids)
    modes = (None, *(tables.ensembles if request.ensembles else ()))
    limits = all_limits(exact, request.limits)
    return Question(exact, tuple(tuple(row) for row in legal), tuple(limits), modes)


def lexicographic(
    question: Question, request: Request, control: Control, starts: Sequence[Pick] = ()
) -> list[Decision]:
    """Minimise the first objective, then the second among the plans that (nearly) keep the first."""
    first, *rest = request.objective
    control.phase = first
    decisions = [minimise(question, first, control, starts)]
    for quantity in rest:
        best = decisions[-1]
        if best.value is None or best.pick is None or control.stopped:
            break
        control.phase = quantity
        value = to_fraction(question.exact, first, best.value) * (1 + as_fraction(request.slack))
        kept = value if request.slack else None
        ceiling = best.value if kept is None else to_integer(question.exact, first, kept)
        limits = tightened(list(question.limits), Limit(first, ceiling, 0.0))
        narrowed = replace(question, limits=tuple(limits), kept=first)
        found = minimise(narrowed, quantity, control, [best.pick])
        decisions.append(found if found.pick is not None else best)
    return decisions


def picks_of(tables: Tables, plan: Plan) -> list[Pick]:
    """A former plan as a start, if these tables still have its options."""
    chosen = {layer.name: layer for layer in plan.layers}
    mode = None
    if plan.ensemble is not None:
        wanted = plan.ensemble.predictors
        mode = next((choice for choice in tables.ensembles if choice.predictors == wanted), None)
        if mode is None:
            return []
    options: list[tuple[int, int]] = []
    holders: list[tuple[int, ...]] = []
    for layer in tables.layers:
        old = chosen.get(layer.name)
        if old is None:
            return []
        same = [
            index
            for index, option in enumerate(layer.options)
            if (option.scheme, option.engine, option.way) == (old.scheme, old.engine, old.way)
        ]
        if not same:
            return []
        held = [set(orders) for orders in old.holds]
        common = set.intersection(*held) if held else set(range(1, old.order + 1))
        base = len(common) if mode is not None else old.order
        options.append((same[0], base))
        spread = range(base + 1, old.order + 1)
        holders.append(tuple(next(m for m, orders in enumerate(held) if k in orders) for k in spread))
    return [Pick(mode, tuple(options), tuple(holders))]


def finish(
    exact: ExactTables, request: Request, question: Question, decisions: Sequence[Decision], control: Control
) -> Plan:
    """The plan document of a decision, checked by the independent verifier."""
    first, last = decisions[0], decisions[-1]
    assert last.pick is not None
    pairs = zip(request.objective, decisions, strict=False)
    proofs = tuple(proof_of(exact, quantity, decision) for quantity, decision in pairs)
    proven = len(decisions) == len(request.objective) and all(d.status == "optimal" for d in decisions)
    stopped = None if proven else control.stopped or "time_limit"
    body = assemble(exact, question, last.pick, request.objective[0])
    limits = body.limits
    if request.explain:
        limits = priced(question, request.objective[0], first, limits, control)
    others = alternatives(question, request.objective[0], last.pick, request.alternatives, control)
    plan = Plan(
        model=exact.tables.model,
        target=exact.tables.target,
        tables_sha256=exact.digest,
        request=request,
        status="optimal" if proven else "feasible",
        stopped=stopped,
        proof=proofs,
        totals=body.totals,
        ensemble=body.ensemble,
        layers=body.layers,
        limits=limits,
        options_before=sum(len(layer.options) for layer in exact.tables.layers),
        options_after=last.counts.pruned,
        options_solver=last.counts.solver,
        alternatives=others,
        versions={"ortools": ortools.__version__, "pydantic": pydantic.VERSION},
        provenance=exact.tables.provenance,
    )
    verify(exact.tables, plan)
    return plan


def _unsolved(control: Control) -> str:
    reason = "interrupted" if control.stopped == "interrupted" else f"{control.time_limit:g} s passed"
    return (
        f"no plan: {reason} before one was found, and none is proven impossible; raise the time limit "
        "or loosen a limit"
    )
