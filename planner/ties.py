"""What ties layers together, as a forest over their classes, for exact dynamic programming.

A class is a set of a layer's entries with the same shared properties and the same boundary prices. Agreements
and boundaries are edges between layers; a spanning forest of them is kept (agreements first). Leaving an edge
out only removes costs or restrictions, so bounds over the forest stay valid.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from planner.prune import class_keys
from planner.space import Space, agreement_key, boundary_price
from planner.tables import Boundary

Vector = npt.NDArray[np.float64]
_Edge = tuple[int, int, Vector, dict[str, Vector]]


@dataclass(slots=True)
class Tie:
    """An edge of the forest: rows are classes of the child, columns of the parent."""

    child: int
    parent: int
    barrier: Vector
    prices: dict[str, Vector]


@dataclass(slots=True)
class Forest:
    """Ties with children before parents, and the layers above which there is no tie."""

    ties: list[Tie]
    roots: list[int]


def classes_of(space: Space) -> list[list[list[int]]]:
    """For each layer its classes, each a list of entries."""
    keys = class_keys(space.exact)
    found: list[list[list[int]]] = []
    for layer, row in enumerate(space.entries):
        classes: dict[Hashable, list[int]] = {}
        for entry in range(len(row)):
            classes.setdefault(keys[layer](space.option(layer, entry)), []).append(entry)
        found.append(list(classes.values()))
    return found


def forest_of(space: Space, classes: Sequence[Sequence[Sequence[int]]], names: Sequence[str]) -> Forest:
    """The forest of ties, with prices for the quantities in ``names``."""
    samples = [[members[0] for members in row] for row in classes]
    edges: list[_Edge] = []
    for group in space.tables.agreements:
        key = agreement_key(group.on)
        members = [space.position[name] for name in group.layers]
        for one, other in pairwise(members):
            kinds = [[key(space.option(layer, e)) for e in samples[layer]] for layer in (one, other)]
            same = [[a == b for b in kinds[1]] for a in kinds[0]]
            edges.append((one, other, np.where(np.array(same), 0.0, np.inf), {}))
    for boundary in space.tables.boundaries:
        one, other = space.position[boundary.source], space.position[boundary.target]
        prices = {
            name: _prices(space, boundary, samples[one], samples[other], name)
            for name in names
            if name in ("latency", "energy")
        }
        if any(price.any() for price in prices.values()):
            edges.append((one, other, np.zeros((len(samples[one]), len(samples[other]))), prices))
    return _rooted(len(space.entries), _spanning(len(space.entries), edges))


def _prices(
    space: Space, boundary: Boundary, ones: Sequence[int], others: Sequence[int], name: str
) -> Vector:
    """What the boundary costs for each pair of entries of its two layers."""
    sources = [space.option(space.position[boundary.source], entry) for entry in ones]
    targets = [space.option(space.position[boundary.target], entry) for entry in others]
    kind = ("latency", "energy").index(name)
    prices = [
        [boundary_price(space.exact, boundary, a, b, space.mode)[kind] for b in targets] for a in sources
    ]
    return np.array(prices, float)


def _spanning(count: int, edges: Sequence[_Edge]) -> dict[int, list[_Edge]]:
    leader = list(range(count))

    def find(node: int) -> int:
        while leader[node] != node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    near: dict[int, list[_Edge]] = {}
    for one, other, barrier, prices in edges:
        if find(one) != find(other):
            leader[find(one)] = find(other)
            flipped = {name: price.T for name, price in prices.items()}
            near.setdefault(one, []).append((one, other, barrier, prices))
            near.setdefault(other, []).append((other, one, barrier.T, flipped))
    return near


def _rooted(count: int, near: dict[int, list[_Edge]]) -> Forest:
    ties: list[Tie] = []
    roots: list[int] = []
    seen: set[int] = set()
    for root in range(count):
        if root in seen:
            continue
        seen.add(root)
        roots.append(root)
        stack = [root]
        while stack:
            node = stack.pop()
            for _, other, barrier, prices in near.get(node, []):
                if other not in seen:
                    seen.add(other)
                    flipped = {name: price.T for name, price in prices.items()}
                    ties.append(Tie(other, node, barrier.T, flipped))
                    stack.append(other)
    return Forest(ties[::-1], roots)
