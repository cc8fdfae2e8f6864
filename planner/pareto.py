"""Exact points of the frontier between two quantities, by the ε-constraint method.

Both ends are lexicographic optima. Between them the second quantity is limited to ε and the first minimised,
then the second at that value of the first, so that every point is on the frontier and proven. ``points`` ε are
spread geometrically between the ends; with ``points=None`` every point of the frontier is walked.
"""

from collections.abc import Iterator

from planner.control import Control, ProgressCallback
from planner.entries import ExactTables
from planner.errors import Infeasible, PlannerError, Unsolved
from planner.exact import as_fraction
from planner.limits import limit_for, to_integer
from planner.plan import Plan
from planner.request import Quantity, Request
from planner.solve import plan_within
from planner.tables import Tables


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
            limits = limits.model_copy(update={self.second: limit_for(self.exact, self.second, most)})
        asked = self.request.model_copy(update={"objective": objective, "limits": limits})
        try:
            return plan_within(self.exact, asked, self.control)
        except (Infeasible, Unsolved, KeyboardInterrupt):
            if most is None:
                raise
            return None

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
        """About ``points`` points, spread evenly on a logarithmic scale; fewer where the frontier is short."""
        best = self._point((self.first, self.second), None)
        assert best is not None
        if points == 1:
            return iter([best])
        other = self._point((self.second, self.first), None)
        assert other is not None
        low, high = self._second(other), self._second(best)
        found = {self._second(other): other, high: best}
        for step in range(1, points - 1):
            share = step / (points - 1)
            most = int(max(low, 1) * (high / max(low, 1)) ** share)
            if self.control.stopped:
                break
            plan = self._point((self.first, self.second), min(max(most, low), high))
            if plan is not None:
                found.setdefault(self._second(plan), plan)
        return iter([found[key] for key in sorted(found)])
