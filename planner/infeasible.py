"""Why nothing fits: a minimal conflicting set by deletion, and the smallest relaxation of every limit.

CP-SAT's own cores are not minimal when there is an objective; the pure feasibility question is therefore
asked again with one demand left out at a time. What stays is a conflict from which nothing can be dropped.
The smallest relaxation of a limit is the minimum of its quantity under all other demands.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.control import Control
from planner.decide import Question, minimise
from planner.entries import ExactTables
from planner.limits import all_limits, limit_for
from planner.report import Conflict, InfeasibleReport, Kind, Relaxation
from planner.request import Request
from planner.select import legal_options

_WORDS = {
    "error": ("predicted error", ""),
    "latency": ("latency", " s"),
    "energy": ("energy", " pJ"),
    "bops": ("bit operations", ""),
    "weight_memory": ("weight memory", " bytes"),
    "activation_memory": ("live activations", " bytes"),
}


@dataclass(frozen=True, slots=True)
class Demand:
    """One thing that can be given up."""

    kind: Kind
    name: str
    text: str
    limit: float | None = None


def demands_of(exact: ExactTables, request: Request) -> list[Demand]:
    """Everything in the request and the tables that could be part of a conflict."""
    found: list[Demand] = []
    for limit in all_limits(exact, request.limits):
        if limit.name.startswith("memory:"):
            name = limit.name.removeprefix("memory:")
            memory = next(m for m in exact.tables.memories if m.name == name)
            text = f"{' and '.join(memory.holds)} must fit the {memory.bytes} bytes of {name}"
            found.append(Demand("memory", limit.name, text, limit.shown))
        else:
            word, unit = _WORDS[limit.name]
            found.append(Demand("limit", limit.name, f"{word} at most {limit.shown:g}{unit}", limit.shown))
    found += [Demand("pin", pin, f"layers pinned by {pin!r}") for pin in request.pins]
    found += [Demand("forbid", forbid, f"options ruled out by {forbid!r}") for forbid in request.forbids]
    for group in exact.tables.agreements:
        shared = " and ".join(name.replace("_", " ") for name in group.on)
        text = f"{group.name}: {len(group.layers)} layers must share {shared}"
        found.append(Demand("agreement", group.name, text))
    return found


def question_under(exact: ExactTables, request: Request, kept: Sequence[Demand]) -> Question:
    """The request with only the demands in ``kept``."""
    names = {(demand.kind, demand.name) for demand in kept}
    tables = exact.tables
    agreements = tuple(group for group in tables.agreements if ("agreement", group.name) in names)
    if len(agreements) < len(tables.agreements):
        exact = exact.with_tables(tables.model_copy(update={"agreements": agreements}))
    pins = tuple(pin for pin in request.pins if ("pin", pin) in names)
    forbids = tuple(forbid for forbid in request.forbids if ("forbid", forbid) in names)
    legal = tuple(tuple(row) for row in legal_options(tables, pins, forbids))
    limits = [
        limit
        for limit in all_limits(exact, request.limits)
        if ("memory" if limit.name.startswith("memory:") else "limit", limit.name) in names
    ]
    modes = (None, *(tables.ensembles if request.ensembles else ()))
    return Question(exact, legal, tuple(limits), modes)


def explain_infeasible(exact: ExactTables, request: Request, control: Control) -> InfeasibleReport:
    """The report of an infeasible request; ``minimal`` is false if the time was up before the filter ended."""
    control.phase = "conflict"
    demands = demands_of(exact, request)
    conflict, minimal = _smallest_conflict(exact, request, demands, control)
    relaxations = [
        _relaxation(exact, request, [other for other in demands if other is not demand], demand, control)
        for demand in demands
    ]
    found = [relaxation for relaxation in relaxations if relaxation is not None]
    further: list[Demand] = []
    needed: list[Relaxation | None] = []
    if not found and minimal:
        further = _further_conflicts(exact, request, demands, conflict, control)
        rest = [demand for demand in demands if demand not in (*conflict, *further)]
        limits = [demand for demand in (*conflict, *further) if demand.kind in ("limit", "memory")]
        needed = [_relaxation(exact, request, rest, demand, control) for demand in limits]
    parts = "; ".join(demand.text for demand in conflict) or "the tables alone"
    return InfeasibleReport(
        headline=_headline(parts, found, control.stopped is not None),
        conflict=_documents(conflict),
        further=_documents(further),
        minimal=minimal,
        relaxations=tuple(found),
        needed=tuple(one for one in needed if one is not None),
    )


def _smallest_conflict(
    exact: ExactTables, request: Request, demands: Sequence[Demand], control: Control
) -> tuple[list[Demand], bool]:
    """Demands that contradict each other, none too many; whether that is certain."""
    conflict, minimal = list(demands), True
    for demand in reversed(demands):  # structure first, so that what stays is what the user can change
        rest = [other for other in conflict if other is not demand]
        status = feasible(question_under(exact, request, rest), control)
        if status is False:
            conflict = rest
        elif status is None:
            minimal = False
    return conflict, minimal


def _further_conflicts(
    exact: ExactTables, request: Request, demands: Sequence[Demand], first: list[Demand], control: Control
) -> list[Demand]:
    """The members of conflicts that share nothing with the first one, nor with each other."""
    further: list[Demand] = []
    rest = [demand for demand in demands if demand not in first]
    while rest and feasible(question_under(exact, request, rest), control) is False:
        conflict, minimal = _smallest_conflict(exact, request, rest, control)
        if not minimal or not conflict:
            break
        further += conflict
        rest = [demand for demand in rest if demand not in conflict]
    return further


def _documents(demands: Sequence[Demand]) -> tuple[Conflict, ...]:
    return tuple(Conflict(kind=d.kind, name=d.name, text=d.text, limit=d.limit) for d in demands)


def feasible(question: Question, control: Control) -> bool | None:
    """Whether any plan meets the demands; ``None`` if the time was up."""
    decision = minimise(question, None, control)
    if decision.pick is not None:
        return True
    return False if decision.status == "infeasible" else None


def _relaxation(
    exact: ExactTables, request: Request, rest: Sequence[Demand], demand: Demand, control: Control
) -> Relaxation | None:
    """What giving way in one demand takes while those in ``rest`` hold; None if that is not enough."""
    if demand.kind == "agreement":
        return None
    question = question_under(exact, request, rest)
    if demand.kind in ("pin", "forbid"):
        possible = feasible(question, control)
        if not possible:
            return None
        return Relaxation(name=demand.name, limit=0.0, text=f"without {demand.text} a plan exists")
    limit = next(one for one in all_limits(exact, request.limits) if one.name == demand.name)
    decision = minimise(question, limit.quantity, control)
    if decision.value is None:
        return None
    needed = limit_for(exact, limit.quantity, decision.value)
    proven = decision.status == "optimal"
    word = limit.name.removeprefix("memory:").replace("_", " ")
    text = f"{word}: {needed:g} instead of {limit.shown:g}{'' if proven else ' (at most)'}"
    return Relaxation(name=limit.name, limit=limit.shown, needed=needed, proven=proven, text=text)


def _headline(parts: str, relaxations: Sequence[Relaxation], cut_short: bool) -> str:
    if not relaxations and cut_short:
        return f"infeasible: within {parts}; the time was up before the conflict was narrowed down"
    if not relaxations:
        return f"infeasible: {parts}; no single limit, pin or forbid can be changed to make it feasible"
    ways = ", or ".join(relaxation.text for relaxation in relaxations)
    return f"infeasible: {parts}. Feasible with {ways}"
