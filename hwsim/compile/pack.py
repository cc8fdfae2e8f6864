"""Weight codes into the panels the product kernel reads (numpy; once, at compile time).

Packed layout of one panel: ``[tap][block][vector][lane][depth]`` bytes, where a block is as many steps of K as
one byte holds codes (1 for 8 bits, 2 for 4 bits, 4 for 2 bits); step j of a block lies in bits
``[j * bits, (j + 1) * bits)`` of each byte, so shifting left by ``8 - bits * (j + 1)`` brings it to the top.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsim.compile.isa import Isa
from hwsim.compile.pack_windows import windows_for
from hwsim.compile.panels import Section, sections_for
from hwsim.compile.serial import pack_planes

Codes = NDArray[np.int8]
Weights = NDArray[np.int8] | NDArray[np.int32]
"""Panels of bytes, or of words of bits (`serial`)."""


@dataclass(frozen=True)
class Term:
    """Codes of one part, their output channels and scales; ``cols`` where it reads few input columns."""

    codes: Codes
    rows: NDArray[np.int64]
    scale: NDArray[np.float32]
    cols: NDArray[np.int64] | None = None

    @property
    def matrix(self) -> Codes:
        """The codes with one row for each output channel."""
        return self.codes.reshape(len(self.codes), -1)


@dataclass(frozen=True)
class Packed:
    """Panels with what goes along: initial accumulators, scales and output columns, in packed order.

    ``table`` holds the first output column of every slot, or, where ``permuted``, the column of every lane.
    ``lanes`` and ``later_scale`` belong to terms with rows of their own vectors (`pack_windows`).
    """

    sections: tuple[Section, ...]
    weights: Weights
    column_sums: NDArray[np.int64]
    scales: NDArray[np.float32]
    table: NDArray[np.int32]
    packed_bits: int
    permuted: bool = False
    lanes: NDArray[np.int32] | None = None
    later_scale: NDArray[np.float32] | None = None

    def initial(self, zero_point: int, isa: Isa) -> NDArray[np.int32]:
        """Accumulators before the first product: the zero point and the sign flip, taken out in advance."""
        factor = 1 if isa.dot == "popcount" else 1 << (8 - self.packed_bits)
        correction = (isa.activation_offset - zero_point) * self.column_sums * factor
        return (correction & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def storage_bits(codes: Codes) -> int:
    """Narrowest storage that holds all codes: 2, 4 or 8 bits."""
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    for bits in (2, 4):
        if -(1 << (bits - 1)) <= low and high < (1 << (bits - 1)):
            return bits
    return 8


def term_slots(terms: list[NDArray[np.int64]], channels: int, lanes: int) -> list[list[int]]:
    """For each output slot of ``lanes`` channels the terms that touch it; the first term touches all."""
    slots = [[0] for _ in range(-(-channels // lanes))]
    for order, rows in enumerate(terms[1:], 1):
        for slot in sorted({int(row) // lanes for row in rows}):
            slots[slot].append(order)
    return slots


def gathering_order(terms: list[NDArray[np.int64]], channels: int, lanes: int) -> NDArray[np.int64] | None:
    """An order of the channels that brings those with the same terms together; None if it saves nothing.

    Terms that keep single rows here and there would touch nearly every slot of neighbouring channels. Sorted by
    their terms, the channels fill whole slots, at the price of scattered stores.
    """
    touched = sum(len(orders) for orders in term_slots(terms, channels, lanes))
    if touched <= 1.1 * sum(-(-len(rows) // lanes) for rows in terms):
        return None
    mask = np.zeros(channels, np.int64)
    for order, rows in enumerate(terms[1:], 1):
        mask[rows] |= 1 << order
    count = np.array([bin(m).count("1") for m in mask])
    return np.lexsort((np.arange(channels), mask, count)).astype(np.int64)


def arrange(
    slots: list[list[int]], channels: int, lanes: int, vectors: int
) -> list[tuple[Section, list[int]]]:
    """Group slots into panels of at most ``vectors`` vectors; returns each section with its slots in order."""
    ragged = channels % lanes
    last = len(slots) - 1 if ragged else -1
    by_terms: dict[int, list[int]] = {}
    for index, orders in enumerate(slots):
        if index != last:
            by_terms.setdefault(len(orders), []).append(index)
    result: list[tuple[Section, list[int]]] = []
    for terms, members in sorted(by_terms.items()):
        per_panel = max(1, vectors // terms)
        panels = len(members) // per_panel
        if panels:
            result.append((Section((terms,) * per_panel, panels), members[: panels * per_panel]))
        rest = members[panels * per_panel :]
        if rest:
            result.append((Section((terms,) * len(rest), 1), rest))
    if last >= 0:
        result.append((Section((len(slots[last]),), 1, ragged), [last]))
    return result


def pack_panels(matrix: Codes, taps: int, isa: Isa, sections: tuple[Section, ...], bits: int) -> Weights:
    """Lay ``matrix`` (packed lanes, taps * run), columns in packed order, out as panels."""
    if isa.dot == "popcount":
        return pack_planes(matrix, taps, isa, sections, bits)
    lanes, depth, steps = isa.lanes, isa.depth, 8 // bits
    run = matrix.shape[1] // taps
    blocks = -(-run // (depth * steps))
    padded = np.zeros((matrix.shape[0], taps, blocks * steps * depth), np.int8)
    padded[:, :, :run] = matrix.reshape(-1, taps, run)
    split = padded.reshape(-1, lanes, taps, blocks, steps, depth)
    joined = np.zeros((split.shape[0], lanes, taps, blocks, depth), np.uint8)
    for step in range(steps):
        field = split[:, :, :, :, step].view(np.uint8) & ((1 << bits) - 1)
        joined |= (field << (bits * step)).astype(np.uint8)
    pieces: list[NDArray[np.uint8]] = []
    first = 0
    for section in sections:
        count = section.panels * section.vectors
        part = joined[first : first + count].reshape(
            section.panels, section.vectors, lanes, taps, blocks, depth
        )
        pieces.append(part.transpose(0, 3, 4, 1, 2, 5).reshape(-1))
        first += count
    return np.concatenate(pieces).view(np.int8)


def pack_terms(
    terms: Sequence[Term], channels: int, taps: int, isa: Isa, vectors: int, bits: int | None = None
) -> Packed:
    """Stack the terms of one product.

    ``bits`` forces a storage width (2, 4 or 8; the planes where bit-serial); by default the narrowest that holds all
    codes.
    """
    lanes, rows = isa.lanes, [term.rows for term in terms]
    order_of = gathering_order(rows, channels, lanes)
    if order_of is not None and isa.permutes:
        return _pack_windows(terms, channels, taps, isa, bits)
    place_of = np.arange(channels) if order_of is None else np.argsort(order_of)
    rows = [place_of[r] for r in rows]
    slots = term_slots(rows, channels, lanes)
    if all(len(orders) == 1 for orders in slots):
        sections = sections_for(channels, lanes, vectors)
        order = [(slot, 0) for slot in range(len(slots))]
        table = np.arange(len(slots), dtype=np.int32) * lanes
    else:
        arranged = arrange(slots, channels, lanes, vectors)
        sections = tuple(section for section, _ in arranged)
        members = [slot for _, slots_ in arranged for slot in slots_]
        order = [(slot, term) for slot in members for term in slots[slot]]
        table = np.array(members, dtype=np.int32) * lanes
    if order_of is not None:
        padded = np.zeros(len(slots) * lanes, np.int32)
        padded[:channels] = order_of
        table = padded.reshape(-1, lanes)[table // lanes].reshape(-1)
    stacked = np.zeros((len(terms), len(slots) * lanes, terms[0].matrix.shape[1]), np.int8)
    scale = np.zeros((len(terms), len(slots) * lanes), np.float32)
    for index, (term, places) in enumerate(zip(terms, rows, strict=True)):
        stacked[index, places], scale[index, places] = term.matrix, term.scale
    picked = np.concatenate([stacked[term, slot * lanes : (slot + 1) * lanes] for slot, term in order])
    picked_scale = np.concatenate([scale[term, slot * lanes : (slot + 1) * lanes] for slot, term in order])
    bits = bits or storage_bits(picked)
    weights = pack_panels(picked, taps, isa, sections, bits)
    sums = picked.sum(1, dtype=np.int64)
    return Packed(sections, weights, sums, picked_scale, table, bits, order_of is not None)


def _pack_windows(terms: Sequence[Term], channels: int, taps: int, isa: Isa, bits: int | None) -> Packed:
    """Terms that keep single rows, packed densely beside the first one."""
    rows = [term.rows for term in terms]
    windows = windows_for(rows, channels, isa.lanes)
    where = [np.full(channels + 1, -1, np.int64) for _ in rows]  # entry -1 is for empty lanes
    for places, mine in zip(where, rows, strict=True):
        places[mine] = np.arange(len(mine))
    picked = np.zeros((len(windows.vectors), isa.lanes, terms[0].matrix.shape[1]), np.int8)
    factors = np.zeros((len(windows.vectors), isa.lanes), np.float32)
    for index, (term, held) in enumerate(windows.vectors):
        inside = np.flatnonzero(held >= 0)
        source = where[term][held[inside]]
        picked[index, inside] = terms[term].matrix[source]
        factors[index, inside] = terms[term].scale[source]
    natural = np.array(windows.slots)[:, None] * isa.lanes + np.arange(isa.lanes)
    later = np.zeros((len(windows.slots), len(rows) - 1, isa.lanes), np.float32)
    for term in range(1, len(rows)):
        known = np.zeros(natural.max() + 1, np.float32)
        known[rows[term]] = terms[term].scale
        later[:, term - 1] = known[natural]
    flat = picked.reshape(-1, picked.shape[2])
    bits = bits or storage_bits(flat)
    return Packed(
        windows.sections, pack_panels(flat, taps, isa, windows.sections, bits), flat.sum(1, dtype=np.int64),
        factors.reshape(-1), np.array(windows.slots, np.int32) * isa.lanes, bits,
        lanes=windows.lanes, later_scale=later.reshape(-1),
    )  # fmt: skip


def pack_float(
    matrix: NDArray[np.float32], taps: int, isa: Isa, sections: tuple[Section, ...]
) -> NDArray[np.float32]:
    """Float weights (channels, taps * run) in the same panel order, one K step a vector."""
    lanes = isa.lanes
    slots = sum(section.panels * section.vectors for section in sections)
    padded = np.zeros((slots * lanes, matrix.shape[1]), np.float32)
    padded[: matrix.shape[0]] = matrix
    split = padded.reshape(slots, lanes, taps, -1)
    pieces: list[NDArray[np.float32]] = []
    first = 0
    for section in sections:
        count = section.panels * section.vectors
        part = split[first : first + count].reshape(section.panels, section.vectors, lanes, taps, -1)
        pieces.append(part.transpose(0, 3, 4, 1, 2).reshape(-1))
        first += count
    return np.concatenate(pieces)
