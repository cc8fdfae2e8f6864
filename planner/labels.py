"""A good plan by dynamic programming over the forest of ties, guided by the Lagrangian bound.

A label is a choice for a subtree: its objective and its use of every limited quantity. Subtrees are joined child
into parent, class by class. Labels that the bound rules out (further above the best of their class than a better
plan could be) are dropped; of the others a limited number is kept, the best in each interval of the scarcest
quantity. Labels carry exact costs, so a plan found is a plan; what was thinned out is only not found.
This is label setting for the resource-constrained shortest path (Desrosiers et al. 1995), on a tree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner.bounds import Bound, Indices, Relaxation
from planner.ties import Tie, Vector

_LABELS = 600
Matrix = npt.NDArray[np.float64]


@dataclass(slots=True)
class _List:
    """Labels of one class of one subtree: a row of costs each, and how each was made.

    ``own`` holds flat entries of a leaf, else -1; otherwise label ``index[i]`` of each of ``parts``.
    """

    costs: Matrix
    own: Indices | None = None
    parts: tuple["_List", ...] = ()
    index: tuple[Indices, ...] = ()

    def taken(self, rows: Indices) -> "_List":
        """Only some labels."""
        own = None if self.own is None else self.own[rows]
        return _List(self.costs[rows], own, self.parts, tuple(index[rows] for index in self.index))


class _Labels:
    """Joins and thins lists of labels at fixed multipliers."""

    def __init__(self, relaxation: Relaxation, multipliers: Vector, slack: float) -> None:
        self.relaxation = relaxation
        self.names = [relaxation.quantity, *relaxation.names]
        self.weights = np.concatenate([[1.0], multipliers])
        self.slack = slack
        rooms = np.maximum(np.abs(relaxation.rooms), 1.0)
        self.scarce = 1 + int(np.argmax(multipliers * rooms)) if len(rooms) else 0

    def leaf(self, entries: Indices) -> _List:
        """One label for each entry of a class."""
        costs = np.stack([self.relaxation.costs[name][entries] for name in self.names], axis=1)
        return self.thinned(_List(costs, entries))

    def joined(self, one: _List, other: _List) -> _List:
        """Every label of one beside every label of the other."""
        costs = (one.costs[:, None, :] + other.costs[None, :, :]).reshape(-1, len(self.names))
        rows = np.arange(len(costs))
        index = (rows // len(other.costs), rows % len(other.costs))
        return self.thinned(_List(costs, None, (one, other), index))

    def either(self, lists: Sequence[_List], prices: Matrix) -> _List | None:
        """The labels of several classes, each class at its own price (a row of costs)."""
        open_ = [
            (found, price) for found, price in zip(lists, prices, strict=True) if np.isfinite(price).all()
        ]
        open_ = [(found, price) for found, price in open_ if len(found.costs)]
        if not open_:
            return None
        costs = np.concatenate([found.costs + price for found, price in open_])
        parts = tuple(found for found, _ in open_)
        index: list[Indices] = []
        start = 0
        for found in parts:
            own = np.full(len(costs), -1, dtype=np.intp)
            own[start : start + len(found.costs)] = np.arange(len(found.costs))
            index.append(own)
            start += len(found.costs)
        return self.thinned(_List(costs, None, parts, tuple(index)))

    def thinned(self, found: _List) -> _List:
        """At most ``_LABELS`` labels that the bound allows, best first in every interval."""
        reduced = found.costs @ self.weights
        kept = np.flatnonzero(reduced <= reduced.min(initial=np.inf) + self.slack)
        if len(kept) > _LABELS:
            use = found.costs[kept, self.scarce]
            low, high = float(use.min()), float(use.max())
            interval = np.floor((use - low) * (_LABELS / max(high - low, 1e-300)))
            order = np.lexsort((reduced[kept], interval))
            first = np.ones(len(order), dtype=bool)
            first[1:] = np.diff(interval[order]) > 0
            kept = kept[order[first]]
        return found.taken(kept)


def guided(relaxation: Relaxation, bound: Bound, slack: float) -> Indices | None:
    """A plan (positions in the flat order) within ``slack`` of the bound that meets the relaxed limits."""
    multipliers = np.array([bound.multipliers[limit.name] for limit in relaxation.limits])
    labels = _Labels(relaxation, multipliers, slack)
    lists = _leaves(relaxation, labels, bound, slack)
    for tie in relaxation.forest.ties:  # children come before their parents
        _climb(relaxation, labels, lists, tie)
    total: _List | None = None
    free = np.zeros((1, len(labels.names)))
    for root in relaxation.forest.roots:
        own = labels.either(lists[root], np.repeat(free, len(lists[root]), axis=0))
        if own is None:
            return None
        total = own if total is None else labels.joined(total, own)
    if total is None:
        return None
    inside = np.flatnonzero((total.costs[:, 1:] <= relaxation.rooms).all(axis=1))
    if not len(inside):
        return None
    return _entries(
        total, int(inside[total.costs[inside, 0].argmin()]), len(relaxation.first_class) - 1, relaxation
    )


def _leaves(relaxation: Relaxation, labels: _Labels, bound: Bound, slack: float) -> list[list[_List]]:
    """For every layer and class the entries that a plan within the slack may use."""
    found: list[list[_List]] = []
    for layer in range(len(relaxation.first_class) - 1):
        lows = np.array(bound.with_entry[layer])
        row: list[_List] = []
        for kind in range(relaxation.first_class[layer], relaxation.first_class[layer + 1]):
            flat = np.arange(relaxation.first_entry[kind], relaxation.first_entry[kind + 1])
            row.append(labels.leaf(flat[lows[relaxation.entry[flat]] <= bound.value + slack]))
        found.append(row)
    return found


def _climb(relaxation: Relaxation, labels: _Labels, lists: list[list[_List]], tie: Tie) -> None:
    """Join the child's labels into the parent's, class by class of the parent."""
    none = np.zeros_like(tie.barrier)
    prices = np.stack([tie.prices.get(name, none) for name in labels.names], axis=2)
    prices[:, :, 0] += tie.barrier
    for kind, own in enumerate(lists[tie.parent]):
        below = labels.either(lists[tie.child], prices[:, kind]) if len(own.costs) else None
        empty = own.taken(np.zeros(0, dtype=np.intp))
        lists[tie.parent][kind] = empty if below is None else labels.joined(own, below)


def _entries(total: _List, row: int, layers: int, relaxation: Relaxation) -> Indices:
    """The entry of every layer behind one label."""
    chosen = np.empty(layers, dtype=np.intp)
    stack = [(total, row)]
    while stack:
        found, label = stack.pop()
        if found.own is not None:
            entry = int(found.own[label])
            chosen[relaxation.layer_of_class[relaxation.class_of[entry]]] = entry
        for part, index in zip(found.parts, found.index, strict=True):
            if index[label] >= 0:
                stack.append((part, int(index[label])))
    return chosen
