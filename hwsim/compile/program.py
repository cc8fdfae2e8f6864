"""The lowered model: a flat list of kernel calls on buffers, and the memory plan that packs them.

A `Program` has no control flow and no shapes to infer at run time: every step is one kernel on whole flat
buffers, every view is a static offset inside a kernel. The runner in Python, the one in C and the proof of
integers all read the same list.
"""
# pyright: basic

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hwsim.compile.build import Kernel

ALIGNMENT = 64
SLACK = 64
Kind = Literal["input", "constant", "work"]


@dataclass(eq=False)
class Buffer:
    """A flat array; ``data`` only for constants."""

    name: str
    elements: int
    dtype: str
    kind: Kind
    data: np.ndarray | None = None

    @property
    def bytes(self) -> int:
        """Bytes without slack."""
        return self.elements * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, eq=False)
class Step:
    """One kernel call for one layer; ``macs`` of the mathematical product, all terms, without padding.

    Neighbouring steps with a ``unit`` form a block: the steps of one unit run in order, the units side by side.
    A step of unit -1 waits for all before it.
    """

    kernel: Kernel
    buffers: tuple[Buffer, ...]
    layer: str
    written: tuple[int, ...]
    macs: int = 0
    unit: int = -1


@dataclass(frozen=True)
class Port:
    """An input or output of the model."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: Buffer


@dataclass
class Program:
    """Steps in order, with inputs and outputs."""

    steps: list[Step] = field(default_factory=list)
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)

    def buffers(self) -> list[Buffer]:
        """All buffers in order of first use."""
        seen: dict[Buffer, None] = {}
        for port in self.inputs:
            seen.setdefault(port.buffer)
        for step in self.steps:
            for buffer in step.buffers:
                seen.setdefault(buffer)
        for port in self.outputs:
            seen.setdefault(port.buffer)
        return list(seen)

    def constants(self) -> list[Buffer]:
        """Constant buffers."""
        return [buffer for buffer in self.buffers() if buffer.kind == "constant"]

    def kernels(self) -> list[Kernel]:
        """Distinct kernels."""
        return list(dict.fromkeys(step.kernel for step in self.steps))


def lifetimes(program: Program) -> dict[Buffer, tuple[int, int]]:
    """First and last step that touches each work buffer; outputs live to the end."""
    spans: dict[Buffer, tuple[int, int]] = {}
    for index, step in enumerate(program.steps):
        for buffer in step.buffers:
            if buffer.kind == "work":
                spans[buffer] = (spans.get(buffer, (index, index))[0], index)
    for port in program.outputs:
        if port.buffer.kind == "work":
            spans[port.buffer] = (spans[port.buffer][0], len(program.steps))
    return spans


def side_by_side(program: Program) -> dict[Buffer, dict[int, set[int]]]:
    """For each work buffer the blocks of units it is used in, and by which units there."""
    used: dict[Buffer, dict[int, set[int]]] = {}
    block, before = 0, -1
    for step in program.steps:
        block, before = block + (min(before, step.unit) < 0), step.unit
        if step.unit >= 0:
            for buffer in step.buffers:
                used.setdefault(buffer, {}).setdefault(block, set()).add(step.unit)
    return used


def plan_memory(program: Program) -> tuple[dict[Buffer, int], int]:
    """Offsets of the work buffers in one arena, and its size: largest first, lowest place that is free."""
    spans, units = lifetimes(program), side_by_side(program)
    placed: list[tuple[int, int, Buffer]] = []
    offsets: dict[Buffer, int] = {}
    total = 0

    def apart(one: Buffer, two: Buffer) -> bool:
        """Whether the two are never needed at the same time: units of one block know no order."""
        if spans[one][1] >= spans[two][0] and spans[two][1] >= spans[one][0]:
            return False
        mine, other = units.get(one, {}), units.get(two, {})
        return all(len(mine[block] | other[block]) == 1 for block in mine.keys() & other.keys())

    for buffer in sorted(spans, key=lambda b: (-b.bytes, spans[b])):
        size = -(-(buffer.bytes + SLACK) // ALIGNMENT) * ALIGNMENT
        offset = 0
        for start, end, other in sorted(placed, key=lambda entry: entry[:2]):
            if apart(buffer, other):
                continue
            if offset + size <= start:
                break
            offset = max(offset, end)
        placed.append((offset, offset + size, buffer))
        offsets[buffer] = offset
        total = max(total, offset + size)
    return offsets, total


def constant(name: str, array: np.ndarray) -> Buffer:
    """A constant buffer of the flattened array."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return Buffer(name, flat.size, str(flat.dtype), "constant", flat)
