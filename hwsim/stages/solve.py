"""``solve`` and ``plan diff``: the decision alone, from option tables, and two decisions side by side."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hwsim.documents import read_document, read_plan
from hwsim.errors import InfeasibleError, UserError
from hwsim.stages.infeasible import infeasible_text
from hwsim.stages.pins import check_pins
from hwsim.stages.search import SearchFlags, planner_request, read_search

if TYPE_CHECKING:
    from planner.control import ProgressCallback
    from planner.diff import PlanDiff
    from planner.plan import Plan
    from planner.request import Request


class InfeasibleTables(InfeasibleError):
    """No plan of the tables satisfies the limits; ``report`` is the planner's explanation as plain data."""

    def __init__(self, message: str, report: dict[str, Any]) -> None:
        super().__init__(message)
        self.report = report


def solve_request(*, ensembles: bool = True, pareto: int = 0, **flags: "Unpack[SearchFlags]") -> "Request":
    """The planner's request behind the flags of ``hwsim solve``."""
    from planner.request import QUANTITIES

    search = read_search(flags, QUANTITIES)
    if not (search.objective or search.limits.any or pareto):
        raise UserError("nothing to plan for: give a limit such as --max-latency 4ms, or an --objective")
    search = replace(search, objective=search.objective or ("error",), explain=search.explain and not pareto)
    return planner_request(search, ensembles=ensembles)


def run_solve(
    tables: Path,
    request: "Request",
    *,
    pareto: int = 0,
    warm_start: Path | None = None,
    progress: "ProgressCallback | None" = None,
) -> "tuple[Plan, ...]":
    """One proven plan, or ``pareto`` proven points of the frontier."""
    from planner import pareto as frontier
    from planner.errors import Infeasible
    from planner.solve import solve
    from planner.tables import Tables

    options = read_document(Tables, tables, "TABLES")
    start = None if warm_start is None else read_plan(warm_start, "--warm-start")
    check_pins(options, request.pins)
    try:
        if pareto:
            return frontier.pareto(options, request, pareto, progress=progress)
        return (solve(options, request, warm_start=start, progress=progress),)
    except Infeasible as error:
        raise InfeasibleTables(infeasible_text(error.report), error.report.model_dump(mode="json")) from error


def plans_text(plans: "Sequence[Plan]", *, many: bool) -> str:
    """A plan, or a list of the points of a frontier, as a file."""
    if not many:
        return plans[0].model_dump_json(indent=2) + "\n"
    return json.dumps([plan.model_dump(mode="json") for plan in plans], indent=2) + "\n"


def run_diff(before: Path, after: Path) -> "PlanDiff":
    """What two plans of one model decide differently, and what that changes."""
    from planner.diff import diff

    return diff(read_plan(before, "BEFORE"), read_plan(after, "AFTER"))
