"""Kernels over rows with a fused epilogue: elementwise chains, norms, softmax.

All of them open the same loops, make a value for each vector of the row, and store it through the epilogue; they
differ in what the first value is. Leaf 0 of the epilogue is that value, leaf i + 1 is operand i.
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hwsim.compile.builder import PrimFunc, broadcast, constant, tirx, vector
from hwsim.compile.expr import Evaluator, Node, leaf
from hwsim.compile.isa import Isa
from hwsim.compile.vector import Rows, Sink, Source, operand_arguments

_FIRST = leaf(0)


@dataclass(frozen=True)
class Elementwise:
    """A tree over strided operands (leaf i is operand i - 1; leaf 0 is unused): also every copy and fill."""

    dims: tuple[int, ...]
    columns: int
    epilogue: Node
    operands: tuple[Source, ...]
    sink: Sink
    parallel: bool = False

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        return operand_arguments(self.operands, self.sink)

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``."""
        rows = Rows(name, isa, self.arguments(isa))
        with rows.rows(self.dims, self.parallel) as where:
            starts = [rows.start(where, s.offset, s.strides) for s in self.operands]
            self.write(_Row(rows, self, starts, rows.start(where, self.sink.offset, self.sink.strides)))
        return rows.code.function()

    def write(self, row: "_Row") -> None:
        """The code of one row."""
        row.store(lambda column: None)


class _Row:
    """One row of a kernel being written."""

    def __init__(self, rows: Rows, kernel: Elementwise, starts: list[Any], out: Any) -> None:
        self.rows, self.code, self.lanes = rows, rows.code, rows.lanes
        self.kernel, self._starts, self._out = kernel, starts, out

    def operand(self, column: Any) -> Any:
        """One vector of operand 0."""
        return self.rows.load("operand0", self.kernel.operands[0], self._starts[0], column)

    def evaluate(self, tree: Node, first: Any, column: Any) -> Any:
        """A tree over ``first`` (leaf 0) and the operands."""
        return self.rows.finish(tree, first, self.kernel.operands, self._starts, column)(tree)

    def reduce(
        self,
        start: float,
        value: Callable[[Any], Any],
        combine: Callable[[Any, Any], Any],
        keep: Callable[[Any, Any], None] | None = None,
    ) -> Any:
        """All columns combined into a scalar; ``keep`` sees every masked vector and its column."""
        state = self.code.scratch("state", 1, vector("float32", self.lanes))
        self.code.store(state, 0, constant(start, "float32", self.lanes))

        def body(column: Any, ragged: int) -> None:
            masked = self.code.bind("x", self.rows.mask(value(column), ragged, start))
            if keep is not None:
                keep(column, masked)
            self.code.store(state, 0, combine(state.vload([0]), masked))

        self.rows.columns(self.kernel.columns, body)
        return self.rows.horizontal(self.code.bind("s", state.vload([0])), combine)

    def store(self, first: Callable[[Any], Any]) -> None:
        """The epilogue over ``first(column)``, to the result."""

        def body(column: Any, ragged: int) -> None:
            made = first(column)
            bound = None if made is None else self.code.bind("n", made)
            value = self.evaluate(self.kernel.epilogue, bound, column)
            self.rows.put(self.kernel.sink, self._out, column, value, ragged)

        self.rows.columns(self.kernel.columns, body)


@dataclass(frozen=True)
class LayerNorm(Elementwise):
    """``(x - mean) / sqrt(var + eps)`` of operand 0 over the row, then the epilogue (weight, bias, quantize, ...)."""

    epsilon: float = 1e-5

    def write(self, row: _Row) -> None:
        """Mean, then centred squares (two passes: no cancellation), then the result."""
        share = tirx.const(1.0 / self.columns, "float32")
        mean = row.code.bind("u", row.reduce(0.0, row.operand, lambda a, b: a + b) * share)
        centre = broadcast(mean, row.lanes)

        def square(column: Any) -> Any:
            off = row.code.bind("d", row.operand(column) - centre)
            return off * off

        variance = row.reduce(0.0, square, lambda a, b: a + b) * share
        root = tirx.sqrt(variance + tirx.const(self.epsilon, "float32"))
        inverse = broadcast(row.code.bind("v", tirx.div(tirx.const(1.0, "float32"), root)), row.lanes)
        row.store(lambda column: (row.operand(column) - centre) * inverse)


@dataclass(frozen=True)
class RmsNorm(Elementwise):
    """``x / sqrt(mean(x**2) + eps)`` of operand 0 over the row, then the epilogue (Zhang and Sennrich 2019)."""

    epsilon: float = 1e-6

    def write(self, row: _Row) -> None:
        """The squares, then the result."""

        def square(column: Any) -> Any:
            value = row.code.bind("d", row.operand(column))
            return value * value

        mean = row.reduce(0.0, square, lambda a, b: a + b) * tirx.const(1.0 / self.columns, "float32")
        root = tirx.sqrt(mean + tirx.const(self.epsilon, "float32"))
        inverse = broadcast(row.code.bind("v", tirx.div(tirx.const(1.0, "float32"), root)), row.lanes)
        row.store(lambda column: row.operand(column) * inverse)


@dataclass(frozen=True)
class Softmax(Elementwise):
    """Softmax of operand 0 over the row, then the epilogue.

    ``prologue`` is applied to x first (leaf 0 is operand 0, leaf i + 1 operand i): scaling and masks.
    """

    prologue: Node = _FIRST

    def write(self, row: _Row) -> None:
        """Highest value, exponentials (one row of them is kept on the stack), their sum, the result."""
        code, lanes, lowest = row.code, row.lanes, -3.4e38
        kept = code.scratch("row", -(-self.columns // lanes), vector("float32", lanes))

        def keep(column: Any, value: Any) -> None:
            code.store(kept, tirx.floordiv(column, lanes), value)

        def scaled(column: Any) -> Any:
            return row.evaluate(self.prologue, code.bind("x", row.operand(column)), column)

        def exponential(column: Any) -> Any:
            argument = code.bind("d", kept.vload([tirx.floordiv(column, lanes)]) - peak)
            return Evaluator(code, row.rows.isa, lambda _: argument)(Node("exp", (leaf(0),)))

        peak = broadcast(row.reduce(lowest, scaled, tirx.max, keep), lanes)
        total = row.reduce(0.0, exponential, lambda a, b: a + b, keep)
        inverse = broadcast(code.bind("i", tirx.div(tirx.const(1.0, "float32"), total)), lanes)
        row.store(lambda column: kept.vload([tirx.floordiv(column, lanes)]) * inverse)
