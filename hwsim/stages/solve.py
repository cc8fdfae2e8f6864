"""``solve`` and ``plan diff``: the decision alone, from option tables, and two decisions side by side.

The planner's own vocabulary begins here: flags become its ``Request``, joules its picojoules.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hwsim.errors import InfeasibleError, UserError
from hwsim.stages.infeasible import infeasible_text
from hwsim.units import Dimension, Quantity, quantity

if TYPE_CHECKING:
    from pydantic import BaseModel

    from planner.control import ProgressCallback
    from planner.diff import PlanDiff
    from planner.plan import Plan
    from planner.request import Limits, Request

    Document = TypeVar("Document", bound=BaseModel)

_PICO = 1e-12


class InfeasibleTables(InfeasibleError):
    """No plan of the tables satisfies the limits; ``report`` is the planner's explanation as plain data."""

    def __init__(self, message: str, report: dict[str, Any]) -> None:
        super().__init__(message)
        self.report = report


def solve_request(
    *,
    max_latency: Quantity = None,
    max_bops: Quantity = None,
    max_weight_memory: Quantity = None,
    max_activation_memory: Quantity = None,
    max_energy: Quantity = None,
    max_error: float | None = None,
    objective: str | None = None,
    pin: Sequence[str] | None = None,
    forbid: Sequence[str] | None = None,
    ensembles: bool = True,
    pareto: int = 0,
    alternatives: int = 0,
    explain: bool = True,
    time_limit: Quantity = "60s",
    seed: int = 0,
    workers: int = 1,
) -> "Request":
    """The planner's request behind the flags of ``hwsim solve``."""
    from planner.request import Limits, Request

    def limit(value: Quantity, dimension: Dimension, flag: str) -> float | None:
        return None if value is None else quantity(value, dimension, flag)

    joules = limit(max_energy, "energy", "--max-energy")
    limits = Limits(
        error=max_error,
        latency=limit(max_latency, "time", "--max-latency"),
        energy=None if joules is None else joules / _PICO,
        bops=limit(max_bops, "count", "--max-bops"),
        weight_memory=limit(max_weight_memory, "bytes", "--max-weight-memory"),
        activation_memory=limit(max_activation_memory, "bytes", "--max-activation-memory"),
    )
    return _checked(
        Request,
        {
            "objective": _objective(objective, limits, bool(pareto)),
            "limits": limits,
            "pins": tuple(pin or ()),
            "forbids": tuple(forbid or ()),
            "ensembles": ensembles,
            "seed": seed,
            "workers": workers,
            "time_limit": quantity(time_limit, "time", "--time-limit"),
            "alternatives": alternatives,
            "explain": explain and not pareto,
        },
    )


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
    from planner.plan import Plan
    from planner.solve import solve
    from planner.tables import Tables

    options = read_document(Tables, tables, "TABLES")
    start = None if warm_start is None else read_document(Plan, warm_start, "--warm-start")
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
    from planner.plan import Plan

    return diff(read_document(Plan, before, "BEFORE"), read_document(Plan, after, "AFTER"))


def read_document(kind: "type[Document]", path: Path, flag: str) -> "Document":
    """A document of the planner; a mistake names the first field that is wrong."""
    from pydantic import ValidationError

    from hwsim.files import existing_file

    text = existing_file(path, flag).read_text(encoding="utf-8", errors="replace")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise UserError(_first_mistake(error, str(path))) from error


def _objective(text: str | None, limits: "Limits", frontier: bool) -> tuple[str, ...]:
    from planner.request import QUANTITIES

    if text is None:
        if not frontier and all(value is None for value in limits.model_dump().values()):
            raise UserError("nothing to plan for: give a limit such as --max-latency 4ms, or an --objective")
        return ("error",)
    words = tuple(word.strip() for word in text.split(","))
    for word in words:
        if word not in QUANTITIES:
            raise UserError(f"--objective: {word!r} is not one of {', '.join(QUANTITIES)}")
    return words


def _checked(kind: "type[Document]", fields: dict[str, object]) -> "Document":
    from pydantic import ValidationError

    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise UserError(_first_mistake(error, "request")) from error


def _first_mistake(error: ValueError, where: str) -> str:
    from pydantic import ValidationError

    assert isinstance(error, ValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{where}{': ' + place if place else ''}: {first['msg'].removeprefix('Value error, ')}"
