"""Local search from a feasible plan: change one or two layers at a time while that lowers the objective.

Moves are ranked by what they change in the Lagrangian, where good moves are nearly free; all pairs of the most
promising ones are tried at once, except pairs of tied layers, as the prices of ties are those of the present
neighbours. The result only serves as a known plan; nothing is proven here.
"""

import numpy as np
import numpy.typing as npt

from planner.bounds import Indices, Relaxation
from planner.ties import Vector

Mask = npt.NDArray[np.bool_]
_MOVES = 300
_ROUNDS = 200


def improved(relaxation: Relaxation, chosen: Indices, multipliers: Vector) -> Indices:
    """A plan at least as good as ``chosen`` that also meets the relaxed limits."""
    names = relaxation.names
    layer_of = relaxation.layer_of_class[relaxation.class_of]
    apart = ~np.eye(len(chosen), dtype=bool)
    for tie in relaxation.forest.ties:
        apart[tie.child, tie.parent] = apart[tie.parent, tie.child] = False
    slope = relaxation.slope(chosen)
    value = relaxation.objective(chosen)
    for _ in range(_ROUNDS):
        now = chosen[layer_of]
        prices, barrier = _prices(relaxation, chosen)
        changes = {n: _change(relaxation, prices, n, now) for n in {relaxation.quantity, *names}}
        cost = changes[relaxation.quantity] + barrier[relaxation.class_of]
        reduced = cost + sum((m * changes[n] for m, n in zip(multipliers, names, strict=True)), np.zeros(1))
        reduced[chosen] = np.inf
        count = min(_MOVES, len(reduced))
        moves = np.argpartition(reduced, count - 1)[:count]
        moves = moves[np.isfinite(reduced[moves])]
        pair = _best_pair(
            moves,
            apart[np.ix_(layer_of[moves], layer_of[moves])],
            cost,
            [changes[name] for name in names],
            -slope,
        )
        if pair is None:
            break
        other = chosen.copy()
        for move in pair:
            other[layer_of[move]] = move
        new_slope, new_value = relaxation.slope(other), relaxation.objective(other)
        if (new_slope > 0).any() or not new_value < value:
            break
        chosen, slope, value = other, new_slope, new_value
    return chosen


def mixed(relaxation: Relaxation, inside: Indices, outside: Indices) -> list[Indices]:
    """Plans that take as many layers as fit from a plan just outside the limits, from the front or the back."""
    found: list[Indices] = []
    front = np.arange(len(inside))
    for back in (False, True):
        low, high = 0, len(inside)
        while high - low > 1:  # use grows roughly with the share taken: halve to where it stops fitting
            middle = (low + high) // 2
            taken = front >= len(inside) - middle if back else front < middle
            if (relaxation.slope(np.where(taken, outside, inside)) <= 0).all():
                low = middle
            else:
                high = middle
        taken = front >= len(inside) - low if back else front < low
        found.append(np.where(taken, outside, inside))
    return [plan for plan in found if np.isfinite(relaxation.objective(plan))]


def _prices(relaxation: Relaxation, chosen: Indices) -> tuple[dict[str, Vector], Vector]:
    """For every class: what its ties to the present neighbours cost, and whether they allow it."""
    first = relaxation.first_class
    classes = relaxation.class_of[chosen] - first[:-1]
    names = {name for tie in relaxation.forest.ties for name in tie.prices}
    prices = {name: np.zeros(int(first[-1])) for name in names}
    barrier = np.zeros(int(first[-1]))
    for tie in relaxation.forest.ties:
        child, parent = tie.child, tie.parent
        own = slice(first[child], first[child + 1])
        above = slice(first[parent], first[parent + 1])
        barrier[own] += tie.barrier[:, classes[parent]]
        barrier[above] += tie.barrier[classes[child], :]
        for name, table in tie.prices.items():
            prices[name][own] += table[:, classes[parent]]
            prices[name][above] += table[classes[child], :]
    return prices, barrier


def _change(relaxation: Relaxation, prices: dict[str, Vector], name: str, now: Indices) -> Vector:
    total = relaxation.costs[name]
    if name in prices:
        total = total + prices[name][relaxation.class_of]
    return total - total[now]


def _best_pair(
    moves: Indices, apart: Mask, cost: Vector, uses: list[Vector], room: Vector
) -> list[int] | None:
    """The pair of moves (or a single one) that lowers the cost most inside the room."""
    if not len(moves):
        return None
    gain = np.append(cost[moves], 0.0)  # the last one is no move at all
    both = gain[:, None] + gain[None, :]
    possible = np.ones(both.shape, dtype=bool)
    possible[:-1, :-1] = apart
    for use, left in zip(uses, room, strict=True):
        own = np.append(use[moves], 0.0)
        possible &= own[:, None] + own[None, :] <= left
    both = np.where(possible, both, 0.0)
    best = int(both.argmin())
    if not both.flat[best] < 0:
        return None
    pair = divmod(best, len(gain))
    return [int(moves[index]) for index in pair if index < len(moves)]
