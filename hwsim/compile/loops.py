"""The loops of a product: how far the input, the destination and the epilogue's operands move in every turn."""

from collections.abc import Mapping, Sequence

from hwsim.compile.panels import Operand
from hwsim.compile.values import View, collapse, normal

Loop = tuple[int, tuple[int, ...]]
"""Turns, and the strides of input, destination and each leaf."""


def loops_over(
    shape: tuple[int, ...], reading: Mapping[int, int], destination: View, leaves: Sequence[View]
) -> list[Loop]:
    """A loop for each axis of the output in ``reading``, which names the stride of the input along it."""
    return [
        (shape[axis], (stride, destination.strides[axis], *(view.strides[axis] for view in leaves)))
        for axis, stride in reading.items()
    ]


def row_loops(
    shape: tuple[int, ...], reading: Mapping[int, int], destination: View, leaves: Sequence[View]
) -> list[Loop]:
    """The same, merged where all strides allow; one at least, for a product has a row."""
    return collapse(loops_over(shape, reading, destination, leaves)) or [(1, (0,) * (2 + len(leaves)))]


def group_loops(
    groups: int, channels: int, depth: int, destination: View, leaves: Sequence[View]
) -> list[Loop]:
    """The loop over the groups of a convolution: the next channels of input, output and leaves."""
    if groups == 1:
        return []
    return [(groups, (depth, *(channels * view.strides[1] for view in (destination, *leaves))))]


def own_strides(loops: Sequence[Loop]) -> tuple[tuple[int, int, int], ...]:
    """The loops as a kernel takes them: turns, strides of input and output."""
    return tuple((turns, strides[0], strides[1]) for turns, strides in loops)


def epilogue_operands(
    leaves: Sequence[View], column: int, rows: Sequence[Loop], batch: Sequence[Loop] = ()
) -> tuple[Operand, ...]:
    """Operands of the epilogue; ``column`` is the axis of the output columns."""
    return tuple(
        Operand(
            view.buffer.elements,
            view.offset,
            tuple(strides[2 + index] for _, strides in batch),
            tuple(strides[2 + index] for _, strides in rows),
            normal((view.shape[column],), (view.strides[column],))[0],
        )
        for index, view in enumerate(leaves)
    )
