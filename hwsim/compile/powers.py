"""Log codes of attention weights as bytes of powers of two, one plane for each accumulator (`quant.log_codes`).

A code q of ``steps`` per octave stands for a shift by h = q // steps. Plane (o, p) holds 2^(7 - h mod 8) where the code
lies in octave block o and has parity p, else 0. The product kernel reads the planes as so many rows of activations
beside each other (`product.Product.planes`): multiplying by a power of two in the dot product of bytes is the shift.
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from dataclasses import dataclass
from typing import Any

from hwsim.compile.builder import Code, PrimFunc, constant, tirx, vector
from hwsim.compile.isa import Isa

_BLOCK = 8


@dataclass(frozen=True)
class PowerPlanes:
    """``elements`` codes 0..``levels`` (``levels`` is zero) to planes, each as large as the codes."""

    elements: int
    levels: int
    steps: int
    parallel: bool = False

    @property
    def planes(self) -> int:
        """Planes: parities times blocks of octaves."""
        return self.steps * -(-self.levels // (_BLOCK * self.steps))

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        return [("codes", self.elements, "uint8"), ("out", self.planes * self.elements, "uint8")]

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``; the last vector overlaps the one before, so that nothing is stored past a plane."""
        code = Code(name, isa.device)
        codes, out = (code.parameter(n, size, t) for n, size, t in self.arguments(isa))
        width = 4 * isa.lanes if isa.lanes > 1 and self.elements >= 4 * isa.lanes else 1
        turns = -(-self.elements // width)
        with code.grid([turns], parallel=self.parallel) as (turn,):
            start = code.bind("s", tirx.min(turn * width, tirx.const(self.elements - width, "int32")))
            q = code.bind("q", codes.vload([start], vector("uint8", width)))
            octave = code.bind("h", q >> self._number(1, width) if self.steps == 2 else q)
            amount = (octave & self._number(7, width)) ^ self._number(7, width)
            power = code.bind("p", self._number(1, width) << amount)
            for plane in range(self.planes):
                value = tirx.Select(self._inside(q, plane, width), power, self._number(0, width))
                code.store(out, start + plane * self.elements, value)
        return code.function()

    def _number(self, value: int, width: int) -> Any:
        return constant(value, "uint8", width)

    def _inside(self, q: Any, plane: int, width: int) -> Any:
        """Whether the codes belong to a plane."""
        block, parity = divmod(plane, self.steps)
        first = block * _BLOCK * self.steps
        end = min(self.levels, first + _BLOCK * self.steps)
        inside = tirx.And(q >= self._number(first, width), q < self._number(end, width))
        if self.steps == 1:
            return inside
        return tirx.And(inside, (q & self._number(1, width)).equal(self._number(parity, width)))
