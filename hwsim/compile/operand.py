"""The right operand of a product of two activations, and row sums for its zero point.

`PackRight` lays unsigned codes out as signed panels (code - 128) and sums every column, so that the product
kernel can be the same as for stored weights. With A codes a, B codes b, zero points za and zb, b' = b - 128
and zb' = zb - 128:  sum (a - za)(b - zb) = sum a b' - za sum b' - zb' sum (a - za).
The first correction is the initial accumulator of the column, the second the row term. Zero points are
operands, so that all layers of one shape share a kernel. Where one side has codes of more than 8 bits, both are
multiplied as int32; right codes that are themselves so wide keep their zero point (b' = b).
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from dataclasses import dataclass
from typing import Any

from hwsim.compile.builder import Code, PrimFunc, broadcast, constant, tirx, vector
from hwsim.compile.isa import Isa, dot
from hwsim.compile.panels import Section

_FLIP = -0x7F7F7F80  # 0x80808080 as int32: u8 -> s8 = u8 - 128, four bytes at once


@dataclass(frozen=True)
class PackRight:
    """Codes (batch, n, k) with strides into panels; ``steps`` is (n stride, k stride), one of them 1.

    ``planes`` of the left operand and ``wide`` codes on either side decide which unit reads the panels.
    """

    batch: int
    columns: int
    depth: int
    sections: tuple[Section, ...]
    elements: int
    batch_stride: int
    steps: tuple[int, int]
    parallel: bool = False
    planes: int = 1
    wide: bool = False
    dtype: str = "uint8"

    def slots(self) -> int:
        """Output slots of one batch entry."""
        return sum(s.panels * s.vectors for s in self.sections)

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        isa = self._packer(isa)
        return [
            ("codes", self.elements, self.dtype),
            ("zeros", 2, "int32"),
            ("initial", self.batch * self.slots() * isa.lanes, "int32"),
            ("out", self.batch * self.slots() * self._steps(isa) * isa.lanes * isa.depth, self.panel_dtype),
        ]

    @property
    def panel_dtype(self) -> str:
        """How codes lie in the panels."""
        return "int8" if self.dtype == "uint8" else "int32"

    def _reader(self, isa: Isa) -> Isa:
        """The variant of the machine that reads the panels, as `product.Product.machine` has it."""
        return isa.wide() if self.wide else isa.dense(self.depth, planes=self.planes)

    def _packer(self, isa: Isa) -> Isa:
        """The machine whose steps are packed: the one that reads them, but for tensor cores."""
        return isa if isa.device and not self.wide else self._reader(isa)

    def _steps(self, isa: Isa) -> int:
        """Steps of the dot product in a panel; the matrix unit takes several at once, the last ones may be empty."""
        depth = self._reader(isa).depth
        return -(-self.depth // depth) * (depth // isa.depth)

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``."""
        code, isa = Code(name, isa.device), self._packer(isa)
        buffers = tuple(code.parameter(n, size, t) for n, size, t in self.arguments(isa))
        first = 0
        for section in self.sections:
            grid = [self.batch, section.panels, section.vectors]
            with code.grid(grid, parallel=self.parallel) as (entry, panel, v):
                self._slot(isa, code, buffers, (entry, first + panel * section.vectors, v, section.vectors))
            first += section.panels * section.vectors
        return code.function()

    def _slot(self, isa: Isa, code: Code, buffers: tuple[Any, ...], where: tuple[Any, Any, Any, int]) -> None:
        """All of K for one vector of columns: bytes, then their sums times what the zero point asks.

        The reader takes ``together`` steps of one vector before the next vector (one, but for a matrix unit).
        """
        codes, zeros, initial, out = buffers
        entry, first, v, vectors = where
        whole, rest = divmod(self.depth, isa.depth)
        word = isa.lanes * isa.depth
        start = code.bind("c", entry * self.batch_stride + (first + v) * (isa.lanes * self.steps[0]))
        reader, steps = self._reader(isa), self._steps(isa)
        together = reader.depth // isa.depth
        panel = (entry * self.slots() + first) * (steps * word)
        total = code.scratch("sum", 1, vector("int32", isa.lanes))
        code.store(total, 0, constant(0, "int32", isa.lanes))

        def place_of(block: Any) -> Any:
            turn, within = (block, 0) if together == 1 else (block // together, block % together)
            return code.bind("b", panel + ((turn * vectors + v) * together + within) * word)

        def step(block: Any, valid: int) -> None:
            place = place_of(block)
            self._block(isa, code, codes, out, (start + block * isa.depth * self.steps[1], place, valid))
            packed = out.vload([place], vector(self.panel_dtype, word))
            code.store(total, 0, dot(isa, total.vload([0]), _ones(isa), packed))

        if whole:
            with code.loop(whole) as block:
                step(block, isa.depth)
        if rest:
            step(tirx.const(whole, "int32"), rest)
        used = whole + (rest > 0)
        if used < steps:
            with code.loop(steps - used) as empty:
                place = place_of(empty + used)
                for byte in range(word):
                    code.store(out, place + byte, tirx.const(0, "int8"))
        offset = tirx.const(reader.activation_offset, "int32") - zeros.vload([0])
        lane = (entry * self.slots() + first + v) * isa.lanes
        code.store(initial, lane, total.vload([0]) * broadcast(offset, isa.lanes))

    def _block(self, isa: Isa, code: Code, codes: Any, out: Any, where: tuple[Any, Any, int]) -> None:
        """One vector of one step of K; ``valid`` of its ``isa.depth`` codes exist, the others become 0."""
        start, place, valid = where
        column, step = self.steps
        lanes = isa.lanes
        quads = [(4 * quad, max(0, min(4, valid - 4 * quad))) for quad in range(isa.depth // 4)]
        if quads and step == 1 and column % 4 == 0:
            for lane in range(lanes):
                for first, count in quads:
                    keep = (1 << (8 * count)) - 1
                    keep = keep - (1 << 32) if keep >= 1 << 31 else keep
                    word = tirx.reinterpret("int32", codes.vload([start + lane * column + first], "uint8x4"))
                    word = (word ^ tirx.const(_FLIP, "int32")) & tirx.const(keep, "int32")
                    code.store(out, place + lane * isa.depth + first, tirx.reinterpret("int8x4", word))
            return
        if quads and column == 1:
            totals: list[Any] = []
            for first, count in quads:
                total = constant(0, "int32", lanes)
                for d in range(count):
                    byte = codes.vload([start + (first + d) * step], vector("uint8", lanes))
                    total = total | (byte.astype(vector("int32", lanes)) << constant(8 * d, "int32", lanes))
                absent = sum(128 << (8 * d) for d in range(count, 4))  # 0 once the sign bits are flipped
                total = total | constant(absent - ((absent >> 31) << 32), "int32", lanes)
                totals.append(total ^ constant(_FLIP, "int32", lanes))
            side_by_side = [lane + lanes * quad for lane in range(lanes) for quad in range(len(quads))]
            words = totals[0] if len(totals) == 1 else tirx.Shuffle(totals, side_by_side)
            code.store(out, place, tirx.reinterpret(vector("int8", lanes * isa.depth), words))
            return
        shift = tirx.const(128 if self.panel_dtype == "int8" else 0, "int32")
        for lane in range(lanes):
            for d in range(isa.depth):
                value = tirx.const(0, self.panel_dtype)
                if d < valid:
                    code_here = codes.vload([start + lane * column + d * step]).astype("int32")
                    value = (code_here - shift).astype(self.panel_dtype)
                code.store(out, place + lane * isa.depth + d, value)


def _ones(isa: Isa) -> Any:
    """Activations that are all 1, as `dot` takes them (already past any sign flip)."""
    if isa.depth == 8:
        return tirx.const(0x0101010101010101, "int64")
    if isa.depth == 4:
        return tirx.const(0x01010101, "int32")
    return tirx.const(0x00010001 if isa.depth == 2 else 1, "int32")


@dataclass(frozen=True)
class RowTerms:
    """``-zb' * sum over columns of (code - za)`` for each row of codes; ``zeros`` holds za and -zb'."""

    rows: int
    columns: int
    pitch: int
    elements: int
    dtype: str = "uint8"

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        return [("codes", self.elements, self.dtype), ("zeros", 2, "int32"), ("out", self.rows, "int32")]

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``."""
        code, lanes = Code(name, isa.device), isa.lanes
        codes, zeros, out = (code.parameter(n, size, t) for n, size, t in self.arguments(isa))
        kind = vector("int32", lanes)
        with code.grid([self.rows]) as (row,):
            total = code.scratch("sum", 1, kind)
            code.store(total, 0, constant(0, "int32", lanes))
            full, rest = divmod(self.columns, lanes)
            if full:
                with code.loop(full) as index:
                    part = codes.vload([row * self.pitch + index * lanes], vector(self.dtype, lanes))
                    code.store(total, 0, total.vload([0]) + part.astype(kind))
            summed = code.bind("t", total.vload([0]))
            value = summed if lanes == 1 else tirx.Shuffle([summed], [0])
            for lane in range(1, lanes):
                value = value + tirx.Shuffle([summed], [lane])
            for column in range(full * lanes, full * lanes + rest):
                value = value + codes.vload([row * self.pitch + column]).astype("int32")
            value = value - zeros.vload([0]) * tirx.const(self.columns, "int32")
            code.store(out, row, value * zeros.vload([1]))
        return code.function()
