"""Writes the TensorIR of a product: loops, register tiles, epilogue (`product` says what it computes)."""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwsim.compile.builder import Code, broadcast, constant, store_lanes, tirx, vector
from hwsim.compile.expr import Evaluator
from hwsim.compile.isa import Isa, dot, load_activations, load_weights, permute, rounded
from hwsim.compile.panels import Section
from hwsim.compile.serial import accumulate

if TYPE_CHECKING:
    from hwsim.compile.product import Product

_LINE_BYTES = 64
_CACHED_BYTES = 400_000  # of activations or outputs: they stay in a level 2 cache beside a panel of weights


class ProductCode:
    """Writes the loops of one `Product`."""

    def __init__(self, code: Code, product: "Product", isa: Isa, prefix: str = "") -> None:
        self.product, self.isa, self.code = product, isa, code
        self.buffers = {n: code.parameter(prefix + n, size, t) for n, size, t in product.arguments(isa)}
        if product.in_place is not None:
            self.buffers[f"operand{product.in_place}"] = self.buffers["out"]
        self._vector = vector("float32" if product.floating else "int32", isa.lanes)

    def write(self) -> None:
        """All loops, spread over the units at one level: batch entries, else rows, else panels."""
        product, units = self.product, self.product.units
        if self.isa.device:
            self._write_grid()
            return
        index: Any = 0
        bases: list[Any] = []
        with ExitStack() as stack:
            for extent, _, _ in product.batch:
                spread = units > 1 and not bases and extent >= units
                bases.append(stack.enter_context(self.code.loop(extent, parallel=spread)))
                index = index * extent + bases[-1]
            place = (index, bases)
            if units == 1 or (product.batch and product.batch[0][0] >= units):
                self._rows(place, 0, product.rows)
                return
            tile = self._granule()
            share = product.rows // units // tile * tile
            if share >= 2 * tile:
                with self.code.loop(units, parallel=True) as unit:
                    self._rows(place, unit * share, share)
            else:
                share = 0
            if product.rows > share * units:
                rest = tirx.const(share * units, "int32")
                self._sections(place, (rest, product.rows - share * units), spread=True)

    def _write_grid(self) -> None:
        """One thread for each register tile; neighbouring threads share rows of activations."""
        product = self.product
        batch = [extent for extent, _, _ in product.batch]
        for section, bases in self._placed():
            tile = self._tile_rows(section.vectors)
            full, rest = divmod(product.rows, tile)
            for first, tiles, rows in ((0, full, tile), (full * tile, int(rest > 0), rest)):
                if not tiles:
                    continue
                with self.code.grid([*batch, tiles, section.panels]) as where:
                    index: Any = 0
                    for extent, coordinate in zip(batch, where, strict=False):
                        index = index * extent + coordinate
                    place = self._place(section, bases, (index, where[: len(batch)]), where[-1])
                    self._tile(place, first + where[-2] * tile, rows)

    def _rows(self, place: tuple[Any, list[Any]], first: Any, count: int) -> None:
        """Some rows in blocks that stay in the cache while all panels pass over them."""
        block = self.product.row_block or self._row_block(count)
        full, rest = divmod(count, block)
        if full:
            with self.code.loop(full) as turn:
                self._sections(place, (first + turn * block, block))
        if rest:
            self._sections(place, (first + full * block, rest))

    def _row_block(self, count: int) -> int:
        """Rows of a block."""
        product = self.product
        each = 4 * product.blocks(self.isa) * product.serial or product.run * (1 if self.isa.depth > 1 else 4)
        rows = _CACHED_BYTES // max(1, each * product.tap_count)
        tile = self._granule()
        if product.taps or count <= rows or rows < 4 * tile:
            return count
        return -(-count // (-(-count // rows) * tile)) * tile

    def _granule(self) -> int:
        """Rows that are not divided between cores or blocks."""
        return self._tile_rows(max(section.vectors for section in self.product.sections))

    def _sections(self, where: tuple[Any, list[Any]], rows: tuple[Any, int], spread: bool = False) -> None:
        """All panels of one batch entry over some of its rows."""
        for section, bases in self._placed():
            with self.code.loop(section.panels, parallel=spread and section.panels > 1) as panel:
                self._row_tiles(self._place(section, bases, where, panel), rows)

    def _placed(self) -> Iterator[tuple[Section, tuple[int, int, int]]]:
        """Sections with the byte, vector and slot at which each begins."""
        byte, first_vector, slot = 0, 0, 0
        for section in self.product.sections:
            yield section, (byte, first_vector, slot)
            byte += section.panels * self.product.panel_bytes(self.isa, section)
            first_vector += section.panels * section.vectors
            slot += section.panels * len(section.pattern)

    def _place(
        self, section: Section, bases: tuple[int, int, int], where: tuple[Any, list[Any]], panel: Any
    ) -> "Place":
        """Where one panel of one batch entry lies."""
        product, (batch_index, batch), (byte, first_vector, slot) = self.product, where, bases
        entry_bytes = product.weight_bytes(self.isa) // product.batches
        start = batch_index * entry_bytes + byte + panel * product.panel_bytes(self.isa, section)
        return Place(
            section, batch_index, batch, self.code.bind("w", start),
            first_vector + panel * section.vectors, slot + panel * len(section.pattern),
        )  # fmt: skip

    def _tile_rows(self, vectors: int) -> int:
        """Rows of a tile: accumulators, one set of weights and a broadcast fit the registers."""
        if self.product.tile_rows:
            return self.product.tile_rows
        isa, planes = self.isa, self.product.planes[0]
        if planes > 1:
            return max(1, isa.tile_rows * isa.tile_vectors // (planes * vectors))
        # Packed weights hold two sets of registers: as loaded, and as unpacked for the step.
        packed = self.product.packed_bits < 8 and not self.product.serial
        fitting = (31 - (2 if packed else 1) * vectors) // vectors
        if vectors > isa.tile_vectors:
            return max(1, min(isa.tile_rows * isa.tile_vectors // vectors, fitting))
        # With 512 bits a row too many makes LLVM keep the accumulators in memory beside a long epilogue.
        return min(isa.tile_rows, fitting) if packed and isa.lanes == 16 else isa.tile_rows

    def _row_tiles(self, place: "Place", rows: tuple[Any, int]) -> None:
        first, count = rows
        tile = self._tile_rows(place.section.vectors)
        full, rest = divmod(count, tile)
        if full:
            with self.code.loop(full) as index:
                self._tile(place, first + index * tile, tile)
        if rest:
            self._tile(place, first + full * tile, rest)

    def _row_index(self, row: Any) -> list[Any]:
        """Coordinates of a row in ``dims``."""
        return self.code.coordinates(row, [extent for extent, _, _ in self.product.dims])

    def _tile(self, place: "Place", first_row: Any, rows: int) -> None:
        """One register tile: accumulate over K, then the epilogue."""
        product, isa, code = self.product, self.isa, self.code
        vectors = place.section.vectors
        coordinates = [self._row_index(code.bind("m", first_row + i)) for i in range(rows)]
        starts = self._starts(place, coordinates)
        acc = code.scratch("acc", len(starts) * vectors, self._vector)
        for v, initial in enumerate(self._initials(place)):
            for i in range(len(starts)):
                code.store(acc, i * vectors + v, initial)
        self._prefetch_outputs(place, coordinates)
        if product.serial:
            lane = self._lane(place)
            accumulate(code, product, isa, self.buffers, (vectors, place.byte, lane, starts), acc)
        else:
            self._accumulate(place, starts, acc)
        self._epilogue(place, coordinates, acc)

    def _starts(self, place: "Place", coordinates: list[list[Any]]) -> list[Any]:
        """Where the activations of each row begin, plane by plane."""
        product, code = self.product, self.code
        batch_base = product.activation_offset + sum(
            b * s for b, (_, s, _) in zip(place.batch, product.batch, strict=True)
        )
        starts = [
            code.bind("a", batch_base + sum(c * s for c, (_, s, _) in zip(where, product.dims, strict=True)))
            for where in coordinates
        ]
        planes, stride = product.planes
        if planes == 1:
            return starts
        return [code.bind("a", start + plane * stride) for start in starts for plane in range(planes)]

    def _lane(self, place: "Place") -> Any:
        """First lane of a panel among those of all batch entries."""
        return (place.batch_index * self.product.packed_lanes + place.vector) * self.isa.lanes

    def _initials(self, place: "Place") -> list[Any]:
        """What the accumulators of each vector begin with."""
        product, lanes, vectors = self.product, self.isa.lanes, place.section.vectors
        if product.floating or product.serial:
            return [constant(0, "float32" if product.floating else "int32", lanes)] * vectors
        lane, buffer = self._lane(place), self.buffers["initial"]
        return [self.code.bind("c", buffer.vload([lane + v * lanes], self._vector)) for v in range(vectors)]

    def _prefetch_outputs(self, place: "Place", coordinates: list[list[Any]]) -> None:
        """Ask for the lines of outputs that no cache still holds: they arrive while the tile is summed up."""
        product = self.product
        small = product.rows * product.columns * np.dtype(product.out_dtype).itemsize < _CACHED_BYTES
        if small or not self.isa.prefetches or product.permuted or not product.direct:
            return
        for where in coordinates:
            self._prefetch_row(place, where)

    def _prefetch_row(self, place: "Place", where: list[Any]) -> None:
        """Ask for the lines of a row of a panel."""
        lanes = self.isa.lanes
        target = self._output(place, where) + place.slot * lanes
        for column in range(
            0, len(place.section.pattern) * lanes, _LINE_BYTES // np.dtype(self.product.out_dtype).itemsize
        ):
            self.code.prefetch(self.buffers["out"], target + column)

    def _accumulate(self, place: "Place", starts: list[Any], acc: Any, first: int = 0) -> None:
        """All taps and, of each, the weight loads from ``first`` on."""
        product, isa, code = self.product, self.isa, self.code
        vectors, blocks = place.section.vectors, product.blocks(isa)
        step_bytes, bits = isa.lanes * isa.depth, product.packed_bits
        with code.taps(product.taps) as (offset, tap), code.loop(blocks - first) as turn:
            block = first + turn
            base = code.bind("b", place.byte + (tap * blocks + block) * (vectors * step_bytes))
            loads = [
                code.bind("l", load_weights(isa, self.buffers["weights"], base + v * step_bytes))
                for v in range(vectors)
            ]
            for step in range(product.steps_per_load):
                weights = [code.bind("u", unpack(load, step, bits, step_bytes)) for load in loads]
                shift = offset + (block * product.steps_per_load + step) * isa.depth
                for i, start in enumerate(starts):
                    activations = load_activations(isa, self.buffers["activations"], start + shift)
                    activations = code.bind("x", activations)
                    for v in range(vectors):
                        slot = i * vectors + v
                        code.store(acc, slot, dot(isa, acc.vload([slot]), activations, weights[v]))

    def _epilogue(self, place: "Place", coordinates: list[list[Any]], acc: Any) -> None:
        product, isa, code = self.product, self.isa, self.code
        vectors = place.section.vectors
        first = 0
        for output, terms in enumerate(place.section.pattern):
            if product.direct:
                column: Any = (place.slot + output) * isa.lanes
            elif product.permuted:
                lane = (place.slot + output) * isa.lanes
                column = code.bind("n", self.buffers["table"].vload([lane], vector("int32", isa.lanes)))
            else:
                column = code.bind("n", self.buffers["table"].vload([place.slot + output]))
            ragged = place.section.ragged if output == len(place.section.pattern) - 1 else 0
            moves = self._moves(place, output)
            for i, where in enumerate(coordinates):
                count = product.planes[0]
                sums = [
                    acc.vload([(i * count + p) * vectors + first + t])
                    for p in range(count)
                    for t in range(terms)
                ]
                values = [
                    self._finish(value, place, where, index // terms) for index, value in enumerate(sums)
                ]
                later: list[tuple[Any, Any, Any]] = []
                for (a, b), lanes, scale in moves:
                    moved = permute(acc.vload([i * vectors + a]), lanes, acc.vload([i * vectors + b]))
                    later.append((self._finish(moved, place, where), lanes, scale))
                self._store(place, where, (column, output), first, values, later, ragged)
            first += terms

    def _moves(self, place: "Place", output: int) -> list[tuple[tuple[int, int], Any, Any]]:
        """For each packed term of one output slot: its two vectors, the lanes to take, their scales."""
        section, lanes, moves = place.section, self.isa.lanes, []
        for term, (a, b) in section.sources(output):
            entry = ((place.slot + output) * self.product.later_terms + term) * lanes
            index = self.code.bind("e", self.buffers["lanes"].vload([entry], vector("int32", lanes)))
            scale = None
            if not self.product.raw:
                load = self.buffers["later_scale"].vload([entry], vector("float32", lanes))
                scale = self.code.bind("f", load)
            moves.append(((a, b), index, scale))
        return moves

    def _finish(self, value: Any, place: "Place", where: list[Any], plane: int = 0) -> Any:
        """Undo the packing shift and add the row term."""
        product, lanes = self.product, self.isa.lanes
        if product.packed_bits < 8 and not product.serial:
            value = value >> broadcast(tirx.const(8 - product.packed_bits, "int32"), lanes)
        if product.row_terms:
            row: Any = place.batch_index + plane * product.batches
            for coordinate, (extent, _, _) in zip(where, product.dims, strict=True):
                row = row * extent + coordinate
            value = value + broadcast(self.buffers["row_terms"].vload([row]), lanes)
        return value

    def _output(self, place: "Place", where: list[Any]) -> Any:
        """Where column 0 of a row lies in the output."""
        product = self.product
        batch = sum(b * s for b, (_, _, s) in zip(place.batch, product.batch, strict=True))
        return (
            product.out_offset + batch + sum(c * s for c, (_, _, s) in zip(where, product.dims, strict=True))
        )

    def _store(
        self,
        place: "Place",
        where: list[Any],
        slot: tuple[Any, int],
        first: int,
        values: list[Any],
        later: list[tuple[Any, Any, Any]],
        ragged: int,
    ) -> None:
        product, isa, code = self.product, self.isa, self.code
        column = slot[0]
        target = self._output(place, where)
        if product.raw:
            zero = constant(0, "int32", isa.lanes)
            values = values + [tirx.Select(lanes >= zero, value, zero) for value, lanes, _ in later]
            result: Any = sum(values[1:], values[0])
        else:
            scaled = self._rescale(place, first, values)
            for value, _, scale in later:  # the scale is 0 in lanes that have no such term
                part = rounded(isa, value.astype(vector("float32", isa.lanes)) * scale)
                scaled = code.bind("y", scaled + part)
            result = self._evaluate(place, where, slot, scaled)
        result = result.astype(vector(product.out_dtype, isa.lanes))
        result = code.bind("r", result)
        if not product.permuted:
            store_lanes(code, self.buffers["out"], target + column, result, ragged)
            return
        for lane in range(ragged or isa.lanes):
            pair = (
                (column, result) if isa.lanes == 1 else (tirx.Shuffle([v], [lane]) for v in (column, result))
            )
            place_of_lane, item = pair
            code.store(self.buffers["out"], target + place_of_lane, item)

    def _rescale(self, place: "Place", first: int, values: list[Any]) -> Any:
        """``sum over terms of float32(acc) * scale``, in the order of the terms."""
        lanes = self.isa.lanes
        if self.product.floating:
            return sum(values[1:], values[0])
        total = None
        for term, value in enumerate(values):
            place_of_entry = place.batch_index * self.product.packed_lanes + place.vector
            lane = (place_of_entry + first + term) * lanes
            if not self.product.vectorized_scale:
                lane = term * lanes if self.product.planes[0] > 1 else 0
            scale = self.buffers["scale"].vload([lane], vector("float32", lanes))
            part = self.code.bind("y", rounded(self.isa, value.astype(vector("float32", lanes)) * scale))
            total = part if total is None else self.code.bind("y", total + part)
        return total

    def _evaluate(self, place: "Place", where: list[Any], slot: tuple[Any, int], value: Any) -> Any:
        lanes = self.isa.lanes
        column, output = slot

        def load(index: int) -> Any:
            if index == 0:
                return value
            operand, buffer = self.product.operands[index - 1], self.buffers[f"operand{index - 1}"]
            offset = operand.offset + sum(b * s for b, s in zip(place.batch, operand.batch, strict=True))
            offset = offset + sum(c * s for c, s in zip(where, operand.rows, strict=True))
            if operand.packed:
                return buffer.vload([(place.slot + output) * lanes], vector("float32", lanes))
            if operand.column == 0:
                return broadcast(buffer.vload([offset]), lanes)
            if self.product.permuted:
                return buffer.vload([broadcast(offset, lanes) + column])
            return buffer.vload([offset + column], vector("float32", lanes))

        return Evaluator(self.code, self.isa, load)(self.product.epilogue)


@dataclass(frozen=True)
class Place:
    """Where the writer stands: which panel of which batch entry."""

    section: Section
    batch_index: Any
    batch: list[Any]
    byte: Any
    vector: Any
    slot: Any


def unpack(load: Any, step: int, bits: int, size: int) -> Any:
    """Step ``step`` of a packed load of ``size`` bytes, its codes in the high ``bits`` of every byte."""
    if bits == 8:
        return load
    shift, mask = 8 - bits * (step + 1), 0xFF & ~((1 << (8 - bits)) - 1)
    if size < 4:
        wide = load.astype(vector("int32", size)) << broadcast(tirx.const(shift, "int32"), size)
        wide = wide & broadcast(tirx.const(mask, "int32"), size)
        return wide.astype(vector("int8", size))
    words = size // 4
    wide = tirx.reinterpret(vector("int32", words), load)
    if shift:
        wide = wide << broadcast(tirx.const(shift, "int32"), words)
    signed_mask = mask * 0x01010101 - (1 << 32)
    return tirx.reinterpret(vector("int8", size), wide & broadcast(tirx.const(signed_mask, "int32"), words))
