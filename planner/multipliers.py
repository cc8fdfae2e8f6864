"""The best Lagrangian multipliers, by cutting planes.

f is concave and piecewise linear; every point gives a plane above it. Kelley's method maximises over the
planes so far, here pulled halfway to the best point, which tames its jumps. When the optimum lies decades
below the spread of the objective, it starts again in smaller units, as the small linear programs are solved in
floats. Minimisers met on the way that meet the limits are plans, as are their mixtures with those just outside;
local search improves them where they are not good enough.
"""

from dataclasses import replace

import numpy as np
from ortools.linear_solver import pywraplp

from planner.bounds import Bound, Point, Relaxation
from planner.improve import improved, mixed

_ITERATIONS = 60
_PULL = 0.5
_TOLERANCE = 1e-7
_FACTORS = (0.5, 0.7, 0.85, 0.93, 0.97, 1.03, 1.07, 1.15, 1.4, 2.0)


class _Ascent:
    """The best point, and the points nearest to it whose minimisers meet the limits and do not."""

    def __init__(self, relaxation: Relaxation) -> None:
        self.relaxation = relaxation
        self.best, _ = relaxation.evaluate(np.zeros(len(relaxation.limits)))
        self.inside: list[Point] = []
        self.outside: Point | None = None
        self._see(self.best)

    def go(self, multipliers: np.ndarray) -> Point:
        point, _ = self.relaxation.evaluate(multipliers)
        self._see(point)
        if point.value > self.best.value:
            self.best = point
        return point

    def _see(self, point: Point) -> None:
        if (point.slope <= 0).all():
            self.inside = sorted([*self.inside, point], key=lambda p: -p.value)[:2]
        elif self.outside is None or point.value > self.outside.value:
            self.outside = point


def best_bound(relaxation: Relaxation) -> Bound:
    """The best λ found, its bound, what every entry would cost at least, and the plans met on the way."""
    ascent = _Ascent(relaxation)
    costs = relaxation.costs[relaxation.quantity]
    unit = float(costs.max() - costs.min())
    if len(relaxation.limits) and unit > 0 and np.isfinite(ascent.best.value):
        _cutting_planes(ascent, unit)
        while 0 < ascent.best.value < 1e-3 * unit:
            unit = max(ascent.best.value, 1e-3 * unit)
            _cutting_planes(ascent, unit)
    point, messages = relaxation.evaluate(ascent.best.multipliers)
    with_entry = relaxation.by_layer(point.value + messages.extra())
    prices = {limit.name: float(m) for limit, m in zip(relaxation.limits, point.multipliers, strict=True)}
    plans = [inside.chosen for inside in ascent.inside]
    if ascent.outside is not None:
        plans += [mix for plan in plans for mix in mixed(relaxation, plan, ascent.outside.chosen)]
    unlike = {plan.tobytes(): plan for plan in plans}.values()
    return Bound(point.value, with_entry, prices, tuple(sorted(unlike, key=relaxation.objective)))


def with_better_plans(relaxation: Relaxation, bound: Bound) -> Bound:
    """The bound with its plans improved by local search."""
    multipliers = np.array([bound.multipliers[limit.name] for limit in relaxation.limits])
    plans = [improved(relaxation, plan, multipliers) for plan in bound.plans]
    return replace(bound, plans=tuple(sorted(plans, key=relaxation.objective)))


def refined(relaxation: Relaxation, bound: Bound) -> Bound:
    """The bound with sharper values of what every entry costs at least.

    Forcing an entry into the plan moves the λ that suits it best; so several λ around the best one are tried and
    the highest bound counts.
    """
    best = [bound.multipliers[limit.name] for limit in relaxation.limits]
    least = [list(row) for row in bound.with_entry]
    for place, value in enumerate(best):
        for factor in _FACTORS if value else ():
            asked = [*best[:place], value * factor, *best[place + 1 :]]
            point, messages = relaxation.evaluate(np.array(asked))
            found = relaxation.by_layer(point.value + messages.extra())
            least = [list(map(max, old, new)) for old, new in zip(least, found, strict=True)]
    return replace(bound, with_entry=least)


def _cutting_planes(ascent: _Ascent, unit: float) -> None:
    rooms = np.maximum(ascent.relaxation.rooms, 1.0)
    base = ascent.best.value
    master = pywraplp.Solver.CreateSolver("GLOP")
    prices = [master.NumVar(0.0, 1e7, "") for _ in rooms]
    top = master.NumVar(-master.infinity(), master.infinity(), "")
    master.Maximize(top)
    point = ascent.best
    for _ in range(_ITERATIONS):
        height = (point.value - base - float(point.slope @ point.multipliers)) / unit
        plane = master.Constraint(-master.infinity(), height)
        plane.SetCoefficient(top, 1.0)
        for price, slope, room in zip(prices, point.slope, rooms, strict=True):
            plane.SetCoefficient(price, -float(slope / room))
        if master.Solve() != pywraplp.Solver.OPTIMAL:
            break
        promise = top.solution_value() * unit + base
        if promise - ascent.best.value <= _TOLERANCE * max(abs(ascent.best.value), 1e-3 * unit):
            break
        asked = np.array([price.solution_value() for price in prices]) * unit / rooms
        point = ascent.go(asked + _PULL * (ascent.best.multipliers - asked))
