"""Why a request is infeasible, as data: the smallest conflict and the smallest ways out."""

from typing import Literal

from planner.tables import Document

Kind = Literal["limit", "memory", "pin", "forbid", "agreement"]


class Conflict(Document):
    """One member of a minimal conflicting set: without it the rest can be met."""

    kind: Kind
    name: str
    text: str
    limit: float | None = None


class Relaxation(Document):
    """The smallest value of one limit that makes the request feasible while all else stays.

    Where no single change is enough: the smallest while every demand of every conflict is given up.
    """

    name: str
    limit: float
    needed: float | None = None
    proven: bool = True
    text: str


class InfeasibleReport(Document):
    """The proof that no plan exists, in hardware words."""

    schema_version: Literal[1] = 1
    headline: str
    conflict: tuple[Conflict, ...]
    further: tuple[Conflict, ...] = ()
    """Members of other conflicts, which stay when the first one is given up."""
    minimal: bool
    relaxations: tuple[Relaxation, ...]
    needed: tuple[Relaxation, ...] = ()
    """What the limits in conflict need at least, where no single change is enough."""
