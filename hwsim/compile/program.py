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
    """One kernel call for one layer; ``macs`` of the mathematical product, all terms, without padding."""

    kernel: Kernel
    buffers: tuple[Buffer, ...]
    layer: str
    written: tuple[int, ...]
    macs: int = 0


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


def plan_memory(program: Program) -> tuple[dict[Buffer, int], int]:
    """Offsets of the work buffers in one arena, and its size: largest first, lowest place that is free."""
    spans = lifetimes(program)
    placed: list[tuple[int, int, tuple[int, int]]] = []
    offsets: dict[Buffer, int] = {}
    total = 0
    for buffer, span in sorted(spans.items(), key=lambda item: (-item[0].bytes, item[1])):
        size = -(-(buffer.bytes + SLACK) // ALIGNMENT) * ALIGNMENT
        offset = 0
        for start, end, other in sorted(placed):
            if other[1] < span[0] or span[1] < other[0]:
                continue
            if offset + size <= start:
                break
            offset = max(offset, end)
        placed.append((offset, offset + size, span))
        offsets[buffer] = offset
        total = max(total, offset + size)
    return offsets, total


def constant(name: str, array: np.ndarray) -> Buffer:
    """A constant buffer of the flattened array."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return Buffer(name, flat.size, str(flat.dtype), "constant", flat)
