"""A small statement builder for TensorIR: Python loops write the unrolled code, `Code` nests the rest.

TVMScript parses a fixed text; our kernels differ in the number of operands, vectors and epilogue steps, so
they are generated. Every kernel works on flat one-dimensional buffers and static affine offsets: a strided
view of an activation is then only another offset expression.
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any

import tvm
from tvm import tirx as _tirx

# TVM's annotations refuse the Python numbers that its converters take, so its classes are untyped here.
tirx: Any = _tirx
Expr = Any
Buffer = Any
PrimFunc = Any
Var = Any


BLOCK = 128  # threads of a block on a graphics processor


class Code:
    """One function under construction: parameters, nested statements, scratch.

    On a graphics processor (``device``) every `grid` becomes a kernel of its own, one thread for each turn.
    """

    def __init__(self, name: str, device: bool = False) -> None:
        self.name, self.device = name, device
        self.launches: list[tuple[int, int]] = []  # blocks, threads of each
        self.parameters: list[Var] = []
        self._stack: list[list[Any]] = [[]]
        self._counter = 0

    def _fresh(self, stem: str) -> str:
        self._counter += 1
        return f"{stem}{self._counter}"

    def parameter(self, name: str, elements: int, dtype: str) -> Buffer:
        """Declare the next parameter: a flat buffer of ``elements``."""
        buffer = tirx.decl_buffer((elements,), dtype, name=name, data_alignment=64)
        self.parameters.append(buffer)
        return buffer

    def scratch(self, name: str, elements: int, dtype: str, *, shared: bool = False) -> Buffer:
        """Small constant-size memory: in registers, on the stack, or ``shared`` by the threads of a block."""
        scope = ("shared" if shared else "local") if self.device else ""
        buffer = tirx.decl_buffer((elements,), dtype, name=self._fresh(name), scope=scope)
        self.emit(tirx.AllocBuffer(buffer, {"disable_lower_builtin": tirx.const(1, "bool")}))
        return buffer

    def emit(self, statement: Any) -> None:
        """Append one statement at the current nesting."""
        self._stack[-1].append(statement)

    def store(self, buffer: Buffer, index: Expr, value: Expr) -> None:
        """Store a scalar or a vector (a vector covers consecutive elements)."""
        self.emit(buffer.vstore([index], value))

    def prefetch(self, buffer: Buffer, index: Expr) -> None:
        """Ask for the cache line of one element, to be written."""
        address = tirx.address_of(buffer.vload([index]))
        hints = [tirx.const(hint, "int32") for hint in (1, 3, 1)]  # to write, keep in all levels, data
        self.emit(tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, *hints)))

    def bind(self, stem: str, value: Expr) -> Var:
        """Name a value so that it is computed once; numbers need no name."""
        if isinstance(value, int):
            return tirx.const(value, "int32")
        variable = tirx.Var(self._fresh(stem), value.ty)
        self.emit(tirx.Bind(variable, value))
        return variable

    @contextmanager
    def loop(self, extent: int, *, parallel: bool = False, unroll: bool = False) -> Iterator[Expr]:
        """A counted loop; a loop of one turn leaves no trace but the constant 0."""
        if extent == 1:
            yield tirx.const(0, "int32")
            return
        variable = tirx.Var(self._fresh("i"), "int32")
        self._stack.append([])
        yield variable
        body = _sequence(self._stack.pop())
        kind = tirx.ForKind.UNROLLED if unroll else tirx.ForKind.PARALLEL if parallel else tirx.ForKind.SERIAL
        self.emit(tirx.For(variable, 0, extent, kind, body))

    @contextmanager
    def taps(self, taps: Sequence[tuple[int, int]]) -> Iterator[tuple[Expr, Expr]]:
        """A loop for each (count, stride) of a kernel window: how far the input moves, and the number of the tap."""
        with ExitStack() as stack:
            offset: Expr = 0
            number: Expr = 0
            for count, stride in taps:
                index = stack.enter_context(self.loop(count))
                offset, number = offset + index * stride, number * count + index
            yield offset, number

    @contextmanager
    def grid(self, extents: Sequence[int], *, parallel: bool = False) -> Iterator[list[Expr]]:
        """Outer loops, the first over cores if asked; on a graphics processor one thread for each turn."""
        if not self.device:
            with ExitStack() as stack:
                yield [
                    stack.enter_context(self.loop(extent, parallel=parallel and index == 0))
                    for index, extent in enumerate(extents)
                ]
            return
        count = prod(extents)
        with self.blocks(-(-count // BLOCK), BLOCK) as (block, thread):
            turn = self.bind("turn", block * BLOCK + thread)
            with self.when(turn < count):
                yield self.coordinates(turn, extents)

    @contextmanager
    def blocks(self, count: int, threads: int) -> Iterator[tuple[Expr, Expr]]:
        """A kernel of its own on a graphics processor: yields the number of the block and of the thread in it."""
        block, thread = (tirx.Var(self._fresh(stem), "int32") for stem in ("block", "thread"))
        self._stack.append([])
        yield block, thread
        body = _sequence(self._stack.pop())
        for variable, tag, extent in ((thread, "threadIdx.x", threads), (block, "blockIdx.x", count)):
            span = tvm.ir.Range.from_min_extent(tirx.const(0, "int32"), tirx.const(extent, "int32"))
            bound = tirx.IterVar(span, variable, tirx.IterVar.ThreadIndex, tag)
            body = tirx.For(variable, 0, extent, tirx.ForKind.THREAD_BINDING, body, bound)
        self.launches.append((count, threads))
        self.emit(body)

    def coordinates(self, turn: Expr, extents: Sequence[int]) -> list[Expr]:
        """``turn`` counted through nested loops of these extents, the innermost first."""
        found: list[Expr] = []
        for extent in reversed(extents[1:]):
            found.insert(0, self.bind("d", tirx.floormod(turn, extent)))
            turn = self.bind("q", tirx.floordiv(turn, extent))
        return [turn, *found] if extents else []

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Statements that run only where ``condition`` holds."""
        self._stack.append([])
        yield
        self.emit(tirx.IfThenElse(condition, _sequence(self._stack.pop()), None))

    def function(self) -> PrimFunc:
        """The finished function, exported under its name."""
        function = tirx.PrimFunc(self.parameters, _sequence(self._stack[0]))
        attributes = {"global_symbol": self.name, "tirx.noalias": True, "s_tir": True}
        launches = [number for launch in self.launches for number in launch]
        return function.with_attr(attributes | ({"hwsim.launches": launches} if self.device else {}))


def _sequence(statements: list[Any]) -> Any:
    if not statements:
        return tirx.Evaluate(tirx.const(0, "int32"))
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


def vector(dtype: str, lanes: int) -> str:
    """Name of the vector type; one lane is the scalar."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def constant(value: float | int, dtype: str, lanes: int = 1) -> Expr:
    """A scalar constant, broadcast to ``lanes``."""
    scalar = tirx.const(value, dtype)
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)


def broadcast(value: Expr, lanes: int) -> Expr:
    """A scalar expression in every lane."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def compile_functions(functions: dict[str, PrimFunc], target: dict[str, Any], *, checks: bool = True) -> Any:
    """Compile functions into one runtime module for the described target; ``checks`` test every argument."""
    module = tvm.IRModule({tvm.ir.GlobalVar(name): function for name, function in functions.items()})
    # Storage rewriting merges the scratch of two tiles and loses the mark that keeps it in registers: the
    # accumulators would move to the heap, and the code would need the TVM runtime to allocate them.
    host = {"kind": "llvm"} if target["kind"] == "cuda" else None
    with tvm.transform.PassContext(
        opt_level=3, config={"tirx.disable_storage_rewrite": True, "tirx.disable_assert": not checks}
    ):
        return tvm.compile(module, target=tvm.target.Target(target, host=host))


def store_lanes(code: Code, buffer: Buffer, index: Expr, value: Expr, ragged: int) -> None:
    """Store a named vector, or only its first ``ragged`` lanes (0: all)."""
    if not ragged:
        code.store(buffer, index, value)
        return
    for lane in range(ragged):
        code.store(buffer, index + lane, tirx.Shuffle([value], [lane]))
