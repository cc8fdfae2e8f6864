"""Local search from a feasible plan: change one or two layers at a time while that lowers the objective.

Moves are ranked by what they change in the Lagrangian, where good moves are nearly free; all pairs of the most
promising ones are tried at once. Prices of ties are those of the present neighbours, so a pair of neighbours
is checked again after the move. The result only serves as a known plan; nothing is proven here.
"""

import numpy as np

from planner.bounds import Indices, Relaxation
from planner.ties import Vector

_MOVES = 300
_ROUNDS = 200


def improved(relaxation: Relaxation, chosen: Indices, multipliers: Vector) -> Indices:
    """A plan at least as good as ``chosen`` that also meets the relaxed limits."""
    names = relaxation.names
    layer_of = relaxation.layer_of_class[relaxation.class_of]
    slope = relaxation.slope(chosen)
    value = _value(relaxation, chosen)
    for _ in range(_ROUNDS):
        now = chosen[layer_of]
        prices, barrier = _prices(relaxation, chosen)
        changes = {name: _change(relaxation, prices, name, now) for name in {relaxation.quantity, *names}}
        cost = changes[relaxation.quantity] + barrier[relaxation.class_of]
        reduced = cost + sum((m * changes[n] for m, n in zip(multipliers, names, strict=True)), np.zeros(1))
        reduced[chosen] = np.inf
        count = min(_MOVES, len(reduced))
        moves = np.argpartition(reduced, count - 1)[:count]
        moves = moves[np.isfinite(reduced[moves])]
        pair = _best_pair(moves, layer_of, cost, [changes[name] for name in names], -slope)
        if pair is None:
            break
        other = chosen.copy()
        for move in pair:
            other[layer_of[move]] = move
        new_slope, new_value = relaxation.slope(other), _value(relaxation, other)
        if (new_slope > 0).any() or not new_value < value:
            break
        chosen, slope, value = other, new_slope, new_value
    return chosen


def _value(relaxation: Relaxation, chosen: Indices) -> float:
    classes = relaxation.class_of[chosen] - relaxation.first_class[:-1]
    total = float(relaxation.costs[relaxation.quantity][chosen].sum())
    for tie in relaxation.forest.ties:
        where = (classes[tie.child], classes[tie.parent])
        total += float(tie.barrier[where])
        if relaxation.quantity in tie.prices:
            total += float(tie.prices[relaxation.quantity][where])
    return total


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
    moves: Indices, layer_of: Indices, cost: Vector, uses: list[Vector], room: Vector
) -> list[int] | None:
    """The pair of moves (or a single one) that lowers the cost most inside the room."""
    if not len(moves):
        return None
    gain = np.append(cost[moves], 0.0)  # the last one is no move at all
    both = gain[:, None] + gain[None, :]
    layers = np.append(layer_of[moves], -1)
    possible = layers[:, None] != layers[None, :]
    for use, left in zip(uses, room, strict=True):
        own = np.append(use[moves], 0.0)
        possible &= own[:, None] + own[None, :] <= left
    both = np.where(possible, both, 0.0)
    best = int(both.argmin())
    if not both.flat[best] < 0:
        return None
    pair = divmod(best, len(gain))
    return [int(moves[index]) for index in pair if index < len(moves)]
