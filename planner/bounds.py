"""Lagrangian bounds: which options no plan better than the best known can use.

Limits move into the objective with multipliers λ ≥ 0; for every λ

    f(λ) = min over plans of  objective + Σ_q λ_q · (used_q − limit_q)

is a lower bound of the optimum. The minimum falls apart into layers, tied only by agreements and boundaries;
along a forest of these ties it is found exactly by dynamic programming over the layers' classes, forwards for
f and backwards for the least value with a given option, f_option(λ) ≥ f(λ). An option with f_option(λ) above
the cost of a known plan is in no better plan. What is left out of the relaxation (ties that would close a
cycle, live activations, the balance between networks) only lowers the bound. Floats suffice: a margin far
above their rounding is subtracted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from planner.entries import BOPS, ENERGY, ERROR, LATENCY, WEIGHTS, Entry
from planner.limits import Limit
from planner.space import Space
from planner.ties import Vector, classes_of, forest_of

Indices = npt.NDArray[np.intp]
SUMS = {"error": ERROR, "latency": LATENCY, "energy": ENERGY, "bops": BOPS, "weight_memory": WEIGHTS}
_ROUNDING = 1e-11


@dataclass(frozen=True, slots=True)
class Bound:
    """The best bound found and, for every entry of every layer, the least value of a plan that uses it.

    ``plans`` (in the flat order) met the limits in the relaxation, the one with the least objective first.
    """

    value: float
    with_entry: list[list[float]]
    multipliers: dict[str, float]
    plans: tuple[Indices, ...]


@dataclass(slots=True)
class Point:
    """f at one λ: its value, slope and minimiser (positions in the flat order)."""

    multipliers: Vector
    value: float
    slope: Vector
    chosen: Indices


class Relaxation:
    """The Lagrangian relaxation of one space, for one objective and the limits that are plain sums.

    Entries lie in one flat array, layer by layer and class by class.
    """

    def __init__(self, space: Space, quantity: str, limits: Sequence[Limit]) -> None:
        self.space = space
        self.quantity = quantity
        self.limits = [limit for limit in limits if plain_sum(space, limit.quantity) in SUMS]
        self.names = [plain_sum(space, limit.quantity) for limit in self.limits]
        classes = classes_of(space)
        self.entry = np.array(list(chain.from_iterable(chain.from_iterable(classes))), dtype=np.intp)
        self.first_class = np.cumsum([0, *map(len, classes)])
        sizes = [len(members) for row in classes for members in row]
        self.first_entry = np.cumsum([0, *sizes])
        self.class_of = np.repeat(np.arange(len(sizes)), sizes)
        self.layer_of_class = np.repeat(np.arange(len(classes)), [len(row) for row in classes])
        self.costs = {name: self._flat(classes, name) for name in {quantity, *self.names}}
        self.forest = forest_of(space, classes, [quantity, *self.names])
        self.tied = sorted({tie.child for tie in self.forest.ties} | {t.parent for t in self.forest.ties})
        self.rooms = np.array(
            [
                float(limit.value - space.rows(name)[0].constant)
                for limit, name in zip(self.limits, self.names, strict=True)
            ]
        )
        self.constant = float(space.rows(quantity)[0].constant)

    def _flat(self, classes: Sequence[Sequence[Sequence[int]]], name: str) -> Vector:
        networks = self.space.networks
        kind = SUMS[name]

        def cost(entry: Entry) -> float:
            if kind == LATENCY and entry.later:
                return entry.costs[LATENCY] + sum(entry.later) / networks
            return float(entry.costs[kind])

        pairs = zip(self.space.entries, classes, strict=True)
        return np.array([cost(row[entry]) for row, own in pairs for members in own for entry in members])

    def _weights(self, multipliers: Vector) -> dict[str, float]:
        weights = {self.quantity: 1.0}
        for name, weight in zip(self.names, multipliers, strict=True):
            weights[name] = weights.get(name, 0.0) + float(weight)
        return weights

    def evaluate(self, multipliers: Vector) -> tuple[Point, "_Messages"]:
        """f(λ), its minimiser and slope, and the messages that led there."""
        weights = self._weights(multipliers)
        cost = np.zeros(len(self.entry))
        for name, weight in weights.items():
            if weight:
                cost = cost + weight * self.costs[name]
        least = np.minimum.reduceat(cost, self.first_entry[:-1])
        messages = _Messages(self, cost, least, weights)
        total = self.constant + messages.total - float(multipliers @ self.rooms)
        size = abs(total) + float(np.abs(multipliers * self.rooms).sum())
        cheapest = _first_least(cost, least, self.class_of, self.first_entry)
        chosen = cheapest[messages.best_classes()]
        point = Point(multipliers, total - _ROUNDING * size, self.slope(chosen), chosen)
        return point, messages

    def slope(self, chosen: Indices) -> Vector:
        """By how much a plan exceeds each limit."""
        slope = np.array([self.costs[name][chosen].sum() for name in self.names]) - self.rooms
        classes = self.class_of[chosen] - self.first_class[:-1]
        for index, name in enumerate(self.names):
            for tie in self.forest.ties:
                if name in tie.prices:
                    slope[index] += tie.prices[name][classes[tie.child], classes[tie.parent]]
        return slope

    def objective(self, chosen: Indices) -> float:
        """The objective of a plan without its constant; infinite where it breaks a tie of the forest."""
        classes = self.class_of[chosen] - self.first_class[:-1]
        total = float(self.costs[self.quantity][chosen].sum())
        for tie in self.forest.ties:
            where = (classes[tie.child], classes[tie.parent])
            total += float(tie.barrier[where])
            if self.quantity in tie.prices:
                total += float(tie.prices[self.quantity][where])
        return total

    def entries_of(self, chosen: Indices) -> tuple[int, ...]:
        """A plan in the flat order as entries of the space."""
        return tuple(int(entry) for entry in self.entry[chosen])

    def by_layer(self, flat: Vector) -> list[list[float]]:
        """Values in the flat order as lists in the order of the space's entries."""
        found: list[list[float]] = []
        for layer in range(len(self.first_class) - 1):
            low = self.first_entry[self.first_class[layer]]
            high = self.first_entry[self.first_class[layer + 1]]
            own = np.empty(high - low)
            own[self.entry[low:high]] = flat[low:high]
            found.append(own.tolist())
        return found


class _Messages:
    """Dynamic programming over the forest at one λ: least value of every class with all below it."""

    def __init__(
        self, relaxation: Relaxation, cost: Vector, least: Vector, weights: dict[str, float]
    ) -> None:
        self.relaxation = relaxation
        self.cost = cost
        self.least = least
        first = relaxation.first_class
        self.up = {layer: least[first[layer] : first[layer + 1]] for layer in relaxation.tied}
        self.price: dict[int, Vector] = {}
        self.sent: dict[int, Vector] = {}
        for tie in relaxation.forest.ties:
            price = tie.barrier
            for name, table in tie.prices.items():
                if weights.get(name):
                    price = price + weights[name] * table
            message = (self.up[tie.child][:, None] + price).min(axis=0)
            self.price[tie.child], self.sent[tie.child] = price, message
            self.up[tie.parent] = self.up[tie.parent] + message
        free = np.minimum.reduceat(least, first[:-1])
        self.total = float(free.sum() - free[relaxation.tied].sum())
        self.total += sum(float(self.up[root].min()) for root in relaxation.forest.roots if root in self.up)

    def best_classes(self) -> Indices:
        """The class of every layer in the minimiser."""
        relaxation = self.relaxation
        first = relaxation.first_class
        lowest = np.minimum.reduceat(self.least, first[:-1])
        chosen = _first_least(self.least, lowest, relaxation.layer_of_class, first)
        for root in relaxation.forest.roots:
            if root in self.up:
                chosen[root] = int(first[root] + self.up[root].argmin())
        for tie in reversed(relaxation.forest.ties):
            above = chosen[tie.parent] - first[tie.parent]
            choice = (self.up[tie.child] + self.price[tie.child][:, above]).argmin()
            chosen[tie.child] = int(first[tie.child] + choice)
        return chosen

    def extra(self) -> Vector:
        """For every entry: how far the least value with it lies above f(λ)."""
        relaxation = self.relaxation
        first = relaxation.first_class
        through = self.least.copy()
        down = {layer: np.zeros_like(up) for layer, up in self.up.items()}
        for tie in reversed(relaxation.forest.ties):
            message = self.sent[tie.child]
            with np.errstate(invalid="ignore"):
                rest = np.where(np.isinf(message), np.inf, down[tie.parent] + self.up[tie.parent] - message)
            down[tie.child] = (rest[None, :] + self.price[tie.child]).min(axis=1)
        for layer, up in self.up.items():
            through[first[layer] : first[layer + 1]] = up + down[layer]
        lowest = np.minimum.reduceat(through, first[:-1])[relaxation.layer_of_class]
        with np.errstate(invalid="ignore"):
            above = np.where(np.isinf(through), np.inf, through - lowest)
        extra = above[relaxation.class_of] + self.cost - self.least[relaxation.class_of]
        return extra * (1 - _ROUNDING)  # f itself may be 0 and then has no margin


def _first_least(values: Vector, least: Vector, group: Indices, starts: Indices) -> Indices:
    """For every group of consecutive places the first that holds its least value."""
    places = np.flatnonzero(values == least[group])
    return places[np.searchsorted(places, starts[:-1])]


def plain_sum(space: Space, quantity: str) -> str:
    """The plain sum under a quantity: a memory that holds weights is at least its weights."""
    if not quantity.startswith("memory:"):
        return quantity
    memory = next(m for m in space.tables.memories if m.name == quantity.removeprefix("memory:"))
    return "weight_memory" if "weights" in memory.holds else "activation_memory"
