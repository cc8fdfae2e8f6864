"""Errors of the planning floor: one line that says what is wrong and how to mend it.

PlannerError
├── Unsolved    the time was up before any plan was found
└── Infeasible  no plan satisfies the limits; carries the report that proves it
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.report import InfeasibleReport


class PlannerError(ValueError):
    """A table or a request that does not make sense."""


class Unsolved(PlannerError):
    """The search ended with neither a plan nor a proof that there is none."""


class Infeasible(PlannerError):
    """No plan satisfies the limits."""

    def __init__(self, report: "InfeasibleReport") -> None:
        super().__init__(report.headline)
        self.report = report
