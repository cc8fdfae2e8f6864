"""Log2 and log-sqrt2 codes of attention weights (RepQ-ViT, RepQuant): quantizer, codes from float bits, powers.

    q = clip(round(-steps log2(A / s)))      A_hat = s 2^(-q / steps)      steps per octave: 2 (log-sqrt2) or 1 (log2)

Codes are read off the bits of the float32 ratio A / s = m 2^e, 1 <= m < 2: round(-steps log2) is -steps e less the
number of thresholds 2^((t - 1/2) / steps) that m reaches. They are irrational, so no value lies on one, and no
logarithm has to be computed the same way everywhere.

In integers a code is a shift: with h = q // steps, octave block o = h // 8 and parity p = q mod steps,

    A_hat = s 2^(-8 o - 7) 2^(-p / steps) P,      P = 2^(7 - h mod 8), one byte

so the sum over one (o, p) is an integer sum of shifted values: two accumulators for log-sqrt2 codes up to 4 bits, one
for log2 up to 3 bits. Values below 2^-16 s, which only codes of 6 bits and more can name, count as zero in integers.
"""
# pyright: basic
# torch's stubs leave most tensor methods untyped.

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quant.errors import QuantError

ZeroMode = Literal["strict", "extended"]
SQRT2 = 2.0**0.5
BLOCK = 8
"""Octaves whose powers fit one unsigned byte."""
OCTAVES = 16
"""Octaves that the integer form keeps."""


def thresholds(steps: int) -> tuple[int, ...]:
    """Mantissa bits from which the code is one less, two less, ..."""
    return tuple(math.ceil((2.0 ** ((t - 0.5) / steps) - 1.0) * 2**23) for t in range(1, steps + 1))


def log_codes(values: Tensor, scale: Tensor | float, levels: int, steps: int) -> Tensor:
    """Codes 0..levels as int32; ``levels`` stands for zero and takes everything below the smallest level."""
    ratio = values.to(torch.float32) / scale
    bits = ratio.view(torch.int32)
    codes = steps * (127 - (bits >> 23))
    for limit in thresholds(steps):
        codes = codes - ((bits & 0x7FFFFF) >= limit).to(torch.int32)
    return torch.where(ratio > 0, codes.clamp(0, levels), levels)


def groups(levels: int, steps: int) -> int:
    """Accumulators of the integer form: one for each parity of each block of octaves."""
    return steps * -(-levels // (BLOCK * steps))


def powers(levels: int, steps: int) -> list[list[int]]:
    """For each accumulator the byte that every code 0..levels multiplies with."""
    table = [[0] * (levels + 1) for _ in range(groups(levels, steps))]
    for code in range(levels):
        octave, parity = divmod(code, steps)
        table[octave // BLOCK * steps + parity][code] = 1 << (BLOCK - 1 - octave % BLOCK)
    return table


def factors(levels: int, steps: int) -> list[float]:
    """What each accumulator counts, in units of the scale (exact float32 numbers)."""
    root = float(torch.tensor(SQRT2, dtype=torch.float32)) / 2
    return [
        2.0 ** -(BLOCK * (group // steps) + BLOCK - 1) * (root if group % steps else 1.0)
        for group in range(groups(levels, steps))
    ]


@dataclass(frozen=True)
class LogQuantizer:
    """Scale, width, zero handling and steps per octave of one attention map.

    *strict* keeps b bits, 2^b - 1 levels and one code for zero; *extended* is the authors' code, 2^b levels plus a
    zero that b bits cannot hold.
    """

    scale: float
    bits: int
    zero: ZeroMode = "strict"
    steps: int = 2

    def __post_init__(self) -> None:
        """Reject what has no logarithm or no code."""
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise QuantError(f"log quantizer: scale must be positive and finite, got {self.scale}")
        if not 2 <= self.bits <= 16 or self.steps not in (1, 2) or self.zero not in ("strict", "extended"):
            raise QuantError(
                f"log quantizer: {self.bits} bits, zero {self.zero!r}, {self.steps} steps per octave; "
                "use 2 to 16 bits, strict or extended, 1 or 2 steps"
            )

    @property
    def levels(self) -> int:
        """Codes 0..levels-1 stand for powers; code ``levels`` stands for zero."""
        return 2**self.bits - 1 if self.zero == "strict" else 2**self.bits

    @property
    def integer_levels(self) -> int:
        """Levels that the integer form keeps; the others are zero there."""
        return min(self.levels, OCTAVES * self.steps)

    @property
    def span(self) -> int:
        """Largest integer a code multiplies with."""
        return 1 << (BLOCK - 1)

    def encode(self, values: Tensor) -> Tensor:
        """Codes as int32; zero and everything below the smallest level become the zero code."""
        return log_codes(values, self.scale, self.levels, self.steps)

    def decode(self, codes: Tensor) -> Tensor:
        """``s 2^(-q / steps)`` in float32, by the parity of the code: exact powers of two, one constant sqrt2."""
        up = torch.div(codes + (self.steps - 1), self.steps, rounding_mode="floor")
        scale = torch.tensor(self.scale, dtype=torch.float32)
        odd = torch.remainder(codes, self.steps) == 1
        factor = torch.where(odd, scale * torch.tensor(SQRT2, dtype=torch.float32), scale)
        power = torch.exp2(-up.to(torch.float32))
        return torch.where(codes >= self.levels, torch.zeros_like(power), factor * power)

    def fake(self, values: Tensor) -> Tensor:
        """Quantize and dequantize, gradient passed straight through."""
        out = self.decode(self.encode(values.detach().float())).to(values.dtype)
        return values + (out - values).detach()
