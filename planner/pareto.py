"""Exact points of the frontier between two quantities, by the ε-constraint method.

Both ends are lexicographic optima. Between them the second quantity is limited to ε and the first minimised,
then the second at that value of the first, so that every point is on the frontier and proven. ``points`` of them
halve the widest gaps, on a logarithmic scale: fewer are returned only where the frontier has no more, or the time is
up. With ``points=None`` every point of the frontier is walked.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from planner.control import Control, ProgressCallback
from planner.entries import ExactTables
from planner.errors import Infeasible, PlannerError, Unsolved
from planner.exact import as_fraction
from planner.limits import limit_below, to_integer
from planner.plan import Plan
from planner.request import Quantity, Request
from planner.solve import plan_within
from planner.tables import Tables

NARROW = 1.25


def pareto(
    tables: Tables,
    request: Request,
    points: int | None,
    *,
    against: Quantity | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[Plan, ...]:
    """Plans on the frontier of the request's first objective and ``against``, fastest first."""
    if points is not None and points < 1:
        raise PlannerError(f"pareto: {points} points asked; ask for at least 1")
    first = request.objective[0]
    second: Quantity = against or ("error" if first == "latency" else "latency")
    if second == first:
        raise PlannerError(
            f"pareto: the frontier of {first} against itself is one point; name another quantity"
        )
    walk = _Walk(tables, request, first, second, progress)
    with walk.control.listening():
        return tuple(walk.all() if points is None else walk.spread(points))


class _Walk:
    def __init__(
        self,
        tables: Tables,
        request: Request,
        first: Quantity,
        second: Quantity,
        progress: ProgressCallback | None,
    ) -> None:
        self.exact = ExactTables(tables)
        self.request = request.model_copy(update={"alternatives": 0, "explain": False, "slack": 0.0})
        self.first: Quantity = first
        self.second: Quantity = second
        self.control = Control(request.seed, request.workers, request.time_limit, None, progress)

    def _point(self, objective: tuple[Quantity, Quantity], most: int | None) -> Plan | None:
        limits = self.request.limits
        if most is not None:
            limits = limits.model_copy(update={self.second: limit_below(self.exact, self.second, most)})
        asked = self.request.model_copy(update={"objective": objective, "limits": limits})
        try:
            plan = plan_within(self.exact, asked, self.control)
        except (Infeasible, Unsolved, KeyboardInterrupt):
            if most is None:
                raise
            return None
        return plan if most is None or plan.status == "optimal" else None

    def _second(self, plan: Plan) -> int:
        """The second quantity of a plan as an exact integer."""
        if self.second == "latency":
            return plan.totals.cycles
        value = next(proof.value for proof in plan.proof if proof.quantity == self.second)
        return to_integer(self.exact, self.second, as_fraction(value))

    def all(self) -> Iterator[Plan]:
        """Every point, from the best of the second quantity to the best of the first."""
        found: list[Plan] = []
        most: int | None = None
        while not self.control.stopped:
            plan = self._point((self.first, self.second), most)
            if plan is None:
                break
            found.append(plan)
            most = self._second(plan) - 1
        return iter(found[::-1])

    def spread(self, points: int) -> Iterator[Plan]:
        """At most ``points`` points: the ends, then always one inside the widest gap on a logarithmic scale."""
        best = self._point((self.first, self.second), None)
        assert best is not None
        if points == 1 or self.control.stopped:
            return iter([best])
        other = self._point((self.second, self.first), None)
        assert other is not None
        if self.control.stopped:
            return iter([best])
        found = {self._second(other): other, self._second(best): best}
        empty = {value: value for value in found}  # up to which value no other point lies above this one
        while len(found) < points and (gap := _widest(sorted(found), empty)) is not None:
            low, high = gap
            most = _inside(empty[low], high)
            plan = self._point((self.first, self.second), most)
            if self.control.stopped:
                break
            value = low if plan is None else self._second(plan)
            empty[value] = most
            if plan is not None:
                found.setdefault(value, plan)
        return iter([found[value] for value in sorted(found)])


def _widest(values: Sequence[int], empty: Mapping[int, int]) -> tuple[int, int] | None:
    """Neighbours between which a point may lie, with the largest ratio of the part that is not known to be empty."""
    gaps = [(low, high) for low, high in pairwise(values) if empty[low] < high - 1]
    return max(gaps, key=lambda gap: gap[1] / max(empty[gap[0]], 1), default=None)


def _inside(low: int, high: int) -> int:
    """The geometric middle; in a narrow gap just below its upper end, so that one more look settles it."""
    if high < NARROW * max(low, 1):
        return high - 1
    return min(max(int((max(low, 1) * high) ** 0.5), low + 1), high - 1)
