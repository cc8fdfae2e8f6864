"""Vector work: elementwise chains, norms, softmax, pooling, gathers, each a kernel with a fused epilogue.

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


class _Rows:
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

        return Evaluator(self.code, self.lanes, leaves)

    def put(self, sink: Sink, start: Any, column: Any, value: Any, ragged: int) -> None:
        """Store one vector of the result."""
        value = self.code.bind("r", value.astype(vector(sink.dtype, self.lanes)))
        if sink.column == 1:
            store_lanes(self.code, self.buffers["out"], start + column, value, ragged)
            return
        for lane in range(ragged or self.lanes):
            item = value if self.lanes == 1 else tirx.Shuffle([value], [lane])
            self.code.store(self.buffers["out"], start + (column + lane) * sink.column, item)


def _operands(operands: tuple[Source, ...], sink: Sink) -> list[tuple[str, int, str]]:
    listed = [(f"operand{i}", source.elements, source.dtype) for i, source in enumerate(operands)]
    return [*listed, ("out", sink.elements, sink.dtype)]


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
        return _operands(self.operands, self.sink)

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``."""
        writer = _Rows(name, isa, self.arguments(isa))
        with writer.rows(self.dims, self.parallel) as where:
            starts = [writer.start(where, s.offset, s.strides) for s in self.operands]
            out = writer.start(where, self.sink.offset, self.sink.strides)

            def body(column: Any, ragged: int) -> None:
                value = writer.finish(self.epilogue, None, self.operands, starts, column)(self.epilogue)
                writer.put(self.sink, out, column, value, ragged)

            writer.columns(self.columns, body)
        return writer.code.function()


@dataclass(frozen=True)
class LayerNorm:
    """``(x - mean) / sqrt(var + eps)`` over the column, then the epilogue (weight, bias, quantize, ...).

    Operand 0 is x; leaf 0 of the epilogue is the normalized value, leaf i + 1 is operand i.
    """

    dims: tuple[int, ...]
    columns: int
    epsilon: float
    epilogue: Node
    operands: tuple[Source, ...]
    sink: Sink
    parallel: bool = False

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        return _operands(self.operands, self.sink)

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``: mean, then centred squares (two passes: no cancellation), then the result."""
        writer = _Rows(name, isa, self.arguments(isa))
        code, lanes = writer.code, isa.lanes
        with writer.rows(self.dims, self.parallel) as where:
            starts = [writer.start(where, s.offset, s.strides) for s in self.operands]
            out = writer.start(where, self.sink.offset, self.sink.strides)
            total = code.scratch("total", 1, vector("float32", lanes))

            def reduce(term: Callable[[Any], Any]) -> Any:
                code.store(total, 0, constant(0.0, "float32", lanes))

                def body(column: Any, ragged: int) -> None:
                    x = code.bind("x", writer.load("operand0", self.operands[0], starts[0], column))
                    code.store(total, 0, total.vload([0]) + writer.mask(term(x), ragged, 0.0))

                writer.columns(self.columns, body)
                summed = writer.horizontal(code.bind("s", total.vload([0])), lambda a, b: a + b)
                return code.bind("u", summed * tirx.const(1.0 / self.columns, "float32"))

            mean = broadcast(reduce(lambda x: x), lanes)
            variance = reduce(lambda x: (x - mean) * (x - mean))
            root = tirx.sqrt(variance + tirx.const(self.epsilon, "float32"))
            inverse = broadcast(code.bind("v", tirx.div(tirx.const(1.0, "float32"), root)), lanes)

            def body(column: Any, ragged: int) -> None:
                x = writer.load("operand0", self.operands[0], starts[0], column)
                first = code.bind("n", (x - mean) * inverse)
                value = writer.finish(self.epilogue, first, self.operands, starts, column)(self.epilogue)
                writer.put(self.sink, out, column, value, ragged)

            writer.columns(self.columns, body)
        return code.function()


@dataclass(frozen=True)
class Softmax:
    """Softmax over the column, then the epilogue; operand 0 is x, leaf 0 the probability.

    ``prologue`` is applied to x first (leaf 0 is operand 0, leaf i + 1 operand i): scaling and masks.
    """

    dims: tuple[int, ...]
    columns: int
    prologue: Node
    epilogue: Node
    operands: tuple[Source, ...]
    sink: Sink
    parallel: bool = False

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        return _operands(self.operands, self.sink)

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``; one row of exponentials is kept on the stack."""
        writer = _Rows(name, isa, self.arguments(isa))
        code, lanes = writer.code, isa.lanes
        with writer.rows(self.dims, self.parallel) as where:
            starts = [writer.start(where, s.offset, s.strides) for s in self.operands]
            out = writer.start(where, self.sink.offset, self.sink.strides)
            row = code.scratch("row", -(-self.columns // lanes), vector("float32", lanes))
            state = code.scratch("state", 1, vector("float32", lanes))
            code.store(state, 0, constant(-3.4e38, "float32", lanes))

            def highest(column: Any, ragged: int) -> None:
                x = code.bind("x", writer.load("operand0", self.operands[0], starts[0], column))
                x = writer.finish(self.prologue, x, self.operands, starts, column)(self.prologue)
                x = code.bind("k", writer.mask(x, ragged, -3.4e38))
                code.store(row, tirx.floordiv(column, lanes), x)
                code.store(state, 0, tirx.max(state.vload([0]), x))

            writer.columns(self.columns, highest)
            peak = broadcast(writer.horizontal(code.bind("p", state.vload([0])), tirx.max), lanes)
            code.store(state, 0, constant(0.0, "float32", lanes))

            def exponential(column: Any, ragged: int) -> None:
                index = tirx.floordiv(column, lanes)
                argument = code.bind("d", row.vload([index]) - peak)
                value = Evaluator(code, lanes, lambda _: argument)(Node("exp", (Node("leaf", value=(0,)),)))
                value = code.bind("e", writer.mask(value, ragged, 0.0))
                code.store(row, index, value)
                code.store(state, 0, state.vload([0]) + value)

            writer.columns(self.columns, exponential)
            total = writer.horizontal(code.bind("s", state.vload([0])), lambda a, b: a + b)
            inverse = broadcast(code.bind("i", tirx.div(tirx.const(1.0, "float32"), total)), lanes)

            def body(column: Any, ragged: int) -> None:
                first = code.bind("n", row.vload([tirx.floordiv(column, lanes)]) * inverse)
                value = writer.finish(self.epilogue, first, self.operands, starts, column)(self.epilogue)
                writer.put(self.sink, out, column, value, ragged)

            writer.columns(self.columns, body)
        return code.function()


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
        return _operands(self.operands, self.sink)

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``."""
        writer = _Rows(name, isa, self.arguments(isa))
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
        writer = _Rows(name, isa, self.arguments(isa))
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
                code.store(out, target + column, operand.vload([start + place]))
        return code.function()
