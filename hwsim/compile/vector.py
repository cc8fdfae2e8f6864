"""Vector work: the loops that all of it shares, pooling and gathers (norms and chains are in `rowwise`).

All kernels walk ``dims`` (outer loops with static strides) and one column axis in vectors. Loads may read up
to one vector past the last column, stores never write past it: every buffer has 64 bytes of slack.
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from hwsim.compile.builder import Code, PrimFunc, broadcast, constant, store_lanes, tirx, vector
from hwsim.compile.expr import Evaluator, Node
from hwsim.compile.isa import Isa


@dataclass(frozen=True)
class Source:
    """An operand: elements of its buffer, where it begins, strides of the dims and of the column."""

    elements: int
    offset: int
    strides: tuple[int, ...]
    column: int
    dtype: str = "float32"


@dataclass(frozen=True)
class Sink:
    """The result: elements of its buffer, where it begins, strides of the dims and of the column."""

    elements: int
    offset: int
    strides: tuple[int, ...]
    column: int = 1
    dtype: str = "float32"


class Rows:
    """Shared loops: dims outside, vectors of the column inside."""

    def __init__(self, name: str, isa: Isa, arguments: list[tuple[str, int, str]]) -> None:
        self.code, self.isa, self.lanes = Code(name, isa.device), isa, isa.lanes
        self.buffers = {n: self.code.parameter(n, size, dtype) for n, size, dtype in arguments}

    @contextmanager
    def rows(self, dims: tuple[int, ...], parallel: bool = False) -> Iterator[list[Any]]:
        """Loops over all dims; yields the coordinates."""
        with self.code.grid(dims, parallel=parallel) as where:
            yield where

    def start(self, where: list[Any], offset: int, strides: tuple[int, ...]) -> Any:
        """Flat index of the first column."""
        return self.code.bind("o", offset + sum(c * s for c, s in zip(where, strides, strict=True)))

    def columns(self, count: int, body: Callable[[Any, int], None]) -> None:
        """Call ``body(first column, ragged)`` for whole vectors in a loop, then for what is left."""
        full, rest = divmod(count, self.lanes)
        if full:
            with self.code.loop(full) as index:
                body(index * self.lanes, 0)
        if rest:
            body(tirx.const(full * self.lanes, "int32"), rest)

    def load(self, name: str, source: Source, start: Any, column: Any) -> Any:
        """One vector of an operand as float32."""
        buffer, lanes = self.buffers[name], self.lanes
        if source.column == 0:
            return broadcast(buffer.vload([start]).astype("float32"), lanes)
        if source.column == 1 or lanes == 1:
            value = buffer.vload([start + column * source.column], vector(source.dtype, lanes))
        else:
            value = buffer.vload([tirx.Ramp(start + column * source.column, source.column, lanes)])
        return value.astype(vector("float32", lanes))

    def horizontal(self, value: Any, combine: Callable[[Any, Any], Any]) -> Any:
        """All lanes combined into one scalar."""
        total = value if self.lanes == 1 else tirx.Shuffle([value], [0])
        for lane in range(1, self.lanes):
            total = combine(total, tirx.Shuffle([value], [lane]))
        return self.code.bind("h", total)

    def mask(self, value: Any, ragged: int, neutral: float) -> Any:
        """``neutral`` in the lanes that lie past the last column."""
        if not ragged:
            return value
        inside = tirx.Ramp(tirx.const(0, "int32"), tirx.const(1, "int32"), self.lanes)
        fill = constant(neutral, "float32", self.lanes)
        return tirx.Select(inside < constant(ragged, "int32", self.lanes), value, fill)

    def finish(
        self, node: Node, first: Any, operands: tuple[Source, ...], starts: list[Any], column: Any
    ) -> Evaluator:
        """Evaluator whose leaf 0 is ``first`` and whose other leaves are operands."""

        def leaves(index: int) -> Any:
            if index == 0:
                return first
            return self.load(f"operand{index - 1}", operands[index - 1], starts[index - 1], column)

        return Evaluator(self.code, self.isa, leaves)

    def put(self, sink: Sink, start: Any, column: Any, value: Any, ragged: int) -> None:
        """Store one vector of the result."""
        value = self.code.bind("r", value.astype(vector(sink.dtype, self.lanes)))
        if sink.column == 1:
            store_lanes(self.code, self.buffers["out"], start + column, value, ragged)
            return
        for lane in range(ragged or self.lanes):
            item = value if self.lanes == 1 else tirx.Shuffle([value], [lane])
            self.code.store(self.buffers["out"], start + (column + lane) * sink.column, item)


def operand_arguments(operands: tuple[Source, ...], sink: Sink) -> list[tuple[str, int, str]]:
    """Parameters of a kernel with these operands and one result."""
    listed = [(f"operand{i}", source.elements, source.dtype) for i, source in enumerate(operands)]
    return [*listed, ("out", sink.elements, sink.dtype)]


@dataclass(frozen=True)
class Pool:
    """Maximum or mean over ``window`` (extent, input stride) loops; ``limits`` keeps windows inside.

    ``limits[i]`` is (dim, stride, padding, extent) of window i: position ``dim * stride - padding + window``
    must lie in [0, extent); None where the window never leaves.
    """

    dims: tuple[int, ...]
    columns: int
    window: tuple[tuple[int, int], ...]
    limits: tuple[tuple[int, int, int, int] | None, ...]
    mean: bool
    divisor: float
    operands: tuple[Source, ...]
    sink: Sink

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        return operand_arguments(self.operands, self.sink)

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``."""
        writer = Rows(name, isa, self.arguments(isa))
        code, lanes, source = writer.code, isa.lanes, self.operands[0]
        with writer.rows(self.dims) as where:
            start = writer.start(where, source.offset, source.strides)
            out = writer.start(where, self.sink.offset, self.sink.strides)
            neutral = constant(0.0 if self.mean else -3.4e38, "float32", lanes)

            def body(column: Any, ragged: int) -> None:
                state = code.scratch("state", 1, vector("float32", lanes))
                code.store(state, 0, neutral)
                with ExitStack() as stack:
                    offset: Any = start
                    for (extent, stride), limit in zip(self.window, self.limits, strict=True):
                        index = stack.enter_context(code.loop(extent))
                        offset = offset + index * stride
                        if limit is not None:
                            dim, step, padding, size = limit
                            place = where[dim] * step + index - padding
                            stack.enter_context(code.when(tirx.And(place >= 0, place < size)))
                    value = writer.load("operand0", source, offset, column)
                    old = state.vload([0])
                    code.store(state, 0, old + value if self.mean else tirx.max(old, value))
                value = state.vload([0])
                if self.mean:
                    value = value * constant(1.0 / self.divisor, "float32", lanes)
                writer.put(self.sink, out, column, value, ragged)

            writer.columns(self.columns, body)
        return code.function()


@dataclass(frozen=True)
class Gather:
    """``out[row, j] = operand[row start + table[j] ]`` (columns of codes), or rows of an embedding.

    With ``by_row`` the table holds one int64 for each row and selects rows of ``pitch`` elements.
    """

    dims: tuple[int, ...]
    columns: int
    by_row: bool
    rows_in_table: int
    operands: tuple[Source, ...]
    sink: Sink

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        source, table = self.operands
        return [
            ("operand0", source.elements, source.dtype),
            ("table", table.elements, table.dtype),
            ("out", self.sink.elements, self.sink.dtype),
        ]

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``; row numbers outside the table are clamped into it."""
        writer = Rows(name, isa, self.arguments(isa))
        code, (source, table) = writer.code, self.operands
        operand, indices, out = (writer.buffers[n] for n in ("operand0", "table", "out"))
        with writer.rows(self.dims) as where:
            start = writer.start(where, source.offset, source.strides)
            target = writer.start(where, self.sink.offset, self.sink.strides)
            if self.by_row:
                index = indices.vload([writer.start(where, table.offset, table.strides)]).astype("int32")
                limit = tirx.const(self.rows_in_table - 1, "int32")
                index = tirx.max(tirx.min(index, limit), tirx.const(0, "int32"))
                start = code.bind("g", start + index * self.columns)
            with code.loop(self.columns) as column:
                place = column if self.by_row else indices.vload([table.offset + column])
                code.store(out, target + column, operand.vload([start + place]).astype(self.sink.dtype))
        return code.function()
