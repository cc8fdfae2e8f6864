"""Packing of terms that keep single rows, for machines that can permute lanes (`isa.Isa.permutes`).

The first term stands in natural order. The rows of each later term stand densely in vectors of their own, a few
slots of 16 outputs sharing them, so that a term with half of the rows costs half of the arithmetic, and the
outputs still leave in whole vectors. Which slots share is free: they are chosen so that the shared vectors are
full (a small bin packing over the counts of rows).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsim.compile.panels import Section

Rows = NDArray[np.int64]
_SHARING = 4


@dataclass(frozen=True)
class Windows:
    """Slots in packed order, and for every vector of the panels the term and rows it holds.

    Attributes:
        sections: Panels.
        slots: Slot numbers in packed order.
        vectors: (term, output channel of each lane, -1 where the lane is empty) in packed order.
        lanes: For each slot and later term the lanes to take of its two vectors, -1 where it has no such row.
    """

    sections: tuple[Section, ...]
    slots: list[int]
    vectors: list[tuple[int, NDArray[np.int64]]]
    lanes: NDArray[np.int32]


def windows_for(terms: list[Rows], channels: int, lanes: int) -> Windows:
    """Arrange the outputs; ``terms[0]`` covers all channels."""
    count = -(-channels // lanes)
    members: list[list[Rows]] = [[] for _ in range(count)]
    for rows in terms[1:]:
        slot_of = rows // lanes
        for slot in range(count):
            members[slot].append(rows[slot_of == slot])
    ragged = channels % lanes
    groups = _share([len(m[0]) for m in members[: count - (ragged > 0)]], lanes)
    keyed: dict[tuple[int, tuple[int, ...]], list[list[int]]] = {}
    for group in groups:
        packed = tuple(-(-sum(len(members[s][t]) for s in group) // lanes) for t in range(len(terms) - 1))
        keyed.setdefault((len(group), packed), []).append(group)
    arranged = [
        (Section((1,) * size, len(same), 0, packed), same) for (size, packed), same in sorted(keyed.items())
    ]
    if ragged:
        packed = tuple(int(len(rows) > 0) for rows in members[-1])
        arranged.append((Section((1,), 1, ragged, packed), [[count - 1]]))
    vectors: list[tuple[int, NDArray[np.int64]]] = []
    table: list[NDArray[np.int32]] = []
    for section, same in arranged:
        for group in same:
            natural = [np.arange(s * lanes, (s + 1) * lanes) for s in group]
            vectors.extend((0, np.where(n < channels, n, -1)) for n in natural)
            places = np.full((len(group), len(section.packed), lanes), -1, np.int32)
            for term, size in enumerate(section.packed):
                held = np.full(size * lanes, -1, np.int64)
                _place([members[s][term] for s in group], held, places[:, term], lanes)
                vectors.extend((term + 1, part) for part in held.reshape(-1, lanes))
            table.append(places.reshape(-1))
    order = [s for _, same in arranged for group in same for s in group]
    return Windows(tuple(section for section, _ in arranged), order, vectors, np.concatenate(table))


def _share(counts: list[int], lanes: int) -> list[list[int]]:
    """Groups of slots whose rows fill whole vectors: the fullest slot, then partners that leave least over."""
    left = sorted(range(len(counts)), key=lambda slot: (-counts[slot], slot))
    groups: list[list[int]] = []
    while left:
        size = min(_SHARING, len(left))
        average = sum(counts[s] for s in left) * size / len(left)
        limit = max(-(-round(average) // lanes), -(-counts[left[0]] // lanes)) * lanes
        group = [left.pop(0)]
        for still in range(size - 1, 0, -1):
            room = limit - sum(counts[s] for s in group)
            lightest = sum(counts[s] for s in left[len(left) - still + 1 :]) if still > 1 else 0
            fitting = [s for s in left if counts[s] + lightest <= room]
            if (
                still > 1 and fitting
            ):  # near the share that is left for each, so that the last one can fill up
                pick = min(fitting, key=lambda s: (abs(counts[s] - room / still), s))
            else:
                pick = fitting[0] if fitting else left[-1]
            left.remove(pick)
            group.append(pick)
        groups.append(group)
    return groups


def _place(rows: list[Rows], held: NDArray[np.int64], places: NDArray[np.int32], lanes: int) -> None:
    """Fill the packed vectors of one term, and say for each slot which lane of its two vectors feeds which output."""
    count = len(held) // lanes
    if not count:
        return
    front, back = 0, len(held) - sum(len(r) for r in rows[2:])
    for slot, mine in enumerate(rows):
        start = front if slot < 2 else back
        held[start : start + len(mine)] = mine
        first = 0 if slot < 2 else max(0, count - 2)
        places[slot, mine % lanes] = np.arange(start, start + len(mine)) - first * lanes
        front, back = (front + len(mine), back) if slot < 2 else (front, back + len(mine))
