"""The one integer product kernel: GEMM, batched GEMM, implicit-GEMM convolution, expansion, packed weights.

A product multiplies unsigned activation codes by signed weight codes into int32 accumulators that live in
registers for a tile of rows x vectors, then rescales, adds, applies elementwise work and stores, all before
the next tile. What differs between a linear layer and a convolution is only where a row of activations
starts: rows are decomposed in ``dims``, kernel taps in ``taps``, both static affine offsets, so no im2col
copy is ever made.

Expansion terms (PIPE): the output slot of one vector and all terms of that slot stand side by side in one
panel. A panel of four vectors with pattern (2, 2) holds two slots with two terms each; (1, 1, 1, 1) four
slots with one. The sum over terms happens in registers, in the order of the terms, and one pass over the
activations serves all. Sections are runs of panels with the same pattern. Where a later term keeps single rows,
its rows stand densely in vectors of their own (`panels.Section.packed`), and the epilogue moves every
accumulator to the lane of its output with one two-source permutation.

Weights of 4 or 2 bits stay packed in memory; a register load yields 2 or 4 steps of K, brought into the high
bits of each byte by one shift and one mask. Accumulators are then a power of two too large, which a final
arithmetic shift takes back exactly.
"""

from dataclasses import dataclass
from math import prod

from hwsim.compile.builder import Code, PrimFunc
from hwsim.compile.cuda_tensor_core import TensorCode
from hwsim.compile.expr import Node, leaf
from hwsim.compile.isa import Isa
from hwsim.compile.panels import Operand, Section
from hwsim.compile.product_code import ProductCode
from hwsim.compile.row_pairs import PairCode
from hwsim.compile.serial import words
from hwsim.compile.tiles import TileCode

IDENTITY = leaf(0)


def writer_for(machine: Isa) -> type[ProductCode]:
    """Who writes the code of a product for a (variant of a) machine."""
    by_unit = {"mma": TensorCode, "usmmla": PairCode}
    return by_unit.get(machine.dot, TileCode if machine.tiles else ProductCode)


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
            (weights are then float32 too, and there are neither initial accumulators nor scales); int8 on
            tensor cores alone.
        wide_weights: Right operands are codes of more than 8 bits, in int32 panels.
        activation_bits: 4 where no code is above 15 and a machine gains from knowing it.
        sizes: Elements of the activation and output buffers.
        activation_offset: Where the activations begin in their buffer.
        out_offset: Where the output begins in its buffer.
        out_dtype: float32, or the next layer's codes (uint8, int32 above 8 bits).
        tile_rows: Rows of a register tile; 0: what the machine prefers.
        row_block: Rows that all panels pass over before the next rows; 0: as many as stay in the cache.
        permuted: Output columns of a slot are scattered; the table then names the column of every lane.
        raw: Store bare int32 accumulators: no scale, no epilogue.
        epilogue: Elementwise tree; leaf 0 is the rescaled sum, leaf 1.. are ``operands``.
        operands: Epilogue operands.
        in_place: The operand whose place the result takes (`in_place`); it is no parameter of its own then.
        row_terms: Whether an int32 per row is added to the accumulators (zero point of the right operand).
        units: Cores it is spread over.
        vectorized_scale: One scale for each packed lane; else one for all, or for each plane.
        serial: Bit planes of the activations where they and the weights (``packed_bits`` planes) are multiplied by
            popcounts; rows and taps are then strided in words (`serial`).
        planes: Planes of activations, and the stride between them: every plane has an accumulator and a scale of its
            own, and they are added in order (log codes of attention, see `powers`).
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
    wide_weights: bool = False
    activation_bits: int = 8
    activation_offset: int = 0
    out_offset: int = 0
    out_dtype: str = "float32"
    epilogue: Node = IDENTITY
    operands: tuple[Operand, ...] = ()
    in_place: int | None = None
    row_terms: bool = False
    vectorized_scale: bool = True
    planes: tuple[int, int] = (1, 0)
    serial: int = 0
    units: int = 1
    raw: bool = False
    permuted: bool = False
    tile_rows: int = 0
    row_block: int = 0

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
        if self.serial:
            return words(self.run)
        return -(-self.run // (isa.depth * self.steps_per_load))

    def panel_bytes(self, isa: Isa, section: Section) -> int:
        """Bytes (words where bit-serial) of one panel of ``section``."""
        planes = self.packed_bits if self.serial else 1
        return self.tap_count * self.blocks(isa) * planes * section.vectors * isa.lanes * isa.depth

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
        plain = all(set(section.pattern) == {1} and not section.packed for section in self.sections)
        return plain and not self.permuted

    @property
    def later_terms(self) -> int:
        """Later terms whose rows are packed and moved to their outputs in the epilogue."""
        return max((len(section.packed) for section in self.sections), default=0)

    def weight_bytes(self, isa: Isa) -> int:
        """Bytes of all panels."""
        return self.batches * sum(s.panels * self.panel_bytes(isa, s) for s in self.sections)

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        isa = self.machine(isa)
        lanes = self.packed_lanes * isa.lanes
        result = [
            ("activations", self.sizes[0], self.activation_dtype),
            ("weights", self.weight_bytes(isa), self.weight_dtype),
        ]
        if not self.floating:
            result.append(("initial", self.batches * lanes, "int32"))
        if not (self.raw or self.floating):
            own = self.batches * lanes if self.vectorized_scale else self.planes[0] * isa.lanes
            result.append(("scale", own, "float32"))
        if not self.direct:
            result.append(("table", self.slots * (isa.lanes if self.permuted else 1), "int32"))
        if self.later_terms:
            entries = self.slots * self.later_terms * isa.lanes
            result += [("lanes", entries, "int32"), ("later_scale", entries, "float32")]
        if self.row_terms:
            result.append(("row_terms", self.planes[0] * self.batches * self.rows, "int32"))
        read = [(f"operand{i}", o.elements, "float32") for i, o in enumerate(self.operands)]
        if self.in_place is not None:
            del read[self.in_place]
        return [*result, *read, ("out", self.sizes[1], self.out_dtype)]

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``."""
        code = Code(name, isa.device)
        machine = self.machine(isa)
        writer_for(machine)(code, self, machine).write()
        return code.function()

    def machine(self, isa: Isa) -> Isa:
        """The variant of ``isa`` that multiplies these activations."""
        if self.floating:
            return isa.floating()
        if self.serial:
            return isa.serial()
        return (
            isa.wide()
            if self.activation_dtype == "int32" or self.wide_weights
            else isa.dense(self.run, self.tap_count, self.planes[0])
        )

    @property
    def weight_dtype(self) -> str:
        """How weights lie in memory: bytes, words (of bits, or of one code), or floats."""
        return "float32" if self.floating else "int32" if self.serial or self.wide_weights else "int8"

    @property
    def floating(self) -> bool:
        """Whether this product was left in float."""
        return self.activation_dtype == "float32"
