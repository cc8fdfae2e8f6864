"""Writes steps: turns waiting values into kernels and buffers.

`Emitter` owns the program under construction. Its central operation is `into(value, destination)`: whatever
the value is, one kernel writes it to a strided destination of any type; `view(value)` picks the destination.
"""
# pyright: basic

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hwsim.compile.build import Kernel
from hwsim.compile.expr import Node, const, leaf, op, remap
from hwsim.compile.isa import Isa
from hwsim.compile.program import Buffer, Program, Step, constant
from hwsim.compile.rowwise import Elementwise
from hwsim.compile.values import (
    Const,
    Lazy,
    Pending,
    Shape,
    Value,
    View,
    collapse,
    ordered_strides,
    row_major,
)
from hwsim.compile.vector import Sink, Source

_NUMPY = {torch.float32: np.float32, torch.int64: np.int64, torch.int32: np.int32}


def source_of(view: View, strides: Sequence[int], column: int) -> Source:
    """An operand of a vector kernel."""
    return Source(view.buffer.elements, view.offset, tuple(strides), column, view.buffer.dtype)


def sink_of(view: View, strides: Sequence[int], column: int) -> Sink:
    """The destination of a vector kernel."""
    return Sink(view.buffer.elements, view.offset, tuple(strides), column, view.buffer.dtype)


class Emitter:
    """The program under construction for one machine."""

    def __init__(self, isa: Isa, units: int = 1, ways: Mapping[str, str] | None = None) -> None:
        self.isa, self._units, self._ways = isa, units, ways or {}
        self.program = Program()
        self.layer = ""
        self._constants: dict[str, View] = {}
        self._counter = 0

    @property
    def units(self) -> int:
        """Cores that the current layer is spread over."""
        return 1 if self._ways.get(self.layer) == "single" else self._units

    @property
    def parallel(self) -> bool:
        """Whether the current layer is spread over cores."""
        return self.units > 1

    @property
    def by_terms(self) -> bool:
        """Whether the current layer's terms go to different cores."""
        return self.parallel and self._ways.get(self.layer) == "terms"

    def work(self, elements: int, dtype: str = "float32") -> Buffer:
        """A fresh intermediate buffer."""
        self._counter += 1
        return Buffer(f"w{self._counter}", elements, dtype, "work")

    def step(
        self, kernel: Kernel, buffers: Sequence[Buffer], written: Sequence[int] = (-1,), macs: int = 0
    ) -> None:
        """Append one kernel call; the sizes must be what the kernel declares."""
        wanted = [(size, dtype) for _, size, dtype in kernel.arguments(self.isa)]
        given = [(b.elements, b.dtype) for b in buffers]
        if wanted != given:
            raise AssertionError(f"{self.layer}: {type(kernel).__name__} wants {wanted}, gets {given}")
        places = tuple(sorted(w % len(buffers) for w in written))
        self.program.steps.append(Step(kernel, tuple(buffers), self.layer, places, macs))

    def stored(self, const: Const) -> View:
        """The constant as a buffer (made once); booleans become 0 and 1."""
        if const.name not in self._constants:
            tensor = const.tensor.detach()
            if tensor.dtype not in _NUMPY:
                tensor = tensor.to(torch.float32)
            buffer = constant(const.name, tensor.contiguous().numpy())
            self._constants[const.name] = View(buffer, 0, const.shape, row_major(const.shape))
        return self._constants[const.name]

    def view(self, value: Value) -> View:
        """The value in a buffer, wherever its own order puts it."""
        if isinstance(value, View):
            return value
        if isinstance(value, Const):
            return self.stored(value)
        order = value.order if isinstance(value, Pending) else _order_of(value)
        return self.stored_in_order(value, order)

    def stored_in_order(self, value: Value, order: Shape) -> View:
        """The value in a fresh dense buffer with its axes in ``order``, slowest first."""
        size = int(np.prod(value.shape, dtype=np.int64))
        view = View(self.work(size), 0, value.shape, ordered_strides(value.shape, order))
        self.into(value, view)
        return view

    def dense(self, value: Value) -> View:
        """The value row-major without gaps."""
        if isinstance(value, Const | View):
            view = self.view(value)
            if view.dense():
                return view
        return self.stored_in_order(value, tuple(range(len(value.shape))))

    def into(self, value: Value, destination: View) -> None:
        """Write the value to ``destination``."""
        if isinstance(value, Pending):
            fastest = value.order[-1]
            if destination.strides[fastest] != 1 and destination.shape[fastest] > 1:
                self.into(self.view(value), destination)
            else:
                value.emit(value.node, value.leaves, destination)
        elif isinstance(value, Lazy):
            self.elementwise(value.node, value.leaves, destination)
        else:
            view = self.view(value)
            self.elementwise(leaf(1), (view.broadcast(destination.shape),), destination)

    def lazy(self, value: Value) -> Lazy:
        """Any stored or lazy value as a tree."""
        if isinstance(value, Lazy):
            return value
        view = self.view(value)
        return Lazy(view.shape, leaf(1), (view,))

    def elementwise(self, node: Node, leaves: Sequence[View], destination: View) -> None:
        """One kernel for a tree of operands that are already broadcast to the destination's shape."""
        last = _column_axis(destination, leaves, self.isa.lanes)
        axes = [axis for axis in range(len(destination.shape)) if axis != last]
        axes.sort(key=lambda axis: -destination.strides[axis])
        if last is not None:
            axes.append(last)
        dims = collapse(
            [
                (destination.shape[a], (destination.strides[a], *(view.strides[a] for view in leaves)))
                for a in axes
            ]
        )
        *outer, (columns, inner) = dims or [(1, (1, *(0 for _ in leaves)))]
        sources = tuple(
            source_of(view, [strides[i + 1] for _, strides in outer], inner[i + 1])
            for i, view in enumerate(leaves)
        )
        sink = sink_of(destination, [strides[0] for _, strides in outer], inner[0])
        kernel = Elementwise(
            tuple(extent for extent, _ in outer), columns, node, sources, sink, self.parallel
        )
        self.step(kernel, [*(view.buffer for view in leaves), destination.buffer])

    def fitted(self, leaves: tuple[View, ...], column: int) -> tuple[View, ...]:
        """Operands whose column is contiguous or constant; the others are copied so."""
        result: list[View] = []
        for view in leaves:
            if view.strides[column] not in (0, 1) and view.shape[column] > 1:
                axes = sorted(range(len(view.shape)), key=lambda a: (a == column, a))
                view = self.stored_in_order(view, tuple(axes))
            result.append(view)
        return tuple(result)

    def fill(self, buffer: Buffer, value: int) -> None:
        """Set every element of a buffer."""
        window = View(buffer, 0, (buffer.elements,), (1,))
        self.elementwise(const(float(value)), (), window)


def _order_of(value: Lazy) -> Shape:
    """Axes slowest first, as in the first leaf that covers the whole shape."""
    for view in value.leaves:
        if all(stride or size == 1 for size, stride in zip(view.shape, view.strides, strict=True)):
            return tuple(sorted(range(len(view.shape)), key=lambda axis: -view.strides[axis]))
    return tuple(range(len(value.shape)))


def _column_axis(destination: View, leaves: Sequence[View], lanes: int) -> int | None:
    """Axis for the vectors: where the destination is dense, unless that axis is short and another is not."""
    sizes = range(len(destination.shape))
    dense = [a for a in sizes if destination.strides[a] == 1 and destination.shape[a] > 1]
    if dense and destination.shape[dense[0]] >= lanes:
        return dense[0]
    read = [
        a for a in sizes if destination.shape[a] >= lanes and any(view.strides[a] == 1 for view in leaves)
    ]
    if read:
        return read[0]
    return dense[0] if dense else None


def join(node: Node, offset: int) -> Node:
    """Shift every leaf but leaf 0 by ``offset`` places."""
    return remap(node, lambda index: leaf(index if index == 0 else index + offset))


def combine(name: str, arguments: Sequence[Node | float], settings: tuple[float, ...] = ()) -> Node:
    """An operator node over nodes and numbers."""
    made = op(name, *arguments)
    return Node(made.op, made.args, settings) if settings else made
