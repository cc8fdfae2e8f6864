"""One axis of a picture at another size: every output is a weighted sum of a few neighbouring inputs.

Resizing (nearest, linear, cubic, with and without antialiasing) and adaptive mean pooling are linear and separable:
two such passes with constant shares, one for each axis.
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from dataclasses import dataclass
from typing import Any

from hwsim.compile.builder import PrimFunc, broadcast, constant, vector
from hwsim.compile.isa import Isa
from hwsim.compile.vector import Rows, Sink, Source


@dataclass(frozen=True)
class Resample:
    """``out[.., i, .., c] = sum over t of shares[i, t] * operand[.., first[i] + t, .., c]``; i runs along ``axis``.

    The operand's stride of that axis is ``step``; its place in the source's own strides is 0.
    """

    dims: tuple[int, ...]
    columns: int
    axis: int
    taps: int
    step: int
    operands: tuple[Source, ...]
    sink: Sink

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        size = self.dims[self.axis]
        return [
            ("operand0", self.operands[0].elements, self.operands[0].dtype),
            ("first", size, "int32"),
            ("shares", size * self.taps, "float32"),
            ("out", self.sink.elements, self.sink.dtype),
        ]

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``."""
        writer = Rows(name, isa, self.arguments(isa))
        code, lanes, source = writer.code, isa.lanes, self.operands[0]
        first, shares = writer.buffers["first"], writer.buffers["shares"]
        with writer.rows(self.dims) as where:
            place = where[self.axis]
            start = writer.start(where, source.offset, source.strides)
            start = code.bind("o", start + first.vload([place]) * self.step)
            out = writer.start(where, self.sink.offset, self.sink.strides)

            def body(column: Any, ragged: int) -> None:
                state = code.scratch("state", 1, vector("float32", lanes))
                code.store(state, 0, constant(0.0, "float32", lanes))
                with code.loop(self.taps) as tap:
                    share = broadcast(shares.vload([place * self.taps + tap]), lanes)
                    value = writer.load("operand0", source, start + tap * self.step, column)
                    code.store(state, 0, state.vload([0]) + value * share)
                writer.put(self.sink, out, column, state.vload([0]), ragged)

            writer.columns(self.columns, body)
        return code.function()
