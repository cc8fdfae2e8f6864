"""Lagrangian bounds: which options no plan better than the best known can use.

Limits move into the objective with multipliers λ ≥ 0; for every λ

    f(λ) = min over plans of  objective + Σ_q λ_q · (used_q − limit_q)

is a lower bound of the optimum. The minimum falls apart into layers, tied only by agreements and boundaries;
along a forest of these ties it is found exactly by dynamic programming over the layers' classes, forwards for
f and backwards for the least value with a given option, f_option(λ) ≥ f(λ). An option with f_option(λ) above
the cost of a known plan is in no better plan. What is left out of the relaxation (ties that would close a
cycle, live activations, the balance between networks) only lowers the bound. λ is found by cutting planes
(Kelley) pulled towards the best λ so far. Floats suffice: a margin far above their rounding is subtracted.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ortools.linear_solver import pywraplp

from planner.entries import BOPS, ENERGY, ERROR, LATENCY, WEIGHTS, Entry
from planner.limits import Limit
from planner.prune import class_keys
from planner.space import Space, agreement_key, rule_applies
from planner.tables import BoundaryRule

Vector = npt.NDArray[np.float64]
SUMS = {"error": ERROR, "latency": LATENCY, "energy": ENERGY, "bops": BOPS, "weight_memory": WEIGHTS}
_ROUNDING = 1e-11
_ITERATIONS = 60
_PULL = 0.5


@dataclass(slots=True)
class _Tie:
    """An edge of the forest; prices by quantity, rows are classes of the child, columns of the parent."""

    child: int
    parent: int
    barrier: Vector
    prices: dict[str, Vector]


@dataclass(frozen=True, slots=True)
class Bound:
    """The best bound found and, for every entry of every layer, the least value of a plan that uses it."""

    value: float
    with_entry: list[Vector]
    multipliers: dict[str, float]
    plan: tuple[int, ...]


class Relaxation:
    """The Lagrangian relaxation of one space, for one objective and the limits that are plain sums."""

    def __init__(self, space: Space, quantity: str, limits: Sequence[Limit]) -> None:
        self.space = space
        self.quantity = quantity
        self.limits = [limit for limit in limits if _plain(space, limit.quantity) in SUMS]
        keys = class_keys(space.exact)
        self.classes: list[list[Hashable]] = []
        self.class_of: list[npt.NDArray[np.intp]] = []
        for layer, row in enumerate(space.entries):
            kinds = [keys[layer](space.option(layer, entry)) for entry in range(len(row))]
            unique = list(dict.fromkeys(kinds))
            where = {kind: index for index, kind in enumerate(unique)}
            self.classes.append(unique)
            self.class_of.append(np.array([where[kind] for kind in kinds], dtype=np.intp))
        self.sample = [
            [int(np.argmax(of == index)) for index in range(len(unique))]
            for of, unique in zip(self.class_of, self.classes, strict=True)
        ]
        names = [quantity, *(_plain(space, limit.quantity) for limit in self.limits)]
        self.costs = {name: [self._costs(row, name) for row in space.entries] for name in names}
        self.ties, self.order = self._forest(names)
        self.rooms = [
            float(limit.value - self._constant(_plain(space, limit.quantity))) for limit in self.limits
        ]
        self.constant = float(self._constant(quantity))

    def _constant(self, name: str) -> int:
        return self.space.rows(name)[0].constant

    def _costs(self, row: Sequence[Entry], name: str) -> Vector:
        kind = SUMS[name]
        if kind != LATENCY:
            return np.array([float(entry.costs[kind]) for entry in row])
        networks = self.space.networks
        return np.array([entry.costs[LATENCY] + sum(entry.later) / networks for entry in row])

    def _forest(self, names: Sequence[str]) -> tuple[dict[int, list[_Tie]], list[int]]:
        """Ties below each layer, and the layers in an order with children first."""
        space = self.space
        edges: list[tuple[int, int, Vector, dict[str, Vector]]] = []
        for group in space.tables.agreements:
            key = agreement_key(group.on)
            members = [space.position[name] for name in group.layers]
            for one, other in zip(members, members[1:], strict=False):
                same = [
                    [key(space.option(one, a)) == key(space.option(other, b)) for b in self.sample[other]]
                    for a in self.sample[one]
                ]
                edges.append((one, other, np.where(np.array(same), 0.0, np.inf), {}))
        for boundary in space.tables.boundaries:
            one, other = space.position[boundary.source], space.position[boundary.target]
            prices = {name: self._prices(boundary.rules, one, other, name) for name in names}
            shape = (len(self.sample[one]), len(self.sample[other]))
            edges.append((one, other, np.zeros(shape), prices))
        leader = list(range(len(space.entries)))

        def find(node: int) -> int:
            while leader[node] != node:
                leader[node] = leader[leader[node]]
                node = leader[node]
            return node

        near: dict[int, list[tuple[int, Vector, dict[str, Vector]]]] = {}
        for one, other, barrier, prices in edges:
            if find(one) != find(other):
                leader[find(one)] = find(other)
                near.setdefault(one, []).append((other, barrier, prices))
                flipped = {name: price.T for name, price in prices.items()}
                near.setdefault(other, []).append((one, barrier.T, flipped))
        return self._rooted(near)

    def _rooted(
        self, near: dict[int, list[tuple[int, Vector, dict[str, Vector]]]]
    ) -> tuple[dict[int, list[_Tie]], list[int]]:
        below: dict[int, list[_Tie]] = {}
        order: list[int] = []
        seen: set[int] = set()
        for root in range(len(self.space.entries)):
            if root in seen:
                continue
            seen.add(root)
            stack = [root]
            while stack:
                node = stack.pop()
                order.append(node)
                for other, barrier, prices in near.get(node, []):
                    if other not in seen:
                        seen.add(other)
                        flipped = {name: price.T for name, price in prices.items()}
                        below.setdefault(node, []).append(_Tie(other, node, barrier.T, flipped))
                        stack.append(other)
        return below, order[::-1]

    def _prices(self, rules: Sequence[BoundaryRule], one: int, other: int, name: str) -> Vector:
        space = self.space
        found = np.zeros((len(self.sample[one]), len(self.sample[other])))
        if name not in ("latency", "energy"):
            return found
        copies = 1 if space.mode is None else space.networks + 1
        for i, a in enumerate(self.sample[one]):
            for j, b in enumerate(self.sample[other]):
                for rule in rules:
                    if rule_applies(rule, space.option(one, a), space.option(other, b)):
                        scaled = space.exact.energy_scale.integer(rule.energy_pj) * copies
                        found[i, j] += rule.cycles if name == "latency" else scaled
        return found

    def evaluate(self, multipliers: Vector, marginals: bool = False) -> "_Point":
        """f(λ), its minimiser and slope; with ``marginals`` also the least value with every entry."""
        names = [_plain(self.space, limit.quantity) for limit in self.limits]
        weights = [
            (name, float(weight))
            for name, weight in zip([self.quantity, *names], [1.0, *multipliers], strict=True)
            if weight
        ]
        count = len(self.space.entries)
        own: list[Vector] = []
        best: list[Vector] = []
        for layer in range(count):
            cost = sum((weight * self.costs[name][layer] for name, weight in weights), np.zeros(1))
            least = np.full(len(self.classes[layer]), np.inf)
            np.minimum.at(least, self.class_of[layer], cost)
            own.append(cost)
            best.append(least)
        up = [least.copy() for least in best]
        sent: dict[int, tuple[Vector, Vector]] = {}
        for node in self.order:
            for tie in self.ties.get(node, ()):
                price = tie.barrier
                for name, weight in weights:
                    if name in tie.prices:
                        price = price + weight * tie.prices[name]
                table = up[tie.child][:, None] + price
                message = table.min(axis=0)
                sent[tie.child] = (price, message)
                up[node] = up[node] + message
        children = {tie.child for ties in self.ties.values() for tie in ties}
        roots = [node for node in self.order if node not in children]
        total = self.constant + sum(float(up[root].min()) for root in roots)
        total -= sum(float(m) * room for m, room in zip(multipliers, self.rooms, strict=True))
        chosen = self._traceback(up, sent, roots)
        plan = tuple(
            int(np.flatnonzero(self.class_of[layer] == chosen[layer])[
                np.argmin(own[layer][self.class_of[layer] == chosen[layer]])
            ])
            for layer in range(count)
        )  # fmt: skip
        slope = self._slope(names, plan, chosen)
        size = abs(total) + sum(abs(float(m) * room) for m, room in zip(multipliers, self.rooms, strict=True))
        extra = self._extra(own, best, up, sent, roots) if marginals else []
        return _Point(multipliers, total - _ROUNDING * size, slope, plan, extra)

    def _traceback(
        self, up: Sequence[Vector], sent: dict[int, tuple[Vector, Vector]], roots: Sequence[int]
    ) -> list[int]:
        chosen = [0] * len(up)
        for root in roots:
            chosen[root] = int(up[root].argmin())
        for node in reversed(self.order):
            for tie in self.ties.get(node, ()):
                price, _ = sent[tie.child]
                chosen[tie.child] = int((up[tie.child] + price[:, chosen[node]]).argmin())
        return chosen

    def _slope(self, names: Sequence[str], plan: Sequence[int], chosen: Sequence[int]) -> Vector:
        slope = [-room for room in self.rooms]
        for index, name in enumerate(names):
            slope[index] += sum(
                float(costs[entry]) for costs, entry in zip(self.costs[name], plan, strict=True)
            )
            for ties in self.ties.values():
                for tie in ties:
                    if name in tie.prices:
                        slope[index] += float(tie.prices[name][chosen[tie.child], chosen[tie.parent]])
        return np.array(slope)

    def _extra(
        self,
        own: Sequence[Vector],
        best: Sequence[Vector],
        up: Sequence[Vector],
        sent: dict[int, tuple[Vector, Vector]],
        roots: Sequence[int],
    ) -> list[Vector]:
        """For every entry: how far the least value with it lies above f(λ)."""
        down = [np.zeros_like(least) for least in best]
        for node in reversed(self.order):
            for tie in self.ties.get(node, ()):
                price, message = sent[tie.child]
                with np.errstate(invalid="ignore"):
                    without = np.where(np.isinf(message), np.inf, down[node] + up[node] - message)
                down[tie.child] = (without[None, :] + price).min(axis=1)
        found: list[Vector] = []
        for layer, of in enumerate(self.class_of):
            through = up[layer] + down[layer]
            through = through - through.min() if np.isfinite(through).any() else through
            found.append(through[of] + own[layer] - best[layer][of])
        return found

    def bound(self) -> Bound:
        """The best λ found, its bound, and what every entry would cost at least."""
        best = _kelley(self)
        point = self.evaluate(best.multipliers, marginals=True)
        with_entry = [point.value + extra for extra in point.extra]
        names = [limit.name for limit in self.limits]
        prices = dict(zip(names, (float(m) for m in point.multipliers), strict=True))
        return Bound(point.value, with_entry, prices, point.plan)


@dataclass(slots=True)
class _Point:
    multipliers: Vector
    value: float
    slope: Vector
    plan: tuple[int, ...]
    extra: list[Vector]


def _kelley(relaxation: Relaxation) -> _Point:
    """Maximise f, again in smaller units while it lies decades below the spread of the objective."""
    dimensions = len(relaxation.limits)
    best = relaxation.evaluate(np.zeros(dimensions))
    reach = sum(float(costs.max() - costs.min()) for costs in relaxation.costs[relaxation.quantity])
    if dimensions == 0 or reach == 0 or not np.isfinite(best.value):
        return best
    best = _cutting_planes(relaxation, best, reach)
    while 0 < best.value < 1e-3 * reach:
        reach = max(best.value, 1e-3 * reach)
        best = _cutting_planes(relaxation, best, reach)
    return best


def _cutting_planes(relaxation: Relaxation, best: _Point, unit: float) -> _Point:
    """Kelley's method for the concave, piecewise linear f."""
    dimensions = len(relaxation.limits)
    rooms = np.array([max(room, 1.0) for room in relaxation.rooms])
    base = best.value
    master = pywraplp.Solver.CreateSolver("GLOP")
    prices = [master.NumVar(0.0, 1e7, "") for _ in range(dimensions)]
    top = master.NumVar(-master.infinity(), master.infinity(), "")
    master.Maximize(top)
    point = best
    for _ in range(_ITERATIONS):
        cut = master.Constraint(
            -master.infinity(),
            (point.value - base - float(point.slope @ point.multipliers)) / unit,
        )
        cut.SetCoefficient(top, 1.0)
        for price, slope, room in zip(prices, point.slope, rooms, strict=True):
            cut.SetCoefficient(price, -float(slope / room))
        if master.Solve() != pywraplp.Solver.OPTIMAL:
            break
        promise = top.solution_value() * unit + base
        if promise - best.value <= 1e-7 * max(abs(best.value), 1e-3 * unit):
            break
        asked = np.array([price.solution_value() for price in prices]) * unit / rooms
        point = relaxation.evaluate(asked + _PULL * (best.multipliers - asked))
        if point.value > best.value:
            best = point
    return best


def _plain(space: Space, quantity: str) -> str:
    """The plain sum under a quantity: a memory that holds weights is at least its weights."""
    if not quantity.startswith("memory:"):
        return quantity
    memory = next(m for m in space.tables.memories if m.name == quantity.removeprefix("memory:"))
    return "weight_memory" if "weights" in memory.holds else "activation_memory"
