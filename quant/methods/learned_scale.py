"""Activation quantizer under training: learnable scale, straight-through codes, QDrop by element (methods.md 3.4).

The operator has a backward of its own, because the activations of a unit are what training spends its time on:
one saved tensor of codes and a dozen passes over memory instead of what autograd makes of the formula. With codes
``q = round(x / s)`` clipped to ``[low, high]`` the value is ``q s``; inside the range its derivative is 1 by x and
``q - x / s`` by s, outside 0 and ``q``; an element that keeps its float value passes its gradient to x alone.
"""
# pyright: basic
# tensor methods and autograd contexts are untyped in torch's stubs.

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quant.activation import ActQuantizer

SMALLEST_SCALE = 1e-8


@dataclass(eq=False)
class LearnedScale:
    """Quantize and dequantize; while dropping, elements keep their float value at random."""

    grid: ActQuantizer
    scale: Tensor
    drop: float
    generator: torch.Generator | None

    def __call__(self, x: Tensor) -> Tensor:
        """The values that the codes stand for."""
        low, high = 0 - self.grid.zero_point, 2**self.grid.bits - 1 - self.grid.zero_point
        live = live_elements(x.shape, self.drop, self.generator) if self.drop > 0 else None
        return _Codes.apply(x, self.scale.clamp_min(SMALLEST_SCALE), low, high, live)  # type: ignore[return-value]


class _Codes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int, live: Tensor | None) -> Tensor:
        codes = (x / scale).round_()
        ctx.save_for_backward(x, scale, codes, live)
        ctx.ends = low, high
        value = codes.clamp(low, high).mul_(scale)
        return value if live is None else torch.where(live, value, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, codes, live = ctx.saved_tensors
        (low, high), gradient = ctx.ends, gradients[0]
        coded = gradient if live is None else gradient * live
        by_x = torch.where((codes >= low).logical_and_(codes <= high), coded, 0.0)
        by_scale = None
        if ctx.needs_input_grad[1]:
            by_scale = (_dot(coded, codes.clamp(low, high)) - _dot(by_x, x) / scale).reshape(scale.shape)
        if ctx.needs_input_grad[0] and live is not None:
            by_x = by_x.add_(gradient).sub_(coded)
        return by_x if ctx.needs_input_grad[0] else None, by_scale, None, None, None


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return torch.dot(left.reshape(-1), right.reshape(-1))


def drop_mix(
    quantized: Tensor, exact: Tensor, probability: float, generator: torch.Generator | None
) -> Tensor:
    """QDrop: each element of ``quantized`` is replaced by ``exact`` with the given probability."""
    if probability <= 0:
        return quantized
    return torch.where(live_elements(quantized.shape, probability, generator), quantized, exact)


def live_elements(shape: torch.Size, probability: float, generator: torch.Generator | None) -> Tensor:
    """False with the given probability (in steps of 1/256: a byte an element is much cheaper than a float)."""
    count = math.prod(shape)
    words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return (words.view(torch.uint8)[:count] >= round(256 * probability)).reshape(shape)
