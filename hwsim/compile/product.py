"""The one integer product kernel: GEMM, batched GEMM, implicit-GEMM convolution, expansion, packed weights.

A product multiplies unsigned activation codes by signed weight codes into int32 accumulators that live in
registers for a tile of rows x vectors, then rescales, adds, applies elementwise work and stores, all before
the next tile. What differs between a linear layer and a convolution is only where a row of activations
starts: rows are decomposed in ``dims``, kernel taps in ``taps``, both static affine offsets, so no im2col
copy is ever made.

Expansion terms (PIPE): the output slot of one vector and all terms of that slot stand side by side in one
panel. A panel of four vectors with pattern (2, 2) holds two slots with two terms each; (1, 1, 1, 1) four
slots with one. The sum over terms happens in registers, in the order of the terms, and one pass over the
activations serves all. Sections are runs of panels with the same pattern.

Weights of 4 or 2 bits stay packed in memory; a register load yields 2 or 4 steps of K, brought into the high
bits of each byte by one shift and one mask. Accumulators are then a power of two too large, which a final
arithmetic shift takes back exactly.
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from dataclasses import dataclass
from math import prod
from typing import Any

from hwsim.compile.builder import Code, PrimFunc, broadcast, constant, store_lanes, tirx, vector
from hwsim.compile.expr import Evaluator, Node, leaf
from hwsim.compile.isa import Isa, dot, load_activations
from hwsim.compile.panels import Operand, Section

IDENTITY = leaf(0)


@dataclass(frozen=True)
class Product:
    """Everything that decides the code of one product kernel; equal products share one kernel.

    Attributes:
        dims: Rows, outermost first: (extent, stride in activations, stride in output).
        taps: Kernel taps: (count, stride in activations).
        run: Consecutive activations at every tap.
        batch: Outer loops: (extent, activation stride, output stride); weights advance with each.
        sections: Panels, see `Section`.
        packed_bits: 8, 4 or 2: how weight codes lie in memory.
        columns: Output columns.
        activation_dtype: uint8, int32 for codes of more than 8 bits, float32 for a layer left in float
            (weights are then float32 too, and there are neither initial accumulators nor scales).
        sizes: Elements of the activation and output buffers.
        activation_offset: Where the activations begin in their buffer.
        out_offset: Where the output begins in its buffer.
        out_dtype: float32, or the next layer's codes (uint8, int32 above 8 bits).
        permuted: Output columns of a slot are scattered; the table then names the column of every lane.
        raw: Store bare int32 accumulators: no scale, no epilogue.
        epilogue: Elementwise tree; leaf 0 is the rescaled sum, leaf 1.. are ``operands``.
        operands: Epilogue operands.
        row_terms: Whether an int32 per row is added to the accumulators (zero point of the right operand).
        parallel: Whether panels are spread over threads.
        vectorized_scale: One scale for each packed lane; else one for all.
    """

    dims: tuple[tuple[int, int, int], ...]
    taps: tuple[tuple[int, int], ...]
    run: int
    sections: tuple[Section, ...]
    columns: int
    sizes: tuple[int, int]
    batch: tuple[tuple[int, int, int], ...] = ()
    packed_bits: int = 8
    activation_dtype: str = "uint8"
    activation_offset: int = 0
    out_offset: int = 0
    out_dtype: str = "float32"
    epilogue: Node = IDENTITY
    operands: tuple[Operand, ...] = ()
    row_terms: bool = False
    vectorized_scale: bool = True
    parallel: bool = False
    raw: bool = False
    permuted: bool = False

    @property
    def rows(self) -> int:
        """Rows of one batch entry."""
        return prod(extent for extent, _, _ in self.dims)

    @property
    def batches(self) -> int:
        """Batch entries."""
        return prod(extent for extent, _, _ in self.batch)

    @property
    def steps_per_load(self) -> int:
        """Steps of K that one weight load yields."""
        return 8 // self.packed_bits

    def blocks(self, isa: Isa) -> int:
        """Weight loads of one tap."""
        return -(-self.run // (isa.depth * self.steps_per_load))

    def panel_bytes(self, isa: Isa, section: Section) -> int:
        """Bytes of one panel of ``section``."""
        return self.tap_count * self.blocks(isa) * section.vectors * isa.lanes * isa.depth

    @property
    def tap_count(self) -> int:
        """Kernel taps."""
        return prod(count for count, _ in self.taps)

    @property
    def packed_lanes(self) -> int:
        """Vectors of all panels of one batch entry."""
        return sum(section.vectors * section.panels for section in self.sections)

    @property
    def slots(self) -> int:
        """Output slots of all panels of one batch entry."""
        return sum(len(section.pattern) * section.panels for section in self.sections)

    @property
    def direct(self) -> bool:
        """Whether slots stand in their natural order, so that no table is read."""
        return not self.permuted and all(term == 1 for section in self.sections for term in section.pattern)

    def weight_bytes(self, isa: Isa) -> int:
        """Bytes of all panels."""
        return self.batches * sum(s.panels * self.panel_bytes(isa, s) for s in self.sections)

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        isa = self.machine(isa)
        lanes = self.packed_lanes * isa.lanes
        result = [
            ("activations", self.sizes[0], self.activation_dtype),
            ("weights", self.weight_bytes(isa), "float32" if self.floating else "int8"),
        ]
        if not self.floating:
            result.append(("initial", self.batches * lanes, "int32"))
        if not (self.raw or self.floating):
            result.append(("scale", self.batches * lanes if self.vectorized_scale else isa.lanes, "float32"))
        if not self.direct:
            result.append(("table", self.slots * (isa.lanes if self.permuted else 1), "int32"))
        if self.row_terms:
            result.append(("row_terms", self.batches * self.rows, "int32"))
        result += [(f"operand{i}", o.elements, "float32") for i, o in enumerate(self.operands)]
        return [*result, ("out", self.sizes[1], self.out_dtype)]

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``."""
        return _Writer(name, self, self.machine(isa)).write()

    def machine(self, isa: Isa) -> Isa:
        """The variant of ``isa`` that multiplies these activations."""
        if self.floating:
            return isa.floating()
        return isa if self.activation_dtype == "uint8" else isa.wide()

    @property
    def floating(self) -> bool:
        """Whether this product was left in float."""
        return self.activation_dtype == "float32"


class _Writer:
    """Writes the loops of one `Product`."""

    def __init__(self, name: str, product: Product, isa: Isa) -> None:
        self.product, self.isa = product, isa
        self.code = Code(name)
        self.buffers = {n: self.code.parameter(n, size, t) for n, size, t in product.arguments(isa)}

        weights = "float32" if product.floating else "int8"
        self._vector = vector("float32" if product.floating else "int32", isa.lanes)
        self._packed_vector = vector(weights, isa.lanes * isa.depth)

    def write(self) -> PrimFunc:
        """All loops."""
        product = self.product
        index: Any = 0
        bases: list[Any] = []
        managers = []
        for extent, _, _ in product.batch:
            manager = self.code.loop(extent)
            bases.append(manager.__enter__())
            managers.append(manager)
            index = index * extent + bases[-1]
        self._sections(index, bases)
        for manager in reversed(managers):
            manager.__exit__(None, None, None)
        return self.code.function()

    def _sections(self, batch_index: Any, batch: list[Any]) -> None:
        """All panels of one batch entry."""
        product, isa = self.product, self.isa
        entry_bytes = product.weight_bytes(isa) // product.batches
        first_byte, first_vector, first_slot = 0, 0, 0
        for section in product.sections:
            with self.code.loop(section.panels, parallel=product.parallel and section.panels > 1) as panel:
                place = _Place(
                    section,
                    batch_index,
                    batch,
                    self.code.bind(
                        "w",
                        batch_index * entry_bytes + first_byte + panel * product.panel_bytes(isa, section),
                    ),
                    first_vector + panel * section.vectors,
                    first_slot + panel * len(section.pattern),
                )
                self._row_tiles(place)
            first_byte += section.panels * product.panel_bytes(isa, section)
            first_vector += section.panels * section.vectors
            first_slot += section.panels * len(section.pattern)

    def _row_tiles(self, place: "_Place") -> None:
        rows, tile = self.product.rows, self.isa.tile_rows
        if place.section.vectors > self.isa.tile_vectors:
            tile = max(1, tile * self.isa.tile_vectors // place.section.vectors)
        full, rest = divmod(rows, tile)
        if full:
            with self.code.loop(full) as index:
                self._tile(place, index * tile, tile)
        if rest:
            self._tile(place, full * tile, rest)

    def _row_index(self, row: Any) -> list[Any]:
        """Coordinates of a row in ``dims``."""
        dims = self.product.dims
        if len(dims) == 1:
            return [row]
        result: list[Any] = []
        rest = row
        for extent, _, _ in reversed(dims[1:]):
            result.insert(0, self.code.bind("d", tirx.floormod(rest, extent)))
            rest = self.code.bind("q", tirx.floordiv(rest, extent))
        return [rest, *result]

    def _tile(self, place: "_Place", first_row: Any, rows: int) -> None:
        """One register tile: accumulate over K, then the epilogue."""
        product, isa, code = self.product, self.isa, self.code
        vectors = place.section.vectors
        coordinates = [self._row_index(code.bind("m", first_row + i)) for i in range(rows)]
        batch_base = product.activation_offset + sum(
            b * s for b, (_, s, _) in zip(place.batch, product.batch, strict=True)
        )
        starts = [
            code.bind("a", batch_base + sum(c * s for c, (_, s, _) in zip(where, product.dims, strict=True)))
            for where in coordinates
        ]
        acc = code.scratch("acc", rows * vectors, self._vector)
        lane = (place.batch_index * product.packed_lanes + place.vector) * isa.lanes
        for v in range(vectors):
            if product.floating:
                initial = constant(0.0, "float32", isa.lanes)
            else:
                initial = code.bind("c", self.buffers["initial"].vload([lane + v * isa.lanes], self._vector))
            for i in range(rows):
                code.store(acc, i * vectors + v, initial)
        self._accumulate(place, starts, acc)
        self._epilogue(place, coordinates, acc)

    def _accumulate(self, place: "_Place", starts: list[Any], acc: Any) -> None:
        product, isa, code = self.product, self.isa, self.code
        vectors, blocks = place.section.vectors, product.blocks(isa)
        offset: Any = 0
        tap: Any = 0
        managers = []
        for count, stride in product.taps:
            manager = code.loop(count)
            index = manager.__enter__()
            managers.append(manager)
            offset, tap = offset + index * stride, tap * count + index
        block_manager = code.loop(blocks)
        block = block_manager.__enter__()
        step_bytes = isa.lanes * isa.depth
        base = code.bind("b", place.byte + (tap * blocks + block) * (vectors * step_bytes))
        loads = [
            code.bind("l", self.buffers["weights"].vload([base + v * step_bytes], self._packed_vector))
            for v in range(vectors)
        ]
        for step in range(product.steps_per_load):
            weights = [code.bind("u", unpack(load, step, product.packed_bits, step_bytes)) for load in loads]
            shift = offset + (block * product.steps_per_load + step) * isa.depth
            for i, start in enumerate(starts):
                activations = load_activations(isa, self.buffers["activations"], start + shift)
                activations = code.bind("x", activations)
                for v in range(vectors):
                    slot = i * vectors + v
                    code.store(acc, slot, dot(isa, acc.vload([slot]), activations, weights[v]))
        block_manager.__exit__(None, None, None)
        for manager in reversed(managers):
            manager.__exit__(None, None, None)

    def _epilogue(self, place: "_Place", coordinates: list[list[Any]], acc: Any) -> None:
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
            for i, where in enumerate(coordinates):
                sums = [acc.vload([i * vectors + first + t]) for t in range(terms)]
                values = [self._finish(value, place, where) for value in sums]
                self._store(place, where, (column, output), first, values, ragged)
            first += terms

    def _finish(self, value: Any, place: "_Place", where: list[Any]) -> Any:
        """Undo the packing shift and add the row term."""
        product, lanes = self.product, self.isa.lanes
        if product.packed_bits < 8:
            value = value >> broadcast(tirx.const(8 - product.packed_bits, "int32"), lanes)
        if product.row_terms:
            row: Any = place.batch_index
            for coordinate, (extent, _, _) in zip(where, product.dims, strict=True):
                row = row * extent + coordinate
            value = value + broadcast(self.buffers["row_terms"].vload([row]), lanes)
        return value

    def _store(
        self,
        place: "_Place",
        where: list[Any],
        slot: tuple[Any, int],
        first: int,
        values: list[Any],
        ragged: int,
    ) -> None:
        product, isa, code = self.product, self.isa, self.code
        column = slot[0]
        target: Any = product.out_offset
        target = target + sum(b * s for b, (_, _, s) in zip(place.batch, product.batch, strict=True))
        target = target + sum(c * s for c, (_, _, s) in zip(where, product.dims, strict=True))
        if product.raw:
            result: Any = sum(values[1:], values[0])
        else:
            result = self._evaluate(place, where, slot, self._rescale(place, first, values))
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

    def _rescale(self, place: "_Place", first: int, values: list[Any]) -> Any:
        """``sum over terms of float32(acc) * scale``, in the order of the terms."""
        lanes = self.isa.lanes
        if self.product.floating:
            return sum(values[1:], values[0])
        total = None
        for term, value in enumerate(values):
            place_of_entry = place.batch_index * self.product.packed_lanes + place.vector
            lane = (place_of_entry + first + term) * lanes if self.product.vectorized_scale else 0
            scale = self.buffers["scale"].vload([lane], vector("float32", lanes))
            part = self.code.bind("y", value.astype(vector("float32", lanes)) * scale)
            total = part if total is None else self.code.bind("y", total + part)
        return total

    def _evaluate(self, place: "_Place", where: list[Any], slot: tuple[Any, int], value: Any) -> Any:
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

        return Evaluator(self.code, lanes, load)(self.product.epilogue)


@dataclass(frozen=True)
class _Place:
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
