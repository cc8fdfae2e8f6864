"""What a node of the graph is during lowering: stored, or still waiting to be fused into something.

Const    a tensor known at compile time
View     a strided window of a buffer: permutations, slices and most reshapes cost nothing
Lazy     an elementwise tree over views that no kernel has computed yet
Pending  a kernel that is decided but not written yet, so that elementwise work can still join it
"""
# pyright: basic

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hwsim.compile.expr import Node
from hwsim.compile.program import Buffer

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Const:
    """A tensor known at compile time."""

    tensor: Tensor
    name: str

    @property
    def shape(self) -> Shape:
        """Logical shape."""
        return tuple(self.tensor.shape)


@dataclass(frozen=True)
class View:
    """A strided window of a buffer."""

    buffer: Buffer
    offset: int
    shape: Shape
    strides: Shape

    def broadcast(self, shape: Shape) -> "View":
        """The same values seen as ``shape``."""
        lead = len(shape) - len(self.shape)
        own = ((0,) * lead) + tuple(
            0 if size == 1 and wanted != 1 else stride
            for size, stride, wanted in zip(self.shape, self.strides, shape[lead:], strict=True)
        )
        return View(self.buffer, self.offset, shape, own)

    def meta(self) -> Tensor:
        """A tensor without data but with these strides: torch's own view operators then work on it."""
        base = torch.empty(self.buffer.elements, device="meta")
        return base.as_strided(self.shape, self.strides, self.offset)

    def dense(self) -> bool:
        """Whether the strides are those of the row-major shape."""
        return normal(self.shape, self.strides) == normal(self.shape, row_major(self.shape))


@dataclass(frozen=True)
class Sink:
    """Where a result goes: a window with a type."""

    view: View

    @property
    def dtype(self) -> str:
        """Element type."""
        return self.view.buffer.dtype


@dataclass(frozen=True)
class Lazy:
    """``node`` over ``leaves``: leaf(i + 1) is ``leaves[i]``, each already broadcast to ``shape``."""

    shape: Shape
    node: Node
    leaves: tuple[View, ...]


Emit = Callable[[Node, tuple[View, ...], View], None]
"""Write the kernel: epilogue (leaf 0 is its own result, leaf(i + 1) is ``leaves[i]``), leaves, destination."""


@dataclass(frozen=True)
class Pending:
    """A kernel that waits; ``order`` lists the axes of ``shape`` from slowest to fastest in memory."""

    shape: Shape
    order: Shape
    emit: Emit
    node: Node
    leaves: tuple[View, ...] = field(default=())


Value = Const | View | Lazy | Pending


def row_major(shape: Shape) -> Shape:
    """Strides of a dense row-major array."""
    return ordered_strides(shape, tuple(range(len(shape))))


def ordered_strides(shape: Shape, order: Shape) -> Shape:
    """Dense strides with the axes laid out in ``order``, slowest first."""
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


def normal(shape: Shape, strides: Shape) -> Shape:
    """Strides with those of axes of extent 1 set to 0: they never matter."""
    return tuple(0 if size == 1 else stride for size, stride in zip(shape, strides, strict=True))


def collapse(dims: list[tuple[int, tuple[int, ...]]]) -> list[tuple[int, tuple[int, ...]]]:
    """Merge neighbouring loops (outermost first) wherever all strides allow; drop loops of one turn."""
    result: list[tuple[int, tuple[int, ...]]] = []
    for extent, strides in dims:
        if extent == 1:
            continue
        if result:
            before, outer = result[-1]
            if all(o == s * extent for o, s in zip(outer, strides, strict=True)):
                result[-1] = (before * extent, strides)
                continue
        result.append((extent, strides))
    return result
